//! Whether flushes and compactions may wait for what processor time others leave them.

use std::time::Duration;

use super::{scheduler::ShardLoad, slowdown::MemoryPressure};

/// From this backlog on they may not. NOTE: it rises while a compaction waits and falls at once when it ends, and writers
/// are slowed down where it is 1 in the mean: they are not yet.
const PRESSING: f64 = 1.2;
/// Below this one they may again.
const RELIEVED: f64 = 0.7;
/// Nor may they when one has been due, or under way, for so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// From this part of what memory lets writers add on, flushes may not: a flush in a hurry can make up for its patience.
const FILLING: f64 = 0.5;
/// Below this part they may again.
const DRAINED: f64 = 0.3;
/// Nor may they while memtables take this part of what they may.
const NEARLY_FULL: f64 = 0.875;
/// Nor may they when none has ended for so long.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// What flushes have before them, and what comes in meanwhile.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct FlushLoad<'a> {
    pub memory: &'a MemoryPressure,
    /// What all writers add, in bytes of keys and values a second.
    pub demand: f64,
    /// For how long something has been to flush without a flush coming to its end.
    pub waited: Duration,
}

/// Whether flushing is pressing now, after whether it was.
#[expect(clippy::cast_precision_loss, reason = "a share")]
pub(in crate::node) fn flush_is_pressing(was: bool, load: &FlushLoad<'_>) -> bool {
    let memory = load.memory;
    let is_nearly_full = memory.used as f64 >= memory.limit as f64 * NEARLY_FULL;
    let enough = if was { DRAINED } else { FILLING };
    let is_filling =
        memory.unflushed > 0 && memory.fill_rate().is_none_or(|allowed| load.demand > allowed * enough);
    is_filling || is_nearly_full || load.waited >= FLUSH_PATIENCE
}

/// Whether compaction is pressing now, after whether it was. Compactions share their workers, so the shard that is furthest
/// behind decides for all.
pub(in crate::node) fn compaction_is_pressing(was: bool, loads: &[ShardLoad]) -> bool {
    let enough = if was { RELIEVED } else { PRESSING };
    // NOTE: what cannot be compacted is no reason to hurry.
    let mut loads = loads.iter().filter(|load| !load.compaction_fails);
    loads.any(|load| load.backlog >= enough || load.waited >= PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_patient_until_memory_fills_up_half_as_fast_as_it_may() {
        let mut pressing = true;
        let mut at = |demand: f64, used, unflushed, drain| {
            let memory = MemoryPressure { limit: 100, used, unflushed, drain };
            let load = FlushLoad { memory: &memory, demand, waited: Duration::from_secs(9) };
            pressing = flush_is_pressing(pressing, &load);
            pressing
        };
        let drain = Some(1_000.0);
        assert!(!at(290.0, 50, 50, drain));
        assert!(!at(490.0, 50, 50, drain));
        assert!(at(510.0, 50, 50, drain));
        assert!(at(310.0, 50, 50, drain), "it does not go to and fro");
        assert!(!at(900.0, 50, 0, drain), "nothing is to be done");
        assert!(at(510.0, 50, 50, drain));
        assert!(!at(290.0, 50, 50, drain));
        assert!(at(290.0, 80, 50, drain), "it was too patient");
        assert!(!at(290.0, 80, 20, drain), "it has caught up");
        assert!(!at(990.0, 30, 0, drain));
        assert!(at(0.0, 60, 50, None), "who knows how long it takes");
        assert!(!at(0.0, 60, 50, drain));
        assert!(at(0.0, 90, 0, drain), "writers may wait already, and the estimate is wrong");
        let memory = MemoryPressure { limit: 100, used: 50, unflushed: 50, drain };
        let forgotten = FlushLoad { memory: &memory, demand: 0.0, waited: FLUSH_PATIENCE };
        assert!(flush_is_pressing(false, &forgotten));
    }

    #[test]
    fn compactions_wait_for_what_others_leave_until_a_shard_is_far_behind_or_has_waited_long() {
        let mut pressing = false;
        let mut at = |backlogs: &[f64], waited| {
            let load = |&backlog: &f64| ShardLoad { backlog, ..ShardLoad::default() };
            let mut loads: Vec<_> = backlogs.iter().map(load).collect();
            loads.push(ShardLoad { waited: Duration::from_secs(waited), ..ShardLoad::default() });
            pressing = compaction_is_pressing(pressing, &loads);
            pressing
        };
        assert!(!at(&[], 0));
        assert!(!at(&[0.1, 1.15, 0.3], 59));
        assert!(at(&[0.1, 1.25, 0.3], 0));
        assert!(at(&[0.1, 0.75, 0.3], 0), "it does not go to and fro");
        assert!(!at(&[0.1, 0.65, 0.3], 59));
        assert!(at(&[0.1, 0.2, 0.3], 61));
        assert!(!at(&[0.1, 0.2, 0.3], 0));
        let failing = ShardLoad { backlog: 9.0, waited: PATIENCE, ..ShardLoad::default() };
        assert!(compaction_is_pressing(false, &[failing]));
        assert!(!compaction_is_pressing(true, &[ShardLoad { compaction_fails: true, ..failing }]));
    }
}
