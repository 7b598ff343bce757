//! When the disk fails or fills up, a node says so and nothing acked is lost: a failed sync poisons its shard until
//! it is re-opened, a full disk refuses writes until there is room; reads and the other shards go on.
//!
//! `DBEX_TEST_SEED` repeats a run (up to the order in which threads come to the disk); `DBEX_TEST_SCALE=50` makes it
//! the long run: so many times the scripts.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/history.rs"]
#[expect(dead_code, reason = "only its types are used here")]
mod history;
#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
mod report;
#[path = "support/sim_node.rs"]
mod sim_node;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use dbex::{
    Clock, Durability, Error, ErrorKind, PutOptions, Result, Step, StepDone, SystemClock, WriteBatch,
    blocking::Node,
    key::KeyHash,
    storage::Storage as _,
    storage::sim::{Errno, Fault, FaultRule, OpKind, SimStorage, SyncLoss},
};
use history::{Key, State};
use ledger::Ledger;
use random::{Random, derive};
use report::{Watchdog, say};
use sim_node::{HASH_SEED, SHARDS, open, read_all};

const HANGS_AFTER: Duration = Duration::from_mins(1);
const KEYS: usize = 30;
const STEPS: usize = 120;
/// The shard that the faults hit.
const SICK: u32 = 1;
const LOSSES: [SyncLoss; 3] = [SyncLoss::PagesMarkedClean, SyncLoss::PagesDropped, SyncLoss::NothingLost];

fn shard_of(key: &[u8]) -> u32 {
    KeyHash::of(key, HASH_SEED).shard(SHARDS)
}

/// A writer that goes on after errors, and knows what each key may hold.
struct Writer {
    random: Random,
    ledger: Ledger,
    written: usize,
    with_batches: bool,
    /// The keys that are only ever written together, with one value.
    together: Vec<Key>,
}

impl Writer {
    fn new(seed: u64, with_batches: bool) -> Self {
        let together = (0..SHARDS).map(|shard| {
            let keys = (0..).map(|i| format!("together/{i}").into_bytes());
            keys.into_iter().find(|key| shard_of(key) == shard).unwrap()
        });
        let together = together.collect();
        Self { random: Random::new(seed), ledger: Ledger::default(), written: 0, with_batches, together }
    }

    fn value(&mut self) -> Vec<u8> {
        self.written += 1;
        let mut value = format!("{:07}-", self.written).into_bytes();
        value.resize(self.random.between(10, 900), b'v');
        value
    }

    /// One write, flush or sync; `judge` sees each error with the shards it is about.
    fn step(&mut self, node: &Node, judge: &mut dyn FnMut(&[u32], &dbex::Error)) {
        match self.random.below(100) {
            0..3 => self.settling(node.flush(), judge),
            3..6 => self.settling(node.sync(), judge),
            6..26 if self.with_batches => self.write_together(node, judge),
            6..26 => {
                let key = format!("key/{}", self.random.below(KEYS)).into_bytes();
                let done = node.delete(&key);
                self.ledger.wrote(&key, None, &done, false);
                done.unwrap_or_else(|error| judge(&[shard_of(&key)], &error));
            }
            _ => {
                let key = format!("key/{}", self.random.below(KEYS)).into_bytes();
                self.put(node, &key).unwrap_or_else(|error| judge(&[shard_of(&key)], &error));
            }
        }
    }

    fn durability(&mut self) -> Durability {
        if self.random.permille(500) { Durability::Synced } else { Durability::Buffered }
    }

    fn put(&mut self, node: &Node, key: &[u8]) -> Result<()> {
        let (value, durability) = (self.value(), self.durability());
        let done = node.put_with(key, &value, PutOptions::new().durability(durability));
        self.ledger.wrote(key, Some(&value), &done, durability == Durability::Synced);
        done
    }

    fn write_together(&mut self, node: &Node, judge: &mut dyn FnMut(&[u32], &dbex::Error)) {
        let (value, durability) = (self.value(), self.durability());
        let mut batch = WriteBatch::new();
        for key in &self.together {
            batch.put(key, &value);
        }
        let done = node.write(batch.durability(durability).clone());
        for key in &self.together {
            self.ledger.wrote(key, Some(&value), &done, durability == Durability::Synced);
        }
        done.unwrap_or_else(|error| judge(&(0..SHARDS).collect::<Vec<_>>(), &error));
    }

