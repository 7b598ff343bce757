//! What the node has been found to do: rates of what only grows, and what flushes bear.

use std::time::Duration;

use parking_lot::Mutex;

/// What was known counts for so much less with each flush.
const FADES: f64 = 0.7;

/// How fast something grows, averaged: what is older than a while counts less and less.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Rate {
    memory: Duration,
    last: Option<(Duration, u64)>,
    per_second: f64,
    /// How much of the average has been seen: it starts from nothing.
    known: f64,
}

impl Rate {
    /// A rate whose past fades over so long.
    pub(in crate::node) const fn over(memory: Duration) -> Self {
        Self { memory, last: None, per_second: 0.0, known: 0.0 }
    }

    /// Notes how much it is by now. What is less than before, since it was counted anew, is taken for a new beginning.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(in crate::node) fn note(&mut self, total: u64, now: Duration) {
        if let Some((then, before)) = self.last
            && total >= before
        {
            let passed = now.saturating_sub(then).as_secs_f64();
            if passed <= 0.0 {
                return;
            }
            let news = 1.0 - (-passed / self.memory.as_secs_f64()).exp();
            self.per_second += news * ((total - before) as f64 / passed - self.per_second);
            self.known += news * (1.0 - self.known);
        }
        self.last = Some((now, total));
    }

    /// What comes until the next look does not count.
    pub(in crate::node) fn skip(&mut self) {
        self.last = None;
    }

    /// By how much it grows in a second.
    pub(in crate::node) fn per_second(&self) -> f64 {
        if self.known > 0.0 { self.per_second / self.known } else { 0.0 }
    }
}

/// What flushes have been found to bear.
#[derive(Debug, Default)]
pub(in crate::node) struct FlushMeter(Mutex<FlushSums>);

/// Sums over the last flushes, so that a small one counts for little.
#[derive(Clone, Copy, Debug, Default)]
struct FlushSums {
    /// Bytes of keys and values.
    input: f64,
    paid: f64,
    seconds: f64,
}

impl FlushMeter {
    /// Notes a flush that has read so many bytes of keys and values and paid for so many.
    #[expect(clippy::cast_precision_loss, reason = "rates")]
    pub(in crate::node) fn note(&self, input: u64, paid: u64, took: Duration) {
        let mut sums = self.0.lock();
        sums.input = sums.input * FADES + input as f64;
        sums.paid = sums.paid * FADES + paid as f64;
        sums.seconds = sums.seconds * FADES + took.as_secs_f64();
    }

    /// Bytes of keys and values that one flush reads a second; `None` before the first has ended.
    pub(in crate::node) fn rate(&self) -> Option<f64> {
        let sums = *self.0.lock();
        (sums.input > 0.0).then(|| sums.input / sums.seconds.max(1e-6))
    }

    /// How many bytes of keys and values come with one byte that is paid for.
    pub(in crate::node) fn input_per_paid(&self) -> f64 {
        let sums = *self.0.lock();
        if sums.paid > 0.0 { sums.input / sums.paid } else { 1.0 }
    }

    /// The part of a flush that is done when it has paid for so many bytes.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(in crate::node) fn part_done(&self, input: u64, paid: u64) -> f64 {
        (paid as f64 * self.input_per_paid() / input.max(1) as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_right_from_its_first_two_looks_and_follows_what_changes() {
        let mut rate = Rate::over(Duration::from_secs(10));
        let at = |tenths: u64| Duration::from_millis(tenths * 100);
        (0..5).for_each(|tenth| rate.note(tenth * 100, at(tenth)));
        assert!((rate.per_second() - 1000.0).abs() < 1.0, "{rate:?}");
        (5..600).for_each(|tenth| rate.note(400 + (tenth - 4) * 300, at(tenth)));
        assert!((rate.per_second() - 3000.0).abs() < 30.0, "{rate:?}");
        rate.note(7, at(600));
        rate.note(307, at(601));
        assert!((rate.per_second() - 3000.0).abs() < 30.0, "{rate:?}");
    }

    #[test]
    fn a_flush_is_measured_by_what_those_before_it_paid() {
        let meter = FlushMeter::default();
        assert_eq!(meter.rate(), None);
        meter.note(1_000, 500, Duration::from_secs(2));
        assert!((meter.rate().unwrap() - 500.0).abs() < 1e-9);
        assert!((meter.part_done(1_000, 250) - 0.5).abs() < 1e-9);
        assert!((meter.part_done(1_000, 900) - 1.0).abs() < 1e-9);
        meter.note(1, 1, Duration::from_millis(30));
        assert!(meter.rate().unwrap() > 480.0, "a tiny one tells little: {:?}", meter.rate());
    }
}
