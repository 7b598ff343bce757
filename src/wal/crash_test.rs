//! Lives of a log in the simulated file system, each ended by a power loss or a killed process at any operation,
//! recovery's own included, with failing writes and syncs in between. What recovery finds is what was
//! appended, in order, down to the last synced frame at least; frames of a failed append may stand only
//! where they were tried.

use std::sync::Arc;

use super::{testing::*, *};
use crate::{
    ids::{BatchId, SegmentNumber, SeqNo},
    storage::{
        Storage,
        sim::{CrashPoint, Errno, Fault, FaultRule, OpKind, SimStorage, SyncLoss},
    },
};

const LIVES: u64 = 12;

/// `SplitMix64`, so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

/// What the log must and may hold.
#[derive(Default)]
struct Oracle {
    acked: Vec<(ModelFrame, LogPosition)>,
    /// So many of `acked` were synced.
    synced: usize,
    /// Groups whose append failed, each with the number of acked frames before it.
    failed: Vec<(usize, Vec<ModelFrame>)>,
    floor: u64,
    next: SeqNo,
    /// A sync failed since the last power loss: what a reader sees need not be on the disk, ever.
    sync_failed: bool,
    /// What the life began with is on the disk: it came out of a power loss.
    is_durable: bool,
}

impl Oracle {
    fn check(&self, log: &RecoveredLog, seed: u64) {
        let found = models_of(log);
        let same = found.iter().zip(&self.acked).take_while(|(found, (acked, _))| *found == acked).count();
        assert!(same >= self.synced, "seed {seed}: {same} of {} synced frames are left", self.synced);
        let rest = &found[same..];
        let tried = |(after, group): &(usize, Vec<ModelFrame>)| *after == same && group.starts_with(rest);
        assert!(
            rest.is_empty() || self.failed.iter().any(tried),
            "seed {seed}: after {same} of {} acked frames come {rest:?}",
            self.acked.len()
        );
        assert!(log.highest_seqno < self.next, "seed {seed}");
        assert!(log.known_synced <= log.end, "seed {seed}");
    }

    /// The manifest says, durably, that everything below `floor` is flushed.
    fn raise_floor(&mut self, floor: SegmentNumber) {
        let before = self.acked.len();
        self.acked.retain(|(_, end)| end.segment >= floor);
        let gone = before - self.acked.len();
        self.synced = self.synced.saturating_sub(gone);
        self.failed.retain(|(after, _)| *after >= gone);
        self.failed.iter_mut().for_each(|(after, _)| *after -= gone);
        self.floor = floor.get();
    }
}

#[derive(Debug, Default)]
struct Work {
    lives: u64,
    recoveries_cut_short: u64,
    acked: u64,
    synced: u64,
    lost: u64,
    failed: u64,
    poisoned: u64,
    unknown_stood: u64,
    rotations: u64,
}

fn frames(dice: &mut Dice) -> Vec<(FrameKind, Vec<ModelOp>)> {
    let op = |dice: &mut Dice| {
        let key = format!("key {}", dice.below(50)).into_bytes();
        let len = if dice.percent(3) { 9_000 } else { dice.below(600) };
        let value = dice.percent(85).then(|| vec![b'v'; usize::try_from(len).unwrap()]);
        (key, value, dice.percent(20).then_some(5))
    };
    let frame = |dice: &mut Dice| {
        let kind = match dice.below(10) {
            0 => FrameKind::Batch { id: BatchId(dice.next()), participants: vec![SHARD] },
            1 => FrameKind::Cancel { id: BatchId(dice.next()) },
            _ => FrameKind::Data,
        };
        let ops = (0..=dice.below(3)).map(|_| op(dice)).collect();
        (kind, ops)
    };
    (0..=dice.below(4)).map(|_| frame(dice)).collect()
}

