//! Lets a shard's writers through at a rate: each takes the next place in a line, and is told how long until it is due.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::slowdown::WriteLimit;

/// So much unused allowance is kept, as time; and nobody waits for less: a timer is not finer.
const SLACK: Duration = Duration::from_millis(1);
/// Nobody waits longer for a place.
const LONGEST: Duration = Duration::from_secs(1);
/// The line is no longer than this, whatever was let through: where nobody waits for all of it, it grows.
const LONGEST_LINE: Duration = Duration::from_secs(10);

/// The line; see the module.
#[derive(Debug, Default)]
pub(in crate::node) struct Pacer {
    /// What a byte takes, in 1,024ths of a nanosecond; 0: nobody waits.
    cost: AtomicU64,
    /// When the next byte is due, in nanoseconds on the monotonic clock.
    due_ns: AtomicU64,
    has_held_back: AtomicBool,
    limit: Mutex<Option<WriteLimit>>,
}

impl Pacer {
    /// Whether writers have to take a place.
    #[inline]
    pub(in crate::node) fn is_on(&self) -> bool {
        self.cost.load(Ordering::Relaxed) != 0
    }

    /// Sets what writers may add; `None`: as much as comes. Who comes next waits for what stands in the line as long as
    /// that takes at the new rate. Returns what it was.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
    pub(in crate::node) fn allow(&self, limit: Option<WriteLimit>, now: Duration) -> Option<WriteLimit> {
        let cost = |limit: WriteLimit| ((1e9 * 1024.0 / limit.bytes_per_second.max(1.0)) as u64).max(1);
        let mut known = self.limit.lock();
        let new = limit.map_or(0, cost);
        let old = self.cost.swap(new, Ordering::Relaxed);
        if old != new {
            let now = nanos(now);
            // NOTE: what came into the line while there was none is a place that was just being taken, and none of it.
            let line = |due: u64| {
                (u128::from(due.saturating_sub(now)) * u128::from(new)).checked_div(u128::from(old))
            };
            let line = |due: u64| u64::try_from(line(due).unwrap_or_default()).unwrap_or(u64::MAX);
            let moved = |due: u64| Some(now.saturating_add(line(due)));
            let _ = self.due_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
        }
        std::mem::replace(&mut known, limit)
    }

    /// What writers may add; `None`: as much as comes.
    pub(in crate::node) fn limit(&self) -> Option<WriteLimit> {
        *self.limit.lock()
    }

    /// Whether anybody had to wait since this was asked last.
    pub(in crate::node) fn take_has_held_back(&self) -> bool {
        self.has_held_back.swap(false, Ordering::Relaxed)
    }

    /// Takes the next place for so many bytes. Returns how long until it is due, zero if that is very soon.
    pub(in crate::node) fn place(&self, bytes: usize, now: Duration) -> Duration {
        self.take_place(bytes, now, true)
    }

    /// The same for who does not want to wait.
    ///
    /// # Errors
    /// How long it would be; no place is taken.
    pub(in crate::node) fn place_at_once(&self, bytes: usize, now: Duration) -> Result<(), Duration> {
        let wait = self.take_place(bytes, now, false);
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Takes the next place, if it is due at once or the caller waits for it. Returns how long that is.
    fn take_place(&self, bytes: usize, now: Duration, waits: bool) -> Duration {
        let cost = self.cost.load(Ordering::Relaxed);
        if cost == 0 {
            return Duration::ZERO;
        }
        let now = nanos(now);
        let (earliest, latest) = (now.saturating_sub(nanos(SLACK)), now.saturating_add(nanos(LONGEST_LINE)));
        let takes = u64::try_from((bytes as u128 * u128::from(cost)) >> 10).unwrap_or(u64::MAX);
        let wait_of = |due: u64| Duration::from_nanos(due.min(latest).saturating_sub(now));
        let next = |due: u64| {
            let next = due.clamp(earliest, latest).saturating_add(takes);
            (waits || wait_of(due) < SLACK).then_some(next)
        };
        let before = self.due_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let wait = wait_of(before.unwrap_or_else(|due| due));
        if wait < SLACK {
            return Duration::ZERO;
        }
        self.has_held_back.store(true, Ordering::Relaxed);
        wait.min(LONGEST)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::schedule::slowdown::SlowdownReason;

    fn at(bytes_per_second: f64) -> WriteLimit {
        WriteLimit { bytes_per_second, reason: SlowdownReason::Memory }
    }

    #[test]
    fn places_are_due_at_the_rate_and_nobody_waits_long() {
        let pacer = Pacer::default();
        let now = Duration::from_secs(5);
        assert_eq!(pacer.place(1 << 20, now), Duration::ZERO, "it is off");
        pacer.allow(Some(at(1e6)), Duration::ZERO);
        let waits: Vec<_> = (0..100).map(|_| pacer.place(1_000, now)).collect();
        assert_eq!(waits[0], Duration::ZERO);
        let apart = waits[99].as_secs_f64() - waits[49].as_secs_f64();
        assert!((apart - 0.05).abs() < 0.001, "50 places of 1 ms are {apart} s apart");
        assert!(pacer.place_at_once(1, now).unwrap_err() > Duration::from_millis(90));
        pacer.place(1 << 30, now);
        assert_eq!((pacer.place(1, now), pacer.place_at_once(1, now)), (LONGEST, Err(LONGEST)));
        assert!(pacer.take_has_held_back() && !pacer.take_has_held_back());
        assert_eq!(pacer.place(1, now + LONGEST * 2), LONGEST, "what was let through too early still counts");
        let later = now + LONGEST_LINE * 200;
        assert_eq!((pacer.place(1, later), pacer.place_at_once(1, later)), (Duration::ZERO, Ok(())));
        pacer.allow(None, later);
        assert!(!pacer.is_on() && pacer.place(1 << 30, later).is_zero());
    }

    #[test]
    fn at_a_new_rate_the_line_is_as_long_in_bytes_as_before() {
        let pacer = Pacer::default();
        let now = Duration::from_secs(5);
        pacer.allow(Some(at(1e6)), now);
        (0..100).for_each(|_| assert!(pacer.place(1_000, now) < LONGEST));
        let about = |wait: f64| {
            let found = pacer.place_at_once(1, now).unwrap_err();
            (found.as_secs_f64() / wait - 1.0).abs() < 0.02
        };
        assert!(about(0.099));
        pacer.allow(Some(at(2e6)), now);
        assert!(about(0.0495));
        pacer.allow(Some(at(0.5e6)), now);
        assert!(about(0.198));
        pacer.allow(None, now);
        pacer.allow(Some(at(1e6)), now);
        assert_eq!(pacer.place(1_000, now), Duration::ZERO, "nobody had to wait any more");

        pacer.allow(None, now);
        // As a place does that was being taken when the limit was lifted.
        pacer.due_ns.fetch_add(nanos(Duration::from_millis(150)), Ordering::Relaxed);
        pacer.allow(Some(at(1e6)), now);
        assert_eq!(pacer.place(1_000, now), Duration::ZERO, "it is none of the new line");
    }

    #[test]
    fn what_was_not_used_lasts_for_no_longer_than_the_slack() {
        let pacer = Pacer::default();
        pacer.allow(Some(at(1e6)), Duration::ZERO);
        pacer.place(1, Duration::from_secs(1));
        let later = Duration::from_secs(9);
        let at_once = (0..1_000).take_while(|_| pacer.place(100, later).is_zero()).count();
        assert!((15..25).contains(&at_once), "2 ms are 20 places of 0.1 ms, and {at_once} were let through");
    }
}
