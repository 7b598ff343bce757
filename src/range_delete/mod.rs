//! Range deletes: keys that were removed together, each set as sorted pieces that do not overlap, so that the newest
//! delete of a key is one binary search away however many there are.
//!
//! ```text
//!   a────────────m @5          a──d @5 │ d──f @7,5 │ f────m @5
//!        d──f @7        ═►     a read of "e" at 6 finds 5, at 7 or later 7
//! ```

mod fences;

use std::cmp::Ordering;

use bytes::Bytes;

use fences::Fences;

use crate::ids::SeqNo;

/// A stretch of keys and the deletes that cover all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first key; empty: from the very first on.
    pub start: Bytes,
    /// The first key behind it; empty: there is none.
    pub end: Bytes,
    /// When it was deleted, the newest first; never empty.
    pub seqnos: Vec<SeqNo>,
}

/// Where a key lies among the pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The newest delete that covers it, as far as the reader sees.
    pub newest: Option<SeqNo>,
    /// Up to where that goes on to the left: the first key of which it is true; `None`: of all.
    pub from: Option<&'a Bytes>,
    /// The first key behind it of which it may be otherwise; `None`: there is none.
    pub until: Option<&'a Bytes>,
}

/// A set of range deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeDeletes {
    pieces: Vec<Piece>,
    fences: Fences,
}

/// Compares where two pieces end.
pub fn compare_ends(a: &[u8], b: &[u8]) -> Ordering {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => a.cmp(b),
    }
}

/// Whether `key` lies before `end`.
#[inline]
pub fn is_before_end(key: &[u8], end: &[u8]) -> bool {
    end.is_empty() || key < end
}

impl Piece {
    /// What it takes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.start.len() + self.end.len() + size_of_val(self.seqnos.as_slice())
    }

    /// The newest delete up to a position.
    #[inline]
    pub fn newest(&self, at: SeqNo) -> Option<SeqNo> {
        self.seqnos.iter().copied().find(|seqno| *seqno <= at)
    }
}

impl RangeDeletes {
    /// A single delete of the keys from `start` on and before `end`, which holds some; see [`Piece`] for empty bounds.
    pub fn one(start: Bytes, end: Bytes, seqno: SeqNo) -> Self {
        Self::of(vec![Piece { start, end, seqnos: vec![seqno] }])
    }

    fn of(pieces: Vec<Piece>) -> Self {
        Self { fences: Fences::of(&pieces), pieces }
    }

