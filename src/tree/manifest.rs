//! The manifest of one shard: a file of records, each a version edit that is durable before anything acts on it.
//!
//! ```text
//! MANIFEST  record 1      kind 1: the whole state as one edit; the file got its name only after its sync
//!           record 2..    kind 2: one edit each, appended and synced
//! ```
//! Records are `codec::record` with the magic `DBXM`; a checksum is seeded with the shard and the record's
//! offset, so that neither another shard's manifest nor a misplaced record passes. The body is `edit.rs`.
//!
//! IMPORTANT: a record that may be torn is never followed by another. After a failed append the next commit
//! writes the whole state to a new file; after a failed sync the manifest is poisoned until it is re-opened.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::edit::{SyncedPosition, TableRecord, VersionEdit};
use crate::{
    codec::record::{RecordHead, RecordRead, put_record, read_record},
    error::{Error, ErrorKind, Result},
    ids::{BatchId, FileNumber, SegmentNumber, SeqNo, ShardId},
    storage::{OpenMode, Storage, StorageFile, read_exact_at, write_all_at},
};

/// The manifest's name in its shard's directory.
pub const MANIFEST_NAME: &str = "MANIFEST";
/// The name of a manifest that is being written.
pub const NEW_MANIFEST_NAME: &str = "MANIFEST.new";

const MAGIC: [u8; 4] = *b"DBXM";
const KIND_STATE: u8 = 1;
const KIND_EDIT: u8 = 2;
const VERSION: u8 = 2;
/// Far above what a shard's tables need; a longer file is not a manifest.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// A manifest below this is never rewritten for its size.
const REWRITE_ABOVE_BYTES: u64 = 256 << 10;
/// A manifest is rewritten when its edits have made it this many times as long as its first record.
const REWRITE_GROWTH: u64 = 4;

/// What all edits of a manifest add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestState {
    /// The tables, by number.
    pub tables: BTreeMap<FileNumber, Arc<TableRecord>>,
    /// The first log segment that is still needed.
    pub wal_floor: SegmentNumber,
    /// Every write up to here lies in tables.
    pub flushed_seqno: SeqNo,
    /// The next table's number is at least this.
    pub next_file: FileNumber,
    /// No sequence number up to here may be handed out again.
    pub highest_seqno: SeqNo,
    /// A log position known to be durable.
    pub wal_synced: Option<SyncedPosition>,
    /// The node's clock was here.
    pub clock_high_ms: u64,
    /// Cross-shard batches found cancelled at recovery.
    pub cancelled: BTreeSet<BatchId>,
}

impl ManifestState {
    /// Adds an edit.
    ///
    /// # Errors
    /// What does not fit, as a phrase: a removed table that is not there, an added one that is.
    pub fn apply(&mut self, edit: &VersionEdit) -> Result<(), String> {
        for file in &edit.removed {
            if self.tables.remove(file).is_none() {
                return Err(format!("the removal of table {file}, which is not there"));
            }
        }
        for table in &edit.added {
            if self.tables.insert(table.file, Arc::new(table.clone())).is_some() {
                return Err(format!("table {} twice", table.file));
            }
            self.next_file = self.next_file.max(table.file.next());
            self.highest_seqno = self.highest_seqno.max(table.max_seqno);
        }
        self.wal_floor = self.wal_floor.max(edit.wal_floor.unwrap_or_default());
        self.flushed_seqno = self.flushed_seqno.max(edit.flushed_seqno.unwrap_or_default());
        self.next_file = self.next_file.max(edit.next_file);
        self.highest_seqno = self.highest_seqno.max(edit.highest_seqno).max(self.flushed_seqno);
        self.wal_synced = self.wal_synced.max(edit.wal_synced);
        self.clock_high_ms = self.clock_high_ms.max(edit.clock_high_ms);
        if edit.forget_cancelled {
            self.cancelled.clear();
        }
        self.cancelled.extend(edit.cancelled.iter().copied());
        Ok(())
    }

    fn as_edit(&self) -> VersionEdit {
        VersionEdit {
            added: self.tables.values().map(|table| TableRecord::clone(table)).collect(),
            removed: Vec::new(),
            wal_floor: Some(self.wal_floor),
            flushed_seqno: Some(self.flushed_seqno),
            next_file: self.next_file,
            highest_seqno: self.highest_seqno,
            wal_synced: self.wal_synced,
            clock_high_ms: self.clock_high_ms,
            cancelled: self.cancelled.iter().copied().collect(),
            forget_cancelled: false,
        }
    }
}

