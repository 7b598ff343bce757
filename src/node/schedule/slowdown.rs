//! How fast writers may go: pure, from the node's memory and each shard's backlog of compaction. Two laws, of which the
//! tighter one holds; both slow writers down by degrees, to the rate at which the node drains, and stop nobody.
//!
//! ```text
//!   memory:  flush rate × free ÷ unflushed           both shrink together while a flush runs
//!   backlog: compaction rate ÷ what a byte costs it  × EVEN ÷ what of the backlog is beyond HEALTHY
//! ```
//! Both rates are the node's, shared out over the shards: who wants less than an even share is left alone, so that a hot
//! shard gets what the others do not use and slows down nobody else.

use std::fmt;

/// However little memory is left, writers get this share of what the flushes bear: a wrong estimate is not to stop them.
const LEAST_SHARE: f64 = 0.05;
/// A shard's writers get this however far behind compaction is, and if it does nothing at all; in bytes a second.
const LEAST_RATE: f64 = 262_144.0;
/// Writers that want less than this share of what they may have are left alone: what they want is an average.
const HEADROOM: f64 = 0.5;
/// All of them are if together they want less than this share of what there is.
const ENOUGH: f64 = 0.9;
/// Up to this backlog nobody is slowed down.
const HEALTHY: f64 = 1.0;
/// So far beyond [`HEALTHY`] writers are as fast as compaction.
const EVEN: f64 = 0.8;

/// Why writers are slowed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowdownReason {
    /// The memtables fill up faster than they are flushed.
    Memory,
    /// Compaction of the shard falls behind.
    Backlog,
}

impl fmt::Display for SlowdownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Backlog => "backlog",
        })
    }
}

/// What a shard's writers may add, and why no more.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct WriteLimit {
    /// Bytes of keys and values a second, of all writers of the shard together.
    pub bytes_per_second: f64,
    /// Which of the two is scarce.
    pub reason: SlowdownReason,
}

/// The node's memtables and flushes at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::node) struct MemoryPressure {
    /// What all memtables may take, in bytes.
    pub limit: u64,
    /// What they take.
    pub used: u64,
    /// What of it is sealed, and not yet read by a flush.
    pub unflushed: u64,
    /// How fast flushes read what is sealed, in bytes of keys and values a second; `None`: not known yet.
    pub drain: Option<f64>,
}

/// One shard's writers and compactions at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::node) struct ShardPressure {
    /// What writers have added lately, in bytes of keys and values a second.
    pub demand: f64,
    /// Whether some had to wait: who knows how much it would have been.
    pub is_held_back: bool,
    /// How much more than it should compaction has before it, averaged; at 1 it is all that is healthy.
    pub backlog: f64,
    /// How many bytes of I/O compaction needs for a byte of keys and values.
    pub cost: f64,
}

/// What each shard's writers may add; `None`: as much as comes. `compaction`: how many bytes compactions read and write
/// a second.
pub(in crate::node) fn write_limits(
    memory: &MemoryPressure,
    compaction: f64,
    shards: &[ShardPressure],
) -> Vec<Option<WriteLimit>> {
    let even = memory.fill_rate().and_then(|total| allowance(total, shards, |_| 1.0));
    let compacted = allowance(compaction, shards, |shard| shard.cost);
    let limit = |bytes_per_second, reason| WriteLimit { bytes_per_second, reason };
    shards
        .iter()
        .map(|shard| {
            let by_memory = even.map(|rate| limit(rate, SlowdownReason::Memory));
            let drained = compacted.and_then(|io| shard.drained_rate(io));
            let by_backlog = drained.map(|rate| limit(rate.max(LEAST_RATE), SlowdownReason::Backlog));
            let limits = [by_memory, by_backlog].into_iter().flatten();
            let tightest = limits.min_by(|a, b| a.bytes_per_second.total_cmp(&b.bytes_per_second));
            tightest.filter(|limit| shard.exceeds(limit.bytes_per_second))
        })
        .collect()
}

impl MemoryPressure {
    /// How many bytes of keys and values a second may be added; `None`: as many as come.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(super) fn fill_rate(&self) -> Option<f64> {
        let drain = self.drain.filter(|_| self.unflushed > 0)?;
        let free = self.limit.saturating_sub(self.used);
        Some(drain * (free as f64 / self.unflushed as f64).max(LEAST_SHARE))
    }
}

impl ShardPressure {
    /// Whether the shard must keep to an allowance.
    fn exceeds(&self, allowance: f64) -> bool {
        self.is_held_back || self.demand > allowance * HEADROOM
    }

    /// What may be added if compaction has so much I/O for the shard: all that it takes off at [`EVEN`], less beyond.
    fn drained_rate(&self, io: f64) -> Option<f64> {
        let beyond = self.backlog - HEALTHY;
        (beyond > 0.0).then(|| io / self.cost * EVEN / beyond)
    }
}