    /// The set of these pieces, which are in order.
    ///
    /// # Errors
    /// What is wrong with them, as a phrase.
    pub fn from_pieces(pieces: Vec<Piece>) -> Result<Self, &'static str> {
        let pairs = pieces.iter().zip(pieces.iter().skip(1));
        for (a, b) in pairs {
            if a.end.is_empty() || a.end > b.start {
                return Err("pieces of range deletes out of order");
            }
        }
        for Piece { start, end, seqnos } in &pieces {
            if !is_before_end(start, end) {
                return Err("a range delete of no key");
            }
            if seqnos.is_empty() || !seqnos.is_sorted_by(|a, b| a > b) {
                return Err("range deletes whose sequence numbers are out of order");
            }
        }
        Ok(Self::of(pieces))
    }

    /// The pieces, by key.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether nothing is deleted.
    pub const fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What it takes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        self.pieces.iter().map(Piece::memory_bytes).sum::<usize>() + self.fences.memory_bytes()
    }

    /// The lowest and the highest sequence number; `None` when it is empty.
    pub fn seqno_range(&self) -> Option<(SeqNo, SeqNo)> {
        let seqnos = || self.pieces.iter().flat_map(|piece| piece.seqnos.iter().copied());
        Some((seqnos().min()?, seqnos().max()?))
    }

    /// The newest delete of a key up to a position.
    #[inline]
    pub fn covering(&self, key: &[u8], at: SeqNo) -> Option<SeqNo> {
        let place = self.fences.find(&self.pieces, key)?;
        self.pieces.get(place)?.newest(at)
    }

    /// The same, and how far that goes on.
    pub fn place(&self, key: &[u8], at: SeqNo) -> Place<'_> {
        let behind = self.fences.begun(&self.pieces, key);
        let next = self.pieces.get(behind).map(|piece| &piece.start);
        let Some(piece) = behind.checked_sub(1).and_then(|last| self.pieces.get(last)) else {
            return Place { newest: None, from: None, until: next };
        };
        if is_before_end(key, &piece.end) {
            let until = (!piece.end.is_empty()).then_some(&piece.end);
            return Place { newest: piece.newest(at), from: Some(&piece.start), until };
        }
        Place { newest: None, from: Some(&piece.end), until: next }
    }

    /// Whether any key from `min` to `max`, both included, is deleted.
    pub fn touches(&self, min: &[u8], max: &[u8]) -> bool {
        let first = self.pieces.partition_point(|piece| !is_before_end(min, &piece.end));
        self.pieces.get(first).is_some_and(|piece| piece.start <= max)
    }

    /// Whether every key from `min` to `max`, both included, was deleted after `above` and up to `at`.
    pub fn covers_all(&self, min: &[u8], max: &[u8], above: SeqNo, at: SeqNo) -> bool {
        let first = self.pieces.partition_point(|piece| !is_before_end(min, &piece.end));
        let mut reached: &[u8] = min;
        for piece in self.pieces.iter().skip(first) {
            if piece.start > reached || piece.newest(at).is_none_or(|newest| newest <= above) {
                return false;
            }
            if is_before_end(max, &piece.end) {
                return true;
            }
            reached = &piece.end;
        }
        false
    }

    /// Both sets together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if self.is_empty() || other.is_empty() {
            return if self.is_empty() { other.clone() } else { self.clone() };
        }
        let mut out = Pieces::default();
        let (mut rest_a, mut rest_b) = (self.pieces.iter().cloned(), other.pieces.iter().cloned());
        let (mut a, mut b) = (rest_a.next(), rest_b.next());
        loop {
            (a, b) = match (a, b) {
                (Some(mut first), Some(second)) if first.start < second.start => {
                    out.push_before(&mut first, &second.start);
                    (left(first, &mut rest_a), Some(second))
                }
                (Some(first), Some(mut second)) if second.start < first.start => {
                    out.push_before(&mut second, &first.start);
                    (Some(first), left(second, &mut rest_b))
                }
                (Some(mut first), Some(mut second)) => {
                    let end =
                        if compare_ends(&first.end, &second.end).is_lt() { &first.end } else { &second.end };
                    let end = end.clone();
                    let seqnos = merged(&first.seqnos, &second.seqnos);
                    out.push(Piece { start: first.start.clone(), end: end.clone(), seqnos });
                    cut_front(&mut first, &end);
                    cut_front(&mut second, &end);
                    (left(first, &mut rest_a), left(second, &mut rest_b))
                }
                (Some(piece), None) => {
                    out.push(piece);
                    (rest_a.next(), None)
                }
                (None, Some(piece)) => {
                    out.push(piece);
                    (None, rest_b.next())
                }
                (None, None) => return Self::of(out.0),
            };
        }
    }

    /// All of these sets together, of each piece those deletes that `keep` leaves.
    // IMPORTANT: on the way, too, not only at the end: many deletes of one range above many small ones would be repeated
    // in each of these.
    pub fn union_all<'a>(
        sets: impl IntoIterator<Item = &'a Self>,
        mut keep: impl FnMut(&Piece) -> Vec<SeqNo>,
    ) -> Self {
        let mut sets: Vec<Self> = sets.into_iter().map(|set| set.filtered(&mut keep)).collect();
        // NOTE: by pairs, so that each piece is looked at as often as the sets can be halved.
        while sets.len() > 1 {
            sets = sets
                .chunks(2)
                .map(|pair| match pair {
                    [a, b] => a.union(b).filtered(&mut keep),
                    alone => alone.first().cloned().unwrap_or_default(),
                })
                .collect();
        }
        sets.pop().unwrap_or_default()
    }

    /// All pieces and all their sequence numbers: what looking through it costs.
    pub fn weight(&self) -> usize {
        self.pieces.iter().map(|piece| 1 + piece.seqnos.len()).sum()
    }

    /// What of it lies from `start` on and before `end`; see [`Piece`] for empty bounds.
    #[must_use]
    pub fn within(&self, start: &[u8], end: &[u8]) -> Self {
        let first = self.pieces.partition_point(|piece| !is_before_end(start, &piece.end));
        let inside = self.pieces.iter().skip(first).take_while(|piece| is_before_end(&piece.start, end));
        let clip = |piece: &Piece| Piece {
            start: if *piece.start < *start { Bytes::copy_from_slice(start) } else { piece.start.clone() },
            end: if compare_ends(end, &piece.end).is_lt() {
                Bytes::copy_from_slice(end)
            } else {
                piece.end.clone()
            },
            seqnos: piece.seqnos.clone(),
        };
        Self::of(inside.map(clip).collect())
    }

    /// The same keys, with those of a piece's deletes that `keep` leaves; pieces without any are gone.
    #[must_use]
    pub fn filtered(&self, mut keep: impl FnMut(&Piece) -> Vec<SeqNo>) -> Self {
        let mut out = Pieces::default();
        for piece in &self.pieces {
            let seqnos = keep(piece);
            if !seqnos.is_empty() {
                out.push(Piece { start: piece.start.clone(), end: piece.end.clone(), seqnos });
            }
        }
        Self::of(out.0)
    }
}

