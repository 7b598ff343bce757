//! The leveled strategy: L1 is one sorted run. L0 tables are merged into it, oldest first; when it outgrows its
//! target, the table that overlaps least of L2 goes down. Where nothing overlaps, tables just move.

use std::sync::Arc;

use super::picker::{
    Choice, DUE_PERMILLE, Hull, Levels, PickerOptions, Situation, TargetRun, bytes_of, into_l2, weight_of,
};
use crate::{ids::Level, tree::edit::TableRecord};

/// So many times the trigger's L0 tables are merged at once at most, to bound one compaction.
const L0_BATCH: usize = 4;
/// While writes come, up to so many times the trigger's L0 tables wait until they are worth rewriting L1.
const PATIENCE: u64 = 3;
/// At rest, L0 is merged into L1 if it has at least this part of L1's bytes.
const LEAST_PART_AT_REST: u64 = 32;
/// So many times the trigger's L0 tables, or L1's target, are the most that is healthy.
const HEALTHY_TIMES: u64 = 5;

/// The most urgent choice.
pub(super) fn pick(situation: &Situation<'_>) -> Option<Choice> {
    let [l0, l1] = scores(situation.levels, &situation.options);
    if situation.levels.l1.len() > 1 {
        return collapse_runs(situation);
    }
    // NOTE: L1 first, however much waits in L0, whose tables rewrite all of L1: the more L1 is above its target, the
    // less it costs to take a byte of it down, and the more to bring one in. L0's turn comes, as nothing else fills L1.
    let choice = if l1 >= DUE_PERMILLE {
        from_l1(situation)
    } else if l0 >= DUE_PERMILLE {
        from_l0(situation)
    } else {
        None
    };
    choice.map(|choice| Choice { score_permille: l0.max(l1), ..choice })
}

/// The scores of L0 and L1.
pub(super) fn scores(levels: &Levels, options: &PickerOptions) -> [u32; 2] {
    let l0 = permille(levels.l0.len() as u64, l0_due_tables(levels, options));
    let l1 = permille(weight_of(levels.l1.iter().flatten()), l1_target_bytes(levels, options));
    let leftovers = if levels.l1.len() > 1 { DUE_PERMILLE } else { 0 };
    [l0, l1.max(leftovers)]
}

/// How much there is to do in parts of what is healthy, in thousandths.
pub(super) fn backlog_permille(levels: &Levels, options: &PickerOptions) -> u32 {
    let trigger = options.l0_trigger.max(1) as u64;
    let l1 = weight_of(levels.l1.iter().flatten());
    permille(levels.l0.len() as u64, trigger.saturating_mul(HEALTHY_TIMES))
        .max(permille(l1, l1_target_bytes(levels, options).saturating_mul(HEALTHY_TIMES)))
}

/// About what the next compaction reads.
pub(super) fn next_bytes(levels: &Levels, options: &PickerOptions) -> u64 {
    let [_, l1_score] = scores(levels, options);
    let (l0, l1) = (bytes_of(&levels.l0), bytes_of(levels.l1.iter().flatten()));
    if l1_score < DUE_PERMILLE {
        return l0.saturating_add(l1);
    }
    let table = l1.checked_div(levels.l1.iter().flatten().count() as u64).unwrap_or(0);
    let fan_out = bytes_of(&levels.l2).checked_div(l1).unwrap_or(0).saturating_add(1);
    table.saturating_mul(fan_out)
}

pub(super) fn debt_bytes(levels: &Levels, options: &PickerOptions) -> u64 {
    let (l0, l1) = (bytes_of(&levels.l0), bytes_of(levels.l1.iter().flatten()));
    let (l2, target) = (bytes_of(&levels.l2), l1_target_bytes(levels, options));
    let l0_due = levels.l0.len() as u64 >= l0_due_tables(levels, options);
    let into_l1 = if l0_due { l0.saturating_add(l1) } else { 0 };
    let excess = (if l0_due { l0.saturating_add(l1) } else { l1 }).saturating_sub(target);
    // Each byte that leaves L1 rewrites as many of L2 as there are bytes in L2 for one in L1.
    let fan_out = l2.checked_div(l1.max(target)).unwrap_or(0).saturating_add(1);
    into_l1.saturating_add(excess.saturating_mul(fan_out))
}

