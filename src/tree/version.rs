//! A version: which tables make up the tree at one moment. Immutable; installs make new ones.
//!
//! ```text
//!   l0   [newest] [..] [oldest]        flushed memtables, may overlap
//!   l1   run: [a-f][g-m][n-z]          newest run first; leveled has one
//!   l2   run: [a-c][d-h][i-p][q-z]     the last level
//! ```

use std::{collections::BTreeMap, sync::Arc};

use super::{
    compaction::{
        DUE_PERMILLE, Levels, PickerOptions, backlog_permille, debt_bytes, next_bytes, score_permille,
    },
    handle::TableHandle,
};
use crate::{
    error::Result,
    ids::{FileNumber, Level, SeqNo},
    key::{KeyHash, KeyRange, key_prefix},
    table::{Lookup, ReadMode},
};

/// A scan of a range over so many tables of a run keeps all of the run's, which costs it nothing.
const MOST_PINNED_APART: usize = 32;

/// Tables that do not overlap, by key.
#[derive(Clone, Debug)]
pub struct Run {
    tables: Arc<[Arc<TableHandle>]>,
    /// Those that hold range deletes.
    deleting: Arc<[Arc<TableHandle>]>,
    /// The first bytes of each table's last key, so that a search touches few tables.
    fences: Box<[u64]>,
}

impl Run {
    pub(super) fn new(tables: Vec<Arc<TableHandle>>) -> Self {
        let fences = tables.iter().map(|table| key_prefix(&table.record().max_key)).collect();
        let deleting = tables.iter().filter(|table| table.record().range_deletes > 0).cloned().collect();
        Self { tables: tables.into(), deleting, fences }
    }

    /// The tables, by key.
    pub fn tables(&self) -> &Arc<[Arc<TableHandle>]> {
        &self.tables
    }

    /// Those that may hold keys in a range; all of them where these are many.
    pub fn within(&self, range: &KeyRange) -> Arc<[Arc<TableHandle>]> {
        let first = self.tables.partition_point(|table| range.is_before(&table.record().max_key));
        let end = self.tables.partition_point(|table| !range.is_behind(&table.record().min_key));
        match self.tables.get(first..end) {
            Some(some) if some.len() < self.tables.len().min(MOST_PINNED_APART) => some.into(),
            Some(_) => Arc::clone(&self.tables),
            None => Arc::default(),
        }
    }

    /// Those that hold range deletes, by key.
    pub fn deleting(&self) -> &Arc<[Arc<TableHandle>]> {
        &self.deleting
    }

    /// The table that may hold `key`.
    pub fn find(&self, key: &[u8]) -> Option<&Arc<TableHandle>> {
        let prefix = key_prefix(key);
        let from = self.fences.partition_point(|fence| *fence < prefix);
        let table = self.tables.get(from..)?.iter().find(|table| !table.record().ends_before(key))?;
        (table.record().min_key <= key).then_some(table)
    }
}

#[derive(Clone, Debug)]
struct L0Table {
    handle: Arc<TableHandle>,
    min_prefix: u64,
    max_prefix: u64,
}

/// The tables of a tree at one moment.
#[derive(Debug)]
pub struct Version {
    l0: Vec<L0Table>,
    l1: Vec<Run>,
    l2: Run,
    levels: Levels,
    has_range_deletes: bool,
    level_bytes: [u64; 3],
    garbage_tables: usize,
    /// From when on dead weight can go, while writes come, and at rest.
    garbage_from_ms: [Option<u64>; 2],
    /// Without it, while writes come, and at rest.
    urgencies: [Urgency; 2],
}

/// How much compaction is behind.
#[derive(Clone, Copy, Debug)]
pub struct Urgency {
    /// How urgent a compaction is, for a level's size or a table's dead weight; 1,000 is due.
    pub score_permille: u32,
    /// Roughly what compaction must read to catch up.
    pub debt_bytes: u64,
    /// How much it has before it, in thousandths of what is healthy.
    pub backlog_permille: u32,
    /// About what the next one reads.
    pub next_bytes: u64,
}

impl Version {
    /// The version of these tables.
    ///
    /// # Errors
    /// What cannot be, as a phrase: tables of one run that overlap.
    pub(super) fn new(tables: Vec<Arc<TableHandle>>, options: &PickerOptions) -> Result<Self, String> {
        let (mut l0, mut runs, mut l2) = (Vec::new(), BTreeMap::<u64, Vec<_>>::new(), Vec::new());
        for table in tables {
            match table.record().level {
                Level::L0 => l0.push(table),
                Level::L1 => runs.entry(table.record().run).or_default().push(table),
                Level::L2 => l2.push(table),
            }
        }
        // Flushes are installed in order, so the newer table has the higher sequence numbers.
        l0.sort_by_key(|table| std::cmp::Reverse((table.record().max_seqno, table.record().file)));
        let l1: Vec<_> = runs.into_values().rev().map(sorted_run).collect::<Result<_, _>>()?;
        let l2 = sorted_run(l2)?;
        let records = |tables: &[Arc<TableHandle>]| tables.iter().map(|t| Arc::clone(t.record())).collect();
        let levels = Levels {
            l0: records(&l0),
            l1: l1.iter().map(|run| records(&run.tables)).collect(),
            l2: records(&l2.tables),
        };
        let has_range_deletes = levels.all().any(|table| table.range_deletes > 0);
        let l0 = l0.into_iter().map(|handle| L0Table {
            min_prefix: key_prefix(&handle.record().min_key),
            max_prefix: key_prefix(&handle.record().max_key),
            handle,
        });
        Ok(Self {
            l0: l0.collect(),
            l1,
            l2,
            urgencies: [false, true].map(|at_rest| urgency(&levels, &PickerOptions { at_rest, ..*options })),
            has_range_deletes,
            level_bytes: levels.bytes(),
            garbage_tables: levels.garbage_tables(),
            garbage_from_ms: [false, true].map(|at_rest| levels.garbage_from_ms(at_rest)),
            levels,
        })
    }

