//! The same operations under eight sets of options: many shards or one, small memtables and large ones, both compaction
//! strategies, every compression, with and without caches and filters. Each answer is what a model of versions says, so
//! all of them agree: snapshots that are held for long, scans that stay open over flushes and compactions, conditional
//! batches, read-modify-writes, values that expire, across re-opens and kills. No file of a table is left over.
//!
//! `DBEX_TEST_SEED` is the seed of the first sequence, so a failing sequence's own seed repeats it, and
//! `DBEX_TEST_SETTINGS=3` takes only that set of options; `DBEX_TEST_SCALE=25` makes it the long run: so many times the
//! sequences.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/face.rs"]
mod face;
#[path = "support/history.rs"]
#[expect(dead_code, reason = "only its types are used here")]
mod history;
#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
mod report;
#[path = "support/script.rs"]
mod script;
#[path = "support/shapes.rs"]
mod shapes;
#[path = "support/sim_node.rs"]
#[expect(dead_code, reason = "reads are compared with a model here")]
mod sim_node;
#[path = "support/versions.rs"]
mod versions;
#[path = "support/violations.rs"]
mod violations;
#[path = "support/wall.rs"]
mod wall;

use std::{
    fmt::{Debug, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dbex::{
    Clock, CompactionStrategy, Compression, Error, Expected, NodeOptions, PutOptions, Result, Step,
    WriteBatch, blocking, storage::sim::SimStorage,
};
use face::{Face, OpenScan, OpenSnapshot};
use random::{Random, derive};
use report::{Watchdog, say};
use script::{Answer, Author, BatchWrite, Op, StepOf};
use violations::{Violations, on_threads};
use wall::Wall;

const SEQUENCES: u64 = 25;
const OPERATIONS: usize = 2_000;
const SETTINGS: u64 = 8;
const THREADS: usize = 2;
const HANGS_AFTER: Duration = Duration::from_mins(1);

/// One of the sets of options; what they leave open is chosen anew for each sequence.
fn options(number: u64, seed: u64) -> NodeOptions {
    use CompactionStrategy::{Leveled, SizeTiered};
    use Compression::{Lz4, None as Plain, Zstd};
    let mut random = Random::new(seed);
    let mut options = sim_node::options(&mut random);
    let (shards, memtable_kib, strategy, compression, cache_kib, l0_trigger, table_kib) = [
        (1, 64, Leveled, [Plain; 3], 0, 2, 8),
        (2, 64, SizeTiered, [Lz4; 3], 64, 4, 16),
        (3, 100, Leveled, [Plain, Lz4, Zstd], 4, 4, 4),
        (5, 256, SizeTiered, [Zstd; 3], 1024, 2, 32),
        (8, 64, Leveled, [Lz4; 3], 64, 1, 16),
        (1, 1024, SizeTiered, [Plain, Plain, Zstd], 1024, 6, 1024),
        // All in memory, but for what is flushed on purpose.
        (4, 64 << 10, Leveled, [Lz4, Lz4, Zstd], 64 << 10, 4, 32 << 10),
        (3, 64, Leveled, [Zstd, Lz4, Plain], 16, 3, 64),
    ][usize::try_from(number).unwrap()];
    options.shards = shards;
    options.memtable_bytes = memtable_kib << 10;
    options.strategy = strategy;
    options.compression = compression;
    options.block_cache_bytes = cache_kib << 10;
    options.l0_trigger = l0_trigger;
    options.table_bytes = table_kib << 10;
    options.block_bytes = *random.pick(&[512, 1 << 10, 4 << 10, 32 << 10]);
    options.filter_bits_per_key = *random.pick(&[0, 2, 10, 20]);
    options.filter_bytes_max = *random.pick(&[0, 1 << 10, 1 << 20]);
    options.wal_compress_above = *random.pick(&[None, Some(1), Some(1000)]);
    options.max_open_files = *random.pick(&[16, 1000]);
    options
}

/// What was done, over all runs.
#[derive(Default)]
struct Counts {
    operations: AtomicU64,
    reopens: AtomicU64,
    kills: AtomicU64,
    flushes: AtomicU64,
    compactions: AtomicU64,
}

/// A node that carries out a script, and what it holds on to.
struct Run {
    /// Through which face the next operation goes.
    random: Random,
    options: NodeOptions,
    disk: SimStorage,
    wall: Arc<Wall>,
    node: blocking::Node,
    /// The same node, for the watchdog.
    latest: Arc<Mutex<blocking::Node>>,
    snapshots: Vec<OpenSnapshot>,
    scans: Vec<OpenScan>,
    counts: Arc<Counts>,
}

impl Run {
    fn new(settings: u64, seed: u64, counts: &Arc<Counts>) -> Self {
        let mut random = Random::new(derive(seed, settings));
        let options = options(settings, random.next());
        let (disk, wall) = (sim_node::disk(random.next()), Wall::new());
        let node = open(&disk, &wall, &options).unwrap();
        let latest = Arc::new(Mutex::new(node.clone()));
        let counts = Arc::clone(counts);
        Self { random, options, disk, wall, node, latest, snapshots: vec![], scans: vec![], counts }
    }

    fn face(&mut self) -> Face {
        if self.random.permille(500) {
            Face::Blocking(self.node.clone())
        } else {
            Face::Async(self.node.to_async())
        }
    }

    /// Does it, and answers.
    fn carry_out(&mut self, op: Op) -> Result<Answer> {
        let face = self.face();
        Ok(match op {
            Op::Put { key, value, ttl, durability } => {
                let mut options = PutOptions::new();
                (options.ttl, options.durability) = (ttl, durability);
                done(face.put(&key, &value, options))
            }
            Op::PutBytes { key, value } => done(face.put_bytes(&key, &value)),
            Op::PutIfAbsent { key, value } => done(face.put_if_absent(&key, &value)),
            Op::Delete { key } => done(face.delete(&key)),
            Op::DeleteRange { range } => done(face.delete_range(range)),
            Op::Get { key } => Answer::Value(face.get(&key)?.map(Bytes::from)),
            Op::TimeToLive { key } => Answer::Left(face.time_to_live(&key)?),
            Op::MultiGet { keys } => Answer::Values(bytes(face.multi_get(&vecs(keys))?)),
            Op::Batch { .. } | Op::Update { .. } | Op::Increment { .. } | Op::CompareAndSet { .. } => {
                modify(&face, op)?
            }
            Op::Steps { steps } => {
                let done = face.steps(steps.into_iter().map(step).collect());
                Answer::Steps(done.into_iter().collect::<Result<_>>()?)
            }
            Op::Scan { order, first, is_held } => {
                let mut scan = face.scan(&order);
                let found = pairs(scan.take(first)?);
                if is_held {
                    self.scans.push(scan);
                }
                found
            }
            Op::ScanOn { place, count } => {
                let found = self.scans[place].take(count)?;
                if found.len() < count {
                    self.scans.swap_remove(place);
                }
                pairs(found)
            }
            Op::Snapshot => {
                self.snapshots.push(face.snapshot()?);
                Answer::Done
            }
            Op::DropSnapshot { place } => {
                self.snapshots.swap_remove(place);
                Answer::Done
            }
            Op::SnapshotGet { place, key } => {
                Answer::Value(self.snapshots[place].get(&key)?.map(Bytes::from))
            }
            Op::SnapshotMultiGet { place, keys } => {
                Answer::Values(bytes(self.snapshots[place].multi_get(&vecs(keys))?))
            }
            Op::SnapshotScan { place, order } => pairs(self.snapshots[place].scan(&order).take(usize::MAX)?),
            Op::PassTime { time } => {
                self.wall.pass(time);
                Answer::Done
            }
            Op::Sync => done(face.sync()),
            Op::Flush => done(face.flush()),
            Op::Settle => done(face.settle()),
            Op::Compact { range } => done(face.compact(range)),
            Op::Reopen { is_settled } => done(self.reopen(is_settled)),
            Op::Kill => done(self.kill()),
        })
    }

    /// Closes the node and opens it again. Once it is settled, its tables are all that there is.
    fn reopen(&mut self, is_settled: bool) -> Result<()> {
        self.let_go();
        let face = self.face();
        if is_settled {
            face.settle()?;
        }
        self.note_stats()?;
        let tables = sim_node::tables(&self.node);
        face.close()?;
        self.disk.assert_no_violations();
        if is_settled {
            let files = sim_node::table_files(&self.disk);
            assert_eq!(files, tables, "files of tables that no version has, or the other way round");
        }
        self.counts.reopens.fetch_add(1, Ordering::Relaxed);
        self.open()
    }

    fn kill(&mut self) -> Result<()> {
        self.let_go();
        self.note_stats()?;
        let killed = self.disk.kill();
        // The last sync fails on a dead disk, if there is anything to sync.
        let _ = self.node.close();
        self.disk = killed;
        self.counts.kills.fetch_add(1, Ordering::Relaxed);
        self.open()
    }

    fn let_go(&mut self) {
        self.snapshots.clear();
        self.scans.clear();
    }

    fn open(&mut self) -> Result<()> {
        self.node = open(&self.disk, &self.wall, &self.options)?;
        *self.latest.lock().unwrap() = self.node.clone();
        Ok(())
    }

    fn note_stats(&self) -> Result<()> {
        let shards = self.node.stats()?.shards;
        let sum = |of: fn(&dbex::tree::TreeStats) -> u64| shards.iter().map(|shard| of(&shard.tree)).sum();
        self.counts.flushes.fetch_add(sum(|tree| tree.flushes), Ordering::Relaxed);
        self.counts.compactions.fetch_add(sum(|tree| tree.compactions), Ordering::Relaxed);
        Ok(())
    }

    /// Carries out a whole script.
    fn run(&mut self, seed: u64, watchdog: &Watchdog) -> std::result::Result<(), String> {
        let mut author = Author::new(seed);
        for number in 0..OPERATIONS {
            if number % 100 == 0 {
                watchdog.at(format!("operation {number}"));
            }
            let next = author.next();
            self.compare(number, next)?;
        }
        for (number, op) in author.end().into_iter().enumerate() {
            self.compare(OPERATIONS + number, op)?;
        }
        self.node.close().map_err(|error| format!("does not close: {error}"))
    }

    fn compare(&mut self, number: usize, (op, expected): (Op, Answer)) -> std::result::Result<(), String> {
        self.counts.operations.fetch_add(1, Ordering::Relaxed);
        let answer = self.carry_out(op.clone());
        if answer.as_ref().is_ok_and(|answer| *answer == expected) {
            return Ok(());
        }
        let what = match &answer {
            Err(error) => error.to_string(),
            Ok(answer) => difference(answer, &expected),
        };
        Err(format!("operation {number}: {what}: {}", short(&op, 600)))
    }
}

/// What reads a key and writes it.
fn modify(face: &Face, op: Op) -> Result<Answer> {
    Ok(match op {
        Op::Batch { writes, conditions, durability } => {
            let mut batch = WriteBatch::new();
            for (key, value) in &conditions {
                match value {
                    Some(value) => batch.require(key, value),
                    None => batch.require_absent(key),
                };
            }
            for write in &writes {
                match write {
                    BatchWrite::Key { key, value: Some(value), ttl: Some(ttl) } => {
                        batch.put_with_ttl(key, value, *ttl)
                    }
                    BatchWrite::Key { key, value: Some(value), ttl: None } => batch.put(key, value),
                    BatchWrite::Key { key, value: None, .. } => batch.delete(key),
                    BatchWrite::DeleteRange(range) => batch.delete_range(range.clone()),
                };
            }
            if let Some(durability) = durability {
                batch.durability(durability);
            }
            done(face.write(batch))
        }
        Op::Update { key, edit } => {
            let before = face.update_by(&key, move |current| edit.change(current))?;
            Answer::Value(before.map(Bytes::from))
        }
        Op::Increment { key, by } => match face.increment(&key, by) {
            Ok(sum) => Answer::Number(sum),
            Err(error) => refused(&error),
        },
        Op::CompareAndSet { key, expected, value } => {
            let expected = expected.as_deref().map_or(Expected::Absent, Expected::Value);
            Answer::Truth(match value {
                Some(value) => face.compare_and_swap(&key, expected, &value)?,
                None => face.compare_and_delete(&key, expected)?,
            })
        }
        _ => unreachable!("this modifies nothing: {op:?}"),
    })
}

fn step(step: StepOf) -> Step {
    match step {
        StepOf::Put { key, value, expiry } => Step::Put { key, value, expiry },
        StepOf::Delete { key } => Step::Delete { key },
        StepOf::Update { key, edit } => {
            let change = move |current: Option<dbex::Current<'_>>| {
                Ok(edit.change(current.map(|current| current.value)))
            };
            Step::Update { key, change: Box::new(change) }
        }
    }
}

fn done(result: Result<()>) -> Answer {
    result.map_or_else(|error| refused(&error), |()| Answer::Done)
}

fn refused(error: &Error) -> Answer {
    Answer::Refused(error.kind())
}

fn vecs(keys: Vec<Bytes>) -> Vec<Vec<u8>> {
    keys.into_iter().map(Vec::from).collect()
}

fn bytes(values: Vec<Option<Vec<u8>>>) -> Vec<Option<Bytes>> {
    values.into_iter().map(|value| value.map(Bytes::from)).collect()
}

fn pairs(found: Vec<(Vec<u8>, Vec<u8>)>) -> Answer {
    Answer::Pairs(found.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

/// Where an answer differs from the one that was expected.
fn difference(found: &Answer, expected: &Answer) -> String {
    fn first<T: Debug + PartialEq>(found: &[T], expected: &[T]) -> String {
        let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
        let (is, should) = (found.get(same), expected.get(same));
        format!(
            "{} of {} are right, then {}, not {}",
            same,
            expected.len(),
            short(&is, 120),
            short(&should, 120)
        )
    }
    match (found, expected) {
        (Answer::Pairs(found), Answer::Pairs(expected)) => first(found, expected),
        (Answer::Values(found), Answer::Values(expected)) => first(found, expected),
        (Answer::Steps(found), Answer::Steps(expected)) => first(found, expected),
        _ => format!("{}, not {}", short(found, 200), short(expected, 200)),
    }
}

/// The beginning of what it looks like.
fn short(of: &impl Debug, most: usize) -> String {
    let mut text = format!("{of:?}");
    if text.len() > most {
        let bytes = text.len();
        text = text.chars().take(most).collect();
        let _ = write!(text, "… ({bytes} bytes)");
    }
    text
}

fn open(disk: &SimStorage, wall: &Arc<Wall>, options: &NodeOptions) -> Result<blocking::Node> {
    let mut env = sim_node::env(disk, 0);
    env.clock = Arc::clone(wall) as Arc<dyn Clock>;
    blocking::Node::open_with(options.clone(), env)
}

#[test]
fn all_settings_give_the_same_answers() {
    let seed = report::seed();
    let only: Option<u64> = std::env::var("DBEX_TEST_SETTINGS").ok().map(|text| text.parse().unwrap());
    say(format_args!("metamorphic: DBEX_TEST_SEED={seed}"));
    let (counts, violations) = (Arc::<Counts>::default(), Violations::default());
    let sequences = SEQUENCES * report::scale() as u64;
    on_threads(THREADS, sequences * SETTINGS, |number| {
        let (sequence, settings) = (number / SETTINGS, number % SETTINGS);
        if only.is_some_and(|only| only != settings) {
            return;
        }
        let seed = if sequence == 0 { seed } else { derive(seed, sequence) };
        let place = format!("DBEX_TEST_SEED={seed} DBEX_TEST_SETTINGS={settings}");
        let part = || {
            let mut run = Run::new(settings, seed, &counts);
            let (latest, place) = (Arc::clone(&run.latest), place.clone());
            let watchdog =
                Watchdog::new(HANGS_AFTER, move || format!("{place}, {:#?}", latest.lock().unwrap().stats()));
            let options = run.options.clone();
            run.run(seed, &watchdog).map_err(|what| format!("{what}; with {options:?}"))
        };
        violations.note(part, &place);
    });
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    say(format_args!(
        "metamorphic: {sequences} sequences under {SETTINGS} settings, {} operations, {} re-opens, {} kills, {} flushes, \
         {} compactions, {} violations",
        of(&counts.operations),
        of(&counts.reopens),
        of(&counts.kills),
        of(&counts.flushes),
        of(&counts.compactions),
        violations.count()
    ));
    violations.assert_none(seed);
    assert!(of(&counts.compactions) > 0, "nothing is ever compacted");
}
