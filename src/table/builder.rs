//! Writes a table file from entries in storage order.
//!
//! ```text
//! data blocks    stored_block, one after the other from offset 0
//! filter         filter; nothing if the table has none
//! index          index
//! properties     properties
//! range deletes  range_deletes; nothing if the table has none
//! footer         footer, 160 bytes
//! ```

use std::{
    cmp::Ordering,
    mem,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    block_builder::BlockBuilder,
    expiries::ExpiryTimes,
    filter::Filter,
    footer::{FOOTER_BYTES, Footer, PartHandle},
    index::IndexBuilder,
    options::{TableId, TableOptions},
    pace::Pace,
    properties::TableSummary,
    range_deletes::put_range_deletes,
    stored_block::{copy_stored_block, put_stored_block},
    whole_block::WholeBlock,
};
use crate::{
    codec::compress::Compressor,
    entry::Entry,
    error::{Error, Result},
    ids::SeqNo,
    key::{EscapedKey, KeyHash, check_key, check_value},
    range_delete::RangeDeletes,
    storage::{OpenMode, Storage, StorageFile, write_all_at},
};

/// How much is written, and paid for, at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Writes one table. Dropped before [`TableBuilder::finish`] has succeeded, it removes its file.
pub struct TableBuilder {
    out: Output,
    id: TableId,
    options: TableOptions,
    block: BlockBuilder,
    index: IndexBuilder,
    key_hashes: Vec<KeyHash>,
    summary: TableSummary,
    expiries: ExpiryTimes,
    range_deletes: RangeDeletes,
    last_key: Vec<u8>,
    last_seqno: SeqNo,
    compressor: Compressor,
    /// Where the last block ends, if it was copied and stands in no index yet: the next key is not known.
    copied_to: Option<u64>,
    /// Whether the last block is much smaller than asked for.
    ends_short: bool,
}

/// The file, and what is not written to it yet.
struct Output {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    file: Arc<dyn StorageFile>,
    pace: Arc<dyn Pace>,
    chunk: Vec<u8>,
    written_bytes: u64,
    finished: bool,
}

impl TableBuilder {
    /// Creates the file of the table `id`, which must not exist.
    ///
    /// # Errors
    /// `Invalid` for options out of range, `Io` or `NoSpace`.
    pub fn create(
        storage: &Arc<dyn Storage>,
        path: &Path,
        id: TableId,
        options: TableOptions,
        pace: Arc<dyn Pace>,
    ) -> Result<Self> {
        options.check()?;
        let file =
            storage.open(path, OpenMode::CreateNew).map_err(|error| Error::io("create", path, error))?;
        let out = Output {
            storage: Arc::clone(storage),
            path: path.to_owned(),
            file,
            pace,
            chunk: Vec::with_capacity(CHUNK_BYTES + options.block_bytes * 2),
            written_bytes: 0,
            finished: false,
        };
        Ok(Self {
            out,
            id,
            options,
            block: BlockBuilder::new(options.restart_interval),
            index: IndexBuilder::default(),
            key_hashes: vec![],
            summary: TableSummary::new(),
            expiries: ExpiryTimes::default(),
            range_deletes: RangeDeletes::default(),
            last_key: vec![],
            last_seqno: SeqNo::MAX,
            compressor: Compressor::new(options.compression),
            copied_to: None,
            ends_short: false,
        })
    }

    /// Adds the next entry. `hash` is that of its key.
    ///
    /// # Errors
    /// `Internal` when the entry is not behind the last one in storage order; `Invalid` for a key or value
    /// out of bounds; what the pace or writing a chunk fails with. After an error, drop the builder.
    pub fn add(&mut self, hash: KeyHash, entry: &Entry<'_>) -> Result<()> {
        check_key(entry.key)?;
        check_value(entry.value)?;
        // NOTE: the first entry has no key to differ from, and no key is empty.
        let new_key = match entry.key.cmp(&self.last_key) {
            Ordering::Greater => true,
            Ordering::Equal if entry.seqno < self.last_seqno => false,
            Ordering::Equal | Ordering::Less => return Err(self.out_of_order(entry)),
        };
        self.index_copied(Some(entry.key))?;
        if !self.block.add(hash, entry, new_key, self.options.block_bytes) {
            self.finish_block(Some(entry.key))?;
            self.block.add(hash, entry, new_key, self.options.block_bytes);
        }
        self.note_entry(hash, entry, new_key);
        Ok(())
    }

