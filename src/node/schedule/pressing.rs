//! Whether compactions may wait for what processor time others leave them.

use std::time::Duration;

use super::scheduler::ShardLoad;

/// From this backlog on they may not. NOTE: it rises while a compaction waits and falls at once when it ends, and writers
/// are slowed down where it is 1 in the mean: they are not yet.
const PRESSING: f64 = 1.2;
/// Below this one they may again.
const RELIEVED: f64 = 0.7;
/// Nor may they when one has been due, or under way, for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether compaction is pressing now, after whether it was. Compactions share their workers, so the shard that is furthest
/// behind decides for all.
pub(in crate::node) fn is_pressing(was: bool, loads: &[ShardLoad]) -> bool {
    let enough = if was { RELIEVED } else { PRESSING };
    // NOTE: what cannot be compacted is no reason to hurry.
    let mut loads = loads.iter().filter(|load| !load.compaction_fails);
    loads.any(|load| load.backlog >= enough || load.waited >= PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compactions_wait_for_what_others_leave_until_a_shard_is_far_behind_or_has_waited_long() {
        let mut pressing = false;
        let mut at = |backlogs: &[f64], waited| {
            let load = |&backlog: &f64| ShardLoad { backlog, ..ShardLoad::default() };
            let mut loads: Vec<_> = backlogs.iter().map(load).collect();
            loads.push(ShardLoad { waited: Duration::from_secs(waited), ..ShardLoad::default() });
            pressing = is_pressing(pressing, &loads);
            pressing
        };
        assert!(!at(&[], 0));
        assert!(!at(&[0.1, 1.15, 0.3], 9));
        assert!(at(&[0.1, 1.25, 0.3], 0));
        assert!(at(&[0.1, 0.75, 0.3], 0), "it does not go to and fro");
        assert!(!at(&[0.1, 0.65, 0.3], 9));
        assert!(at(&[0.1, 0.2, 0.3], 11));
        assert!(!at(&[0.1, 0.2, 0.3], 0));
        let failing = ShardLoad { backlog: 9.0, waited: PATIENCE, ..ShardLoad::default() };
        assert!(is_pressing(false, &[failing]));
        assert!(!is_pressing(true, &[ShardLoad { compaction_fails: true, ..failing }]));
    }
}
