//! What is known of a table as a whole: counts and bounds.
//!
//! The part of the file is one record (`codec::record`, kind 3), its body the archive of `PropertiesArchive`.

use std::path::Path;

use bytes::Bytes;
use rkyv::{Archive, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    expiries::ExpiryParts,
    metadata::{Part, put_part_record, read_part_record},
};
use crate::{
    codec::archive::{OwnedArchive, to_archive},
    entry::{Entry, ValueKind},
    error::{Error, Result},
    ids::SeqNo,
    range_delete::RangeDeletes,
};

const RECORD_KIND: u8 = 3;

/// What a finished table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSummary {
    /// The file's length.
    pub file_bytes: u64,
    /// All entries, tombstones included.
    pub entries: u64,
    /// Distinct keys.
    pub keys: u64,
    /// Entries that delete their key.
    pub tombstones: u64,
    /// Entries with an expiry.
    pub expiring: u64,
    /// When these expire.
    pub expiry_parts: ExpiryParts,
    /// Keys and values before compression, in bytes.
    pub raw_bytes: u64,
    /// Data blocks.
    pub blocks: u64,
    /// Over the checksums of all data blocks in their order: by this the footer's checksum names them too.
    pub blocks_checksum: u64,
    /// Pieces of range deletes.
    pub range_deletes: u64,
    /// The first key, of entries and range deletes.
    pub min_key: Bytes,
    /// The last key; where a range delete reaches further, its end.
    pub max_key: Bytes,
    /// Whether `max_key` is such an end: all of the table lies before it.
    pub max_is_excluded: bool,
    /// The oldest sequence number, of entries and range deletes.
    pub min_seqno: SeqNo,
    /// The newest sequence number, of entries and range deletes.
    pub max_seqno: SeqNo,
    /// The footer's checksum: names this content; the manifest keeps it.
    pub footer_checksum: u64,
}

#[derive(Archive, Serialize)]
struct PropertiesArchive {
    entries: u64,
    keys: u64,
    tombstones: u64,
    expiring: u64,
    expiry_parts: ExpiryParts,
    raw_bytes: u64,
    blocks: u64,
    blocks_checksum: u64,
    range_deletes: u64,
    max_is_excluded: u8,
    min_seqno: u64,
    max_seqno: u64,
    min_key: Vec<u8>,
    max_key: Vec<u8>,
}

impl TableSummary {
    /// Of no entries yet.
    pub(super) const fn new() -> Self {
        Self {
            file_bytes: 0,
            entries: 0,
            keys: 0,
            tombstones: 0,
            expiring: 0,
            expiry_parts: [0; 8],
            raw_bytes: 0,
            blocks: 0,
            blocks_checksum: 0,
            range_deletes: 0,
            max_is_excluded: false,
            min_key: Bytes::new(),
            max_key: Bytes::new(),
            min_seqno: SeqNo::MAX,
            max_seqno: SeqNo(0),
            footer_checksum: 0,
        }
    }

    /// Counts one entry; the keys' bounds and the times of expiry are the caller's.
    pub(super) fn count(&mut self, entry: &Entry<'_>, new_key: bool) {
        self.entries += 1;
        self.keys += u64::from(new_key);
        self.tombstones += u64::from(entry.kind != ValueKind::Put);
        self.expiring += u64::from(entry.expires_at_ms.is_some());
        self.raw_bytes += (entry.key.len() + entry.value.len()) as u64;
        self.min_seqno = self.min_seqno.min(entry.seqno);
        self.max_seqno = self.max_seqno.max(entry.seqno);
    }

    /// Counts the table's range deletes, after all entries, and widens the bounds to hold them.
    ///
    /// # Errors
    /// `Internal` for one without a bound.
    pub(super) fn count_range_deletes(&mut self, deletes: &RangeDeletes) -> Result<()> {
        let (Some(first), Some(last)) = (deletes.pieces().first(), deletes.pieces().last()) else {
            return Ok(());
        };
        if first.start.is_empty() || last.end.is_empty() {
            return Err(Error::internal("a table's range delete without a bound"));
        }
        self.range_deletes = deletes.pieces().len() as u64;
        if self.entries == 0 || first.start < self.min_key {
            self.min_key = first.start.clone();
        }
        if self.entries == 0 || last.end > self.max_key {
            self.max_key = last.end.clone();
            self.max_is_excluded = true;
        }
        if let Some((oldest, newest)) = deletes.seqno_range() {
            self.min_seqno = self.min_seqno.min(oldest);
            self.max_seqno = self.max_seqno.max(newest);
        }
        Ok(())
    }

    /// Counts one finished block.
    pub(super) fn count_block(&mut self, checksum: u64) {
        self.blocks += 1;
        self.blocks_checksum = xxh3_64_with_seed(&checksum.to_le_bytes(), self.blocks_checksum);
    }

    /// Appends the properties' part of the file to `out`.
    pub(super) fn put(&self, out: &mut Vec<u8>, seed: u64) -> Result<()> {
        let archive = PropertiesArchive {
            entries: self.entries,
            keys: self.keys,
            tombstones: self.tombstones,
            expiring: self.expiring,
            expiry_parts: self.expiry_parts,
            raw_bytes: self.raw_bytes,
            blocks: self.blocks,
            blocks_checksum: self.blocks_checksum,
            range_deletes: self.range_deletes,
            max_is_excluded: u8::from(self.max_is_excluded),
            min_seqno: self.min_seqno.get(),
            max_seqno: self.max_seqno.get(),
            min_key: self.min_key.to_vec(),
            max_key: self.max_key.to_vec(),
        };
        put_part_record(out, RECORD_KIND, seed, &to_archive(&archive)?)
    }

    /// Reads what [`TableSummary::put`] wrote, from a part whose checksum held.
    pub(super) fn read(part: &Part<'_>, file_bytes: u64, footer_checksum: u64, path: &Path) -> Result<Self> {
        let (body, rest) = read_part_record(part, RECORD_KIND, path)?;
        let archive = OwnedArchive::<PropertiesArchive>::check(body, path, part.offset)?;
        if !rest.is_empty() {
            return Err(Error::corruption(path, part.offset, "properties", "bytes behind them"));
        }
        let archive = archive.get();
        Ok(Self {
            file_bytes,
            entries: archive.entries.to_native(),
            keys: archive.keys.to_native(),
            tombstones: archive.tombstones.to_native(),
            expiring: archive.expiring.to_native(),
            expiry_parts: archive.expiry_parts.map(rkyv::rend::u64_le::to_native),
            raw_bytes: archive.raw_bytes.to_native(),
            blocks: archive.blocks.to_native(),
            blocks_checksum: archive.blocks_checksum.to_native(),
            range_deletes: archive.range_deletes.to_native(),
            max_is_excluded: archive.max_is_excluded != 0,
            min_key: Bytes::copy_from_slice(&archive.min_key),
            max_key: Bytes::copy_from_slice(&archive.max_key),
            min_seqno: SeqNo(archive.min_seqno.to_native()),
            max_seqno: SeqNo(archive.max_seqno.to_native()),
            footer_checksum,
        })
    }
}
