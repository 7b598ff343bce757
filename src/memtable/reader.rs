//! A memtable as its readers see it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::{
    arena::Arena,
    cursor::MemtableCursor,
    range_deletes::{MemtableDeletes, Sets},
    runs::Runs,
};
use crate::{
    entry::{Entry, ValueKind},
    ids::SeqNo,
    key::KeyHash,
};

/// What expires; the one writer counts it. On a cache line of its own, since gets read what lies beside it.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Expiries {
    count: AtomicUsize,
    last_ms: AtomicU64,
}

impl Expiries {
    #[inline]
    pub(super) fn add(&self, expires_at_ms: u64) {
        let relaxed = Ordering::Relaxed;
        self.last_ms.store(self.last_ms.load(relaxed).max(expires_at_ms), relaxed);
        self.count.store(self.count.load(relaxed) + 1, relaxed);
    }
}

/// The newest writes of a shard, in memory. Any number of threads read it, and no reader waits for the writer.
pub struct Memtable {
    arena: Arc<Arena>,
    pub(super) deletes: MemtableDeletes,
    pub(super) expiries: Expiries,
    /// The writer never takes this lock: only who makes a cursor waits here, for another who sorts the same.
    runs: Mutex<Runs>,
}

impl Memtable {
    pub(super) fn new(arena: Arc<Arena>) -> Self {
        let runs = Mutex::new(Runs::new(Arc::clone(&arena)));
        Self { runs, deletes: MemtableDeletes::default(), expiries: Expiries::default(), arena }
    }

    /// The newest version of `key` whose sequence number is at most `at`, a tombstone too, borrowed from the arena.
    /// Where a range delete is newer, a tombstone of its number.
    #[inline]
    pub fn get<'a>(&'a self, hash: KeyHash, key: &'a [u8], at: SeqNo) -> Option<Entry<'a>> {
        // IMPORTANT: the range deletes first. A batch's entries are there before its range deletes, so that whoever
        // sees these sees what the batch has put in their place.
        let deleted = self.deletes.covering(key, at);
        let found = self.arena.get(hash, key, at);
        let Some(seqno) = deleted else { return found };
        let deleted = Entry { key, seqno, kind: ValueKind::Delete, expires_at_ms: None, value: &[] };
        found.filter(|entry| entry.seqno > seqno).or(Some(deleted))
    }

    /// Whether it holds range deletes.
    pub fn has_range_deletes(&self) -> bool {
        self.deletes.any()
    }

    /// The range deletes that it holds now, in some sets; `None` if there are none.
    pub fn range_deletes(&self) -> Option<Arc<Sets>> {
        self.deletes.any().then(|| self.deletes.sets())
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

    /// The number of entries: versions, not keys, and no range deletes.
    pub fn entries(&self) -> usize {
        self.arena.counters.entries()
    }

    /// The bytes of all keys and values, and of the bounds of range deletes.
    pub fn data_bytes(&self) -> u64 {
        self.arena.counters.data_bytes()
    }

    /// Whether there is no entry and no range delete.
    pub fn is_empty(&self) -> bool {
        self.entries() == 0 && !self.deletes.any()
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

    /// Whether half of the entries or more expire, and all of these have by then.
    pub fn has_expired(&self, now_ms: u64) -> bool {
        let expiring = self.expiries.count.load(Ordering::Relaxed);
        expiring > 0
            && expiring >= self.entries().div_ceil(2)
            && self.expiries.last_ms.load(Ordering::Relaxed) <= now_ms
    }

    /// How full the index is, in thousandths of the 70 % at which it seals.
    pub fn fill_permille(&self) -> u32 {
        let limit = self.arena.index.limit();
        u32::try_from(self.arena.counters.keys().saturating_mul(1000) / limit).unwrap_or(u32::MAX)
    }
}
