//! Who is let into a full cache: blocks that were missed before, not long ago. Reading a block is cheaper than to make
//! room for it, too, and most of what a full cache misses is not missed again soon.
//!
//! Time is counted in what was missed: a moment lasts for a fixed part of what the cache was given. Each block has the
//! moment of its last miss in a byte of its table's.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// So many moments pass while as many bytes are missed as the cache holds.
const MOMENTS: u64 = 4;
/// Moments have so many names, and come back after them; 0 stands for never.
const NAMES: u64 = u8::MAX as u64;

/// When something was missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(u8);

impl Moment {
    /// Whether `self` is not further back than what the cache holds, seen from `now`.
    fn is_recent(self, now: Self) -> bool {
        let age = (u64::from(now.0) + NAMES - u64::from(self.0)) % NAMES;
        self.0 != 0 && age <= MOMENTS
    }
}

/// Counts what is missed.
#[derive(Debug)]
pub(super) struct MissClock {
    missed_bytes: AtomicU64,
    moment_bytes: u64,
}

impl MissClock {
    /// A clock for a cache, or a part of one, of so many bytes. IMPORTANT: those that it was given, not those that its
    /// blocks may take just now: if a moment were longer or shorter than the ones before, all of them would be renamed.
    pub(super) fn new(given_bytes: u64) -> Self {
        Self { missed_bytes: AtomicU64::new(0), moment_bytes: (given_bytes / MOMENTS).max(1) }
    }

    /// Counts a miss, or none; returns its moment.
    pub(super) fn pass(&self, bytes: u64) -> Moment {
        let missed = self.missed_bytes.fetch_add(bytes, Ordering::Relaxed);
        let moment = missed / self.moment_bytes % NAMES + 1;
        Moment(u8::try_from(moment).expect("a remainder by 255, and one"))
    }
}

/// When each block of a table was missed.
#[derive(Debug)]
pub(super) struct Misses(Box<[AtomicU8]>);

impl Misses {
    pub(super) fn new(blocks: usize) -> Self {
        Self((0..blocks).map(|_| AtomicU8::new(0)).collect())
    }

    /// Notes that a block is missed `now`. Returns whether it was before, not long ago.
    pub(super) fn note(&self, block: usize, now: Moment) -> bool {
        let Some(last) = self.0.get(block) else { return false };
        let before = Moment(last.load(Ordering::Relaxed));
        last.store(now.0, Ordering::Relaxed);
        before.is_recent(now)
    }

    /// The memory that it takes.
    pub(super) const fn bytes(&self) -> u64 {
        size_of_val::<[AtomicU8]>(&self.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_is_remembered_for_about_as_long_as_a_block_would_stay() {
        let (clock, misses) = (MissClock::new(1000), Misses::new(1));
        for gap in [1, 30, 99, 100, 126, 200, 255 * 25, 255 * 25 + 100] {
            misses.0[0].store(0, Ordering::Relaxed);
            assert!(!misses.note(0, clock.pass(10)), "never missed");
            for _ in 1..gap {
                clock.pass(10);
            }
            let lately = misses.note(0, clock.pass(10));
            // Moments come back: after 255 of them, an old miss looks like a new one.
            assert_eq!(lately, gap % (255 * 25) <= 124, "missed {gap} blocks ago");
        }
    }

    #[test]
    fn no_capacity_is_no_division_by_zero() {
        assert_ne!(MissClock::new(0).pass(4096), Moment(0));
    }
}
