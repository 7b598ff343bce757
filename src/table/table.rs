//! One table, for reading: opened lazily, point reads through the cache.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::Guard;
use bytes::Bytes;

use super::{
    block::{Block, BlockLookup, Damage},
    cache::{BlockCache, BlockSlots},
    file_cache::FileCache,
    footer::FOOTER_BYTES,
    last_read,
    lookup::{Lookup, OwnedEntry, ReadMode},
    metadata::{Metadata, read_range_into},
    metadata_cache::MetadataPlace,
    options::TableId,
    pace::Pace,
    properties::TableSummary,
    recent_misses,
    stored_block::check_stored_block,
};
use crate::{
    entry::ValueKind,
    error::{Error, Result},
    ids::SeqNo,
    key::KeyHash,
    range_delete::RangeDeletes,
    storage::StorageFile,
    waiting::SlowMutex,
};

/// What the manifest says of a table's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableExpectation {
    /// The file's length.
    pub file_bytes: u64,
    /// The footer's checksum.
    pub footer_checksum: u64,
}

impl From<&TableSummary> for TableExpectation {
    fn from(summary: &TableSummary) -> Self {
        Self { file_bytes: summary.file_bytes, footer_checksum: summary.footer_checksum }
    }
}

/// A finished table. Its metadata is read at first use, and again after it was given up; its file is open only while
/// the [`FileCache`] or a reader keeps it so.
#[derive(Debug)]
pub struct Table {
    files: Arc<FileCache>,
    path: PathBuf,
    id: TableId,
    cache: Arc<BlockCache>,
    expected: TableExpectation,
    place: Arc<MetadataPlace>,
    loading: SlowMutex<()>,
}

/// What is in memory once the table was used.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) metadata: Metadata,
    pub(super) slots: Arc<BlockSlots>,
}

/// What is left of what was found under a range delete.
fn hide(found: Lookup, deleted: Option<SeqNo>) -> Lookup {
    match (found, deleted) {
        (Lookup::WouldBlock, _) => Lookup::WouldBlock,
        (Lookup::Found(entry), Some(deleted)) if entry.seqno > deleted => Lookup::Found(entry),
        (_, Some(seqno)) => Lookup::Found(OwnedEntry {
            seqno,
            kind: ValueKind::Delete,
            expires_at_ms: None,
            value: Bytes::new(),
        }),
        (found, None) => found,
    }
}

impl Table {
    /// The table `id` at `path`. Reads nothing yet: a file that is missing or not what is expected is found at
    /// first use.
    ///
    /// # Errors
    /// `Corruption` when what is expected is not the size of any table.
    pub fn open(
        files: Arc<FileCache>,
        path: PathBuf,
        id: TableId,
        cache: Arc<BlockCache>,
        expected: &TableExpectation,
    ) -> Result<Arc<Self>> {
        if expected.file_bytes < FOOTER_BYTES as u64 {
            let found = format!("{} bytes", expected.file_bytes);
            return Err(Error::corruption(&path, 0, "the length of a table in the manifest", found));
        }
        let (place, loading) = (cache.metadata().place(), SlowMutex::default());
        Ok(Arc::new(Self { files, path, id, cache, expected: *expected, place, loading }))
    }

    /// Which table it is.
    pub const fn id(&self) -> TableId {
        self.id
    }

    /// Where its file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest version of `key` with a sequence number up to `at`; where a range delete is newer, a tombstone of its
    /// number. `hash` is the key's. Made for a key that is most
    /// likely in another table: the filter is asked before anything else.
    ///
    /// # Errors
    /// `Io`, or `Corruption` naming the file and where in it.
    pub fn get(&self, hash: KeyHash, key: &[u8], at: SeqNo, mode: ReadMode) -> Result<Lookup> {
        let loaded = self.loaded(mode)?;
        let Some(loaded) = &*loaded else { return Ok(Lookup::WouldBlock) };
        if loaded.metadata.range_deletes.is_some() {
            return self.get_beside_deletes(loaded, hash, key, at, mode);
        }
        self.get_entry(loaded, hash, key, at, mode)
    }

    /// The newest version among the entries.
    #[inline]
    fn get_entry(
        &self,
        loaded: &Loaded,
        hash: KeyHash,
        key: &[u8],
        at: SeqNo,
        mode: ReadMode,
    ) -> Result<Lookup> {
        let Metadata { filter, index, .. } = &loaded.metadata;
        if filter.as_ref().is_some_and(|filter| !filter.may_contain(hash)) {
            return Ok(Lookup::Missing);
        }
        let Some(first) = index.find(key) else { return Ok(Lookup::Missing) };
        self.get_from_blocks(loaded, first, hash, key, at, mode)
    }

