//! Re-opening shards that failed: the old incarnation is fenced off, its jobs are revoked, and a new one is
//! recovered from disk and put in its place. All failed shards are re-opened together, because what half a
//! batch means is decided over the logs of all its participants.

use std::{sync::Arc, time::Duration};

use super::{
    node_core::{NodeCore, ShardState},
    open,
    shard_core::ShardCore,
};
use crate::{
    error::{Error, ErrorKind, Result},
    tree::{ShardLog, consistent_cut},
};

/// How often the end of revoked jobs is looked for; they end at their next chunk.
const POLL: Duration = Duration::from_millis(1);

/// Re-opens failed shards on a thread of its own. With a reply, asked by a user: those that are poisoned or
/// were refused, too, and then the healthy ones with them.
pub(super) fn start(core: &Arc<NodeCore>, reply: Option<oneshot::Sender<Result<()>>>) {
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
    if let Err(error) = core.env.threads.spawn("dbex-reopen", body) {
        tracing::error!(error = %error, "cannot start a thread to re-open a shard");
    }
}

fn reopen_failed(core: &Arc<NodeCore>, asked: bool) -> Result<()> {
    let _one_at_a_time = core.reopening.lock();
    core.lifecycle.check_open()?;
    let failed = to_reopen(core, asked);
    for index in &failed {
        if let Ok(old) = core.shard(*index) {
            fence(core, &old);
        }
    }
    let mut logs: Vec<_> = (0..core.shards.len()).map(|_| ShardLog::refused()).collect();
    let mut recoveries = vec![];
    let mut result = Ok(());
    for index in failed.iter().copied() {
        match open::read_shard(&core.tree_context, &core.tree_options, &core.options.data_dir, index) {
            Ok(recovery) => {
                if let Some(log) = logs.get_mut(index) {
                    *log = recovery.shard_log();
                    log.cancelled.extend(core.void_batches.lock().iter().copied());
                }
                recoveries.push((index, recovery));
            }
            Err(error) => {
                refuse(core, index, &error);
                result = Err(error);
            }
        }
    }
    // IMPORTANT: as at the open of a node: a flush of what was recovered makes batches count as standing, so
    // before that they are durable in every other log.
    recoveries.iter().try_for_each(|(_, recovery)| recovery.sync_log())?;
    core.sync_batches_except(&failed)?;
    let cuts = consistent_cut(&logs);
    let mut started = vec![];
    for (index, recovery) in recoveries {
        let Some(cut) = cuts.get(index) else { continue };
        match recovery.finish(cut, core.seqno_watermark(), core.env.random.next_u64()) {
            Ok((tree, writer, summary)) => {
                open::log_recovery(&summary);
                let shard = ShardCore::new(index, tree, writer, core.shard_queue_bytes());
                install(core, index, ShardState::Open(Arc::new(shard)));
                core.account_anew(index);
                core.counters.reopens.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                started.push(index);
            }
            Err(error) => {
                refuse(core, index, &error);
                result = Err(error);
            }
        }
    }
    if result.is_ok() {
        core.void_batches.lock().clear();
    }
    if let Some(coordinator) = core.coordinator.get() {
        coordinator.do_send(super::coordinator::StartShards(started));
    }
    result
}

/// The shards to re-open, those that are sick first.
fn to_reopen(core: &NodeCore, asked: bool) -> Vec<usize> {
    let all = 0..core.shards.len();
    let panicked: Vec<usize> =
        all.clone().filter(|index| sickness(core, *index) == Some(Sickness::Panicked)).collect();
    let logs_in_doubt: Vec<usize> =
        all.clone().filter(|index| sickness(core, *index) == Some(Sickness::LogInDoubt)).collect();
    if !asked || logs_in_doubt.is_empty() {
        return panicked;
    }
    // IMPORTANT: such a log may have lost its half of a batch that the others hold, in memory and in logs that
    // were synced since. What stands is decided over all logs, as at the open of a node.
    let others = all.filter(|index| !logs_in_doubt.contains(index));
    logs_in_doubt.iter().copied().chain(others).collect()
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
    Some(if error.kind() == ErrorKind::Busy { Sickness::Panicked } else { Sickness::LogInDoubt })
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
}

/// The shard did not open. What its last incarnation published stays readable; without one it refuses everything.
fn refuse(core: &NodeCore, index: usize, error: &Error) {
    if core.shard(index).is_ok() {
        return;
    }
    install(core, index, ShardState::Refused(error.context(format!("shard {index} is not open"))));
    core.account_anew(index);
}
