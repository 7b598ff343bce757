//! The rate of the budget when it is `"auto"`. Background work gets everything while nobody suffers from it. Syncs and
//! cold reads that take much longer than they did at their best bring it down, within a tick or two, to what they bear;
//! the backlog of compaction holds against it, so that it never falls behind for ever.
//!
//! ```text
//!   rate ← rate × bearable ÷ latency     while it is worse than bearable: at once, from what was really paid
//!   rate ← rate × (1 + a part of what is left to bearable)                 otherwise: by degrees
//!   rate ≥ what compaction needs × backlog ÷ (1 − backlog)                 a half: as much as comes in
//!   rate ≥ what flushes need, twice over; no limit while writers are slowed down for memory
//! ```
//! Both steps are none where the latency is what is bearable, so the rate comes to rest there. What is best is learned at
//! the first sync or cold read, and anew every now and then: compaction pauses for that, for a moment.

use std::time::Duration;

use super::meter::Rate;

/// How often the rate is looked at.
pub(in crate::node) const GOVERNOR_TICK: Duration = Duration::from_millis(50);
/// Latency is bearable up to twice its best, or to this much above it.
const BEARABLE_ABOVE: f64 = 100e-6;
/// How much the rate grows in a tick in which nobody waits at all.
const GROWTH: f64 = 0.1;
/// How much of the rate stays in one tick, however bad it was.
const LEAST_KEPT: f64 = 0.3;
/// The least that background work gets, in bytes a second.
const LEAST: f64 = 1_048_576.0;
/// The rate is not held above what this many times of was used.
const UNUSED: f64 = 2.0;
/// What was best is the best of the last one or two of these.
const EPOCH: Duration = Duration::from_secs(20);
/// At an epoch's end compaction pauses so long, if there was a sync or a cold read in it.
const PAUSE: Duration = Duration::from_millis(100);
/// The budget is at least so many times what writers add: half of it is for flushes, which are to be twice as fast.
const FLUSHES: f64 = 4.0;
/// After so long without a sync or a cold read nobody suffers.
const SILENCE: Duration = Duration::from_secs(1);
/// How much a tick's mean counts for against those before it.
const NEWS: f64 = 0.5;
/// What compaction needs is averaged over so long.
const NEEDS: Duration = Duration::from_secs(30);

/// What happened since the last tick.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::node) struct Signals {
    /// How long syncs that somebody waited for took, in the mean; `None`: there were none.
    pub sync: Option<Duration>,
    /// The same for reads that went to the disk.
    pub read: Option<Duration>,
    /// Bytes that background work has paid for, ever.
    pub paid: u64,
    /// Whether it had to wait for the budget.
    pub was_held_back: bool,
    /// The worst backlog of a shard; at 1 writers begin to be slowed down.
    pub backlog: f64,
    /// What writers add, in bytes of keys and values a second.
    pub written: f64,
    /// Whether writers are slowed down because flushes do not keep up.
    pub memory_is_short: bool,
}

/// What background work may do until the next tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::node) struct Allowance {
    /// In bytes a second; `None`: unlimited.
    pub rate: Option<f64>,
    /// Whether what can wait is to wait.
    pub compaction_pauses: bool,
}

impl Allowance {
    /// The rate in whole bytes.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
    pub(in crate::node) fn bytes_per_second(&self) -> Option<u64> {
        self.rate.map(|rate| rate as u64)
    }
}

/// See the module. Made new, it holds nothing back.
#[derive(Debug)]
pub(in crate::node) struct Governor {
    /// In bytes a second; `None`: unlimited.
    rate: Option<f64>,
    sync: Latency,
    read: Latency,
    paid: Rate,
    needs: Rate,
    epoch_ends: Duration,
    /// Whether there was a sync or a cold read in this epoch.
    has_latency: bool,
    /// Whether compaction has paused since the last tick.
    is_paused: bool,
}

impl Governor {
    /// A governor that holds nothing back yet.
    pub(in crate::node) fn new() -> Self {
        Self {
            rate: None,
            sync: Latency::default(),
            read: Latency::default(),
            paid: Rate::over(GOVERNOR_TICK.saturating_mul(2)),
            needs: Rate::over(NEEDS),
            epoch_ends: EPOCH,
            has_latency: false,
            is_paused: false,
        }
    }

