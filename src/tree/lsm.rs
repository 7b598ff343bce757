//! The tree of one shard: its read view, its manifest, and how both change together. What flushes and compacts
//! stands in `flush.rs` and `compact.rs`, what writes in `writer.rs`.
//!
//! ```text
//!   turn ── seal ───────────┐
//!   worker ── install ──► manifest lock: edit durable ──► publish: new view ──► old tables retired
//!   reader ◄── view (one atomic load)
//! ```

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    compaction::Merged,
    edit::VersionEdit,
    handle::TableHandle,
    jobs::{Fence, FencedPace, Jobs},
    load::Counters,
    manifest::Manifest,
    options::{TreeContext, TreeOptions},
    replaced::ReplacedViews,
    scan::TreeScan,
    version::Version,
    view::ReadView,
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{FileNumber, SegmentNumber, SeqNo, ShardId},
    key::{KeyHash, KeyRange},
    table::{Lookup, Pace, ReadMode},
    waiting::SlowMutex,
    wal::{SegmentPool, WalSync},
};

/// One shard's LSM tree. Passive: it starts no thread and reads no clock; turns, workers and readers call it,
/// from any thread.
pub struct Tree {
    pub(super) shard: ShardId,
    pub(super) dir: PathBuf,
    pub(super) options: TreeOptions,
    pub(super) context: TreeContext,
    pub(super) jobs: Arc<Jobs>,
    pub(super) fence: Arc<Fence>,
    pub(super) wal: Arc<WalSync>,
    pub(super) pool: Arc<SegmentPool>,
    pub(super) counters: Counters,
    view: ArcSwap<ReadView>,
    /// Held while a view is replaced, by turns and workers. Readers never wait for it.
    publishing: Mutex<()>,
    replaced: ReplacedViews,
    manifest: SlowMutex<ManifestSlot>,
    next_file: AtomicU64,
    /// The manifest takes no more edits, so memory could never be freed again: writes are refused.
    manifest_poisoned: AtomicBool,
    /// Recovered writes are in memory and in a log that cannot be trusted, and not in a table yet.
    recovery_unflushed: AtomicBool,
}

struct ManifestSlot {
    manifest: Manifest,
    /// New tables of edits whose append failed: a crash may still bring such an edit back, so their files stay
    /// until the manifest has been rewritten.
    limbo: Vec<PathBuf>,
}

/// What a tree is made of when it is opened.
pub(super) struct TreeParts {
    pub(super) shard: ShardId,
    pub(super) dir: PathBuf,
    pub(super) options: TreeOptions,
    pub(super) context: TreeContext,
    pub(super) wal: Arc<WalSync>,
    pub(super) pool: Arc<SegmentPool>,
    pub(super) manifest: Manifest,
    pub(super) view: ReadView,
    pub(super) next_file: FileNumber,
    pub(super) recovery_unflushed: bool,
}

impl Tree {
    pub(super) fn new(parts: TreeParts) -> Self {
        Self {
            shard: parts.shard,
            dir: parts.dir,
            options: parts.options,
            context: parts.context,
            jobs: Arc::default(),
            fence: Arc::default(),
            wal: parts.wal,
            pool: parts.pool,
            counters: Counters::new(parts.manifest.state().flushed_seqno),
            view: ArcSwap::from_pointee(parts.view),
            publishing: Mutex::new(()),
            replaced: ReplacedViews::default(),
            manifest: SlowMutex::new(ManifestSlot { manifest: parts.manifest, limbo: Vec::new() }),
            next_file: AtomicU64::new(parts.next_file.0),
            manifest_poisoned: AtomicBool::new(false),
            recovery_unflushed: AtomicBool::new(parts.recovery_unflushed),
        }
    }

    /// The shard it is the tree of.
    pub const fn shard(&self) -> ShardId {
        self.shard
    }

    /// The shard's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How it is laid out.
    pub const fn options(&self) -> &TreeOptions {
        &self.options
    }

    /// The current read view. While somebody holds it, the files it needs stay.
    pub fn view(&self) -> Arc<ReadView> {
        self.view.load_full()
    }

    /// The newest version of a key at or below `at`. A tombstone and an expired entry are found as they are.
    ///
    /// # Errors
    /// `Io` or `Corruption`.
    #[inline]
    pub fn get(&self, hash: KeyHash, key: &[u8], at: SeqNo, mode: ReadMode) -> Result<Lookup> {
        self.view.load().get(hash, key, at, mode)
    }

    /// Walks the visible entries of `range` from the current view. See [`ReadView::scan`].
    pub fn scan(&self, range: &KeyRange, reverse: bool, at: SeqNo, now_ms: u64) -> TreeScan {
        self.view().scan(range, reverse, at, now_ms)
    }

