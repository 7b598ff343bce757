//! One shard under power losses, killed processes and failing operations, at every operation of a script and of
//! the recovery behind it.

use std::collections::BTreeMap;

use super::{
    Strategy, TreeOptions,
    testing::{Rng, Shard, context, guard, open, open_in, tiny},
};
use crate::{
    error::{ErrorKind, Result},
    storage::sim::{CrashPoint, Errno, Fault, FaultRule, OpKind, SimStorage, SyncLoss},
};

type State = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Sync,
    Flush,
    Compact,
    Prepare,
}

fn script(seed: u64, steps: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut steps: Vec<Step> = (0..steps)
        .map(|n| {
            let key = format!("key-{:02}", rng.below(20)).into_bytes();
            match rng.below(20) {
                0..11 => Step::Put(key, format!("{n}-{}", "x".repeat(rng.index(80))).into_bytes()),
                11..14 => Step::Delete(key),
                14..16 => Step::Sync,
                16 | 17 => Step::Flush,
                18 => Step::Compact,
                _ => Step::Prepare,
            }
        })
        .collect();
    steps.push(Step::Flush);
    steps
}

/// What happened to a script: each write with whether it was acked, and how many writes were known durable.
#[derive(Default)]
struct History {
    writes: Vec<(Vec<u8>, Option<Vec<u8>>, bool)>,
    durable: usize,
}