    fn settling(&mut self, done: Result<()>, judge: &mut dyn FnMut(&[u32], &dbex::Error)) {
        match done {
            Ok(()) => self.ledger.promised_all(),
            Err(error) => judge(&(0..SHARDS).collect::<Vec<_>>(), &error),
        }
    }

    fn find(&self, node: &Node) -> State {
        let found = read_all(node, b"").unwrap();
        let together: Vec<_> = self.together.iter().map(|key| found.get(key)).collect();
        assert!(together.iter().all(|value| *value == together[0]), "half a batch is there: {together:?}");
        found
    }

    /// A key of that shard.
    fn key_of(shard: u32) -> Key {
        (0..KEYS).map(|i| format!("key/{i}").into_bytes()).find(|key| shard_of(key) == shard).unwrap()
    }
}

/// Everything is well: all shards take writes, and a power loss takes nothing that was synced.
fn assert_healed(
    writer: &mut Writer,
    node: &Node,
    disk: &SimStorage,
    options: &dbex::NodeOptions,
    seed: u64,
) {
    for shard in 0..SHARDS {
        writer.put(node, &Writer::key_of(shard)).unwrap();
    }
    for _ in 0..STEPS / 4 {
        writer.step(node, &mut |_, error| panic!("an error after healing: {error}"));
    }
    writer.settling(node.sync(), &mut |_, error| panic!("no sync after healing: {error}"));
    writer.ledger.check_live(&writer.find(node)).unwrap();
    let image = disk.crash(seed);
    let _ = node.close();
    let node = open(&image, options, seed).unwrap();
    writer.ledger.check_opened(&writer.find(&node)).unwrap();
    node.settle().unwrap();
    let tables = sim_node::tables(&node);
    node.close().unwrap();
    assert_eq!(
        sim_node::table_files(&image),
        tables,
        "files of tables that no version has, or the other way round"
    );
}

/// How a poisoned shard is brought back.
#[derive(Clone, Copy, Debug)]
enum Cure {
    ReopenShards,
    PowerLoss,
    Kill,
}

/// What a failed sync did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// There are not so many syncs.
    None,
    /// The shard is as well as ever: nothing was in that file yet, and the next write came with another one.
    Harmless,
    Poisoned,
    /// And the first try to re-open it, into which another fault was put, failed.
    PoisonedTwice,
}

/// One script in which one sync of the sick shard fails.
fn fail_one_sync(seed: u64, place: &str, nth: u64, loss: SyncLoss, with_batches: bool, cure: Cure) -> Effect {
    let disk = sim_node::disk(seed);
    let options = sim_node::options(&mut Random::new(seed));
    let mut writer = Writer::new(seed, with_batches);
    let node = open(&disk, &options, seed).unwrap();
    disk.fail(FaultRule::new(Fault::Sync(loss)).on(&[OpKind::Sync]).path(place).nth(nth));
    let mut errors = 0;
    for _ in 0..STEPS {
        writer.step(&node, &mut |shards, error| {
            assert!(shards.contains(&SICK) || with_batches, "a shard that is well refuses: {error}");
            assert!(disk.faults_fired() > 0, "nothing has failed yet: {error}");
            errors += 1;
        });
    }
    disk.clear_faults();
    if disk.faults_fired() == 0 {
        node.close().unwrap();
        return Effect::None;
    }
    // The disk is well again, but nobody may believe that: the shard stays as it is. What failed in the
    // background is known once these return.
    let _ = node.sync();
    let _ = node.settle();
    if node.stats().unwrap().shards[SICK as usize].trouble.is_none() {
        assert!(errors <= 1, "a shard that is well has refused {errors} calls for one fault");
        assert_healed(&mut writer, &node, &disk, &options, seed);
        return Effect::Harmless;
    }
    assert_refuses(&mut writer, &node, with_batches);
    if place.contains("wal") {
        assert_eq!(node.sync().unwrap_err().kind(), ErrorKind::Poisoned);
    }
    match cure {
        Cure::ReopenShards => {
            // The first try may fail anywhere; the next one starts over.
            let broken = derive(seed, nth) % 80;
            disk.fail(FaultRule::new(Fault::Fail(Errno::IO)).nth(broken));
            let is_twice = node.reopen_shards().is_err();
            disk.clear_faults();
            let _ = node.sync();
            let _ = node.settle();
            node.reopen_shards().unwrap();
            writer.ledger.check_opened(&writer.find(&node)).unwrap();
            assert_healed(&mut writer, &node, &disk, &options, seed);
            if is_twice {
                return Effect::PoisonedTwice;
            }
        }
        Cure::PowerLoss | Cure::Kill => {
            let image = if matches!(cure, Cure::Kill) { disk.kill() } else { disk.crash(seed) };
            let _ = node.close();
            let node = open(&image, &options, seed).unwrap();
            writer.ledger.check_opened(&writer.find(&node)).unwrap();
            assert_healed(&mut writer, &node, &image, &options, seed);
        }
    }
    Effect::Poisoned
}

