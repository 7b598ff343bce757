//! Decides what to compact next. Pure: a picture of the levels in, a choice out.
//!
//! ```text
//!   Levels ──► leveled.rs      partial, by key range, least overlap first, moves where nothing overlaps
//!          └─► size_tiered.rs  ten L0 tables make one L1 run, ten L1 runs go into L2
//! ```
//! What both rely on, and every choice keeps: of two versions of a key the newer one lies in a higher level, or
//! in a newer L0 table or L1 run of the same level.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;

use super::{leveled, rule::Watermark, size_tiered};
use crate::{
    ids::{FileNumber, Level, SeqNo},
    key::KeyRange,
    tree::{edit::TableRecord, options::Strategy},
};

/// A score from here on means that a compaction is due.
pub const DUE_PERMILLE: u32 = 1000;
/// A table of the last level is rewritten if so large a part of it is read by nobody any more: a tenth.
const DEAD_PART: u64 = 10;
/// If what has expired is among it, a quarter: more of it will follow, and the table be rewritten each time.
const EXPIRED_PART: u64 = 4;

/// The tables of a shard as plain data.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    /// Newest first.
    pub l0: Vec<Arc<TableRecord>>,
    /// Newest run first; the tables of a run by key.
    pub l1: Vec<Vec<Arc<TableRecord>>>,
    /// By key.
    pub l2: Vec<Arc<TableRecord>>,
}

impl Levels {
    /// Every table.
    pub fn all(&self) -> impl Iterator<Item = &Arc<TableRecord>> {
        self.l0.iter().chain(self.l1.iter().flatten()).chain(&self.l2)
    }

    /// The bytes of each level.
    pub fn bytes(&self) -> [u64; 3] {
        [bytes_of(&self.l0), bytes_of(self.l1.iter().flatten()), bytes_of(&self.l2)]
    }

    /// How many tables would be rewritten for their dead weight, if no snapshot needed it and all had expired.
    pub fn garbage_tables(&self) -> usize {
        let watermark = Watermark { oldest_snapshot: SeqNo::MAX, now_ms: u64::MAX };
        self.garbage_candidates().filter(|table| is_garbage(table, watermark)).count()
    }

    /// From when on the dead weight of some table can go, once nobody reads it; `None`: as things are, never.
    pub fn garbage_from_ms(&self, at_rest: bool) -> Option<u64> {
        let upper = self.l0.iter().chain(self.l1.iter().flatten()).filter(|_| at_rest);
        self.garbage_candidates().chain(upper).filter_map(|table| garbage_from_ms(table)).min()
    }

    /// Tables that nothing older lies below, or only L2.
    fn garbage_candidates(&self) -> impl Iterator<Item = &Arc<TableRecord>> {
        self.l1.last().into_iter().flatten().chain(&self.l2)
    }
}

/// What the picker goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PickerOptions {
    /// How L0 becomes L1 becomes L2.
    pub strategy: Strategy,
    /// Leveled: how many L0 tables make a compaction due.
    pub l0_trigger: usize,
    /// Leveled: whether nothing is being written, so that there is time to merge what L0 holds.
    pub at_rest: bool,
    /// Size-tiered: how many L0 tables, and L1 runs, are merged at once.
    pub tiered_trigger: usize,
    /// About what one flush brings, as a table; L1's target starts from it.
    pub flush_bytes: u64,
}

/// The first and the last key of something.
pub type KeySpan = (Bytes, Bytes);

/// What there is to choose from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The tables.
    pub levels: &'a Levels,
    /// The inputs of compactions that run.
    pub busy: &'a HashSet<FileNumber>,
    /// The key ranges, both ends included, that compactions into L2 are writing. Their inputs may leave gaps
    /// in these ranges, but their outputs span them.
    pub writing_l2: &'a [KeySpan],
    /// From where on anyone reads.
    pub watermark: Watermark,
    /// The policy.
    pub options: PickerOptions,
}

/// Which sorted run the outputs join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetRun {
    /// The run with this number.
    Existing(u64),
    /// A run of their own, newer than every other.
    New,
}