    /// Whether a block may be copied now: the one that is open would not end much smaller than others for it, or at
    /// least the one before did not.
    pub fn takes_block(&self) -> bool {
        self.block.is_empty() || !self.is_short(self.block.bytes()) || !self.ends_short
    }

    const fn is_short(&self, block_bytes: usize) -> bool {
        block_bytes < self.options.block_bytes / 2
    }

    /// Adds a block of another table, which [suits](WholeBlock::suits) this one's options, as it is. `hash_of` hashes
    /// a key.
    ///
    /// # Errors
    /// As [`TableBuilder::add`]'s; `Corruption` of the other table.
    pub fn add_block(&mut self, block: &WholeBlock, hash_of: impl Fn(&[u8]) -> KeyHash) -> Result<()> {
        let mut is_first = true;
        let mut begun = Ok(());
        block.for_each(|entry| {
            if mem::take(&mut is_first) {
                begun = self.begin_copy(entry);
            }
            if begun.is_ok() {
                self.note_entry(hash_of(entry.key), entry, true);
            }
        })?;
        begun?;
        let seed = self.id.checksum_seed(self.out.position());
        let checksum = copy_stored_block(&mut self.out.chunk, &block.stored, seed);
        self.summary.count_block(checksum);
        self.copied_to = Some(self.out.position());
        self.ends_short = false;
        self.out.write_full_chunk()
    }

    /// Ends what comes before a block that is copied and begins with the entry `first`.
    fn begin_copy(&mut self, first: &Entry<'_>) -> Result<()> {
        if first.key <= self.last_key.as_slice() {
            return Err(self.out_of_order(first));
        }
        self.index_copied(Some(first.key))?;
        if self.block.is_empty() { Ok(()) } else { self.finish_block(Some(first.key)) }
    }

    /// Enters the block that was copied last into the index, before an entry of key `next`.
    fn index_copied(&mut self, next: Option<&[u8]>) -> Result<()> {
        self.copied_to.take().map_or(Ok(()), |end| self.index.add(end, &self.last_key, next))
    }

