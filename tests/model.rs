//! Whatever is done to a node, in whatever order and under whatever settings, it answers as a `BTreeMap` would:
//! through both faces, across flushes, compactions and re-opens, and scans stay as they were at their first step.
//!
//! `DBEX_TEST_SEED` is the seed of the first sequence, so a failing sequence's own seed repeats it;
//! `DBEX_TEST_SCALE=25` makes it the long run: so many times the sequences.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/face.rs"]
mod face;
#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
mod report;
#[path = "support/shapes.rs"]
mod shapes;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use dbex::{
    CompactionStrategy, Compression, Current, Durability, Env, Error, ErrorKind, Expected, Expiry, IoBudget,
    KeyRange, NodeOptions, PutOptions, Step, WriteBatch, blocking,
    storage::{DiskStorage, Storage, sim::SimStorage},
};
use face::{Face, OpenScan, ScanOrder};
use random::{Random, derive};
use report::{Watchdog, say};
use shapes::scanned;

const SEQUENCES: usize = 200;
const OPERATIONS: usize = 2_000;
/// One sequence in so many runs on the real disk.
const ON_DISK: usize = 10;
const THREADS: usize = 2;
/// No operation takes so long, not even a sync of a disk that others keep busy.
const HANGS_AFTER: Duration = Duration::from_mins(1);

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys and values in key order.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A node under test, what it should hold, and where it keeps it.
struct Sequence {
    random: Random,
    node: blocking::Node,
    /// The same node, for the watchdog.
    latest: Arc<Mutex<blocking::Node>>,
    model: Model,
    options: NodeOptions,
    world: World,
    keys: usize,
    /// Scans that were begun and what they have still to return.
    scans: Vec<(OpenScan, Pairs)>,
    reopens: usize,
}

/// Where the node keeps its files.
struct World {
    storage: Arc<dyn Storage>,
    sim: Option<SimStorage>,
    dir: PathBuf,
    _temp: Option<tempfile::TempDir>,
}

impl World {
    fn new(seed: u64, on_disk: bool) -> Self {
        if on_disk {
            let temp = tempfile::tempdir().unwrap();
            let dir = temp.path().join("node");
            return Self { storage: Arc::new(DiskStorage::new()), sim: None, dir, _temp: Some(temp) };
        }
        let sim = SimStorage::new(seed);
        sim.create_dir_all(Path::new("/data")).and_then(|()| sim.sync_dir(Path::new("/"))).unwrap();
        sim.set_root("/data");
        sim.set_write_once(".sst");
        Self { storage: Arc::new(sim.clone()), sim: Some(sim), dir: "/data/node".into(), _temp: None }
    }

    /// How many tables' files there are.
    fn table_files(&self) -> usize {
        match &self.sim {
            Some(sim) => {
                sim.assert_no_violations();
                sim.paths().iter().filter(|path| is_table(path)).count()
            }
            None => count_tables(&self.dir),
        }
    }
}

fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sst")
}

fn count_tables(dir: &Path) -> usize {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| if path.is_dir() { count_tables(&path) } else { usize::from(is_table(&path)) }).sum()
}

/// Settings at random, most of them far smaller than anyone would choose.
fn random_options(random: &mut Random, dir: &Path, shards: u32) -> NodeOptions {
    let mut options = NodeOptions::default();
    dir.clone_into(&mut options.data_dir);
    options.shards = shards;
    options.durability = if random.permille(100) { Durability::Synced } else { Durability::Buffered };
    options.sync_interval = Duration::from_millis(*random.pick(&[1, 20, 1000]));
    options.memtable_bytes = *random.pick(&[64 << 10, 64 << 10, 100_000, 300_000, 1 << 20]);
    options.block_cache_bytes = *random.pick(&[0, 4 << 10, 64 << 10, 1 << 20]);
    options.filter_bytes_max = *random.pick(&[0, 1 << 10, 1 << 20]);
    options.queue_bytes = *random.pick(&[64 << 10, 1 << 20]);
    options.io_budget =
        *random.pick(&[IoBudget::Unlimited, IoBudget::Auto, IoBudget::BytesPerSecond(1 << 30)]);
    options.max_open_files = *random.pick(&[16, 20, 1000]);
    options.flush_workers = random.between(1, 2);
    options.compaction_workers = random.between(1, 3);
    options.read_workers = random.between(1, 2);
    options.strategy = *random.pick(&[CompactionStrategy::Leveled, CompactionStrategy::SizeTiered]);
    options.l0_trigger = random.between(1, 6);
    options.table_bytes = *random.pick(&[4 << 10, 16 << 10, 64 << 10, 1 << 20]);
    options.block_bytes = *random.pick(&[512, 1 << 10, 4 << 10, 32 << 10]);
    let mut compression = || *random.pick(&[Compression::None, Compression::Lz4, Compression::Zstd]);
    options.compression = [compression(), compression(), compression()];
    options.filter_bits_per_key = *random.pick(&[0, 2, 10, 10, 20]);
    options.wal_compress_above = *random.pick(&[None, None, Some(1), Some(1000)]);
    options
}

