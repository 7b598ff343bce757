//! The versions of one key: a skew-binary list (Myers, "An applicative random-access stack", 1983). Beside the
//! link to the next older version each later one has a jump link 2^rank - 1 versions back, so that an old
//! snapshot finds its version of a hot key in logarithmic time.

use super::{SeqNo, arena::Record};

impl<'a> Record<'a> {
    /// The newest version of this key, from this one on, that is not newer than `at`.
    #[inline]
    pub(super) fn version_at(self, at: SeqNo) -> Option<Self> {
        let mut record = self;
        while record.seqno() > at {
            let (older, jump) = record.links()?;
            record = if jump.seqno() > at { jump } else { older };
        }
        Some(record)
    }

    /// The jump link and the rank of the version that comes after this one.
    pub(super) fn next_jump(self) -> (Record<'a>, usize) {
        let Some((_, jump)) = self.links() else { return (self, 1) };
        match jump.links() {
            Some((_, far)) if jump.rank() == self.rank() => (far, self.rank() + 1),
            _ => (self, 1),
        }
    }
}
