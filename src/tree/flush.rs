//! Flushing: all sealed memtables become one L0 table. There is one flush at a time, so that they are installed
//! oldest first; a flush that fails leaves the memtables where they are, to be planned again.

use std::sync::Arc;

use super::{
    compaction::{Below, Merged, ReadPositions, Readers, Target, gather_deletes, merge_into_tables},
    edit::VersionEdit,
    handle::TableHandle,
    jobs::FlushMark,
    lsm::Tree,
    merge::MergeCursor,
    view::{ReadView, SealedMemtable},
};
use crate::{
    error::{Error, Result},
    ids::{Level, SegmentNumber},
    table::Pace,
    waiting::yield_now,
};

/// What to flush. Dropped, it gives the memtables back.
pub struct FlushPlan {
    /// Newest first, and down to the oldest.
    sealed: Vec<Arc<SealedMemtable>>,
    readers: Readers,
    clock_ms: u64,
    below: Below,
    mark: FlushMark,
}

impl FlushPlan {
    /// The bytes of keys and values that are read.
    pub fn input_bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.memtable.data_bytes()).sum()
    }

    /// What the memtables take that are given back.
    pub fn memory_bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.memtable.memory_bytes() as u64).sum()
    }

    /// How many memtables are flushed.
    pub const fn memtables(&self) -> usize {
        self.sealed.len()
    }
}

/// A flush that is written and not installed. Dropped, it removes its table and gives the memtables back.
pub struct FlushOutput {
    merged: Merged,
    sealed: Vec<Arc<SealedMemtable>>,
    clock_high_ms: u64,
    _mark: FlushMark,
}

/// What a flush did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlushDone {
    /// Memtables that left memory.
    pub memtables: usize,
    /// New L0 tables; none if nothing was left to keep.
    pub tables_added: usize,
    /// Bytes of new tables.
    pub bytes_written: u64,
    /// Entries in them.
    pub entries: u64,
    /// The log is needed from this segment on.
    pub wal_floor: SegmentNumber,
    /// Freeing the log failed; the next flush tries again.
    pub release_error: Option<Error>,
}

impl Tree {
    /// Plans the flush of every sealed memtable; `None` if there is none, one is under way, or the tree takes no
    /// more edits.
    ///
    /// `positions`: where it is read, now or later. `now_ms`: no reader's time lies before it. `clock_ms`: where the
    /// node's clock stands.
    pub fn plan_flush(
        &self,
        positions: impl Into<ReadPositions>,
        now_ms: u64,
        clock_ms: u64,
    ) -> Option<FlushPlan> {
        if !self.takes_edits() || self.view().sealed.is_empty() {
            return None;
        }
        let mark = FlushMark::take(&self.jobs)?;
        // NOTE: loaded again under the mark: the flush before this one may have been installed just now.
        let view = self.view();
        if view.sealed.is_empty() {
            return None;
        }
        Some(FlushPlan {
            sealed: view.sealed.clone(),
            readers: Readers { positions: positions.into(), now_ms },
            clock_ms,
            below: Below::memtables(view.version.levels()),
            mark,
        })
    }

    /// Writes the table of a flush, paying for each chunk. Its content is durable on return.
    ///
    /// It yields first when the memtables are sorted, which scans may wait for, then every few milliseconds, and once before
    /// its [end](Pace::begin_end). It waits for nothing but the pace and the disk, on the thread that polls it.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, or what the pace fails with; the flush can be planned again.
    pub async fn run_flush(&self, plan: FlushPlan, pace: &Arc<dyn Pace>) -> Result<FlushOutput> {
        let FlushPlan { sealed, readers, clock_ms, below, mark } = plan;
        let target = Target {
            storage: &self.context.storage,
            shard: self.shard,
            shard_dir: self.dir.clone(),
            level: Level::L0,
            run: 0,
            options: self.options.table(Level::L0),
            table_bytes: u64::MAX,
            hash_seed: self.options.hash_seed,
            pace: self.fenced(pace),
            fence: Arc::clone(&self.fence),
            next_file: &|| self.take_file_number(),
        };
        let memtables = sealed.iter().map(|sealed| sealed.memtable.cursor());
        let sets: Vec<_> = sealed.iter().filter_map(|sealed| sealed.memtable.range_deletes()).collect();
        let sets = sets.iter().flat_map(|sets| sets.iter().map(|set| &**set));
        let deletes = gather_deletes(sets, &readers.positions);
        let cursor = MergeCursor::new(memtables);
        yield_now().await;
        let merged = merge_into_tables(cursor, &deletes, &readers, &below, &target).await?;
        self.sync_level(Level::L0, &merged)?;
        Ok(FlushOutput { merged, sealed, clock_high_ms: clock_ms, _mark: mark })
    }

