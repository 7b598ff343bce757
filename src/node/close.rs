//! Closing a node, in order: no new calls; what was admitted is answered; every log is synced; jobs end;
//! actors and threads end; the directory is released. A step that panics is passed over: whoever waits for the close
//! or for the directory would wait for ever.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::sync::watch;

use super::{
    health::Sickness,
    node_core::{NodeCore, ShardState},
    options::Durability,
    request::Work,
    write_path::{Caller, WriteMode},
};
use crate::{
    error::{Error, Result},
    waiting::{self, block_on},
};

/// Starts the close on a thread of its own; does nothing if it has begun. Never blocks.
pub(super) fn start(core: &Arc<NodeCore>) {
    if !core.lifecycle.begin_close() {
        return;
    }
    let thread_core = Arc::clone(core);
    if let Err(error) = core.env.threads.spawn("dbex-close", Box::new(move || close(&thread_core))) {
        tracing::error!(error = %error, "cannot start a thread to close the node; closing here");
        close(core);
    }
}

/// Waits until the node is closed.
///
/// # Errors
/// The error of the last sync; `Internal` when a step of the close panicked.
pub(super) async fn wait(core: &NodeCore) -> Result<()> {
    wait_for(&core.lifecycle.closed).await
}

/// Waits until every admitted write is answered and the logs are synced.
///
/// # Errors
/// As [`wait`].
#[cfg(feature = "actix-api")]
pub(super) async fn wait_drained(core: &NodeCore) -> Result<()> {
    wait_for(&core.lifecycle.drained).await
}

/// Waits for a stage of a close.
///
/// # Errors
/// What it ended with.
pub(super) async fn wait_for(stage: &watch::Sender<Option<Result<()>>>) -> Result<()> {
    let mut stage = stage.subscribe();
    let result = stage.wait_for(Option::is_some).await;
    result.map_err(|_| Error::closed())?.clone().unwrap_or(Ok(()))
}

fn close(core: &NodeCore) {
    let _no_reopen = core.reopening.lock();
    let began = step(|| core.env.clock.monotonic());
    let drained = step(|| drain(core)).and_then(|drained| drained);
    core.lifecycle.drained.send_replace(Some(drained.clone()));
    let jobs = step(|| end_jobs(core));
    let threads = step(|| end_threads(core));
    let result = began.and_then(|began| {
        drained.and(jobs).and(threads)?;
        Ok(core.env.clock.monotonic().saturating_sub(began))
    });
    match &result {
        Ok(duration) => {
            let duration_ms = duration.as_millis();
            tracing::info!(data_dir = %core.options.data_dir.display(), duration_ms, "closed");
        }
        Err(error) => tracing::error!(error = %error, "closed, but not in order"),
    }
    core.lifecycle.finish_close(result.map(drop));
    core.note_progress();
}

fn step<T>(run: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Error::internal("a step of the close panicked"))
}

/// Has everything that was admitted answered and made durable, and takes nothing more.
fn drain(core: &NodeCore) -> Result<()> {
    let lane = core.batch_lane.lock().take();
    if let Some(lane) = lane {
        let _ = waiting::send(&lane, None);
    }
    core.message_admission.close();
    core.note_progress();
    note_clock(core);
    for shard in core.open_shards() {
        let (reply, answer) = oneshot::channel();
        let barrier = Work::Steps { steps: vec![], reply };
        let sent = core.dispatch(
            &shard,
            barrier,
            0,
            WriteMode::patient(Durability::Buffered, Caller::Blocking),
            None,
        );
        if block_on(sent).is_ok() {
            // The answer comes, or the shard has failed and its actor has dropped the request.
            let _ = block_on(async { answer.await });
        }
        shard.admission.close();
        shard.end(Sickness::Closing, Error::closed());
    }
    sync_logs(core)
}

/// Makes durable how far the clock has come, in one shard that can: what has expired stays so when the machine's is set
/// back before the next open.
fn note_clock(core: &NodeCore) {
    for shard in core.open_shards() {
        match shard.tree.note_clock(core.now_ms()) {
            Ok(()) => return,
            Err(error) => tracing::warn!(shard = shard.index, error = %error, "cannot note the clock"),
        }
    }
}

/// Syncs every log; a shard that was poisoned before has nothing left to lose here and is left out.
fn sync_logs(core: &NodeCore) -> Result<()> {
    let mut result = Ok(());
    for shard in core.open_shards() {
        let wal = shard.tree.wal();
        if !wal.is_poisoned() && wal.written() != wal.synced() {
            result = result.and(wal.sync().map(|_| ()));
        }
    }
    result
}

/// Ends what runs for the shards, also if they were not ended in order.
fn end_jobs(core: &NodeCore) {
    core.open_shards().for_each(|shard| shard.tree.revoke());
    let _waiting = (core.pools.flush.wait(), core.pools.compaction.wait());
    core.open_shards().for_each(|shard| shard.wait_for_jobs(&*core.env.clock));
    let pools = &core.pools;
    for pool in [&pools.flush, &pools.compaction] {
        pool.stop();
    }
    for pool in [&pools.read, &pools.prepare, &pools.sync] {
        pool.stop();
    }
    core.open_shards().for_each(|shard| shard.tree.free_unread_views());
}

fn end_threads(core: &NodeCore) {
    // NOTE: not asked of the coordinator, which may be gone. This ends the threads of the shards' actors, too.
    if let Some(system) = core.system.get() {
        system.end();
    }
    let lane = core.lane_thread.lock().take();
    if lane.is_some_and(|lane| !lane.join()) {
        tracing::error!("the batch lane panicked");
    }
    for slot in &core.shards {
        slot.store(Arc::new(ShardState::Refused(Error::closed())));
    }
}
