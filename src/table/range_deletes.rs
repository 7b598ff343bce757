//! The range deletes of a table, as they stand in its file.
//!
//! The part is one record (`codec::record`, kind 4), its body the archive of [`RangeDeletesArchive`]; a table without
//! range deletes has no such part.

use std::path::Path;

use bytes::Bytes;
use rkyv::{Archive, Serialize};

use super::metadata::{Part, put_part_record, read_part_record};
use crate::{
    codec::archive::{OwnedArchive, to_archive},
    error::{Error, Result},
    ids::SeqNo,
    key::MAX_BOUND_BYTES,
    range_delete::{Piece, RangeDeletes},
};

const RECORD_KIND: u8 = 4;

#[derive(Archive, Serialize)]
struct RangeDeletesArchive {
    /// Of each piece where it starts and where it ends, one behind the other.
    bounds: Vec<u8>,
    /// The length of each bound.
    bound_lens: Vec<u32>,
    /// The sequence numbers of each piece, newest first, one list behind the other.
    seqnos: Vec<u64>,
    /// How many each piece has.
    seqno_counts: Vec<u32>,
}

/// Appends the range deletes' part of the file to `out`.
pub(super) fn put_range_deletes(deletes: &RangeDeletes, out: &mut Vec<u8>, seed: u64) -> Result<()> {
    if deletes.is_empty() {
        return Ok(());
    }
    let length =
        |count: usize| u32::try_from(count).map_err(|_| Error::internal("a range delete's part of 4 GiB"));
    let mut archive =
        RangeDeletesArchive { bounds: vec![], bound_lens: vec![], seqnos: vec![], seqno_counts: vec![] };
    for Piece { start, end, seqnos } in deletes.pieces() {
        for bound in [start, end] {
            archive.bounds.extend_from_slice(bound);
            archive.bound_lens.push(length(bound.len())?);
        }
        archive.seqnos.extend(seqnos.iter().map(|seqno| seqno.get()));
        archive.seqno_counts.push(length(seqnos.len())?);
    }
    put_part_record(out, RECORD_KIND, seed, &to_archive(&archive)?)
}

/// Reads what [`put_range_deletes`] wrote, from a part whose checksum held.
pub(super) fn read_range_deletes(part: &Part<'_>, path: &Path) -> Result<RangeDeletes> {
    let damaged = |found: &str| Error::corruption(path, part.offset, "range deletes in order", found);
    let (body, rest) = read_part_record(part, RECORD_KIND, path)?;
    let archive = OwnedArchive::<RangeDeletesArchive>::check(body, path, part.offset)?;
    if !rest.is_empty() {
        return Err(damaged("bytes behind them"));
    }
    let archive = archive.get();
    let bounds = Bytes::copy_from_slice(&archive.bounds);
    let mut lens = archive.bound_lens.iter().map(|len| len.to_native());
    let mut seqnos = archive.seqnos.iter().map(|seqno| SeqNo(seqno.to_native()));
    let mut at = 0usize;
    let mut bound = || -> Option<Bytes> {
        let len = usize::try_from(lens.next()?).ok().filter(|len| *len <= MAX_BOUND_BYTES)?;
        let end = at.checked_add(len).filter(|end| *end <= bounds.len())?;
        let bound = bounds.slice(at..end);
        at = end;
        Some(bound)
    };
    let mut pieces = Vec::with_capacity(archive.seqno_counts.len());
    for count in archive.seqno_counts.iter().map(|count| count.to_native()) {
        let (Some(start), Some(end)) = (bound(), bound()) else {
            return Err(damaged("bounds that are not there"));
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let seqnos: Vec<_> = seqnos.by_ref().take(count).collect();
        if seqnos.len() != count {
            return Err(damaged("fewer sequence numbers than it counts"));
        }
        pieces.push(Piece { start, end, seqnos });
    }
    if pieces.is_empty() || at != bounds.len() || lens.next().is_some() || seqnos.next().is_some() {
        return Err(damaged("another number of pieces"));
    }
    if pieces.iter().any(|piece| piece.start.is_empty() || piece.end.is_empty()) {
        return Err(damaged("one without a bound"));
    }
    RangeDeletes::from_pieces(pieces).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(bytes: &[u8]) -> Part<'_> {
        Part { bytes, offset: 0, seed: 9 }
    }

    #[test]
    fn range_deletes_round_trip() {
        let one = |start: &'static str, end: &'static str, seqno| {
            RangeDeletes::one(
                Bytes::from_static(start.as_bytes()),
                Bytes::from_static(end.as_bytes()),
                SeqNo(seqno),
            )
        };
        let parts = [one("a", "m", 4), one("c", "z", 9), one("y", "zz", 2)];
        let deletes = RangeDeletes::union_all(&parts, |piece| piece.seqnos.clone());
        let mut out = vec![];
        put_range_deletes(&deletes, &mut out, 9).unwrap();
        assert_eq!(read_range_deletes(&part(&out), Path::new("t")).unwrap(), deletes);
        let mut nothing = vec![];
        put_range_deletes(&RangeDeletes::default(), &mut nothing, 9).unwrap();
        assert!(nothing.is_empty());
    }

    proptest! {
        #[test]
        fn lists_that_do_not_fit_are_refused_and_nothing_panics(
            bounds: Vec<u8>,
            bound_lens in proptest::collection::vec(0u32..4, 0..6),
            seqnos: Vec<u64>,
            seqno_counts in proptest::collection::vec(0u32..4, 0..4),
        ) {
            let mut out = vec![];
            let archive = RangeDeletesArchive { bounds, bound_lens, seqnos, seqno_counts };
            put_part_record(&mut out, RECORD_KIND, 9, &to_archive(&archive).unwrap()).unwrap();
            let _ = read_range_deletes(&part(&out), Path::new("t"));
        }
    }
}
