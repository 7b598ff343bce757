//! Writes data blocks. A block's content, before it is compressed and gets its trailer (`stored_block`):
//!
//! ```text
//! head         12 bytes:
//!   0  4  number of entries
//!   4  4  number of hash slots
//!   8  2  length of the prefix
//!  10  1  r, the restart interval
//!  11  1  layout: bit 0: offsets and hash slots are u32; otherwise u16
//! prefix       what all keys of the block begin with
//! hash slots   half as many again as distinct keys, and one: 0, or 1 + the offset of a key's first entry
//! restarts     where every r-th entry begins, from the first on; offsets
//! entries      one after the other, in storage order (below); offsets count from the first one
//! ```
//! What a point read needs before it comes to its entry stands together at the front.
//! ```text
//! entry:
//!   suffix_len  varint   how many bytes of the key follow; the prefix comes before them
//!   value_len   varint
//!   meta                 codec::entry_meta
//!   seqno       varint
//!   suffix, value
//! ```
//! Keys share bytes with the whole block, not with their neighbours: so an entry can be read alone, and a
//! point read touches one slot and one entry. A key's slot is the first free one from
//! `mixed hash (low 32 bits) × slots >> 32` on, around the end. All numbers are little-endian.

use std::ops::Range;

use crate::{
    codec::{
        entry_meta::put_entry_meta,
        varint::{put_varint, varint_len},
    },
    entry::{Entry, ValueKind},
    ids::SeqNo,
    key::KeyHash,
};

/// The length of the head in bytes.
pub(super) const HEAD_BYTES: u32 = 12;
pub(super) const LAYOUT_WIDE: u8 = 1;
/// The largest length of the entries whose offsets, plus one, fit 16 bits.
const MAX_NARROW_BYTES: usize = 0xFFFE;
const MAX_PREFIX_BYTES: usize = 0xFFFF;

/// Where a hash begins to look among `slots` hash slots.
#[inline]
pub(super) const fn first_slot(hash: KeyHash, slots: usize) -> usize {
    // NOTE: `slots` is far below 2³² (a block is smaller), so the product fits, and its upper half is below `slots`.
    (((hash.mixed() & 0xFFFF_FFFF) * slots as u64) >> 32) as usize
}

/// Collects the entries of one block after the other.
#[derive(Debug)]
pub(super) struct BlockBuilder {
    restart_interval: u8,
    /// Keys and values; an entry's bytes are written once the prefix of all is known.
    staged: Vec<u8>,
    entries: Vec<StagedEntry>,
    keys: usize,
    /// What the metadata and lengths of the entries take.
    header_bytes: usize,
    prefix_len: usize,
    entry_bytes: Vec<u8>,
    content: Vec<u8>,
    restarts: Vec<usize>,
    slots: Vec<usize>,
}

#[derive(Debug)]
struct StagedEntry {
    hash: KeyHash,
    /// The block has no entry of this key before.
    first_of_key: bool,
    key: Range<usize>,
    value: Range<usize>,
    seqno: SeqNo,
    kind: ValueKind,
    expires_at_ms: Option<u64>,
}

