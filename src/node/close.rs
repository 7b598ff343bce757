//! Closing a node, in order: no new calls; what was admitted is answered; jobs end; every log is synced;
//! actors and threads end; the directory is released.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    coordinator::EndSystem,
    node_core::{NodeCore, ShardState},
    options::Durability,
    request::Work,
    write_path::Caller,
};
use crate::error::{Error, Result};

const POLL: Duration = Duration::from_millis(1);

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
/// The error of the last sync.
pub(super) async fn wait(core: &NodeCore) -> Result<()> {
    wait_for(&core.lifecycle.closed).await
}

/// Waits until every admitted write is answered and the logs are synced.
///
/// # Errors
/// The error of the last sync.
#[cfg(feature = "actix-api")]
pub(super) async fn wait_drained(core: &NodeCore) -> Result<()> {
    wait_for(&core.lifecycle.drained).await
}

async fn wait_for(stage: &watch::Sender<Option<Result<()>>>) -> Result<()> {
    let mut stage = stage.subscribe();
    let result = stage.wait_for(Option::is_some).await;
    result.map_err(|_| Error::closed())?.clone().unwrap_or(Ok(()))
}

fn close(core: &Arc<NodeCore>) {
    let began = core.env.clock.monotonic();
    if let Some(lane) = core.batch_lane.lock().take() {
        let _ = lane.send(None);
    }
    core.message_admission.close();
    core.note_progress();
    let _no_reopen = core.reopening.lock();
    end_writes(core);
    let result = sync_logs(core);
    core.lifecycle.drained.send_replace(Some(result.clone()));
    for shard in core.open_shards() {
        shard.tree.revoke();
        shard.jobs.revoke();
    }
    for shard in core.open_shards() {
        while !shard.jobs.idle() {
            core.env.clock.sleep(POLL);
        }
    }
    for pool in [&core.pools.flush, &core.pools.compaction, &core.pools.read, &core.pools.sync] {
        pool.stop();
    }
    if let Some(coordinator) = core.coordinator.get() {
        coordinator.do_send(EndSystem);
    }
    for thread in std::mem::take(&mut *core.threads.lock()) {
        if thread.join().is_err() {
            tracing::error!("a thread of the node panicked");
        }
    }
    for slot in &core.shards {
        slot.store(Arc::new(ShardState::Refused(Error::closed())));
    }
    match &result {
        Ok(()) => {
            let duration_ms = core.env.clock.monotonic().saturating_sub(began).as_millis();
            tracing::info!(data_dir = %core.options.data_dir.display(), duration_ms, "closed");
        }
        Err(error) => tracing::error!(error = %error, "closed, but the last sync failed"),
    }
    core.lifecycle.finish_close(result);
}

/// Has every shard answer what it admitted, and take nothing more.
fn end_writes(core: &NodeCore) {
    for shard in core.open_shards() {
        let (reply, answer) = oneshot::channel();
        let barrier = Work::Steps { steps: vec![], reply };
        let sent = pollster::block_on(core.dispatch(
            &shard,
            barrier,
            0,
            Durability::Buffered,
            Caller::Blocking,
            None,
        ));
        if sent.is_ok() {
            // The answer comes, or the shard has failed and its actor has dropped the request.
            let _ = answer.recv();
        }
        shard.admission.close();
        shard.fail(Error::closed());
        drop(pollster::block_on(shard.turn()));
        shard.refuse_waiting_if_sick();
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
