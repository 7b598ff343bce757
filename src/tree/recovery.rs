//! Opening a shard, in three steps, each of which all shards of the node take before any takes the next: *read*
//! finds what is on disk and changes nothing that matters; when the node knows where every shard's log is cut,
//! *settle* makes the cut permanent; *finish* makes it a tree.
//!
//! ```text
//!   read     manifest ─► tables are there? ─► log                       (nothing is removed)
//!   settle   manifest anew ─► files nobody names go ─► log anew: the cut is permanent
//!            (the log is replayed meanwhile)
//!   finish   flush
//! ```
//! Who only reads ends after the first step, with a view of what was found ([`TreeRecovery::into_view`]).
//!
//! IMPORTANT: this order. What was read may come from pages whose sync failed, so nothing is removed or written
//! over on its word before it has been written and synced anew.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    cut::{BatchMark, Cut, ShardLog},
    edit::VersionEdit,
    handle::TableHandle,
    listing::{WAL_DIR, list_shard},
    lsm::{Tree, TreeParts},
    manifest::{MANIFEST_NAME, Manifest, ManifestState},
    options::{TreeContext, TreeOptions},
    replay::{Replay, Replayed},
    version::Version,
    view::ReadView,
    writer::TreeWriter,
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{BatchId, FileNumber, Level, SegmentNumber, SeqNo, ShardId},
    table::{NoPace, Pace},
    waiting::block_on,
    wal::{
        Discarded, FrameKind, LogPosition, RecoveredLog, SegmentPool, WalSync, WalWriter, create_log,
        read_log, segment_path,
    },
};

/// What recovery found of one shard, before anything of it is decided.
pub struct TreeRecovery {
    context: TreeContext,
    options: TreeOptions,
    shard: ShardId,
    dir: PathBuf,
    is_new: bool,
    state: ManifestState,
    log: Arc<RecoveredLog>,
    batches: Vec<BatchMark>,
    cancelled: Vec<BatchId>,
    /// Table files that the manifest does not name.
    orphans: Vec<PathBuf>,
    highest_file: FileNumber,
    strangers: Vec<PathBuf>,
}

/// What opening a shard did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecoverySummary {
    /// The shard.
    pub shard: ShardId,
    /// Frames that were replayed.
    pub frames_replayed: u64,
    /// Entries that were replayed.
    pub entries_replayed: u64,
    /// Frames that fell with a cross-shard batch that does not stand.
    pub frames_cut: u64,
    /// Cancelled batches that were skipped.
    pub batches_void: u64,
    /// What the log lost behind its end.
    pub discarded: Option<Discarded>,
    /// Files that are not the shard's; they are left alone.
    pub strangers: Vec<PathBuf>,
    /// Files that an interrupted job left, and that were removed.
    pub removed_files: u64,
    /// Whether the shard takes writes. If not, the disk is full: a flush will make it so.
    pub writable: bool,
}

