//! Compactions of a tree: planned by the picker, run by a worker, installed as one edit. Several may run
//! at once; what each takes is marked.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    compaction::{
        Below, Choice, FullBound, FullChoice, Levels, Merged, PickerOptions, ReadPositions, Readers,
        Situation, Target, TargetRun, Watermark, gather_deletes, merge_into_tables, pick, pick_full, span_of,
    },
    edit::{TableRecord, VersionEdit},
    handle::TableHandle,
    jobs::{CompactionMark, JobState},
    lsm::Tree,
    merge::MergeCursor,
    run_cursor::RunCursor,
    scan::SourceCursor,
    version::Version,
    view::ReadView,
};
use crate::{
    error::{Error, Result},
    ids::{Level, SeqNo},
    key::KeyRange,
    range_delete::RangeDeletes,
    table::{CursorSource, Pace},
};

/// What to compact. Dropped, it frees its inputs for another plan.
pub struct CompactionPlan {
    choice: Choice,
    inputs: Vec<Arc<TableHandle>>,
    below: Below,
    readers: Readers,
    run: u64,
    is_asked: bool,
    mark: CompactionMark,
}

impl CompactionPlan {
    /// The bytes of the input tables.
    pub fn input_bytes(&self) -> u64 {
        self.choice.inputs.iter().map(|table| table.file_bytes).sum()
    }

    /// Whether the inputs only change their level: nothing is read or written.
    pub const fn is_move(&self) -> bool {
        self.choice.is_move
    }

    /// How urgent it is; 1,000 is due.
    pub const fn score_permille(&self) -> u32 {
        self.choice.score_permille
    }

    /// The highest level among the inputs.
    pub const fn from(&self) -> Level {
        self.choice.from
    }

    /// Where the outputs go.
    pub const fn to(&self) -> Level {
        self.choice.target
    }
}

/// What a full compaction of a range has to do next.
pub enum FullCompaction {
    /// Nothing: the range lies in the last level, and nothing there can be dropped.
    Nothing,
    /// Wait for a running compaction, and ask again.
    Busy,
    /// Run and install this, and ask again.
    Plan(Box<CompactionPlan>),
}

/// A compaction that is written and not installed. Dropped, it removes its tables and frees its inputs.
pub struct CompactionOutput {
    choice: Choice,
    inputs: Vec<Arc<TableHandle>>,
    run: u64,
    is_asked: bool,
    merged: Merged,
    /// What was dropped had expired by then.
    clock_high_ms: u64,
    _mark: CompactionMark,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionDone {
    /// The highest level among the inputs.
    pub from: Level,
    /// Where the outputs went.
    pub to: Level,
    /// Input tables.
    pub tables_in: usize,
    /// Output tables.
    pub tables_out: usize,
    /// Bytes that left the highest level.
    pub bytes_taken: u64,
    /// Bytes of the inputs; 0 for a move.
    pub bytes_read: u64,
    /// Bytes of the outputs; 0 for a move.
    pub bytes_written: u64,
    /// Entries that nobody needed any more.
    pub entries_dropped: u64,
    /// Data blocks that were taken over as they were.
    pub blocks_copied: u64,
    /// Whether the tables only changed their level.
    pub moved: bool,
}

/// Whether a shard has time to tidy up: it holds no write in memory.
pub(super) fn is_at_rest(view: &ReadView) -> bool {
    view.active.is_empty() && view.sealed.is_empty()
}

/// Why there is no plan.
enum Wait {
    Nothing,
    Busy,
}

impl Tree {
    /// Plans the most urgent compaction; `None` if none is due, or what it needs is taken.
    ///
    /// `positions`: where it is read, now or later. `now_ms`: no reader's time lies before it.
    pub fn plan_compaction(
        &self,
        positions: impl Into<ReadPositions>,
        now_ms: u64,
    ) -> Option<CompactionPlan> {
        let readers = Readers { positions: positions.into(), now_ms };
        self.plan(readers, |situation| pick(situation).ok_or(Wait::Nothing)).ok()
    }

    /// Whether no background work is under way and none could be planned. Looks only, and all at once.
    ///
    /// The arguments are as for [`Tree::plan_compaction`].
    pub fn is_at_rest(&self, positions: impl Into<ReadPositions>, now_ms: u64) -> bool {
        let watermark = Readers { positions: positions.into(), now_ms }.watermark();
        self.jobs.with(|state| {
            // NOTE: loaded under the lock: a job whose marks are gone has published its install before.
            let view = self.view();
            !state.flush_running
                && state.compactions == 0
                && view.sealed.is_empty()
                && pick(&self.situation(&view, state, watermark)).is_none()
        })
    }

