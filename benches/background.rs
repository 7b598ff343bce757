//! The background jobs, one at a time on one shard: a flush, and compactions that rewrite everything. Keys of 16
//! bytes, values of 100 that do not compress; everything stays in the page cache.
//!
//! `cargo bench --bench background`; `-- --dir DIR` puts the data elsewhere than in the system's temporary
//! directory. A job is one thread: MB/s are the keys and values that it takes in, by the clock (waiting for the disk's
//! syncs included) and a second of processor time.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has nothing to say")]
#![expect(clippy::cast_precision_loss, reason = "rates are shown with three digits")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use dbex::{CompactionStrategy, Compression, KeyRange, Settings, blocking::Node, key::KeyHash};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 5;
/// What one flush takes: below half of the memtables' budget, so that nothing is flushed unasked.
const FLUSHED: u64 = 400_000;
const MEMTABLE_BYTES: u64 = 256 << 20;
const ENTRY_BYTES: u64 = 16 + 100;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = args.iter().position(|arg| arg == "--dir").and_then(|at| args.get(at + 1));
    let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
    println!("| job | entries | seconds | MB/s | CPU seconds | MB/s a core |");
    println!("|---|---:|---:|---:|---:|---:|");
    for compression in [Compression::Lz4, Compression::None] {
        flushes(&dir, compression);
        compactions(&dir, compression);
    }
}

/// A node of one shard that compacts only when it is asked: the leveled strategy would merge what it finds when nothing
/// is written.
fn open(dir: &Path, compression: Compression) -> Node {
    let settings = Settings::builder().data_dir(dir).shards(1).memtable_bytes(MEMTABLE_BYTES);
    let settings = settings.strategy(CompactionStrategy::SizeTiered).compression(compression);
    Node::open(settings.build().unwrap()).unwrap()
}

/// Flushes of fresh keys.
fn flushes(dir: &Path, compression: Compression) {
    let home = tempfile::tempdir_in(dir).unwrap();
    let node = open(home.path(), compression);
    let times: Vec<_> = (0..ROUNDS as u64)
        .map(|round| {
            fill(&node, round * FLUSHED..(round + 1) * FLUSHED);
            timed(|| node.flush().unwrap())
        })
        .collect();
    report(&format!("flush, {compression:?}"), FLUSHED, &times);
}

/// Compactions of four tables that cover each other, into the last level.
fn compactions(dir: &Path, compression: Compression) {
    const TABLES: u64 = 4;
    let times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let home = tempfile::tempdir_in(dir).unwrap();
            let node = open(home.path(), compression);
            for table in 0..TABLES {
                fill(&node, table * FLUSHED..(table + 1) * FLUSHED);
                node.flush().unwrap();
            }
            timed(|| node.compact(KeyRange::all()).unwrap())
        })
        .collect();
    report(&format!("compaction of {TABLES} L0 tables, {compression:?}"), TABLES * FLUSHED, &times);
}

fn fill(node: &Node, ids: std::ops::Range<u64>) {
    let word = |id: u64, salt: u64| KeyHash::of(&id.to_le_bytes(), salt).0.to_be_bytes();
    let mut value = [0; 100];
    for id in ids {
        let key = [word(id, 1), word(id, 2)].concat();
        for (salt, part) in (3..).zip(value.chunks_mut(8)) {
            part.copy_from_slice(word(id, salt).get(..part.len()).unwrap());
        }
        node.put(&key, value).unwrap();
    }
}

/// How long a job took, and how much of the processors' time.
fn timed(job: impl FnOnce()) -> [Duration; 2] {
    let (started, cpu) = (Instant::now(), cpu_time());
    job();
    [started.elapsed(), cpu_time().saturating_sub(cpu)]
}

/// What this process has used so far.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}

/// Prints the medians.
fn report(job: &str, entries: u64, times: &[[Duration; 2]]) {
    let median = |what: usize| {
        let mut times: Vec<_> = times.iter().filter_map(|time| time.get(what)).collect();
        times.sort();
        times.get(times.len() / 2).unwrap().as_secs_f64()
    };
    let (seconds, cpu, megabytes) = (median(0), median(1), (entries * ENTRY_BYTES) as f64 / 1e6);
    println!(
        "| {job} | {entries} | {seconds:.3} | {:.0} | {cpu:.3} | {:.0} |",
        megabytes / seconds,
        megabytes / cpu
    );
}
