//! One table's pointers to its cached blocks.

use std::sync::{Arc, atomic::Ordering};

use super::{
    BlockCache, LARGEST_BLOCK_PART,
    cached_block::{CachedBlock, LoadedBlock, Slot, charge},
    queues::Resident,
};
use crate::{
    memory::prefetch_lines,
    table::block::{Block, Damage, Shape},
};

/// One table's slots, one for each of its blocks.
#[derive(Debug)]
pub(in crate::table) struct BlockSlots {
    cache: Arc<BlockCache>,
    table: u64,
    slots: Box<[Slot]>,
}

impl BlockSlots {
    /// Empty slots for a table of `blocks` blocks.
    pub(in crate::table) fn new(cache: &Arc<BlockCache>, blocks: usize) -> Arc<Self> {
        let slots: Box<[_]> = (0..blocks).map(|_| Slot::default()).collect();
        cache.slot_bytes.fetch_add(size_of_val(&*slots) as u64, Ordering::Relaxed);
        let table = cache.next_table.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { cache: Arc::clone(cache), table, slots })
    }

    /// Asks for a block's slot, and does not wait for it.
    #[inline]
    pub(in crate::table) fn prefetch(&self, block: usize) {
        prefetch_lines(self.slots.as_ptr().wrapping_add(block).cast(), 1);
    }

    /// Asks for the beginning of a block if it is cached, and does not wait for it.
    #[inline]
    pub(in crate::table) fn prefetch_block(&self, block: usize) {
        self.slots.get(block).map(Slot::load);
    }

    /// What is in a block's slot. Counts a hit or a miss.
    #[inline]
    pub(in crate::table) fn get(&self, block: usize) -> LoadedBlock {
        let cached = self.slots.get(block).map_or_else(LoadedBlock::default, Slot::load);
        if let (Some(shard), _) = self.cache.shard_of(self.table, block) {
            let count = if cached.touch() { &shard.hits } else { &shard.misses };
            count.fetch_add(1, Ordering::Relaxed);
        }
        cached
    }

    /// Takes in a block whose content has `len` bytes, which `read` writes: puts it into its slot, unless it is too
    /// large for the cache or somebody was faster, and evicts others for it. Returns it in any case.
    ///
    /// # Errors
    /// What is wrong with the content, as a phrase for a corruption error.
    pub(in crate::table) fn admit(
        self: &Arc<Self>,
        number: usize,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<(), Damage>,
    ) -> Result<Block, Damage> {
        let capacity = self.cache.shard_capacity();
        let (shard, name) = self.cache.shard_of(self.table, number);
        let fits = charge(len as u64) <= capacity / LARGEST_BLOCK_PART;
        let Some(shard) = shard.filter(|_| fits) else {
            let mut content = vec![0; len];
            read(&mut content)?;
            return Ok(Block::Read { shape: Shape::parse(&content)?, content: self.cache.share(content) });
        };
        let cached = CachedBlock::new(len, &self.cache.live_bytes, &self.cache.slabs, read)?;
        let mut queues = shard.queues.lock();
        if self.slots.get(number).is_some_and(|slot| slot.peek().is_none()) {
            let resident = Resident { slots: Arc::downgrade(self), block: number, name };
            queues.push(resident, &cached);
            self.store(number, Some(cached.clone()));
            let evicted = queues.evict(capacity);
            // IMPORTANT: what left may be the last owner of other slots, whose drop takes this lock again.
            drop(queues);
            drop(evicted);
        }
        Ok(Block::Cached(cached))
    }

    /// The block in a slot, without counting.
    pub(super) fn peek(&self, block: usize) -> Option<CachedBlock> {
        self.slots.get(block).and_then(Slot::peek)
    }

    /// Fills or empties a slot. Only under the lock of the block's cache shard.
    pub(super) fn store(&self, block: usize, cached: Option<CachedBlock>) {
        if let Some(slot) = self.slots.get(block) {
            drop(slot.swap(cached));
        }
    }
}

/// A dropped table's blocks leave the cache at once.
impl Drop for BlockSlots {
    fn drop(&mut self) {
        // IMPORTANT: all of them are emptied before anything can go wrong.
        let numbered = self.slots.iter().enumerate();
        let cached: Vec<_> = numbered.filter_map(|(number, slot)| Some((number, slot.take()?))).collect();
        for (number, cached) in &cached {
            if let (Some(shard), _) = self.cache.shard_of(self.table, *number) {
                shard.queues.lock().forget(cached);
            }
        }
        self.cache.slot_bytes.fetch_sub(size_of_val(&*self.slots) as u64, Ordering::Relaxed);
    }
}
