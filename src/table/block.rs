//! Reads data blocks that `block_builder` wrote. Every access checks its bounds, since the content may be
//! anything, but the checksum was checked before.

use std::ops::Range;

use bytes::Bytes;

use super::block_builder::{LAYOUT_WIDE, TAIL_BYTES, first_slot};
use crate::{
    codec::{entry_meta::read_entry_meta, varint::ByteReader},
    entry::ValueKind,
    ids::SeqNo,
    key::KeyHash,
};

/// What is wrong with a block, as a phrase for a corruption error.
pub(super) type Damage = &'static str;

/// A value is copied out of a block that is more than this many times larger.
const PIN_RATIO: usize = 4;

const ENDS_EARLY: Damage = "a block that ends early";

/// One data block's content. Small, so that a cached block's struct fits a cache line.
#[derive(Clone, Debug)]
pub(super) struct Block {
    bytes: Bytes,
    entries: u32,
    restarts_at: u32,
    slots_at: u32,
    slots: u32,
    prefix_at: u32,
    prefix_len: u16,
    restart_interval: u8,
    wide: bool,
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
    /// Where the entry begins.
    pub(super) offset: usize,
    /// Where the next one begins.
    pub(super) end: usize,
}

/// What a block says about a key.
#[derive(Debug)]
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

impl Block {
    /// Reads the block's tail.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, Damage> {
        let (rest, tail) = bytes.split_last_chunk::<TAIL_BYTES>().ok_or(ENDS_EARLY)?;
        let mut tail = ByteReader::new(tail);
        let (Some(entries), Some(slots), Some(prefix_len), Some(restart_interval), Some(layout)) =
            (tail.u32(), tail.u32(), tail.u16(), tail.byte(), tail.byte())
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
        let end = u32::try_from(rest.len()).map_err(|_| "a block of 4 GiB")?;
        let before = |end: u32, count: u32, width: u32| {
            count.checked_mul(width).and_then(|bytes| end.checked_sub(bytes)).ok_or(ENDS_EARLY)
        };
        let prefix_at = before(end, u32::from(prefix_len), 1)?;
        let slots_at = before(prefix_at, slots, width)?;
        let restarts_at = before(slots_at, restarts, width)?;
        Ok(Self {
            bytes,
            entries,
            restarts_at,
            slots_at,
            slots,
            prefix_at,
            prefix_len,
            restart_interval,
            wide,
        })
    }

    /// How many entries it has; at least one.
    pub(super) const fn entries(&self) -> usize {
        self.entries as usize
    }

    /// The content's length.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What every key of the block begins with.
    #[inline]
    pub(super) fn prefix(&self) -> &[u8] {
        let at = self.prefix_at as usize;
        self.bytes.get(at..at + usize::from(self.prefix_len)).unwrap_or_default()
    }

    /// The entry that begins at `offset`.
    #[inline]
    pub(super) fn entry_at(&self, offset: usize) -> Result<RawEntry<'_>, Damage> {
        let entries_end = self.restarts_at as usize;
        let mut reader = ByteReader::new(self.bytes.get(offset..entries_end).ok_or(ENDS_EARLY)?);
        let (Some(suffix_len), Some(value_len)) = (reader.varint_usize(), reader.varint_usize()) else {
            return Err(ENDS_EARLY);
        };
        let (kind, expires_at_ms) = read_entry_meta(&mut reader)?;
        let seqno = SeqNo(reader.varint().ok_or(ENDS_EARLY)?);
        let suffix = reader.bytes(suffix_len).ok_or(ENDS_EARLY)?;
        let value = reader.bytes(value_len).ok_or(ENDS_EARLY)?;
        let end = entries_end - reader.rest().len();
        Ok(RawEntry { suffix, seqno, kind, expires_at_ms, value, offset, end })
    }

    /// Where the entry with this number, which exists, begins.
    pub(super) fn place(&self, number: usize) -> Result<EntryPlace, Damage> {
        let interval = usize::from(self.restart_interval);
        let mut offset = self.restart(number / interval)?;
        for _ in 0..number % interval {
            offset = self.entry_at(offset)?.end;
        }
        Ok(EntryPlace { number, offset })
    }

    /// The newest version of `key` with a sequence number up to `at`.
    #[inline]
    pub(super) fn lookup(&self, hash: KeyHash, key: &[u8], at: SeqNo) -> Result<BlockLookup<'_>, Damage> {
        let Some(mut raw) = self.first_of(hash, key)? else { return Ok(BlockLookup::Absent) };
        let suffix = raw.suffix;
        loop {
            if raw.seqno <= at {
                return Ok(BlockLookup::Found(raw));
            }
            if raw.end == self.restarts_at as usize {
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
    pub(super) fn first_of(&self, hash: KeyHash, key: &[u8]) -> Result<Option<RawEntry<'_>>, Damage> {
        let Some(suffix) = key.strip_prefix(self.prefix()) else { return Ok(None) };
        let slots = self.slots as usize;
        let mut slot = first_slot(hash, slots);
        for _ in 0..slots {
            let found = self.number_at(self.slots_at as usize, slot).ok_or(ENDS_EARLY)?;
            let Some(offset) = found.checked_sub(1) else { return Ok(None) };
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
    pub(super) fn lower_bound(&self, key: &[u8]) -> Result<Option<EntryPlace>, Damage> {
        let prefix = self.prefix();
        let Some(suffix) = key.strip_prefix(prefix) else {
            return if key < prefix { self.place(0).map(Some) } else { Ok(None) };
        };
        // The last restart point before the key, or the first one.
        let interval = usize::from(self.restart_interval);
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

    /// A value of this block that outlives it.
    pub(super) fn share_value(&self, value: &[u8]) -> Bytes {
        if value.len() < self.bytes.len() / PIN_RATIO {
            Bytes::copy_from_slice(value)
        } else {
            self.bytes.slice_ref(value)
        }
    }

    /// Where an entry's value lies, for [`Block::value`].
    pub(super) const fn value_range(raw: &RawEntry<'_>) -> Range<usize> {
        raw.end - raw.value.len()..raw.end
    }

    /// The bytes at a [range](Block::value_range) of this block.
    pub(super) fn value(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// The offset of a restart point.
    fn restart(&self, number: usize) -> Result<usize, Damage> {
        self.number_at(self.restarts_at as usize, number).ok_or(ENDS_EARLY)
    }

    /// The number with this index in an array of the block.
    #[inline]
    fn number_at(&self, array: usize, index: usize) -> Option<usize> {
        if self.wide {
            let bytes = self.bytes.get(array + index * 4..)?.first_chunk()?;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        } else {
            let bytes = self.bytes.get(array + index * 2..)?.first_chunk()?;
            Some(usize::from(u16::from_le_bytes(*bytes)))
        }
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
