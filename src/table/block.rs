//! Reads data blocks that `block_builder` wrote. Every access checks its bounds, since the content may be
//! anything, but the checksum was checked before.

use std::{cmp::Ordering, ops::Range};

use bytes::Bytes;

use super::block_builder::{LAYOUT_WIDE_OFFSETS, LAYOUT_WIDE_SLOTS, TAIL_BYTES, first_slot};
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
const BAD_RESTART: Damage = "a restart point without its whole key";

/// One data block's content.
#[derive(Clone, Debug)]
pub(super) struct Block {
    bytes: Bytes,
    entries: usize,
    restart_interval: usize,
    offsets_at: usize,
    wide_offsets: bool,
    slots: usize,
    slots_at: usize,
    wide_slots: bool,
}

/// One entry as it stands in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawEntry<'a> {
    /// How many bytes of the key stand in the restart point's key.
    pub(super) shared: usize,
    /// The rest of the key.
    pub(super) unshared: &'a [u8],
    pub(super) seqno: SeqNo,
    pub(super) kind: ValueKind,
    pub(super) expires_at_ms: Option<u64>,
    pub(super) value: &'a [u8],
    /// Where the value ends in the block.
    value_end: usize,
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

impl Block {
    /// Reads the block's tail.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, Damage> {
        let (rest, tail) = bytes.split_last_chunk::<TAIL_BYTES>().ok_or(ENDS_EARLY)?;
        let mut tail = ByteReader::new(tail);
        let (Some(entries), Some(slots), Some(restart_interval), Some(layout), Some(0)) =
            (tail.u32(), tail.u32(), tail.u16(), tail.byte(), tail.byte())
        else {
            return Err("a block tail that this version does not know");
        };
        if layout & !(LAYOUT_WIDE_OFFSETS | LAYOUT_WIDE_SLOTS) != 0 {
            return Err("a block layout that this version does not know");
        }
        let wide_offsets = layout & LAYOUT_WIDE_OFFSETS != 0;
        let wide_slots = layout & LAYOUT_WIDE_SLOTS != 0;
        let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let (entries, slots) = (count(entries), count(slots));
        if entries == 0 || restart_interval == 0 {
            return Err("a block without entries");
        }
        let slots_at = slots
            .checked_mul(if wide_slots { 2 } else { 1 })
            .and_then(|n| rest.len().checked_sub(n))
            .ok_or(ENDS_EARLY)?;
        let offsets_at = entries
            .checked_mul(if wide_offsets { 4 } else { 2 })
            .and_then(|n| slots_at.checked_sub(n))
            .ok_or(ENDS_EARLY)?;
        let restart_interval = usize::from(restart_interval);
        Ok(Self { bytes, entries, restart_interval, offsets_at, wide_offsets, slots, slots_at, wide_slots })
    }

    /// How many entries it has; at least one.
    pub(super) const fn entries(&self) -> usize {
        self.entries
    }

    /// The content's length.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The entry with this number.
    #[inline]
    pub(super) fn entry(&self, number: usize) -> Result<RawEntry<'_>, Damage> {
        let offset = self.offset(number).ok_or(ENDS_EARLY)?;
        let mut reader = ByteReader::new(self.bytes.get(offset..self.offsets_at).ok_or(ENDS_EARLY)?);
        let (Some(shared), Some(unshared_len), Some(value_len)) =
            (reader.varint_usize(), reader.varint_usize(), reader.varint_usize())
        else {
            return Err(ENDS_EARLY);
        };
        let (kind, expires_at_ms) = read_entry_meta(&mut reader)?;
        let seqno = SeqNo(reader.varint().ok_or(ENDS_EARLY)?);
        let unshared = reader.bytes(unshared_len).ok_or(ENDS_EARLY)?;
        let value = reader.bytes(value_len).ok_or(ENDS_EARLY)?;
        let value_end = self.offsets_at - reader.rest().len();
        Ok(RawEntry { shared, unshared, seqno, kind, expires_at_ms, value, value_end })
    }

    /// The whole key of the restart point that stands at or before this entry.
    #[inline]
    pub(super) fn restart_key(&self, number: usize) -> Result<&[u8], Damage> {
        let restart = self.entry(self.restart_of(number))?;
        if restart.shared == 0 { Ok(restart.unshared) } else { Err(BAD_RESTART) }
    }

    /// The number of the restart point that stands at or before this entry.
    #[inline]
    pub(super) const fn restart_of(&self, number: usize) -> usize {
        number - number % self.restart_interval
    }

    /// Where an entry's value lies, for [`Block::value`].
    pub(super) const fn value_range(raw: &RawEntry<'_>) -> Range<usize> {
        raw.value_end - raw.value.len()..raw.value_end
    }

    /// The bytes at a [range](Block::value_range) of this block.
    pub(super) fn value(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// The newest version of `key` with a sequence number up to `at`.
    #[inline]
    pub(super) fn lookup(&self, hash: KeyHash, key: &[u8], at: SeqNo) -> Result<BlockLookup<'_>, Damage> {
        let Some((mut number, mut raw)) = self.first_of(hash, key)? else { return Ok(BlockLookup::Absent) };
        loop {
            if raw.seqno <= at {
                return Ok(BlockLookup::Found(raw));
            }
            number += 1;
            if number == self.entries {
                return Ok(BlockLookup::RunsOn);
            }
            raw = self.entry(number)?;
            if !self.has_key(number, &raw, key)? {
                return Ok(BlockLookup::Absent);
            }
        }
    }

    /// The first entry of `key`, by its hash slot if there are any.
    #[inline]
    pub(super) fn first_of(
        &self,
        hash: KeyHash,
        key: &[u8],
    ) -> Result<Option<(usize, RawEntry<'_>)>, Damage> {
        if self.slots == 0 {
            return self.first_of_by_search(key);
        }
        let mut at = first_slot(hash, self.slots);
        for _ in 0..self.slots {
            let Some(number) = self.slot(at).ok_or(ENDS_EARLY)?.checked_sub(1) else { return Ok(None) };
            let raw = self.entry(number)?;
            if self.has_key(number, &raw, key)? {
                return Ok(Some((number, raw)));
            }
            at += 1;
            if at == self.slots {
                at = 0;
            }
        }
        Ok(None)
    }

    fn first_of_by_search(&self, key: &[u8]) -> Result<Option<(usize, RawEntry<'_>)>, Damage> {
        let number = self.lower_bound(key)?;
        if number == self.entries {
            return Ok(None);
        }
        let raw = self.entry(number)?;
        Ok(self.has_key(number, &raw, key)?.then_some((number, raw)))
    }

    /// The number of the first entry whose key is at or behind `key`; the number of entries if none is.
    pub(super) fn lower_bound(&self, key: &[u8]) -> Result<usize, Damage> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low.midpoint(high);
            if self.compare_key(middle, key)? == Ordering::Less {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// A value of this block that outlives it.
    pub(super) fn share_value(&self, value: &[u8]) -> Bytes {
        if value.len() < self.bytes.len() / PIN_RATIO {
            Bytes::copy_from_slice(value)
        } else {
            self.bytes.slice_ref(value)
        }
    }

    #[inline]
    fn has_key(&self, number: usize, raw: &RawEntry<'_>, key: &[u8]) -> Result<bool, Damage> {
        let Some((shared, unshared)) = key.split_at_checked(raw.shared) else { return Ok(false) };
        if unshared != raw.unshared {
            return Ok(false);
        }
        Ok(shared.is_empty() || self.restart_key(number)?.get(..raw.shared) == Some(shared))
    }

    fn compare_key(&self, number: usize, key: &[u8]) -> Result<Ordering, Damage> {
        let raw = self.entry(number)?;
        let shared = match raw.shared {
            0 => &[],
            n => self.restart_key(number)?.get(..n).ok_or("an entry that shares more than there is")?,
        };
        let (key_head, key_tail) = key.split_at(key.len().min(shared.len()));
        // NOTE: a key that ends inside the shared part leaves an empty tail and a smaller head.
        Ok(shared.cmp(key_head).then_with(|| raw.unshared.cmp(key_tail)))
    }

    #[inline]
    fn offset(&self, number: usize) -> Option<usize> {
        if number >= self.entries {
            return None;
        }
        if self.wide_offsets {
            let bytes = self.bytes.get(self.offsets_at + number * 4..)?.first_chunk()?;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        } else {
            let bytes = self.bytes.get(self.offsets_at + number * 2..)?.first_chunk()?;
            Some(usize::from(u16::from_le_bytes(*bytes)))
        }
    }

    #[inline]
    fn slot(&self, at: usize) -> Option<usize> {
        if self.wide_slots {
            let bytes = self.bytes.get(self.slots_at + at * 2..)?.first_chunk()?;
            Some(usize::from(u16::from_le_bytes(*bytes)))
        } else {
            self.bytes.get(self.slots_at + at).map(|byte| usize::from(*byte))
        }
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
