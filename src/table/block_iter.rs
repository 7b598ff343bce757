//! Walks the entries of one data block, both ways, with whole keys.

use std::ops::Range;

use super::block::{Block, BlockView, Damage, EntryPlace};
use crate::{
    entry::{Entry, ValueKind},
    ids::SeqNo,
};

/// How far behind the next entry memory is asked for.
const AHEAD_BYTES: usize = 128;

/// Stands on one entry of a block.
#[derive(Debug)]
pub(super) struct BlockIter {
    block: Block,
    place: EntryPlace,
    next_offset: usize,
    key: Vec<u8>,
    prefix_len: usize,
    seqno: SeqNo,
    kind: ValueKind,
    expires_at_ms: Option<u64>,
    value: Range<usize>,
}

impl BlockIter {
    /// Stands on an entry of `block`.
    pub(super) fn new(block: Block, place: EntryPlace) -> Result<Self, Damage> {
        let mut iter = Self {
            block,
            place,
            next_offset: 0,
            key: vec![],
            prefix_len: 0,
            seqno: SeqNo(0),
            kind: ValueKind::Delete,
            expires_at_ms: None,
            value: 0..0,
        };
        iter.enter(place)?;
        Ok(iter)
    }

    /// Moves to an entry of another block. After an error the iterator is of no use.
    pub(super) fn replace_block(&mut self, block: Block, place: EntryPlace) -> Result<(), Damage> {
        self.block = block;
        self.enter(place)
    }

    pub(super) const fn block(&self) -> &Block {
        &self.block
    }

    pub(super) const fn place(&self) -> EntryPlace {
        self.place
    }

    /// Moves one entry on; false, and nothing moved, at the end.
    #[inline]
    pub(super) fn next(&mut self) -> Result<bool, Damage> {
        let number = self.place.number + 1;
        if number == self.block.view().entries() {
            return Ok(false);
        }
        self.read(EntryPlace { number, offset: self.next_offset }).map(|()| true)
    }

    /// Moves one entry back; false, and nothing moved, at the start.
    pub(super) fn prev(&mut self) -> Result<bool, Damage> {
        let Some(number) = self.place.number.checked_sub(1) else { return Ok(false) };
        let place = self.block.view().place(number)?;
        self.read(place).map(|()| true)
    }

    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    #[inline]
    pub(super) fn entry(&self) -> Entry<'_> {
        Entry {
            key: &self.key,
            seqno: self.seqno,
            kind: self.kind,
            expires_at_ms: self.expires_at_ms,
            value: self.block.view().value(self.value.clone()),
        }
    }

    fn enter(&mut self, place: EntryPlace) -> Result<(), Damage> {
        self.key.clear();
        self.key.extend_from_slice(self.block.view().prefix());
        self.prefix_len = self.key.len();
        self.read(place)
    }

    #[inline]
    fn read(&mut self, place: EntryPlace) -> Result<(), Damage> {
        let view = self.block.view();
        let raw = view.entry_at(place.offset)?;
        view.prefetch_entry(raw.end + AHEAD_BYTES);
        self.key.truncate(self.prefix_len);
        self.key.extend_from_slice(raw.suffix);
        self.seqno = raw.seqno;
        self.kind = raw.kind;
        self.expires_at_ms = raw.expires_at_ms;
        self.value = BlockView::value_range(&raw);
        self.next_offset = raw.end;
        self.place = place;
        Ok(())
    }
}
