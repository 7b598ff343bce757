//! The range deletes of a memtable: a few sets of pieces, large ones first, merged as they come so that each has more
//! than twice the pieces of the next. One writer replaces the list, any number of readers look at it as it is.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::{ids::SeqNo, range_delete::RangeDeletes};

/// Large ones first.
pub(super) type Sets = Vec<Arc<RangeDeletes>>;

#[derive(Default)]
pub(super) struct MemtableDeletes {
    /// Looked at by every get, so that those of memtables without range deletes do nothing else.
    any: AtomicBool,
    sets: ArcSwap<Sets>,
}

impl MemtableDeletes {
    /// Whether there is one.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The newest delete of a key up to a position.
    #[inline]
    pub(super) fn covering(&self, key: &[u8], at: SeqNo) -> Option<SeqNo> {
        if self.any() { self.find(key, at) } else { None }
    }

    #[cold]
    fn find(&self, key: &[u8], at: SeqNo) -> Option<SeqNo> {
        self.sets.load().iter().filter_map(|set| set.covering(key, at)).max()
    }

    /// What there is now.
    pub(super) fn sets(&self) -> Arc<Sets> {
        self.sets.load_full()
    }

    /// Adds a delete; the writer only. On return readers find it. Returns by how much the memory has grown.
    pub(super) fn add(&self, start: Bytes, end: Bytes, seqno: SeqNo) -> isize {
        let bytes = |sets: &Sets| sets.iter().map(|set| set.memory_bytes()).sum::<usize>();
        let mut sets = Sets::clone(&self.sets.load());
        let before = bytes(&sets);
        let mut new = Arc::new(RangeDeletes::one(start, end, seqno));
        while let Some(last) = sets.pop_if(|last| last.pieces().len() <= 2 * new.pieces().len()) {
            new = Arc::new(last.union(&new));
        }
        sets.push(new);
        let grown = bytes(&sets).cast_signed() - before.cast_signed();
        self.sets.store(Arc::new(sets));
        self.any.store(true, Ordering::Release);
        grown
    }
}
