//! Version edits: what one install changes, and the record of a table inside it. Encoded as an rkyv
//! archive of flat little-endian types; the frame around it is the manifest's.
//!
//! ```text
//! EditV1   added: [TableV1]   removed: [u64 file]   cancelled: [u64 batch]   forget_cancelled: u8
//!          wal_floor, flushed_seqno, next_file, highest_seqno, synced_segment, synced_offset, clock_high_ms: u64 (0: not stated)
//! TableV1  level, dir, max_is_excluded: u8   file, run, file_bytes, entries, superseded, tombstones, range_deletes,
//!          hidden_bytes, expiring, expiry_parts (8), raw_bytes, min_seqno, max_seqno, footer_checksum,
//!          blob_file (0 until blob files exist): u64   min_key, max_key: [u8]
//! ```
//! A new field is a new version of the record, never a change to these.

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rkyv::{Archive, Serialize};

use crate::{
    codec::archive::{OwnedArchive, to_archive},
    error::{Error, Result},
    ids::{BatchId, FileNumber, Level, SegmentNumber, SeqNo},
    key::{KeyRange, MAX_BOUND_BYTES},
    table::{ExpiryParts, expired_by},
};

/// What the manifest knows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRecord {
    /// The level it belongs to.
    pub level: Level,
    /// The level whose directory holds its file: a table that was moved keeps its place on disk.
    pub dir: Level,
    /// Its number.
    pub file: FileNumber,
    /// Which sorted run of the level it belongs to: a greater number is newer data. 0 outside of L1.
    pub run: u64,
    /// The length of the file.
    pub file_bytes: u64,
    /// How many entries it holds.
    pub entries: u64,
    /// How many of them have a newer version of their key in the table, too.
    pub superseded: u64,
    /// How many of them are tombstones.
    pub tombstones: u64,
    /// How many pieces of range deletes it holds.
    pub range_deletes: u64,
    /// The bytes of older tables all of whose keys these delete, as far as that was known when it was written.
    pub hidden_bytes: u64,
    /// How many of them have an expiry.
    pub expiring: u64,
    /// When these expire.
    pub expiry_parts: ExpiryParts,
    /// The bytes of all keys and values, before compression.
    pub raw_bytes: u64,
    /// The lowest sequence number inside.
    pub min_seqno: SeqNo,
    /// The highest sequence number inside.
    pub max_seqno: SeqNo,
    /// The checksum of its footer, which names it against another table of the same size.
    pub footer_checksum: u64,
    /// Its first key, of entries and range deletes.
    pub min_key: Bytes,
    /// Its last key; where a range delete reaches further, its end.
    pub max_key: Bytes,
    /// Whether `max_key` is such an end: all of the table lies before it.
    pub max_is_excluded: bool,
}

impl TableRecord {
    /// Whether all of the table lies before `key`.
    #[inline]
    pub fn ends_before(&self, key: &[u8]) -> bool {
        match self.max_key[..].cmp(key) {
            Ordering::Less => true,
            Ordering::Equal => self.max_is_excluded,
            Ordering::Greater => false,
        }
    }

    /// The first key behind the table.
    pub fn end(&self) -> Bytes {
        if self.max_is_excluded { self.max_key.clone() } else { [&self.max_key, &[0][..]].concat().into() }
    }

    /// How many of its entries have expired by then, at least.
    pub fn expired_by(&self, now_ms: u64) -> u64 {
        expired_by(&self.expiry_parts, self.expiring, now_ms)
    }

    /// What it weighs when it is decided what to compact: with it goes what it hides.
    pub const fn weight_bytes(&self) -> u64 {
        self.file_bytes.saturating_add(self.hidden_bytes)
    }

    /// Whether a key in `range` may lie in the table.
    pub fn is_in(&self, range: &KeyRange) -> bool {
        !range.is_before(&self.max_key) && !range.is_behind(&self.min_key)
    }

    /// Whether the keys from `min` to `max`, both included, may overlap the table's: its end counts.
    pub fn overlaps(&self, min: &[u8], max: &[u8]) -> bool {
        self.min_key <= max && self.max_key >= min
    }

