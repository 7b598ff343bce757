//! What the coordinator sets at its ticks, from what it measures then: what each shard's writers may add, and, where
//! the settings leave it to the node, the rate of the I/O budget.

use std::time::Duration;

use super::{
    node_core::NodeCore,
    options::IoBudget,
    schedule::{Governor, IoClass, NodeCounts, ShardCounts, Signals, SlowdownReason, Throttle, WriteLimit},
    shard_core::ShardCore,
};

/// The throttle is looked at so often while a memtable waits to be flushed or a writer is slowed down.
const THROTTLE_TICK: Duration = Duration::from_millis(10);
/// And less often where there are many shards to look at.
const THROTTLE_TICK_A_SHARD: Duration = Duration::from_micros(40);
/// A slowdown is told of once in so long.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Steering {
    throttle: Throttle,
    governor: Option<Governor>,
    /// When a shard's slowdown was last told of.
    told_at: Vec<Option<Duration>>,
}

impl Steering {
    pub(super) fn new(core: &NodeCore) -> Self {
        let shards = core.shards.len();
        Self {
            throttle: Throttle::new(shards),
            governor: (core.options.io_budget == IoBudget::Auto).then(Governor::new),
            told_at: vec![None; shards],
        }
    }

    /// Whether the budget's rate is the node's to choose.
    pub(super) const fn governs(&self) -> bool {
        self.governor.is_some()
    }

    /// Sets what each shard's writers may add. Returns when to do so again, if that is before the next ordinary tick.
    pub(super) fn throttle(&mut self, core: &NodeCore, now: Duration) -> Option<Duration> {
        let shards: Vec<_> = (0..core.shards.len()).map(|index| core.shard(index).ok()).collect();
        let now_ms = core.now_ms();
        let counts: Vec<_> = shards
            .iter()
            .map(|shard| shard.as_ref().map_or_else(ShardCounts::default, |shard| counts(shard, now_ms)))
            .collect();
        let (active, sealed) = core.accountant.totals();
        let node = NodeCounts {
            limit: core.options.memtable_bytes,
            used: active + sealed,
            sealed,
            budget: core.budget.rate(),
            flushes_at_once: core.options.flush_workers,
            flushes: &core.flushes,
        };
        let limits = self.throttle.limits(now, &node, &counts);
        let is_pressing = self.throttle.flush_is_pressing();
        if core.pools.flush.set_pressing(is_pressing) {
            tracing::debug!(pressing = is_pressing, "flushes have another priority");
        }
        let is_soon = counts.iter().any(|counts| counts.sealed > 0) || limits.iter().any(Option::is_some);
        for ((shard, limit), told_at) in shards.iter().zip(limits).zip(&mut self.told_at) {
            if let Some(shard) = shard {
                let before = shard.pacer.allow(limit, now);
                tell(shard, before, limit, now, told_at);
            }
        }
        let shards = u32::try_from(shards.len()).unwrap_or(u32::MAX);
        is_soon.then(|| THROTTLE_TICK + THROTTLE_TICK_A_SHARD.saturating_mul(shards))
    }

    /// Sets the budget's rate.
    pub(super) fn govern(&mut self, core: &NodeCore, now: Duration) {
        let Some(governor) = &mut self.governor else { return };
        let (sync, read) = (core.foreground.syncs.take_mean(), core.foreground.cold_reads.take_mean());
        let now_ms = core.now_ms();
        let (mut backlog, mut memory_is_short) = (0, false);
        for shard in core.open_shards() {
            // NOTE: what cannot be compacted is no reason to hurry.
            if shard.seems_well() && shard.failures(IoClass::Compaction).last().is_none() {
                backlog = backlog.max(shard.tree.load(now_ms).backlog_permille);
            }
            let limit = shard.pacer.limit();
            memory_is_short |= limit.is_some_and(|limit| limit.reason == SlowdownReason::Memory);
        }
        let signals = Signals {
            sync,
            read,
            paid: core.budget.paid(IoClass::Flush) + core.budget.paid(IoClass::Compaction),
            was_held_back: core.budget.take_has_held_back(),
            backlog: f64::from(backlog) / 1000.0,
            written: self.throttle.written_per_second(),
            memory_is_short,
        };
        let allowance = governor.tick(now, &signals);
        core.budget.set_rate(allowance.bytes_per_second());
        core.budget.pause_compaction(allowance.compaction_pauses);
    }
}

fn counts(shard: &ShardCore, now_ms: u64) -> ShardCounts {
    let (load, work) = (shard.tree.load(now_ms), shard.tree.work());
    ShardCounts {
        written: work.written,
        flushed: work.flushed,
        tables_flushed: work.tables_flushed,
        flush_paid: shard.jobs.flush.paid(),
        compacted: shard.jobs.compaction.paid(),
        taken: work.taken,
        cost: work.cost,
        backlog: f64::from(load.backlog_permille) / 1000.0,
        sealed: if shard.why_not_flushed().is_none() { load.sealed_bytes } else { 0 },
        flush: shard.jobs.flush_progress().filter(|_| load.flush_running),
        is_held_back: shard.pacer.take_has_held_back(),
    }
}

/// Tells of a slowdown that has begun, now and then.
fn tell(
    shard: &ShardCore,
    before: Option<WriteLimit>,
    limit: Option<WriteLimit>,
    now: Duration,
    told_at: &mut Option<Duration>,
) {
    let Some(limit) = limit.filter(|_| before.is_none()) else { return };
    if told_at.is_none_or(|at| now.saturating_sub(at) >= TELL_AGAIN) {
        *told_at = Some(now);
        tracing::info!(
            shard = shard.index,
            reason = %limit.reason,
            bytes_per_second = limit.bytes_per_second,
            "writers are slowed down"
        );
    }
}