/// Pieces as they are put together.
#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    /// Adds the next piece; where it goes on as the last one ends, they become one.
    fn push(&mut self, piece: Piece) {
        match self.0.last_mut() {
            Some(last) if last.end == piece.start && !last.end.is_empty() && last.seqnos == piece.seqnos => {
                last.end = piece.end;
            }
            _ => self.0.push(piece),
        }
    }

    /// Adds the part of `piece` before `key`, and takes it off.
    fn push_before(&mut self, piece: &mut Piece, key: &Bytes) {
        let end = if is_before_end(key, &piece.end) { key.clone() } else { piece.end.clone() };
        self.push(Piece { start: piece.start.clone(), end: end.clone(), seqnos: piece.seqnos.clone() });
        cut_front(piece, &end);
    }
}

/// Takes off what lies before `at`, the end of the piece at most.
fn cut_front(piece: &mut Piece, at: &Bytes) {
    piece.start = at.clone();
    if *at == piece.end {
        piece.seqnos.clear();
    }
}

/// What is left of a piece, or the next one.
fn left(piece: Piece, rest: &mut impl Iterator<Item = Piece>) -> Option<Piece> {
    if piece.seqnos.is_empty() { rest.next() } else { Some(piece) }
}

/// Both lists in one, the newest first, without doubles.
fn merged(mut a: &[SeqNo], mut b: &[SeqNo]) -> Vec<SeqNo> {
    let mut all = Vec::with_capacity(a.len() + b.len());
    while let (Some((first_a, rest_a)), Some((first_b, rest_b))) = (a.split_first(), b.split_first()) {
        all.push(*first_a.max(first_b));
        match first_a.cmp(first_b) {
            Ordering::Greater => a = rest_a,
            Ordering::Less => b = rest_b,
            Ordering::Equal => (a, b) = (rest_a, rest_b),
        }
    }
    all.extend_from_slice(a);
    all.extend_from_slice(b);
    all
}

