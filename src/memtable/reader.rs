//! A memtable as its readers see it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{arena::Arena, cursor::MemtableCursor, runs::Runs};
use crate::{entry::Entry, ids::SeqNo, key::KeyHash};

/// The newest writes of a shard, in memory. Any number of threads read it, and no reader waits for the writer.
pub struct Memtable {
    arena: Arc<Arena>,
    /// The writer never takes this lock: only who makes a cursor waits here, for another who sorts the same.
    runs: Mutex<Runs>,
}

impl Memtable {
    pub(super) fn new(arena: Arc<Arena>) -> Self {
        Self { runs: Mutex::new(Runs::new(Arc::clone(&arena))), arena }
    }

    /// The newest version of `key` whose sequence number is at most `at`, a tombstone too, borrowed from the arena.
    #[inline]
    pub fn get(&self, hash: KeyHash, key: &[u8], at: SeqNo) -> Option<Entry<'_>> {
        self.arena.get(hash, key, at)
    }

    /// Asks for the cache line that a get or an insert of this hash will want first, and does not wait for it.
    /// Who has many keys at hand asks some eight keys ahead: a batch is then inserted in about 70 % of the time.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        self.arena.index.prefetch(hash.mixed());
    }

    /// The bytes that are allocated: the arena's chunks, the index, and the sorted runs, also those that only a
    /// cursor still holds.
    pub fn memory_bytes(&self) -> usize {
        self.arena.counters.memory_bytes()
    }

    /// The number of entries: versions, not keys.
    pub fn entries(&self) -> usize {
        self.arena.counters.entries()
    }

    /// The bytes of all keys and values.
    pub fn data_bytes(&self) -> u64 {
        self.arena.counters.data_bytes()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries() == 0
    }

    /// The least and the greatest sequence number; `None` when it is empty.
    pub fn seqno_range(&self) -> Option<(SeqNo, SeqNo)> {
        self.arena.counters.seqno_range()
    }

    /// A cursor over every entry whose insert returned before the call; later ones do not change it.
    ///
    /// Sorts what came since the last call, so ask [`Memtable::unsorted_entries`] first on a thread that must not
    /// be held up. What is sorted is kept for the next caller.
    pub fn cursor(&self) -> MemtableCursor {
        MemtableCursor::new(self.runs.lock().catch_up())
    }

    /// How many entries [`Memtable::cursor`] would sort or merge now; all of them while another thread is at it.
    pub fn unsorted_entries(&self) -> usize {
        let entries = self.entries();
        self.runs.try_lock().map_or(entries, |runs| runs.work(entries))
    }

    /// How full the index is, in thousandths of the 70 % at which it seals.
    pub fn fill_permille(&self) -> u32 {
        let limit = self.arena.index.limit();
        u32::try_from(self.arena.counters.keys().saturating_mul(1000) / limit).unwrap_or(u32::MAX)
    }
}