fn assert_refuses(writer: &mut Writer, node: &Node, with_batches: bool) {
    for shard in 0..SHARDS {
        let key = Writer::key_of(shard);
        let done = writer.put(node, &key);
        if shard == SICK {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Poisoned);
            assert_eq!(node.delete(&key).unwrap_err().kind(), ErrorKind::Poisoned);
        } else if let Err(error) = done {
            // A synced ack would promise batches that the sick shard may have lost.
            assert!(
                with_batches && error.kind() == ErrorKind::Poisoned,
                "a shard that is well refuses: {error}"
            );
        }
    }
    let mut batch = WriteBatch::new();
    for shard in 0..SHARDS {
        batch.put(Writer::key_of(shard), "half");
    }
    assert_eq!(node.write(batch).unwrap_err().kind(), ErrorKind::Poisoned);
    writer.ledger.check_live(&writer.find(node)).unwrap();
}

/// How many failed syncs poisoned their shard, and after how many of them the first re-opening failed, too.
#[derive(Clone, Copy, Default)]
struct Tally {
    poisoned: u64,
    twice: u64,
}

/// Runs scripts, and fails each sync of theirs below `place` in turn, until more than `enough` of them poisoned their
/// shard: what a script does, and so how often it syncs, is up to chance.
fn fail_syncs(seed: u64, place: &str, with_batches: bool, enough: u64) -> Tally {
    const MAX_SCRIPTS: u64 = 20;
    let mut tally = Tally::default();
    for script in 0..MAX_SCRIPTS {
        let seed = if script == 0 { seed } else { derive(seed, script) };
        fail_every_sync(seed, place, with_batches, &mut tally);
        if tally.poisoned > enough {
            return tally;
        }
    }
    panic!("DBEX_TEST_SEED={seed}: {} failed syncs in {MAX_SCRIPTS} scripts show too little", tally.poisoned)
}

/// Fails each sync of a script below `place` in turn.
fn fail_every_sync(seed: u64, place: &str, with_batches: bool, tally: &mut Tally) {
    let cures = [Cure::ReopenShards, Cure::PowerLoss, Cure::Kill];
    let watchdog = Watchdog::new(HANGS_AFTER, String::new);
    for nth in 0.. {
        let mut is_beyond = true;
        for (number, loss) in LOSSES.into_iter().enumerate() {
            let cure = cures[(number + usize::try_from(nth).unwrap()) % cures.len()];
            let what = format!(
                "DBEX_TEST_SEED={seed}, sync {nth} below {place}, {loss:?}, {cure:?}, batches: {with_batches}"
            );
            watchdog.at(&what);
            let ran = std::panic::catch_unwind(|| fail_one_sync(seed, place, nth, loss, with_batches, cure));
            let effect = ran.unwrap_or_else(|panic| {
                say(format_args!("VIOLATION {what}"));
                std::panic::resume_unwind(panic)
            });
            tally.poisoned += u64::from(matches!(effect, Effect::Poisoned | Effect::PoisonedTwice));
            tally.twice += u64::from(effect == Effect::PoisonedTwice);
            is_beyond &= effect == Effect::None;
        }
        if is_beyond {
            break;
        }
    }
}