    /// The version after an install: without `removed`, with `added`.
    pub(super) fn with(
        &self,
        removed: &[FileNumber],
        added: Vec<Arc<TableHandle>>,
        options: &PickerOptions,
    ) -> Result<Self, String> {
        let kept = self.tables().filter(|table| !removed.contains(&table.record().file)).cloned();
        Self::new(kept.chain(added).collect(), options)
    }

    /// The newest version of a key at or below a position, tombstones included.
    ///
    /// # Errors
    /// `Io` or `Corruption`.
    pub fn get(&self, hash: KeyHash, key: &[u8], at: SeqNo, mode: ReadMode) -> Result<Lookup> {
        let prefix = key_prefix(key);
        for l0 in &self.l0 {
            if prefix < l0.min_prefix || prefix > l0.max_prefix {
                continue;
            }
            let found = l0.handle.table().get(hash, key, at, mode)?;
            if !matches!(found, Lookup::Missing) {
                return Ok(found);
            }
        }
        let (upper, last) = self.split_runs();
        for run in upper {
            let Some(table) = run.find(key) else { continue };
            let found = table.table().get(hash, key, at, mode)?;
            if !matches!(found, Lookup::Missing) {
                return Ok(found);
            }
        }
        let table = last.and_then(|run| run.find(key));
        table.map_or(Ok(Lookup::Missing), |table| table.table().get_likely(hash, key, at, mode))
    }

    /// The runs of which each may hold a newer version than those behind it, and the last one, where a key most
    /// likely is if it is anywhere.
    fn split_runs(&self) -> (&[Run], Option<&Run>) {
        if self.l2.tables.is_empty() {
            self.l1.split_last().map_or((&[], None), |(last, upper)| (upper, Some(last)))
        } else {
            (&self.l1, Some(&self.l2))
        }
    }

    /// Every table: L0 newest first, then L1, then L2.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableHandle>> {
        let runs = self.l1.iter().chain([&self.l2]);
        self.l0().chain(runs.flat_map(|run| run.tables.iter()))
    }

    /// The tables of L0, newest first.
    pub fn l0(&self) -> impl Iterator<Item = &Arc<TableHandle>> {
        self.l0.iter().map(|table| &table.handle)
    }

    /// The runs of L1 and then L2, newest first.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.l1.iter().chain([&self.l2])
    }

    /// The same as plain data.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// Whether any table holds range deletes.
    pub(super) const fn has_range_deletes(&self) -> bool {
        self.has_range_deletes
    }

    /// The bytes of each level.
    pub const fn level_bytes(&self) -> [u64; 3] {
        self.level_bytes
    }

    /// How many tables hold much that could go once no snapshot needs it.
    pub const fn garbage_tables(&self) -> usize {
        self.garbage_tables
    }

    /// How much compaction is behind at a time, while writes come or at rest.
    pub fn urgency(&self, at_rest: bool, now_ms: u64) -> Urgency {
        let ([busy, idle], [garbage_busy, garbage_idle]) = (self.urgencies, self.garbage_from_ms);
        let (urgency, garbage) = if at_rest { (idle, garbage_idle) } else { (busy, garbage_busy) };
        let garbage = if garbage.is_some_and(|from| from <= now_ms) { DUE_PERMILLE } else { 0 };
        Urgency { score_permille: urgency.score_permille.max(garbage), ..urgency }
    }
}

fn urgency(levels: &Levels, options: &PickerOptions) -> Urgency {
    Urgency {
        score_permille: score_permille(levels, options),
        debt_bytes: debt_bytes(levels, options),
        backlog_permille: backlog_permille(levels, options),
        next_bytes: next_bytes(levels, options),
    }
}

fn sorted_run(mut tables: Vec<Arc<TableHandle>>) -> Result<Run, String> {
    tables.sort_by(|a, b| a.record().min_key.cmp(&b.record().min_key));
    let mut pairs = tables.iter().zip(tables.iter().skip(1));
    if let Some((a, b)) = pairs.find(|(a, b)| !a.record().ends_before(&b.record().min_key)) {
        let (a, b) = (a.record(), b.record());
        return Err(format!("tables {} and {} of one {} run that overlap", a.file, b.file, a.level));
    }
    Ok(Run::new(tables))
}