/// Keeps the newest of a piece's deletes.
pub fn only_newest(piece: &Piece) -> Vec<SeqNo> {
    piece.seqnos.first().copied().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Delete = (u8, u8, u64);

    fn key(number: u8) -> Bytes {
        if number == 0 { Bytes::new() } else { Bytes::from(vec![number]) }
    }

    /// Of the keys from `a` to before `b`; 0 stands for no bound on either side.
    fn set_of(deletes: &[Delete]) -> RangeDeletes {
        let one = |(start, end, seqno): &Delete| RangeDeletes::one(key(*start), key(*end), SeqNo(*seqno));
        RangeDeletes::union_all(&deletes.iter().map(one).collect::<Vec<_>>(), |piece| piece.seqnos.clone())
    }

    fn newest(deletes: &[Delete], at_key: u8, at: u64) -> Option<SeqNo> {
        let covers =
            |(start, end, seqno): &&Delete| *start <= at_key && (*end == 0 || at_key < *end) && *seqno <= at;
        deletes.iter().filter(covers).map(|delete| SeqNo(delete.2)).max()
    }

    fn deletes() -> impl Strategy<Value = Vec<Delete>> {
        let delete = (0u8..12, 0u8..12, 1u64..9).prop_filter("some keys", |(a, b, _)| *b == 0 || a < b);
        proptest::collection::vec(delete, 0..9)
    }

    proptest! {
        #[test]
        fn a_set_finds_the_newest_delete_of_every_key(deletes in deletes(), at in 0u64..10) {
            let set = set_of(&deletes);
            prop_assert_eq!(RangeDeletes::from_pieces(set.pieces.clone()), Ok(set.clone()));
            for number in 1u8..13 {
                let expected = newest(&deletes, number, at);
                prop_assert_eq!(set.covering(&[number], SeqNo(at)), expected);
                let place = set.place(&[number], SeqNo(at));
                prop_assert_eq!(place.newest, expected);
                prop_assert!(place.from.is_none_or(|from| **from <= [number][..]));
                prop_assert!(place.until.is_none_or(|until| **until > [number][..]));
                // All keys up to there are alike.
                for other in 1u8..13 {
                    let is_alike = place.from.is_none_or(|from| **from <= [other][..])
                        && place.until.is_none_or(|until| **until > [other][..]);
                    prop_assert!(!is_alike || set.covering(&[other], SeqNo(at)) == expected);
                }
            }
        }

        #[test]
        fn ranges_of_a_set_are_as_their_keys_say(deletes in deletes(), min in 1u8..12, more in 0u8..6, above in 0u64..9) {
            let (set, max) = (set_of(&deletes), min + more);
            let keys = || min..=max;
            prop_assert_eq!(set.touches(&[min], &[max]), keys().any(|k| newest(&deletes, k, 99).is_some()));
            let all = keys().all(|k| newest(&deletes, k, 7).is_some_and(|newest| newest.0 > above));
            // NOTE: bounds are the keys that there are, so keys between two of them are no different.
            prop_assert_eq!(set.covers_all(&[min], &[max], SeqNo(above), SeqNo(7)), all);
            let part = set.within(&[min], &[max + 1]);
            for number in 1u8..20 {
                let expected = if keys().contains(&number) { newest(&deletes, number, 99) } else { None };
                prop_assert_eq!(part.covering(&[number], SeqNo::MAX), expected);
            }
        }
    }

    #[test]
    fn neighbours_with_the_same_deletes_are_one_piece() {
        assert_eq!(set_of(&[(1, 3, 5), (3, 9, 5)]).pieces().len(), 1);
        assert_eq!(set_of(&[(1, 3, 5), (4, 9, 5)]).pieces().len(), 2);
        let newest = set_of(&[(1, 9, 5), (3, 4, 7)]).filtered(|piece| vec![piece.seqnos[0].min(SeqNo(5))]);
        assert_eq!(newest, set_of(&[(1, 9, 5)]));
    }

    #[test]
    fn many_deletes_of_one_range_above_many_small_ones_stay_few() {
        let small = (1u8..=200).map(|n| RangeDeletes::one(key(n), key(n + 1), SeqNo(u64::from(n))));
        let wide = (0..200).map(|n| RangeDeletes::one(key(0), key(0), SeqNo(1_000 + n)));
        let all: Vec<_> = small.chain(wide).collect();
        let set = RangeDeletes::union_all(&all, only_newest);
        assert_eq!(set, RangeDeletes::one(key(0), key(0), SeqNo(1_199)));
        assert_eq!(set.weight(), 2);
    }

    #[test]
    fn pieces_that_cannot_be_are_refused() {
        let piece = |start: u8, end: u8, seqnos: &[u64]| Piece {
            start: key(start),
            end: key(end),
            seqnos: seqnos.iter().map(|seqno| SeqNo(*seqno)).collect(),
        };
        for pieces in [
            vec![piece(3, 3, &[1])],
            vec![piece(3, 4, &[])],
            vec![piece(3, 4, &[1, 1])],
            vec![piece(3, 4, &[1, 2])],
            vec![piece(3, 5, &[1]), piece(4, 6, &[2])],
            vec![piece(3, 0, &[1]), piece(4, 6, &[2])],
        ] {
            assert!(RangeDeletes::from_pieces(pieces.clone()).is_err(), "{pieces:?}");
        }
    }
}
