//! Turns what the shards count into what their writers may add: the memory of the [laws](super::slowdown). One a node,
//! driven by the coordinator; it reads no clock.

use std::time::Duration;

use super::{
    meter::{FlushMeter, Rate},
    pressing::{FlushLoad, flush_is_pressing},
    slowdown::{MemoryPressure, ShardPressure, WriteLimit, write_limits},
};

/// What flushes pay for is averaged over so long, until the first has ended.
const FIRST_FLUSH: Duration = Duration::from_millis(200);
/// What writers add is averaged over so long.
const WRITES: Duration = Duration::from_millis(300);
/// A shard whose writers had to wait is taken to want more for so long: one look without a limit lets through what takes
/// long to drain.
const HELD_BACK: Duration = Duration::from_secs(1);
/// What compactions of all shards read and write.
const COMPACTION: Duration = Duration::from_secs(10);
/// What a byte costs them.
const COST: Duration = Duration::from_mins(2);
/// The backlog rises with each flush and falls at once when a compaction ends; it is averaged over what comes in while
/// it rises by so much.
const BACKLOG: f64 = 1.2;
/// It counts at once where it is so far above its average.
const SUDDEN: f64 = 1.0;
/// Where it is no more than this, what was before is forgotten.
const CALM: f64 = 0.5;
/// What a byte that leaves a level costs in a shard where none has left it yet.
const FIRST_COST: f64 = 3.0;
/// Where tables only move down, they cost nothing; nobody divides by that.
const LEAST_COST: f64 = 0.1;
/// How large a byte is in a table, before the first has been flushed.
const FIRST_PACKED: f64 = 1.0;

/// A flush that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::node) struct FlushProgress {
    /// The bytes of keys and values that it reads.
    pub input: u64,
    /// What the memtables take that it gives back.
    pub memory: u64,
    /// What it has paid for.
    pub paid: u64,
}

/// What a shard counts. Bytes are of keys and values, and since the shard was opened, unless said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::node) struct ShardCounts {
    /// What was written.
    pub written: u64,
    /// What was flushed of it.
    pub flushed: u64,
    /// What came of that, in bytes of tables.
    pub tables_flushed: u64,
    /// What flushes and compactions have paid for, in bytes of tables read and written.
    pub flush_paid: u64,
    pub compacted: u64,
    /// What compactions that have ended took out of L0 and of L1, and what those of each level paid for that.
    pub taken: [u64; 2],
    pub cost: [u64; 2],
    /// How much more than it should compaction has before it; at 1 it is all that is healthy.
    pub backlog: f64,
    /// What sealed memtables take now, if they can be flushed.
    pub sealed: u64,
    pub flush: Option<FlushProgress>,
    /// Whether a writer had to wait lately.
    pub is_held_back: bool,
}

/// What is so for all shards together.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct NodeCounts<'a> {
    /// What all memtables may take, in bytes.
    pub limit: u64,
    /// What they take.
    pub used: u64,
    /// What of it is sealed, whether it can be flushed or not.
    pub sealed: u64,
    /// The I/O budget in bytes a second; `None`: unlimited.
    pub budget: Option<u64>,
    /// How many flushes can run.
    pub flushes_at_once: usize,
    pub flushes: &'a FlushMeter,
}

/// See the module.
#[derive(Debug)]
pub(in crate::node) struct Throttle {
    flush: Rate,
    flush_is_pressing: bool,
    flush_waits: FlushWaits,
    compaction: Rate,
    shards: Vec<ShardRates>,
}

#[derive(Clone, Copy, Debug)]
struct ShardRates {
    written: Rate,
    flushed: Rate,
    tables_flushed: Rate,
    taken: [Rate; 2],
    cost: [Rate; 2],
    backlog: Backlog,
    held_back_at: Option<Duration>,
}

/// Since when something has been to flush without a flush coming to its end.
#[derive(Clone, Copy, Debug, Default)]
struct FlushWaits {
    since: Option<Duration>,
    flushed: u64,
}

/// The backlog, averaged.
#[derive(Clone, Copy, Debug, Default)]
struct Backlog {
    last: f64,
    mean: f64,
}

impl Throttle {
    /// For so many shards.
    pub(in crate::node) fn new(shards: usize) -> Self {
        let rates = ShardRates {
            written: Rate::over(WRITES),
            flushed: Rate::over(COST),
            tables_flushed: Rate::over(COST),
            taken: [Rate::over(COST); 2],
            cost: [Rate::over(COST); 2],
            backlog: Backlog::default(),
            held_back_at: None,
        };
        Self {
            flush: Rate::over(FIRST_FLUSH),
            flush_is_pressing: false,
            flush_waits: FlushWaits::default(),
            compaction: Rate::over(COMPACTION),
            shards: vec![rates; shards],
        }
    }