fn inject(sim: &SimStorage, dice: &mut Dice) {
    let loss = [SyncLoss::PagesMarkedClean, SyncLoss::PagesDropped, SyncLoss::NothingLost];
    match dice.below(8) {
        0 => sim.fail(FaultRule::new(Fault::Partial(Errno::NOSPC)).on(&[OpKind::Write]).nth(dice.below(20))),
        1 => sim.fail(FaultRule::new(Fault::Partial(Errno::IO)).on(&[OpKind::Write]).nth(dice.below(20))),
        2 => sim.fail(FaultRule::new(Fault::Short).on(&[OpKind::Write])),
        3 => {
            let which = usize::try_from(dice.below(3)).unwrap();
            sim.fail(FaultRule::new(Fault::Sync(loss[which])).on(&[OpKind::Sync]).nth(dice.below(6)));
        }
        4 => {
            let kinds = [OpKind::Rename, OpKind::SyncDir, OpKind::Allocate, OpKind::Create, OpKind::Remove];
            let kind = kinds[usize::try_from(dice.below(5)).unwrap()];
            sim.fail(FaultRule::new(Fault::Partial(Errno::IO)).on(&[kind]).nth(dice.below(3)));
        }
        _ => {}
    }
}

/// One turn, sync or step of a worker.
fn step(sim: &SimStorage, log: &mut TestLog, oracle: &mut Oracle, dice: &mut Dice, work: &mut Work) {
    match dice.below(20) {
        0..=11 => {
            let group = frames(dice);
            let models = log.models_of_group(&group);
            let before = log.appended.len();
            if log.append(&group).is_ok() {
                oracle.acked.extend_from_slice(&log.appended[before..]);
                work.acked += 1;
            } else {
                oracle.failed.push((oracle.acked.len(), models));
                work.failed += 1;
            }
            oracle.next = log.next;
        }
        12..=14 => {
            let written = oracle.acked.len();
            match log.sync.sync() {
                Ok(_) => oracle.synced = written,
                Err(_) => oracle.sync_failed |= !sim.is_dead(),
            }
            work.synced += 1;
            work.poisoned += u64::from(log.sync.is_poisoned());
        }
        15 | 16 => drop(log.pool.prepare()),
        17 => drop(log.pool.trim(usize::try_from(dice.below(2)).unwrap())),
        18 => drop(log.writer.rotate()),
        _ => {
            if let Ok(next) = log.writer.rotate() {
                // A flush of everything sealed: its tables are durable, and so is the manifest's floor.
                oracle.raise_floor(next.max(SegmentNumber(oracle.floor)));
                drop(log.pool.release(SegmentNumber(oracle.floor)));
                work.rotations += 1;
            }
        }
    }
}

/// Opens the log, with a crash at a random operation of that or without.
fn recover(
    sim: &mut SimStorage,
    oracle: &mut Oracle,
    dice: &mut Dice,
    work: &mut Work,
    seed: u64,
) -> TestLog {
    // What a durable image may be read as: what the first reading found, or what a recovery that was cut short
    // kept of it.
    let mut allowed: Vec<Vec<ModelFrame>> = vec![];
    loop {
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        if dice.percent(40) {
            sim.set_crash_point(CrashPoint::AtOperation(sim.operations() + dice.below(30)));
        }
        let kept = read(&storage, oracle.floor).and_then(|log| {
            oracle.check(&log, seed);
            let found = models_of(&log);
            let again = allowed.is_empty() || allowed.contains(&found);
            assert!(
                again,
                "seed {seed}: an interrupted recovery changed the log: {found:?}, not {allowed:?}"
            );
            work.unknown_stood += u64::from(found.len() > oracle.acked.len());
            let cut = dice.below(3) * u64::from(dice.percent(30));
            let keep = log.frames.len().saturating_sub(usize::try_from(cut).unwrap()).max(oracle.synced);
            if oracle.is_durable {
                allowed.extend([found[..keep].to_vec(), found]);
            }
            let is_synced = dice.percent(70);
            if is_synced {
                log.sync()?;
            }
            Ok((TestLog::after(&log, keep, options(), dice.next())?, is_synced))
        });
        match kept {
            Ok((log, is_synced)) => {
                sim.set_crash_point(CrashPoint::AtOperation(u64::MAX));
                work.lost += oracle.acked.len().saturating_sub(log.appended.len()) as u64;
                oracle.acked.clone_from(&log.appended);
                oracle.failed.clear();
                if oracle.is_durable || is_synced && !oracle.sync_failed {
                    oracle.synced = oracle.acked.len();
                }
                return log;
            }
            Err(error) => {
                assert!(sim.is_dead(), "seed {seed}: a log that is not damaged does not open: {error:?}");
                work.recoveries_cut_short += 1;
                let was_durable = oracle.is_durable;
                end_life(sim, oracle, dice);
                // What a recovery read from a durable image is durable, whatever ended it.
                oracle.is_durable |= was_durable;
            }
        }
    }
}