    /// The newest version, in a table that has range deletes. Apart, so that the gets of all others stay small.
    #[cold]
    fn get_beside_deletes(
        &self,
        loaded: &Loaded,
        hash: KeyHash,
        key: &[u8],
        at: SeqNo,
        mode: ReadMode,
    ) -> Result<Lookup> {
        let newest = loaded.metadata.range_deletes.as_ref().and_then(|deletes| deletes.covering(key, at));
        Ok(hide(self.get_entry(loaded, hash, key, at, mode)?, newest))
    }

    /// The same, made for a key that most likely is in this table: the memory that a hit needs is asked for while the
    /// filter's is still on its way.
    ///
    /// # Errors
    /// As [`Table::get`]'s.
    pub fn get_likely(&self, hash: KeyHash, key: &[u8], at: SeqNo, mode: ReadMode) -> Result<Lookup> {
        let loaded = self.loaded(mode)?;
        let Some(loaded) = &*loaded else { return Ok(Lookup::WouldBlock) };
        let Metadata { filter, index, range_deletes, .. } = &loaded.metadata;
        if range_deletes.is_some() {
            return self.get_beside_deletes(loaded, hash, key, at, mode);
        }
        let is_missing = || {
            let is_missing = filter.as_ref().is_some_and(|filter| !filter.may_contain(hash));
            recent_misses::note(is_missing);
            is_missing
        };
        if recent_misses::expects_miss() && is_missing() {
            return Ok(Lookup::Missing);
        }
        if let Some(filter) = filter {
            filter.prefetch(hash);
        }
        let Some(first) = index.find(key) else { return Ok(Lookup::Missing) };
        loaded.slots.prefetch(first);
        if is_missing() {
            return Ok(Lookup::Missing);
        }
        self.get_from_blocks(loaded, first, hash, key, at, mode)
    }