impl Sequence {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let on_disk = random.below(ON_DISK) == 0;
        let world = World::new(seed, on_disk);
        let shards = u32::try_from(random.between(1, 5)).unwrap();
        let options = random_options(&mut random, &world.dir, shards);
        let node = blocking::Node::open_with(options.clone(), Env::with_storage(Arc::clone(&world.storage)))
            .unwrap();
        let keys = *random.pick(&[20, 100, 400, 1500]);
        let latest = Arc::new(Mutex::new(node.clone()));
        Self { random, node, latest, model: Model::new(), options, world, keys, scans: vec![], reopens: 0 }
    }

    fn face(&mut self) -> Face {
        if self.random.permille(500) {
            Face::Blocking(self.node.clone())
        } else {
            Face::Async(self.node.to_async())
        }
    }

    fn key(&mut self) -> Vec<u8> {
        shapes::key(&mut self.random, self.keys)
    }

    fn value(&mut self) -> Vec<u8> {
        shapes::value(&mut self.random)
    }

    fn step(&mut self) {
        match self.random.below(10_000) {
            0..3500 => self.put(),
            3500..4450 => self.delete(),
            4450..4500 => self.delete_range(),
            4500..6000 => self.get(),
            6000..6200 => self.multi_get(),
            6200..7000 => self.batch(),
            7000..7500 => self.update(),
            7500..7900 => self.increment(),
            7900..8300 => self.compare(),
            8300..8500 => self.steps(),
            8500..9100 => self.begin_scan(),
            9100..9600 => self.go_on_scanning(),
            9600..9700 => self.refused_calls(),
            9700..9800 => self.face().flush().unwrap(),
            9800..9850 => self.face().sync().unwrap(),
            9850..9900 => self.face().settle().unwrap(),
            9900..9960 => {
                let range = shapes::range(&mut self.random, self.keys);
                self.face().compact(range).unwrap();
            }
            _ => self.reopen(),
        }
    }

    fn put(&mut self) {
        let (key, value) = (self.key(), self.value());
        let face = self.face();
        match self.random.below(10) {
            0 => face.put(&key, &value, PutOptions::new().durability(Durability::Synced)).unwrap(),
            1 => face.put_bytes(&key, &value).unwrap(),
            2 => {
                let done = face.put_if_absent(&key, &value);
                if self.model.contains_key(&key) {
                    assert_eq!(kind(done), Some(ErrorKind::Conflict));
                    return;
                }
                done.unwrap();
            }
            _ => face.put(&key, &value, PutOptions::new()).unwrap(),
        }
        self.model.insert(key, value);
    }

    fn delete(&mut self) {
        let key = self.key();
        self.face().delete(&key).unwrap();
        self.model.remove(&key);
    }

    fn delete_range(&mut self) {
        let key = self.key();
        let range = KeyRange::prefix(&key[..key.len().div_ceil(2)]);
        self.face().delete_range(range.clone()).unwrap();
        self.model.retain(|key, _| !range.contains(key));
    }

    fn get(&mut self) {
        let key = if self.random.permille(100) { b"never written".to_vec() } else { self.key() };
        let found = self.face().get(&key).unwrap();
        assert_eq!(found.as_ref(), self.model.get(&key), "the value of {key:?}");
    }

    fn multi_get(&mut self) {
        let keys: Vec<_> = (0..self.random.below(30)).map(|_| self.key()).collect();
        let expected: Vec<_> = keys.iter().map(|key| self.model.get(key).cloned()).collect();
        assert_eq!(self.face().multi_get(&keys).unwrap(), expected, "the values of {keys:?}");
    }

    fn batch(&mut self) {
        let mut batch = WriteBatch::new();
        if self.random.permille(200) {
            batch.durability(Durability::Synced);
        }
        for _ in 0..self.random.below(20) {
            let key = self.key();
            if self.random.permille(300) {
                batch.delete(&key);
                self.model.remove(&key);
            } else {
                let value = self.value();
                batch.put(&key, &value);
                self.model.insert(key, value);
            }
        }
        self.face().write(batch).unwrap();
    }

    fn update(&mut self) {
        let key = self.key();
        let value = if self.random.permille(800) { Some(self.value()) } else { None };
        let before = self.face().update(&key, value.clone()).unwrap();
        assert_eq!(before.as_ref(), self.model.get(&key), "what the update of {key:?} saw");
        match value {
            Some(value) => self.model.insert(key, value),
            None => self.model.remove(&key),
        };
    }

    fn increment(&mut self) {
        let key = self.key();
        let by = *self.random.pick(&[1, -1, 1000, i64::MAX]);
        let done = self.face().increment(&key, by);
        let before = self
            .model
            .get(&key)
            .map_or(Some(0), |value| std::str::from_utf8(value).ok()?.parse::<i64>().ok());
        match before.and_then(|before| before.checked_add(by)) {
            Some(sum) => {
                assert_eq!(done.unwrap(), sum);
                self.model.insert(key, sum.to_string().into_bytes());
            }
            None => assert_eq!(kind(done), Some(ErrorKind::Invalid)),
        }
    }

    fn compare(&mut self) {
        let (key, value) = (self.key(), self.value());
        let current = self.model.get(&key).cloned();
        let guess = match self.random.below(3) {
            0 => None,
            1 => Some(b"surely another".to_vec()),
            _ => current.clone(),
        };
        let fits = guess == current;
        let expected = guess.as_deref().map_or(Expected::Absent, Expected::Value);
        if self.random.permille(700) {
            assert_eq!(self.face().compare_and_swap(&key, expected, &value).unwrap(), fits);
            if fits {
                self.model.insert(key, value);
            }
        } else {
            assert_eq!(self.face().compare_and_delete(&key, expected).unwrap(), fits);
            if fits {
                self.model.remove(&key);
            }
        }
    }

    /// Several writes at once; those of one key count in their order.
    fn steps(&mut self) {
        let mut steps = vec![];
        let mut expected = vec![];
        for _ in 0..self.random.between(1, 10) {
            let (key, value) = (self.key(), self.value());
            match self.random.below(3) {
                0 => {
                    steps.push(Step::Delete { key: key.clone().into() });
                    expected.push(None);
                    self.model.remove(&key);
                }
                1 => {
                    let put = value.clone();
                    let change = Box::new(move |_: Option<Current<'_>>| Ok(Some(put).into()));
                    steps.push(Step::Update { key: key.clone().into(), change });
                    expected.push(self.model.insert(key, value).map(Bytes::from));
                }
                _ => {
                    steps.push(Step::Put {
                        key: key.clone().into(),
                        value: value.clone().into(),
                        expiry: Expiry::Never,
                    });
                    expected.push(None);
                    self.model.insert(key, value);
                }
            }
        }
        let done: Vec<_> = self.face().steps(steps).into_iter().map(|done| done.unwrap().previous).collect();
        assert_eq!(done, expected, "what the updates among several steps saw");
    }

    fn begin_scan(&mut self) {
        let order = shapes::order(&mut self.random, self.keys);
        let mut expected: Pairs =
            scanned(self.model.iter(), |pair| pair.0, &order).into_iter().map(owned).collect();
        let mut scan = self.face().scan(&order);
        let first = self.random.between(1, 40);
        let found = scan.take(first).unwrap();
        let rest = expected.split_off(found.len().min(expected.len()));
        assert_eq!(keys_of(&found), keys_of(&expected), "{order:?}");
        assert!(found == expected, "a scan finds the right keys with wrong values: {order:?}");
        assert!(
            found.len() == first || rest.is_empty(),
            "{order:?} ends too early, before {:?}",
            keys_of(&rest)
        );
        if self.scans.len() < 4 {
            self.scans.push((scan, rest));
        }
    }

    fn go_on_scanning(&mut self) {
        let count = *self.random.pick(&[1, 10, usize::MAX]);
        let Some((scan, rest)) = self.scans.last_mut() else { return };
        let found = scan.take(count).unwrap();
        let behind = rest.split_off(found.len().min(rest.len()));
        assert_eq!(keys_of(&found), keys_of(rest), "a scan that goes on after writes");
        assert!(found == *rest, "a scan that goes on after writes finds the right keys with wrong values");
        assert!(
            found.len() == count || behind.is_empty(),
            "a scan ends too early, before {:?}",
            keys_of(&behind)
        );
        *rest = behind;
        if found.len() < count {
            self.scans.pop();
        }
    }

    fn refused_calls(&mut self) {
        let face = self.face();
        assert_eq!(kind(face.put(b"", b"v", PutOptions::new())), Some(ErrorKind::Invalid));
        assert_eq!(kind(face.get(&vec![b'k'; (64 << 10) + 1])), Some(ErrorKind::Invalid));
        let mut batch = WriteBatch::new();
        batch.put("fine", "v").put("", "v");
        assert_eq!(kind(face.write(batch)), Some(ErrorKind::Invalid));
        assert_eq!(kind(face.compact(KeyRange::from("b".."a"))), Some(ErrorKind::Invalid));
        assert_eq!(face.get(b"fine").unwrap(), None, "a part of a batch that was refused is there");
    }

    fn reopen(&mut self) {
        // A scan of a closed node is no use to anybody.
        self.scans.clear();
        self.face().close().unwrap();
        assert_eq!(kind(self.face().get(b"key")), Some(ErrorKind::Closed));
        let shards = if self.random.permille(500) { 0 } else { self.options.shards };
        let options = random_options(&mut self.random, &self.world.dir, shards);
        let env = Env::with_storage(Arc::clone(&self.world.storage));
        self.node = blocking::Node::open_with(options, env).unwrap();
        *self.latest.lock().unwrap() = self.node.clone();
        self.reopens += 1;
        self.compare_all();
    }

    fn compare_all(&mut self) {
        let reverse = self.random.permille(300);
        let order = ScanOrder { range: KeyRange::all(), prefix: None, reverse, limit: None };
        let mut found = self.face().scan(&order).take(usize::MAX).unwrap();
        if reverse {
            found.reverse();
        }
        let expected: Vec<_> = self.model.clone().into_iter().collect();
        assert_eq!(keys_of(&found), keys_of(&expected), "all keys");
        assert!(found == expected, "all keys are there, but with wrong values");
    }

    fn end(mut self) {
        while !self.scans.is_empty() {
            self.go_on_scanning();
        }
        self.compare_all();
        for key in self.model.keys().cloned().collect::<Vec<_>>() {
            assert_eq!(self.face().get(&key).unwrap().as_ref(), self.model.get(&key), "the value of {key:?}");
        }
        self.face().settle().unwrap();
        let stats = self.face().stats().unwrap();
        let tables: u64 =
            stats.shards.iter().flat_map(|shard| &shard.tree.levels).map(|level| level.tables).sum();
        self.face().close().unwrap();
        assert_eq!(
            self.world.table_files() as u64,
            tables,
            "files of tables that no version has, or the other way round"
        );
        self.reopen();
        self.face().close().unwrap();
    }
}

