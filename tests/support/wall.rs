//! A wall clock that is set by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dbex::{Clock, SystemClock};

pub(crate) const START_MS: u64 = 1_700_000_000_000;

#[derive(Debug)]
pub(crate) struct Wall {
    clock: SystemClock,
    pub(crate) now_ms: AtomicU64,
}

impl Wall {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { clock: SystemClock::default(), now_ms: AtomicU64::new(START_MS) })
    }

    pub(crate) fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).expect("a short time");
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }
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
