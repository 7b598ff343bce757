//! The range deletes of a memtable: a few sets of pieces, heavy ones first, merged as they come so that each weighs more
//! than twice the next. One writer replaces the list, any number of readers look at it as it is.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::{ids::SeqNo, range_delete::RangeDeletes};

/// Heavy ones first.
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

    /// Adds a delete; the writer only, which keeps the `weights` of the sets. On return readers find it. Returns by how
    /// much the memory has grown.
    pub(super) fn add(&self, weights: &mut Vec<usize>, start: Bytes, end: Bytes, seqno: SeqNo) -> isize {
        let mut sets = Sets::clone(&self.sets.load());
        let mut new = Arc::new(RangeDeletes::one(start, end, seqno));
        let (mut weight, mut gone) = (new.weight(), 0);
        while weights.pop_if(|last| *last <= 2 * weight).is_some()
            && let Some(last) = sets.pop()
        {
            gone += last.memory_bytes();
            new = Arc::new(last.union(&new));
            weight = new.weight();
        }
        let grown = new.memory_bytes().cast_signed() - gone.cast_signed();
        sets.push(new);
        weights.push(weight);
        self.sets.store(Arc::new(sets));
        self.any.store(true, Ordering::Release);
        grown
    }
}
