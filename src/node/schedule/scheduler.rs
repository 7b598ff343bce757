//! Which shard may flush or compact next, and how urgent what runs is: pure functions of every shard's load. The
//! coordinator asks them; grants carry the answer out, and the [budget](super::budget) serves the more urgent one first.

use std::time::Duration;

/// What the scheduler knows of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::node) struct ShardLoad {
    /// The shard's index.
    pub shard: usize,
    /// Bytes in sealed memtables that wait to be flushed.
    pub sealed_bytes: u64,
    /// Whether a flush of this shard runs.
    pub flush_running: bool,
    /// How far the tree is from its healthy shape; at 1 and above a compaction is due.
    pub compaction_score: f64,
    /// How much of what is healthy waits to be compacted; at 1 its writers begin to be slowed down.
    pub backlog: f64,
    /// Whether nothing can be compacted: the shard is not well, or the last compaction failed.
    pub compaction_fails: bool,
    /// About how much its next compaction reads.
    pub compaction_bytes: u64,
    /// How many compactions of this shard run.
    pub compactions_running: usize,
    /// How long a compaction has been due without one being granted.
    pub waited: Duration,
    /// No flush is granted to this shard before this moment: its last one failed, or it is being re-opened.
    pub no_flush_before: Option<Duration>,
    /// The same for compactions.
    pub no_compaction_before: Option<Duration>,
}

/// A job that may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Decision {
    /// Flush the shard with this index.
    Flush(usize),
    /// Compact in the shard with this index.
    Compact(usize),
}

/// A shard that waits this long doubles its urgency, so that none starves behind busier ones.
const PATIENCE: Duration = Duration::from_secs(1);
/// A compaction of this size costs twice as much as the smallest one, which is not for nothing either.
const SMALL_BYTES: f64 = 33_554_432.0;

/// The jobs that are due, in the order in which they should get what workers are free: flushes first, most bytes
/// first; then compactions, by what they relieve for each byte, which grows with waiting; a shard with fewer running
/// compactions goes before its equals. Who carries the order out goes on to the next where a shard has no plan after all.
pub(in crate::node) fn decide(now: Duration, loads: &[ShardLoad]) -> Vec<Decision> {
    let ready = |not_before: Option<Duration>| not_before.is_none_or(|at| at <= now);
    let flush_due =
        |load: &&ShardLoad| load.sealed_bytes > 0 && !load.flush_running && ready(load.no_flush_before);
    let mut flushes: Vec<_> = loads.iter().filter(flush_due).collect();
    flushes.sort_by_key(|load| std::cmp::Reverse(load.sealed_bytes));

    let compaction_due = |load: &&ShardLoad| load.compaction_score >= 1.0 && ready(load.no_compaction_before);
    let mut compactions: Vec<_> = loads.iter().filter(compaction_due).collect();
    compactions.sort_by(|a, b| priority(b).total_cmp(&priority(a)));

    let flushes = flushes.into_iter().map(|load| Decision::Flush(load.shard));
    flushes.chain(compactions.into_iter().map(|load| Decision::Compact(load.shard))).collect()
}

/// How much a compaction of the shard relieves its reads and its space, for what it costs. The score counts twice: what
/// is far from its shape costs every read, and comes near to where writers are slowed down.
#[expect(clippy::cast_precision_loss, reason = "a share")]
pub(in crate::node) fn relief(load: &ShardLoad) -> f64 {
    load.compaction_score * load.compaction_score / (1.0 + load.compaction_bytes as f64 / SMALL_BYTES)
}

fn priority(load: &ShardLoad) -> f64 {
    let patience = 1.0 + load.waited.as_secs_f64() / PATIENCE.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a count of running jobs is tiny")]
    let crowd = 1.0 + load.compactions_running as f64;
    // NOTE: squared, as the score is, so that patience tells against it.
    relief(load) * patience * patience / crowd
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(shard: usize, score: f64) -> ShardLoad {
        ShardLoad { shard, compaction_score: score, ..ShardLoad::default() }
    }

    #[test]
    fn the_fullest_shard_flushes_first_and_only_once() {
        let sealed = |shard, sealed_bytes| ShardLoad { shard, sealed_bytes, ..ShardLoad::default() };
        let mut loads = [sealed(0, 5), sealed(1, 9), sealed(2, 0)];
        assert_eq!(decide(Duration::ZERO, &loads), [Decision::Flush(1), Decision::Flush(0)]);
        loads[1].flush_running = true;
        assert_eq!(decide(Duration::ZERO, &loads), [Decision::Flush(0)]);
    }

    #[test]
    fn a_shard_that_failed_waits_and_then_goes_on() {
        let load = ShardLoad { no_compaction_before: Some(Duration::from_secs(2)), ..due(0, 3.0) };
        assert_eq!(decide(Duration::from_secs(1), &[load]), []);
        assert_eq!(decide(Duration::from_secs(2), &[load]), [Decision::Compact(0)]);
    }

    #[test]
    fn a_healthy_shape_is_left_alone() {
        assert_eq!(decide(Duration::ZERO, &[due(0, 0.99), due(1, 0.0)]), []);
    }

    #[test]
    fn what_relieves_most_for_its_bytes_goes_first_until_another_has_waited_long() {
        let sized = |shard, score, compaction_bytes| ShardLoad { compaction_bytes, ..due(shard, score) };
        let mut loads = [sized(0, 1.5, 1 << 30), sized(1, 1.5, 64 << 20), sized(2, 8.0, 256 << 20)];
        let order = [Decision::Compact(2), Decision::Compact(1), Decision::Compact(0)];
        assert_eq!(decide(Duration::ZERO, &loads), order);
        loads[0].waited = Duration::from_mins(10);
        assert_eq!(decide(Duration::ZERO, &loads)[0], Decision::Compact(0));
        loads[0].compactions_running = 1_000_000;
        assert_eq!(decide(Duration::ZERO, &loads), order, "it has its share");
    }

    /// Every shard stays due for ever, some far more urgently: with one worker, whose every job takes 100 ms,
    /// each shard is served within a bound.
    #[test]
    fn no_shard_starves_among_4096() {
        const SHARDS: usize = 4096;
        let tick = Duration::from_millis(100);
        let mut loads: Vec<_> = (0..SHARDS).map(|i| due(i, if i % 64 == 0 { 10.0 } else { 1.0 })).collect();
        let mut longest = Duration::ZERO;
        for _ in 0..SHARDS * 4 {
            let Some(Decision::Compact(chosen)) = decide(Duration::ZERO, &loads).first().copied() else {
                panic!("a compaction is due at each tick")
            };
            for load in &mut loads {
                load.waited += tick;
            }
            longest = longest.max(loads[chosen].waited);
            loads[chosen].waited = Duration::ZERO;
        }
        let never = loads.iter().map(|load| load.waited).max().unwrap();
        println!("longest wait of {SHARDS} shards: {longest:?} (still waiting: {never:?})");
        assert!(longest.max(never) < tick * 2 * 4096, "longest wait {longest:?}, still waiting {never:?}");
    }
}
