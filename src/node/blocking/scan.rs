//! A scan as an iterator.

use std::{ops::ControlFlow, sync::Arc};

use super::{
    super::{
        scan::{Pair, ScanPlan, ShardsScan},
        scan_source::{ScanSource, Scanned},
    },
    Node, ReadOnlyNode,
};
use crate::{error::Result, key::KeyRange, waiting::block_on};

/// An ordered scan over all shards, as an iterator of key and value. It reads the disk on the iterating
/// thread, and sees all shards as they were at one moment: its snapshot's, or that of the first step. After an error
/// it is at its end.
pub struct Scan {
    node: Open,
    plan: ScanPlan,
    state: State,
    source: Option<Arc<dyn ScanSource>>,
}

/// What is scanned, kept open.
pub(super) enum Open {
    Node(Node),
    ReadOnly(ReadOnlyNode),
}

impl Open {
    fn now(&self) -> Result<Arc<dyn ScanSource>> {
        let scanned = match self {
            Self::Node(node) => Scanned::Node(Arc::clone(node.node.core())),
            Self::ReadOnly(node) => Scanned::ReadOnly(Arc::clone(node.node.core())),
        };
        block_on(scanned.now())
    }
}

enum State {
    Start,
    Running(Box<ShardsScan>),
    Ended,
}

impl Scan {
    pub(super) fn new(node: Open, range: KeyRange, source: Option<Arc<dyn ScanSource>>) -> Self {
        Self { node, plan: ScanPlan::new(range), state: State::Start, source }
    }

    /// Only keys that begin with `prefix`, within the range. Call it before the first step.
    #[must_use]
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.plan.prefix(prefix.as_ref());
        self
    }

    /// From the last key to the first. Call it before the first step.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.plan.reverse = true;
        self
    }

    /// At most `limit` pairs; 0 gives none. Call it before the first step.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.plan.limit = limit;
        self
    }

    /// Shows the pairs from here on to `show`, key and value, until it breaks or the scan is at its end. They are
    /// borrowed, so that none of them costs a reference count: the fastest way to look at many.
    ///
    /// # Errors
    /// `Invalid` for an inverted range, `Io`, `Corruption`, `Closed`, or why a shard is not open. What came before the
    /// error was shown.
    pub fn visit<B>(
        mut self,
        mut show: impl FnMut(&[u8], &[u8]) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>> {
        let Some(scan) = self.running()? else { return Ok(ControlFlow::Continue(())) };
        while let Some((key, value)) = scan.next_in_place()? {
            if let ControlFlow::Break(broken) = show(key, value) {
                return Ok(ControlFlow::Break(broken));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The scan that runs; `None` at its end.
    fn running(&mut self) -> Result<Option<&mut ShardsScan>> {
        if matches!(self.state, State::Start) {
            let source = match self.source.take() {
                Some(source) => source,
                None => self.node.now()?,
            };
            self.state = State::Running(Box::new(ShardsScan::open(&*source, &self.plan)?));
        }
        match &mut self.state {
            State::Running(scan) => Ok(Some(scan)),
            State::Start | State::Ended => Ok(None),
        }
    }

    fn step(&mut self) -> Result<Option<Pair>> {
        match self.running()? {
            Some(scan) => scan.next(),
            None => Ok(None),
        }
    }
}

impl Iterator for Scan {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if !matches!(step, Some(Ok(_))) {
            self.state = State::Ended;
        }
        step
    }
}
