//! Opening a node that has very many tables, whose files it must not all open: how long it takes, how long the first
//! reads take, and how many file descriptors there are afterwards. Not a microbenchmark: it runs once.
//!
//! `cargo bench --bench many_tables` writes 10,000 tables and a few more to the system's temporary directory (700 MB).

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has nothing to say")]

use std::{path::Path, time::Instant};

use dbex::{Settings, WriteBatch, blocking::Node};

const TABLES: u64 = 10_000;
const SHARDS: u32 = 2;
const TABLE_BYTES: u64 = 64 << 10;
const LARGE_TABLE_BYTES: u64 = 32 << 20;
const MAX_OPEN_FILES: usize = 256;
const BATCH: u64 = 500;
const READS: u64 = 1_000;

fn main() {
    let home = tempfile::tempdir().unwrap();
    let entries = fill(home.path());
    for round in 1..=3 {
        let started = Instant::now();
        let node = open(home.path(), TABLE_BYTES);
        let opened = started.elapsed();
        let started = Instant::now();
        for n in 0..READS {
            let key = key(n * (entries / READS));
            assert!(node.get(key).unwrap().is_some());
        }
        let read = started.elapsed() / u32::try_from(READS).unwrap();
        println!(
            "round {round}: {} tables open in {opened:.1?}; the first {READS} reads take {read:.1?} each; {} descriptors",
            tables(&node),
            std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
        );
        node.close().unwrap();
    }
}

fn open(dir: &Path, table_bytes: u64) -> Node {
    let settings = Settings::builder()
        .data_dir(dir)
        .shards(SHARDS)
        .table_bytes(table_bytes)
        .max_open_files(MAX_OPEN_FILES)
        .build();
    Node::open(settings.unwrap()).unwrap()
}

/// Writes large tables, which is quick, and then has all of them rewritten as small ones. Returns the number of
/// entries.
fn fill(dir: &Path) -> u64 {
    let entries = (TABLES + TABLES / 10) * TABLE_BYTES / 110 / BATCH * BATCH;
    let node = open(dir, LARGE_TABLE_BYTES);
    for batch in 0..entries / BATCH {
        write(&node, batch);
    }
    node.settle().unwrap();
    node.close().unwrap();
    let node = open(dir, TABLE_BYTES);
    for batch in (0..entries / BATCH).step_by(100) {
        write(&node, batch);
    }
    node.compact(..).unwrap();
    assert!(tables(&node) >= TABLES, "{} tables", tables(&node));
    node.close().unwrap();
    entries
}

fn write(node: &Node, number: u64) {
    let mut batch = WriteBatch::new();
    for n in number * BATCH..(number + 1) * BATCH {
        batch.put(key(n), value(n));
    }
    node.write(batch).unwrap();
}

fn tables(node: &Node) -> u64 {
    let stats = node.stats().unwrap();
    stats.shards.iter().flat_map(|shard| shard.tree.levels).map(|level| level.tables).sum()
}

/// Keys in no order: tables of keys in order would be moved from level to level as they were flushed, and be large.
fn key(n: u64) -> [u8; 8] {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()
}

/// A hundred bytes that do not compress.
fn value(n: u64) -> Vec<u8> {
    let word = |i: u64| {
        (n * 16 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    };
    (0..12).flat_map(|i| word(i).to_le_bytes()).collect()
}