    /// What background work may do from now on. To be called every [`GOVERNOR_TICK`].
    pub(in crate::node) fn tick(&mut self, now: Duration, signals: &Signals) -> Allowance {
        if self.is_paused {
            self.paid.skip();
        }
        self.paid.note(signals.paid, now);
        self.needs.note(signals.paid, now);
        self.has_latency |= signals.sync.is_some() || signals.read.is_some();
        if self.sync.is_first(signals.sync) || self.read.is_first(signals.read) {
            self.epoch_ends = now + PAUSE;
        }
        let compaction_pauses = self.pauses(now);
        let note = |latency: &mut Latency, mean| latency.note(mean, now, self.is_paused);
        let worst = note(&mut self.sync, signals.sync).max(note(&mut self.read, signals.read));
        // NOTE: nobody is punished twice for what was seen once.
        let is_fresh = signals.sync.is_some() || signals.read.is_some();
        self.is_paused = compaction_pauses;
        if !compaction_pauses {
            // NOTE: it does not fall below the floor unseen: it would take long to come back.
            let rate = self.next_rate(worst, is_fresh, signals.was_held_back).zip(self.floor(signals));
            self.rate = rate.map(|(rate, floor)| rate.max(floor));
        }
        Allowance { rate: self.rate, compaction_pauses }
    }

    /// `worst`: the latency in parts of what is bearable.
    fn next_rate(&self, worst: f64, is_fresh: bool, held_back: bool) -> Option<f64> {
        let used = self.paid.per_second();
        if worst > 1.0 && !is_fresh {
            return self.rate;
        }
        if worst > 1.0 {
            let from = self.rate.map_or(used, |rate| rate.min(used.max(LEAST)));
            return Some((from * (1.0 / worst).max(LEAST_KEPT)).max(LEAST));
        }
        let grown = self.rate? * (1.0 + GROWTH * (1.0 - worst));
        // A limit that nothing has come up against for long is none.
        (held_back || grown < used * UNUSED).then_some(grown)
    }

    /// What the backlog and the memory demand; `None`: everything.
    fn floor(&self, signals: &Signals) -> Option<f64> {
        let left = 1.0 - signals.backlog.max(0.0);
        let floor =
            || (self.needs.per_second() * (1.0 - left) / left).max(signals.written * FLUSHES).max(LEAST);
        (left > 0.0 && !signals.memory_is_short).then(floor)
    }

    /// Whether background work pauses, so that one sees what is best; begins a new epoch after that.
    fn pauses(&mut self, now: Duration) -> bool {
        if now >= self.epoch_ends {
            self.epoch_ends = now + EPOCH;
            self.has_latency = false;
            self.sync.begin_epoch();
            self.read.begin_epoch();
        }
        self.has_latency && now + PAUSE >= self.epoch_ends
    }
}

/// One kind of latency, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Latency {
    smoothed: Option<f64>,
    best: Option<f64>,
    best_before: Option<f64>,
    seen_at: Duration,
}

impl Latency {
    /// Whether there is a figure, and none was seen before.
    fn is_first(&self, mean: Option<Duration>) -> bool {
        mean.is_some() && self.best.or(self.best_before).is_none()
    }

    /// Notes a tick's mean; what it is in a pause is taken for the best as it is. Returns the latency in parts of what is
    /// bearable; 0 where nobody waits.
    fn note(&mut self, mean: Option<Duration>, now: Duration, is_paused: bool) -> f64 {
        let Some(mean) = mean.map(|mean| mean.as_secs_f64()) else {
            if now.saturating_sub(self.seen_at) > SILENCE {
                self.smoothed = None;
            }
            return self.worst();
        };
        self.seen_at = now;
        let before = self.smoothed.unwrap_or(mean);
        let smoothed = before + NEWS * (mean - before);
        let candidate = if is_paused { mean } else { smoothed };
        self.best = Some(self.best.map_or(candidate, |best| best.min(candidate)));
        self.smoothed = Some(if is_paused { before } else { smoothed });
        self.worst()
    }

    fn worst(&self) -> f64 {
        let best = [self.best, self.best_before].into_iter().flatten().min_by(f64::total_cmp);
        match (self.smoothed, best) {
            (Some(smoothed), Some(best)) => smoothed / (best + best.max(BEARABLE_ABOVE)),
            _ => 0.0,
        }
    }

    fn begin_epoch(&mut self) {
        self.best_before = self.best.take().or(self.best_before);
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes that are positive and few"
)]
mod tests {
    use super::*;

    const BEST: f64 = 200e-6;

