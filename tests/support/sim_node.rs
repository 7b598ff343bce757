//! A node on a simulated disk, with small sizes so that little data makes it flush and compact.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dbex::{
    CompactionStrategy, Env, NodeOptions, Result,
    blocking::Node,
    codec::compress::Compression,
    key::KeyRange,
    storage::{Storage, sim::SimStorage},
};

use crate::{
    history::State,
    random::{Random, derive},
};

pub(crate) const DATA_DIR: &str = "/data/node";
pub(crate) const SHARDS: u32 = 3;
pub(crate) const HASH_SEED: u64 = 0x5EED;

/// Randomness from a seed. A node that is being made asks for its hash seed first, and gets one that tests know.
#[derive(Debug)]
struct SeededRandom {
    seed: u64,
    asked: AtomicU64,
    makes_node: bool,
}

impl dbex::Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if self.makes_node && asked == 0 { HASH_SEED } else { derive(self.seed, asked) }
    }
}

/// The machine, but with that disk and random numbers from a seed.
pub(crate) fn env(disk: &SimStorage, seed: u64) -> Env {
    let makes_node = disk.read_file(Path::new(DATA_DIR).join("NODE")).is_none();
    let mut env = Env::with_storage(Arc::new(disk.clone()));
    env.random = Arc::new(SeededRandom { seed, asked: AtomicU64::new(0), makes_node });
    env
}

/// A disk that complains when a node writes outside its directory or to a table that was finished.
pub(crate) fn disk(seed: u64) -> SimStorage {
    let disk = SimStorage::new(seed);
    // The root is there, durably, before the node is.
    disk.create_dir_all(Path::new("/data")).and_then(|()| disk.sync_dir(Path::new("/"))).unwrap();
    disk.set_root("/data");
    disk.set_write_once(".sst");
    disk
}

/// Small sizes, and otherwise what the random choice says.
pub(crate) fn options(random: &mut Random) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.data_dir = DATA_DIR.into();
    options.shards = SHARDS;
    options.memtable_bytes = 64 << 10;
    options.block_cache_bytes = 64 << 10;
    options.table_bytes = 8 << 10;
    options.block_bytes = 1 << 10;
    options.l0_trigger = random.between(2, 4);
    options.strategy = *random.pick(&[CompactionStrategy::Leveled, CompactionStrategy::SizeTiered]);
    options.compression = [*random.pick(&[Compression::None, Compression::Lz4, Compression::Zstd]); 3];
    options.wal_compress_above = random.permille(300).then_some(512);
    // The interval sync is at work in some runs, and in others nothing is durable before somebody asks.
    options.sync_interval =
        if random.permille(300) { Duration::from_millis(2) } else { Duration::from_hours(1) };
    options.flush_workers = 1;
    options.compaction_workers = 2;
    options.read_workers = 1;
    options
}

/// Opens a node on that disk.
pub(crate) fn open(disk: &SimStorage, options: &NodeOptions, seed: u64) -> Result<Node> {
    Node::open_with(options.clone(), env(disk, seed))
}

/// All keys that begin with `prefix`, as scans and gets agree to see them.
///
/// # Panics
/// If they do not agree.
pub(crate) fn read_all(node: &Node, prefix: &[u8]) -> Result<State> {
    let scan = || node.scan(KeyRange::all()).prefix(prefix);
    let to_state = |pair: Result<dbex::Pair>| pair.map(|(key, value)| (key.to_vec(), value.to_vec()));
    let forward: Vec<_> = scan().map(to_state).collect::<Result<_>>()?;
    let mut backward: Vec<_> = scan().reverse().map(to_state).collect::<Result<_>>()?;
    backward.reverse();
    assert_eq!(forward, backward, "a scan and a reverse scan differ");
    assert!(forward.is_sorted_by(|left, right| left.0 < right.0), "a scan is out of order");
    for (key, value) in &forward {
        assert_eq!(node.get(key)?.as_deref(), Some(&value[..]), "a get and a scan differ");
    }
    Ok(forward.into_iter().collect())
}

/// How many tables the node's shards are made of.
pub(crate) fn tables(node: &Node) -> u64 {
    let shards = node.stats().unwrap().shards;
    shards.iter().flat_map(|shard| &shard.tree.levels).map(|level| level.tables).sum()
}

/// How many files of tables there are.
pub(crate) fn table_files(disk: &SimStorage) -> u64 {
    let is_table = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "sst");
    disk.paths().iter().filter(is_table).count() as u64
}
