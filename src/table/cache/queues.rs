//! What leaves the cache, after S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction"). What was
//! missed before (`doorkeeper`) enters the main queue, which gives what was read again another round. What was not came
//! while there was room, and stands in a queue of its own: it leaves before any of the others, unless it was read again.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use super::{cached_block::CachedBlock, doorkeeper::Moment, slots::BlockSlots};

const MIN_VACANT_TO_PURGE: usize = 64;

/// Names a slot that a queue is responsible for.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) slots: Weak<BlockSlots>,
    pub(super) block: usize,
}

/// What left the cache; dropped by the caller outside the lock.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    tables: Vec<Arc<BlockSlots>>,
    blocks: Vec<CachedBlock>,
}

/// The queues of one cache shard.
#[derive(Debug, Default)]
pub(super) struct Queues {
    once_missed: VecDeque<Resident>,
    main: VecDeque<Resident>,
    once_missed_bytes: u64,
    main_bytes: u64,
    content_bytes: u64,
    /// How many residents' tables are gone.
    vacant: usize,
}

impl Queues {
    pub(super) const fn charged_bytes(&self) -> u64 {
        self.once_missed_bytes + self.main_bytes
    }

    pub(super) const fn block_bytes(&self) -> u64 {
        self.content_bytes
    }

    #[cfg(test)]
    pub(super) fn residents(&self) -> usize {
        self.once_missed.len() + self.main.len()
    }

    /// Enters a block that is about to be put into its slot; into the main queue if it was missed lately.
    pub(super) fn push(&mut self, resident: Resident, cached: &CachedBlock, is_missed: bool) {
        self.content_bytes += cached.len();
        if is_missed {
            cached.set_in_main();
            self.main_bytes += cached.charge();
            self.main.push_back(resident);
        } else {
            self.once_missed_bytes += cached.charge();
            self.once_missed.push_back(resident);
        }
    }

    /// Empties slots until at most `capacity` bytes are charged. What was never read again counts as missed now.
    pub(super) fn evict(&mut self, capacity: u64, now: Moment) -> Evicted {
        let mut evicted = Evicted::default();
        while self.charged_bytes() > capacity {
            if !self.step_once_missed(&mut evicted, now) && !self.step_main(&mut evicted) {
                break;
            }
        }
        evicted
    }

    /// Uncounts a block whose table is gone.
    pub(super) fn forget(&mut self, cached: &CachedBlock) {
        self.uncount(cached);
        self.vacant += 1;
        if self.vacant > MIN_VACANT_TO_PURGE + self.once_missed.len().midpoint(self.main.len()) {
            self.once_missed.retain(|resident| resident.slots.strong_count() > 0);
            self.main.retain(|resident| resident.slots.strong_count() > 0);
            self.vacant = 0;
        }
    }

    /// Takes one block out of the first queue: to the main one if it was read since it came, else out.
    fn step_once_missed(&mut self, evicted: &mut Evicted, now: Moment) -> bool {
        let Some(resident) = self.once_missed.pop_front() else { return false };
        let Some((table, cached)) = self.occupant(&resident, evicted) else { return true };
        if cached.cool() > 0 {
            self.once_missed_bytes -= cached.charge();
            self.main_bytes += cached.charge();
            cached.set_in_main();
            self.main.push_back(resident);
        } else {
            table.note_miss(resident.block, now);
            self.empty(&resident, &table, cached, evicted);
        }
        true
    }

    /// Gives the oldest block of the main queue another round if it is warm, else takes it out.
    fn step_main(&mut self, evicted: &mut Evicted) -> bool {
        let Some(resident) = self.main.pop_front() else { return false };
        let Some((table, cached)) = self.occupant(&resident, evicted) else { return true };
        if cached.cool() > 0 {
            self.main.push_back(resident);
        } else {
            self.empty(&resident, &table, cached, evicted);
        }
        true
    }

    /// The block that a resident stands for, if its table still lives. The table is kept in `evicted` too, so
    /// that it cannot be dropped, and take this lock again, before the caller has left it.
    fn occupant(
        &mut self,
        resident: &Resident,
        evicted: &mut Evicted,
    ) -> Option<(Arc<BlockSlots>, CachedBlock)> {
        let occupant = resident.slots.upgrade().and_then(|table| {
            evicted.tables.push(Arc::clone(&table));
            let cached = table.peek(resident.block)?;
            Some((table, cached))
        });
        if occupant.is_none() {
            self.vacant = self.vacant.saturating_sub(1);
        }
        occupant
    }

    fn empty(&mut self, resident: &Resident, table: &BlockSlots, cached: CachedBlock, evicted: &mut Evicted) {
        self.uncount(&cached);
        table.store(resident.block, None);
        evicted.blocks.push(cached);
    }

    fn uncount(&mut self, cached: &CachedBlock) {
        self.content_bytes -= cached.len();
        if cached.in_main() {
            self.main_bytes -= cached.charge();
        } else {
            self.once_missed_bytes -= cached.charge();
        }
    }
}
