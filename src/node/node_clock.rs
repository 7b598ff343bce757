//! The node's time, by which values expire: the machine's, but it never goes backwards.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::env::Clock;

/// The clock; see the module.
#[derive(Debug)]
pub(super) struct NodeClock {
    machine: Arc<dyn Clock>,
    /// Its high-water mark.
    high_ms: AtomicU64,
}

impl NodeClock {
    /// A clock that has come to `high_ms` before.
    pub(super) fn new(machine: Arc<dyn Clock>, high_ms: u64) -> Self {
        Self { machine, high_ms: AtomicU64::new(high_ms) }
    }

    /// Milliseconds since the epoch.
    pub(super) fn now_ms(&self) -> u64 {
        let wall = self.machine.wall_ms();
        // NOTE: looks first, so that the line is written to once a millisecond at most.
        let seen = self.high_ms.load(Ordering::Acquire);
        if wall <= seen { seen } else { self.high_ms.fetch_max(wall, Ordering::AcqRel).max(wall) }
    }
}
