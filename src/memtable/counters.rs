//! What a memtable's writer tells about it, and anyone may read at any time.

use super::{
    Entry, SeqNo,
    sync::{AtomicU64, AtomicUsize, Ordering},
};

/// Stands on cache lines of its own, because the writer changes it with every entry.
#[repr(align(128))]
pub(super) struct Counters {
    entries: AtomicUsize,
    keys: AtomicUsize,
    data_bytes: AtomicU64,
    oldest: AtomicU64,
    newest: AtomicU64,
    allocated_bytes: AtomicUsize,
    run_bytes: AtomicUsize,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            entries: AtomicUsize::new(0),
            keys: AtomicUsize::new(0),
            data_bytes: AtomicU64::new(0),
            oldest: AtomicU64::new(u64::MAX),
            newest: AtomicU64::new(0),
            allocated_bytes: AtomicUsize::new(0),
            run_bytes: AtomicUsize::new(0),
        }
    }

    /// Counts one more entry; the writer only. IMPORTANT: the entry is complete, and this is what lets walkers see it.
    #[inline]
    pub(super) fn add_entry(&self, entry: &Entry<'_>, is_new_key: bool) {
        let relaxed = Ordering::Relaxed;
        if is_new_key {
            self.keys.store(self.keys.load(relaxed) + 1, relaxed);
        }
        let bytes = entry.key.len() + entry.value.len();
        self.data_bytes.store(self.data_bytes.load(relaxed) + bytes as u64, relaxed);
        let seqno = entry.seqno.get();
        self.oldest.store(self.oldest.load(relaxed).min(seqno), relaxed);
        self.newest.store(self.newest.load(relaxed).max(seqno), relaxed);
        self.entries.store(self.entries.load(relaxed) + 1, Ordering::Release);
    }

    /// Counts a range delete, of bounds so long, by which memory has grown or shrunk so much; the writer only.
    pub(super) fn add_range_delete(&self, seqno: SeqNo, bound_bytes: usize, grown: isize) {
        let relaxed = Ordering::Relaxed;
        self.data_bytes.store(self.data_bytes.load(relaxed) + bound_bytes as u64, relaxed);
        self.oldest.store(self.oldest.load(relaxed).min(seqno.get()), relaxed);
        self.newest.store(self.newest.load(relaxed).max(seqno.get()), relaxed);
        self.allocated_bytes.store(self.allocated_bytes.load(relaxed).saturating_add_signed(grown), relaxed);
    }

    /// Counts memory of chunks and indexes; the writer only.
    pub(super) fn add_allocated(&self, bytes: usize) {
        self.allocated_bytes.store(self.allocated_bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    /// Counts the memory of a sorted run that came.
    pub(super) fn add_run(&self, bytes: usize) {
        self.run_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts the memory of a sorted run that went.
    pub(super) fn remove_run(&self, bytes: usize) {
        self.run_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The number of complete entries: at least all whose insert returned before the call.
    pub(super) fn entries(&self) -> usize {
        self.entries.load(Ordering::Acquire)
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes.load(Ordering::Relaxed)
    }

    /// The least and the greatest sequence number; `None` while there is nothing.
    pub(super) fn seqno_range(&self) -> Option<(SeqNo, SeqNo)> {
        // What was complete before is counted.
        self.entries();
        let newest = self.newest.load(Ordering::Relaxed);
        (newest > 0).then(|| (SeqNo(self.oldest.load(Ordering::Relaxed)), SeqNo(newest)))
    }

    /// Everything that is allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.allocated_bytes.load(Ordering::Relaxed) + self.run_bytes.load(Ordering::Relaxed)
    }
}