    /// What is written and durable of the shard's log.
    pub const fn wal(&self) -> &Arc<WalSync> {
        &self.wal
    }

    /// Whether [`Tree::prepare_segment`] has something to do.
    pub fn wants_segment(&self) -> bool {
        !self.fence.is_revoked() && self.pool.wanted()
    }

    /// Prepares a log segment ahead of need; a worker's job.
    ///
    /// # Errors
    /// `NoSpace` or `Io`: nothing is lost; `Busy` after [`Tree::revoke`].
    pub fn prepare_segment(&self) -> Result<()> {
        self.fence.pass(|| self.pool.prepare())
    }

    /// Whether [`Tree::remove_unneeded_segments`] has something to do.
    pub fn has_unneeded_segments(&self) -> bool {
        !self.fence.is_revoked() && self.pool.unneeded() > 0
    }

    /// Removes log segments that a recovery left behind, or a flush could not remove; a worker's job.
    ///
    /// # Errors
    /// `Io` when a file could not be removed: the next call tries again; `Busy` after [`Tree::revoke`].
    pub fn remove_unneeded_segments(&self) -> Result<()> {
        // NOTE: one at a time, so that a revocation need not wait for all of them.
        (0..self.pool.unneeded()).try_for_each(|_| self.fence.pass(|| self.pool.remove_one()))
    }

    /// Removes idle log segments until at most `keep` are left.
    ///
    /// # Errors
    /// `Io` when a file could not be removed: the next call tries again; `Busy` after [`Tree::revoke`].
    pub fn trim_segments(&self, keep: usize) -> Result<()> {
        self.fence.pass(|| self.pool.trim(keep))
    }