impl TreeRecovery {
    /// Reads a shard's directory; makes it if there is no trace of the shard.
    ///
    /// # Errors
    /// `Corruption` when manifest or log are damaged, or a table is missing: the shard refuses. `Invalid` for files
    /// of a newer version. `Io`, `NoSpace`.
    pub fn read(context: TreeContext, options: TreeOptions, shard: ShardId, dir: PathBuf) -> Result<Self> {
        let storage = &context.storage;
        let state = Manifest::read(&**storage, &dir, shard)?;
        let is_new = state.is_none();
        let found = list_shard(&**storage, &dir)?;
        if is_new && let Some(trace) = found.tables.keys().next().or(found.segments.first()) {
            let expected = format!("a manifest beside {}", trace.display());
            return Err(Error::corruption(&dir.join(MANIFEST_NAME), 0, expected, "no file"));
        }
        let state = state.unwrap_or_default();
        let named: HashSet<PathBuf> = state.tables.values().map(|table| table.path(&dir)).collect();
        if let Some(missing) = named.iter().find(|path| !found.tables.contains_key(*path)) {
            return Err(Error::corruption(missing, 0, "a table that the manifest names", "no file"));
        }
        let wal_dir = dir.join(WAL_DIR);
        let synced = state.wal_synced.map(|(segment, offset)| LogPosition { segment, offset });
        let log = read_log(storage, &wal_dir, shard, state.wal_floor, synced)?;
        check_floor(&log, state.wal_floor, &wal_dir)?;
        let orphans = found.tables.keys().filter(|path| !named.contains(*path)).cloned().collect();
        let mut strangers = found.strangers;
        strangers.extend(log.strangers.iter().cloned());
        let (batches, mut cancelled) = marks_of(&log);
        cancelled.extend(state.cancelled.iter().copied());
        Ok(Self {
            highest_file: found.tables.values().copied().max().unwrap_or_default(),
            context,
            options,
            shard,
            dir,
            is_new,
            state,
            log: Arc::new(log),
            batches,
            cancelled,
            orphans,
            strangers,
        })
    }

    /// What [`consistent_cut`](super::consistent_cut) wants to know of this shard.
    pub fn shard_log(&self) -> ShardLog {
        ShardLog {
            frames: self.frames(),
            batches: self.batches.clone(),
            cancelled: self.cancelled.clone(),
            flushed_seqno: self.flushed_seqno(),
            refused: false,
        }
    }

    /// The frames of cross-shard batches in the log.
    pub fn batches(&self) -> &[BatchMark] {
        &self.batches
    }

    /// The batches whose cancellation is known here.
    pub fn cancelled(&self) -> &[BatchId] {
        &self.cancelled
    }

    /// How many frames the log holds.
    pub fn frames(&self) -> usize {
        self.log.frames.len()
    }

    /// Every write of the shard up to here lies in its tables.
    pub const fn flushed_seqno(&self) -> SeqNo {
        self.state.flushed_seqno
    }

    /// The highest sequence number that was ever handed out, as far as this shard knows; discarded frames count.
    pub fn highest_seqno(&self) -> SeqNo {
        self.state.highest_seqno.max(self.log.highest_seqno)
    }

    /// The node's clock was here: it must not start below the greatest of its shards'.
    pub const fn clock_high_ms(&self) -> u64 {
        self.state.clock_high_ms
    }

    /// What the log lost behind its end, to be reported.
    pub fn discarded(&self) -> Option<&Discarded> {
        self.log.discarded.as_ref()
    }

    /// Files that are not the shard's, to be reported.
    pub fn strangers(&self) -> &[PathBuf] {
        &self.strangers
    }

    /// Makes the recovered log durable. For every shard, before any shard finishes: a flush relies on the batches
    /// in other shards' logs.
    ///
    /// # Errors
    /// `Io`; nothing in the log counts as durable then.
    pub fn sync_log(&self) -> Result<()> {
        self.log.sync()
    }

    /// The replay of what the cut leaves of the log, for [`SettledRecovery::finish`]. It can run at any time before
    /// that, on any thread.
    pub fn replay(&self, cut: &Cut) -> Replay {
        Replay {
            log: Arc::clone(&self.log),
            cut: cut.clone(),
            flushed_seqno: self.state.flushed_seqno,
            options: self.options.clone(),
            next_segment: self.log.next_segment(),
        }
    }

    /// Makes the cut permanent: what was discarded can never come back, and cancelled batches are remembered.
    /// Nothing is replayed yet.
    ///
    /// `highest_seqno` is the node's: no number up to it is handed out again. `incarnation_seed` should be random.
    /// IMPORTANT: every shard that is opened settles before any of them finishes. A flush makes a batch count as
    /// standing, and then no shard may lose its cut any more.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: opening again, with all the others, starts over.
    pub fn settle(
        mut self,
        cut: Cut,
        highest_seqno: SeqNo,
        incarnation_seed: u64,
    ) -> Result<SettledRecovery> {
        let manifest = self.write_manifest(&cut, highest_seqno)?;
        let removed_files = self.remove_orphans();
        let new_log = self.log.successor(cut.keep_frames, self.options.wal.clone(), incarnation_seed);
        let log = create_log(new_log)?;
        Ok(SettledRecovery { recovery: self, cut, highest_seqno, manifest, log, removed_files })
    }

