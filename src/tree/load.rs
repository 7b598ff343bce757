//! What a tree reports: its load, for who schedules its work, and its statistics, for people.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    compact::{CompactionDone, is_at_rest},
    compaction::{DUE_PERMILLE, Levels},
    edit::TableRecord,
    lsm::Tree,
    view::ReadView,
};
use crate::ids::{Level, SeqNo};

/// How loaded a shard is. Cheap to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not exclude each other")]
pub struct TreeLoad {
    /// What the active memtable takes, with its index.
    pub active_bytes: u64,
    /// Its entries.
    pub active_entries: u64,
    /// Whether it holds neither entries nor range deletes.
    pub active_is_empty: bool,
    /// How full its index is, in thousandths of where it seals.
    pub active_fill_permille: u32,
    /// What the sealed memtables take.
    pub sealed_bytes: u64,
    /// How many there are.
    pub sealed_count: usize,
    /// Their entries.
    pub sealed_entries: u64,
    /// The tables of L0.
    pub l0_tables: usize,
    /// The bytes of each level's tables.
    pub level_bytes: [u64; 3],
    /// How urgent a compaction is by level sizes; from 1,000 on it is due. Dead weight in a table makes it due, too.
    pub compaction_score_permille: u32,
    /// Whether a level's size or a table's dead weight makes a compaction due. There may be no plan: it waits for
    /// one that runs, or a snapshot still needs what is dead.
    pub compaction_due: bool,
    /// Tables with so much dead weight that a compaction of their own is worth it once no snapshot needs it.
    pub garbage_tables: usize,
    /// Roughly what compaction must read to catch up.
    pub debt_bytes: u64,
    /// How much it has before it, in thousandths of what is healthy: from 1,000 on writers are slowed down.
    pub backlog_permille: u32,
    /// About what the next one reads.
    pub next_compaction_bytes: u64,
    /// Whether a flush is under way.
    pub flush_running: bool,
    /// Whether a sealed memtable waits for one.
    pub flush_due: bool,
    /// Compactions under way.
    pub compactions_running: usize,
}

/// What went through a tree since it was opened, in bytes; all of it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeWork {
    /// Keys and values that were written.
    pub written: u64,
    /// Keys and values that were flushed of them.
    pub flushed: u64,
    /// The tables that came of that.
    pub tables_flushed: u64,
    /// What compactions took out of L0 and out of L1.
    pub taken: [u64; 2],
    /// What they read and wrote for that.
    pub cost: [u64; 2],
}

/// The tables of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LevelStats {
    /// Tables.
    pub tables: u64,
    /// Sorted runs; in L0 each table is one.
    pub runs: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes of keys and values, before compression.
    pub raw_bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Tombstones among them.
    pub tombstones: u64,
}

/// What a tree holds and has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeStats {
    /// L0 to L2.
    pub levels: [LevelStats; 3],
    /// Flushes installed.
    pub flushes: u64,
    /// Bytes that they wrote.
    pub flush_bytes_written: u64,
    /// Compactions installed, moves not counted.
    pub compactions: u64,
    /// Compactions that only moved tables.
    pub moves: u64,
    /// Bytes that compactions read.
    pub compaction_bytes_read: u64,
    /// Bytes that compactions wrote.
    pub compaction_bytes_written: u64,
    /// Data blocks among them that were taken over as they were.
    pub blocks_copied: u64,
    /// What the tables keep in memory, cached blocks excluded.
    pub metadata_bytes: u64,
    /// The highest sequence number that was ever flushed.
    pub flushed_seqno: SeqNo,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    flushes: AtomicU64,
    flush_bytes_written: AtomicU64,
    compactions: AtomicU64,
    moves: AtomicU64,
    compaction_bytes_read: AtomicU64,
    compaction_bytes_written: AtomicU64,
    blocks_copied: AtomicU64,
    flushed_seqno: AtomicU64,
    taken: [AtomicU64; 2],
    cost: [AtomicU64; 2],
}

impl Counters {
    /// As a tree begins whose tables hold what was flushed up to there.
    pub(super) fn new(flushed_seqno: SeqNo) -> Self {
        Self { flushed_seqno: AtomicU64::new(flushed_seqno.get()), ..Self::default() }
    }

