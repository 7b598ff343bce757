//! How a record lies in the arena.
//!
//! | part | bytes | |
//! |---|---|---|
//! | sequence number, kind | 8 | 56 bits, 8 bits |
//! | shape | 8 | value length 32 bits, key length 20, rank 6, flags 4 |
//! | key | n | at a fixed place, so that it is fetched together with the header |
//! | padding, links | 0 or 16 + p | to the next older version, and to one far older; only in later versions of a key |
//! | padding, expiry | 0 or 8 + p | milliseconds |
//! | value, padding | n | to a multiple of 8 |
//!
//! A link record is a header and one address. It leads from the end of a chunk to the next one, or to an entry
//! so large that it has a chunk of its own.

use super::{Entry, sync::Witness};

/// Records stand at multiples of this.
pub(super) const ALIGN: usize = 8;
/// The room of a link record. Every chunk keeps it free at its end.
pub(super) const LINK_RECORD: usize = HEADER + size_of::<usize>();
/// What a record takes beside its key and its value, at most.
pub(super) const RECORD_OVERHEAD: usize = HEADER + LINKS + EXPIRY + 2 * (ALIGN - 1);
const HEADER: usize = size_of::<Header>();
const LINKS: usize = size_of::<Links>();
const EXPIRY: usize = size_of::<u64>();

/// The part that every record begins with.
#[repr(C)]
pub(super) struct Header {
    pub(super) witness: Witness,
    pub(super) seqno_kind: u64,
    pub(super) shape: Shape,
}

/// Where the older versions of a record's key lie.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Links {
    pub(super) older: *const Header,
    pub(super) jump: *const Header,
}

/// What a record is made of, in one word.
#[derive(Clone, Copy)]
pub(super) struct Shape(usize);

const _: () = assert!(usize::BITS == 64, "a shape needs 64 bits");

const KEY_SHIFT: u32 = 32;
const RANK_SHIFT: u32 = 52;
const VALUE_MASK: usize = (1 << KEY_SHIFT) - 1;
const KEY_MASK: usize = (1 << (RANK_SHIFT - KEY_SHIFT)) - 1;
const RANK_MASK: usize = 0x3F;
const EXPIRES: usize = 1 << 58;
const CHAINED: usize = 1 << 59;
/// Shifted down by this, the two flags are the bytes of what they stand for.
const PARTS_SHIFT: u32 = 55;
const PARTS_MASK: usize = LINKS | EXPIRY;
const _: () = assert!(EXPIRES >> PARTS_SHIFT == EXPIRY && CHAINED >> PARTS_SHIFT == LINKS);
const ENTRY_ELSEWHERE: usize = 1 << 60;
const GOES_ON_ELSEWHERE: usize = 1 << 61;

impl Shape {
    /// A link record to one entry elsewhere.
    pub(super) const LINK_TO_ENTRY: Self = Self(ENTRY_ELSEWHERE);
    /// A link record to the place where the records go on.
    pub(super) const LINK_TO_CHUNK: Self = Self(GOES_ON_ELSEWHERE);

    /// The shape of the record of a key's first version.
    #[inline]
    pub(super) fn of(entry: &Entry<'_>) -> Self {
        let (key, value) = (entry.key.len(), entry.value.len());
        assert!(key <= KEY_MASK && value <= VALUE_MASK, "keys and values are within their limits");
        let expires = if entry.expires_at_ms.is_some() { EXPIRES } else { 0 };
        Self(value | key << KEY_SHIFT | expires)
    }

    /// The same as a later version of its key.
    pub(super) const fn chained(self, rank: usize) -> Self {
        assert!(rank <= RANK_MASK, "ranks grow with the logarithm of the versions");
        Self(self.0 | CHAINED | rank << RANK_SHIFT)
    }

    #[inline]
    pub(super) const fn key_len(self) -> usize {
        (self.0 >> KEY_SHIFT) & KEY_MASK
    }

    #[inline]
    pub(super) const fn value_len(self) -> usize {
        self.0 & VALUE_MASK
    }

    #[inline]
    pub(super) const fn rank(self) -> usize {
        (self.0 >> RANK_SHIFT) & RANK_MASK
    }

    #[inline]
    pub(super) const fn is_chained(self) -> bool {
        self.0 & CHAINED != 0
    }

    #[inline]
    pub(super) const fn expires(self) -> bool {
        self.0 & EXPIRES != 0
    }

    #[inline]
    pub(super) const fn is_link_to_entry(self) -> bool {
        self.0 & ENTRY_ELSEWHERE != 0
    }

    #[inline]
    pub(super) const fn is_link_to_chunk(self) -> bool {
        self.0 & GOES_ON_ELSEWHERE != 0
    }

    /// Where the links are, in a record that has them.
    #[inline]
    pub(super) const fn links_offset(self) -> usize {
        (HEADER + self.key_len()).next_multiple_of(ALIGN)
    }

    /// Where the expiry is, in a record that has one.
    #[inline]
    pub(super) const fn expiry_offset(self) -> usize {
        self.links_offset() + ((self.0 >> PARTS_SHIFT) & LINKS)
    }

    #[inline]
    pub(super) const fn value_offset(self) -> usize {
        match (self.0 >> PARTS_SHIFT) & PARTS_MASK {
            0 => HEADER + self.key_len(),
            parts => self.links_offset() + parts,
        }
    }

    /// The bytes of the whole record.
    #[inline]
    pub(super) const fn record_bytes(self) -> usize {
        (self.value_offset() + self.value_len()).next_multiple_of(ALIGN)
    }
}
