//! Range deletes: all keys of a range go at one moment, in all shards, for whoever reads then and later, and for nobody
//! who reads as of before; what the same batch sets anew is never missed, and the space comes back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::Path,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Wake, Waker},
    thread,
};

use actix::System;
use dbex::{
    CompactionStrategy, Durability, ErrorKind, Expected, KeyRange, NodeOptions, WriteBatch, blocking::Node,
    messages,
};

const SHARDS: u32 = 3;

fn options(dir: &Path) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.data_dir = dir.join("data");
    options.shards = SHARDS;
    options.memtable_bytes = 1 << 20;
    options.block_cache_bytes = 1 << 20;
    options
}

fn open(dir: &tempfile::TempDir) -> Node {
    Node::open(options(dir.path())).unwrap()
}

fn key(number: u32) -> String {
    format!("key/{number:04}")
}

/// A node with the keys 0 to 99, every other one of them in tables.
fn hundred(dir: &tempfile::TempDir) -> Node {
    let node = open(dir);
    for parity in 0..2 {
        (parity..100).step_by(2).for_each(|number| node.put(key(number), number.to_string()).unwrap());
        if parity == 0 {
            node.flush().unwrap();
        }
    }
    node
}

/// The numbers of the keys that scans, reverse scans, gets and `multi_get` agree to find.
fn numbers(node: &Node) -> Vec<u32> {
    let number = |key: &[u8]| std::str::from_utf8(key).unwrap().trim_start_matches("key/").parse().unwrap();
    let found: Vec<u32> = node.scan(..).map(|pair| number(&pair.unwrap().0)).collect();
    let mut back: Vec<u32> = node.scan(..).reverse().map(|pair| number(&pair.unwrap().0)).collect();
    back.reverse();
    assert_eq!(found, back, "a scan and a reverse scan differ");
    let got = (0..100).filter(|number| node.get(key(*number)).unwrap().is_some()).collect::<Vec<_>>();
    assert_eq!(found, got, "a scan and gets differ");
    let many = node.multi_get((0..100).map(key)).unwrap();
    let many: Vec<u32> = (0..100).zip(many).filter_map(|(number, value)| value.map(|_| number)).collect();
    assert_eq!(found, many, "a scan and multi_get differ");
    found
}

fn without(range: std::ops::Range<u32>) -> Vec<u32> {
    (0..100).filter(|number| !range.contains(number)).collect()
}

#[test]
fn every_kind_of_range_is_deleted_through_every_face() {
    type Delete = fn(&Node);
    let cases: [(Delete, std::ops::Range<u32>); 9] = [
        (|node| node.delete_range(key(10)..key(20)).unwrap(), 10..20),
        (|node| node.delete_range(key(10)..=key(20)).unwrap(), 10..21),
        (|node| node.delete_range((Bound::Excluded(key(10)), Bound::Excluded(key(20)))).unwrap(), 11..20),
        (|node| node.delete_range(..key(7)).unwrap(), 0..7),
        (|node| node.delete_range(key(93)..).unwrap(), 93..100),
        (|node| node.delete_range(..).unwrap(), 0..100),
        (|node| node.delete_prefix("key/003").unwrap(), 30..40),
        (|node| pollster::block_on(node.to_async().delete_prefix("key/00")).unwrap(), 0..100),
        (|node| pollster::block_on(node.to_async().delete_range(key(50)..key(50))).unwrap(), 50..50),
    ];
    for (number, (delete, gone)) in cases.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let node = hundred(&dir);
        delete(&node);
        assert_eq!(numbers(&node), without(gone.clone()), "case {number}");
        node.flush().unwrap();
        assert_eq!(numbers(&node), without(gone.clone()), "case {number}, flushed");
        node.compact(..).unwrap();
        assert_eq!(numbers(&node), without(gone), "case {number}, compacted");
        node.close().unwrap();
    }
}

#[test]
fn messages_delete_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let node = hundred(&dir);
    System::new().block_on(async {
        let (coordinator, asynchronous) = (node.to_async().coordinator(), node.to_async());
        let permit = asynchronous.admit(16).await.unwrap();
        let range = messages::DeleteRange::new(key(10)..key(20)).with_permit(permit);
        coordinator.send(range).await.unwrap().unwrap();
        coordinator.send(messages::DeleteRange::prefix("key/002")).await.unwrap().unwrap();
    });
    assert_eq!(numbers(&node), without(10..30));
}

#[test]
fn ranges_that_cannot_be_are_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let node = hundred(&dir);
    let kind = |range: KeyRange| node.delete_range(range).unwrap_err().kind();
    assert_eq!(kind(KeyRange::from("b".."a")), ErrorKind::Invalid);
    assert_eq!(kind(KeyRange::from(vec![b'a'; 65_537]..)), ErrorKind::Invalid);
    let mut batch = WriteBatch::new();
    batch.delete_range(..).require_absent(key(3));
    assert_eq!(node.write(batch).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(numbers(&node).len(), 100);
    // The longest key can be the last of a range, or the one before it.
    let longest = vec![b'k'; 65_536];
    node.put(&longest, "v").unwrap();
    node.delete_range((Bound::Excluded(longest.clone()), Bound::Unbounded::<Vec<u8>>)).unwrap();
    assert!(node.get(&longest).unwrap().is_some());
    node.delete_range(longest.clone()..=longest.clone()).unwrap();
    assert!(node.get(&longest).unwrap().is_none());
    node.flush().unwrap();
    assert_eq!(numbers(&node).len(), 100);
}