/// The open manifest of one shard.
#[derive(Debug)]
pub struct Manifest {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    path: PathBuf,
    shard: ShardId,
    file: Arc<dyn StorageFile>,
    state: ManifestState,
    end: u64,
    first_record_bytes: u64,
    tail_may_be_torn: bool,
    /// Whether the last edit that failed may be found in the file after a crash.
    may_bring_back: bool,
    poison: Option<Error>,
}

impl Manifest {
    /// Reads a shard's manifest; `None` if there is none. Changes nothing on disk.
    ///
    /// # Errors
    /// `Corruption` for anything but a torn last record behind the first; `Invalid` for a record that a newer
    /// version wrote; `Io`.
    pub fn read(storage: &dyn Storage, dir: &Path, shard: ShardId) -> Result<Option<ManifestState>> {
        let path = dir.join(MANIFEST_NAME);
        let file = match storage.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        let len = file.len().map_err(|error| Error::io("measure", &path, error))?;
        if len > MAX_FILE_BYTES {
            return Err(Error::corruption(&path, 0, format!("at most {MAX_FILE_BYTES} bytes"), len));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        read_exact_at(&*file, &mut bytes, 0).map_err(|error| Error::io("read", &path, error))?;
        read_state(&bytes, &path, shard).map(Some)
    }

    /// Writes `state` as a new manifest, replaces the old one with it, and opens it. On return it is durable.
    ///
    /// # Errors
    /// `NoSpace` or `Io`; the old manifest is then in place or already replaced.
    pub fn create(
        storage: Arc<dyn Storage>,
        dir: &Path,
        shard: ShardId,
        state: ManifestState,
    ) -> Result<Self> {
        let written = write_new(&*storage, dir, shard, &state)?;
        install_new(&*storage, dir)?;
        Ok(Self {
            storage,
            dir: dir.to_owned(),
            path: dir.join(MANIFEST_NAME),
            shard,
            file: written.file,
            state,
            end: written.bytes,
            first_record_bytes: written.bytes,
            tail_may_be_torn: false,
            may_bring_back: false,
            poison: None,
        })
    }

    /// What the durable edits add up to.
    pub fn state(&self) -> &ManifestState {
        &self.state
    }

    /// Why it takes no more edits, if it does not.
    pub fn poison(&self) -> Option<&Error> {
        self.poison.as_ref()
    }

    /// Whether a crash may still bring back the edit that failed last, so that the files it names must stay.
    pub const fn may_bring_back(&self) -> bool {
        self.may_bring_back
    }

    /// Makes an edit durable.
    ///
    /// # Errors
    /// `Internal` for an edit that does not fit the state; `NoSpace` or `Io` when the edit cannot be written: it
    /// does not count, but see [`Manifest::may_bring_back`]; `Poisoned` after a failed sync.
    pub fn commit(&mut self, edit: &VersionEdit) -> Result<()> {
        if let Some(poison) = &self.poison {
            return Err(poison.context("the manifest takes no more edits"));
        }
        self.may_bring_back = false;
        let mut next = self.state.clone();
        next.apply(edit).map_err(|found| Error::internal(format!("an edit states {found}")))?;
        let grown =
            self.end > REWRITE_ABOVE_BYTES.max(REWRITE_GROWTH.saturating_mul(self.first_record_bytes));
        // NOTE: the first edit is in the first record, which can't be cut off: without a floor a shard looks new.
        let is_first = self.state.wal_floor == SegmentNumber(0);
        if self.tail_may_be_torn || grown || is_first {
            self.rewrite(&next)?;
        } else {
            self.append(edit)?;
        }
        self.state = next;
        Ok(())
    }

    fn append(&mut self, edit: &VersionEdit) -> Result<()> {
        let mut record = Vec::new();
        put(&mut record, KIND_EDIT, self.shard, self.end, &edit.encode()?);
        if let Err(error) = write_all_at(&*self.file, &record, self.end) {
            self.tail_may_be_torn = true;
            self.may_bring_back = true;
            return Err(Error::io("write", &self.path, error));
        }
        if let Err(error) = self.file.sync_data() {
            let cause = Error::io("sync", &self.path, error);
            return Err(self.poisoned(cause));
        }
        self.end += record.len() as u64;
        Ok(())
    }

    fn rewrite(&mut self, state: &ManifestState) -> Result<()> {
        let written = write_new(&*self.storage, &self.dir, self.shard, state)?;
        if let Err(error) = install_new(&*self.storage, &self.dir) {
            // Which of the two files a crash would leave is not known any more.
            return Err(self.poisoned(error));
        }
        self.file = written.file;
        self.end = written.bytes;
        self.first_record_bytes = written.bytes;
        self.tail_may_be_torn = false;
        Ok(())
    }

    fn poisoned(&mut self, cause: Error) -> Error {
        self.may_bring_back = true;
        self.poison_for(cause)
    }

    /// Takes no more edits, for this reason.
    pub fn poison_for(&mut self, cause: Error) -> Error {
        let poison = Error::with_source(ErrorKind::Poisoned, "the manifest could not be made durable", cause);
        self.poison = Some(poison.clone());
        poison
    }
}

struct NewManifest {
    file: Arc<dyn StorageFile>,
    bytes: u64,
}

fn write_new(
    storage: &dyn Storage,
    dir: &Path,
    shard: ShardId,
    state: &ManifestState,
) -> Result<NewManifest> {
    let path = dir.join(NEW_MANIFEST_NAME);
    match storage.remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("remove", &path, error)),
    }
    let file = storage.open(&path, OpenMode::CreateNew).map_err(|error| Error::io("create", &path, error))?;
    let mut record = Vec::new();
    put(&mut record, KIND_STATE, shard, 0, &state.as_edit().encode()?);
    write_all_at(&*file, &record, 0).map_err(|error| Error::io("write", &path, error))?;
    file.sync_data().map_err(|error| Error::io("sync", &path, error))?;
    Ok(NewManifest { file, bytes: record.len() as u64 })
}