/// What to compact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The tables that are replaced.
    pub inputs: Vec<Arc<TableRecord>>,
    /// The highest level among the inputs.
    pub from: Level,
    /// Where the outputs go.
    pub target: Level,
    /// The run that they join there.
    pub run: TargetRun,
    /// Whether the inputs just change their level: nothing overlaps, and nothing inside can be dropped.
    pub is_move: bool,
    /// How urgent it is; 1,000 is due.
    pub score_permille: u32,
}

/// Where a shard stood when a full compaction was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullBound {
    /// The tables that there were had lower numbers.
    pub end: FileNumber,
    /// What they held had sequence numbers up to here.
    pub flushed: SeqNo,
}

impl FullBound {
    /// Everything, whenever it is written.
    #[cfg(test)]
    pub const NONE: Self = Self { end: FileNumber(u64::MAX), flushed: SeqNo::MAX };
}

/// What a full compaction of a range has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FullChoice {
    /// Nothing: the range lies in L2 alone, and nothing there can be dropped.
    Nothing,
    /// Wait: tables that it needs are inputs of a running compaction.
    Busy,
    /// This.
    Compact(Choice),
}

/// The most urgent compaction that is due and not blocked by one that runs.
pub fn pick(situation: &Situation<'_>) -> Option<Choice> {
    let choice = match situation.options.strategy {
        Strategy::Leveled => leveled::pick(situation),
        Strategy::SizeTiered => size_tiered::pick(situation),
    };
    // NOTE: dead weight waits while anything is due: it must not keep what is urgent from its tables.
    let idle = || score_permille(situation.levels, &situation.options) < DUE_PERMILLE;
    choice.or_else(|| if idle() { rewrite_of_garbage(situation) } else { None })
}

/// The highest score of any level.
pub fn score_permille(levels: &Levels, options: &PickerOptions) -> u32 {
    match options.strategy {
        Strategy::Leveled => leveled::scores(levels, options).into_iter().max().unwrap_or(0),
        Strategy::SizeTiered => size_tiered::scores(levels, options).into_iter().max().unwrap_or(0),
    }
}

/// Roughly how many bytes compaction must read to bring every score below what is due.
pub fn debt_bytes(levels: &Levels, options: &PickerOptions) -> u64 {
    match options.strategy {
        Strategy::Leveled => leveled::debt_bytes(levels, options),
        Strategy::SizeTiered => size_tiered::debt_bytes(levels, options),
    }
}

/// How much compaction has before it, in thousandths of what is healthy: from 1,000 on writers are to be slowed down.
pub fn backlog_permille(levels: &Levels, options: &PickerOptions) -> u32 {
    match options.strategy {
        Strategy::Leveled => leveled::backlog_permille(levels, options),
        Strategy::SizeTiered => size_tiered::backlog_permille(levels, options),
    }
}

/// About how many bytes the next compaction reads.
pub fn next_bytes(levels: &Levels, options: &PickerOptions) -> u64 {
    match options.strategy {
        Strategy::Leveled => leveled::next_bytes(levels, options),
        Strategy::SizeTiered => size_tiered::next_bytes(levels, options),
    }
}

/// Merges what overlaps `range` into L2, as far as it was in tables at `bound`: everything above L2 at once, then
/// what L2 itself could drop. Afterwards the one is below and the other has a higher number, so one who asks again
/// after each choice comes to an end.
pub fn pick_full(situation: &Situation<'_>, range: &KeyRange, bound: FullBound) -> FullChoice {
    let levels = situation.levels;
    // NOTE: above L2 the number of a table says nothing: a compaction that ran at the bound writes what is meant to
    // newer ones.
    let is_meant = |table: &Arc<TableRecord>| match table.level {
        Level::L2 => table.file < bound.end,
        Level::L0 | Level::L1 => table.min_seqno <= bound.flushed,
    };
    let shrinks = |table: &Arc<TableRecord>| {
        let is_hiding = table.superseded > 0 || table.range_deletes > 0;
        let hides = is_hiding && table.max_seqno <= situation.watermark.oldest_snapshot;
        hides || table.expiring > 0 || is_garbage(table, situation.watermark)
    };
    let upper = what_hangs_together(levels, range);
    let candidates: Vec<Vec<_>> = if upper.iter().any(is_meant) {
        vec![upper]
    } else {
        // IMPORTANT: one at a time. Outputs may span what lies between the inputs, and between two of these lie
        // tables that are no inputs.
        let l2 = levels.l2.iter().filter(|table| table.is_in(range) && is_meant(table) && shrinks(table));
        l2.map(|table| vec![Arc::clone(table)]).collect()
    };
    let nothing = candidates.is_empty();
    match candidates.into_iter().find(|inputs| !is_blocked(situation, inputs)) {
        Some(inputs) => FullChoice::Compact(Choice {
            from: inputs.iter().map(|table| table.level).min().unwrap_or(Level::L2),
            inputs,
            target: Level::L2,
            run: TargetRun::Existing(0),
            is_move: false,
            score_permille: DUE_PERMILLE,
        }),
        None if nothing => FullChoice::Nothing,
        None => FullChoice::Busy,
    }
}

