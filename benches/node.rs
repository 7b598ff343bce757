//! Get and put through the whole node, from one thread: what a caller of `blocking::Node` pays.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails has nothing to say")]

#[path = "support/slow_disk.rs"]
mod slow_disk;

use std::{
    cell::Cell,
    ops::ControlFlow,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use dbex::{Durability, Env, NodeOptions, PutOptions, Settings, WriteBatch, blocking::Node};
use divan::Bencher;
use slow_disk::SlowDisk;

const ENTRIES: u64 = 200_000;
const VALUE: [u8; 100] = [7; 100];

/// A settled node with [`ENTRIES`] entries, and the directory that holds it.
static FULL: LazyLock<(tempfile::TempDir, Node)> = LazyLock::new(|| {
    let (dir, node) = open();
    (0..ENTRIES).for_each(|i| node.put(key(i), VALUE).unwrap());
    node.settle().unwrap();
    (dir, node)
});

/// A node whose entries are all in its memtables.
static IN_MEMORY: LazyLock<(tempfile::TempDir, Node)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::builder().data_dir(dir.path()).memtable_bytes(256 << 20).build().unwrap();
    let node = Node::open(settings).unwrap();
    (0..ENTRIES).for_each(|i| node.put(key(i), VALUE).unwrap());
    (dir, node)
});

/// A settled node without a block cache, on a disk on which every read is slow and nothing is in the page cache.
static COLD: LazyLock<(tempfile::TempDir, Node)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::default();
    options.data_dir = dir.path().into();
    options.block_cache_bytes = 0;
    let is_slow = Arc::<AtomicBool>::default();
    let env = Env::with_storage(Arc::new(SlowDisk::new(Arc::clone(&is_slow))));
    let node = Node::open_with(options, env).unwrap();
    (0..ENTRIES).for_each(|i| node.put(key(i), VALUE).unwrap());
    node.settle().unwrap();
    is_slow.store(true, Ordering::Relaxed);
    (dir, node)
});

fn open() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(Settings::builder().data_dir(dir.path()).build().unwrap()).unwrap();
    (dir, node)
}

fn key(i: u64) -> [u8; 16] {
    u128::from(i).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes()
}

/// Counts up, for keys that differ from call to call.
fn counter() -> impl Fn() -> u64 {
    let next = Cell::new(0);
    move || next.replace(next.get() + 1)
}

#[divan::bench(sample_size = 2000)]
fn put_buffered(bencher: Bencher) {
    let (_dir, node) = open();
    let next = counter();
    bencher.bench_local(|| node.put(key(next()), VALUE).unwrap());
}

#[divan::bench(sample_count = 50, sample_size = 50)]
fn put_synced(bencher: Bencher) {
    let (_dir, node) = open();
    let next = counter();
    let synced = PutOptions::new().durability(Durability::Synced);
    bencher.bench_local(|| node.put_with(key(next()), VALUE, synced).unwrap());
}

#[divan::bench(sample_size = 20)]
fn batch_of_100_across_shards(bencher: Bencher) {
    let (_dir, node) = open();
    let next = counter();
    bencher.bench_local(|| {
        let mut batch = WriteBatch::new();
        for _ in 0..100 {
            batch.put(key(next()), VALUE);
        }
        node.write(batch).unwrap();
    });
}

#[divan::bench(sample_size = 5000)]
fn get_from_tables(bencher: Bencher) {
    let node = &FULL.1;
    let next = counter();
    bencher.bench_local(|| assert!(node.get(key(next() * 7919 % ENTRIES)).unwrap().is_some()));
}

#[divan::bench(sample_size = 5000)]
fn get_missing(bencher: Bencher) {
    let node = &FULL.1;
    let next = counter();
    bencher.bench_local(|| assert!(node.get(key(ENTRIES + next())).unwrap().is_none()));
}

#[divan::bench(sample_size = 5000)]
fn get_from_memory(bencher: Bencher) {
    let node = &IN_MEMORY.1;
    let next = counter();
    bencher.bench_local(|| assert!(node.get(key(next() * 7919 % ENTRIES)).unwrap().is_some()));
}

#[divan::bench(sample_size = 5)]
fn get_cold(bencher: Bencher) {
    let node = &COLD.1;
    let next = counter();
    bencher.bench_local(|| assert!(node.get(key(next() * 7919 % ENTRIES)).unwrap().is_some()));
}

#[divan::bench(sample_size = 5)]
fn get_cold_async(bencher: Bencher) {
    let node = COLD.1.to_async();
    let next = counter();
    let get = || pollster::block_on(node.get(key(next() * 7919 % ENTRIES)));
    bencher.bench_local(|| assert!(get().unwrap().is_some()));
}

/// The keys of the next multi-get of so many.
fn next_keys(next: &impl Fn() -> u64, count: u64) -> Vec<[u8; 16]> {
    (0..count).map(|_| key(next() * 7919 % ENTRIES)).collect()
}

#[divan::bench(args = [2, 16, 256, 4096], sample_size = 20)]
fn multi_get_from_tables(bencher: Bencher, count: u64) {
    multi_get(bencher, &FULL.1, count);
}

#[divan::bench(args = [2, 16, 256, 4096], sample_size = 20)]
fn multi_get_from_memory(bencher: Bencher, count: u64) {
    multi_get(bencher, &IN_MEMORY.1, count);
}

#[divan::bench(args = [2, 3, 4, 8, 16, 256], sample_count = 50, sample_size = 2)]
fn multi_get_cold(bencher: Bencher, count: u64) {
    multi_get(bencher, &COLD.1, count);
}

#[divan::bench(args = [2, 3, 4, 8, 16, 256], sample_count = 50, sample_size = 2)]
fn multi_get_cold_async(bencher: Bencher, count: u64) {
    let node = COLD.1.to_async();
    let next = counter();
    bencher.bench_local(|| {
        let values = pollster::block_on(node.multi_get(next_keys(&next, count))).unwrap();
        assert!(values.iter().all(Option::is_some));
    });
}

fn multi_get(bencher: Bencher, node: &Node, count: u64) {
    let next = counter();
    bencher.bench_local(|| {
        let values = node.multi_get(next_keys(&next, count)).unwrap();
        assert!(values.iter().all(Option::is_some));
    });
}

#[divan::bench(sample_size = 50)]
fn scan_100(bencher: Bencher) {
    let node = &FULL.1;
    let next = counter();
    bencher.bench_local(|| {
        let start = key(next() * 7919 % ENTRIES);
        node.scan(&start[..]..).limit(100).map(Result::unwrap).count()
    });
}

#[divan::bench(sample_size = 50)]
fn visit_100(bencher: Bencher) {
    let node = &FULL.1;
    let next = counter();
    bencher.bench_local(|| {
        let (start, mut seen) = (key(next() * 7919 % ENTRIES), 0);
        let visited = node.scan(&start[..]..).limit(100).visit(|_, value| {
            seen += value.len();
            ControlFlow::<()>::Continue(())
        });
        visited.map(|_| seen).unwrap()
    });
}

fn main() {
    divan::main();
}
