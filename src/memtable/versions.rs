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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::{Entry, ValueKind},
        key::KeyHash,
        memtable::arena::ArenaWriter,
    };

    #[test]
    fn jumps_lead_as_far_back_as_their_rank_says() {
        const VERSIONS: u64 = 5000;
        let mut writer = ArenaWriter::new(8, 64 << 10);
        for n in 1..=VERSIONS {
            let entry =
                Entry { key: b"k", seqno: SeqNo(n), kind: ValueKind::Put, expires_at_ms: None, value: b"" };
            writer.insert(KeyHash(0), &entry);
        }
        let (_, newest) = writer.arena().index.locate(KeyHash(0).mixed(), b"k");
        let (mut record, mut highest) = (newest.unwrap(), 0);
        for n in (2..=VERSIONS).rev() {
            let (older, jump) = record.links().unwrap();
            assert_eq!([record.seqno().get(), older.seqno().get()], [n, n - 1]);
            assert_eq!(jump.seqno().get(), n - ((1 << record.rank()) - 1));
            highest = highest.max(record.rank());
            record = older;
        }
        assert!(record.links().is_none());
        assert_eq!(highest, 12, "the highest jump spans most of the versions");
    }
}