    pub(super) fn flushed(&self, bytes: u64, highest: SeqNo) {
        self.flushed_seqno.fetch_max(highest.get(), Ordering::Relaxed);
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.flush_bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `is_asked`: somebody wanted more of it than the shape of the tree did, so that it says nothing of what that costs.
    pub(super) fn compacted(&self, done: &CompactionDone, is_asked: bool) {
        let counter = if done.moved { &self.moves } else { &self.compactions };
        counter.fetch_add(1, Ordering::Relaxed);
        self.compaction_bytes_read.fetch_add(done.bytes_read, Ordering::Relaxed);
        self.compaction_bytes_written.fetch_add(done.bytes_written, Ordering::Relaxed);
        self.blocks_copied.fetch_add(done.blocks_copied, Ordering::Relaxed);
        let [l0, l1] = &self.taken;
        let [l0_cost, l1_cost] = &self.cost;
        let (taken, cost) = match done.from {
            Level::L0 => (l0, l0_cost),
            Level::L1 => (l1, l1_cost),
            Level::L2 => return,
        };
        if is_asked {
            return;
        }
        taken.fetch_add(done.bytes_taken, Ordering::Relaxed);
        cost.fetch_add(done.bytes_read + done.bytes_written, Ordering::Relaxed);
    }
}

impl Tree {
    /// How loaded the shard is at a time, in milliseconds on the node's clock.
    pub fn load(&self, now_ms: u64) -> TreeLoad {
        let view = self.view();
        let (flush_running, compactions_running) =
            self.jobs.with(|state| (state.flush_running, state.compactions));
        TreeLoad {
            flush_running,
            flush_due: !view.sealed.is_empty() && !flush_running,
            compactions_running,
            ..view.load(now_ms)
        }
    }

    /// What went through the tree. Cheap to ask for.
    pub fn work(&self) -> TreeWork {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let view = self.view();
        let sealed = view.sealed.iter().map(|sealed| sealed.memtable.data_bytes());
        TreeWork {
            written: view.flushed_bytes + sealed.sum::<u64>() + view.active.data_bytes(),
            flushed: view.flushed_bytes,
            tables_flushed: read(&self.counters.flush_bytes_written),
            taken: self.counters.taken.each_ref().map(read),
            cost: self.counters.cost.each_ref().map(read),
        }
    }

    /// What the tree holds and has done. Walks the list of tables.
    pub fn stats(&self) -> TreeStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TreeStats {
            flushes: read(&self.counters.flushes),
            flush_bytes_written: read(&self.counters.flush_bytes_written),
            compactions: read(&self.counters.compactions),
            moves: read(&self.counters.moves),
            blocks_copied: read(&self.counters.blocks_copied),
            compaction_bytes_read: read(&self.counters.compaction_bytes_read),
            compaction_bytes_written: read(&self.counters.compaction_bytes_written),
            flushed_seqno: SeqNo(read(&self.counters.flushed_seqno)),
            ..self.view().stats()
        }
    }
}

impl ReadView {
    /// What is in memory and in tables at a time, as if nothing was under way.
    pub fn load(&self, now_ms: u64) -> TreeLoad {
        let version = &self.version;
        let sealed = self.sealed.iter().map(|sealed| sealed.memtable.memory_bytes() as u64);
        let urgency = version.urgency(is_at_rest(self), now_ms);
        TreeLoad {
            active_bytes: self.active.memory_bytes() as u64,
            active_entries: self.active.entries() as u64,
            active_is_empty: self.active.is_empty(),
            active_fill_permille: self.active.fill_permille(),
            sealed_bytes: sealed.sum(),
            sealed_count: self.sealed.len(),
            sealed_entries: self.sealed.iter().map(|sealed| sealed.memtable.entries() as u64).sum(),
            l0_tables: version.levels().l0.len(),
            level_bytes: version.level_bytes(),
            compaction_score_permille: urgency.score_permille,
            compaction_due: urgency.score_permille >= DUE_PERMILLE,
            garbage_tables: version.garbage_tables(),
            debt_bytes: urgency.debt_bytes,
            backlog_permille: urgency.backlog_permille,
            next_compaction_bytes: urgency.next_bytes,
            ..TreeLoad::default()
        }
    }

    /// What the tables hold. Walks the list of them.
    pub fn stats(&self) -> TreeStats {
        let Levels { l0, l1, l2 } = self.version.levels();
        TreeStats {
            levels: [
                level_stats(l0.len(), l0.iter().map(|table| &**table)),
                level_stats(l1.len(), l1.iter().flatten().map(|table| &**table)),
                level_stats(usize::from(!l2.is_empty()), l2.iter().map(|table| &**table)),
            ],
            metadata_bytes: self.version.tables().map(|table| table.table().metadata_bytes()).sum(),
            ..TreeStats::default()
        }
    }
}

fn level_stats<'a>(runs: usize, tables: impl Iterator<Item = &'a TableRecord>) -> LevelStats {
    let mut stats = LevelStats { runs: runs as u64, ..LevelStats::default() };
    for table in tables {
        stats.tables += 1;
        stats.bytes += table.file_bytes;
        stats.raw_bytes += table.raw_bytes;
        stats.entries += table.entries;
        stats.tombstones += table.tombstones;
    }
    stats
}
