//! A flush as a job: writes its table in steps, and installs it.

use std::sync::Arc;

use super::{
    env::Priority,
    grant::Grant,
    node_core::NodeCore,
    schedule::{FlushProgress, FlushSpent},
    shard_core::ShardCore,
    stepped_workers::{Next, Stepped},
    table_job::TableJob,
};
use crate::{
    error::Result,
    tree::{FlushOutput, FlushPlan},
};

/// A flush of a shard's sealed memtables that is under way.
pub(super) struct FlushJob {
    job: TableJob<FlushOutput>,
    /// What its next step is.
    next: FlushStep,
    spent: FlushSpent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FlushStep {
    /// Sorting the memtables.
    Sort,
    /// Writing a part of the table.
    Write,
    /// All that the table still lacks.
    End,
}

impl FlushJob {
    /// A flush that pays for what it writes with the grant.
    pub(super) fn new(core: &Arc<NodeCore>, shard: &Arc<ShardCore>, plan: FlushPlan, grant: Grant) -> Self {
        let job = TableJob::new(core, shard, grant, |shard, pace| async move {
            shard.tree.run_flush(plan, &pace).await
        });
        Self { job, next: FlushStep::Sort, spent: FlushSpent::default() }
    }

    /// Installs the table, once it is written.
    ///
    /// # Errors
    /// Why it failed. It is tried again by itself.
    fn install(self) -> Result<()> {
        let Self { job, mut spent, .. } = self;
        let (core, shard) = (Arc::clone(job.core()), Arc::clone(job.shard()));
        let began = job.now();
        let ((done, progress), duration) = job.install(|output| {
            let progress = shard.jobs.flush_progress();
            Ok((shard.tree.install_flush(output, &|| core.sync_all_batches())?, progress))
        })?;
        spent.rest += core.env.clock.monotonic().saturating_sub(began);
        if let Some(FlushProgress { input, paid, .. }) = progress {
            core.flushes.note(input, paid, &spent);
        }
        tracing::info!(
            shard = shard.index,
            tables = done.tables_added,
            entries = done.entries,
            bytes = done.bytes_written,
            duration_ms = duration.as_millis(),
            "flushed"
        );
        if let Some(error) = &done.release_error {
            tracing::warn!(shard = shard.index, error = %error, "cannot free the log that was flushed; the next flush tries again");
        }
        Ok(())
    }
}

impl Stepped for FlushJob {
    fn advance(&mut self, at: Priority) -> Next {
        let began = self.job.now();
        let next = self.job.advance();
        let took = self.job.now().saturating_sub(began);
        match (self.next, at) {
            (FlushStep::Write, Priority::Normal) => self.spent.hurried.note_step(took),
            (FlushStep::Write, Priority::Low | Priority::Lowest) => self.spent.patient.note_step(took),
            (FlushStep::Sort | FlushStep::End, _) => self.spent.rest += took,
        }
        self.next = if next == Next::Step { FlushStep::Write } else { FlushStep::End };
        next
    }

    fn finish(self: Box<Self>) {
        // It has been told of.
        drop(self.install());
    }
}
