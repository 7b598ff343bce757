//! Loading what stands behind a table's data blocks, in two reads: the footer, then all parts at once.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    filter::Filter,
    footer::{FOOTER_BYTES, Footer, PartHandle},
    index::Index,
    options::TableId,
    properties::TableSummary,
    range_deletes::read_range_deletes,
    stored_block,
    table::TableExpectation,
};
use crate::{
    codec::record::{RecordHead, RecordRead, put_record, read_record},
    error::{Error, Result},
    range_delete::RangeDeletes,
    storage::{StorageFile, read_exact_at},
};

const MAGIC: [u8; 4] = *b"DBXT";
const RECORD_VERSION: u8 = 1;

/// The bytes of one part of the file, whose checksum held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) offset: u64,
    pub(super) seed: u64,
}

/// What a table keeps in memory.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) filter: Option<Filter>,
    pub(super) index: Index,
    /// Elsewhere, so that what a get looks at lies together.
    pub(super) summary: Box<TableSummary>,
    /// None for most tables.
    pub(super) range_deletes: Option<Box<RangeDeletes>>,
}

/// Appends a record with the archive `body`.
///
/// # Errors
/// `Invalid` when the archive exceeds 4 GiB.
pub(super) fn put_part_record(out: &mut Vec<u8>, kind: u8, seed: u64, body: &[u8]) -> Result<()> {
    if u32::try_from(body.len()).is_err() {
        return Err(Error::invalid("the metadata of one table exceeds 4 GiB"));
    }
    let head = RecordHead { magic: MAGIC, kind, version: RECORD_VERSION, skippable: false };
    put_record(out, head, seed, body);
    Ok(())
}

/// The body of the record at the start of a part, and what stands behind it.
///
/// # Errors
/// `Corruption` when no intact record of this kind stands there.
pub(super) fn read_part_record<'a>(part: &Part<'a>, kind: u8, path: &Path) -> Result<(&'a [u8], &'a [u8])> {
    let damaged = |expected: &str, found: &str| Error::corruption(path, part.offset, expected, found);
    match read_record(part.bytes, MAGIC, part.seed, part.bytes.len()) {
        RecordRead::Record { head, body, bytes } if head.kind == kind && head.version == RECORD_VERSION => {
            Ok((body, part.bytes.get(bytes..).unwrap_or_default()))
        }
        RecordRead::Record { .. } => {
            Err(damaged("a record that this version knows", "another kind or version"))
        }
        RecordRead::End => Err(damaged("a record", "nothing")),
        RecordRead::Broken { expected, found } => Err(damaged(expected, found)),
    }
}

impl Metadata {
    /// Reads and checks the metadata of the table `id`.
    ///
    /// # Errors
    /// `Io`, or `Corruption` when the file is not the table that is expected.
    pub(super) fn load(
        file: &dyn StorageFile,
        path: &Path,
        id: TableId,
        expected: &TableExpectation,
    ) -> Result<Self> {
        let footer = read_footer(file, path, id, expected)?;
        let start = footer.filter.offset;
        // Bounded by the file's length, which the file system and the manifest agree on.
        let parts_len = footer.file_bytes - FOOTER_BYTES as u64 - start;
        let bytes = read_range(file, path, start, parts_len)?;
        let part = |handle: PartHandle| -> Result<Part<'_>> {
            let range = || {
                let from = usize::try_from(handle.offset.checked_sub(start)?).ok()?;
                bytes.get(from..from.checked_add(usize::try_from(handle.len).ok()?)?)
            };
            let bytes: &[u8] = range()
                .ok_or_else(|| Error::corruption(path, handle.offset, "a part of the table", "none"))?;
            let seed = id.checksum_seed(handle.offset);
            if xxh3_64_with_seed(bytes, seed) != handle.checksum {
                return Err(Error::corruption(
                    path,
                    handle.offset,
                    "the checksum of a part of the table",
                    "another",
                ));
            }
            Ok(Part { bytes, offset: handle.offset, seed })
        };
        let filter = match footer.filter.len {
            0 => None,
            _ => Some(Filter::read(&part(footer.filter)?, path)?),
        };
        let min_block_bytes = stored_block::TRAILER_BYTES as u64 + 1;
        let index = Index::read(&part(footer.index)?, start, min_block_bytes, path)?;
        let properties = part(footer.properties)?;
        let summary = TableSummary::read(&properties, footer.file_bytes, expected.footer_checksum, path)?;
        let range_deletes = match footer.range_deletes.len {
            0 => None,
            _ => Some(Box::new(read_range_deletes(&part(footer.range_deletes)?, path)?)),
        };
        let pieces = range_deletes.as_ref().map_or(0, |deletes| deletes.pieces().len() as u64);
        if pieces != summary.range_deletes {
            let expected = format!("{} pieces of range deletes", summary.range_deletes);
            return Err(Error::corruption(path, footer.range_deletes.offset, expected, pieces));
        }
        Ok(Self { filter, index, summary: Box::new(summary), range_deletes })
    }

    /// How many bytes of the file [`Metadata::load`] reads. Reads the footer.
    ///
    /// # Errors
    /// As it does.
    pub(super) fn stored_bytes(
        file: &dyn StorageFile,
        path: &Path,
        id: TableId,
        expected: &TableExpectation,
    ) -> Result<u64> {
        let footer = read_footer(file, path, id, expected)?;
        Ok(footer.file_bytes - footer.filter.offset)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of::<TableSummary>()
            + self.filter.as_ref().map_or(0, Filter::memory_bytes)
            + self.index.memory_bytes()
            + self.summary.min_key.len()
            + self.summary.max_key.len()
            + self.range_deletes.as_ref().map_or(0, |deletes| deletes.memory_bytes())
    }
}

fn read_footer(
    file: &dyn StorageFile,
    path: &Path,
    id: TableId,
    expected: &TableExpectation,
) -> Result<Footer> {
    let len = file.len().map_err(|error| Error::io("measure", path, error))?;
    let at = len.checked_sub(FOOTER_BYTES as u64).filter(|_| len == expected.file_bytes);
    let Some(at) = at else {
        let wanted = format_args!("{} bytes", expected.file_bytes).to_string();
        return Err(Error::corruption(
            path,
            len.min(expected.file_bytes),
            wanted,
            format_args!("{len} bytes"),
        ));
    };
    let mut bytes = [0; FOOTER_BYTES];
    read_exact_at(file, &mut bytes, at).map_err(|error| read_error(path, at, error))?;
    Footer::decode(&bytes, id, len, expected.footer_checksum)
        .map_err(|(wanted, found)| Error::corruption(path, at, wanted, found))
}

/// Reads `len` bytes at `offset`. The caller has bounded `len` by the file's length.
pub(super) fn read_range(file: &dyn StorageFile, path: &Path, offset: u64, len: u64) -> Result<Vec<u8>> {
    read_range_into(Vec::new(), file, path, offset, len)
}

/// The same, in memory that something else needed before.
pub(super) fn read_range_into(
    mut bytes: Vec<u8>,
    file: &dyn StorageFile,
    path: &Path,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| {
        Error::corruption(path, offset, "a part that fits memory", format_args!("{len} bytes"))
    })?;
    if bytes.capacity() < len {
        bytes = vec![0; len];
    }
    bytes.resize(len, 0);
    read_exact_at(file, &mut bytes, offset).map_err(|error| read_error(path, offset, error))?;
    Ok(bytes)
}

/// A failed read: damage if the file ended early.
fn read_error(path: &Path, offset: u64, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::corruption(path, offset, "more bytes", "the end of the file")
        }
        _ => Error::io("read", path, error),
    }
}
