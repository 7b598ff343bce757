//! Which versions of a key a merge keeps. Pure: the merge hands over the versions of one key after the
//! other, newest first, and is told what to write.
//!
//! Of the versions between two positions that are read from only the newest matters, and what has expired by the time
//! of the first reader is a tombstone to everyone. A tombstone matters only while something older of its key remains,
//! here or below the merge's inputs.

use std::sync::Arc;

use crate::{entry::ValueKind, ids::SeqNo, range_delete::Piece};

/// The positions that are read from, now or later: those of the snapshots that are held, ascending, and then the one
/// where a reader of this moment reads. Later ones read there or above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPositions(Arc<[SeqNo]>);

impl ReadPositions {
    /// These positions, ascending.
    pub fn new(held: impl IntoIterator<Item = SeqNo>, latest: SeqNo) -> Self {
        Self(held.into_iter().chain([latest]).collect())
    }

    /// Nobody reads below this.
    pub fn oldest(&self) -> SeqNo {
        self.0.first().copied().unwrap_or_default()
    }

    /// The first position that sees what was written at `seqno`; `None` if that is not decided yet.
    #[inline]
    pub fn first_reader(&self, seqno: SeqNo) -> Option<SeqNo> {
        self.0.iter().copied().find(|position| *position >= seqno)
    }
}

/// Nobody holds a snapshot, and one who reads now reads there.
impl From<SeqNo> for ReadPositions {
    fn from(latest: SeqNo) -> Self {
        Self::new([], latest)
    }
}

/// Who reads, now or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readers {
    /// Where.
    pub positions: ReadPositions,
    /// No reader's time lies before this, in milliseconds on the node's clock.
    pub now_ms: u64,
}

impl Readers {
    /// From where on anyone reads.
    pub fn watermark(&self) -> Watermark {
        Watermark { oldest_snapshot: self.positions.oldest(), now_ms: self.now_ms }
    }
}

/// From where on anyone reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// No read position lies below this.
    pub oldest_snapshot: SeqNo,
    /// No reader's time lies before this, in milliseconds on the node's clock.
    pub now_ms: u64,
}

/// What to do with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is written for it now.
    Skip,
    /// It is written; before it a tombstone of the same key, if one is named.
    Keep {
        /// A tombstone that was held back, and has something older to hide now.
        tombstone: Option<SeqNo>,
    },
}

/// Decides over the versions of one key at a time.
#[derive(Clone, Debug)]
pub struct VersionFilter {
    readers: Readers,
    /// The oldest tombstone since the last version that was kept: it hides all that the newer ones do.
    held: Option<SeqNo>,
    /// The first reader of the version before: older versions that no earlier one sees are out of reach.
    last_reader: Option<SeqNo>,
}

impl VersionFilter {
    /// A filter that stands before the first key.
    pub const fn new(readers: Readers) -> Self {
        Self { readers, held: None, last_reader: None }
    }

    /// Takes the next older version of the current key, and the range deletes that cover the key.
    pub fn admit(
        &mut self,
        seqno: SeqNo,
        kind: ValueKind,
        expires_at_ms: Option<u64>,
        deletes: Option<&Piece>,
    ) -> Verdict {
        let first_reader = self.readers.positions.first_reader(seqno);
        if let Some(reader) = first_reader {
            let newest = deletes.and_then(|piece| piece.newest(reader));
            if newest.is_some_and(|delete| delete > seqno) || self.last_reader == first_reader {
                return Verdict::Skip;
            }
        }
        self.last_reader = first_reader;
        let expired = expires_at_ms.is_some_and(|at| at <= self.readers.now_ms);
        if kind != ValueKind::Put || expired {
            self.held = Some(seqno);
            return Verdict::Skip;
        }
        Verdict::Keep { tombstone: self.held.take() }
    }