/// The most that a shard may have of `total`, of which a byte that is added takes `cost`; `None`: as much as it wants.
/// Shards that want less than an even share are left alone, the others get the same (max-min fairness).
#[expect(clippy::cast_precision_loss, reason = "a count of shards")]
fn allowance(total: f64, shards: &[ShardPressure], cost: impl Fn(&ShardPressure) -> f64) -> Option<f64> {
    let modest = shards.iter().filter(|shard| !shard.is_held_back);
    let mut modest: Vec<f64> = modest.map(|shard| shard.demand * cost(shard)).collect();
    if modest.len() == shards.len() && modest.iter().sum::<f64>() <= total * ENOUGH {
        return None;
    }
    modest.sort_by(f64::total_cmp);
    let (mut left, mut others) = (total, shards.len());
    let mut even = left / others.max(1) as f64;
    for demand in modest {
        if demand > even {
            break;
        }
        left -= demand;
        others -= 1;
        if others > 0 {
            even = left / others as f64;
        }
    }
    Some(even)
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "rates that are positive and small"
)]
mod tests {
    use super::*;

    fn wants(demand: f64) -> ShardPressure {
        ShardPressure { demand, cost: 10.0, ..ShardPressure::default() }
    }

    /// What is measured in mebibytes: less than one is nothing to a backlog.
    const MIB: f64 = 1_048_576.0;

    fn behind(demand: f64, backlog: f64) -> ShardPressure {
        ShardPressure { backlog, ..wants(demand) }
    }

    fn filling(used: u64, unflushed: u64) -> MemoryPressure {
        MemoryPressure { limit: 100, used, unflushed, drain: Some(1000.0) }
    }

    fn rates(memory: &MemoryPressure, compaction: f64, shards: &[ShardPressure]) -> Vec<Option<u64>> {
        let limits = write_limits(memory, compaction, shards);
        limits.iter().map(|limit| limit.map(|limit| limit.bytes_per_second.round() as u64)).collect()
    }

    #[test]
    fn memory_is_filled_as_fast_as_it_is_flushed_and_who_wants_little_is_left_alone() {
        let shards = [wants(10.0), wants(3000.0), wants(5000.0)];
        assert_eq!(rates(&filling(50, 50), 1e9, &shards), [None, Some(495), Some(495)]);
        assert_eq!(rates(&filling(75, 50), 1e9, &shards), [None, Some(245), Some(245)]);
        assert_eq!(rates(&filling(75, 25), 1e9, &shards), [None, Some(495), Some(495)], "the flush went on");
        assert_eq!(rates(&filling(50, 0), 1e9, &shards), [None; 3], "nothing is being flushed");
        assert_eq!(rates(&filling(50, 50), 1e9, &[wants(10.0), wants(800.0)]), [None; 2], "it bears that");
        let held_back = ShardPressure { is_held_back: true, ..wants(10.0) };
        assert_eq!(rates(&filling(50, 50), 1e9, &[wants(10.0), held_back]), [None, Some(990)]);
    }

    #[test]
    fn who_wants_nearly_all_that_there_is_gets_it() {
        for demand in [91.0, 95.0, 100.0] {
            let all = [wants(demand * 10.0)];
            assert_eq!(rates(&filling(50, 50), 1e9, &all), [Some(1000)], "{demand} % of it");
            let two = [wants(10.0), wants(demand * 10.0 - 10.0)];
            assert_eq!(rates(&filling(50, 50), 1e9, &two), [None, Some(990)], "{demand} % of it");
        }
    }

    #[test]
    fn nobody_stops_however_full_the_memory_and_however_far_behind_compaction() {
        let limits = rates(&filling(100, 100), 0.0, &[wants(3000.0), behind(3000.0, 99.0)]);
        assert!(limits.iter().all(|limit| limit.is_some_and(|rate| rate > 0)), "{limits:?}");
        for drain in [None, Some(0.0)] {
            let idle = MemoryPressure { drain, ..filling(100, 0) };
            assert_eq!(rates(&idle, 0.0, &[behind(3e9, 99.0)]), [Some(LEAST_RATE as u64)]);
        }
    }

    #[test]
    fn writers_go_as_fast_as_compaction_somewhat_beyond_what_is_healthy() {
        let nothing_sealed = filling(0, 0);
        let at = |backlog| {
            let rate = rates(&nothing_sealed, 1000.0 * MIB, &[behind(500.0 * MIB, backlog)])[0];
            rate.map(|rate| rate as f64 / MIB)
        };
        assert_eq!(at(HEALTHY), None);
        assert_eq!(at(HEALTHY + EVEN), Some(100.0), "1,000 MiB of I/O at 10 a byte");
        assert_eq!(at(HEALTHY + EVEN / 2.0), Some(200.0));
        assert_eq!(at(HEALTHY + EVEN * 2.0), Some(50.0));
        let reason =
            write_limits(&nothing_sealed, 10.0 * MIB, &[behind(500.0 * MIB, 3.0)])[0].unwrap().reason;
        assert_eq!((reason, reason.to_string().as_str()), (SlowdownReason::Backlog, "backlog"));
    }

    #[test]
    fn only_the_shard_that_is_behind_slows_down_and_gets_what_the_others_leave() {
        let shards = [behind(500.0 * MIB, HEALTHY + EVEN), wants(10.0 * MIB), wants(20.0 * MIB)];
        let rates = rates(&filling(0, 0), 1000.0 * MIB, &shards);
        assert_eq!(rates, [Some(70 << 20), None, None]);
    }
}