    /// Whether the tree takes writes.
    ///
    /// # Errors
    /// `Busy` after [`Tree::revoke`]; `Poisoned` after a failed sync of the log or the manifest; `NoSpace` while
    /// what was recovered could not be flushed yet.
    pub fn writable(&self) -> Result<()> {
        self.fence.check()?;
        self.manifest_writable()?;
        if self.wal.is_poisoned() {
            return Err(self.poisoned());
        }
        if self.recovery_unflushed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("shard {} has no room to write its recovered data to a table", self.shard),
            ));
        }
        Ok(())
    }

    /// Whether the manifest takes edits: what is sealed can become a table.
    ///
    /// # Errors
    /// `Poisoned` after a failed sync of the manifest.
    pub fn manifest_writable(&self) -> Result<()> {
        if self.manifest_poisoned.load(Ordering::Acquire) { Err(self.poisoned()) } else { Ok(()) }
    }

    /// Whether a turn may seal the active memtable, as far as is known without a lock.
    pub fn may_seal(&self) -> bool {
        self.takes_edits() && !self.recovery_unflushed.load(Ordering::Acquire)
    }

    fn poisoned(&self) -> Error {
        Error::new(
            ErrorKind::Poisoned,
            format!(
                "shard {} could not make a write durable and takes no more until it is re-opened",
                self.shard
            ),
        )
    }

    /// Ends this life of the shard: later payments, table creations and installs fail with `Busy`. Waits for the
    /// file operation that is under way, for no job. Views stay readable.
    pub fn revoke(&self) {
        self.fence.revoke();
    }

    /// Whether [`Tree::revoke`] was called.
    pub fn is_revoked(&self) -> bool {
        self.fence.is_revoked()
    }

    /// Reads every table of the current version in full and checks it.
    ///
    /// # Errors
    /// `Corruption`, `Io`, or what the pace fails with.
    pub fn verify(&self, pace: &Arc<dyn Pace>) -> Result<VerifySummary> {
        let view = self.view();
        let mut summary = VerifySummary::default();
        for table in view.version.tables() {
            table.table().verify(self.options.hash_seed, self.fenced(pace))?;
            summary.tables += 1;
            summary.bytes += table.record().file_bytes;
        }
        Ok(summary)
    }

    pub(super) fn fenced(&self, pace: &Arc<dyn Pace>) -> Arc<dyn Pace> {
        Arc::new(FencedPace { pace: Arc::clone(pace), fence: Arc::clone(&self.fence) })
    }

    /// Whether jobs that end in an edit make sense.
    pub(super) fn takes_edits(&self) -> bool {
        !self.fence.is_revoked() && !self.manifest_poisoned.load(Ordering::Acquire)
    }

    /// The number of the next table: all that there are have lower ones.
    pub fn next_table(&self) -> FileNumber {
        FileNumber(self.next_file.load(Ordering::Relaxed))
    }

    pub(super) fn take_file_number(&self) -> FileNumber {
        FileNumber(self.next_file.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn recovery_is_flushed(&self) {
        self.recovery_unflushed.store(false, Ordering::Release);
    }

    /// Replaces the view. Turns and workers both do: each sees the other's change.
    pub(super) fn publish(&self, change: impl FnOnce(&ReadView) -> ReadView) {
        let _one_at_a_time = self.publishing.lock();
        let next = change(&self.view.load());
        self.replaced.push(self.view.swap(Arc::new(next)));
    }

    /// Whether [`Tree::free_unread_views`] has something to do.
    pub fn has_unread_views(&self) -> bool {
        self.replaced.has_unread()
    }

    /// Frees what only views needed that nobody reads any more: a worker's job, which may take tens of milliseconds.
    pub fn free_unread_views(&self) {
        self.replaced.free_unread();
    }

    /// Installs an edit: makes it durable, publishes what `change` makes of the view and the new version, and
    /// retires the tables that it removed. `added` are the handles of the edit's new and moved tables.
    ///
    /// IMPORTANT: nothing is removed and no log is freed before this has returned.
    pub(super) fn install(
        &self,
        mut edit: VersionEdit,
        merged: &mut Merged,
        added: Vec<Arc<TableHandle>>,
        change: impl FnOnce(&ReadView, Arc<Version>) -> ReadView,
    ) -> Result<()> {
        self.fence.pass(|| {
            let mut slot = self.manifest.lock();
            let current = self.view();
            let version = current.version.with(&edit.removed, added, &self.options.picker());
            let version = version.map_err(|found| Error::internal(format!("an install makes {found}")))?;
            edit.next_file = FileNumber(self.next_file.load(Ordering::Relaxed));
            self.commit(&mut slot, &edit, merged)?;
            let version = Arc::new(version);
            self.publish(|view| change(view, version));
            let stays = |file: &FileNumber| edit.added.iter().any(|table| table.file == *file);
            for table in current.version.tables() {
                let file = table.record().file;
                if edit.removed.contains(&file) && !stays(&file) {
                    table.retire();
                }
            }
            Ok(())
        })
    }

    /// Moves the manifest's floor to `segment`: nothing of the recovered log before it is needed.
    pub(super) fn pass_log(&self, segment: SegmentNumber) -> Result<()> {
        self.install_fact(VersionEdit { wal_floor: Some(segment), ..VersionEdit::default() })?;
        self.free_log(segment)
    }

    /// Makes it durable that the node's clock has come so far.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Poisoned` from the manifest.
    pub fn note_clock(&self, now_ms: u64) -> Result<()> {
        self.install_fact(VersionEdit { clock_high_ms: now_ms, ..VersionEdit::default() })
    }

    /// Installs an edit that changes no table.
    fn install_fact(&self, edit: VersionEdit) -> Result<()> {
        let mut nothing = Merged::new(Arc::clone(&self.context.storage), self.dir.clone());
        self.install(edit, &mut nothing, Vec::new(), |view, version| ReadView {
            active: Arc::clone(&view.active),
            sealed: view.sealed.clone(),
            version,
            flush_count: view.flush_count,
            flushed_bytes: view.flushed_bytes,
        })
    }

    /// Frees a log that recovery has made durable, up to `segment`. The files stay for
    /// [`Tree::remove_unneeded_segments`].
    pub(super) fn free_log(&self, segment: SegmentNumber) -> Result<()> {
        self.fence.pass(|| self.pool.free(segment))
    }

    /// No edit counts any more: what it names may not be durable.
    pub(super) fn poison_manifest(&self, cause: Error) -> Error {
        let poison = self.manifest.lock().manifest.poison_for(cause);
        self.manifest_poisoned.store(true, Ordering::Release);
        poison
    }

    fn commit(&self, slot: &mut ManifestSlot, edit: &VersionEdit, merged: &mut Merged) -> Result<()> {
        let committed = slot.manifest.commit(edit);
        if slot.manifest.poison().is_some() {
            self.manifest_poisoned.store(true, Ordering::Release);
        }
        match committed {
            Ok(()) => {
                merged.keep_files();
                for path in slot.limbo.drain(..) {
                    // NOTE: a file that stays is found and removed when the shard is opened next.
                    drop(self.context.storage.remove_file(&path));
                }
                Ok(())
            }
            Err(error) => {
                if slot.manifest.may_bring_back() {
                    slot.limbo.extend(merged.paths());
                    merged.keep_files();
                }
                Err(error)
            }
        }
    }
}

/// What [`Tree::verify`] has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifySummary {
    /// Tables.
    pub tables: u64,
    /// Their bytes.
    pub bytes: u64,
}