    /// Makes what a reader sees of it, and changes nothing on disk: for who does not settle.
    ///
    /// # Errors
    /// `Corruption` when the manifest's tables do not fit together.
    pub fn into_view(self, cut: &Cut, replayed: Replayed) -> Result<(Arc<ReadView>, RecoverySummary)> {
        let summary = RecoverySummary { writable: false, ..self.summary(cut, &replayed, 0) };
        let version = self.version(&self.state)?;
        Ok((Arc::new(replayed.into_view(version)), summary))
    }

    /// The tables of a state. Reads nothing.
    fn version(&self, state: &ManifestState) -> Result<Arc<Version>> {
        let open = |record| TableHandle::open(&self.context, self.shard, &self.dir, Arc::clone(record));
        let tables = state.tables.values().map(open).collect::<Result<Vec<_>>>()?;
        let version = Version::new(tables, &self.options.picker()).map_err(|found| {
            Error::corruption(&self.dir.join(MANIFEST_NAME), 0, "tables that fit together", found)
        })?;
        Ok(Arc::new(version))
    }

    /// Writes the whole state anew, with what the cut adds to it.
    fn write_manifest(&mut self, cut: &Cut, highest_seqno: SeqNo) -> Result<Manifest> {
        // NOTE: at every open: a power loss while the shard was made can leave its manifest and take a directory.
        let storage = &self.context.storage;
        let made = Level::ALL.iter().map(|level| level.dir_name()).chain([WAL_DIR]);
        for dir in made.map(|name| self.dir.join(name)) {
            storage.create_dir_all(&dir).map_err(|error| Error::io("create", &dir, error))?;
        }
        storage.sync_dir(&self.dir).map_err(|error| Error::io("sync", &self.dir, error))?;
        if self.is_new
            && let Some(parent) = self.dir.parent()
        {
            storage.sync_dir(parent).map_err(|error| Error::io("sync", parent, error))?;
        }
        let edit = VersionEdit {
            next_file: self.highest_file.next(),
            highest_seqno: highest_seqno.max(self.highest_seqno()),
            // NOTE: remembered until all shards have finished. This shard's flush would hide that the batch was
            // cancelled, from a recovery that another shard still needs.
            cancelled: cut.void.iter().chain(&self.cancelled).copied().collect(),
            ..VersionEdit::default()
        };
        self.state.apply(&edit).map_err(|found| Error::internal(format!("recovery states {found}")))?;
        // The log may be cut before what was synced of it.
        self.state.wal_synced = None;
        Manifest::create(Arc::clone(&self.context.storage), &self.dir, self.shard, self.state.clone())
    }

    /// Removes table files that the manifest, durable now, does not name; those that a former life of the shard
    /// still reads go with its last reader.
    fn remove_orphans(&self) -> u64 {
        let unused = self.orphans.iter().filter(|path| self.context.live.retire(path));
        // NOTE: one that stays is tried again at the next open.
        unused.filter(|path| self.context.storage.remove_file(path).is_ok()).count() as u64
    }

    fn summary(&self, cut: &Cut, replayed: &Replayed, removed_files: u64) -> RecoverySummary {
        RecoverySummary {
            shard: self.shard,
            frames_replayed: replayed.frames,
            entries_replayed: replayed.entries,
            frames_cut: self.frames().saturating_sub(cut.keep_frames) as u64,
            batches_void: cut.void.len() as u64,
            discarded: self.log.discarded.clone(),
            strangers: self.strangers.clone(),
            removed_files,
            writable: true,
        }
    }
}

