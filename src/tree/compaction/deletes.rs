//! Range deletes in a merge: which of them still matter, and which part of them goes into which table.
//!
//! A range delete hides what is older, so it is kept while there is anything older that somebody may see: below the
//! merge's inputs, or in them, where a snapshot still needs it. It is cut to where such keys can be, and at the borders
//! of the tables that are written, so that each table tells of its own keys.

use bytes::Bytes;

use super::{below::Below, rule::ReadPositions};
use crate::{
    ids::SeqNo,
    range_delete::{Piece, RangeDeletes, is_before_end},
};

/// All of these sets together, as far as they matter to readers at these positions.
pub(in crate::tree) fn gather_deletes<'a>(
    sets: impl IntoIterator<Item = &'a RangeDeletes>,
    positions: &ReadPositions,
) -> RangeDeletes {
    RangeDeletes::union_all(sets, |piece| newest_for_each(piece, positions))
}

/// The range deletes of a merge, which walks the keys in their order.
#[derive(Debug, Default)]
pub(super) struct MergeDeletes {
    /// Of those between two readers the newest.
    all: RangeDeletes,
    /// Those that are written.
    kept: RangeDeletes,
    /// The first piece of `all` that does not end before the current key.
    place: usize,
    /// Where the part begins that goes into the next table.
    next_from: Bytes,
    /// The first piece of `kept` that is not counted in `next_bytes`, what that part takes so far.
    next_place: usize,
    next_bytes: u64,
}

impl MergeDeletes {
    /// `deletes`: gathered for these readers. `own`: the first key of the inputs' entries and the first key behind them, if there are any.
    pub(super) fn new(
        deletes: &RangeDeletes,
        readers: &ReadPositions,
        below: &Below,
        own: Option<(Bytes, Bytes)>,
    ) -> Self {
        let all = deletes.clone();
        let oldest = readers.oldest();
        let hull = [own, below.hull()].into_iter().flatten().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let kept = hull.map_or_else(RangeDeletes::default, |(start, end)| {
            // NOTE: of what is hidden from all readers nothing is left of the inputs.
            all.within(&start, &end).filtered(|piece| {
                let hides_below = below.touches(&piece.start, &piece.end);
                piece.seqnos.iter().copied().filter(|seqno| *seqno > oldest || hides_below).collect()
            })
        });
        Self { all, kept, ..Self::default() }
    }

    /// Whether there are none.
    pub(super) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What covers `key`, which lies behind all keys asked for before.
    #[inline]
    pub(super) fn covering(&mut self, key: &[u8]) -> Option<&Piece> {
        while self.all.pieces().get(self.place).is_some_and(|piece| !is_before_end(key, &piece.end)) {
            self.place += 1;
        }
        self.all.pieces().get(self.place).filter(|piece| *piece.start <= *key)
    }

    /// Whether any key from `min` to `max`, both included, is deleted.
    pub(super) fn touches(&self, min: &[u8], max: &[u8]) -> bool {
        !self.is_empty() && self.all.touches(min, max)
    }

    /// What the part takes that goes into a table which ends before the key `next`, behind all keys asked for before.
    pub(super) fn bytes_before(&mut self, next: &[u8]) -> u64 {
        while let Some(piece) = self.kept.pieces().get(self.next_place).filter(|piece| *piece.start < *next) {
            self.next_bytes += piece.memory_bytes() as u64;
            self.next_place += 1;
        }
        self.next_bytes
    }

    /// Where a table is to end that holds about so many bytes of range deletes; `None`: it has room for what is left.
    pub(super) fn border(&self, table_bytes: u64) -> Option<Bytes> {
        let mut bytes = self.next_bytes;
        let behind = self.kept.pieces().iter().skip(self.next_place).find(|piece| {
            let is_behind = bytes > table_bytes;
            bytes = bytes.saturating_add(piece.memory_bytes() as u64);
            is_behind
        })?;
        Some(behind.start.clone())
    }

    /// The part that goes into a table which ends before the key `next`, or is the last one.
    pub(super) fn take_before(&mut self, next: Option<&[u8]>) -> RangeDeletes {
        if self.kept.is_empty() {
            return RangeDeletes::default();
        }
        let end = next.map(Bytes::copy_from_slice).unwrap_or_default();
        let part = self.kept.within(&self.next_from, &end);
        if let Some(next) = next {
            self.bytes_before(next);
        }
        (self.next_from, self.next_bytes) = (end, 0);
        part
    }
}

/// Of a piece's deletes between two readers only the newest matters; those that are newer than all readers do.
fn newest_for_each(piece: &Piece, readers: &ReadPositions) -> Vec<SeqNo> {
    let mut last_reader = None;
    let is_newest = |seqno: &SeqNo| {
        let reader = readers.first_reader(*seqno);
        let is_newest = reader.is_none() || reader != last_reader;
        last_reader = reader;
        is_newest
    };
    piece.seqnos.iter().copied().filter(is_newest).collect()
}