/// Ends a life by a power loss or by killing the process.
fn end_life(sim: &mut SimStorage, oracle: &mut Oracle, dice: &mut Dice) {
    let power_loss = dice.percent(75);
    *sim = if power_loss { sim.crash(dice.next()) } else { sim.kill() };
    oracle.sync_failed &= !power_loss;
    oracle.is_durable = power_loss;
}

fn run(seed: u64, work: &mut Work) {
    let mut dice = Dice(seed);
    let mut sim = SimStorage::new(seed);
    let mut oracle = Oracle { floor: 1, next: SeqNo(1), ..Oracle::default() };
    sim.create_dir_all(dir()).unwrap();
    for parent in dir().ancestors() {
        sim.sync_dir(parent).unwrap();
    }
    for _ in 0..LIVES {
        work.lives += 1;
        let mut log = recover(&mut sim, &mut oracle, &mut dice, work, seed);
        log.next = oracle.next;
        if dice.percent(75) {
            // The recovered frames are flushed; before that nothing may be appended.
            oracle.raise_floor(log.writer.current_segment());
            drop(log.pool.release(log.writer.current_segment()));
            inject(&sim, &mut dice);
            if dice.percent(80) {
                sim.set_crash_point(CrashPoint::AtOperation(sim.operations() + dice.below(120)));
            }
            for _ in 0..dice.below(60) {
                step(&sim, &mut log, &mut oracle, &mut dice, work);
            }
        }
        sim.clear_faults();
        end_life(&mut sim, &mut oracle, &mut dice);
    }
}

#[test]
fn what_was_synced_survives_and_nothing_else_appears() {
    let mut work = Work::default();
    for seed in 0..400 {
        run(seed, &mut work);
    }
    println!("{work:?}");
    assert!(work.recoveries_cut_short > 500 && work.lost > 1_000 && work.failed > 500, "{work:?}");
    assert!(work.poisoned > 50 && work.unknown_stood > 50 && work.rotations > 500, "{work:?}");
}

#[test]
fn syncs_that_run_beside_appends_and_rotations_ack_only_what_is_durable() {
    let mut acked_frames = 0;
    for seed in 0..150 {
        let sim = SimStorage::new(seed);
        sim.create_dir_all(dir()).unwrap();
        for parent in dir().ancestors() {
            sim.sync_dir(parent).unwrap();
        }
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        let mut log = TestLog::open(&storage, options());
        let (sync, pool) = (Arc::clone(&log.sync), Arc::clone(&log.pool));
        let acked = std::thread::scope(|scope| {
            let syncers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut acked = LogPosition::default();
                        for _ in 0..30 {
                            let written = sync.written();
                            acked = sync.sync().unwrap();
                            assert!(acked >= written);
                            drop(pool.prepare());
                        }
                        acked
                    })
                })
                .collect();
            for i in 0..120 {
                log.put(&format!("key {i}"), &"v".repeat(200)).unwrap();
            }
            syncers.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
        });
        let image: Arc<dyn Storage> = Arc::new(sim.crash(seed));
        let recovered = read(&image, 1).unwrap();
        let durable = log.appended.iter().filter(|(_, end)| *end <= acked).count();
        assert!(recovered.frames.len() >= durable, "seed {seed}");
        assert!(log.models().starts_with(&models_of(&recovered)));
        acked_frames += durable;
    }
    assert!(acked_frames > 1_000, "{acked_frames}");
}