/// The tables above L2 in `range`, with all that must come along: what overlaps an input has older versions, or
/// would lie under newer ones.
fn what_hangs_together(levels: &Levels, range: &KeyRange) -> Vec<Arc<TableRecord>> {
    let upper = || levels.l0.iter().chain(levels.l1.iter().flatten());
    let mut chosen: Vec<_> = upper().filter(|table| table.is_in(range)).cloned().collect();
    loop {
        let hull = Hull::of(&chosen);
        let everything = upper().chain(&levels.l2);
        let grown: Vec<_> = everything.filter(|table| hull.overlaps(table)).cloned().collect();
        let done = grown.len() == chosen.len();
        chosen = grown;
        if done {
            return chosen;
        }
    }
}

/// The first and the last key of some tables; `None` for no tables.
pub fn span_of(tables: &[Arc<TableRecord>]) -> Option<KeySpan> {
    let (min, max) = Hull::of(tables).bounds?;
    Some((Bytes::copy_from_slice(min), Bytes::copy_from_slice(max)))
}

/// A table whose dead weight can go: tombstones, expired entries, and what these or newer versions hide, all of which
/// nobody reads any more.
fn is_garbage(table: &TableRecord, watermark: Watermark) -> bool {
    table.max_seqno <= watermark.oldest_snapshot && is_mostly_dead(table, table.expired_by(watermark.now_ms))
}

/// From when on a table's dead weight can go, once nobody reads it; `None`: never.
fn garbage_from_ms(table: &TableRecord) -> Option<u64> {
    let times = [0].into_iter().chain(table.expiry_parts);
    times.into_iter().find(|now_ms| is_mostly_dead(table, table.expired_by(*now_ms)))
}

/// Whether so much of a table is dead that rewriting it is worth it.
fn is_mostly_dead(table: &TableRecord, expired: u64) -> bool {
    let deletes = table.tombstones.saturating_add(table.range_deletes);
    let dead = deletes.saturating_add(expired).saturating_add(table.superseded);
    let is_part = |dead: u64, one_in: u64| {
        dead > 0 && dead >= table.entries.saturating_add(table.range_deletes).div_ceil(one_in)
    };
    match table.level {
        // NOTE: any tombstone and any older version is a leftover of a snapshot that is gone. A tombstone and what
        // it hides can go at once; but any scan is a snapshot for a moment, and leaves a few versions.
        Level::L2 => deletes > 0 || is_part(table.superseded, DEAD_PART) || is_part(dead, EXPIRED_PART),
        // Range deletes above all that they hide: it goes with them.
        _ => is_part(dead, 2) || table.hidden_bytes > 0 && table.hidden_bytes >= table.file_bytes / 2,
    }
}

/// Rewrites one table whose dead weight can go, into the last level.
fn rewrite_of_garbage(situation: &Situation<'_>) -> Option<Choice> {
    let is_garbage = |table: &&Arc<TableRecord>| is_garbage(table, situation.watermark);
    let mut candidates = situation.levels.garbage_candidates().filter(is_garbage);
    let lower = candidates.find_map(|table| into_l2(situation, std::slice::from_ref(table)));
    // At rest nothing else would ever take it down, from newer runs or from L0.
    let l1 = || situation.levels.l1.iter().flatten();
    let in_newer_run = || situation.options.at_rest && l1().any(|table| is_garbage(&table));
    let all_of_l1 =
        || if in_newer_run() { into_l2(situation, &l1().cloned().collect::<Vec<_>>()) } else { None };
    let in_l0 = || situation.options.at_rest && situation.levels.l0.iter().any(|table| is_garbage(&table));
    let choice = lower.or_else(all_of_l1).or_else(|| if in_l0() { whole_l0(situation) } else { None })?;
    Some(Choice { score_permille: DUE_PERMILLE, ..choice })
}

