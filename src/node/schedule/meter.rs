//! What the node has been found to do: rates of what only grows, and what flushes bear.

use std::time::Duration;

use parking_lot::Mutex;

/// What was known counts for so much less with each flush.
const FADES: f64 = 0.7;
/// What none of so many flushes has shown is forgotten.
const FORGOTTEN: u32 = 100;

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

/// A part of a flush: how many of its steps, which are alike, and how long they took.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::node) struct FlushStretch {
    steps: u32,
    took: Duration,
}

impl FlushStretch {
    pub(in crate::node) fn note_step(&mut self, took: Duration) {
        self.steps += 1;
        self.took += took;
    }
}

/// What a flush was spent on.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::node) struct FlushSpent {
    /// The writing of its table, while it let others go before.
    pub patient: FlushStretch,
    /// The same while it did not.
    pub hurried: FlushStretch,
    /// What is always done in a hurry: sorting before that, and ending the table and installing it after.
    pub rest: Duration,
}

#[cfg(test)]
impl FlushSpent {
    /// Of a flush that was in a hurry.
    pub(in crate::node) fn hurried(took: Duration) -> Self {
        Self { hurried: FlushStretch { steps: 1, took }, ..Self::default() }
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
    rest_seconds: f64,
    patient: StretchSums,
    hurried: StretchSums,
}

#[derive(Clone, Copy, Debug, Default)]
struct StretchSums {
    /// Bytes of keys and values.
    input: f64,
    seconds: f64,
    /// How many flushes there were since one had such steps.
    unseen: u32,
}

impl StretchSums {
    /// Notes its part of a flush of so many bytes and steps.
    fn note(&mut self, stretch: FlushStretch, input: f64, steps: u32) {
        if stretch.steps > 0 {
            self.input = self.input * FADES + input * f64::from(stretch.steps) / f64::from(steps);
            self.seconds = self.seconds * FADES + stretch.took.as_secs_f64();
            self.unseen = 0;
        } else {
            self.unseen += 1;
            if self.unseen >= FORGOTTEN {
                *self = Self::default();
            }
        }
    }

    /// How long it takes to write a byte of input, in seconds; `None`: not known.
    fn pace(self) -> Option<f64> {
        (self.input > 0.0).then(|| self.seconds / self.input)
    }
}

impl FlushMeter {
    /// Notes a flush that has read so many bytes of keys and values and paid for so many.
    #[expect(clippy::cast_precision_loss, reason = "rates")]
    pub(in crate::node) fn note(&self, input: u64, paid: u64, spent: &FlushSpent) {
        let mut sums = self.0.lock();
        let (input, steps) = (input as f64, spent.patient.steps + spent.hurried.steps);
        sums.input = sums.input * FADES + input;
        sums.paid = sums.paid * FADES + paid as f64;
        sums.rest_seconds = sums.rest_seconds * FADES + spent.rest.as_secs_f64();
        sums.patient.note(spent.patient, input, steps);
        sums.hurried.note(spent.hurried, input, steps);
    }

    /// Bytes of keys and values that one flush reads a second if it is in a hurry; `None` before the first has ended.
    pub(in crate::node) fn rate(&self) -> Option<f64> {
        let sums = *self.0.lock();
        if sums.input <= 0.0 {
            return None;
        }
        // NOTE: a flush that hurries is no slower than one that does not. There may have been none for long.
        let paces = [sums.patient, sums.hurried].into_iter().filter_map(StretchSums::pace);
        let writing = paces.reduce(f64::min).unwrap_or(0.0) * sums.input;
        Some(sums.input / (writing + sums.rest_seconds).max(1e-6))
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
    fn a_flush_that_was_patient_does_not_tell_how_long_one_takes_that_hurries() {
        let meter = FlushMeter::default();
        let stretch = |steps, millis| FlushStretch { steps, took: Duration::from_millis(millis) };
        // The rate after so many flushes, of which each has half a second of other work.
        let rate_after = |flushes, patient, hurried| {
            let spent = FlushSpent { patient, hurried, rest: Duration::from_millis(500) };
            (0..flushes).for_each(|_| meter.note(1_000, 400, &spent));
            format!("{:.0}", meter.rate().unwrap())
        };
        let nothing = FlushStretch::default();
        assert_eq!(rate_after(1, stretch(5, 4_500), nothing), "200", "nothing better is known");
        assert_eq!(rate_after(1, stretch(4, 3_600), stretch(1, 100)), "1000");
        assert_eq!(rate_after(FORGOTTEN - 1, stretch(5, 4_500), nothing), "1000");
        assert_eq!(rate_after(1, stretch(5, 4_500), nothing), "200", "that was long ago");
        assert_eq!(rate_after(1, nothing, stretch(5, 500)), "1000");
        assert_eq!(rate_after(50, stretch(5, 300), nothing), "1250", "it would be as fast at least");
        assert_eq!(rate_after(50, nothing, nothing), "1250", "what has no steps tells nothing of them");
    }

    #[test]
    fn a_flush_is_measured_by_what_those_before_it_paid() {
        let meter = FlushMeter::default();
        assert_eq!(meter.rate(), None);
        meter.note(1_000, 500, &FlushSpent::hurried(Duration::from_secs(2)));
        assert!((meter.rate().unwrap() - 500.0).abs() < 1e-9);
        assert!((meter.part_done(1_000, 250) - 0.5).abs() < 1e-9);
        assert!((meter.part_done(1_000, 900) - 1.0).abs() < 1e-9);
        meter.note(1, 1, &FlushSpent::hurried(Duration::from_millis(30)));
        assert!(meter.rate().unwrap() > 480.0, "a tiny one tells little: {:?}", meter.rate());
    }
}