    /// The path of its file below the shard's directory.
    pub fn path(&self, shard_dir: &Path) -> PathBuf {
        table_path(shard_dir, self.dir, self.file)
    }
}

/// The path of a table's file: `l0/0000000012.sst`.
pub fn table_path(shard_dir: &Path, dir: Level, file: FileNumber) -> PathBuf {
    shard_dir.join(dir.dir_name()).join(format!("{file}.sst"))
}

/// The file number in a table's file name; none if the name is not one of ours.
pub fn parse_table_name(name: &str) -> Option<FileNumber> {
    let digits = name.strip_suffix(".sst")?;
    let number = digits.parse().ok().map(FileNumber)?;
    (number.to_string() == digits).then_some(number)
}

/// A position in the log that was durable when the edit was written.
pub type SyncedPosition = (SegmentNumber, u64);

/// What one install changes. Numbers only grow: an edit that states a lower one changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionEdit {
    /// Tables that appear. One that is also in `removed` has moved.
    pub added: Vec<TableRecord>,
    /// Tables that disappear; taken out before `added` is put in.
    pub removed: Vec<FileNumber>,
    /// The first log segment that is still needed.
    pub wal_floor: Option<SegmentNumber>,
    /// Every write of this shard up to here lies in tables.
    pub flushed_seqno: Option<SeqNo>,
    /// The next table's number is at least this.
    pub next_file: FileNumber,
    /// No sequence number up to here may be handed out again.
    pub highest_seqno: SeqNo,
    /// A log position known to be durable.
    pub wal_synced: Option<SyncedPosition>,
    /// The node's clock was here.
    pub clock_high_ms: u64,
    /// Cross-shard batches found cancelled at recovery.
    pub cancelled: Vec<BatchId>,
    /// Whether the cancelled batches of earlier edits are of no more interest.
    pub forget_cancelled: bool,
}

#[derive(Archive, Serialize)]
struct EditV1 {
    added: Vec<TableV1>,
    removed: Vec<u64>,
    cancelled: Vec<u64>,
    wal_floor: u64,
    flushed_seqno: u64,
    next_file: u64,
    highest_seqno: u64,
    synced_segment: u64,
    synced_offset: u64,
    clock_high_ms: u64,
    forget_cancelled: u8,
}

#[derive(Archive, Serialize)]
struct TableV1 {
    level: u8,
    dir: u8,
    max_is_excluded: u8,
    file: u64,
    run: u64,
    file_bytes: u64,
    entries: u64,
    superseded: u64,
    tombstones: u64,
    range_deletes: u64,
    hidden_bytes: u64,
    expiring: u64,
    expiry_parts: ExpiryParts,
    raw_bytes: u64,
    min_seqno: u64,
    max_seqno: u64,
    footer_checksum: u64,
    blob_file: u64,
    min_key: Vec<u8>,
    max_key: Vec<u8>,
}