    /// What all writers have added lately, in bytes of keys and values a second.
    pub(in crate::node) fn written_per_second(&self) -> f64 {
        self.shards.iter().map(|shard| shard.written.per_second()).sum()
    }

    /// Whether flushes can't wait for what processor time others leave them, as of the last look.
    pub(in crate::node) const fn flush_is_pressing(&self) -> bool {
        self.flush_is_pressing
    }

    /// What each shard's writers may add from now on.
    pub(in crate::node) fn limits(
        &mut self,
        now: Duration,
        node: &NodeCounts<'_>,
        shards: &[ShardCounts],
    ) -> Vec<Option<WriteLimit>> {
        self.flush.note(shards.iter().map(|shard| shard.flush_paid).sum(), now);
        let memory = MemoryPressure {
            limit: node.limit,
            used: node.used,
            unflushed: shards.iter().map(|shard| shard.unflushed(node.flushes)).sum(),
            drain: self.flush_rate(node, shards),
        };
        let pressures: Vec<_> =
            self.shards.iter_mut().zip(shards).map(|(rates, counts)| rates.note(now, counts)).collect();
        let flushed = shards.iter().map(|shard| shard.flushed).sum();
        let load = FlushLoad {
            memory: &memory,
            demand: self.written_per_second(),
            waited: self.flush_waits.note(node.sealed > 0, flushed, now),
        };
        self.flush_is_pressing = flush_is_pressing(self.flush_is_pressing, &load);
        self.compaction.note(shards.iter().map(|shard| shard.compacted).sum(), now);
        write_limits(&memory, self.compaction.per_second(), &pressures)
    }

    /// How fast all flushes together read: as those before, or, before the first has ended, as fast as they pay. NOTE:
    /// also before that is known, they have their half of a fixed budget.
    #[expect(clippy::cast_precision_loss, reason = "counts of jobs")]
    fn flush_rate(&self, node: &NodeCounts<'_>, shards: &[ShardCounts]) -> Option<f64> {
        let to_flush = shards.iter().filter(|shard| shard.sealed > 0).count();
        let at_once = to_flush.min(node.flushes_at_once).max(1) as f64;
        let paid = Some(self.flush.per_second()).filter(|rate| *rate > 0.0);
        let half = node.budget.map(|rate| rate as f64 / 2.0);
        // NOTE: each is measured alone, and the budget is shared by all.
        let most = node.budget.map_or(f64::INFINITY, |rate| rate as f64 * node.flushes.input_per_paid());
        node.flushes.rate().map(|rate| (rate * at_once).min(most)).or_else(|| match (paid, half) {
            (Some(paid), Some(half)) => Some(paid.min(half)),
            (paid, half) => half.or(paid),
        })
    }
}

impl ShardCounts {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of what there is"
    )]
    fn unflushed(&self, flushes: &FlushMeter) -> u64 {
        let done =
            self.flush.map_or(0.0, |flush| flush.memory as f64 * flushes.part_done(flush.input, flush.paid));
        self.sealed.saturating_sub(done as u64)
    }
}

impl ShardRates {
    fn note(&mut self, now: Duration, counts: &ShardCounts) -> ShardPressure {
        self.written.note(counts.written, now);
        self.flushed.note(counts.flushed, now);
        self.tables_flushed.note(counts.tables_flushed, now);
        self.taken.iter_mut().zip(counts.taken).for_each(|(rate, total)| rate.note(total, now));
        self.cost.iter_mut().zip(counts.cost).for_each(|(rate, total)| rate.note(total, now));
        if counts.is_held_back {
            self.held_back_at = Some(now);
        }
        ShardPressure {
            demand: self.written.per_second(),
            is_held_back: self.held_back_at.is_some_and(|at| now.saturating_sub(at) < HELD_BACK),
            backlog: self.backlog.note(counts.backlog),
            cost: self.cost(),
        }
    }

    /// How many bytes compaction reads and writes for a byte of keys and values, on its way through the levels. NOTE: not
    /// what it has done for each byte that was flushed: while it falls behind, that is less.
    fn cost(&self) -> f64 {
        let ratio = |part: &Rate, whole: &Rate, first| {
            let whole = whole.per_second();
            if whole > 0.0 { part.per_second() / whole } else { first }
        };
        let costs = self.cost.iter().zip(&self.taken).map(|(cost, taken)| ratio(cost, taken, FIRST_COST));
        (costs.sum::<f64>() * ratio(&self.tables_flushed, &self.flushed, FIRST_PACKED)).max(LEAST_COST)
    }
}