#[test]
fn a_failed_sync_of_a_log_poisons_its_shard_alone_until_it_is_reopened() {
    let seed = report::seed();
    say(format_args!("io_faults: DBEX_TEST_SEED={seed}"));
    for round in 0..report::scale() as u64 {
        let seed = if round == 0 { seed } else { derive(seed, round) };
        let alone = fail_syncs(seed, "shard-0001/wal/", false, 20);
        let batches = fail_syncs(derive(seed, 1), "shard-0001/wal/", true, 20);
        let twice = alone.twice + batches.twice;
        let (alone, batches) = (alone.poisoned, batches.poisoned);
        say(format_args!(
            "io_faults: {alone} scripts with a failed sync of a log, {batches} with batches besides; {twice} first \
             re-openings failed"
        ));
        assert!(twice > 0, "no fault hit a re-opening");
    }
}

#[test]
fn a_failed_sync_of_a_manifest_poisons_its_shard_until_it_is_reopened() {
    let seed = derive(report::seed(), 2);
    for round in 0..report::scale() as u64 {
        let Tally { poisoned, twice } = fail_syncs(derive(seed, round), "shard-0001/MANIFEST", true, 3);
        say(format_args!(
            "io_faults: {poisoned} scripts with a failed sync of a manifest; {twice} first re-openings failed"
        ));
    }
}

#[test]
fn a_failed_sync_of_a_table_is_tried_again_with_another_file() {
    let seed = derive(report::seed(), 3);
    let mut runs = 0;
    let watchdog = Watchdog::new(HANGS_AFTER, move || format!("DBEX_TEST_SEED={seed}"));
    for nth in 0.. {
        watchdog.at(format!("table sync {nth}"));
        let disk = sim_node::disk(seed);
        let options = sim_node::options(&mut Random::new(seed));
        let mut writer = Writer::new(seed, true);
        let node = open(&disk, &options, seed).unwrap();
        let loss = LOSSES[usize::try_from(nth).unwrap() % LOSSES.len()];
        disk.fail(FaultRule::new(Fault::Sync(loss)).on(&[OpKind::Sync]).path(".sst").nth(nth));
        for _ in 0..STEPS {
            writer.step(&node, &mut |_, error| {
                assert!(disk.faults_fired() > 0, "nothing has failed yet: {error}");
            });
        }
        if disk.faults_fired() == 0 {
            node.close().unwrap();
            break;
        }
        runs += 1;
        until(|| node.flush(), "a flush after a failed one");
        writer.ledger.promised_all();
        assert_healed(&mut writer, &node, &disk, &options, seed);
    }
    say(format_args!("io_faults: {runs} scripts with a failed sync of a table"));
    assert!(runs > 5, "the scripts flush too rarely to show anything");
}

/// Waits until something works: background work is tried again after a while.
fn until(mut works: impl FnMut() -> Result<()>, what: &str) {
    for _ in 0..1000 {
        if works().is_ok() {
            return;
        }
        SystemClock::new().sleep(Duration::from_millis(10));
    }
    panic!("{what} does not work, even after ten seconds: {:?}", works());
}

