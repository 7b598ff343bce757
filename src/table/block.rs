//! Reads data blocks that `block_builder` wrote. Every access checks its bounds, since the content may be
//! anything, but the checksum was checked before.

use std::ops::Range;

use bytes::Bytes;

use super::{
    block_builder::{HEAD_BYTES, LAYOUT_WIDE, first_slot},
    cache::CachedBlock,
};
use crate::{
    codec::{entry_meta::read_entry_meta, varint::ByteReader},
    entry::ValueKind,
    ids::SeqNo,
    key::KeyHash,
    memory::prefetch_lines,
};

/// What is wrong with a block, as a phrase for a corruption error.
pub(super) type Damage = &'static str;

/// A value is copied out of a block that is more than this many times larger.
const PIN_RATIO: usize = 4;

/// The cache lines of a short entry.
const ENTRY_LINES: usize = 3;

const ENDS_EARLY: Damage = "a block that ends early";

/// A block that whoever holds it keeps in memory.
#[derive(Clone, Debug)]
pub(super) enum Block {
    /// From the cache, or on its way there.
    Cached(CachedBlock),
    /// Read past the cache.
    Read { shape: Shape, content: Bytes },
}

/// Where the parts of a block's content lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    entries: u32,
    slots: u32,
    restarts_at: u32,
    entries_at: u32,
    prefix_len: u16,
    restart_interval: u8,
    wide: bool,
}

/// A block's content, for reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockView<'a> {
    shape: &'a Shape,
    content: &'a [u8],
}

/// One entry as it stands in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawEntry<'a> {
    /// The key without the block's prefix.
    pub(super) suffix: &'a [u8],
    pub(super) seqno: SeqNo,
    pub(super) kind: ValueKind,
    pub(super) expires_at_ms: Option<u64>,
    pub(super) value: &'a [u8],
    /// Where the entry begins, from the first one on.
    pub(super) offset: usize,
    /// Where the next one begins.
    pub(super) end: usize,
}

/// What a block says about a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum BlockLookup<'a> {
    /// The newest version that the read may see.
    Found(RawEntry<'a>),
    /// There is none, here or further on.
    Absent,
    /// All versions here are too new, up to the block's end: the next block may hold older ones.
    RunsOn,
}

/// An entry's number in its block, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryPlace {
    pub(super) number: usize,
    pub(super) offset: usize,
}

impl Shape {
    /// Reads the head of a block's content.
    pub(super) fn parse(content: &[u8]) -> Result<Self, Damage> {
        let mut head = ByteReader::new(content);
        let (Some(entries), Some(slots), Some(prefix_len), Some(restart_interval), Some(layout)) =
            (head.u32(), head.u32(), head.u16(), head.byte(), head.byte())
        else {
            return Err(ENDS_EARLY);
        };
        if layout & !LAYOUT_WIDE != 0 {
            return Err("a block layout that this version does not know");
        }
        if entries == 0 || slots == 0 || restart_interval == 0 {
            return Err("a block without entries");
        }
        let wide = layout & LAYOUT_WIDE != 0;
        let width = if wide { 4 } else { 2 };
        let restarts = entries.div_ceil(u32::from(restart_interval));
        let behind = |at: u32, count: u32| at.checked_add(count.checked_mul(width)?);
        let restarts_at = behind(HEAD_BYTES + u32::from(prefix_len), slots);
        let entries_at = restarts_at.and_then(|at| behind(at, restarts));
        match (restarts_at, entries_at) {
            (Some(restarts_at), Some(entries_at)) if u64::from(entries_at) <= content.len() as u64 => {
                Ok(Self { entries, slots, restarts_at, entries_at, prefix_len, restart_interval, wide })
            }
            _ => Err(ENDS_EARLY),
        }
    }
}

impl Block {
    /// A block that was read past the cache.
    pub(super) fn read(content: Bytes) -> Result<Self, Damage> {
        Ok(Self::Read { shape: Shape::parse(&content)?, content })
    }

    /// Its content.
    #[inline]
    pub(super) fn view(&self) -> BlockView<'_> {
        match self {
            Self::Cached(cached) => cached.view(),
            Self::Read { shape, content } => BlockView::new(shape, content),
        }
    }

    /// A value of this block that outlives it.
    pub(super) fn share_value(&self, value: &[u8]) -> Bytes {
        match self {
            Self::Cached(cached) => cached.share_value(value),
            Self::Read { content, .. } if pins(value, content) => content.slice_ref(value),
            Self::Read { .. } => Bytes::copy_from_slice(value),
        }
    }
}

/// Whether a value is so large a part of its block that it is shared with it, and not copied.
pub(super) const fn pins(value: &[u8], content: &[u8]) -> bool {
    value.len() >= content.len() / PIN_RATIO
}

impl<'a> BlockView<'a> {
    /// The content that has this shape.
    #[inline]
    pub(super) const fn new(shape: &'a Shape, content: &'a [u8]) -> Self {
        Self { shape, content }
    }

    /// How many entries it has; at least one.
    pub(super) const fn entries(self) -> usize {
        self.shape.entries as usize
    }