/// A shard whose cut is permanent.
pub struct SettledRecovery {
    recovery: TreeRecovery,
    cut: Cut,
    highest_seqno: SeqNo,
    manifest: Manifest,
    log: (WalWriter, Arc<WalSync>, Arc<SegmentPool>),
    removed_files: u64,
}

impl SettledRecovery {
    /// Makes a tree of it, and flushes what was replayed.
    ///
    /// IMPORTANT: every shard of the node finishes before any of them takes a write or a flush.
    ///
    /// # Errors
    /// `Corruption`, `NoSpace`, `Io`: opening again starts over. If the disk is full only when the recovered
    /// writes are flushed, the tree opens, and refuses writes until they are.
    pub fn finish(self, replayed: Replayed) -> Result<(Arc<Tree>, TreeWriter, RecoverySummary)> {
        let Self { recovery, cut, highest_seqno, manifest, log: (wal, sync, pool), removed_files } = self;
        let mut summary = recovery.summary(&cut, &replayed, removed_files);
        let version = recovery.version(manifest.state())?;
        let Replayed { memtable, active, sealed, .. } = replayed;
        let needs_flush = !sealed.is_empty();
        let tree = Arc::new(Tree::new(TreeParts {
            next_file: manifest.state().next_file,
            shard: recovery.shard,
            dir: recovery.dir,
            options: recovery.options,
            context: recovery.context,
            wal: sync,
            pool,
            manifest,
            view: ReadView { active, sealed, version, flush_count: 0, flushed_bytes: 0 },
            recovery_unflushed: needs_flush,
        }));
        summary.writable = flush_recovered(&tree, &wal, needs_flush, highest_seqno)?;
        let writer = TreeWriter::new(Arc::clone(&tree), memtable, wal);
        Ok((tree, writer, summary))
    }
}

/// Brings what was replayed into tables and moves the manifest's floor past the recovered log, which must be
/// before the first append. Whether that worked; if not, the disk is full.
fn flush_recovered(
    tree: &Arc<Tree>,
    wal: &WalWriter,
    needs_flush: bool,
    highest_seqno: SeqNo,
) -> Result<bool> {
    let flushed = match tree.plan_flush(highest_seqno, 0, 0) {
        Some(plan) => {
            let pace: Arc<dyn Pace> = Arc::new(NoPace);
            let output = block_on(tree.run_flush(plan, &pace));
            let done = output.and_then(|mut output| tree.install_flush_edit(&mut output, false));
            done.and_then(|done| tree.free_log(done.wal_floor))
        }
        None => tree.pass_log(wal.current_segment()),
    };
    match flushed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NoSpace && needs_flush => Ok(false),
        Err(error) => Err(error),
    }
}

/// The floor's segment had its name, durably, before the manifest stated it, and is the first to go once the
/// manifest states a higher one. Where it is missing that record is lost, and with it what was flushed.
fn check_floor(log: &RecoveredLog, floor: SegmentNumber, wal_dir: &Path) -> Result<()> {
    if floor == SegmentNumber(0) || log.segments.first() == Some(&floor) {
        return Ok(());
    }
    let expected = "the log's first segment, says the manifest, whose last record may be damaged";
    Err(Error::corruption(&segment_path(wal_dir, floor), 0, expected, "no file"))
}

fn marks_of(log: &RecoveredLog) -> (Vec<BatchMark>, Vec<BatchId>) {
    let (mut batches, mut cancelled) = (Vec::new(), Vec::new());
    for (frame_index, frame) in log.frames.iter().enumerate() {
        match &frame.kind {
            FrameKind::Data => {}
            FrameKind::Batch { id, participants } => {
                batches.push(BatchMark { id: *id, participants: participants.clone(), frame_index });
            }
            FrameKind::Cancel { id } => cancelled.push(*id),
        }
    }
    (batches, cancelled)
}