#[test]
fn a_full_disk_refuses_writes_and_the_node_goes_on_once_there_is_room() {
    let seed = derive(report::seed(), 4);
    let (mut refused, mut reopened) = (0, 0);
    let rounds = 60 * report::scale() as u64;
    let watchdog = Watchdog::new(HANGS_AFTER, String::new);
    for round in 0..rounds {
        let seed = derive(seed, round);
        watchdog.at(format!("full disk, seed {seed}"));
        let disk = sim_node::disk(seed);
        let mut random = Random::new(seed);
        let options = sim_node::options(&mut random);
        let mut writer = Writer::new(seed, random.permille(500));
        let node = open(&disk, &options, seed).unwrap();
        let room = random.between(0, 400_000) as u64;
        disk.set_capacity(Some(disk.used_bytes() + room));
        let mut errors = 0;
        for _ in 0..4 * STEPS {
            writer.step(&node, &mut |_, error| {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                errors += 1;
            });
            if errors > 0 && random.permille(50) {
                writer.ledger.check_live(&writer.find(&node)).unwrap();
            }
        }
        refused += errors;
        writer.ledger.check_live(&writer.find(&node)).unwrap();
        if random.permille(700) {
            disk.set_capacity(None);
            for shard in 0..SHARDS {
                until(|| writer.put(&node, &Writer::key_of(shard)), "a write to a disk that has room again");
            }
            until(|| node.flush(), "a flush to a disk that has room again");
            writer.ledger.promised_all();
            assert_healed(&mut writer, &node, &disk, &options, seed);
            continue;
        }
        // The process ends while the disk is full; the next one may come too early, and then a shard has no
        // room for a log.
        let image = disk.kill();
        let _ = node.close();
        let node = open(&image, &options, seed).or_else(|error| {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            image.set_capacity(None);
            open(&image, &options, seed)
        });
        let node = node.unwrap();
        if let Err(error) = read_all(&node, b"") {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            image.set_capacity(None);
            node.reopen_shards().unwrap();
        }
        writer.ledger.check_live(&writer.find(&node)).unwrap();
        image.set_capacity(None);
        until(|| node.flush(), "a flush to a disk that has room again");
        writer.ledger.promised_all();
        reopened += 1;
        assert_healed(&mut writer, &node, &image, &options, seed);
    }
    say(format_args!(
        "io_faults: {rounds} full disks, {refused} writes refused, {reopened} restarts on a full disk"
    ));
    assert!(refused > rounds, "the disks were too large to show anything");
}

/// A node whose sick shard holds so much sealed memory that can never be flushed: its manifest is poisoned.
fn with_stuck_memory(bytes: usize) -> (SimStorage, Node) {
    let disk = sim_node::disk(1);
    let mut options = sim_node::options(&mut Random::new(1));
    options.sync_interval = Duration::from_hours(1);
    let node = open(&disk, &options, 1).unwrap();
    disk.fail(
        FaultRule::new(Fault::Sync(SyncLoss::NothingLost)).on(&[OpKind::Sync]).path("shard-0001/MANIFEST"),
    );
    node.put(Writer::key_of(SICK), vec![b'v'; bytes]).unwrap();
    node.flush().unwrap_err();
    disk.clear_faults();
    let sick = &node.stats().unwrap().shards[SICK as usize];
    assert!(sick.trouble.is_some() && sick.load.sealed_bytes >= bytes as u64, "{sick:?}");
    (disk, node)
}

#[test]
fn a_writer_never_waits_for_memory_that_nobody_can_give_back() {
    let watchdog = Watchdog::new(HANGS_AFTER, String::new);
    let (_disk, node) = with_stuck_memory(100 << 10);
    for shard in [0, 2] {
        watchdog.at(format!("a write to shard {shard} of a full node"));
        let refused = node.put(Writer::key_of(shard), "value").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Poisoned, "{refused}");
        assert!(refused.to_string().contains("cannot be flushed"), "{refused}");
    }
    node.reopen_shards().unwrap();
    (0..SHARDS).for_each(|shard| node.put(Writer::key_of(shard), "value").unwrap());
    node.close().unwrap();
}

#[test]
fn the_memory_that_a_sick_shard_leaves_is_the_others_to_use() {
    let watchdog = Watchdog::new(HANGS_AFTER, String::new);
    let (_disk, node) = with_stuck_memory(36 << 10);
    for i in 0..400 {
        watchdog.at(format!("write {i} beside memory that is stuck"));
        // Each must go in the end: who is well seals and flushes early.
        let key = Writer::key_of([0, 2][i % 2]);
        until(|| node.put(&key, vec![b'v'; 900]), "a write beside memory that is stuck");
    }
    node.close().unwrap();
}

#[test]
fn after_a_reopening_that_failed_every_shard_says_so_and_waits_for_the_next() {
    let disk = sim_node::disk(1);
    let node = open(&disk, &sim_node::options(&mut Random::new(1)), 1).unwrap();
    disk.fail(FaultRule::new(Fault::Sync(SyncLoss::NothingLost)).on(&[OpKind::Sync]).path("shard-0001/wal/"));
    let synced = || PutOptions::new().durability(Durability::Synced);
    node.put_with(Writer::key_of(SICK), "value", synced()).unwrap_err();
    disk.clear_faults();
    // The disk fails for a moment, and only while the shards are re-opened.
    disk.fail(FaultRule::new(Fault::Fail(Errno::IO)).on(&[OpKind::Open, OpKind::Read]).from_nth(0));
    assert_eq!(node.reopen_shards().unwrap_err().kind(), ErrorKind::Io);
    disk.clear_faults();
    for shard in 0..SHARDS {
        let refused = node.put(Writer::key_of(shard), "refused").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Poisoned, "{refused}");
        let told = refused.to_string();
        assert!(told.contains("could not be re-opened") && told.contains("reopen_shards"), "{told}");
    }
    node.reopen_shards().unwrap();
    (0..SHARDS).for_each(|shard| node.put_with(Writer::key_of(shard), "value", synced()).unwrap());
    node.close().unwrap();
}