    /// What every key of the block begins with.
    #[inline]
    pub(super) fn prefix(self) -> &'a [u8] {
        let at = HEAD_BYTES as usize;
        self.content.get(at..at + usize::from(self.shape.prefix_len)).unwrap_or_default()
    }

    /// The entry that begins at `offset`.
    #[expect(
        clippy::inline_always,
        reason = "a scan calls it for every entry: as a call it costs 8 % of a scan"
    )]
    #[inline(always)]
    pub(super) fn entry_at(self, offset: usize) -> Result<RawEntry<'a>, Damage> {
        let entries = self.entry_bytes();
        let mut reader = ByteReader::new(entries.get(offset..).ok_or(ENDS_EARLY)?);
        let (Some(suffix_len), Some(value_len)) = (reader.varint_usize(), reader.varint_usize()) else {
            return Err(ENDS_EARLY);
        };
        let (kind, expires_at_ms) = read_entry_meta(&mut reader, ValueKind::in_block)?;
        let seqno = SeqNo(reader.varint().ok_or(ENDS_EARLY)?);
        let suffix = reader.bytes(suffix_len).ok_or(ENDS_EARLY)?;
        let value = reader.bytes(value_len).ok_or(ENDS_EARLY)?;
        let end = entries.len() - reader.rest().len();
        Ok(RawEntry { suffix, seqno, kind, expires_at_ms, value, offset, end })
    }

    /// Where the entry with this number, which exists, begins.
    pub(super) fn place(self, number: usize) -> Result<EntryPlace, Damage> {
        let interval = usize::from(self.shape.restart_interval);
        let mut offset = self.restart(number / interval)?;
        for _ in 0..number % interval {
            offset = self.entry_at(offset)?.end;
        }
        Ok(EntryPlace { number, offset })
    }

    /// The newest version of `key` with a sequence number up to `at`.
    #[inline]
    pub(super) fn lookup(self, hash: KeyHash, key: &[u8], at: SeqNo) -> Result<BlockLookup<'a>, Damage> {
        let Some(mut raw) = self.first_of(hash, key)? else { return Ok(BlockLookup::Absent) };
        let suffix = raw.suffix;
        loop {
            if raw.seqno <= at {
                return Ok(BlockLookup::Found(raw));
            }
            if raw.end == self.entry_bytes().len() {
                return Ok(BlockLookup::RunsOn);
            }
            raw = self.entry_at(raw.end)?;
            if raw.suffix != suffix {
                return Ok(BlockLookup::Absent);
            }
        }
    }

    /// The first entry of `key`, by its hash slot.
    #[inline]
    pub(super) fn first_of(self, hash: KeyHash, key: &[u8]) -> Result<Option<RawEntry<'a>>, Damage> {
        let Some(suffix) = key.strip_prefix(self.prefix()) else { return Ok(None) };
        let slots = self.shape.slots as usize;
        let slots_at = HEAD_BYTES as usize + usize::from(self.shape.prefix_len);
        let mut slot = first_slot(hash, slots);
        for _ in 0..slots {
            let found = self.number_at(slots_at, slot).ok_or(ENDS_EARLY)?;
            let Some(offset) = found.checked_sub(1) else { return Ok(None) };
            self.prefetch_entry(offset);
            let raw = self.entry_at(offset)?;
            if raw.suffix == suffix {
                return Ok(Some(raw));
            }
            slot += 1;
            if slot == slots {
                slot = 0;
            }
        }
        Ok(None)
    }

    /// The first entry whose key is at or behind `key`, if there is one.
    pub(super) fn lower_bound(self, key: &[u8]) -> Result<Option<EntryPlace>, Damage> {
        let prefix = self.prefix();
        let Some(suffix) = key.strip_prefix(prefix) else {
            return if key < prefix { self.place(0).map(Some) } else { Ok(None) };
        };
        // The last restart point before the key, or the first one.
        let interval = usize::from(self.shape.restart_interval);
        let (mut low, mut high) = (0, self.entries().div_ceil(interval));
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.entry_at(self.restart(middle)?)?.suffix < suffix {
                low = middle;
            } else {
                high = middle;
            }
        }
        let mut offset = self.restart(low)?;
        for number in low * interval..self.entries() {
            let raw = self.entry_at(offset)?;
            if raw.suffix >= suffix {
                return Ok(Some(EntryPlace { number, offset }));
            }
            offset = raw.end;
        }
        Ok(None)
    }

    /// Where an entry's value lies, for [`BlockView::value`].
    pub(super) const fn value_range(raw: &RawEntry<'_>) -> Range<usize> {
        raw.end - raw.value.len()..raw.end
    }

    /// The bytes at a [range](BlockView::value_range) of this block.
    #[inline]
    pub(super) fn value(self, range: Range<usize>) -> &'a [u8] {
        self.entry_bytes().get(range).unwrap_or_default()
    }

    /// All entries, one after the other.
    #[inline]
    fn entry_bytes(self) -> &'a [u8] {
        self.content.get(self.shape.entries_at as usize..).unwrap_or_default()
    }

    /// Asks for the lines of a short entry at once: its value is needed as soon as its key.
    #[inline]
    pub(super) fn prefetch_entry(self, offset: usize) {
        let at = self.content.as_ptr().wrapping_add(self.shape.entries_at as usize + offset);
        prefetch_lines(at, ENTRY_LINES);
    }

    /// The offset of a restart point.
    fn restart(self, number: usize) -> Result<usize, Damage> {
        self.number_at(self.shape.restarts_at as usize, number).ok_or(ENDS_EARLY)
    }

    /// The number with this index in an array of the block.
    #[inline]
    fn number_at(self, array: usize, index: usize) -> Option<usize> {
        if self.shape.wide {
            let bytes = self.content.get(array + index * 4..)?.first_chunk()?;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        } else {
            let bytes = self.content.get(array + index * 2..)?.first_chunk()?;
            Some(usize::from(u16::from_le_bytes(*bytes)))
        }
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
