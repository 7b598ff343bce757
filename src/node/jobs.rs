//! How the end of a background job is told, and the jobs that write no tables.

use std::sync::Arc;

use super::{
    coordinator::{JobDone, SegmentPrepared},
    grant::Grant,
    node_core::NodeCore,
    schedule::IoClass,
    shard_core::ShardCore,
    sync_rule::note_sync,
};
use crate::error::{Error, Result};

/// Reports the end of a job when it is dropped: also when the job panics.
pub(super) struct Report {
    pub core: Arc<NodeCore>,
    pub shard: Arc<ShardCore>,
    class: IoClass,
    pub result: Result<()>,
}

impl Report {
    /// A report of the job that a grant is for: of a panic, unless told better.
    pub(super) fn new(core: &Arc<NodeCore>, shard: &Arc<ShardCore>, grant: &Grant) -> Self {
        let result = Err(Error::internal("a background job panicked"));
        Self { core: Arc::clone(core), shard: Arc::clone(shard), class: grant.class(), result }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let revoked = self.shard.tree.is_revoked();
        let error = self.result.clone().err().filter(|_| !revoked);
        if let Some(error) = &error {
            tracing::error!(shard = self.shard.index, job = ?self.class, error = %error, "a background job failed");
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

/// The preparing of WAL segments ahead of need, the removal of old ones, and the freeing of what nobody reads any more.
/// Dropped, also unrun or by a panic, it says that it has ended.
pub(super) struct Preparing {
    core: Arc<NodeCore>,
    shard: Arc<ShardCore>,
    failed: bool,
}

impl Preparing {
    pub(super) fn new(core: &Arc<NodeCore>, shard: &Arc<ShardCore>) -> Self {
        Self { core: Arc::clone(core), shard: Arc::clone(shard), failed: true }
    }

    pub(super) fn run(mut self) {
        let tree = &self.shard.tree;
        let mut result = Ok(());
        while result.is_ok() && tree.wants_segment() && self.core.lifecycle.check_open().is_ok() {
            result = tree.prepare_segment();
        }
        // NOTE: also after a failure: removing may be what makes room.
        let result = result.and(tree.remove_unneeded_segments());
        tree.free_unread_views();
        self.failed = result.is_err() && !tree.is_revoked();
        if let Err(error) = result.as_ref()
            && self.failed
        {
            tracing::warn!(shard = self.shard.index, error = %error, "cannot prepare or remove a log segment");
        }
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        if let Some(coordinator) = self.core.coordinator.get() {
            coordinator.do_send(SegmentPrepared { shard: self.shard.index, failed: self.failed });
        }
    }
}