#[test]
fn a_batch_deletes_what_stands_before_it_and_not_what_it_puts_later() {
    let dir = tempfile::tempdir().unwrap();
    let node = hundred(&dir);
    let mut batch = WriteBatch::new();
    batch.put(key(10), "before").put(key(60), "kept");
    batch.delete_range(key(0)..key(50));
    batch.put(key(11), "after").put(key(12), "twice").put(key(12), "after");
    batch.delete_range(key(13)..key(14)).put(key(13), "last");
    assert_eq!(batch.len(), 8);
    node.write(batch).unwrap();
    let expected: Vec<u32> = [11, 12, 13].into_iter().chain(50..100).collect();
    let check = |node: &Node| {
        assert_eq!(numbers(node), expected);
        let value = |number| node.get(key(number)).unwrap().unwrap();
        assert_eq!([value(11), value(12), value(13), value(60)], ["after", "after", "last", "kept"]);
    };
    check(&node);
    node.close().unwrap();
    // From the log.
    check(&open(&dir));
    let node = open(&dir);
    node.settle().unwrap();
    check(&node);
}

#[test]
fn what_reads_before_it_writes_finds_deleted_keys_absent() {
    let dir = tempfile::tempdir().unwrap();
    let node = hundred(&dir);
    node.delete_prefix("key/").unwrap();
    for round in 0..2 {
        let at = |number: u32| key(number + 40 * round);
        assert_eq!(
            node.update(at(0), |old| old.map(<[u8]>::to_vec).or(Some(b"new".to_vec()))).unwrap(),
            None
        );
        assert_eq!(node.increment(at(1), 5).unwrap(), 5);
        node.put_if_absent(at(2), "new").unwrap();
        assert!(!node.compare_and_swap(at(3), Expected::Value(b"3"), "new").unwrap());
        assert!(node.compare_and_swap(at(4), Expected::Absent, "new").unwrap());
        let mut batch = WriteBatch::new();
        batch.require_absent(at(5)).put(at(5), "new");
        node.write(batch).unwrap();
        assert_eq!(node.time_to_live(at(6)).unwrap(), None);
        node.flush().unwrap();
    }
    assert_eq!(numbers(&node), [0, 1, 2, 4, 5, 40, 41, 42, 44, 45]);
}

/// Requests that wait together run in one turn: each finds what those before it have done, though nothing of it is
/// written yet.
#[test]
fn what_shares_a_turn_with_a_range_delete_finds_deleted_keys_absent() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.shards = 1;
    let node = Node::open(options).unwrap();
    for _ in 0..50 {
        node.put(key(1), "41").unwrap();
        let ((entered, has_entered), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
        thread::scope(|scope| {
            // The turn is taken until the others wait for it.
            scope.spawn(|| {
                let hold = move |_: Option<&[u8]>| {
                    entered.send(()).unwrap();
                    released.recv().unwrap();
                    None::<Vec<u8>>
                };
                node.update("other", hold).unwrap();
            });
            has_entered.recv().unwrap();
            let asynchronous = node.to_async();
            let mut delete = pin!(asynchronous.delete_prefix("key/"));
            let mut increment = pin!(asynchronous.increment(key(1), 1));
            poll_until_it_waits(delete.as_mut());
            poll_until_it_waits(increment.as_mut());
            release.send(()).unwrap();
            pollster::block_on(delete).unwrap();
            assert_eq!(pollster::block_on(increment).unwrap(), 1);
        });
    }
}

