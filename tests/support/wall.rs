//! A wall clock that is set by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dbex::{Clock, SystemClock};

/// The clock; see the module.
#[derive(Debug)]
pub(crate) struct Wall {
    clock: SystemClock,
    now_ms: AtomicU64,
}

impl Wall {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { clock: SystemClock::default(), now_ms: AtomicU64::new(1_700_000_000_000) })
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.now_ms.fetch_add(ms(time), Ordering::SeqCst);
    }

    pub(crate) fn set_back(&self, time: Duration) {
        self.now_ms.fetch_sub(ms(time), Ordering::SeqCst);
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("a test is not that long")
}

impl Clock for Wall {
    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn wall_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration);
    }
}
