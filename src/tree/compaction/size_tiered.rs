//! The size-tiered strategy: ten L0 tables are merged into one L1 run, ten L1 runs into L2. It writes each byte
//! less often than the leveled one, and reads look into more tables.

use std::sync::Arc;

use super::picker::{
    Choice, DUE_PERMILLE, Levels, PickerOptions, Situation, TargetRun, are_disjoint, bytes_of, into_l2,
};
use crate::{ids::Level, tree::edit::TableRecord};

/// The most urgent choice. The two steps share no tables, so that neither waits for the other.
pub(super) fn pick(situation: &Situation<'_>) -> Option<Choice> {
    let [l0, l1] = scores(situation.levels, &situation.options);
    let trigger = situation.options.tiered_trigger.max(2);
    let from_l0 = || from_l0(situation, trigger).map(|choice| Choice { score_permille: l0, ..choice });
    let from_l1 = || from_l1(situation).map(|choice| Choice { score_permille: l1, ..choice });
    if l0 >= l1 { from_l0().or_else(from_l1) } else { from_l1().or_else(from_l0) }
}

/// The scores of L0 and L1.
pub(super) fn scores(levels: &Levels, options: &PickerOptions) -> [u32; 2] {
    let trigger = u32::try_from(options.tiered_trigger.max(2)).unwrap_or(u32::MAX);
    let permille = |count: usize| {
        u32::try_from(count)
            .unwrap_or(u32::MAX)
            .saturating_mul(DUE_PERMILLE)
            .checked_div(trigger)
            .unwrap_or(0)
    };
    [permille(levels.l0.len()), permille(levels.l1.len())]
}

/// So many times as many L0 tables, or L1 runs, as are merged at once are the most that is healthy.
const HEALTHY_TIMES: u32 = 3;

/// How much there is to do in parts of what is healthy, in thousandths.
pub(super) fn backlog_permille(levels: &Levels, options: &PickerOptions) -> u32 {
    scores(levels, options).into_iter().max().unwrap_or(0) / HEALTHY_TIMES
}

/// About what the next compaction reads.
pub(super) fn next_bytes(levels: &Levels, options: &PickerOptions) -> u64 {
    let [l0, l1] = scores(levels, options);
    if l0 >= l1 {
        return bytes_of(&levels.l0);
    }
    bytes_of(levels.l1.iter().flatten()).saturating_add(bytes_of(&levels.l2))
}

pub(super) fn debt_bytes(levels: &Levels, options: &PickerOptions) -> u64 {
    let trigger = options.tiered_trigger.max(2);
    let l0 = if levels.l0.len() >= trigger { bytes_of(&levels.l0) } else { 0 };
    let all_runs = bytes_of(levels.l1.iter().flatten()).saturating_add(bytes_of(&levels.l2));
    l0.saturating_add(if levels.l1.len() >= trigger { all_runs } else { 0 })
}

/// Merges the oldest tables of L0, as many as make a run at most, if there are so many.
pub(super) fn from_l0(situation: &Situation<'_>, least: usize) -> Option<Choice> {
    let trigger = situation.options.tiered_trigger.max(2);
    let l0 = &situation.levels.l0;
    // NOTE: one at a time: a run's number tells its age, and the older one must not be installed last.
    if l0.len() < least || l0.iter().any(|table| situation.busy.contains(&table.file)) {
        return None;
    }
    let inputs: Vec<Arc<TableRecord>> = l0.iter().rev().take(trigger).cloned().collect();
    Some(Choice {
        is_move: are_disjoint(&inputs),
        inputs,
        from: Level::L0,
        target: Level::L1,
        run: TargetRun::New,
        score_permille: 0,
    })
}

fn from_l1(situation: &Situation<'_>) -> Option<Choice> {
    let trigger = situation.options.tiered_trigger.max(2);
    let l1 = &situation.levels.l1;
    if l1.len() < trigger {
        return None;
    }
    let oldest: Vec<_> = l1.iter().rev().take(trigger).flatten().cloned().collect();
    into_l2(situation, &oldest)
}
