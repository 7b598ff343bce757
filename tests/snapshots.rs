//! Snapshots, and what reads from one without saying so: scans and `multi_get`. All shards at one moment, each batch
//! wholly or not at all, whatever is written, flushed and compacted beside.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use bytes::Bytes;
use dbex::{Durability, ErrorKind, Node, NodeOptions, PutOptions, WriteBatch, blocking};
use futures_util::TryStreamExt;

const SHARDS: u32 = 4;
const ACCOUNTS: u32 = 40;

fn options(dir: &tempfile::TempDir) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.data_dir = dir.path().join("data");
    options.shards = SHARDS;
    options.memtable_bytes = 1 << 20;
    options.block_cache_bytes = 1 << 20;
    options
}

fn open(dir: &tempfile::TempDir) -> blocking::Node {
    blocking::Node::open(options(dir)).unwrap()
}

fn account(number: u32) -> String {
    format!("account/{number:03}")
}

fn keys() -> Vec<String> {
    (0..ACCOUNTS).map(account).collect()
}

/// A batch that gives every account the same content.
fn round(number: u32, durability: Durability) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for key in keys() {
        batch.put(key, format!("{number:08}{}", "x".repeat(200)));
    }
    batch.durability(durability);
    batch
}

/// The round that all values are of.
fn one_round(values: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mut values: Vec<_> = values.into_iter().map(|value| value.slice(..8)).collect();
    assert_eq!(values.len(), ACCOUNTS as usize);
    values.dedup();
    assert_eq!(values.len(), 1, "a part of a batch is seen: {values:?}");
    values.remove(0)
}

fn found(values: Vec<Option<Bytes>>) -> Vec<Bytes> {
    values.into_iter().map(|value| value.expect("an account is missing")).collect()
}

#[test]
fn nobody_sees_a_part_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    node.write(round(0, Durability::Buffered)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let (node, done) = (node.clone(), &done);
                scope.spawn(move || {
                    let (mut last, mut reads) = (Bytes::new(), 0);
                    while !done.load(Ordering::Relaxed) {
                        let seen = match reader {
                            0 => one_round(found(node.multi_get(keys()).unwrap())),
                            1 => one_round(node.scan(..).prefix("account/").map(|pair| pair.unwrap().1)),
                            _ => {
                                let snapshot = node.snapshot().unwrap();
                                let got = one_round(found(snapshot.multi_get(keys()).unwrap()));
                                let scanned = snapshot.scan(..).prefix("account/").reverse();
                                assert_eq!(one_round(scanned.map(|pair| pair.unwrap().1)), got);
                                got
                            }
                        };
                        assert!(seen >= last, "time goes backwards: {last:?}, then {seen:?}");
                        (last, reads) = (seen, reads + 1);
                    }
                    reads
                })
            })
            .collect();
        // Two writers, so that batches also wait for their turns, in the lane.
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let node = node.clone();
                scope.spawn(move || {
                    for number in 1..1500 {
                        let durability =
                            if number % 50 == 0 { Durability::Synced } else { Durability::Buffered };
                        if writer == 0 {
                            node.write(round(number, durability)).unwrap();
                        } else {
                            node.put(format!("other/{}", number % 64), "y".repeat(300)).unwrap();
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 10);
        }
    });
    assert_eq!(node.stats().unwrap().snapshots, 0, "nobody holds one any more");
}