    fn note_entry(&mut self, hash: KeyHash, entry: &Entry<'_>, new_key: bool) {
        if new_key {
            if self.summary.entries == 0 {
                self.summary.min_key = Bytes::copy_from_slice(entry.key);
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(entry.key);
            if self.options.filter_bits_per_key > 0 {
                self.key_hashes.push(hash);
            }
        }
        self.last_seqno = entry.seqno;
        self.summary.count(entry, new_key);
        if let Some(expires_at_ms) = entry.expires_at_ms {
            self.expiries.add(expires_at_ms);
        }
    }

    #[cold]
    fn out_of_order(&self, entry: &Entry<'_>) -> Error {
        Error::internal(format!(
            "an entry of key {} at {} is added behind one of key {} at {}",
            EscapedKey(entry.key),
            entry.seqno,
            EscapedKey(&self.last_key),
            self.last_seqno
        ))
    }

    /// The file's length so far, with the blocks not written yet.
    pub fn file_bytes(&self) -> u64 {
        self.out.position() + self.block.bytes() as u64
    }

    /// The key that was added last, and the number of its version; an empty key before the first.
    pub fn last(&self) -> (&[u8], SeqNo) {
        (&self.last_key, self.last_seqno)
    }

    /// Sets the table's range deletes, which have bounds on both sides.
    pub fn set_range_deletes(&mut self, deletes: RangeDeletes) {
        self.range_deletes = deletes;
    }

    /// How many entries it has.
    pub const fn entries(&self) -> u64 {
        self.summary.entries
    }

    /// Writes what is left. On return the file's content is on stable storage; its name is not, until the caller
    /// syncs the directory.
    ///
    /// # Errors
    /// `Internal` for a table without entries and range deletes; what the pace, writing or syncing fails with. The file is
    /// removed then.
    pub fn finish(mut self) -> Result<TableSummary> {
        if self.summary.entries == 0 && self.range_deletes.is_empty() {
            return Err(Error::internal("a table needs at least one entry, or a range delete"));
        }
        self.index_copied(None)?;
        if !self.block.is_empty() {
            self.finish_block(None)?;
        }
        self.summary.max_key = Bytes::from(mem::take(&mut self.last_key));
        self.summary.expiry_parts = mem::take(&mut self.expiries).parts();
        self.summary.count_range_deletes(&self.range_deletes)?;
        let mut footer = Footer {
            filter: self.put_filter()?,
            index: self.out.put_part(self.id, |out, seed| self.index.put(out, seed))?,
            properties: self.out.put_part(self.id, |out, seed| self.summary.put(out, seed))?,
            range_deletes: self
                .out
                .put_part(self.id, |out, seed| put_range_deletes(&self.range_deletes, out, seed))?,
            file_bytes: 0,
        };
        footer.file_bytes = self.out.position() + FOOTER_BYTES as u64;
        let (bytes, footer_checksum) = footer.encode(self.id);
        self.out.chunk.extend_from_slice(&bytes);
        self.out.finish()?;
        self.summary.file_bytes = footer.file_bytes;
        self.summary.footer_checksum = footer_checksum;
        Ok(self.summary)
    }

    /// Gives the table up and removes its file.
    pub fn abandon(self) {
        drop(self);
    }

    fn put_filter(&mut self) -> Result<PartHandle> {
        if self.options.filter_bits_per_key == 0 {
            return self.out.put_part(self.id, |_, _| Ok(()));
        }
        let filter = Filter::build(&self.key_hashes, self.options.filter_bits_per_key);
        self.out.put_part(self.id, |out, seed| filter.put(out, self.summary.keys, seed))
    }

    /// Ends the open block, before an entry of key `next`.
    fn finish_block(&mut self, next: Option<&[u8]>) -> Result<()> {
        let seed = self.id.checksum_seed(self.out.position());
        let raw = self.block.finish();
        let raw_bytes = raw.len();
        let checksum = put_stored_block(&mut self.out.chunk, raw, &mut self.compressor, seed)?;
        self.ends_short = self.is_short(raw_bytes);
        self.summary.count_block(checksum);
        self.block.clear();
        self.index.add(self.out.position(), &self.last_key, next)?;
        self.out.write_full_chunk()
    }
}

impl Output {
    fn position(&self) -> u64 {
        self.written_bytes + self.chunk.len() as u64
    }

    /// Appends a part of the file by `put`, which gets the part's checksum seed.
    fn put_part(
        &mut self,
        id: TableId,
        put: impl FnOnce(&mut Vec<u8>, u64) -> Result<()>,
    ) -> Result<PartHandle> {
        let (start, offset) = (self.chunk.len(), self.position());
        let seed = id.checksum_seed(offset);
        put(&mut self.chunk, seed)?;
        let bytes = self.chunk.get(start..).unwrap_or_default();
        Ok(PartHandle { offset, len: bytes.len() as u64, checksum: xxh3_64_with_seed(bytes, seed) })
    }

    fn write_full_chunk(&mut self) -> Result<()> {
        if self.chunk.len() < CHUNK_BYTES { Ok(()) } else { self.write_chunk() }
    }

    fn write_chunk(&mut self) -> Result<()> {
        for piece in self.chunk.chunks(CHUNK_BYTES) {
            self.pace.pay(piece.len() as u64)?;
            write_all_at(&*self.file, piece, self.written_bytes)
                .map_err(|error| Error::io("write", &self.path, error))?;
            self.written_bytes += piece.len() as u64;
        }
        self.chunk.clear();
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.write_chunk()?;
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.finished {
            // A file that stays behind is removed when the shard is opened: no manifest names it.
            let _ = self.storage.remove_file(&self.path);
        }
    }
}
