//! The read view: everything that a read of the shard looks at, immutable, loaded without a lock.

use std::sync::Arc;

use super::{scan::TreeScan, version::Version, visible::ReadPoint};
use crate::{
    entry::Entry,
    error::Result,
    ids::{SegmentNumber, SeqNo},
    key::{KeyHash, KeyRange},
    memtable::Memtable,
    table::{Lookup, OwnedEntry, ReadMode},
};
use bytes::Bytes;

/// A memtable that takes no more writes and waits for its flush.
pub struct SealedMemtable {
    pub(super) memtable: Arc<Memtable>,
    /// The log segment that was begun when it was sealed: once it is flushed the log is needed from there.
    pub(super) next_segment: SegmentNumber,
}

/// The memtables and tables of a shard at one moment.
pub struct ReadView {
    pub(super) active: Arc<Memtable>,
    /// Newest first.
    pub(super) sealed: Vec<Arc<SealedMemtable>>,
    pub(super) version: Arc<Version>,
    pub(super) flush_count: u64,
    /// The bytes of keys and values that were flushed since the tree was opened.
    pub(super) flushed_bytes: u64,
}

impl ReadView {
    /// The newest version of a key at or below `at`. A tombstone and an expired entry are found as they are; a range
    /// delete as a tombstone.
    ///
    /// # Errors
    /// `Io` or `Corruption`.
    #[inline]
    pub fn get(&self, hash: KeyHash, key: &[u8], at: SeqNo, mode: ReadMode) -> Result<Lookup> {
        match self.get_in_memory(hash, key, at) {
            Some(entry) => Ok(Lookup::Found(OwnedEntry {
                seqno: entry.seqno,
                kind: entry.kind,
                expires_at_ms: entry.expires_at_ms,
                value: Bytes::copy_from_slice(entry.value),
            })),
            None => self.read_tables(hash, key, at, mode),
        }
    }

    /// The same among the memtables only.
    #[inline]
    pub fn get_in_memory<'a>(&'a self, hash: KeyHash, key: &'a [u8], at: SeqNo) -> Option<Entry<'a>> {
        // NOTE: an index that nothing was written to is cold memory, and after a bulk load all gets would pass by it.
        let active = if self.active.is_empty() { None } else { self.active.get(hash, key, at) };
        active.or_else(|| self.sealed.iter().find_map(|sealed| sealed.memtable.get(hash, key, at)))
    }

    /// The same among the tables only.
    ///
    /// # Errors
    /// `Io` or `Corruption`.
    pub fn read_tables(&self, hash: KeyHash, key: &[u8], at: SeqNo, mode: ReadMode) -> Result<Lookup> {
        self.version.get(hash, key, at, mode)
    }

    /// Walks the visible entries of `range` at one position and one time. Sorts what the memtables have not
    /// sorted yet ([`ReadView::unsorted_entries`]); reads no table before the first step.
    pub fn scan(&self, range: &KeyRange, reverse: bool, at: SeqNo, now_ms: u64) -> TreeScan {
        TreeScan::new(self, range, reverse, ReadPoint { at, now_ms })
    }

    /// Whether half of what the active memtable holds expires, and all of that has by then.
    pub fn active_has_expired(&self, now_ms: u64) -> bool {
        self.active.has_expired(now_ms)
    }

    /// Whether it holds range deletes.
    pub(super) fn has_range_deletes(&self) -> bool {
        let sealed = self.sealed.iter().map(|sealed| &sealed.memtable);
        self.version.has_range_deletes()
            || std::iter::once(&self.active).chain(sealed).any(|memtable| memtable.has_range_deletes())
    }

    /// Whether a memtable waits for its flush, or is being flushed.
    pub fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// How many flushes the shard had installed: while it stands, no write has moved from memory to tables.
    pub const fn flush_count(&self) -> u64 {
        self.flush_count
    }

    /// How many entries a scan would sort before its first step.
    pub fn unsorted_entries(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|sealed| sealed.memtable.unsorted_entries()).sum();
        self.active.unsorted_entries() + sealed
    }

    /// The tables.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }
}