    /// Where the tree stands now, for [`Tree::plan_full_compaction`].
    pub fn full_bound(&self) -> FullBound {
        let view = self.view();
        let Levels { l0, l1, .. } = view.version.levels();
        let flushed = l0.iter().chain(l1.iter().flatten()).map(|table| table.max_seqno).max();
        FullBound { end: self.next_table(), flushed: flushed.unwrap_or_default() }
    }

    /// Plans the compaction of everything in `range` into the last level, as far as it was in tables at `bound`
    /// ([`Tree::full_bound`] when the compaction was asked for). Call it, and run what it returns, until
    /// it says [`FullCompaction::Nothing`]. Memtables are the caller's to seal and flush before.
    pub fn plan_full_compaction(
        &self,
        range: &KeyRange,
        bound: FullBound,
        positions: impl Into<ReadPositions>,
        now_ms: u64,
    ) -> FullCompaction {
        let readers = Readers { positions: positions.into(), now_ms };
        let planned = self.plan(readers, |situation| match pick_full(situation, range, bound) {
            FullChoice::Compact(choice) => Ok(choice),
            FullChoice::Busy => Err(Wait::Busy),
            FullChoice::Nothing => Err(Wait::Nothing),
        });
        match planned {
            Ok(plan) => FullCompaction::Plan(Box::new(CompactionPlan { is_asked: true, ..plan })),
            Err(Wait::Busy) => FullCompaction::Busy,
            Err(Wait::Nothing) => FullCompaction::Nothing,
        }
    }