    /// Installs a flush: makes it part of the manifest, drops the memtables from the view, frees the log.
    ///
    /// `sync_batches` must make every cross-shard frame that any shard has written durable: when this flush
    /// is in the manifest, a recovery takes this shard's part of each batch up to it for standing.
    ///
    /// # Errors
    /// What `sync_batches` fails with; `NoSpace`, `Io`, `Poisoned` from the manifest; `Busy` after
    /// [`Tree::revoke`]. The memtables stay, and can be planned again.
    pub fn install_flush(
        &self,
        mut output: FlushOutput,
        sync_batches: &dyn Fn() -> Result<()>,
    ) -> Result<FlushDone> {
        self.fence.check()?;
        sync_batches()?;
        let mut done = self.install_flush_edit(&mut output, true)?;
        // NOTE: the output is kept until then: it marks that the flush is under way.
        done.release_error = self.fence.pass(|| self.pool.release(done.wal_floor)).err();
        Ok(done)
    }

    /// The same during recovery: cancelled batches are remembered until every shard has finished, and the log is not
    /// freed.
    pub(super) fn install_flush_edit(
        &self,
        output: &mut FlushOutput,
        forget_cancelled: bool,
    ) -> Result<FlushDone> {
        let wal_floor = output.sealed.iter().map(|sealed| sealed.next_segment).max().unwrap_or_default();
        let highest = output
            .sealed
            .iter()
            .filter_map(|sealed| sealed.memtable.seqno_range())
            .map(|range| range.1)
            .max();
        let synced = self.wal.synced();
        let edit = VersionEdit {
            added: output.merged.tables.clone(),
            wal_floor: Some(wal_floor),
            flushed_seqno: highest,
            wal_synced: Some((synced.segment, synced.offset)),
            clock_high_ms: output.clock_high_ms,
            forget_cancelled,
            ..VersionEdit::default()
        };
        let added = self.open_tables(&output.merged)?;
        let flushed = &output.sealed;
        let input: u64 = flushed.iter().map(|sealed| sealed.memtable.data_bytes()).sum();
        self.install(edit, &mut output.merged, added, |view, version| ReadView {
            active: Arc::clone(&view.active),
            sealed: view
                .sealed
                .iter()
                .filter(|s| !flushed.iter().any(|f| Arc::ptr_eq(f, s)))
                .cloned()
                .collect(),
            version,
            flush_count: view.flush_count + 1,
            flushed_bytes: view.flushed_bytes + input,
        })?;
        self.recovery_is_flushed();
        self.counters.flushed(output.merged.bytes(), highest.unwrap_or_default());
        Ok(FlushDone {
            memtables: output.sealed.len(),
            tables_added: output.merged.tables.len(),
            bytes_written: output.merged.bytes(),
            entries: output.merged.entries_written,
            wal_floor,
            release_error: None,
        })
    }

    /// Makes the names of new tables durable.
    pub(super) fn sync_level(&self, level: Level, merged: &Merged) -> Result<()> {
        if merged.tables.is_empty() {
            return Ok(());
        }
        let dir = self.dir.join(level.dir_name());
        // IMPORTANT: never tried again. The sync of another job beside this one could pass, and not have made its
        // names durable: they may have gone with this failure.
        self.context
            .storage
            .sync_dir(&dir)
            .map_err(|error| self.poison_manifest(Error::io("sync", &dir, error)))
    }

    pub(super) fn open_tables(&self, merged: &Merged) -> Result<Vec<Arc<TableHandle>>> {
        let open = |record| TableHandle::open(&self.context, self.shard, &self.dir, Arc::new(record));
        merged.tables.iter().cloned().map(open).collect()
    }
}
