//! How long the foreground waits for the disk: the syncs and the cold reads that somebody waits for. What the
//! [governor](super::schedule) steers by.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::env::Clock;
use crate::table::ReadTimer;

/// What takes less has not been to the disk: the operating system's cache had it, or there was nothing to sync.
const COLD: Duration = Duration::from_micros(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Foreground {
    clock: Arc<dyn Clock>,
    pub syncs: Waits,
    pub cold_reads: Waits,
}

/// How often somebody waited for the disk since the last look, and for how long.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<(u32, Duration)>);

impl Foreground {
    /// Nobody has waited yet.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, syncs: Waits::default(), cold_reads: Waits::default() }
    }

    /// Runs a sync that somebody waits for.
    pub(super) fn sync<T>(&self, sync: impl FnOnce() -> T) -> T {
        let started = self.clock.monotonic();
        let result = sync();
        self.syncs.note(self.clock.monotonic().saturating_sub(started));
        result
    }
}

impl ReadTimer for Foreground {
    fn time(&self, read: &mut dyn FnMut()) {
        let started = self.clock.monotonic();
        read();
        self.cold_reads.note(self.clock.monotonic().saturating_sub(started));
    }
}

impl Waits {
    fn note(&self, took: Duration) {
        if took >= COLD {
            let mut waits = self.0.lock();
            *waits = (waits.0.saturating_add(1), waits.1.saturating_add(took));
        }
    }

    /// How long they took since this was asked last, in the mean; `None`: there were none.
    pub(super) fn take_mean(&self) -> Option<Duration> {
        let (count, time) = std::mem::take(&mut *self.0.lock());
        time.checked_div(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_what_went_to_the_disk_since_the_last_look() {
        let waits = Waits::default();
        assert_eq!(waits.take_mean(), None);
        for micros in [1, 29, 100, 300] {
            waits.note(Duration::from_micros(micros));
        }
        assert_eq!((waits.take_mean(), waits.take_mean()), (Some(Duration::from_micros(200)), None));
    }
}