impl FlushWaits {
    /// For how long by now. `flushed`: what was, in bytes.
    fn note(&mut self, is_due: bool, flushed: u64, now: Duration) -> Duration {
        let since = self.since.filter(|_| flushed == self.flushed).unwrap_or(now);
        *self = Self { since: is_due.then_some(since), flushed };
        now.saturating_sub(since)
    }
}

impl Backlog {
    fn note(&mut self, now: f64) -> f64 {
        let risen = (now - self.last).max(0.0);
        self.last = now;
        self.mean += (1.0 - (-risen / BACKLOG).exp()) * (now - self.mean);
        self.mean = if now <= CALM { now } else { self.mean.max(now - SUDDEN) };
        self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::schedule::FlushSpent;

    #[test]
    fn what_a_byte_costs_is_learned_from_the_jobs_of_each_level() {
        let mut rates = Throttle::new(1).shards[0];
        assert!((rates.cost() - 2.0 * FIRST_COST).abs() < 1e-9);
        for second in 0..100 {
            let counts = ShardCounts {
                flushed: second * 1_000,
                tables_flushed: second * 500,
                // Of two bytes one goes on to L2 so far: what is to come still counts.
                taken: [second * 500, second * 250],
                cost: [second * 2_000, second * 2_500],
                ..ShardCounts::default()
            };
            rates.note(Duration::from_secs(second), &counts);
        }
        assert!((rates.cost() - (4.0 + 10.0) * 0.5).abs() < 0.01, "{}", rates.cost());
    }

    #[test]
    fn a_flush_waits_from_when_it_is_due_or_from_the_last_that_ended() {
        let mut waits = FlushWaits::default();
        let mut at =
            |is_due, flushed, second| waits.note(is_due, flushed, Duration::from_secs(second)).as_secs();
        assert_eq!([at(false, 0, 1), at(true, 0, 5), at(true, 0, 9)], [0, 0, 4]);
        assert_eq!([at(true, 7, 11), at(true, 7, 12), at(false, 7, 13)], [0, 1, 2]);
        assert_eq!([at(false, 7, 20), at(true, 7, 21)], [0, 0]);
    }

    #[test]
    fn a_compaction_that_ends_does_not_let_everybody_go_at_once() {
        let mut backlog = Backlog::default();
        for flush in 0..60 {
            backlog.note(0.5 + f64::from(flush % 16) / 10.0);
        }
        let high = backlog.note(2.0);
        let low = backlog.note(0.6);
        assert!(high > 1.0 && (high - low).abs() < 0.2, "{high}, then {low}");
        assert!(backlog.note(3.0) >= 2.0, "what is far beyond counts at once");
        assert!(backlog.note(0.1) < 1.0, "and what is gone is forgotten");
    }

    #[test]
    fn before_the_first_flush_has_ended_its_pay_or_its_part_of_the_budget_tells_how_fast_it_is() {
        let flushes = FlushMeter::default();
        let node = NodeCounts {
            limit: 100,
            used: 50,
            sealed: 50,
            budget: None,
            flushes_at_once: 1,
            flushes: &flushes,
        };
        let mut throttle = Throttle::new(1);
        let shard = |flush_paid| ShardCounts { sealed: 50, flush_paid, ..ShardCounts::default() };
        let rate =
            |throttle: &Throttle, budget| throttle.flush_rate(&NodeCounts { budget, ..node }, &[shard(0)]);
        assert_eq!((rate(&throttle, None), rate(&throttle, Some(80))), (None, Some(40.0)));
        throttle.limits(Duration::from_secs(1), &node, &[shard(0)]);
        throttle.limits(Duration::from_secs(2), &node, &[shard(30)]);
        assert_eq!((rate(&throttle, None), rate(&throttle, Some(40))), (Some(30.0), Some(20.0)));
        flushes.note(700, 350, &FlushSpent::hurried(Duration::from_secs(1)));
        assert_eq!((rate(&throttle, None), rate(&throttle, Some(40))), (Some(700.0), Some(80.0)));
    }

    #[test]
    fn what_a_flush_has_read_is_no_longer_unflushed() {
        let flushes = FlushMeter::default();
        flushes.note(1_000, 500, &FlushSpent::hurried(Duration::from_secs(1)));
        let flush = Some(FlushProgress { input: 1_000, memory: 1_200, paid: 250 });
        assert_eq!(ShardCounts { sealed: 2_000, flush, ..ShardCounts::default() }.unflushed(&flushes), 1_400);
        assert_eq!(ShardCounts { sealed: 2_000, ..ShardCounts::default() }.unflushed(&flushes), 2_000);
    }
}
