//! A compaction as a job: writes its tables in steps, and installs them.

use std::sync::Arc;

use super::{
    env::Priority,
    grant::Grant,
    node_core::NodeCore,
    shard_core::ShardCore,
    stepped_workers::{Next, Stepped},
    table_job::TableJob,
};
use crate::{
    error::Result,
    tree::{CompactionOutput, CompactionPlan},
};

/// A compaction that is under way.
pub(super) struct CompactionJob(TableJob<CompactionOutput>);

impl CompactionJob {
    /// A compaction that pays for what it reads and writes with the grant.
    pub(super) fn new(
        core: &Arc<NodeCore>,
        shard: &Arc<ShardCore>,
        plan: CompactionPlan,
        grant: Grant,
    ) -> Self {
        Self(TableJob::new(core, shard, grant, |shard, pace| async move {
            shard.tree.run_compaction(plan, &pace).await
        }))
    }

    /// Installs the tables, once they are written.
    ///
    /// # Errors
    /// Why it failed. What is due is tried again by itself.
    pub(super) fn install(self) -> Result<()> {
        let shard = Arc::clone(self.0.shard());
        let (done, duration) = self.0.install(|output| shard.tree.install_compaction(output))?;
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
            duration_ms = duration.as_millis(),
            "compacted"
        );
        Ok(())
    }
}

impl Stepped for CompactionJob {
    fn advance(&mut self, _: Priority) -> Next {
        self.0.advance()
    }

    fn finish(self: Box<Self>) {
        // It has been told of.
        drop(self.install());
    }
}
