//! One table's pointers to its cached blocks.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    BlockCache, LARGEST_BLOCK_PART,
    cached_block::{CachedBlock, LoadedBlock, Slot, charge},
    doorkeeper::{Misses, Moment},
    queues::Resident,
};
use crate::{
    memory::prefetch_lines,
    table::block::{Block, Damage},
};

/// The number of the next table that any cache of the process gets.
static NEXT_TABLE: AtomicU64 = AtomicU64::new(0);

/// One table's slots, one for each of its blocks.
#[derive(Debug)]
pub(in crate::table) struct BlockSlots {
    cache: Arc<BlockCache>,
    table: u64,
    slots: Box<[Slot]>,
    misses: Misses,
}

impl BlockSlots {
    /// Empty slots for a table of `blocks` blocks.
    pub(in crate::table) fn new(cache: &Arc<BlockCache>, blocks: usize) -> Arc<Self> {
        let slots: Box<[_]> = (0..blocks).map(|_| Slot::default()).collect();
        let table = NEXT_TABLE.fetch_add(1, Ordering::Relaxed);
        let made = Self { cache: Arc::clone(cache), table, slots, misses: Misses::new(blocks) };
        cache.slot_bytes.fetch_add(made.bytes(), Ordering::Relaxed);
        cache.shrink();
        Arc::new(made)
    }

    /// The table's number, which no other table in this process has.
    pub(in crate::table) const fn table(&self) -> u64 {
        self.table
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

    /// What is in a block's slot. Counts a hit; what was not found is to be counted by [`BlockSlots::count`].
    #[inline]
    pub(in crate::table) fn get(&self, block: usize) -> LoadedBlock {
        let cached = self.slots.get(block).map_or_else(LoadedBlock::default, Slot::load);
        if cached.touch() {
            self.count(block, true);
        }
        cached
    }

    /// Counts a lookup, of a block that had to be read, or of one that had not.
    #[inline]
    pub(in crate::table) fn count(&self, block: usize, is_hit: bool) {
        if let Some(shard) = self.cache.shard_of(self.table, block) {
            let count = if is_hit { &shard.hits } else { &shard.misses };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes in a block whose content has `len` bytes, which `read` writes: puts it into its slot, and evicts others
    /// for it. Not so if it is too large for the cache, if somebody was faster, or if the cache is full and the block
    /// was not missed lately. Returns it in any case.
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
        let bytes = charge(len as u64);
        let shard =
            self.cache.shard_of(self.table, number).filter(|_| bytes <= capacity / LARGEST_BLOCK_PART);
        let Some(shard) = shard else { return self.read_past(len, read) };
        let now = shard.clock.pass(bytes);
        let is_missed = self.misses.note(number, now);
        if shard.is_full.load(Ordering::Relaxed) && !is_missed {
            return self.read_past(len, read);
        }
        let cached = CachedBlock::new(len, &self.cache.live_bytes, &self.cache.slabs, read)?;
        let mut queues = shard.queues.lock();
        if self.slots.get(number).is_some_and(|slot| slot.peek().is_none()) {
            // NOTE: first, so that the newcomer stands behind those that get another round.
            let evicted = queues.evict(capacity - bytes, now);
            queues.push(Resident { slots: Arc::downgrade(self), block: number }, &cached, is_missed);
            self.store(number, Some(cached.clone()));
            shard.is_full.store(queues.charged_bytes() + bytes > capacity, Ordering::Relaxed);
            // IMPORTANT: what left may be the last owner of other slots, whose drop takes this lock again.
            drop(queues);
            drop(evicted);
        }
        Ok(Block::Cached(cached))
    }

    /// A block that stays out of the cache.
    fn read_past(
        &self,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<(), Damage>,
    ) -> Result<Block, Damage> {
        let mut content = vec![0; len];
        read(&mut content)?;
        Block::read(self.cache.share(content))
    }

    /// Notes that a block left the cache without having been read again.
    pub(super) fn note_miss(&self, block: usize, now: Moment) {
        self.misses.note(block, now);
    }

    /// The memory that slots take.
    fn bytes(&self) -> u64 {
        size_of_val(&*self.slots) as u64 + self.misses.bytes()
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
            if let Some(shard) = self.cache.shard_of(self.table, *number) {
                shard.queues.lock().forget(cached);
                shard.is_full.store(false, Ordering::Relaxed);
            }
        }
        self.cache.slot_bytes.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}
