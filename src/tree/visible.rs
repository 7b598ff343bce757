//! What a reader at one position and one time sees of the versions that a cursor walks: for every key the
//! newest version at or below its position, unless that is a tombstone or expired.

use std::ops::Bound;

use super::pair_batch::PairBatchBuilder;
use crate::{
    entry::{Cursor, ValueKind},
    error::Result,
    ids::SeqNo,
    key::KeyRange,
};

/// How many versions of one key are stepped over before a seek takes their place.
const STEPS_BEFORE_SEEK: u32 = 16;

/// So much memory of a value is kept for the next one.
const KEPT_VALUE_BYTES: usize = 64 << 10;

/// Whether a version is a value to a reader at time `now_ms`: a put that has not expired.
pub fn is_visible(kind: ValueKind, expires_at_ms: Option<u64>, now_ms: u64) -> bool {
    kind == ValueKind::Put && expires_at_ms.is_none_or(|at| at > now_ms)
}

/// Where and when a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPoint {
    /// Of each key the newest version up to this counts.
    pub at: SeqNo,
    /// What has expired by then is not there, in milliseconds on the node's clock.
    pub now_ms: u64,
}

/// Walks the visible entries of a range, in key order or against it.
#[derive(Debug)]
pub(super) struct VisibleCursor<C> {
    cursor: C,
    range: KeyRange,
    point: ReadPoint,
    state: State,
    reverse: bool,
    /// The key that was dealt with last, whose older versions are passed by; empty at first, as no key is.
    last_key: Vec<u8>,
    /// Its value, when walking backward: the cursor has gone past it.
    last_value: Vec<u8>,
    /// Walking backward: whether that pair is still to be shown.
    waiting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    NotStarted,
    Walking,
    Done,
}

/// Why a walk stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// The range or what is walked is at its end.
    AtEnd,
    /// The batch has no room.
    Full,
    /// One key has many versions: their end is to be sought.
    InVersions,
}

impl<C: Cursor> VisibleCursor<C> {
    /// Reads nothing yet.
    pub(super) fn new(cursor: C, range: KeyRange, reverse: bool, point: ReadPoint) -> Self {
        let (last_key, last_value) = (Vec::new(), Vec::new());
        Self { cursor, range, point, state: State::NotStarted, reverse, last_key, last_value, waiting: false }
    }

    /// Adds the next visible entries to a batch, until it is full or the range ends.
    ///
    /// # Errors
    /// What the cursor fails with; the walk is at its end then. What was added before stays.
    pub(super) fn fill(&mut self, out: &mut PairBatchBuilder) -> Result<()> {
        if self.state == State::NotStarted {
            self.state = State::Walking;
            if let Err(error) = self.start() {
                self.state = State::Done;
                return Err(error);
            }
        }
        if self.state == State::Done {
            return Ok(());
        }
        let filled = if self.reverse { self.fill_backward(out) } else { self.fill_forward(out) };
        if !matches!(filled, Ok(true)) {
            self.state = State::Done;
        }
        filled.map(|_| ())
    }

    fn start(&mut self) -> Result<()> {
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

    /// Whether there may be more.
    fn fill_forward(&mut self, out: &mut PairBatchBuilder) -> Result<bool> {
        loop {
            match self.walk_forward(out)? {
                Stopped::InVersions => {
                    let behind = [&self.last_key, &[0][..]].concat();
                    self.cursor.seek(&behind)?;
                }
                stopped => return Ok(stopped == Stopped::Full),
            }
        }
    }

    /// Walks until there is a reason to stop.
    fn walk_forward(&mut self, out: &mut PairBatchBuilder) -> Result<Stopped> {
        let Self { cursor, range, point, last_key, .. } = self;
        let (mut stopped, mut older) = (Stopped::AtEnd, 0_u32);
        // Whether the key dealt with last is the batch's last one, and not copied to `last_key`.
        let mut is_in_batch = false;
        let walked = cursor.walk(&mut |entry| {
            if out.is_complete() {
                stopped = Stopped::Full;
                return false;
            }
            let is_known =
                if is_in_batch { out.last_key_is(entry.key) } else { entry.key == last_key.as_slice() };
            if is_known {
                older += 1;
                if older == STEPS_BEFORE_SEEK {
                    stopped = Stopped::InVersions;
                }
                return older < STEPS_BEFORE_SEEK;
            }
            if range.is_behind(entry.key) {
                return false;
            }
            if entry.seqno > point.at {
                return true;
            }
            older = 0;
            if !is_visible(entry.kind, entry.expires_at_ms, point.now_ms) {
                last_key.clear();
                last_key.extend_from_slice(entry.key);
                is_in_batch = false;
                return true;
            }
            if !out.has_room(entry.key.len() + entry.value.len()) {
                // It is met again by the next call.
                stopped = Stopped::Full;
                return false;
            }
            out.push(entry.key, entry.value);
            is_in_batch = true;
            true
        });
        if is_in_batch {
            last_key.clear();
            last_key.extend_from_slice(out.last_key());
        }
        walked.map(|()| stopped)
    }

    /// Backward the versions of a key come oldest first: the last one at or below the position counts.
    fn fill_backward(&mut self, out: &mut PairBatchBuilder) -> Result<bool> {
        while !out.is_complete() {
            if self.waiting {
                // The pair that the last batch had no room for.
                if !out.has_room(self.last_key.len() + self.last_value.len()) {
                    return Ok(true);
                }
                out.push(&self.last_key, &self.last_value);
                self.waiting = false;
                if self.last_value.capacity() > KEPT_VALUE_BYTES {
                    self.last_value = Vec::new();
                }
            }
            let Some(entry) = self.cursor.entry() else { return Ok(false) };
            if self.range.is_before(entry.key) {
                return Ok(false);
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(entry.key);
            let mut visible = false;
            while let Some(entry) = self.cursor.entry().filter(|entry| entry.key == self.last_key) {
                if entry.seqno <= self.point.at {
                    visible = is_visible(entry.kind, entry.expires_at_ms, self.point.now_ms);
                    self.last_value.clear();
                    self.last_value.extend_from_slice(entry.value);
                }
                self.cursor.prev()?;
            }
            self.waiting = visible;
        }
        Ok(true)
    }
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
        loop {
            let mut batch = PairBatchBuilder::new(3);
            walk.fill(&mut batch).unwrap();
            let batch = batch.finish();
            let pairs = (0..batch.len()).map(|number| batch.pair(number).unwrap());
            out.extend(pairs.map(|(key, value)| (key.to_vec(), value.to_vec())));
            if batch.is_empty() {
                return out;
            }
        }
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
    fn a_large_pair_has_a_batch_of_its_own() {
        let small = [0; 10];
        let large = vec![1; 20 << 10];
        let values: [&[u8]; 5] = [&small, &large, &small, &small, &large];
        let entries = (0_u8..).zip(values).map(|(key, value)| version(&[key], 1, Some(value)));
        let entries: Vec<_> = entries.collect();
        for (reverse, expected) in [(false, [1, 1, 2, 1, 0]), (true, [1, 2, 1, 1, 0])] {
            let (cursor, point) = (VecCursor::new(entries.clone()), ReadPoint { at: SeqNo::MAX, now_ms: 0 });
            let mut walk = VisibleCursor::new(cursor, KeyRange::all(), reverse, point);
            let found = expected.map(|_| {
                let mut batch = PairBatchBuilder::new(100);
                walk.fill(&mut batch).unwrap();
                batch.finish().len()
            });
            assert_eq!(found, expected, "reverse: {reverse}");
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
