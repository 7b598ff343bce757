//! What a reader at one position and one time sees of the versions that a cursor walks: for every key the
//! newest version at or below its position, unless that is a tombstone or expired.

use std::ops::Bound;

use bytes::Bytes;

use crate::{
    entry::{Cursor, Entry, ValueKind},
    error::Result,
    ids::SeqNo,
    key::KeyRange,
};

/// How many versions of one key are stepped over before a seek takes their place.
const STEPS_BEFORE_SEEK: u32 = 16;

/// Whether a version is a value to a reader at time `now_ms`: a put that has not expired.
pub fn is_visible(kind: ValueKind, expires_at_ms: Option<u64>, now_ms: u64) -> bool {
    kind == ValueKind::Put && expires_at_ms.is_none_or(|at| at > now_ms)
}

/// Where and when a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadPoint {
    pub(super) at: SeqNo,
    pub(super) now_ms: u64,
}

/// Walks the visible entries of a range, in key order or against it.
#[derive(Debug)]
pub(super) struct VisibleCursor<C> {
    cursor: C,
    range: KeyRange,
    point: ReadPoint,
    state: State,
    reverse: bool,
    /// The key that is dealt with; meaningful once `state` is `Walking`.
    last_key: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    NotStarted,
    /// Positioned, and no key is dealt with yet.
    AtStart,
    Walking,
    Done,
}

impl<C: Cursor> VisibleCursor<C> {
    /// Reads nothing yet.
    pub(super) fn new(cursor: C, range: KeyRange, reverse: bool, point: ReadPoint) -> Self {
        Self { cursor, range, point, state: State::NotStarted, reverse, last_key: Vec::new() }
    }

    /// The next visible entry.
    pub(super) fn next(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        if self.state == State::NotStarted {
            self.start()?;
        }
        let found = if self.reverse { self.next_backward() } else { self.next_forward() };
        if !matches!(found, Ok(Some(_))) {
            self.state = State::Done;
        }
        found
    }

    fn start(&mut self) -> Result<()> {
        self.state = State::AtStart;
        let start_behind = |key: &[u8]| [key, &[0]].concat();
        if self.reverse {
            match &self.range.end {
                Bound::Unbounded => self.cursor.seek_last(),
                Bound::Excluded(end) => self.cursor.seek_before(end),
                Bound::Included(end) => self.cursor.seek_before(&start_behind(end)),
            }
        } else {
            match &self.range.start {
                Bound::Unbounded => self.cursor.seek_first(),
                Bound::Included(start) => self.cursor.seek(start),
                Bound::Excluded(start) => self.cursor.seek(&start_behind(start)),
            }
        }
    }

    fn next_forward(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        let mut steps = 0;
        while self.state != State::Done {
            let Some(entry) = self.cursor.entry() else { return Ok(None) };
            let dealt_with = self.state == State::Walking && entry.key == self.last_key;
            if !dealt_with {
                if self.range.is_behind(entry.key) {
                    return Ok(None);
                }
                if entry.seqno <= self.point.at {
                    self.state = State::Walking;
                    self.last_key.clear();
                    self.last_key.extend_from_slice(entry.key);
                    if is_visible(entry.kind, entry.expires_at_ms, self.point.now_ms) {
                        return Ok(Some(owned(&entry)));
                    }
                    steps = 0;
                }
            }
            steps += 1;
            if dealt_with && steps > STEPS_BEFORE_SEEK {
                steps = 0;
                self.last_key.push(0);
                let sought = self.cursor.seek(&self.last_key);
                self.last_key.pop();
                sought?;
            } else {
                self.cursor.next()?;
            }
        }
        Ok(None)
    }

    /// Backward the versions of a key come oldest first: the last one at or below the position counts.
    fn next_backward(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        while self.state != State::Done {
            let Some(entry) = self.cursor.entry() else { return Ok(None) };
            if self.range.is_before(entry.key) {
                return Ok(None);
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(entry.key);
            let mut newest = None;
            while let Some(entry) = self.cursor.entry().filter(|entry| entry.key == self.last_key) {
                if entry.seqno <= self.point.at {
                    let visible = is_visible(entry.kind, entry.expires_at_ms, self.point.now_ms);
                    newest = visible.then(|| Bytes::copy_from_slice(entry.value));
                }
                self.cursor.prev()?;
            }
            if let Some(value) = newest {
                return Ok(Some((Bytes::copy_from_slice(&self.last_key), value)));
            }
        }
        Ok(None)
    }
}

fn owned(entry: &Entry<'_>) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(entry.key), Bytes::copy_from_slice(entry.value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::tree::test_cursor::{OwnedVersion, VecCursor, version};
    use proptest::prelude::*;

    fn all(
        entries: Vec<OwnedVersion>,
        range: KeyRange,
        reverse: bool,
        point: ReadPoint,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut walk = VisibleCursor::new(VecCursor::new(entries), range, reverse, point);
        let mut out = vec![];
        while let Some((key, value)) = walk.next().unwrap() {
            out.push((key.to_vec(), value.to_vec()));
        }
        assert_eq!(walk.next().unwrap(), None, "the end is the end");
        out
    }

    fn bounds() -> impl Strategy<Value = (Bound<Vec<u8>>, Bound<Vec<u8>>)> {
        let one = || {
            prop_oneof![
                Just(Bound::Unbounded),
                (0u8..12).prop_map(|n| Bound::Included(vec![n])),
                (0u8..12).prop_map(|n| Bound::Excluded(vec![n])),
            ]
        };
        (one(), one())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn both_directions_see_what_a_map_would_hold(
            writes in proptest::collection::vec((0u8..12, any::<bool>(), proptest::option::weighted(0.2, 0u64..8)), 0..60),
            range in bounds(),
            at in 0u64..60,
            now_ms in 0u64..8,
        ) {
            let range = KeyRange::from(range);
            let mut entries = vec![];
            let mut model = BTreeMap::new();
            for (i, (key, put, expires)) in writes.into_iter().enumerate() {
                let seqno = i as u64 + 1;
                let value = [&[key][..], &seqno.to_le_bytes()].concat();
                let mut entry = version(&[key], seqno, put.then_some(&value[..]));
                entry.expires = expires.filter(|_| put);
                if seqno <= at {
                    model.remove(&vec![key]);
                    if is_visible(entry.entry().kind, entry.expires, now_ms) && range.contains(&[key]) {
                        model.insert(vec![key], value.clone());
                    }
                }
                entries.push(entry);
            }
            let point = ReadPoint { at: SeqNo(at), now_ms };
            let mut expected: Vec<_> = model.into_iter().collect();
            prop_assert_eq!(&all(entries.clone(), range.clone(), false, point), &expected);
            expected.reverse();
            prop_assert_eq!(&all(entries, range, true, point), &expected);
        }
    }

    #[test]
    fn many_versions_of_one_key_are_sought_over() {
        let mut entries: Vec<_> = (1..=200).map(|seqno| version(b"a", seqno, Some(b"x"))).collect();
        entries.push(version(b"a\0", 201, Some(b"y")));
        let point = ReadPoint { at: SeqNo::MAX, now_ms: 0 };
        let keys: Vec<_> =
            all(entries, KeyRange::all(), false, point).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [b"a".to_vec(), b"a\0".to_vec()]);
    }
}
