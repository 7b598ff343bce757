//! What leaves the cache: S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction"). New blocks
//! enter a small queue and only those read again there move to the main one, so that a scan passes through
//! without pushing out what is used. What was missed before (`doorkeeper`) enters the main queue at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use super::{cached_block::CachedBlock, doorkeeper::Moment, slots::BlockSlots};

/// The small queue's part of the capacity.
const SMALL_PART: u64 = 10;
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
    small: VecDeque<Resident>,
    main: VecDeque<Resident>,
    small_bytes: u64,
    main_bytes: u64,
    content_bytes: u64,
    /// How many residents' tables are gone.
    vacant: usize,
}

impl Queues {
    pub(super) const fn charged_bytes(&self) -> u64 {
        self.small_bytes + self.main_bytes
    }

    pub(super) const fn block_bytes(&self) -> u64 {
        self.content_bytes
    }

    #[cfg(test)]
    pub(super) fn residents(&self) -> usize {
        self.small.len() + self.main.len()
    }

    /// Enters a block that is about to be put into its slot; into the main queue if it was missed lately.
    pub(super) fn push(&mut self, resident: Resident, cached: &CachedBlock, is_missed: bool) {
        self.content_bytes += cached.len();
        if is_missed {
            cached.set_in_main();
            self.main_bytes += cached.charge();
            self.main.push_back(resident);
        } else {
            self.small_bytes += cached.charge();
            self.small.push_back(resident);
        }
    }

    /// Empties slots until at most `capacity` bytes are charged. What was never read again counts as missed now.
    pub(super) fn evict(&mut self, capacity: u64, now: Moment) -> Evicted {
        let mut evicted = Evicted::default();
        while self.charged_bytes() > capacity {
            let from_small = self.small_bytes > capacity / SMALL_PART || self.main.is_empty();
            let stepped =
                if from_small { self.step_small(&mut evicted, now) } else { self.step_main(&mut evicted) };
            if !stepped {
                break;
            }
        }
        evicted
    }

    /// Uncounts a block whose table is gone.
    pub(super) fn forget(&mut self, cached: &CachedBlock) {
        self.uncount(cached);
        self.vacant += 1;
        if self.vacant > MIN_VACANT_TO_PURGE + self.small.len().midpoint(self.main.len()) {
            self.small.retain(|resident| resident.slots.strong_count() > 0);
            self.main.retain(|resident| resident.slots.strong_count() > 0);
            self.vacant = 0;
        }
    }

    /// Takes one block out of the small queue: to the main one if it was read since it came, else out.
    fn step_small(&mut self, evicted: &mut Evicted, now: Moment) -> bool {
        let Some(resident) = self.small.pop_front() else { return false };
        let Some((table, cached)) = self.occupant(&resident, evicted) else { return true };
        if cached.cool(true) > 0 {
            self.small_bytes -= cached.charge();
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
        if cached.cool(false) > 0 {
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
            self.small_bytes -= cached.charge();
        }
    }
}