/// Takes L0 into L1, however little it is.
fn whole_l0(situation: &Situation<'_>) -> Option<Choice> {
    match situation.options.strategy {
        Strategy::Leveled => leveled::from_l0(situation),
        Strategy::SizeTiered => size_tiered::from_l0(situation, 1),
    }
}

/// Merges `upper` (tables of the lowest L1 run, or of L2 itself) with what they overlap in L2; `None` if any of
/// it is busy.
pub(super) fn into_l2(situation: &Situation<'_>, upper: &[Arc<TableRecord>]) -> Option<Choice> {
    let hull = Hull::of(upper);
    let from = upper.iter().map(|table| table.level).min()?;
    let mut inputs = upper.to_vec();
    let below = situation.levels.l2.iter().filter(|table| hull.overlaps(table));
    inputs.extend(below.filter(|table| from != Level::L2 || !upper.contains(table)).cloned());
    if is_blocked(situation, &inputs) {
        return None;
    }
    let is_move = from != Level::L2
        && inputs
            .iter()
            .all(|table| table.level != Level::L2 && table.tombstones == 0 && table.range_deletes == 0);
    Some(Choice {
        is_move: is_move
            && are_disjoint(&inputs)
            && !inputs.iter().any(|t| is_garbage(t, situation.watermark)),
        inputs,
        from,
        target: Level::L2,
        run: TargetRun::Existing(0),
        score_permille: 0,
    })
}

/// Whether a compaction of `inputs` into L2 would get into the way of one that runs.
fn is_blocked(situation: &Situation<'_>, inputs: &[Arc<TableRecord>]) -> bool {
    let hull = Hull::of(inputs);
    inputs.iter().any(|table| situation.busy.contains(&table.file))
        || situation.writing_l2.iter().any(|(min, max)| hull.overlaps_span(min, max))
}

/// Whether no two of the tables overlap.
pub(super) fn are_disjoint(tables: &[Arc<TableRecord>]) -> bool {
    let mut by_key: Vec<_> = tables.iter().collect();
    by_key.sort_by(|a, b| a.min_key.cmp(&b.min_key));
    by_key.iter().zip(by_key.iter().skip(1)).all(|(a, b)| a.ends_before(&b.min_key))
}

/// The bytes of some tables.
pub(super) fn bytes_of<'a>(tables: impl IntoIterator<Item = &'a Arc<TableRecord>>) -> u64 {
    tables.into_iter().map(|table| table.file_bytes).sum()
}

/// What some tables weigh: see [`TableRecord::weight_bytes`].
pub(super) fn weight_of<'a>(tables: impl IntoIterator<Item = &'a Arc<TableRecord>>) -> u64 {
    tables.into_iter().map(|table| table.weight_bytes()).sum()
}

/// The smallest key range around some tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hull<'a> {
    bounds: Option<(&'a [u8], &'a [u8])>,
}

impl<'a> Hull<'a> {
    pub(super) fn of(tables: impl IntoIterator<Item = &'a Arc<TableRecord>>) -> Self {
        let bounds = tables.into_iter().fold(None, |bounds: Option<(&[u8], &[u8])>, table| {
            let (min, max) = (&table.min_key[..], &table.max_key[..]);
            Some(bounds.map_or((min, max), |(low, high)| (low.min(min), high.max(max))))
        });
        Self { bounds }
    }

    pub(super) fn overlaps(&self, table: &TableRecord) -> bool {
        self.bounds.is_some_and(|(min, max)| table.overlaps(min, max))
    }

    fn overlaps_span(&self, from: &[u8], to: &[u8]) -> bool {
        self.bounds.is_some_and(|(min, max)| min <= to && max >= from)
    }
}

#[cfg(test)]
#[path = "picker_test.rs"]
mod tests;
