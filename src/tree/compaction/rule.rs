//! Which versions of a key a merge keeps. Pure: the merge hands over the versions of one key after the
//! other, newest first, and is told what to write.
//!
//! Nobody reads below the watermark (the oldest snapshot) or before its time, so of the versions at or below
//! the watermark only the newest matters, and what has expired by then is a tombstone to everyone. A tombstone
//! matters only while something older of its key remains, here or below the merge's inputs.

use crate::{entry::ValueKind, ids::SeqNo};

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
#[derive(Clone, Copy, Debug)]
pub struct VersionFilter {
    watermark: Watermark,
    /// The oldest tombstone since the last version that was kept: it hides all that the newer ones do.
    held: Option<SeqNo>,
    /// Whether a version at or below the watermark was seen: all older ones are out of reach.
    covered: bool,
}

impl VersionFilter {
    /// A filter that stands before the first key.
    pub const fn new(watermark: Watermark) -> Self {
        Self { watermark, held: None, covered: false }
    }

    /// Takes the next older version of the current key.
    pub fn admit(&mut self, seqno: SeqNo, kind: ValueKind, expires_at_ms: Option<u64>) -> Verdict {
        if self.covered {
            return Verdict::Skip;
        }
        self.covered = seqno <= self.watermark.oldest_snapshot;
        let expired = expires_at_ms.is_some_and(|at| at <= self.watermark.now_ms);
        if kind == ValueKind::Delete || expired {
            self.held = Some(seqno);
            return Verdict::Skip;
        }
        Verdict::Keep { tombstone: self.held.take() }
    }

    /// Ends the current key. Returns a tombstone that must still be written, behind all that was kept.
    /// `older_below` says whether an older version of the key may lie below the inputs; it is asked only if
    /// that matters.
    pub fn end_key(&mut self, older_below: impl FnOnce() -> bool) -> Option<SeqNo> {
        self.covered = false;
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

    fn filtered(versions: &[Version], watermark: Watermark, older_below: bool) -> Vec<Version> {
        let mut filter = VersionFilter::new(watermark);
        let mut out = vec![];
        let tombstone = |seqno: SeqNo| Version { seqno: seqno.0, kind: ValueKind::Delete, expires: None };
        for version in versions {
            if let Verdict::Keep { tombstone: held } =
                filter.admit(SeqNo(version.seqno), version.kind, version.expires)
            {
                out.extend(held.map(tombstone));
                out.push(*version);
            }
        }
        out.extend(filter.end_key(|| older_below).map(tombstone));
        out
    }

    /// Which version a reader sees, if any.
    fn seen(versions: &[Version], at: u64, now_ms: u64) -> Option<u64> {
        let newest = versions.iter().find(|version| version.seqno <= at)?;
        is_visible(newest.kind, newest.expires, now_ms).then_some(newest.seqno)
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn no_reader_sees_a_difference(
            above in versions(),
            below in any::<bool>(),
            oldest in 0u64..20,
            now_ms in 0u64..10,
        ) {
            let watermark = Watermark { oldest_snapshot: SeqNo(oldest), now_ms };
            let older = below.then_some(Version { seqno: 1, kind: ValueKind::Put, expires: None });
            let before: Vec<_> = above.iter().copied().chain(older).collect();
            let kept = filtered(&above, watermark, below);
            let after: Vec<_> = kept.iter().copied().chain(older).collect();
            for at in oldest..22 {
                for now in now_ms..12 {
                    prop_assert_eq!(seen(&before, at, now), seen(&after, at, now), "at {} now {}: {:?}", at, now, kept);
                }
            }
            // Storage order, and nothing that could have gone.
            prop_assert!(kept.windows(2).all(|pair| pair[0].seqno > pair[1].seqno));
            prop_assert!(kept.iter().filter(|version| version.seqno <= oldest).count() <= 1);
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
        let watermark = Watermark { oldest_snapshot: SeqNo(9), now_ms: 0 };
        assert_eq!(filtered(&delete, watermark, true), delete);
        assert_eq!(filtered(&delete, watermark, false), []);
    }
}