    /// Ends the current key. Returns a tombstone that must still be written, behind all that was kept.
    /// `older_below` says whether an older version of the key may lie below the inputs; it is asked only if
    /// that matters.
    pub fn end_key(&mut self, older_below: impl FnOnce() -> bool) -> Option<SeqNo> {
        self.last_reader = None;
        self.held.take().filter(|_| older_below())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::is_visible;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Version {
        seqno: u64,
        kind: ValueKind,
        expires: Option<u64>,
    }

    fn filtered(
        versions: &[Version],
        readers: &Readers,
        deletes: Option<&Piece>,
        older_below: bool,
    ) -> Vec<Version> {
        let mut filter = VersionFilter::new(readers.clone());
        let mut out = vec![];
        let tombstone = |seqno: SeqNo| Version { seqno: seqno.0, kind: ValueKind::Delete, expires: None };
        for version in versions {
            if let Verdict::Keep { tombstone: held } =
                filter.admit(SeqNo(version.seqno), version.kind, version.expires, deletes)
            {
                out.extend(held.map(tombstone));
                out.push(*version);
            }
        }
        out.extend(filter.end_key(|| older_below).map(tombstone));
        out
    }

    /// Which version a reader sees, if any; of the range deletes those up to its position count.
    fn seen(versions: &[Version], deletes: Option<&Piece>, at: u64, now_ms: u64) -> Option<u64> {
        let newest = versions.iter().find(|version| version.seqno <= at)?;
        let delete = deletes.and_then(|piece| piece.newest(SeqNo(at)));
        let is_there = delete.is_none_or(|delete| delete.0 < newest.seqno);
        (is_there && is_visible(newest.kind, newest.expires, now_ms)).then_some(newest.seqno)
    }

    fn versions() -> impl Strategy<Value = Vec<Version>> {
        let version = (any::<bool>(), proptest::option::weighted(0.3, 1u64..10));
        proptest::collection::vec(version, 0..8).prop_map(|versions| {
            let numbered = versions.into_iter().enumerate().map(|(i, (put, expires))| Version {
                seqno: 2 + 2 * i as u64,
                kind: if put { ValueKind::Put } else { ValueKind::Delete },
                expires: expires.filter(|_| put),
            });
            let mut versions: Vec<_> = numbered.collect();
            versions.reverse();
            versions
        })
    }

    /// Range deletes between the versions.
    fn piece() -> impl Strategy<Value = Option<Piece>> {
        let seqnos = proptest::collection::btree_set((0u64..9).prop_map(|n| 2 * n + 1), 0..4);
        seqnos.prop_map(|seqnos| {
            let seqnos: Vec<_> = seqnos.into_iter().rev().map(SeqNo).collect();
            (!seqnos.is_empty()).then(|| Piece { start: "".into(), end: "".into(), seqnos })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8_000))]
        #[test]
        fn no_reader_sees_a_difference(
            above in versions(),
            deletes in piece(),
            below in any::<bool>(),
            held in proptest::collection::btree_set(0u64..20, 0..3),
            latest in 0u64..20,
            now_ms in 0u64..10,
        ) {
            let held: Vec<_> = held.into_iter().filter(|at| *at <= latest).collect();
            let positions = ReadPositions::new(held.iter().copied().map(SeqNo), SeqNo(latest));
            let readers = Readers { positions: positions.clone(), now_ms };
            let older = below.then_some(Version { seqno: 1, kind: ValueKind::Put, expires: None });
            let before: Vec<_> = above.iter().copied().chain(older).collect();
            let kept = filtered(&above, &readers, deletes.as_ref(), below);
            let after: Vec<_> = kept.iter().copied().chain(older).collect();
            for at in held.iter().copied().chain(latest..22) {
                for now in now_ms..12 {
                    let (before, after) =
                        (seen(&before, deletes.as_ref(), at, now), seen(&after, deletes.as_ref(), at, now));
                    prop_assert_eq!(before, after, "at {} now {}: {:?}", at, now, kept);
                }
            }
            // Storage order, and nothing that could have gone.
            prop_assert!(kept.windows(2).all(|pair| pair[0].seqno > pair[1].seqno));
            let readers_of: Vec<_> = kept.iter().map(|kept| positions.first_reader(SeqNo(kept.seqno))).collect();
            prop_assert!(readers_of.windows(2).all(|pair| pair[0].is_none() || pair[0] != pair[1]), "{:?}", kept);
            prop_assert!(kept.iter().all(|version| version.expires.is_none_or(|at| at > now_ms)));
            let tombs = |pair: &[Version]| pair.iter().all(|version| version.kind == ValueKind::Delete);
            prop_assert!(!kept.windows(2).any(tombs), "one of two tombstones in a row is useless");
            if !below {
                prop_assert!(kept.last().is_none_or(|version| version.kind == ValueKind::Put));
            }
        }
    }

    #[test]
    fn a_tombstone_stays_while_something_older_lies_below() {
        let delete = [Version { seqno: 5, kind: ValueKind::Delete, expires: None }];
        let readers = Readers { positions: SeqNo(9).into(), now_ms: 0 };
        assert_eq!(filtered(&delete, &readers, None, true), delete);
        assert_eq!(filtered(&delete, &readers, None, false), []);
    }

    #[test]
    fn of_the_versions_between_two_snapshots_only_the_newest_stays() {
        let put = |seqno| Version { seqno, kind: ValueKind::Put, expires: None };
        let all: Vec<_> = (1..=20).rev().map(put).collect();
        let positions = ReadPositions::new([SeqNo(4), SeqNo(12)], SeqNo(18));
        let kept = filtered(&all, &Readers { positions, now_ms: 0 }, None, false);
        assert_eq!(kept.iter().map(|version| version.seqno).collect::<Vec<_>>(), [20, 19, 18, 12, 4]);
    }
}