    fn plan(
        &self,
        readers: Readers,
        choose: impl FnOnce(&Situation<'_>) -> Result<Choice, Wait>,
    ) -> Result<CompactionPlan, Wait> {
        if !self.takes_edits() {
            return Err(Wait::Nothing);
        }
        self.jobs.with(|state| {
            // NOTE: loaded under the lock: a job whose marks are gone has published its install before.
            let view = self.view();
            let choice = choose(&self.situation(&view, state, readers.watermark()))?;
            Ok(self.plan_of(choice, &view.version, readers, state))
        })
    }

    fn situation<'a>(&self, view: &'a ReadView, state: &'a JobState, watermark: Watermark) -> Situation<'a> {
        Situation {
            levels: view.version.levels(),
            busy: &state.busy,
            writing_l2: &state.writing_l2,
            watermark,
            options: PickerOptions { at_rest: is_at_rest(view), ..self.options.picker() },
        }
    }

    fn plan_of(
        &self,
        choice: Choice,
        version: &Version,
        readers: Readers,
        state: &mut JobState,
    ) -> CompactionPlan {
        let files: Vec<_> = choice.inputs.iter().map(|table| table.file).collect();
        let inputs = version.tables().filter(|table| files.contains(&table.record().file)).cloned().collect();
        let writing_l2 = if choice.target == Level::L2 { span_of(&choice.inputs) } else { None };
        let run = match choice.run {
            TargetRun::Existing(run) => run,
            // Any number of a table to come is above those of all runs so far.
            TargetRun::New => self.take_file_number().0,
        };
        CompactionPlan {
            below: Below::compaction(version.levels(), &choice),
            inputs,
            readers,
            run,
            is_asked: false,
            mark: CompactionMark::take(&self.jobs, state, files, writing_l2),
            choice,
        }
    }

    /// Writes the tables of a compaction, paying for each chunk that is read or written. Their content and names
    /// are durable on return. A move does nothing here.
    ///
    /// It yields every few milliseconds, and once before its [end](Pace::begin_end). It waits for nothing but the pace and the
    /// disk, on the thread that polls it.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Corruption`, or what the pace fails with; nothing has changed.
    pub async fn run_compaction(
        &self,
        plan: CompactionPlan,
        pace: &Arc<dyn Pace>,
    ) -> Result<CompactionOutput> {
        let CompactionPlan { choice, inputs, below, readers, run, is_asked, mark } = plan;
        let merged = if choice.is_move {
            Merged::new(Arc::clone(&self.context.storage), self.dir.clone())
        } else {
            let pace = self.fenced(pace);
            let target = Target {
                storage: &self.context.storage,
                shard: self.shard,
                shard_dir: self.dir.clone(),
                level: choice.target,
                run,
                options: self.options.table(choice.target),
                table_bytes: self.options.table_bytes,
                hash_seed: self.options.hash_seed,
                pace: Arc::clone(&pace),
                fence: Arc::clone(&self.fence),
                next_file: &|| self.take_file_number(),
            };
            let deletes = range_deletes_of(&inputs, &readers.positions, &*pace)?;
            let read = not_all_deleted(&inputs, &deletes, readers.positions.oldest());
            let cursor = merge_of(&read, &pace);
            let merged = merge_into_tables(cursor, &deletes, &readers, &below, &target).await?;
            self.sync_level(choice.target, &merged)?;
            merged
        };
        Ok(CompactionOutput {
            choice,
            inputs,
            run,
            is_asked,
            merged,
            clock_high_ms: readers.now_ms,
            _mark: mark,
        })
    }

    /// Installs a compaction: the inputs leave the manifest, the outputs enter it. Input files go now, or soon after nobody
    /// reads them any more: see [`Tree::free_unread_views`].
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Poisoned` from the manifest; `Busy` after [`Tree::revoke`]. Nothing has changed.
    pub fn install_compaction(&self, output: CompactionOutput) -> Result<CompactionDone> {
        // NOTE: the mark first, so that it is dropped last: a tree is at rest when the inputs' files are gone, if nobody reads
        // them.
        let CompactionOutput { _mark, choice, inputs, run, is_asked, mut merged, clock_high_ms } = output;
        let added = if choice.is_move {
            let moved = |table: &Arc<TableHandle>| {
                table.moved(TableRecord { level: choice.target, run, ..TableRecord::clone(table.record()) })
            };
            inputs.iter().map(moved).collect()
        } else {
            self.open_tables(&merged)?
        };
        let edit = VersionEdit {
            added: added.iter().map(|table| TableRecord::clone(table.record())).collect(),
            removed: choice.inputs.iter().map(|table| table.file).collect(),
            clock_high_ms,
            ..VersionEdit::default()
        };
        if inputs.len() != edit.removed.len() {
            return Err(Error::internal(
                "a compaction's inputs are not all in the version it was planned on",
            ));
        }
        let tables_out = added.len();
        self.install(edit, &mut merged, added, |view, version| ReadView {
            active: Arc::clone(&view.active),
            sealed: view.sealed.clone(),
            version,
            flush_count: view.flush_count,
            flushed_bytes: view.flushed_bytes,
        })?;
        self.free_unread_views();
        let bytes_read =
            if choice.is_move { 0 } else { choice.inputs.iter().map(|table| table.file_bytes).sum() };
        let taken = choice.inputs.iter().filter(|table| table.level == choice.from);
        let done = CompactionDone {
            bytes_taken: taken.map(|table| table.file_bytes).sum(),
            from: choice.from,
            to: choice.target,
            tables_in: choice.inputs.len(),
            tables_out,
            bytes_read,
            bytes_written: merged.bytes(),
            entries_dropped: merged.entries_read.saturating_sub(merged.entries_written),
            blocks_copied: merged.blocks_copied,
            moved: choice.is_move,
        };
        self.counters.compacted(&done, is_asked);
        Ok(done)
    }
}

/// The range deletes of some tables.
fn range_deletes_of(
    tables: &[Arc<TableHandle>],
    positions: &ReadPositions,
    pace: &dyn Pace,
) -> Result<RangeDeletes> {
    let deleting = tables.iter().filter(|table| table.record().range_deletes > 0);
    let deletes = deleting.map(|table| table.table().range_deletes(pace));
    Ok(gather_deletes(&deletes.collect::<Result<Vec<_>>>()?, positions))
}

/// The tables of which something may be left: of those that were deleted as a whole, before anybody reads, nothing is
/// read.
fn not_all_deleted(
    tables: &[Arc<TableHandle>],
    deletes: &RangeDeletes,
    oldest_reader: SeqNo,
) -> Vec<Arc<TableHandle>> {
    let is_deleted = |table: &TableRecord| {
        deletes.covers_all(&table.min_key, &table.max_key, table.max_seqno, oldest_reader)
    };
    tables.iter().filter(|table| !is_deleted(table.record())).cloned().collect()
}

/// A cursor over all inputs: an L0 table is a source of its own, a run's tables are one together.
fn merge_of(inputs: &[Arc<TableHandle>], pace: &Arc<dyn Pace>) -> MergeCursor<SourceCursor> {
    let source = || CursorSource::Background(Arc::clone(pace));
    let (l0, rest): (Vec<_>, Vec<_>) = inputs.iter().partition(|table| table.record().level == Level::L0);
    let mut runs: BTreeMap<(Level, u64), Vec<Arc<TableHandle>>> = BTreeMap::new();
    for table in rest {
        runs.entry((table.record().level, table.record().run)).or_default().push(Arc::clone(table));
    }
    let l0 = l0.into_iter().map(|table| SourceCursor::Table(table.table().cursor(source())));
    let runs = runs.into_values().map(|mut tables| {
        tables.sort_by(|a, b| a.record().min_key.cmp(&b.record().min_key));
        SourceCursor::Run(RunCursor::new(tables.into(), source()))
    });
    MergeCursor::new(l0.chain(runs))
}
