//! What lies below a merge: whether an older version of a key may be hidden by a tombstone or a range delete in it.

use std::sync::Arc;

use bytes::Bytes;

use super::picker::{Choice, Levels};
use crate::{
    ids::{Level, SeqNo},
    range_delete::{RangeDeletes, is_before_end},
    tree::edit::TableRecord,
};

/// What is hidden of the tables that range deletes overlap is worth a compaction if it is a quarter of them.
const MUCH_IS_ONE_IN: u64 = 4;

/// The tables that hold older data than a merge's inputs.
#[derive(Clone, Debug, Default)]
pub struct Below {
    /// Each list is sorted and does not overlap.
    runs: Vec<Vec<Arc<TableRecord>>>,
}

impl Below {
    /// Below a memtable that is flushed: every table.
    pub fn memtables(levels: &Levels) -> Self {
        let l0 = levels.l0.iter().map(|table| vec![Arc::clone(table)]);
        let runs = levels.l1.iter().chain([&levels.l2]).cloned();
        Self { runs: l0.chain(runs).collect() }
    }

    /// Below the inputs of a compaction. The picker takes the oldest tables of a level, and everything that they
    /// overlap in the level they go to.
    pub fn compaction(levels: &Levels, choice: &Choice) -> Self {
        if choice.target == Level::L2 {
            return Self::default();
        }
        let others = |run: &Vec<Arc<TableRecord>>| {
            run.iter().filter(|table| !choice.inputs.contains(table)).cloned().collect()
        };
        Self { runs: levels.l1.iter().chain([&levels.l2]).map(others).collect() }
    }

    /// Whether one of them may hold a key from `start` on and before `end`.
    pub fn touches(&self, start: &[u8], end: &[u8]) -> bool {
        self.runs.iter().any(|run| {
            let place = run.partition_point(|table| table.ends_before(start));
            run.get(place).is_some_and(|table| is_before_end(&table.min_key, end))
        })
    }

    /// Where the first of them begins, and the first key behind all of them; `None` if there are none.
    pub fn hull(&self) -> Option<(Bytes, Bytes)> {
        let start = self.tables().map(|table| &table.min_key).min()?.clone();
        Some((start, self.tables().map(|table| table.end()).max()?))
    }

    /// The bytes of those all of whose keys are deleted, if they are much of what the deletes' keys overlap.
    pub fn hidden_bytes(&self, deletes: &RangeDeletes) -> u64 {
        let (Some(first), Some(last)) = (deletes.pieces().first(), deletes.pieces().last()) else { return 0 };
        let is_hidden = |table: &TableRecord| {
            deletes.covers_all(&table.min_key, &table.max_key, table.max_seqno, SeqNo::MAX)
        };
        let overlaps = |table: &&Arc<TableRecord>| {
            !table.ends_before(&first.start) && is_before_end(&table.min_key, &last.end)
        };
        let (mut hidden, mut overlapped) = (0u64, 0u64);
        for table in self.tables().filter(overlaps) {
            overlapped = overlapped.saturating_add(table.file_bytes);
            if is_hidden(table) {
                hidden = hidden.saturating_add(table.file_bytes);
            }
        }
        if hidden >= overlapped / MUCH_IS_ONE_IN { hidden } else { 0 }
    }

    fn tables(&self) -> impl Iterator<Item = &Arc<TableRecord>> {
        self.runs.iter().flatten()
    }

    /// Whether one of them may hold `key`.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.runs.iter().any(|run| {
            let place = run.partition_point(|table| table.max_key < key);
            run.get(place).is_some_and(|table| table.min_key <= key)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{compaction::TargetRun, edit::tests::record};

    #[test]
    fn only_what_is_not_merged_lies_below() {
        let table = |level, file, min, max| Arc::new(record(level, file, min, max));
        let levels = Levels {
            l0: vec![table(Level::L0, 5, "a", "z")],
            l1: vec![vec![table(Level::L1, 3, "a", "c"), table(Level::L1, 4, "p", "q")]],
            l2: vec![table(Level::L2, 1, "b", "d"), table(Level::L2, 2, "m", "n")],
        };
        let below = Below::memtables(&levels);
        assert!(below.may_hold(b"k") && below.may_hold(b"z") && !below.may_hold(b"zz"));
        let choice = Choice {
            inputs: vec![
                Arc::clone(&levels.l0[0]),
                Arc::clone(&levels.l1[0][0]),
                Arc::clone(&levels.l1[0][1]),
            ],
            from: Level::L0,
            target: Level::L1,
            run: TargetRun::Existing(0),
            is_move: false,
            score_permille: 0,
        };
        let below = Below::compaction(&levels, &choice);
        assert!(below.may_hold(b"b") && below.may_hold(b"d") && below.may_hold(b"m"));
        assert!(
            !below.may_hold(b"a") && !below.may_hold(b"e") && !below.may_hold(b"p") && !below.may_hold(b"z")
        );
        let below = Below::compaction(&levels, &Choice { target: Level::L2, ..choice });
        assert!(!below.may_hold(b"b"));
    }
}
