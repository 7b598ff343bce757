//! One version of one key, as every layer hands it to the next, and the cursor that walks such entries.
//! Order is by key ascending, then by sequence number descending: the newest version of a key comes first.

use std::cmp::Ordering;

use crate::{error::Result, ids::SeqNo};

/// What an entry does to its key. The byte values stand in every file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ValueKind {
    /// The key has this value from here on.
    Put = 1,
    /// The key is absent from here on (a tombstone).
    Delete = 2,
    /// The keys from the entry's key on (empty: from the first on) and before its value (empty: there is no end) are
    /// absent from here on. In logs and requests; memtables and tables keep such deletes in lists of their own, and no
    /// cursor comes to one.
    RangeDelete = 3,
}

/// Kind bytes that have a meaning to come and are refused until then.
pub const RESERVED_KINDS: [(u8, &str); 3] =
    [(4, "single delete"), (5, "merge operand"), (6, "blob reference")];

impl ValueKind {
    /// The kind with this byte, if it is known to this version.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Put),
            2 => Some(Self::Delete),
            3 => Some(Self::RangeDelete),
            _ => None,
        }
    }

    /// The same among the entries of a data block, where range deletes are not.
    pub const fn in_block(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Put),
            2 => Some(Self::Delete),
            _ => None,
        }
    }

    /// The kind's byte in every file format.
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

/// One version of one key, borrowed from where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The user's key.
    pub key: &'a [u8],
    /// When it was written, in the node's order.
    pub seqno: SeqNo,
    /// What it does to the key.
    pub kind: ValueKind,
    /// When it expires, in milliseconds on the node's clock; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// The value; empty for a tombstone.
    pub value: &'a [u8],
}

impl Entry<'_> {
    /// Compares in storage order: key ascending, then sequence number descending.
    pub fn storage_order(&self, other: &Entry<'_>) -> Ordering {
        self.key.cmp(other.key).then_with(|| other.seqno.cmp(&self.seqno))
    }
}

/// Walks entries in storage order, in both directions. A new cursor stands nowhere: seek first.
///
/// After an error a cursor stands nowhere. `next` and `prev` on a cursor that stands nowhere do nothing.
pub trait Cursor {
    /// Moves to the first entry.
    ///
    /// # Errors
    /// `Io` or `Corruption` from reading a block.
    fn seek_first(&mut self) -> Result<()>;

    /// Moves to the last entry.
    ///
    /// # Errors
    /// `Io` or `Corruption` from reading a block.
    fn seek_last(&mut self) -> Result<()>;

    /// Moves to the first (newest) version of the first key that is at or behind `key`.
    ///
    /// # Errors
    /// `Io` or `Corruption` from reading a block.
    fn seek(&mut self, key: &[u8]) -> Result<()>;

    /// Moves to the last (oldest) version of the last key that is before `key`.
    ///
    /// # Errors
    /// `Io` or `Corruption` from reading a block.
    fn seek_before(&mut self, key: &[u8]) -> Result<()>;

    /// Moves one entry on.
    ///
    /// # Errors
    /// `Io` or `Corruption` from reading a block.
    fn next(&mut self) -> Result<()>;

    /// Moves one entry back.
    ///
    /// # Errors
    /// `Io` or `Corruption` from reading a block.
    fn prev(&mut self) -> Result<()>;

    /// Shows one entry after the other to `take`, beginning with the one it stands on, and moves on from each that is
    /// taken. Stands on the first one that is not.
    ///
    /// # Errors
    /// `Io` or `Corruption` from reading a block; what was taken before stays taken.
    #[inline]
    fn walk(&mut self, take: &mut impl FnMut(&Entry<'_>) -> bool) -> Result<()> {
        while self.entry().is_some_and(|entry| take(&entry)) {
            self.next()?;
        }
        Ok(())
    }

    /// The entry it stands on; `None` when it stands nowhere.
    fn entry(&self) -> Option<Entry<'_>>;

    /// The key of that entry; for those who compare keys only, and often.
    #[inline]
    fn key(&self) -> Option<&[u8]> {
        self.entry().map(|entry| entry.key)
    }
}
