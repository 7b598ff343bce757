//! What a node tells of itself.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    node_core::NodeCore,
    schedule::{IoClass, WriteLimit},
};
use crate::{
    error::Result,
    tree::{TreeLoad, TreeStats},
};

/// A picture of the node, taken shard by shard.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NodeStats {
    /// Each shard, by its index.
    pub shards: Vec<ShardStats>,
    /// Bytes in active memtables of all shards, indexes included.
    pub active_memtable_bytes: u64,
    /// Bytes in sealed memtables that wait to be flushed.
    pub sealed_memtable_bytes: u64,
    /// Bytes in the block cache.
    pub block_cache_bytes: u64,
    /// Block reads that the cache answered.
    pub block_cache_hits: u64,
    /// Block reads that it did not.
    pub block_cache_misses: u64,
    /// Background bytes that flushes have read and written since the open.
    pub flush_io_bytes: u64,
    /// Background bytes that compactions have read and written since the open.
    pub compaction_io_bytes: u64,
    /// Whether memory fills up so fast that flushes run at the priority of the host's own threads. Else they take little more
    /// than the processor time that others leave, unless somebody waits for them.
    pub flush_is_pressing: bool,
    /// Whether a shard is so far behind that compactions run at the priority of the host's own threads. Else they take little
    /// more than the processor time that others leave, unless somebody waits for them.
    pub compaction_is_pressing: bool,
    /// The I/O budget in bytes per second, as it is now; `None`: unlimited.
    pub io_budget_bytes_per_second: Option<u64>,
    /// How often a writer waited because the memtables were full.
    pub stalls: u64,
    /// How long writers waited so, together.
    pub stalled: Duration,
    /// How often a writer waited for its place while its shard was slowed down.
    pub slowdowns: u64,
    /// How long writers waited so, together.
    pub slowed_down: Duration,
    /// How often a shard was re-opened after a failure.
    pub reopens: u64,
    /// Snapshots that are held.
    pub snapshots: usize,
    /// For how long the oldest of them has been; zero without one. Compaction keeps what was current then.
    pub oldest_snapshot_age: Duration,
    /// Scans that are not at their ends.
    pub open_scans: usize,
    /// For how long the oldest of them has been; zero without one. It pins the memtables and tables that there were.
    pub oldest_scan_age: Duration,
}

/// One shard.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ShardStats {
    /// Why the shard takes no writes, or is not open at all; `None`: it is well.
    pub trouble: Option<String>,
    /// What its writers may add, and why no more; `None`: as much as comes.
    pub write_limit: Option<WriteLimit>,
    /// Bytes of requests that wait to be written.
    pub queued_bytes: u64,
    /// What the tree holds and owes now.
    pub load: TreeLoad,
    /// The tree's levels and what its background work has done.
    pub tree: TreeStats,
}

impl NodeCore {
    /// The node's stats.
    ///
    /// # Errors
    /// `Closed`.
    pub(super) fn stats(&self) -> Result<NodeStats> {
        self.lifecycle.check_open()?;
        let (active, sealed) = self.accountant.totals();
        let cache = self.cache.stats();
        let held = self.snapshots.stats();
        let (open_scans, oldest_scan) = self.open_scans.stats();
        let age = |taken| self.env.clock.monotonic().saturating_sub(taken);
        Ok(NodeStats {
            shards: (0..self.shards.len()).map(|index| self.shard_stats(index)).collect(),
            active_memtable_bytes: active,
            sealed_memtable_bytes: sealed,
            block_cache_bytes: cache.bytes,
            block_cache_hits: cache.hits,
            block_cache_misses: cache.misses,
            flush_io_bytes: self.budget.paid(IoClass::Flush),
            compaction_io_bytes: self.budget.paid(IoClass::Compaction),
            flush_is_pressing: self.pools.flush.is_pressing(),
            compaction_is_pressing: self.pools.compaction.is_pressing(),
            io_budget_bytes_per_second: self.budget.rate(),
            stalls: self.counters.stalls.load(Ordering::Relaxed),
            stalled: Duration::from_nanos(self.counters.stall_ns.load(Ordering::Relaxed)),
            slowdowns: self.counters.slowdowns.load(Ordering::Relaxed),
            slowed_down: Duration::from_nanos(self.counters.slowdown_ns.load(Ordering::Relaxed)),
            reopens: self.counters.reopens.load(Ordering::Relaxed),
            snapshots: held.count,
            oldest_snapshot_age: held.oldest_taken.map_or(Duration::ZERO, age),
            open_scans,
            oldest_scan_age: oldest_scan.map_or(Duration::ZERO, age),
        })
    }

    fn shard_stats(&self, index: usize) -> ShardStats {
        match self.shard(index) {
            Err(error) => ShardStats { trouble: Some(error.to_string()), ..ShardStats::default() },
            Ok(shard) => ShardStats {
                trouble: shard.check_takes_writes().err().map(|error| error.to_string()),
                write_limit: shard.pacer.limit(),
                queued_bytes: shard.admission.waiting_bytes(),
                load: shard.tree.load(self.now_ms()),
                tree: shard.tree.stats(),
            },
        }
    }
}
