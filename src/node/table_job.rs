//! What flushes and compactions have in common as jobs: they write tables in steps, and then install them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{grant::Grant, jobs::Report, node_core::NodeCore, shard_core::ShardCore, stepped_workers::Next};
use crate::{
    error::{Error, Result},
    table::Pace,
};

/// A job that is under way. Dropped, it gives back what it took, and then everyone who waits for the shard's jobs learns of
/// it.
pub(super) struct TableJob<T> {
    // NOTE: dropped in this order.
    writing: Pin<Box<dyn Future<Output = Result<T>> + Send>>,
    written: Option<Result<T>>,
    grant: Arc<Grant>,
    report: Report,
    started: Duration,
}

impl<T> TableJob<T> {
    /// A job that writes as `write` does, and pays for what it reads and writes with the grant.
    pub(super) fn new<W>(
        core: &Arc<NodeCore>,
        shard: &Arc<ShardCore>,
        grant: Grant,
        write: impl FnOnce(Arc<ShardCore>, Arc<dyn Pace>) -> W,
    ) -> Self
    where
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let report = Report::new(core, shard, &grant);
        let grant = Arc::new(grant);
        let writing = Box::pin(write(Arc::clone(shard), Arc::<Grant>::clone(&grant)));
        Self { writing, written: None, grant, report, started: core.env.clock.monotonic() }
    }

    pub(super) fn core(&self) -> &Arc<NodeCore> {
        &self.report.core
    }

    pub(super) fn shard(&self) -> &Arc<ShardCore> {
        &self.report.shard
    }

    /// The time on the monotonic clock.
    pub(super) fn now(&self) -> Duration {
        self.report.core.env.clock.monotonic()
    }

    /// Writes on, for a few milliseconds, or to the end.
    pub(super) fn advance(&mut self) -> Next {
        // NOTE: it is never pending for anything but the next step.
        let step = self.writing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match step {
            Poll::Pending if self.grant.ends() => Next::End,
            Poll::Pending => Next::Step,
            Poll::Ready(written) => {
                self.written = Some(written);
                Next::Finish
            }
        }
    }

    /// Installs what is written, and then tells everyone who waits. What it did, and how long it took since it was begun.
    ///
    /// # Errors
    /// Why writing or installing it failed. What is due is tried again by itself.
    pub(super) fn install<D>(mut self, install: impl FnOnce(T) -> Result<D>) -> Result<(D, Duration)> {
        let unwritten = || Err(Error::internal("a job's tables are to be installed before they are written"));
        let done = self.written.take().unwrap_or_else(unwritten).and_then(install);
        self.report.result = done.as_ref().map(drop).map_err(Error::clone);
        let (core, started) = (Arc::clone(self.core()), self.started);
        drop(self);
        Ok((done?, core.env.clock.monotonic().saturating_sub(started)))
    }
}