/// Polls until the future waits for another than itself.
fn poll_until_it_waits<F: Future>(mut future: Pin<&mut F>) {
    let woken = Arc::new(WokenItself(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    while woken.0.swap(false, Ordering::Relaxed) {
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "the turn is taken");
    }
}

struct WokenItself(AtomicBool);

impl Wake for WokenItself {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn snapshots_and_open_scans_keep_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let node = hundred(&dir);
    let snapshot = node.snapshot().unwrap();
    let mut scan = node.scan(..);
    assert!(scan.next().is_some());
    node.delete_range(key(20)..key(80)).unwrap();
    let between = node.snapshot().unwrap();
    (30..40).for_each(|number| node.put(key(number), "anew").unwrap());
    node.delete_range(key(35)..).unwrap();
    let check = || {
        assert_eq!(snapshot.scan(..).count(), 100);
        assert_eq!(snapshot.get(key(50)).unwrap().unwrap(), "50");
        assert_eq!(between.scan(..).reverse().count(), 40);
        assert_eq!(between.multi_get([key(19), key(20)]).unwrap().iter().flatten().count(), 1);
        assert_eq!(numbers(&node), (0..20).chain(30..35).collect::<Vec<_>>());
    };
    check();
    for _ in 0..2 {
        node.flush().unwrap();
        node.compact(..).unwrap();
        check();
    }
    assert_eq!(scan.count(), 99);
    drop((snapshot, between));
    node.compact(..).unwrap();
    let entries = |node: &Node| -> u64 {
        let shards = node.stats().unwrap().shards;
        shards.iter().flat_map(|shard| shard.tree.levels).map(|level| level.entries).sum()
    };
    assert_eq!(entries(&node), 25, "nothing is kept for snapshots that are gone");
}

/// One thread replaces all keys of a prefix again and again, in one batch that begins with a range delete; nobody ever
/// misses one, and who reads several finds them of one round.
#[test]
fn what_a_batch_sets_anew_is_never_missed() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    let keys: Vec<_> = (0..12).map(key).collect();
    let round = |number: u64| {
        let mut batch = WriteBatch::new();
        batch.put(key(5), "never seen").delete_prefix("key/");
        for key in &keys {
            batch.put(key, number.to_string());
        }
        batch
    };
    node.write(round(0)).unwrap();
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for reader in 0..3 {
            let (node, keys, done, reads) = (node.clone(), &keys, &done, &reads);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let values: Vec<_> = match reader {
                        0 => keys.iter().map(|key| node.get(key).unwrap()).collect(),
                        1 => node.multi_get(keys).unwrap(),
                        _ => node.scan(..).map(|pair| Some(pair.unwrap().1)).collect(),
                    };
                    assert_eq!(values.iter().flatten().count(), 12, "reader {reader} misses a key");
                    assert!(values.iter().flatten().all(|value| value != "never seen"));
                    if reader > 0 {
                        assert!(
                            values.windows(2).all(|pair| pair[0] == pair[1]),
                            "reader {reader}: {values:?}"
                        );
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 1..3_000 {
            node.write(round(number)).unwrap();
            if number % 500 == 0 {
                node.flush().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("{} reads beside 3,000 rounds", reads.into_inner());
}

#[test]
fn synced_range_deletes_and_many_of_them_come_back_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let node = hundred(&dir);
    let mut batch = WriteBatch::new();
    for number in 0..1_000u32 {
        batch.delete_range(key(number % 97)..key(number % 97 + 1));
    }
    node.write(batch.durability(Durability::Synced).clone()).unwrap();
    assert_eq!(numbers(&node), [97, 98, 99]);
    node.close().unwrap();
    let node = open(&dir);
    assert_eq!(numbers(&node), [97, 98, 99]);
}

fn files_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let bytes = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        data if data.is_dir() => files_bytes(&entry.path()),
        data if entry.path().extension().is_some_and(|extension| extension == "sst") => data.len(),
        _ => 0,
    };
    entries.map(bytes).sum()
}

#[test]
fn the_space_comes_back_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.table_bytes = 256 << 10;
    options.strategy = CompactionStrategy::Leveled;
    let node = Node::open(options).unwrap();
    let mut random = 1u64;
    let mut value = || -> Vec<u8> {
        (0..64)
            .flat_map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005) | 1;
                random.to_be_bytes()
            })
            .collect()
    };
    for number in 0..16_000 {
        node.put(format!("{}/{number:05}", number % 4), value()).unwrap();
    }
    node.settle().unwrap();
    let full = files_bytes(dir.path());
    assert!(full > 8_000_000, "{full} bytes of tables");
    for prefix in ["0/", "1/", "2/"] {
        node.delete_prefix(prefix).unwrap();
    }
    node.settle().unwrap();
    let left = files_bytes(dir.path());
    println!("{full} bytes of tables, {left} after three quarters were deleted and nothing else was done");
    assert!(left < full * 2 / 5, "{left} of {full} bytes are left");
    assert_eq!(node.scan(..).count(), 4_000);
    node.delete_range(..).unwrap();
    node.settle().unwrap();
    assert_eq!(files_bytes(dir.path()), 0);
}

/// Random ranges over flushes and re-opens against a map.
#[test]
fn overlapping_range_deletes_equal_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir);
    let mut model = BTreeMap::new();
    let mut random = 7u64;
    let mut below = |n: u32| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from(random >> 33).unwrap() % n
    };
    for step in 0..3_000u32 {
        match below(10) {
            0..6 => {
                let number = below(100);
                node.put(key(number), step.to_string()).unwrap();
                model.insert(key(number), step.to_string());
            }
            6..9 => {
                let (start, len) = (below(100), below(30));
                node.delete_range(key(start)..key(start + len)).unwrap();
                model.retain(|found, _| !(key(start)..key(start + len)).contains(found));
            }
            _ if below(20) == 0 => {
                node.close().unwrap();
                node = open(&dir);
            }
            _ if below(5) == 0 => node.flush().unwrap(),
            _ => {}
        }
        if step % 25 == 0 {
            let found = node.scan(..).map(|pair| pair.unwrap());
            let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            let found: BTreeMap<_, _> = found.map(|(key, value)| (text(key), text(value))).collect();
            assert_eq!(found, model, "step {step}");
            numbers(&node);
        }
    }
}