impl VersionEdit {
    /// The edit's bytes in a manifest record.
    ///
    /// # Errors
    /// `Internal` if the edit exceeds what an archive can hold.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let (synced_segment, synced_offset) =
            self.wal_synced.map_or((0, 0), |(segment, offset)| (segment.0, offset));
        let edit = EditV1 {
            added: self.added.iter().map(encode_table).collect(),
            removed: self.removed.iter().map(|file| file.0).collect(),
            cancelled: self.cancelled.iter().map(|batch| batch.0).collect(),
            wal_floor: self.wal_floor.map_or(0, SegmentNumber::get),
            flushed_seqno: self.flushed_seqno.map_or(0, SeqNo::get),
            next_file: self.next_file.0,
            highest_seqno: self.highest_seqno.0,
            synced_segment,
            synced_offset,
            clock_high_ms: self.clock_high_ms,
            forget_cancelled: u8::from(self.forget_cancelled),
        };
        Ok(to_archive(&edit)?.to_vec())
    }

    /// Reads what [`VersionEdit::encode`] wrote; `path` and `offset` say where it stood.
    ///
    /// # Errors
    /// `Corruption` when the bytes are not an edit or state what cannot be.
    pub fn decode(bytes: &[u8], path: &Path, offset: u64) -> Result<Self> {
        let archive = OwnedArchive::<EditV1>::check(bytes, path, offset)?;
        let edit = archive.get();
        let none_if_zero = |number: u64| (number != 0).then_some(number);
        let mut added = Vec::with_capacity(edit.added.len());
        for table in edit.added.iter() {
            let table = decode_table(table)
                .map_err(|found| Error::corruption(path, offset, "a valid table record", found))?;
            added.push(table);
        }
        Ok(Self {
            added,
            removed: edit.removed.iter().map(|file| FileNumber(file.to_native())).collect(),
            wal_floor: none_if_zero(edit.wal_floor.to_native()).map(SegmentNumber),
            flushed_seqno: none_if_zero(edit.flushed_seqno.to_native()).map(SeqNo),
            next_file: FileNumber(edit.next_file.to_native()),
            highest_seqno: SeqNo(edit.highest_seqno.to_native()),
            wal_synced: none_if_zero(edit.synced_segment.to_native())
                .map(|segment| (SegmentNumber(segment), edit.synced_offset.to_native())),
            clock_high_ms: edit.clock_high_ms.to_native(),
            cancelled: edit.cancelled.iter().map(|batch| BatchId(batch.to_native())).collect(),
            forget_cancelled: edit.forget_cancelled != 0,
        })
    }
}

fn encode_table(table: &TableRecord) -> TableV1 {
    TableV1 {
        level: table.level.number(),
        dir: table.dir.number(),
        max_is_excluded: u8::from(table.max_is_excluded),
        file: table.file.0,
        run: table.run,
        file_bytes: table.file_bytes,
        entries: table.entries,
        superseded: table.superseded,
        tombstones: table.tombstones,
        range_deletes: table.range_deletes,
        hidden_bytes: table.hidden_bytes,
        expiring: table.expiring,
        expiry_parts: table.expiry_parts,
        raw_bytes: table.raw_bytes,
        min_seqno: table.min_seqno.0,
        max_seqno: table.max_seqno.0,
        footer_checksum: table.footer_checksum,
        blob_file: 0,
        min_key: table.min_key.to_vec(),
        max_key: table.max_key.to_vec(),
    }
}

