//! What range deletes cost: to write one, to read beside many, and to scan over what they deleted.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails has nothing to say")]

use std::{cell::Cell, ops::ControlFlow};

use dbex::{
    Settings, WriteBatch,
    blocking::{Node, Snapshot},
};
use divan::Bencher;

const ENTRIES: u64 = 200_000;
const VALUE: [u8; 100] = [7; 100];
/// How many range deletes there are beside what is read.
const DELETES: [u64; 3] = [0, 100, 10_000];

fn open() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(Settings::builder().data_dir(dir.path()).build().unwrap()).unwrap();
    (dir, node)
}

fn key(i: u64) -> [u8; 16] {
    u128::from(i).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes()
}

/// A settled node with [`ENTRIES`] entries, and so many range deletes between them, in memory or in tables. These would
/// be gone at once, as nothing lies below them, but for the snapshot.
fn beside(deletes: u64, is_flushed: bool) -> (tempfile::TempDir, Node, Snapshot) {
    let (dir, node) = open();
    for first in (0..ENTRIES).step_by(100) {
        let mut batch = WriteBatch::new();
        (first..first + 100).for_each(|i| {
            batch.put(key(i), VALUE);
        });
        node.write(batch).unwrap();
    }
    node.settle().unwrap();
    let snapshot = node.snapshot().unwrap();
    for i in ENTRIES..ENTRIES + deletes {
        node.delete_range(key(i)..=key(i)).unwrap();
    }
    if is_flushed {
        node.flush().unwrap();
    }
    (dir, node, snapshot)
}

fn counter() -> impl Fn() -> u64 {
    let next = Cell::new(0);
    move || next.replace(next.get() + 1)
}

fn get(bencher: Bencher, node: &Node) {
    let next = counter();
    bencher.bench_local(|| assert!(node.get(key(next() * 7919 % ENTRIES)).unwrap().is_some()));
}

#[divan::bench(args = DELETES, sample_size = 2000)]
fn get_beside_those_in_memory(bencher: Bencher, deletes: u64) {
    get(bencher, &beside(deletes, false).1);
}

#[divan::bench(args = DELETES, sample_size = 2000)]
fn get_beside_those_in_tables(bencher: Bencher, deletes: u64) {
    get(bencher, &beside(deletes, true).1);
}

#[divan::bench(args = DELETES, sample_size = 200)]
fn scan_of_100_beside_those_in_memory(bencher: Bencher, deletes: u64) {
    let (_dir, node, _snapshot) = beside(deletes, false);
    let next = counter();
    bencher.bench_local(|| {
        let scan = node.scan(key(next() * 7919 % ENTRIES)..).limit(100);
        scan.visit(
            |_, value| if value.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) },
        )
        .unwrap()
    });
}

#[divan::bench(sample_size = 500)]
fn delete_range(bencher: Bencher) {
    let (_dir, node, _snapshot) = beside(0, false);
    let next = counter();
    bencher.bench_local(|| {
        let key = key(next());
        node.delete_range(key..=key).unwrap();
    });
}

/// The first pair of a scan that begins in front of 200,000 deleted ones.
#[divan::bench(sample_size = 20)]
fn scan_over_200_000_deleted(bencher: Bencher) {
    let (_dir, node, snapshot) = beside(0, false);
    drop(snapshot);
    node.put([0xFF; 17], "last").unwrap();
    node.delete_range(..[0xFF; 16]).unwrap();
    bencher.bench_local(|| assert_eq!(node.scan(..).count(), 1));
}

fn main() {
    divan::main();
}