fn install_new(storage: &dyn Storage, dir: &Path) -> Result<()> {
    let path = dir.join(MANIFEST_NAME);
    storage
        .rename(&dir.join(NEW_MANIFEST_NAME), &path)
        .map_err(|error| Error::io("replace", &path, error))?;
    storage.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
}

fn put(out: &mut Vec<u8>, kind: u8, shard: ShardId, offset: u64, body: &[u8]) {
    let head = RecordHead { magic: MAGIC, kind, version: VERSION, skippable: false };
    put_record(out, head, seed(shard, offset), body);
}

fn seed(shard: ShardId, offset: u64) -> u64 {
    (u64::from(shard.0) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ offset
}

pub(super) fn read_state(bytes: &[u8], path: &Path, shard: ShardId) -> Result<ManifestState> {
    let mut state = ManifestState::default();
    let mut offset = 0usize;
    loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        let at = offset as u64;
        match read_record(rest, MAGIC, seed(shard, at), bytes.len()) {
            RecordRead::Record { head, body, bytes: length } => {
                if let Some(edit) = edit_of(head, body, path, at)? {
                    state
                        .apply(&edit)
                        .map_err(|found| Error::corruption(path, at, "an edit that fits", found))?;
                }
                offset += length;
            }
            RecordRead::End if offset > 0 => return Ok(state),
            RecordRead::End => return Err(Error::corruption(path, 0, "a first record", "an empty file")),
            RecordRead::Broken { expected, found } => {
                // NOTE: the last record may be torn: nothing has acted on it then. The first cannot be: the
                // file got its name after its sync. Nor can one that an intact record follows.
                if offset == 0 || intact_record_behind(bytes, offset, shard) {
                    return Err(Error::corruption(path, at, expected, found));
                }
                return Ok(state);
            }
        }
    }
}

fn edit_of(head: RecordHead, body: &[u8], path: &Path, offset: u64) -> Result<Option<VersionEdit>> {
    let known = (if offset == 0 { KIND_STATE } else { KIND_EDIT }) == head.kind && head.version == VERSION;
    if known {
        return VersionEdit::decode(body, path, offset).map(Some);
    }
    if head.skippable && offset > 0 {
        return Ok(None);
    }
    Err(Error::invalid(format!(
        "{} holds a record of kind {} version {} at offset {offset}, which this version of dbex does not know",
        path.display(),
        head.kind,
        head.version
    )))
}

fn intact_record_behind(bytes: &[u8], broken: usize, shard: ShardId) -> bool {
    (broken + 1..bytes.len()).any(|offset| {
        let rest = bytes.get(offset..).unwrap_or_default();
        rest.starts_with(&MAGIC)
            && matches!(
                read_record(rest, MAGIC, seed(shard, offset as u64), bytes.len()),
                RecordRead::Record { .. }
            )
    })
}

#[cfg(test)]
#[path = "manifest_test.rs"]
mod tests;
