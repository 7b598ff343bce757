//! Re-opening shards that failed: the old incarnation is fenced off, its jobs are revoked, and a new one is
//! recovered from disk and put in its place. All failed shards are re-opened together, because what half a
//! batch means is decided over the logs of all its participants.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    coordinator::StartShards,
    health::Sickness,
    node_core::{NodeCore, ShardState},
    recover::{ShardSource, recover},
    shard_core::ShardCore,
};
use crate::error::{Error, ErrorKind, Result};

/// Re-opens failed shards on a thread of its own. With a reply, asked by a user: those that are poisoned, were
/// refused or keep panicking, too, and then the healthy ones with them. Without one, the shards that panicked; what
/// fails is tried again by the coordinator.
///
/// # Errors
/// `Io` when the thread cannot be started.
pub(super) fn start(core: &Arc<NodeCore>, reply: Option<oneshot::Sender<Result<()>>>) -> Result<()> {
    let thread_core = Arc::clone(core);
    let body = Box::new(move || {
        let result = reopen_failed(&thread_core, reply.is_some());
        if let Err(error) = &result {
            tracing::error!(error = %error, "a shard could not be re-opened");
        }
        if let Some(reply) = reply {
            let _ = reply.send(result);
        }
    });
    let thread = core.env.threads.spawn("dbex-reopen", body);
    thread
        .map(drop)
        .map_err(|error| Error::with_source(ErrorKind::Io, "cannot start a thread to re-open a shard", error))
}

fn reopen_failed(core: &NodeCore, asked: bool) -> Result<()> {
    let _one_at_a_time = core.reopening.lock();
    core.lifecycle.check_open()?;
    let (places, all) = to_reopen(core, asked);
    if places.is_empty() {
        return Ok(());
    }
    let old: Vec<_> = places.iter().filter_map(|place| core.shard(*place).ok()).collect();
    let done = catch_unwind(AssertUnwindSafe(|| reopen(core, &places, &old, all)))
        .unwrap_or_else(|_| Err(Error::internal("the re-opening panicked")));
    let still_stands = |shard: &Arc<ShardCore>| old.iter().any(|old| Arc::ptr_eq(old, shard));
    let (left, started): (Vec<_>, Vec<_>) =
        places.iter().filter_map(|place| core.shard(*place).ok()).partition(still_stands);
    if let Err(error) = &done {
        // IMPORTANT: when all were to come back together, nobody may come back alone: see `to_reopen`.
        let next = if all { Sickness::LogInDoubt } else { Sickness::NotReopened };
        for old in left {
            old.note_reopen_failure(next, error);
        }
        core.note_progress();
    }
    if let Some(coordinator) = core.coordinator.get() {
        coordinator.do_send(StartShards(started.iter().map(|shard| shard.index).collect()));
    }
    // A snapshot may keep a former life for long.
    for old in &old {
        old.tree.free_unread_views();
    }
    done
}

/// Brings the shards at `places` back, whose incarnations so far are `old`.
fn reopen(core: &NodeCore, places: &[usize], old: &[Arc<ShardCore>], all: bool) -> Result<()> {
    let began = core.env.clock.monotonic();
    for old in old {
        let again = format!("shard {} is being re-opened: try again in a moment", old.index);
        old.end(Sickness::Reopening, Error::busy(again));
    }
    let waiting = (core.pools.flush.wait(), core.pools.compaction.wait());
    for old in old {
        old.wait_for_jobs(&*core.env.clock);
    }
    drop(waiting);
    let source = ShardSource {
        options: &core.options,
        env: &core.env,
        context: &core.tree_context,
        tree_options: &core.tree_options,
        shards: core.shards.len(),
        made: false,
    };
    let void = core.void_batches.lock().clone();
    let sync_others = || core.sync_batches_except(places);
    let recovered = recover(source, places, &void, core.seqno_watermark(), sync_others)?;
    core.skip_seqnos(recovered.highest_seqno);
    core.panicked_together.lock().retain(|together| !together.iter().all(|place| places.contains(place)));
    if all {
        // Every log that is not damaged remembers now that they are void.
        core.void_batches.lock().clear();
    }
    let mut started = 0;
    let mut result = Ok(());
    let _all_at_once = core.places.write();
    for (index, shard) in recovered.shards {
        match shard {
            Ok((tree, writer)) => {
                let shard = ShardCore::new(index, tree, writer, core.options.shard_queue_bytes());
                install(core, index, ShardState::Open(Arc::new(shard)));
                core.counters.reopens.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                started += 1;
            }
            // IMPORTANT: what its last incarnation published goes, too: the cut may have felled a part of it
            // whose other half the other shards have dropped.
            Err(error) => {
                let refused = error.context(format!("shard {index} is not open"));
                install(core, index, ShardState::Refused(refused));
                result = Err(error);
            }
        }
    }
    let duration = core.env.clock.monotonic().saturating_sub(began);
    tracing::info!(shards = ?places, started, duration_ms = duration.as_millis(), "re-opened");
    result
}

