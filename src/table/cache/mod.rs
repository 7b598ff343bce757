//! The block cache. Tables hold the pointers to their cached blocks themselves, one slot a block: a hit is one
//! pointer load, without a lock or a shared map. The cache only decides what leaves.
//!
//! ```text
//!   Table ──► BlockSlots ──[ slot of each block ]──► CachedBlock (head, content)
//!                 ▲ weak                 ▲ filled and emptied under the lock of the block's cache shard
//!   BlockCache ──► CacheShard ──► queues of (slots, block)      (`queues`: S3-FIFO; `doorkeeper`: who comes in)
//! ```
//! Eviction empties a slot first; the block is freed when the last reader that still uses it lets go.

mod cached_block;
mod doorkeeper;
mod queues;
mod slots;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
pub(super) use cached_block::CachedBlock;
use cached_block::LiveBytes;
use doorkeeper::MissClock;
use parking_lot::Mutex;
use queues::Queues;
pub(super) use slots::BlockSlots;

use super::metadata_cache::MetadataCache;
use crate::memory::Slabs;

/// Shards are at least this large, so that the blocks that fit one are not small.
const MIN_SHARD_BYTES: u64 = 4 << 20;
const MAX_SHARDS: u64 = 16;
/// A block above this part of a cache shard is not kept.
const LARGEST_BLOCK_PART: u64 = 16;

/// A bounded set of data blocks in memory, shared by all tables of a node.
#[derive(Debug)]
pub struct BlockCache {
    capacity_bytes: u64,
    shards: Box<[CacheShard]>,
    /// What the tables' slot arrays take from the capacity.
    slot_bytes: AtomicU64,
    live_bytes: Arc<AtomicU64>,
    /// Where the cached blocks lie.
    slabs: Arc<Slabs>,
    metadata: Arc<MetadataCache>,
}

/// What a cache has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockCacheStats {
    /// Lookups that found their block.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Cached blocks and slot arrays, in bytes.
    pub bytes: u64,
    /// Blocks that have left the cache, or never entered it, but are still in use by a reader, or are the last that a
    /// thread read, in bytes.
    pub pinned_bytes: u64,
    /// The tables' filters and indexes, in bytes.
    pub metadata_bytes: u64,
}

/// Its own cache line pair, so that readers of different shards do not slow each other down by counting.
#[derive(Debug)]
#[repr(align(128))]
struct CacheShard {
    hits: AtomicU64,
    misses: AtomicU64,
    clock: MissClock,
    /// Whether a block could come in only because others left.
    is_full: AtomicBool,
    queues: Mutex<Queues>,
}

impl CacheShard {
    fn new(given_bytes: u64) -> Self {
        Self {
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            clock: MissClock::new(given_bytes),
            is_full: AtomicBool::new(false),
            queues: Mutex::default(),
        }
    }
}

impl BlockCache {
    /// A cache that holds up to `capacity_bytes` of blocks (0 caches nothing), and as many filters and indexes as
    /// are used.
    pub fn new(capacity_bytes: u64) -> Self {
        Self::with_metadata(capacity_bytes, u64::MAX)
    }

    /// A cache that holds up to `capacity_bytes` of blocks, and beside them up to `metadata_bytes` of the tables'
    /// filters and indexes. Those of tables in use stay beyond that until their users let go.
    pub fn with_metadata(capacity_bytes: u64, metadata_bytes: u64) -> Self {
        let shards = (capacity_bytes / MIN_SHARD_BYTES).clamp(1, MAX_SHARDS);
        Self {
            capacity_bytes,
            shards: (0..shards).map(|_| CacheShard::new(capacity_bytes / shards)).collect(),
            slot_bytes: AtomicU64::new(0),
            live_bytes: Arc::default(),
            slabs: Arc::default(),
            metadata: Arc::new(MetadataCache::new(metadata_bytes)),
        }
    }

    /// Where tables keep their filters and indexes.
    pub(super) const fn metadata(&self) -> &Arc<MetadataCache> {
        &self.metadata
    }

    /// What the cache has done and holds.
    pub fn stats(&self) -> BlockCacheStats {
        let sum = |count: fn(&CacheShard) -> u64| self.shards.iter().map(count).sum();
        let blocks: u64 = sum(|shard| shard.queues.lock().block_bytes());
        BlockCacheStats {
            hits: sum(|shard| shard.hits.load(Ordering::Relaxed)),
            misses: sum(|shard| shard.misses.load(Ordering::Relaxed)),
            bytes: sum(|shard| shard.queues.lock().charged_bytes()) + self.slot_bytes.load(Ordering::Relaxed),
            pinned_bytes: self.live_bytes.load(Ordering::Relaxed).saturating_sub(blocks),
            metadata_bytes: self.metadata.used_bytes(),
        }
    }

    /// What the cache may hold, in bytes.
    pub const fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// A block's content as shared bytes, counted as long as anybody holds a part of it.
    fn share(&self, content: Vec<u8>) -> Bytes {
        let live = LiveBytes::count(content.len(), &self.live_bytes);
        Bytes::from_owner(Uncached { content, _live: live })
    }

    /// What blocks may take in one shard.
    fn shard_capacity(&self) -> u64 {
        let slots = self.slot_bytes.load(Ordering::Relaxed);
        self.capacity_bytes.saturating_sub(slots) / self.shards.len() as u64
    }

    /// Makes room for slots that came.
    fn shrink(&self) {
        let capacity = self.shard_capacity();
        for shard in &self.shards {
            let evicted = shard.queues.lock().evict(capacity, shard.clock.pass(0));
            drop(evicted);
        }
    }

    /// The shard of a block.
    fn shard_of(&self, table: u64, block: usize) -> Option<&CacheShard> {
        let name =
            (table.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ block as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let name = name ^ (name >> 32);
        self.shards.get((((name & 0xFFFF_FFFF) * self.shards.len() as u64) >> 32) as usize)
    }
}

/// Owns the content of a block that is not cached.
struct Uncached {
    content: Vec<u8>,
    _live: LiveBytes,
}

impl AsRef<[u8]> for Uncached {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

#[cfg(test)]
#[path = "../cache_test.rs"]
mod tests;