    /// A device that does `most` bytes a second, and whose syncs take the longer the more of it is in use. Runs the
    /// governor on it from `from` on for so long; background work wants everything it can get. Returns the rates.
    fn run(
        governor: &mut Governor,
        paid: &mut u64,
        from: Duration,
        to: Duration,
        most: f64,
        syncs: bool,
    ) -> Vec<f64> {
        let (mut now, mut rates, mut moved) = (from, vec![], most);
        while now < to {
            let in_use = (moved / most).min(0.99);
            let sync = Duration::from_secs_f64(BEST / (1.0 - in_use));
            let signals = Signals {
                sync: syncs.then_some(sync),
                paid: *paid,
                was_held_back: moved < most,
                backlog: 0.3,
                ..Signals::default()
            };
            let allowance = governor.tick(now, &signals);
            moved = if allowance.compaction_pauses {
                0.0
            } else {
                allowance.rate.unwrap_or(f64::INFINITY).min(most)
            };
            *paid += (moved * GOVERNOR_TICK.as_secs_f64()) as u64;
            rates.push(moved);
            now += GOVERNOR_TICK;
        }
        rates
    }

    #[test]
    fn it_comes_to_rest_where_latency_is_bearable_also_when_the_device_changes() {
        let (mut governor, mut paid, mut from) = (Governor::new(), 0, Duration::ZERO);
        for most in [400e6, 100e6, 1600e6] {
            let rates = run(&mut governor, &mut paid, from, from + Duration::from_mins(1), most, true);
            from += Duration::from_mins(1);
            // Twice its best is where half of the device is in use.
            let rest = &rates[rates.len() / 2..];
            let (low, high) = rest
                .iter()
                .filter(|rate| **rate > 0.0)
                .fold((f64::MAX, 0.0_f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
            println!(
                "a device of {:.0} MB/s: {:.1} ... {:.1} MB/s at rest",
                most / 1e6,
                low / 1e6,
                high / 1e6
            );
            assert!(low > 0.4 * most && high < 0.6 * most);
            let pauses = rates.iter().filter(|rate| **rate <= 0.0).count();
            assert!(pauses < rates.len() / 50, "{pauses} of {} ticks were pauses", rates.len());
        }
    }

    #[test]
    fn it_backs_off_within_two_ticks_and_lets_go_when_nobody_waits() {
        let (mut governor, mut paid) = (Governor::new(), 0);
        let at = Duration::from_secs;
        run(&mut governor, &mut paid, at(0), at(2), 1e9, true);
        let idle = run(&mut governor, &mut paid, at(2), at(12), 1e9, false);
        assert!(idle[idle.len() / 2..].iter().all(|rate| *rate >= 1e9), "nobody waits for anything");
        let rates = run(&mut governor, &mut paid, at(12), at(13), 1e9, true);
        assert!(rates[2] < 0.7e9, "{:?}", &rates[..4]);
    }

    #[test]
    fn one_slow_sync_among_few_costs_little() {
        let mut governor = Governor::new();
        let mut tick = |tick: u32, sync_ms: Option<u64>| {
            let signals = Signals {
                sync: sync_ms.map(Duration::from_millis),
                paid: u64::from(tick) * 5_000_000,
                was_held_back: true,
                ..Signals::default()
            };
            governor.tick(GOVERNOR_TICK * tick, &signals).rate
        };
        (0..20).for_each(|at| assert_eq!(tick(at, Some(1)), None));
        let slowed = tick(20, Some(20)).unwrap();
        let later = (21..30).map(|at| tick(at, None).unwrap()).fold(f64::INFINITY, f64::min);
        assert!(later >= slowed, "{slowed}, then down to {later}");
    }

    #[test]
    fn what_compaction_needs_holds_against_the_latency() {
        let mut governor = Governor::new();
        let mut allowed = |backlog, now: u64| {
            let (now, sync) =
                (Duration::from_millis(now * 50), Some(Duration::from_millis(if now < 5 { 1 } else { 500 })));
            let signals = Signals {
                sync,
                paid: (now.as_secs_f64() * 100e6) as u64,
                was_held_back: true,
                backlog,
                ..Signals::default()
            };
            governor.tick(now, &signals).rate
        };
        for tick in 0..100 {
            allowed(0.0, tick);
        }
        let calm = allowed(0.0, 100).unwrap();
        let even = allowed(0.5, 101).unwrap();
        assert!(calm < 5e6, "{calm}");
        assert!((even / 100e6 - 1.0).abs() < 0.2, "as much as comes in: {even}");
        assert!(allowed(0.8, 102).unwrap() > 3.0 * even);
        assert_eq!(allowed(1.0, 103), None, "everything");
        let slow = Some(Duration::from_secs(1));
        let mut tick = |signals| governor.tick(Duration::from_secs(6), &signals).rate;
        let writes = Signals { sync: slow, written: 50e6, ..Signals::default() };
        assert!(tick(writes).unwrap() >= 200e6, "what flushes need, twice over");
        assert_eq!(tick(Signals { memory_is_short: true, ..writes }), None);
    }
}
