//! Checks a whole table against itself: every checksum, the order, the index, hash slots, filter and counts.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    block::{Block, Damage},
    block_iter::BlockIter,
    cursor::{ChunkReader, Direction},
    expiries::ExpiryTimes,
    pace::Pace,
    properties::TableSummary,
    table::{Loaded, Table},
};
use crate::{
    entry::Entry,
    error::{Error, Result},
    ids::SeqNo,
    key::KeyHash,
};

impl Table {
    /// Reads the whole table, past the cache, and checks it against itself. `hash_seed` is the node's.
    ///
    /// # Errors
    /// `Corruption`, naming what is wrong where; `Io`; what the pace fails with.
    pub fn verify(&self, hash_seed: u64, pace: Arc<dyn Pace>) -> Result<()> {
        let loaded = self.load_paced(&*pace)?;
        let mut chunks = ChunkReader::new(pace);
        let mut check = Check {
            loaded: &loaded,
            hash_seed,
            last_key: vec![],
            last_seqno: SeqNo::MAX,
            counted: TableSummary::new(),
            expiries: ExpiryTimes::default(),
        };
        for number in 0..loaded.metadata.index.blocks() {
            let (block, checksum) = chunks.block(self, &loaded, number, Direction::Forward)?;
            check.counted.count_block(checksum);
            check.block(number, block).map_err(|damage| self.damaged_block(&loaded, number, damage))?;
        }
        check.summary().map_err(|damage| {
            Error::corruption(self.path(), 0, "the entries that the properties count", damage)
        })
    }
}

struct Check<'a> {
    loaded: &'a Loaded,
    hash_seed: u64,
    last_key: Vec<u8>,
    last_seqno: SeqNo,
    counted: TableSummary,
    expiries: ExpiryTimes,
}

impl Check<'_> {
    fn block(&mut self, number: usize, block: Block) -> Result<(), Damage> {
        let first = block.view().place(0)?;
        let mut iter = BlockIter::new(block, first)?;
        loop {
            let entry = iter.entry();
            let new_key = entry.key != self.last_key;
            self.order(number, &entry, new_key)?;
            if new_key || iter.place().number == 0 {
                self.lookups(&iter, &entry)?;
            }
            if self.counted.entries == 0 {
                self.counted.min_key = Bytes::copy_from_slice(entry.key);
            }
            self.counted.count(&entry, new_key);
            if let Some(expires_at_ms) = entry.expires_at_ms {
                self.expiries.add(expires_at_ms);
            }
            if new_key {
                self.last_key.clear();
                self.last_key.extend_from_slice(entry.key);
            }
            self.last_seqno = entry.seqno;
            if !iter.next()? {
                return Ok(());
            }
        }
    }

    fn order(&self, number: usize, entry: &Entry<'_>, new_key: bool) -> Result<(), Damage> {
        let index = &self.loaded.metadata.index;
        if entry.key < self.last_key.as_slice() || (!new_key && entry.seqno >= self.last_seqno) {
            return Err("entries out of order");
        }
        if entry.key > index.separator(number) {
            return Err("a key behind the block's separator");
        }
        let before = number.checked_sub(1).map(|before| index.separator(before));
        // Only versions of the separator itself may go on behind it.
        if before.is_some_and(|before| entry.key < before || (entry.key == before && new_key)) {
            return Err("a key before the last block's separator");
        }
        Ok(())
    }

    fn lookups(&self, iter: &BlockIter, entry: &Entry<'_>) -> Result<(), Damage> {
        let hash = KeyHash::of(entry.key, self.hash_seed);
        if self.loaded.metadata.filter.as_ref().is_some_and(|filter| !filter.may_contain(hash)) {
            return Err("a key that the filter denies");
        }
        let found = iter.block().view().first_of(hash, entry.key)?;
        if found.is_none_or(|found| found.offset != iter.place().offset) {
            return Err("a key that its hash slot does not lead to");
        }
        Ok(())
    }

    fn summary(mut self) -> Result<(), Damage> {
        let stated = &self.loaded.metadata.summary;
        self.counted.max_key = Bytes::from(self.last_key);
        self.counted.expiry_parts = self.expiries.parts();
        if let Some(deletes) = &self.loaded.metadata.range_deletes {
            self.counted.count_range_deletes(deletes).map_err(|_| "a range delete without a bound")?;
        }
        self.counted.file_bytes = stated.file_bytes;
        self.counted.footer_checksum = stated.footer_checksum;
        if self.counted == **stated { Ok(()) } else { Err("others") }
    }
}
