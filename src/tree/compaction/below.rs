//! What lies below a merge: whether an older version of a key may be hidden by a tombstone in it.

use std::sync::Arc;

use super::picker::{Choice, Levels};
use crate::{ids::Level, tree::edit::TableRecord};

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