fn owned((key, value): (&Vec<u8>, &Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    (key.clone(), value.clone())
}

fn keys_of(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<String> {
    pairs.iter().map(|(key, _)| key.escape_ascii().to_string()).collect()
}

fn kind<T>(done: Result<T, Error>) -> Option<ErrorKind> {
    done.err().map(|error| error.kind())
}

#[test]
fn a_node_is_a_sorted_map() {
    let seed = report::seed();
    say(format_args!("model: DBEX_TEST_SEED={seed}"));
    let count = SEQUENCES * report::scale();
    let [next, reopens, on_disk] = [const { AtomicUsize::new(0) }; 3];
    let run = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let seed = if number == 0 { seed } else { derive(seed, number as u64) };
            let mut sequence = Sequence::new(seed);
            let latest = Arc::clone(&sequence.latest);
            let watchdog = Watchdog::new(HANGS_AFTER, move || {
                format!("the sequence with DBEX_TEST_SEED={seed}, {:#?}", latest.lock().unwrap().stats())
            });
            on_disk.fetch_add(usize::from(sequence.world.sim.is_none()), Ordering::Relaxed);
            let options = format!("{:?}", sequence.options);
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                (0..OPERATIONS).for_each(|number| {
                    watchdog.at(format!("operation {number}"));
                    sequence.step();
                });
                watchdog.at("the end");
                reopens.fetch_add(sequence.reopens, Ordering::Relaxed);
                sequence.end();
            }));
            if let Err(panic) = ran {
                say(format_args!(
                    "VIOLATION in the sequence with DBEX_TEST_SEED={seed}, first opened with {options}"
                ));
                std::panic::resume_unwind(panic);
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(run))));
    say(format_args!(
        "model: {count} sequences of {OPERATIONS} operations, {} on a real disk, {} re-opens, all as the model",
        on_disk.load(Ordering::Relaxed),
        reopens.load(Ordering::Relaxed)
    ));
}