    /// The same, from block `first` on.
    #[inline]
    fn get_from_blocks(
        &self,
        loaded: &Loaded,
        first: usize,
        hash: KeyHash,
        key: &[u8],
        at: SeqNo,
        mode: ReadMode,
    ) -> Result<Lookup> {
        let index = &loaded.metadata.index;
        for number in first..index.blocks() {
            // A key's versions go on in the next block only where the key itself is the separator.
            if number > first && index.separator(number - 1) != key {
                break;
            }
            let cached = loaded.slots.get(number);
            let damaged = |damage| self.damaged_block(loaded, number, damage);
            let found = if let Some(view) = cached.view() {
                answer(view.lookup(hash, key, at).map_err(damaged)?, |value| cached.share_value(value))
            } else {
                let Some(block) = self.read_block(loaded, number, mode)? else {
                    return Ok(Lookup::WouldBlock);
                };
                answer(block.view().lookup(hash, key, at).map_err(damaged)?, |value| block.share_value(value))
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Ok(Lookup::Missing)
    }

    /// What the table holds, as its file says. Reads the metadata if that has not happened yet.
    ///
    /// # Errors
    /// `Io` or `Corruption`.
    pub fn summary(&self) -> Result<TableSummary> {
        Ok(TableSummary::clone(&self.load()?.metadata.summary))
    }

    /// Shows the table's range deletes to `see`. Reads the metadata if that has not happened yet.
    ///
    /// # Errors
    /// `Io` or `Corruption`.
    pub fn with_range_deletes<T>(&self, see: impl FnOnce(&RangeDeletes) -> T) -> Result<T> {
        let loaded = self.load()?;
        Ok(see(loaded.metadata.range_deletes.as_deref().unwrap_or(&RangeDeletes::default())))
    }

    /// The table's range deletes, for background work: what is read is paid for before.
    ///
    /// # Errors
    /// `Io` or `Corruption`, or what the pace fails with.
    pub fn range_deletes(&self, pace: &dyn Pace) -> Result<RangeDeletes> {
        let loaded = self.load_paced(pace)?;
        Ok(loaded.metadata.range_deletes.as_deref().cloned().unwrap_or_default())
    }

    /// What the table keeps in memory, cached blocks excluded; 0 before its first use.
    pub fn metadata_bytes(&self) -> u64 {
        self.place.bytes()
    }

    /// The table's metadata, read now if it was not yet.
    pub(super) fn load(&self) -> Result<Arc<Loaded>> {
        if let Some(loaded) = &*self.place.get() {
            return Ok(Arc::clone(loaded));
        }
        self.fill_once(|| self.read_metadata())
    }

    /// Fills the table's place in memory, unless somebody else has done so meanwhile.
    fn fill_once(&self, make: impl FnOnce() -> Result<Arc<Loaded>>) -> Result<Arc<Loaded>> {
        let _only_one = self.loading.lock();
        if let Some(loaded) = &*self.place.get() {
            return Ok(Arc::clone(loaded));
        }
        let loaded = make()?;
        self.place.fill(Arc::clone(&loaded));
        Ok(loaded)
    }

    fn read_metadata(&self) -> Result<Arc<Loaded>> {
        let metadata = Metadata::load(&*self.file()?, &self.path, self.id, &self.expected)?;
        let slots = BlockSlots::new(&self.cache, metadata.index.blocks());
        Ok(Arc::new(Loaded { metadata, slots }))
    }

    /// Reads the metadata for background work, unless it is there: what is read is paid for before.
    ///
    /// # Errors
    /// `Io` or `Corruption`, or what the pace fails with.
    pub(super) fn load_paced(&self, pace: &dyn Pace) -> Result<Arc<Loaded>> {
        if let Some(loaded) = &*self.place.get() {
            return Ok(Arc::clone(loaded));
        }
        // NOTE: not under the lock. Who comes for a get waits neither for the budget nor for a thread of low priority to read.
        pace.pay(FOOTER_BYTES as u64)?;
        let bytes = Metadata::stored_bytes(&*self.file()?, &self.path, self.id, &self.expected)?;
        pace.pay(bytes)?;
        let loaded = self.read_metadata()?;
        self.fill_once(|| Ok(loaded))
    }

    /// The table's file, to be read by a thread that may wait.
    pub(super) fn file(&self) -> Result<Arc<dyn StorageFile>> {
        self.files.get(&self.path)
    }

    /// A block, from the cache or through it.
    pub(super) fn cached_block(&self, loaded: &Loaded, number: usize) -> Result<Block> {
        if let Some(cached) = loaded.slots.get(number).to_block() {
            return Ok(Block::Cached(cached));
        }
        let block = self.read_block(loaded, number, ReadMode::Blocking)?;
        block.ok_or_else(|| Error::internal("a read that may wait has not waited"))
    }

    /// An error about one of the table's blocks.
    pub(super) fn damaged_block(&self, loaded: &Loaded, number: usize, damage: Damage) -> Error {
        let offset = loaded.metadata.index.extent(number).map_or(0, |(offset, _)| offset);
        Error::corruption(&self.path, offset, "an intact data block", damage)
    }

    #[inline]
    fn loaded(&self, mode: ReadMode) -> Result<Guard<Option<Arc<Loaded>>>> {
        let loaded = self.place.get();
        if loaded.is_none() && mode == ReadMode::Blocking {
            return Ok(Guard::from_inner(Some(self.load()?)));
        }
        Ok(loaded)
    }

    /// Reads a block from the file, perhaps into the cache; `None` if that would mean to wait.
    fn read_block(&self, loaded: &Loaded, number: usize, mode: ReadMode) -> Result<Option<Block>> {
        let Some((offset, len)) = loaded.metadata.index.extent(number) else {
            return Err(Error::internal("a block behind the last one"));
        };
        let table = loaded.slots.table();
        let last = last_read::find(table, number);
        loaded.slots.count(number, last.is_some());
        if last.is_some() {
            return Ok(last);
        }
        let memory = last_read::take_memory();
        let stored = match mode {
            ReadMode::Blocking => {
                let read = || read_range_into(memory, &*self.file()?, &self.path, offset, len);
                self.files.timed(read)?
            }
            ReadMode::NoWait => match self.read_range_nowait(memory, offset, len)? {
                Some(stored) => stored,
                None => return Ok(None),
            },
        };
        let block = check_stored_block(&stored, self.id.checksum_seed(offset)).and_then(|checked| {
            loaded.slots.admit(number, checked.raw_len(), |content| checked.read_into(&stored, content))
        });
        last_read::give_back(stored);
        let block = block.map_err(|damage| self.damaged_block(loaded, number, damage))?;
        if self.cache.capacity_bytes() > 0 {
            last_read::keep(table, number, &block);
        }
        Ok(Some(block))
    }

    fn read_range_nowait(&self, mut bytes: Vec<u8>, offset: u64, len: u64) -> Result<Option<Vec<u8>>> {
        // Opening a file may wait too.
        let Some(file) = self.files.get_open(&self.path) else { return Ok(None) };
        let Ok(len) = usize::try_from(len) else { return Ok(None) };
        bytes.resize(len, 0);
        match file.read_at_nowait(&mut bytes, offset) {
            Ok(n) if n == len => Ok(Some(bytes)),
            Ok(_) => Ok(None),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(Error::io("read", &self.path, error)),
            },
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.files.close(&self.path);
    }
}

/// What a block's lookup means for the table's; `None`: it goes on in the next block.
#[inline]
fn answer(found: BlockLookup<'_>, share: impl FnOnce(&[u8]) -> Bytes) -> Option<Lookup> {
    match found {
        BlockLookup::Found(raw) => Some(Lookup::Found(OwnedEntry {
            seqno: raw.seqno,
            kind: raw.kind,
            expires_at_ms: raw.expires_at_ms,
            value: share(raw.value),
        })),
        BlockLookup::Absent => Some(Lookup::Missing),
        BlockLookup::RunsOn => None,
    }
}
