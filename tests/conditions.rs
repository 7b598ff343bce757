//! Batches with conditions: all hold, or nothing is written; judged against what is there when the batch is written.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use dbex::{Durability, Error, ErrorKind, NodeOptions, WriteBatch, blocking::Node};

const SHARDS: u32 = 4;
const ACCOUNTS: u64 = 24;
const OPENING: u64 = 1000;

fn open(dir: &tempfile::TempDir) -> Node {
    let mut options = NodeOptions::default();
    options.data_dir = dir.path().join("data");
    options.shards = SHARDS;
    // Small, so that flushes and compactions run beside.
    options.memtable_bytes = 1 << 20;
    options.block_cache_bytes = 1 << 20;
    Node::open(options).unwrap()
}

fn is_conflict(result: Result<(), Error>) -> bool {
    result.map_err(|error| assert_eq!(error.kind(), ErrorKind::Conflict, "{error}")).is_err()
}

fn value_of(node: &Node, key: &str) -> Option<String> {
    node.get(key).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Enough keys that some lie in one shard and some in several.
fn keys() -> impl Iterator<Item = String> {
    (0..20).map(|number| format!("key/{number}"))
}

#[test]
fn a_batch_is_written_if_all_conditions_hold_and_not_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    for durability in [Durability::Buffered, Durability::Synced] {
        for flushed in [false, true] {
            for (asked, written) in keys().zip(keys().skip(1)) {
                node.put(&asked, "old").unwrap();
                node.delete(&written).unwrap();
                if flushed {
                    node.flush().unwrap();
                }
                let batch = |condition: &dyn Fn(&mut WriteBatch) -> &mut WriteBatch| {
                    let mut batch = WriteBatch::new();
                    condition(&mut batch);
                    batch.require_absent(&written).put(&written, "new").durability(durability);
                    node.write(batch)
                };
                assert!(is_conflict(batch(&|batch| batch.require(&asked, "other"))));
                assert!(is_conflict(batch(&|batch| batch.require_absent(&asked))));
                assert_eq!(value_of(&node, &written), None, "nothing is written");
                assert!(!is_conflict(batch(&|batch| batch.require(&asked, "old"))));
                assert_eq!(value_of(&node, &written).as_deref(), Some("new"));
                assert!(is_conflict(batch(&|batch| batch.require(&asked, "old"))), "it is there now");
            }
        }
    }
    node.close().unwrap();
}

#[test]
fn conditions_alone_are_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    node.put("here", "1").unwrap();
    let mut batch = WriteBatch::new();
    batch.require("here", "1").require_absent("there");
    node.write(batch.clone()).unwrap();
    assert!(batch.is_empty());
    batch.require_absent("here");
    let error = node.write(batch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("here"), "{error}");
    node.close().unwrap();
}

#[test]
fn a_condition_is_on_what_was_there_before_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    for key in keys() {
        let mut batch = WriteBatch::new();
        batch.put(&key, "1").require_absent(&key).put("another", "x");
        node.write(batch).unwrap();
        assert_eq!(value_of(&node, &key).as_deref(), Some("1"));
    }
    node.close().unwrap();
}

#[test]
fn a_condition_with_an_empty_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    let mut batch = WriteBatch::new();
    batch.put("a", "1").require_absent("");
    assert_eq!(node.write(batch).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(value_of(&node, "a"), None);
    node.close().unwrap();
}

fn account(number: u64) -> String {
    format!("account/{number:02}")
}

/// Moves money if nobody else touched either account meanwhile; whether it did.
fn transfer(node: &Node, from: u64, to: u64, amount: u64, durability: Durability) -> bool {
    let read = |number| value_of(node, &account(number)).unwrap();
    let (old_from, old_to) = (read(from), read(to));
    let (have, has): (u64, u64) = (old_from.parse().unwrap(), old_to.parse().unwrap());
    if have < amount {
        return false;
    }
    let mut batch = WriteBatch::new();
    batch.require(account(from), old_from).require(account(to), old_to).durability(durability);
    batch.put(account(from), (have - amount).to_string()).put(account(to), (has + amount).to_string());
    !is_conflict(node.write(batch))
}

#[test]
fn transfers_keep_the_total_and_every_snapshot_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    (0..ACCOUNTS).for_each(|number| node.put(account(number), OPENING.to_string()).unwrap());
    let (done, moved, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let sum = |values: Vec<Option<bytes::Bytes>>| -> u64 {
        values.iter().flatten().map(|value| std::str::from_utf8(value).unwrap().parse::<u64>().unwrap()).sum()
    };
    let all: Vec<_> = (0..ACCOUNTS).map(account).collect();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8u64)
            .map(|client| {
                let (node, moved, refused) = (&node, &moved, &refused);
                scope.spawn(move || {
                    for step in 0..400 {
                        let seed = (client * 7919 + step).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
                        let from = seed % ACCOUNTS;
                        let to = (from + 1 + (seed >> 20) % (ACCOUNTS - 1)) % ACCOUNTS;
                        let durability =
                            if step % 40 == 0 { Durability::Synced } else { Durability::Buffered };
                        let counter =
                            if transfer(node, from, to, seed % 50, durability) { moved } else { refused };
                        counter.fetch_add(1, Ordering::Relaxed);
                        if step % 100 == client {
                            node.flush().unwrap();
                        }
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(sum(node.multi_get(&all).unwrap()), ACCOUNTS * OPENING);
                let snapshot = node.snapshot().unwrap();
                let scanned =
                    snapshot.scan("account/".."account0").map(|pair| Some(pair.unwrap().1)).collect();
                assert_eq!(sum(scanned), ACCOUNTS * OPENING);
                looks += 1;
            }
            looks
        });
        for client in clients {
            client.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    let (moved, refused) = (moved.into_inner(), refused.into_inner());
    assert!(moved > 1000, "{moved} transfers, {refused} refused");
    assert_eq!(sum(node.multi_get(&all).unwrap()), ACCOUNTS * OPENING);
    node.close().unwrap();
}