impl BlockBuilder {
    pub(super) fn new(restart_interval: u8) -> Self {
        Self {
            restart_interval: restart_interval.max(1),
            staged: vec![],
            entries: vec![],
            keys: 0,
            header_bytes: 0,
            prefix_len: 0,
            entry_bytes: vec![],
            content: vec![],
            restarts: vec![],
            slots: vec![],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About the content's length if the block were finished now.
    pub(super) fn bytes(&self) -> usize {
        self.bytes_with(self.prefix_len)
    }

    /// Adds the next entry in storage order, if a block of `block_bytes` has room for it; an empty block takes any.
    /// Whether it was added. `new_key`: the entry before in the table has another key.
    pub(super) fn add(
        &mut self,
        hash: KeyHash,
        entry: &Entry<'_>,
        new_key: bool,
        block_bytes: usize,
    ) -> bool {
        const ENTRY_OVERHEAD_BYTES: usize = 16;
        if self.is_empty() {
            self.prefix_len = entry.key.len().min(MAX_PREFIX_BYTES);
        } else {
            let prefix_len = common_prefix(self.prefix(), entry.key);
            let more = entry.key.len() - prefix_len + entry.value.len() + ENTRY_OVERHEAD_BYTES;
            if self.bytes_with(prefix_len) + more > block_bytes {
                return false;
            }
            self.prefix_len = prefix_len;
        }
        let first_of_key = new_key || self.is_empty();
        self.keys += usize::from(first_of_key);
        // The lengths take a byte or two each, the rest of the metadata four, an expiry six.
        self.header_bytes += 6 + varint_len(entry.seqno.get()) + entry.expires_at_ms.map_or(0, |_| 6);
        let key = append(&mut self.staged, entry.key);
        let value = append(&mut self.staged, entry.value);
        self.entries.push(StagedEntry {
            hash,
            first_of_key,
            key,
            value,
            seqno: entry.seqno,
            kind: entry.kind,
            expires_at_ms: entry.expires_at_ms,
        });
        true
    }

    /// The finished content. Call [`BlockBuilder::clear`] before the next block.
    pub(super) fn finish(&mut self) -> &[u8] {
        self.entry_bytes.clear();
        self.restarts.clear();
        self.slots.clear();
        self.slots.resize(slots_for(self.keys), 0);
        for (number, entry) in self.entries.iter().enumerate() {
            let offset = self.entry_bytes.len();
            if number.is_multiple_of(usize::from(self.restart_interval)) {
                self.restarts.push(offset);
            }
            if entry.first_of_key {
                put_slot(&mut self.slots, entry.hash, offset + 1);
            }
            put_entry(&mut self.entry_bytes, entry, &self.staged, self.prefix_len);
        }
        self.put_content();
        &self.content
    }

    fn put_content(&mut self) {
        let wide = self.entry_bytes.len() > MAX_NARROW_BYTES;
        let prefix = self.staged.get(..self.prefix_len).unwrap_or_default();
        let prefix_len = u16::try_from(prefix.len()).expect("bounded when the first entry was added");
        let out = &mut self.content;
        out.clear();
        out.extend_from_slice(&wide_number(self.entries.len()).to_le_bytes());
        out.extend_from_slice(&wide_number(self.slots.len()).to_le_bytes());
        out.extend_from_slice(&prefix_len.to_le_bytes());
        out.extend_from_slice(&[self.restart_interval, if wide { LAYOUT_WIDE } else { 0 }]);
        out.extend_from_slice(prefix);
        for number in self.slots.iter().chain(&self.restarts) {
            if wide {
                out.extend_from_slice(&wide_number(*number).to_le_bytes());
            } else {
                let number = u16::try_from(*number).expect("the entries take less than 64 KiB");
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out.extend_from_slice(&self.entry_bytes);
    }

    pub(super) fn clear(&mut self) {
        // A huge entry leaves huge buffers behind; keep only those of the usual size.
        if self.staged.capacity() > super::options::MAX_BLOCK_BYTES * 2 {
            self.staged = vec![];
            self.entry_bytes = vec![];
            self.content = vec![];
        }
        self.staged.clear();
        self.entries.clear();
        self.keys = 0;
        self.header_bytes = 0;
    }

    /// The prefix of all keys so far.
    fn prefix(&self) -> &[u8] {
        self.staged.get(..self.prefix_len).unwrap_or_default()
    }

    fn bytes_with(&self, prefix_len: usize) -> usize {
        let entries = self.entries.len();
        let restarts = entries.div_ceil(usize::from(self.restart_interval));
        (self.staged.len()
            + self.header_bytes
            + prefix_len
            + (restarts + slots_for(self.keys)) * 2
            + HEAD_BYTES as usize)
            .saturating_sub(entries * prefix_len)
    }
}

fn put_entry(out: &mut Vec<u8>, entry: &StagedEntry, staged: &[u8], prefix_len: usize) {
    let suffix = staged.get(entry.key.start + prefix_len..entry.key.end).unwrap_or_default();
    let value = staged.get(entry.value.clone()).unwrap_or_default();
    put_varint(out, suffix.len() as u64);
    put_varint(out, value.len() as u64);
    put_entry_meta(out, entry.kind, entry.expires_at_ms);
    put_varint(out, entry.seqno.get());
    out.extend_from_slice(suffix);
    out.extend_from_slice(value);
}

fn put_slot(slots: &mut [usize], hash: KeyHash, number: usize) {
    let mut place = first_slot(hash, slots.len());
    // NOTE: it ends, because there are more slots than keys.
    loop {
        match slots.get_mut(place) {
            Some(slot) if *slot == 0 => {
                *slot = number;
                return;
            }
            Some(_) => place += 1,
            None => place = 0,
        }
    }
}

const fn slots_for(keys: usize) -> usize {
    keys + keys / 2 + 1
}

fn wide_number(number: usize) -> u32 {
    u32::try_from(number).expect("a block is below 4 GiB: keys and values are bounded")
}

fn append(out: &mut Vec<u8>, bytes: &[u8]) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(bytes);
    start..out.len()
}

/// How many bytes two keys have in common at their start.
#[inline]
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (a_words, b_words) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let alike = a_words.iter().zip(b_words).take_while(|(a, b)| a == b).count() * 8;
    let (a, b) = (a.get(alike..).unwrap_or_default(), b.get(alike..).unwrap_or_default());
    alike + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