/// The shards to re-open, and whether they are all.
fn to_reopen(core: &NodeCore, asked: bool) -> (Vec<usize>, bool) {
    let all = 0..core.shards.len();
    let together = core.panicked_together.lock();
    let sickness = |index: usize| match core.shard(index) {
        Ok(shard) => shard.sickness(),
        Err(_) => Some(Sickness::LogInDoubt),
    };
    if asked && all.clone().any(|index| sickness(index) == Some(Sickness::LogInDoubt)) {
        // IMPORTANT: such a log may have lost its half of a batch that the others hold, in memory and in logs that
        // were synced since. What stands is decided over all logs, as at the open of a node.
        return (all.collect(), true);
    }
    let comes_back_alone = |index: &usize| match sickness(*index) {
        Some(Sickness::Panicked | Sickness::NotReopened) => true,
        Some(Sickness::KeepsPanicking) => asked,
        _ => false,
    };
    let candidates = all.filter(comes_back_alone).collect();
    let (come_back, held_back) = with_those_they_panicked_with(candidates, &together);
    for shard in held_back.into_iter().filter_map(|index| core.shard(index).ok()) {
        let other =
            Error::internal("half a batch may be in the log of a shard that does not come back by itself");
        shard.doubt_log(
            format!("shard {} panicked together with others: re-open them (`reopen_shards`)", shard.index),
            &other,
        );
    }
    (come_back, false)
}

/// Which of the candidates come back: those whose fellows all do. And which do not.
fn with_those_they_panicked_with(
    candidates: Vec<usize>,
    together: &[BTreeSet<usize>],
) -> (Vec<usize>, Vec<usize>) {
    let (mut come_back, mut held_back) = (candidates, Vec::new());
    loop {
        let misses_one = |index: &usize| {
            let sets = together.iter().filter(|set| set.contains(index));
            sets.flatten().any(|fellow| !come_back.contains(fellow))
        };
        let (held, stay): (Vec<_>, Vec<_>) = come_back.iter().copied().partition(misses_one);
        if held.is_empty() {
            return (come_back, held_back);
        }
        held_back.extend(held);
        come_back = stay;
    }
}

fn install(core: &NodeCore, index: usize, state: ShardState) {
    if let Some(slot) = core.shards.get(index) {
        slot.store(Arc::new(state));
    }
    core.account_anew(index);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_panicked_together_comes_back_together_or_not_at_all() {
        let together: Vec<BTreeSet<usize>> = vec![[0, 1].into(), [1, 2].into(), [4, 5].into()];
        let of = |candidates: &[usize]| with_those_they_panicked_with(candidates.to_vec(), &together);
        assert_eq!(of(&[0, 1, 2, 3]), (vec![0, 1, 2, 3], vec![]));
        assert_eq!(
            of(&[0, 1, 3, 4, 5]),
            (vec![3, 4, 5], vec![1, 0]),
            "2 is missed by 1, which is missed by 0"
        );
        assert_eq!(of(&[3, 5]), (vec![3], vec![5]));
        assert_eq!(of(&[]), (vec![], vec![]));
    }
}
