//! Where the pieces of a set of range deletes begin and end, in eight bytes each, side by side: a search that looks at
//! the keys themselves waits for memory at each step.

use super::{Piece, is_before_end};
use crate::key::key_prefix;

/// The fences of some pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fences {
    /// How many bytes all starts have in common. Fences are of what follows.
    shared: usize,
    starts: Box<[u64]>,
    /// The largest number where an end does not begin with the shared bytes: it lies behind all keys that do.
    ends: Box<[u64]>,
}

impl Fences {
    /// The fences of these pieces, which are in order.
    pub(super) fn of(pieces: &[Piece]) -> Self {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Self::default() };
        let shared = first.start.iter().zip(&last.start).take_while(|(a, b)| a == b).count();
        let prefix = first.start.get(..shared).unwrap_or_default();
        let of = |key: &[u8]| key.strip_prefix(prefix).map_or(u64::MAX, key_prefix);
        let end = |piece: &Piece| if piece.end.is_empty() { u64::MAX } else { of(&piece.end) };
        Self {
            shared,
            starts: pieces.iter().map(|piece| of(&piece.start)).collect(),
            ends: pieces.iter().map(end).collect(),
        }
    }

    /// How many of the pieces begin at `key` or before it.
    #[inline]
    pub(super) fn begun(&self, pieces: &[Piece], key: &[u8]) -> usize {
        match self.fence(pieces, key) {
            Ok(fence) => self.begun_by(pieces, key, fence),
            Err(begun) => begun,
        }
    }

    /// The place of the piece that holds `key`.
    #[inline]
    pub(super) fn find(&self, pieces: &[Piece], key: &[u8]) -> Option<usize> {
        let fence = self.fence(pieces, key);
        let begun = fence.map_or_else(|begun| begun, |fence| self.begun_by(pieces, key, fence));
        let place = begun.checked_sub(1)?;
        let end = *self.ends.get(place)?;
        let is_inside = match fence {
            Ok(fence) if fence != end => fence < end,
            _ => is_before_end(key, &pieces.get(place)?.end),
        };
        is_inside.then_some(place)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.ends)
    }

    /// The fence of a key that begins as all pieces do; else how many have begun: none, or all.
    #[inline]
    fn fence(&self, pieces: &[Piece], key: &[u8]) -> Result<u64, usize> {
        let prefix = pieces.first().and_then(|first| first.start.get(..self.shared)).unwrap_or_default();
        match key.strip_prefix(prefix) {
            Some(rest) => Ok(key_prefix(rest)),
            None if key < prefix => Err(0),
            None => Err(pieces.len()),
        }
    }

    #[inline]
    fn begun_by(&self, pieces: &[Piece], key: &[u8], fence: u64) -> usize {
        let until = self.starts.partition_point(|start| *start <= fence);
        let starts = self.starts.get(..until).unwrap_or_default();
        if starts.last() != Some(&fence) {
            return until;
        }
        // NOTE: fences that are alike say nothing of their keys.
        let from = starts.partition_point(|start| *start < fence);
        let alike = pieces.get(from..until).unwrap_or_default();
        from + alike.partition_point(|piece| piece.start <= key)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::SeqNo;

    /// Keys that are alike for a while, longer and shorter than a fence, with zeros at their ends.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let tail = proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..12);
        (0usize..3, tail).prop_map(|(shared, tail)| [&b"aaaaaaaaaaaa"[..shared * 6], &tail].concat())
    }

    fn pieces(mut bounds: Vec<Vec<u8>>, is_endless: bool) -> Vec<Piece> {
        bounds.sort();
        bounds.dedup();
        if is_endless && bounds.len() % 2 == 1 {
            bounds.push(Vec::new());
        }
        let piece = |pair: &[Vec<u8>]| Piece {
            start: Bytes::from(pair[0].clone()),
            end: Bytes::from(pair[1].clone()),
            seqnos: vec![SeqNo(1)],
        };
        bounds.chunks_exact(2).map(piece).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn they_find_what_a_search_of_the_keys_finds(
            bounds in proptest::collection::vec(key(), 0..16),
            prefix in prop_oneof![Just(&b""[..]), Just(&b"a/prefix/of/all"[..])],
            is_endless: bool,
            keys in proptest::collection::vec(key(), 1..8),
        ) {
            let with_prefix = |key: &Vec<u8>| [prefix, key].concat();
            let pieces = pieces(bounds.iter().map(with_prefix).collect(), is_endless);
            let fences = Fences::of(&pieces);
            let at_bounds = pieces.iter().flat_map(|piece| [piece.start.to_vec(), piece.end.to_vec()]);
            let others = keys.iter().map(with_prefix).chain(keys.iter().cloned());
            for key in at_bounds.chain(others).chain([vec![0], vec![255; 30]]) {
                let begun = pieces.partition_point(|piece| piece.start <= key);
                prop_assert_eq!(fences.begun(&pieces, &key), begun, "{:?}", key);
                let inside = pieces.iter().position(|piece| piece.start <= key && is_before_end(&key, &piece.end));
                prop_assert_eq!(fences.find(&pieces, &key), inside, "{:?}", key);
            }
        }
    }
}