#[test]
fn nobody_sees_half_a_batch_while_shards_are_reopened() {
    let watchdog = Watchdog::new(HANGS_AFTER, String::new);
    let disk = sim_node::disk(7);
    let mut options = sim_node::options(&mut Random::new(7));
    options.sync_interval = Duration::from_hours(1);
    let node = open(&disk, &options, 7).unwrap();
    let keys: Vec<_> = (0..SHARDS).map(Writer::key_of).collect();
    let batch = |round: u32| {
        let mut batch = WriteBatch::new();
        for key in &keys {
            batch.put(key, round.to_string());
        }
        batch.durability(Durability::Synced);
        node.write(batch)
    };
    batch(0).unwrap();
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let Ok(values) = node.multi_get(&keys) else { continue };
                    assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "half a batch: {values:?}");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 1..=60 {
            watchdog.at(format!("round {round}"));
            let path = format!("shard-{:04}/wal", round % SHARDS);
            disk.fail(FaultRule::new(Fault::Sync(SyncLoss::NothingLost)).on(&[OpKind::Sync]).path(&path));
            assert_eq!(batch(round).unwrap_err().kind(), ErrorKind::Poisoned);
            disk.clear_faults();
            node.reopen_shards().unwrap();
            batch(round).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(seen.into_inner() > 60);
    node.close().unwrap();
}

#[test]
fn a_shard_that_vanished_is_never_made_anew() {
    let disk = sim_node::disk(1);
    let options = sim_node::options(&mut Random::new(1));
    let node = open(&disk, &options, 1).unwrap();
    node.put_with("key", "value", PutOptions::new().durability(Durability::Synced)).unwrap();
    node.close().unwrap();
    let paths = disk.paths();
    for path in paths.iter().filter(|path| path.to_str().unwrap().contains("shard-0001")) {
        disk.remove_file(path).unwrap();
    }
    let node = open(&disk, &options, 2).unwrap();
    for _ in 0..2 {
        assert_eq!(node.put(Writer::key_of(SICK), "x").unwrap_err().kind(), ErrorKind::Corruption);
        assert_eq!(node.reopen_shards().unwrap_err().kind(), ErrorKind::Corruption);
    }
    node.put(Writer::key_of(0), "the others go on").unwrap();
    node.close().unwrap();
}

#[test]
fn what_a_failed_turn_found_is_not_told_either() {
    let disk = sim_node::disk(1);
    let node = open(&disk, &sim_node::options(&mut Random::new(1)), 1).unwrap();
    let put_if_absent = || Step::Update {
        key: "key".into(),
        change: Box::new(|previous| match previous {
            None => Ok(Some("value").into()),
            Some(_) => Err(Error::new(ErrorKind::Conflict, "the key is there already")),
        }),
    };
    disk.fail(FaultRule::new(Fault::Fail(Errno::NOSPC)).on(&[OpKind::Write]).path("wal/").from_nth(0));
    let kinds = |done: Vec<Result<StepDone>>| -> Vec<_> {
        done.into_iter().map(|done| done.map(drop).map_err(|error| error.kind())).collect()
    };
    let refused = kinds(node.steps(vec![put_if_absent(), put_if_absent()]));
    assert_eq!(refused, [Err(ErrorKind::NoSpace), Err(ErrorKind::NoSpace)]);
    disk.clear_faults();
    let done = kinds(node.steps(vec![put_if_absent(), put_if_absent()]));
    assert_eq!(done, [Ok(()), Err(ErrorKind::Conflict)]);
    node.close().unwrap();
}