/// How many L0 tables make a compaction due. While there are writes in memory, the trigger, or up to [`PATIENCE`] times
/// that, until they have half as many bytes again as L1, which is rewritten with them. At rest, any that are worth
/// rewriting L1.
fn l0_due_tables(levels: &Levels, options: &PickerOptions) -> u64 {
    let (l0, l1) = (bytes_of(&levels.l0), bytes_of(levels.l1.iter().flatten()));
    let trigger = options.l0_trigger.max(1) as u64;
    if options.at_rest {
        return if weight_of(&levels.l0) >= l1 / LEAST_PART_AT_REST { 1 } else { trigger };
    }
    if l0 < l1.saturating_add(l1 / 2) { trigger.saturating_mul(PATIENCE) } else { trigger }
}

/// L1's target lies between L0 and L2 so that both steps rewrite the same share: their geometric mean.
fn l1_target_bytes(levels: &Levels, options: &PickerOptions) -> u64 {
    let l0 = (options.l0_trigger as u64).saturating_mul(options.flush_bytes.saturating_mul(2)).max(1);
    let mean = u128::from(l0).saturating_mul(u128::from(bytes_of(&levels.l2))).isqrt();
    u64::try_from(mean).unwrap_or(u64::MAX).max(l0)
}

fn permille(part: u64, whole: u64) -> u32 {
    u32::try_from(u128::from(part) * 1000 / u128::from(whole.max(1))).unwrap_or(u32::MAX)
}

pub(super) fn from_l0(situation: &Situation<'_>) -> Option<Choice> {
    let levels = situation.levels;
    if levels.l0.iter().any(|table| situation.busy.contains(&table.file)) {
        return None;
    }
    let run = levels.l1.iter().flatten().next().map_or(0, |table| table.run);
    let choice = |inputs, is_move| Choice {
        inputs,
        from: Level::L0,
        target: Level::L1,
        run: TargetRun::Existing(run),
        is_move,
        score_permille: 0,
    };
    let movable = movable_prefix(levels);
    if !movable.is_empty() {
        return Some(choice(movable, true));
    }
    let at_once = situation.options.l0_trigger.max(1).saturating_mul(L0_BATCH);
    let oldest = levels.l0.iter().rev().take(at_once);
    let mut inputs: Vec<Arc<TableRecord>> = oldest.cloned().collect();
    let hull = Hull::of(&inputs);
    let below: Vec<_> = levels.l1.iter().flatten().filter(|table| hull.overlaps(table)).cloned().collect();
    if below.iter().any(|table| situation.busy.contains(&table.file)) {
        return None;
    }
    inputs.extend(below);
    Some(choice(inputs, false))
}

/// The oldest L0 tables that overlap neither each other nor L1.
fn movable_prefix(levels: &Levels) -> Vec<Arc<TableRecord>> {
    let mut chosen: Vec<Arc<TableRecord>> = Vec::new();
    for table in levels.l0.iter().rev() {
        let overlaps = |other: &Arc<TableRecord>| other.overlaps(&table.min_key, &table.max_key);
        if levels.l1.iter().flatten().chain(&chosen).any(overlaps) {
            break;
        }
        chosen.push(Arc::clone(table));
    }
    chosen
}

/// The L1 table that overlaps the fewest bytes of L2 for its size, and then its neighbours as long as they
/// come for nothing.
fn from_l1(situation: &Situation<'_>) -> Option<Choice> {
    let l1: &[Arc<TableRecord>] = situation.levels.l1.first()?;
    let candidates = l1.iter().enumerate().filter_map(|(place, table)| {
        let choice = into_l2(situation, std::slice::from_ref(table))?;
        let below = bytes_of(choice.inputs.iter().filter(|input| input.level == Level::L2));
        let left = below.saturating_sub(table.hidden_bytes);
        let cost = u128::from(left) * 1000 / u128::from(table.weight_bytes().max(1));
        Some((cost, place, choice))
    });
    let (_, place, choice) = candidates.min_by_key(|(cost, place, _)| (*cost, *place))?;
    if choice.is_move {
        return Some(choice);
    }
    let below = choice.inputs.len() - 1;
    let mut best = choice;
    for end in place + 2..=l1.len() {
        let wider = l1.get(place..end).and_then(|tables| into_l2(situation, tables));
        match wider {
            Some(wider) if wider.inputs.len() - (end - place) == below => best = wider,
            _ => break,
        }
    }
    Some(best)
}

/// Runs that the size-tiered strategy left: all of L1 goes down at once.
fn collapse_runs(situation: &Situation<'_>) -> Option<Choice> {
    let all: Vec<_> = situation.levels.l1.iter().flatten().cloned().collect();
    let choice = into_l2(situation, &all)?;
    Some(Choice { score_permille: DUE_PERMILLE, ..choice })
}
