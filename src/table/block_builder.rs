//! Writes data blocks. A block's content, before it is compressed and gets its trailer (`stored_block`):
//!
//! ```text
//! entries      one after the other, in storage order (below)
//! offsets      one for each entry: where it begins; u16, or u32 if the entries take more than 64 KiB
//! hash slots   one for each 2/3 of a distinct key: 0, or 1 + the number of the first entry of a key;
//!              u8, or u16 if there are more than 254 entries; none if there are more than 65,534
//! tail         12 bytes:
//!   0  4  number of entries
//!   4  4  number of hash slots
//!   8  2  restart interval: entries 0, r, 2r, … are restart points
//!  10  1  layout: bit 0: offsets are u32; bit 1: hash slots are u16
//!  11  1  zero
//! ```
//! ```text
//! entry:
//!   shared     varint   how many bytes the key has in common with the last restart point's key; 0 at one
//!   unshared   varint   how many bytes of the key follow
//!   value_len  varint
//!   meta                codec::entry_meta
//!   seqno      varint
//!   the unshared bytes of the key, the value
//! ```
//! Keys share bytes with the restart point and not with the entry before: so every entry can be read
//! alone, and the hash slots, binary search and walking back all go by entry number. A key's slot is the first free
//! one from `mixed hash (low 32 bits) × slots >> 32` on, around the end. All numbers are little-endian.

use crate::{
    codec::{entry_meta::put_entry_meta, varint::put_varint},
    entry::Entry,
    key::KeyHash,
};

/// The length of the tail in bytes.
pub(super) const TAIL_BYTES: usize = 12;
pub(super) const LAYOUT_WIDE_OFFSETS: u8 = 1;
pub(super) const LAYOUT_WIDE_SLOTS: u8 = 2;
const MAX_NARROW_SLOT: usize = 254;
const MAX_WIDE_SLOT: usize = 65_534;

/// Where a hash begins to look among `slots` hash slots.
#[inline]
pub(super) const fn first_slot(hash: KeyHash, slots: usize) -> usize {
    // NOTE: `slots` is far below 2³² (a block is smaller), so the product fits, and its upper half is below `slots`.
    (((hash.mixed() & 0xFFFF_FFFF) * slots as u64) >> 32) as usize
}

/// Collects the entries of one block after the other.
#[derive(Debug)]
pub(super) struct BlockBuilder {
    restart_interval: usize,
    content: Vec<u8>,
    offsets: Vec<u32>,
    /// The first entry of each distinct key in this block.
    keys: Vec<(KeyHash, usize)>,
    restart_key: Vec<u8>,
    slots: Vec<u16>,
}

impl BlockBuilder {
    pub(super) fn new(restart_interval: usize) -> Self {
        Self {
            restart_interval: restart_interval.clamp(1, usize::from(u16::MAX)),
            content: vec![],
            offsets: vec![],
            keys: vec![],
            restart_key: vec![],
            slots: vec![],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The content's length if the block were finished now.
    pub(super) fn bytes(&self) -> usize {
        let wide = usize::from(self.offsets.len() > MAX_NARROW_SLOT);
        self.content.len() + self.offsets.len() * 2 + (slots_for(self.keys.len()) << wide) + TAIL_BYTES
    }

    /// Whether another entry still fits a block of `block_bytes`. An empty block takes any.
    pub(super) fn has_room(&self, entry: &Entry<'_>, block_bytes: usize) -> bool {
        const ENTRY_OVERHEAD_BYTES: usize = 16;
        self.is_empty()
            || self.bytes() + entry.key.len() + entry.value.len() + ENTRY_OVERHEAD_BYTES <= block_bytes
    }

    /// Adds the next entry in storage order. `new_key`: the entry before in the table has another key.
    pub(super) fn add(&mut self, hash: KeyHash, entry: &Entry<'_>, new_key: bool) {
        let number = self.offsets.len();
        if new_key || number == 0 {
            self.keys.push((hash, number));
        }
        let start =
            u32::try_from(self.content.len()).expect("a block is below 4 GiB: value and key are bounded");
        self.offsets.push(start);
        let shared = if number.is_multiple_of(self.restart_interval) {
            self.restart_key.clear();
            self.restart_key.extend_from_slice(entry.key);
            0
        } else {
            common_prefix(&self.restart_key, entry.key)
        };
        let unshared = entry.key.get(shared..).unwrap_or_default();
        put_varint(&mut self.content, shared as u64);
        put_varint(&mut self.content, unshared.len() as u64);
        put_varint(&mut self.content, entry.value.len() as u64);
        put_entry_meta(&mut self.content, entry.kind, entry.expires_at_ms);
        put_varint(&mut self.content, entry.seqno.get());
        self.content.extend_from_slice(unshared);
        self.content.extend_from_slice(entry.value);
    }

    /// The finished content. Call [`BlockBuilder::clear`] before the next block.
    pub(super) fn finish(&mut self) -> &[u8] {
        let mut layout = 0;
        if self.content.len() > usize::from(u16::MAX) {
            layout |= LAYOUT_WIDE_OFFSETS;
            for offset in &self.offsets {
                self.content.extend_from_slice(&offset.to_le_bytes());
            }
        } else {
            for offset in &self.offsets {
                let offset = u16::try_from(*offset).expect("the entries take at most 64 KiB");
                self.content.extend_from_slice(&offset.to_le_bytes());
            }
        }
        self.fill_slots();
        if self.offsets.len() > MAX_NARROW_SLOT {
            layout |= LAYOUT_WIDE_SLOTS;
            for slot in &self.slots {
                self.content.extend_from_slice(&slot.to_le_bytes());
            }
        } else {
            for slot in &self.slots {
                self.content.push(u8::try_from(*slot).expect("there are at most 254 entries"));
            }
        }
        let count = |n: usize| u32::try_from(n).expect("a block is below 4 GiB").to_le_bytes();
        let interval = u16::try_from(self.restart_interval).expect("bounded by the constructor");
        self.content.extend_from_slice(&count(self.offsets.len()));
        self.content.extend_from_slice(&count(self.slots.len()));
        self.content.extend_from_slice(&interval.to_le_bytes());
        self.content.extend_from_slice(&[layout, 0]);
        &self.content
    }

    pub(super) fn clear(&mut self) {
        // A huge entry leaves a huge buffer behind; keep one of the usual size only.
        if self.content.capacity() > super::options::MAX_BLOCK_BYTES * 2 {
            self.content = vec![];
        }
        self.content.clear();
        self.offsets.clear();
        self.keys.clear();
        self.slots.clear();
    }

    fn fill_slots(&mut self) {
        self.slots.clear();
        if self.offsets.len() > MAX_WIDE_SLOT {
            return;
        }
        let slots = slots_for(self.keys.len());
        self.slots.resize(slots, 0);
        for (hash, number) in &self.keys {
            let (before, from) = self.slots.split_at_mut(first_slot(*hash, slots));
            let free = from.iter_mut().chain(before).find(|slot| **slot == 0);
            *free.expect("there are more slots than keys") =
                u16::try_from(number + 1).expect("there are at most 65,534 entries");
        }
    }
}

const fn slots_for(keys: usize) -> usize {
    keys + keys / 2 + 1
}

/// How many bytes two keys have in common at their start.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