fn decode_table(table: &ArchivedTableV1) -> Result<TableRecord, &'static str> {
    let record = TableRecord {
        level: Level::from_number(table.level).ok_or("a level that does not exist")?,
        dir: Level::from_number(table.dir).ok_or("a level directory that does not exist")?,
        file: FileNumber(table.file.to_native()),
        run: table.run.to_native(),
        file_bytes: table.file_bytes.to_native(),
        entries: table.entries.to_native(),
        superseded: table.superseded.to_native(),
        tombstones: table.tombstones.to_native(),
        range_deletes: table.range_deletes.to_native(),
        hidden_bytes: table.hidden_bytes.to_native(),
        expiring: table.expiring.to_native(),
        expiry_parts: table.expiry_parts.map(rkyv::rend::u64_le::to_native),
        raw_bytes: table.raw_bytes.to_native(),
        min_seqno: SeqNo(table.min_seqno.to_native()),
        max_seqno: SeqNo(table.max_seqno.to_native()),
        footer_checksum: table.footer_checksum.to_native(),
        min_key: Bytes::copy_from_slice(&table.min_key),
        max_key: Bytes::copy_from_slice(&table.max_key),
        max_is_excluded: table.max_is_excluded != 0,
    };
    if table.blob_file.to_native() != 0 {
        return Err("a blob file, which this version does not know");
    }
    if record.min_key > record.max_key || record.max_key.len().max(record.min_key.len()) > MAX_BOUND_BYTES {
        return Err("key bounds that cannot be");
    }
    if record.max_is_excluded && (record.range_deletes == 0 || record.min_key == record.max_key) {
        return Err("an end that no range delete has");
    }
    let most = record.tombstones.max(record.superseded);
    let is_empty = record.entries == 0 && record.range_deletes == 0;
    if record.min_seqno > record.max_seqno || is_empty || most > record.entries {
        return Err("counts that cannot be");
    }
    Ok(record)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn record(level: Level, file: u64, min: &str, max: &str) -> TableRecord {
        TableRecord {
            level,
            dir: level,
            file: FileNumber(file),
            run: 0,
            file_bytes: 1000,
            entries: 10,
            superseded: 0,
            tombstones: 0,
            range_deletes: 0,
            hidden_bytes: 0,
            expiring: 0,
            expiry_parts: [0; 8],
            raw_bytes: 1500,
            min_seqno: SeqNo(file),
            max_seqno: SeqNo(file),
            footer_checksum: file ^ 0xABCD,
            min_key: Bytes::copy_from_slice(min.as_bytes()),
            max_key: Bytes::copy_from_slice(max.as_bytes()),
            max_is_excluded: false,
        }
    }

    proptest! {
        #[test]
        fn edits_round_trip(
            numbers: [u64; 6],
            removed: Vec<u64>,
            cancelled: Vec<u64>,
            keys in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>(), any::<u64>()), 0..5),
            forget: bool,
        ) {
            let some = |n: u64| (n != 0).then_some(n);
            let added = keys.into_iter().map(|(a, b, n)| TableRecord {
                max_is_excluded: n % 2 == 0 && a != b && n > 0,
                min_key: a.clone().min(b.clone()).into(),
                max_key: a.max(b).into(),
                run: n,
                expiry_parts: [n; 8],
                range_deletes: n,
                hidden_bytes: n,
                ..record(Level::ALL[(n % 3) as usize], n, "", "")
            }).collect();
            let edit = VersionEdit {
                added,
                removed: removed.into_iter().map(FileNumber).collect(),
                cancelled: cancelled.into_iter().map(BatchId).collect(),
                wal_floor: some(numbers[0]).map(SegmentNumber),
                flushed_seqno: some(numbers[1]).map(SeqNo),
                next_file: FileNumber(numbers[2]),
                highest_seqno: SeqNo(numbers[3]),
                wal_synced: some(numbers[4]).map(|s| (SegmentNumber(s), numbers[5])),
                clock_high_ms: numbers[5],
                forget_cancelled: forget,
            };
            let bytes = edit.encode().unwrap();
            prop_assert_eq!(VersionEdit::decode(&bytes, Path::new("m"), 0).unwrap(), edit);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes: Vec<u8>) {
            let _ = VersionEdit::decode(&bytes, Path::new("m"), 0);
        }
    }

    #[test]
    fn records_that_cannot_be_are_corruption() {
        let good = record(Level::L1, 3, "a", "b");
        for bad in [
            TableRecord { min_key: Bytes::from_static(b"c"), ..good.clone() },
            TableRecord { min_seqno: SeqNo(9), ..good.clone() },
            TableRecord { tombstones: 11, ..good.clone() },
            TableRecord { superseded: 11, ..good.clone() },
            TableRecord { entries: 0, ..good },
        ] {
            let bytes = VersionEdit { added: vec![bad], ..VersionEdit::default() }.encode().unwrap();
            let error = VersionEdit::decode(&bytes, Path::new("m"), 7).unwrap_err();
            assert_eq!(error.corruption_at().unwrap().offset, 7);
        }
    }

    #[test]
    fn only_our_own_names_are_table_names() {
        assert_eq!(parse_table_name("0000000012.sst"), Some(FileNumber(12)));
        assert_eq!(parse_table_name(&format!("{}.sst", FileNumber(u64::MAX))), Some(FileNumber(u64::MAX)));
        for name in ["12.sst", "0000000012.sst.tmp", "+000000012.sst", "00000000012.sst", "x.sst", ".sst"] {
            assert_eq!(parse_table_name(name), None, "{name}");
        }
    }
}