impl History {
    /// The state after the first `n` writes, if all of them count.
    fn state(&self, n: usize) -> State {
        let mut state = State::new();
        for (key, value, _) in &self.writes[..n] {
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
        state
    }

    fn write(&mut self, shard: &mut Shard, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let done = match value {
            Some(value) => shard.put(key, value),
            None => shard.delete(key),
        };
        self.writes.push((key.to_vec(), value.map(<[u8]>::to_vec), done.is_ok()));
        done
    }

    fn step(&mut self, shard: &mut Shard, step: &Step) -> Result<()> {
        match step {
            Step::Put(key, value) => self.write(shard, key, Some(value)),
            Step::Delete(key) => self.write(shard, key, None),
            Step::Sync => shard.tree.wal().sync().map(|_| self.durable = self.writes.len()),
            Step::Flush => {
                shard.flush()?;
                if shard.tree.load(0).sealed_count == 0 {
                    self.durable = self.writes.len();
                }
                Ok(())
            }
            Step::Compact => shard.compact_due(),
            Step::Prepare => shard.tree.prepare_segment(),
        }
    }
}

fn state_of(shard: &Shard) -> State {
    let state: State = shard.all().into_iter().collect();
    for n in 0..20 {
        let key = format!("key-{n:02}").into_bytes();
        assert_eq!(shard.get(&key), state.get(&key).cloned(), "get and scan differ");
    }
    state
}

/// Runs the script until something fails.
fn run_until_error(sim: &SimStorage, options: &TreeOptions, script: &[Step]) -> History {
    let mut history = History::default();
    let Ok(mut shard) = open(sim, options) else { return history };
    for step in script {
        if history.step(&mut shard, step).is_err() {
            break;
        }
    }
    history
}

/// Opens the image, checks that it holds `lower..=upper` first writes and nothing else, and that it works.
fn check_image(
    sim: &SimStorage,
    options: &TreeOptions,
    history: &History,
    lower: usize,
    label: &str,
) -> usize {
    guard(sim);
    let mut shard = open(sim, options).unwrap_or_else(|error| panic!("{label}: does not open: {error}"));
    let state = state_of(&shard);
    let found = (lower..=history.writes.len()).rev().find(|n| history.state(*n) == state);
    let found = found.unwrap_or_else(|| {
        panic!("{label}: not a state from {lower} to {} writes: {state:?}", history.writes.len())
    });
    assert_eq!(shard.table_files(sim), shard.live_files(), "{label}: files leak");
    // It goes on: new writes survive, through a flush and compactions.
    shard.put(b"after", b"1").unwrap();
    shard.tree.wal().sync().unwrap();
    shard.flush().unwrap();
    shard.put(b"after", b"2").unwrap();
    shard.compact_due().unwrap();
    drop(shard);
    let again = sim.kill();
    guard(&again);
    let shard = open(&again, options).unwrap();
    let mut expected = state;
    expected.insert(b"after".to_vec(), b"2".to_vec());
    assert_eq!(state_of(&shard), expected, "{label}: the second life");
    again.assert_no_violations();
    found
}

fn count_changes(options: &TreeOptions, script: &[Step]) -> u64 {
    let sim = SimStorage::new(0);
    guard(&sim);
    run_until_error(&sim, options, script);
    sim.assert_no_violations();
    sim.changes()
}

fn crash_everywhere(strategy: Strategy, seed: u64, kill: bool) {
    let options = tiny(strategy);
    let script = script(seed, 120);
    let changes = count_changes(&options, &script);
    let mut lost = 0;
    for at in 0..changes {
        let sim = SimStorage::new(at);
        guard(&sim);
        sim.set_crash_point(CrashPoint::AtChange(at));
        let history = run_until_error(&sim, &options, &script);
        let label = format!(
            "script {seed}, {strategy:?}, {} at change {at}",
            if kill { "killed" } else { "crashed" }
        );
        let acked = history.writes.iter().filter(|(.., acked)| *acked).count();
        let (image, lower) = if kill { (sim.kill(), acked) } else { (sim.crash(at ^ seed), history.durable) };
        let found = check_image(&image, &options, &history, lower, &label);
        lost += history.writes.len() - found;
    }
    println!("{changes} crash points, {lost} unsynced writes lost");
    assert!(changes > 100);
}

#[test]
fn power_loss_at_any_change_loses_no_synced_write_and_leaves_no_hole() {
    for seed in 0..3 {
        crash_everywhere(Strategy::Leveled, seed, false);
        crash_everywhere(Strategy::SizeTiered, seed + 10, false);
    }
}

#[test]
fn a_killed_process_loses_no_acked_write() {
    crash_everywhere(Strategy::Leveled, 20, true);
    crash_everywhere(Strategy::SizeTiered, 21, true);
}

#[test]
fn crashes_during_recovery_change_nothing() {
    let options = tiny(Strategy::Leveled);
    let script = script(31, 80);
    let changes = count_changes(&options, &script);
    let mut recoveries = 0;
    for at in (5..changes).step_by(7) {
        let sim = SimStorage::new(at);
        sim.set_crash_point(CrashPoint::AtChange(at));
        let history = run_until_error(&sim, &options, &script);
        let image = sim.crash(at);
        let expected = state_of(&open(&image.clone().crash(0), &options).unwrap());
        for step in 0.. {
            let (sim, other) = (image.crash(0), image.crash(0));
            sim.set_crash_point(CrashPoint::AtChange(step));
            if open(&sim, &options).is_ok() {
                break;
            }
            // And once more, somewhere in the second recovery.
            let second = sim.crash(step);
            second.set_crash_point(CrashPoint::AtChange(step / 2));
            drop(open(&second, &options));
            for (image, label) in
                [(second.crash(1), "twice"), (sim.crash(step + 1), "once"), (other, "never")]
            {
                let label = format!("crashed at {at}, then {label} at change {step} of recovery");
                let shard = open(&image, &options).unwrap_or_else(|error| panic!("{label}: {error}"));
                assert_eq!(state_of(&shard), expected, "{label}");
            }
            recoveries += 1;
        }
        let of_script =
            |state: &_| (history.durable..=history.writes.len()).any(|n| history.state(n) == *state);
        assert!(of_script(&expected), "crashed at {at}: not a state after what was durable: {expected:?}");
    }
    println!("{recoveries} interrupted recoveries");
    assert!(recoveries > 100);
}

/// A disk on which the whole script has run.
fn dry_run(options: &TreeOptions, script: &[Step]) -> SimStorage {
    let sim = SimStorage::new(1);
    run_until_error(&sim, options, script);
    sim
}

/// For each key: what it may hold, given what is durable at least and what was tried.
fn check_keys(shard: &Shard, history: &History, known: usize, label: &str) {
    for n in 0..20 {
        let key = format!("key-{n:02}").into_bytes();
        let of_key: Vec<_> = history.writes.iter().enumerate().filter(|(_, write)| write.0 == key).collect();
        let floor = of_key.iter().rposition(|(place, write)| *place < known && write.2);
        let mut allowed: Vec<_> =
            of_key[floor.unwrap_or(0)..].iter().map(|(_, write)| write.1.clone()).collect();
        if floor.is_none() {
            allowed.push(None);
        }
        let found = shard.get(&key);
        assert!(allowed.contains(&found), "{label}: key {n} holds {found:?}, not one of {allowed:?}");
    }
}

/// Runs the whole script, over errors.
fn run_over_errors(shard: &mut Shard, script: &[Step]) -> (History, usize) {
    let (mut history, mut errors) = (History::default(), 0);
    for step in script {
        errors += usize::from(history.step(shard, step).is_err());
    }
    (history, errors)
}

#[test]
fn any_operation_that_fails_once_or_for_ever_is_an_error_or_harmless() {
    let options = tiny(Strategy::Leveled);
    let script = script(41, 90);
    let (opened, total) = (dry_run(&options, &[]).operations(), dry_run(&options, &script).operations());
    let mut errors = 0;
    for at in opened..total {
        for errno in [Errno::IO, Errno::NOSPC] {
            for for_ever in [false, true] {
                let sim = SimStorage::new(1);
                guard(&sim);
                let mut shard = open(&sim, &options).unwrap();
                let rule = FaultRule::new(Fault::Partial(errno));
                sim.fail(if for_ever { rule.from_operation(at) } else { rule.at_operation(at) });
                let (history, failed) = run_over_errors(&mut shard, &script);
                errors += failed;
                sim.clear_faults();
                let label = format!("operation {at} fails with {errno:?}, for ever: {for_ever}");
                check_keys(&shard, &history, history.writes.len(), &label);
                drop(shard);
                let image = sim.crash(at);
                let shard = open(&image, &options).unwrap_or_else(|error| panic!("{label}: {error}"));
                check_keys(&shard, &history, history.durable, &label);
                image.assert_no_violations();
            }
        }
    }
    println!("{} points, {errors} errors", total - opened);
    assert!(errors > 100);
}

#[test]
fn a_failed_sync_poisons_and_reopening_in_place_recovers_what_was_synced() {
    let options = tiny(Strategy::Leveled);
    let script = script(51, 90);
    let total = dry_run(&options, &script).syncs();
    for n in 0..total {
        for loss in [SyncLoss::PagesMarkedClean, SyncLoss::PagesDropped, SyncLoss::NothingLost] {
            let sim = SimStorage::new(1);
            guard(&sim);
            let context = context(&sim);
            sim.fail(FaultRule::new(Fault::Sync(loss)).on(&[OpKind::Sync, OpKind::SyncDir]).nth(n));
            let label = format!("sync {n}, {loss:?}");
            let mut history = History::default();
            if let Ok(mut shard) = open_in(&context, &options) {
                history = run_over_errors(&mut shard, &script).0;
                shard.tree.revoke();
            }
            sim.clear_faults();
            let mut shard = open_in(&context, &options).unwrap_or_else(|e| panic!("{label}: {e}"));
            check_keys(&shard, &history, history.durable, &label);
            // What it holds now it keeps, through a power loss.
            let state = state_of(&shard);
            history.step(&mut shard, &Step::Sync).unwrap();
            drop(shard);
            let image = sim.crash(n);
            let opened = match open(&image, &options) {
                Ok(opened) => opened,
                // The names of new directories were reported as durable after their sync had failed: no program
                // can know, but the loss is seen.
                Err(error) if loss != SyncLoss::NothingLost && history.writes.is_empty() => {
                    assert!(error.corruption_at().is_some(), "{label}: {error}");
                    continue;
                }
                Err(error) => panic!("{label}, after the power loss: {error}"),
            };
            assert_eq!(state_of(&opened), state, "{label}: after the power loss");
        }
    }
    assert!(total > 20);
}

#[test]
fn a_full_disk_refuses_writes_and_heals_without_reopening() {
    let options = tiny(Strategy::Leveled);
    let mut refused = 0;
    for room in (2000..40_000).step_by(500) {
        let sim = SimStorage::new(room);
        guard(&sim);
        let mut shard = open(&sim, &options).unwrap();
        sim.set_capacity(Some(sim.used_bytes() + room));
        let (history, _) = run_over_errors(&mut shard, &script(61, 150));
        refused += history.writes.iter().filter(|(.., acked)| !acked).count();
        let label = format!("{room} bytes of room");
        check_keys(&shard, &history, history.writes.len(), &label);
        sim.set_capacity(None);
        shard.put(b"after", b"1").unwrap_or_else(|error| panic!("{label}: does not heal: {error}"));
        shard.flush().unwrap_or_else(|error| panic!("{label}: does not flush: {error}"));
        shard.compact_due().unwrap();
        drop(shard);
        let image = sim.crash(room);
        let shard = open(&image, &options).unwrap();
        check_keys(&shard, &history, history.writes.len(), &label);
        assert_eq!(shard.get(b"after").as_deref(), Some(&b"1"[..]));
        assert_eq!(shard.table_files(&image), shard.live_files());
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_disk_that_is_full_at_open_opens_for_reading_and_heals() {
    let options = tiny(Strategy::Leveled);
    let mut read_only = 0;
    let sim = SimStorage::new(3);
    let mut shard = open(&sim, &options).unwrap();
    for n in 0..20 {
        shard.put(format!("key-{n:02}").as_bytes(), &[b'x'; 100]).unwrap();
    }
    let state = state_of(&shard);
    drop(shard);
    let sim = sim.kill();
    for room in (0..60_000).step_by(64) {
        let sim = sim.kill();
        sim.set_capacity(Some(sim.used_bytes() + room));
        let mut shard = match open(&sim, &options) {
            Ok(shard) => shard,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                continue;
            }
        };
        assert_eq!(state_of(&shard), state);
        if shard.tree.writable().is_err() {
            read_only += 1;
            assert_eq!(shard.put(b"a", b"b").unwrap_err().kind(), ErrorKind::NoSpace);
            sim.set_capacity(None);
            shard.flush_sealed((u64::MAX >> 8, 0)).unwrap();
            shard.put(b"a", b"b").unwrap();
            break;
        }
    }
    assert!(read_only > 0, "no size of disk was enough to open and not to flush");
}
