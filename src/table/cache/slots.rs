//! One table's pointers to its cached blocks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use arc_swap::{ArcSwapOption, Guard};

use super::{BlockCache, LARGEST_BLOCK_PART, queues::Resident};
use crate::table::block::Block;

/// What a cached block costs besides its content: the structs and allocations around it.
const BLOCK_OVERHEAD_BYTES: u64 = 256;
const MAX_HEAT: u8 = 3;

/// A block in the cache. One cache line holds all that a read touches; a reference count lies in another.
#[derive(Debug)]
#[repr(align(64))]
pub(in crate::table) struct CachedBlock {
    pub(in crate::table) block: Block,
    /// How often it was read since it was last considered for eviction, up to 3.
    heat: AtomicU8,
    /// Which queue it stands in; changed under the shard's lock.
    in_main: AtomicBool,
}

impl CachedBlock {
    /// What the block takes from the cache's capacity.
    pub(super) fn charge(&self) -> u64 {
        self.block.len() as u64 + BLOCK_OVERHEAD_BYTES
    }

    pub(super) fn in_main(&self) -> bool {
        self.in_main.load(Ordering::Relaxed)
    }

    pub(super) fn set_in_main(&self) {
        self.in_main.store(true, Ordering::Relaxed);
    }

    /// The heat before it was set to one less (or to nothing, with `forget`).
    pub(super) fn cool(&self, forget: bool) -> u8 {
        let heat = self.heat.load(Ordering::Relaxed);
        self.heat.store(if forget { 0 } else { heat.saturating_sub(1) }, Ordering::Relaxed);
        heat
    }

    #[inline]
    fn touch(&self) {
        // NOTE: the count may lose a touch; what matters is that a hot block's line is not written each time.
        let heat = self.heat.load(Ordering::Relaxed);
        if heat < MAX_HEAT {
            self.heat.store(heat + 1, Ordering::Relaxed);
        }
    }
}

/// One table's slots, one for each of its blocks.
#[derive(Debug)]
pub(in crate::table) struct BlockSlots {
    cache: Arc<BlockCache>,
    table: u64,
    slots: Box<[ArcSwapOption<CachedBlock>]>,
}

impl BlockSlots {
    /// Empty slots for a table of `blocks` blocks.
    pub(in crate::table) fn new(cache: &Arc<BlockCache>, blocks: usize) -> Arc<Self> {
        let slots: Box<[_]> = (0..blocks).map(|_| ArcSwapOption::empty()).collect();
        cache.slot_bytes.fetch_add(size_of_val(&*slots) as u64, Ordering::Relaxed);
        let table = cache.next_table.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { cache: Arc::clone(cache), table, slots })
    }

    pub(in crate::table) const fn cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// The cached block, if it is. Counts a hit or a miss.
    #[inline]
    pub(in crate::table) fn get(&self, block: usize) -> Guard<Option<Arc<CachedBlock>>> {
        let cached = self.slots.get(block).map_or_else(Guard::default, ArcSwapOption::load);
        if let (Some(shard), _) = self.cache.shard_of(self.table, block) {
            match &*cached {
                Some(cached) => {
                    cached.touch();
                    shard.hits.fetch_add(1, Ordering::Relaxed);
                }
                None => {
                    shard.misses.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        cached
    }

    /// Puts a block into its slot, unless it is too large for the cache or somebody was faster; evicts
    /// others for it.
    pub(in crate::table) fn insert(self: &Arc<Self>, number: usize, block: &Block) {
        let (Some(shard), name) = self.cache.shard_of(self.table, number) else { return };
        let capacity = self.cache.shard_capacity();
        if block.len() as u64 + BLOCK_OVERHEAD_BYTES > capacity / LARGEST_BLOCK_PART {
            return;
        }
        let cached = Arc::new(CachedBlock {
            block: block.clone(),
            heat: AtomicU8::new(0),
            in_main: AtomicBool::new(false),
        });
        let mut queues = shard.queues.lock();
        if self.slots.get(number).is_none_or(|slot| slot.load().is_some()) {
            return;
        }
        let resident = Resident { slots: Arc::downgrade(self), block: number, name };
        queues.push(resident, &cached);
        self.store(number, Some(cached));
        let evicted = queues.evict(capacity);
        // IMPORTANT: what left may be the last owner of other slots, whose drop takes this lock again.
        drop(queues);
        drop(evicted);
    }

    /// The block in a slot, without counting.
    pub(super) fn peek(&self, block: usize) -> Option<Arc<CachedBlock>> {
        self.slots.get(block).and_then(ArcSwapOption::load_full)
    }

    /// Fills or empties a slot. Only under the lock of the block's cache shard.
    pub(super) fn store(&self, block: usize, cached: Option<Arc<CachedBlock>>) {
        if let Some(slot) = self.slots.get(block) {
            slot.store(cached);
        }
    }
}

/// A dropped table's blocks leave the cache at once.
impl Drop for BlockSlots {
    fn drop(&mut self) {
        for (number, slot) in self.slots.iter().enumerate() {
            let Some(cached) = slot.swap(None) else { continue };
            if let (Some(shard), _) = self.cache.shard_of(self.table, number) {
                shard.queues.lock().forget(&cached);
            }
        }
        self.cache.slot_bytes.fetch_sub(size_of_val(&*self.slots) as u64, Ordering::Relaxed);
    }
}
