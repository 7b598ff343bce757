//! The background jobs: what a worker does with a plan and a grant. Each tells the coordinator when it
//! ends, however it ends.

use std::{sync::Arc, time::Duration};

use super::{
    budget::IoClass, coordinator::JobDone, grant::Grant, node_core::NodeCore, shard_core::ShardCore,
    sync_rule::note_sync,
};
use crate::{
    error::{Error, Result},
    table::Pace,
    tree::{CompactionPlan, FlushPlan},
};

/// Reports the end of a job when it is dropped: also when the job panics.
struct Report {
    core: Arc<NodeCore>,
    shard: Arc<ShardCore>,
    class: IoClass,
    result: Result<()>,
}

impl Report {
    fn new(core: &Arc<NodeCore>, shard: &Arc<ShardCore>, class: IoClass) -> Self {
        let result = Err(Error::internal("a background job panicked"));
        Self { core: Arc::clone(core), shard: Arc::clone(shard), class, result }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let revoked = self.shard.jobs.revoked();
        let error = self.result.clone().err().filter(|_| !revoked);
        if let Some(error) = &error {
            tracing::error!(shard = self.shard.index, job = ?self.class, error = %error, "a background job failed; it will be tried again");
        }
        let failed = error.is_some();
        self.shard.failures(self.class).note(error);
        self.core.note_memory(self.shard.index);
        if let Some(coordinator) = self.core.coordinator.get() {
            coordinator.do_send(JobDone { shard: self.shard.index, class: self.class, failed });
        }
        self.core.note_progress();
    }
}

/// Flushes a shard's sealed memtables.
pub(super) fn flush(core: &Arc<NodeCore>, shard: &Arc<ShardCore>, plan: FlushPlan, grant: Grant) {
    let mut report = Report::new(core, shard, IoClass::Flush);
    let started = core.env.clock.monotonic();
    let pace: Arc<dyn Pace> = Arc::new(grant);
    report.result = shard
        .tree
        .run_flush(plan, &pace)
        .and_then(|output| shard.tree.install_flush(output, &|| core.sync_all_batches()))
        .map(|done| {
            tracing::info!(
                shard = shard.index,
                tables = done.tables_added,
                entries = done.entries,
                bytes = done.bytes_written,
                duration_ms = millis(core, started),
                "flushed"
            );
        });
    drop(pace);
}

/// Runs one compaction.
pub(super) fn compact(core: &Arc<NodeCore>, shard: &Arc<ShardCore>, plan: CompactionPlan, grant: Grant) {
    let mut report = Report::new(core, shard, IoClass::Compaction);
    let started = core.env.clock.monotonic();
    let pace: Arc<dyn Pace> = Arc::new(grant);
    report.result =
        shard.tree.run_compaction(plan, &pace).and_then(|output| shard.tree.install_compaction(output)).map(
            |done| {
                tracing::info!(
                    shard = shard.index,
                    from = %done.from,
                    to = %done.to,
                    tables_in = done.tables_in,
                    tables_out = done.tables_out,
                    bytes_read = done.bytes_read,
                    bytes = done.bytes_written,
                    entries_dropped = done.entries_dropped,
                    moved = done.moved,
                    duration_ms = millis(core, started),
                    "compacted"
                );
            },
        );
    drop(pace);
}

/// One round of the interval sync: every log that holds unsynced frames.
pub(super) fn sync_round(core: &NodeCore) {
    for shard in core.open_shards() {
        let wal = shard.tree.wal();
        if wal.written() != wal.synced() && !wal.is_poisoned() {
            let result = wal.sync().map(|_| ());
            // A failure is logged there, and poisons the shard; the round goes on with the others.
            let _ = note_sync(&shard, result);
        }
    }
}

/// Prepares a WAL segment ahead of need.
pub(super) fn prepare_segment(core: &NodeCore, shard: &ShardCore) -> Result<()> {
    while shard.tree.wants_segment() {
        if core.lifecycle.check_open().is_err() {
            break;
        }
        shard.tree.prepare_segment().inspect_err(|error| {
            tracing::warn!(shard = shard.index, error = %error, "cannot prepare a log segment");
        })?;
    }
    Ok(())
}

fn millis(core: &NodeCore, since: Duration) -> u64 {
    let elapsed = core.env.clock.monotonic().saturating_sub(since);
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
