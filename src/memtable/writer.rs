//! The one writer of a memtable.

use std::sync::Arc;

use bytes::Bytes;

use super::{arena::ArenaWriter, layout::RECORD_OVERHEAD, reader::Memtable};
use crate::{
    entry::{Entry, ValueKind},
    key::KeyHash,
    memory::REGION_BYTES,
};

/// How large a memtable is meant to become.
#[derive(Clone, Copy, Debug)]
pub struct MemtableOptions {
    /// The record bytes at which it is full. Chunks are allocated as they are needed, small ones first.
    pub arena_bytes: usize,
    /// The slots of the hash index, 8 bytes each, one a key. It is full when 70 % are taken.
    pub index_slots: usize,
}

const SMALLEST_CHUNK: usize = 4 << 10;
const LARGEST_CHUNK: usize = REGION_BYTES;

/// Makes an empty memtable: its writer, and what readers share.
pub fn memtable(options: MemtableOptions) -> (MemtableWriter, Arc<Memtable>) {
    // What is allocated and not yet used stays a small part of the whole.
    let largest_chunk = (options.arena_bytes / 8).clamp(SMALLEST_CHUNK, LARGEST_CHUNK);
    let writer = ArenaWriter::new(options.index_slots, largest_chunk);
    let memtable = Arc::new(Memtable::new(Arc::clone(writer.arena())));
    let writer = MemtableWriter {
        writer,
        memtable: Arc::clone(&memtable),
        arena_bytes: options.arena_bytes,
        delete_bytes: 0,
        delete_weights: vec![],
    };
    (writer, memtable)
}

/// Adds entries to a memtable. There is one, and the shard's turn owns it.
pub struct MemtableWriter {
    writer: ArenaWriter,
    memtable: Arc<Memtable>,
    arena_bytes: usize,
    /// What the range deletes take, and what each of their sets weighs.
    delete_bytes: usize,
    delete_weights: Vec<usize>,
}

impl MemtableWriter {
    /// What readers share.
    pub fn memtable(&self) -> &Arc<Memtable> {
        &self.memtable
    }

    /// Whether so many more entries, with so many bytes of keys and values, stay within the options. True for
    /// anything when the memtable is empty: one item may exceed its share when it is alone.
    pub fn has_room(&self, entries: usize, bytes: usize) -> bool {
        if self.memtable.is_empty() {
            return true;
        }
        let counters = &self.writer.arena().counters;
        let keys = counters.keys().saturating_add(entries);
        let used = (self.writer.used_bytes() + self.delete_bytes).saturating_add(bytes);
        let used = used.saturating_add(entries.saturating_mul(RECORD_OVERHEAD));
        keys <= self.writer.arena().index.limit() && used <= self.arena_bytes
    }

    /// Asks for the cache line that an insert of this key will look at first, and does not wait for it.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        self.writer.arena().index.prefetch(hash.mixed());
    }

    /// Adds an entry; readers find it when this returns. Never fails: beyond the options it only gets slower.
    ///
    /// # Panics
    /// If the entry is not newer than every other version of its key.
    #[inline]
    pub fn insert(&mut self, hash: KeyHash, entry: &Entry<'_>) {
        if entry.kind == ValueKind::RangeDelete {
            self.delete_range(entry);
        } else {
            self.writer.insert(hash, entry);
            if let Some(expires_at_ms) = entry.expires_at_ms {
                self.memtable.expiries.add(expires_at_ms);
            }
        }
    }

    #[cold]
    fn delete_range(&mut self, entry: &Entry<'_>) {
        let (start, end) = (Bytes::copy_from_slice(entry.key), Bytes::copy_from_slice(entry.value));
        let bound_bytes = start.len() + end.len();
        let grown = self.memtable.deletes.add(&mut self.delete_weights, start, end, entry.seqno);
        self.delete_bytes = self.delete_bytes.saturating_add_signed(grown);
        self.writer.arena().counters.add_range_delete(entry.seqno, bound_bytes, grown);
    }
}
