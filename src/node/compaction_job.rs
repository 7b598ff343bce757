//! A compaction as a job: writes its tables in steps, and installs them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{compactors::Stepped, grant::Grant, jobs::Report, node_core::NodeCore, shard_core::ShardCore};
use crate::{
    error::{Error, Result},
    table::Pace,
    tree::{CompactionOutput, CompactionPlan},
};

/// A compaction that is under way. Dropped, it gives back what it took, and then everyone who waits for the shard's jobs
/// learns of it.
pub(super) struct CompactionJob {
    // NOTE: dropped in this order.
    writing: Pin<Box<dyn Future<Output = Result<CompactionOutput>> + Send>>,
    written: Option<Result<CompactionOutput>>,
    _pace: Arc<dyn Pace>,
    report: Report,
    started: Duration,
}

impl CompactionJob {
    /// A compaction that pays for what it reads and writes with the grant.
    pub(super) fn new(
        core: &Arc<NodeCore>,
        shard: &Arc<ShardCore>,
        plan: CompactionPlan,
        grant: Grant,
    ) -> Self {
        let report = Report::new(core, shard, &grant);
        let pace: Arc<dyn Pace> = Arc::new(grant);
        let (shard, paying) = (Arc::clone(shard), Arc::clone(&pace));
        let writing = Box::pin(async move { shard.tree.run_compaction(plan, &paying).await });
        Self { writing, written: None, _pace: pace, report, started: core.env.clock.monotonic() }
    }

    /// Installs the tables, once they are written.
    ///
    /// # Errors
    /// Why it failed. What is due is tried again by itself.
    pub(super) fn install(mut self) -> Result<()> {
        let (core, shard) = (Arc::clone(&self.report.core), Arc::clone(&self.report.shard));
        let unwritten = || Err(Error::internal("a compaction is to be installed before it is written"));
        let written = self.written.take().unwrap_or_else(unwritten);
        let done = written.and_then(|output| shard.tree.install_compaction(output));
        self.report.result = done.as_ref().map(drop).map_err(Error::clone);
        let started = self.started;
        drop(self);
        let done = done?;
        let duration = core.env.clock.monotonic().saturating_sub(started);
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
    fn advance(&mut self) -> bool {
        // NOTE: it is never pending for anything but the next step.
        let step = self.writing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match step {
            Poll::Pending => true,
            Poll::Ready(written) => {
                self.written = Some(written);
                false
            }
        }
    }

    fn finish(self: Box<Self>) {
        // It has been told of.
        drop(self.install());
    }
}
