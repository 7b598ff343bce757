//! Walks the entries of one data block, both ways, with whole keys.

use std::ops::Range;

use super::block::{Block, BlockView, Damage, EntryPlace, RawEntry};
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
    key: Vec<u8>,
    prefix_len: usize,
    current: Current,
}

/// Where it stands, and what is there beside the key.
#[derive(Debug)]
struct Current {
    place: EntryPlace,
    next_offset: usize,
    seqno: SeqNo,
    kind: ValueKind,
    expires_at_ms: Option<u64>,
    value: Range<usize>,
}

impl Current {
    const NONE: Self = Self {
        place: EntryPlace { number: 0, offset: 0 },
        next_offset: 0,
        seqno: SeqNo(0),
        kind: ValueKind::Delete,
        expires_at_ms: None,
        value: 0..0,
    };

    #[inline]
    const fn new(number: usize, raw: &RawEntry<'_>) -> Self {
        Self {
            place: EntryPlace { number, offset: raw.offset },
            next_offset: raw.end,
            seqno: raw.seqno,
            kind: raw.kind,
            expires_at_ms: raw.expires_at_ms,
            value: BlockView::value_range(raw),
        }
    }
}

impl BlockIter {
    /// Stands on an entry of `block`.
    pub(super) fn new(block: Block, place: EntryPlace) -> Result<Self, Damage> {
        let mut iter = Self { block, key: vec![], prefix_len: 0, current: Current::NONE };
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
        self.current.place
    }

    /// Moves one entry on; false, and nothing moved, at the end.
    #[inline]
    pub(super) fn next(&mut self) -> Result<bool, Damage> {
        let number = self.current.place.number + 1;
        if number == self.block.view().entries() {
            return Ok(false);
        }
        self.read(EntryPlace { number, offset: self.current.next_offset }).map(|()| true)
    }

    /// Shows the entries from this one on to `take`, and moves on from each that is taken. False at the end: the last
    /// one was taken, and not moved on from.
    #[inline]
    pub(super) fn walk(&mut self, take: &mut impl FnMut(&Entry<'_>) -> bool) -> Result<bool, Damage> {
        let view = self.block.view();
        let mut number = self.current.place.number;
        let mut raw = view.entry_at(self.current.place.offset)?;
        let refused = loop {
            let RawEntry { seqno, kind, expires_at_ms, value, .. } = raw;
            if !take(&Entry { key: &self.key, seqno, kind, expires_at_ms, value }) {
                break true;
            }
            if number + 1 == view.entries() {
                break false;
            }
            number += 1;
            raw = read_entry(view, raw.end, &mut self.key, self.prefix_len)?;
        };
        self.current = Current::new(number, &raw);
        Ok(refused)
    }

    /// Moves one entry back; false, and nothing moved, at the start.
    pub(super) fn prev(&mut self) -> Result<bool, Damage> {
        let Some(number) = self.current.place.number.checked_sub(1) else { return Ok(false) };
        let place = self.block.view().place(number)?;
        self.read(place).map(|()| true)
    }

    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    #[inline]
    pub(super) fn entry(&self) -> Entry<'_> {
        let Current { seqno, kind, expires_at_ms, ref value, .. } = self.current;
        Entry { key: &self.key, seqno, kind, expires_at_ms, value: self.block.view().value(value.clone()) }
    }

    fn enter(&mut self, place: EntryPlace) -> Result<(), Damage> {
        self.key.clear();
        self.key.extend_from_slice(self.block.view().prefix());
        self.prefix_len = self.key.len();
        self.read(place)
    }

    #[inline]
    fn read(&mut self, place: EntryPlace) -> Result<(), Damage> {
        let raw = read_entry(self.block.view(), place.offset, &mut self.key, self.prefix_len)?;
        self.current = Current::new(place.number, &raw);
        Ok(())
    }
}

/// Reads the entry that begins at `offset`, and puts its suffix in place of the last one's. Asks for the memory of
/// those behind it.
#[expect(clippy::inline_always, reason = "as for the entry that it reads")]
#[inline(always)]
fn read_entry<'a>(
    view: BlockView<'a>,
    offset: usize,
    key: &mut Vec<u8>,
    prefix_len: usize,
) -> Result<RawEntry<'a>, Damage> {
    let raw = view.entry_at(offset)?;
    view.prefetch_entry(raw.end + AHEAD_BYTES);
    key.truncate(prefix_len);
    key.extend_from_slice(raw.suffix);
    Ok(raw)
}
