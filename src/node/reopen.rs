//! Re-opening shards that failed: the old incarnation is fenced off, its jobs are revoked, and a new one is
//! recovered from disk and put in its place. All failed shards are re-opened together, because what half a
//! batch means is decided over the logs of all its participants.

use std::{sync::Arc, time::Duration};

use super::{
    node_core::{NodeCore, ShardState},
    recover::{ShardSource, recover},
    shard_core::ShardCore,
};
use crate::error::{Error, ErrorKind, Result};

/// How often the end of revoked jobs is looked for; they end at their next chunk.
const POLL: Duration = Duration::from_millis(1);
/// How long a re-open that nobody asked for waits before it is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Re-opens failed shards on a thread of its own. With a reply, asked by a user: those that are poisoned or
/// were refused, too, and then the healthy ones with them.
pub(super) fn start(core: &Arc<NodeCore>, reply: Option<oneshot::Sender<Result<()>>>) {
    let thread_core = Arc::clone(core);
    let body = Box::new(move || {
        let result = reopen_failed(&thread_core, reply.is_some());
        if let Err(error) = &result {
            tracing::error!(error = %error, "a shard could not be re-opened");
        }
        match reply {
            Some(reply) => drop(reply.send(result)),
            None if result.is_err() => try_again(&thread_core),
            None => {}
        }
    });
    if let Err(error) = core.env.threads.spawn("dbex-reopen", body) {
        tracing::error!(error = %error, "cannot start a thread to re-open a shard");
    }
}

/// After a while, if a shard still waits for it and the node is still open.
fn try_again(core: &NodeCore) {
    core.env.clock.sleep(RETRY_AFTER);
    let panicked = (0..core.shards.len()).find(|index| sickness(core, *index) == Some(Sickness::Panicked));
    if let Some(shard) = panicked.and_then(|index| core.shard(index).ok())
        && core.lifecycle.check_open().is_ok()
    {
        core.tell_failed(&shard);
    }
}

fn reopen_failed(core: &Arc<NodeCore>, asked: bool) -> Result<()> {
    let _one_at_a_time = core.reopening.lock();
    core.lifecycle.check_open()?;
    let (places, all) = to_reopen(core, asked);
    if places.is_empty() {
        return Ok(());
    }
    let began = core.env.clock.monotonic();
    let old: Vec<_> = places.iter().filter_map(|place| core.shard(*place).ok()).collect();
    for old in &old {
        fence(core, old);
    }
    let source = ShardSource {
        options: &core.options,
        env: &core.env,
        context: &core.tree_context,
        tree_options: &core.tree_options,
        shards: core.shards.len(),
        made: false,
    };
    let void = core.void_batches.lock().clone();
    let sync_others = || core.sync_batches_except(&places);
    let recovered =
        recover(source, &places, &void, core.seqno_watermark(), sync_others).inspect_err(|_| {
            if all {
                for old in &old {
                    old.doubt_log();
                }
            }
        })?;
    core.skip_seqnos(recovered.highest_seqno);
    if all {
        // Every log that is not damaged remembers now that they are void.
        core.void_batches.lock().clear();
    }
    let mut started = vec![];
    let mut result = Ok(());
    for (index, shard) in recovered.shards {
        match shard {
            Ok((tree, writer)) => {
                let shard = ShardCore::new(index, tree, writer, core.options.shard_queue_bytes());
                install(core, index, ShardState::Open(Arc::new(shard)));
                core.counters.reopens.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                started.push(index);
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
    tracing::info!(shards = ?started, duration_ms = duration.as_millis(), "re-opened");
    if let Some(coordinator) = core.coordinator.get() {
        coordinator.do_send(super::coordinator::StartShards(started));
    }
    result
}

/// The shards to re-open, and whether they are all.
fn to_reopen(core: &NodeCore, asked: bool) -> (Vec<usize>, bool) {
    let all = 0..core.shards.len();
    let sick = |of: Sickness| all.clone().filter(move |index| sickness(core, *index).as_ref() == Some(&of));
    if asked && sick(Sickness::LogInDoubt).next().is_some() {
        // IMPORTANT: such a log may have lost its half of a batch that the others hold, in memory and in logs that
        // were synced since. What stands is decided over all logs, as at the open of a node.
        return (all.collect(), true);
    }
    (sick(Sickness::Panicked).collect(), false)
}

#[derive(PartialEq, Eq)]
enum Sickness {
    /// All that it was told has reached its log.
    Panicked,
    /// A sync failed, or the shard never opened.
    LogInDoubt,
}

fn sickness(core: &NodeCore, index: usize) -> Option<Sickness> {
    let Ok(shard) = core.shard(index) else { return Some(Sickness::LogInDoubt) };
    let error = shard.health().or_else(|| shard.tree.writable().err())?;
    let in_doubt =
        error.kind() != ErrorKind::Busy || shard.log_is_in_doubt() || shard.tree.wal().is_poisoned();
    Some(if in_doubt { Sickness::LogInDoubt } else { Sickness::Panicked })
}

/// Makes sure that nothing of the old incarnation writes again.
fn fence(core: &NodeCore, old: &ShardCore) {
    old.fail(Error::busy(format!("shard {} is being re-opened: try again in a moment", old.index)));
    // Whoever has the turn ends it; whoever takes it later sees the mark first.
    drop(pollster::block_on(old.turn()));
    old.refuse_waiting_if_sick();
    old.tree.revoke();
    old.jobs.revoke();
    while !old.jobs.idle() {
        core.env.clock.sleep(POLL);
    }
}

fn install(core: &NodeCore, index: usize, state: ShardState) {
    if let Some(slot) = core.shards.get(index) {
        slot.store(Arc::new(state));
    }
    core.account_anew(index);
}