#[test]
fn a_snapshot_stays_as_it_was_whatever_becomes_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    let mut model = BTreeMap::new();
    let mut snapshots = vec![];
    for step in 0..6 {
        for n in 0..400 {
            let key = format!("key/{:04}", (n * 7 + step * 131) % 300);
            if (n + step) % 5 == 0 {
                node.delete(&key).unwrap();
                model.remove(&key);
            } else {
                let value = format!("{step}/{n}/{}", "v".repeat(100));
                node.put(&key, &value).unwrap();
                model.insert(key, value);
            }
        }
        snapshots.push((node.snapshot().unwrap(), model.clone()));
        match step {
            1 => node.flush().unwrap(),
            3 => node.compact(..).unwrap(),
            4 => node.settle().unwrap(),
            _ => {}
        }
    }
    let check = |snapshot: &blocking::Snapshot, model: &BTreeMap<String, String>| {
        let scanned: Vec<_> = snapshot.scan(..).map(Result::unwrap).collect();
        let expected: Vec<_> =
            model.iter().map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone()))).collect();
        assert_eq!(scanned, expected);
        for n in (0..300).step_by(7) {
            let key = format!("key/{n:04}");
            let value = snapshot.get(&key).unwrap();
            assert_eq!(value.as_deref(), model.get(&key).map(String::as_bytes), "{key}");
        }
    };
    for (snapshot, model) in &snapshots {
        check(snapshot, model);
    }
    assert_eq!(node.stats().unwrap().snapshots, 6);
    node.compact(..).unwrap();
    for (snapshot, model) in &snapshots {
        check(snapshot, model);
    }
    let entries = || {
        let stats = node.stats().unwrap();
        stats.shards.iter().flat_map(|shard| &shard.tree.levels).map(|level| level.entries).sum::<u64>()
    };
    let kept = entries();
    let needed: BTreeSet<_> = snapshots.iter().flat_map(|(_, model)| model).collect();
    let stats = node.stats().unwrap();
    let tombstones: u64 =
        stats.shards.iter().flat_map(|shard| &shard.tree.levels).map(|level| level.tombstones).sum();
    assert_eq!(kept - tombstones, needed.len() as u64, "of the versions between two snapshots the newest");
    // The first two are let go in another order than they came in.
    snapshots.remove(1);
    snapshots.remove(0);
    for (snapshot, model) in &snapshots {
        check(snapshot, model);
    }
    snapshots.clear();
    assert_eq!(node.stats().unwrap().snapshots, 0);
    node.put("key/0000", "new").unwrap();
    node.compact(..).unwrap();
    assert!(entries() < kept, "{} of {kept} entries stay", entries());
    assert_eq!(entries(), node.scan(..).count() as u64, "no more than what is there");
}

#[test]
fn a_held_snapshot_shows_in_the_stats_and_ends_with_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    (0..100).for_each(|n| node.put(format!("{n}"), "before").unwrap());
    let snapshot = node.snapshot().unwrap();
    let copy = snapshot.clone();
    (0..100).for_each(|n| node.put(format!("{n}"), "after").unwrap());
    let stats = node.stats().unwrap();
    assert_eq!(stats.snapshots, 1, "a clone is the same one");
    assert!(stats.oldest_snapshot_age > Duration::ZERO);
    drop(snapshot);
    assert!(copy.scan(..).all(|pair| pair.unwrap().1 == "before"));
    assert_eq!(copy.scan(..).limit(7).count(), 7);
    assert_eq!(copy.scan("5".."6").count(), 11);
    node.close().unwrap();
    assert_eq!(copy.get("1").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(copy.scan(..).next().unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn scans_under_way_show_in_the_stats_until_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    (0..100).for_each(|n| node.put(format!("{n}"), "v").unwrap());
    let open_scans = || node.stats().unwrap().open_scans;
    let (mut first, mut second) = (node.scan(..), node.scan(..).limit(2));
    assert_eq!(open_scans(), 0, "they begin with their first steps");
    assert!(first.next().is_some() && second.next().is_some());
    let stats = node.stats().unwrap();
    assert_eq!((stats.open_scans, stats.snapshots), (2, 0));
    assert!(stats.oldest_scan_age > Duration::ZERO);
    assert_eq!(second.count(), 1);
    assert_eq!(open_scans(), 1);
    drop(first);
    let stats = node.stats().unwrap();
    assert_eq!((stats.open_scans, stats.oldest_scan_age), (0, Duration::ZERO));
}

#[test]
fn an_async_snapshot_holds_what_was_acked_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let node = Node::open(options(&dir)).await.unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let node = node.clone();
                tokio::spawn(async move {
                    for n in 0..200 {
                        let durability = if n % 20 == 0 { Durability::Synced } else { Durability::Buffered };
                        let options = PutOptions::new().durability(durability);
                        node.put_with(format!("{task}/{n:03}"), "x", options).await.unwrap();
                        if n % 10 == 0 {
                            let snapshot = node.snapshot().await.unwrap();
                            node.delete(format!("{task}/{n:03}")).await.unwrap();
                            let scan = snapshot.scan(..).prefix(format!("{task}/"));
                            let pairs: Vec<_> = scan.try_collect().await.unwrap();
                            assert_eq!(pairs.len(), n + 1 - n / 10, "of task {task}");
                            assert!(snapshot.get(format!("{task}/{n:03}")).await.unwrap().is_some());
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        node.close().await.unwrap();
    });
}
