//! Values that expire: gone for every reader at their time and not before, also after a restart with a clock that was
//! set back, and their space comes back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/wall.rs"]
mod wall;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use dbex::{
    Change, Clock, Env, ErrorKind, Expected, Expiry, NodeOptions, PutOptions, Step, TimeToLive, WriteBatch,
    blocking::Node,
};
use wall::{START_MS, Wall};

const TTL: Duration = Duration::from_secs(10);

fn open(dir: &tempfile::TempDir, wall: &Arc<Wall>) -> Node {
    let mut options = NodeOptions::default();
    options.data_dir = dir.path().join("data");
    options.shards = 3;
    options.memtable_bytes = 1 << 20;
    let mut env = Env::system();
    env.clock = Arc::clone(wall) as Arc<dyn Clock>;
    Node::open_with(options, env).unwrap()
}

fn for_ten_seconds() -> PutOptions {
    PutOptions::new().ttl(TTL)
}

fn left(node: &Node, key: &str) -> Option<TimeToLive> {
    node.time_to_live(key).unwrap()
}

#[test]
fn a_value_is_gone_for_every_reader_at_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let node = open(&dir, &wall);
    for flushed in [false, true] {
        let mut batch = WriteBatch::new();
        batch.put("stays", "1").put_with_ttl("from a batch", "2", TTL);
        node.write(batch).unwrap();
        node.put_with("goes", "3", for_ten_seconds()).unwrap();
        if flushed {
            node.flush().unwrap();
        }
        wall.pass(Duration::from_millis(9_999));
        assert_eq!(left(&node, "goes"), Some(TimeToLive::Left(Duration::from_millis(1))));
        assert_eq!(left(&node, "stays"), Some(TimeToLive::Forever));
        assert_eq!((left(&node, "absent"), node.scan(..).count()), (None, 3));
        let snapshot = node.snapshot().unwrap();
        wall.pass(Duration::from_millis(1));
        assert_eq!(left(&node, "goes"), None);
        assert_eq!(node.get("goes").unwrap(), None);
        let values = node.multi_get(["goes", "stays", "from a batch"]).unwrap();
        assert_eq!(values, [None, Some("1".into()), None]);
        let keys: Vec<_> = node.scan(..).reverse().map(|pair| pair.unwrap().0).collect();
        assert_eq!(keys, ["stays"]);
        assert_eq!(snapshot.get("goes").unwrap().as_deref(), Some(&b"3"[..]), "the snapshot's time stands");
        assert_eq!(snapshot.scan(..).count(), 3);
    }
    node.close().unwrap();
}

#[test]
fn what_has_expired_is_absent_to_updates_and_conditions() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let node = open(&dir, &wall);
    for flushed in [false, true] {
        for key in ["a", "b", "c", "d"] {
            node.put_with(key, "7", for_ten_seconds()).unwrap();
        }
        if flushed {
            node.flush().unwrap();
        }
        let mut batch = WriteBatch::new();
        batch.require_absent("d").put("d", "anew");
        assert_eq!(node.write(batch.clone()).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(node.put_if_absent("a", "x").unwrap_err().kind(), ErrorKind::Conflict);
        wall.pass(TTL);
        node.write(batch).unwrap();
        node.put_if_absent("a", "anew").unwrap();
        assert_eq!(node.increment("b", 1).unwrap(), 1);
        assert!(node.compare_and_swap("c", Expected::Absent, "anew").unwrap());
        for key in ["a", "b", "c", "d"] {
            assert_eq!(left(&node, key), Some(TimeToLive::Forever), "{key}");
        }
    }
    node.close().unwrap();
}

#[test]
fn an_update_keeps_the_expiry_and_a_put_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let node = open(&dir, &wall);
    node.put_with("n", "1", for_ten_seconds()).unwrap();
    assert_eq!(node.increment("n", 1).unwrap(), 2);
    assert_eq!(left(&node, "n"), Some(TimeToLive::Left(TTL)));
    let extend = Step::Update {
        key: "n".into(),
        change: Box::new(|current| {
            let current = current.unwrap();
            assert_eq!((current.expires_at_ms, current.now_ms), (Some(START_MS + 10_000), START_MS));
            Ok(Change::PutUntil("3".into(), Expiry::At(START_MS + 60_000)))
        }),
    };
    assert!(node.steps(vec![extend]).remove(0).unwrap().is_changed);
    assert_eq!(left(&node, "n"), Some(TimeToLive::Left(Duration::from_mins(1))));
    node.put("n", "4").unwrap();
    assert_eq!(left(&node, "n"), Some(TimeToLive::Forever));
    node.close().unwrap();
}

#[test]
fn a_time_to_live_below_a_millisecond_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, &Wall::new());
    let tiny = Duration::from_micros(999);
    let refused = |result: dbex::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid);
    refused(node.put_with("k", "v", PutOptions::new().ttl(tiny)));
    let mut batch = WriteBatch::new();
    batch.put_with_ttl("k", "v", tiny);
    refused(node.write(batch));
    let put = |expiry| node.steps(vec![Step::Put { key: "k".into(), value: "v".into(), expiry }]);
    refused(put(Expiry::In(tiny)).remove(0).map(|_| ()));
    refused(put(Expiry::Keep).remove(0).map(|_| ()));
    assert_eq!(node.get("k").unwrap(), None);
    node.put_with("k", "v", PutOptions::new().ttl(Duration::MAX)).unwrap();
    assert!(node.get("k").unwrap().is_some());
    node.close().unwrap();
}

#[test]
fn a_clock_that_is_set_back_brings_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let node = open(&dir, &wall);
    node.put_with("goes", "1", for_ten_seconds()).unwrap();
    wall.pass(TTL);
    assert_eq!(node.get("goes").unwrap(), None);
    wall.now_ms.store(START_MS, Ordering::SeqCst);
    assert_eq!(
        node.get("goes").unwrap(),
        None,
        "the node's clock stands still until the wall's is there again"
    );
    node.close().unwrap();
    let node = open(&dir, &wall);
    assert_eq!(node.get("goes").unwrap(), None);
    node.close().unwrap();
}

#[test]
fn nothing_below_an_expired_value_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let node = open(&dir, &wall);
    node.put("k", "older").unwrap();
    node.compact(..).unwrap();
    node.put_with("k", "newer", for_ten_seconds()).unwrap();
    node.put_with("unflushed", "1", for_ten_seconds()).unwrap();
    node.close().unwrap();
    let node = open(&dir, &wall);
    assert_eq!(left(&node, "unflushed"), Some(TimeToLive::Left(TTL)), "as the log says");
    wall.pass(TTL);
    for _ in 0..2 {
        assert_eq!((node.get("k").unwrap(), node.scan(..).count()), (None, 0));
        node.compact(..).unwrap();
    }
    node.close().unwrap();
}

/// The entries in tables and in memory.
fn entries(node: &Node) -> (u64, u64) {
    let shards = node.stats().unwrap().shards;
    let in_tables = shards.iter().flat_map(|shard| &shard.tree.levels).map(|level| level.entries).sum();
    (in_tables, shards.iter().map(|shard| shard.load.active_entries + shard.load.sealed_entries).sum())
}

/// Waits until there are no more than so many; nothing is written or asked of the node meanwhile.
fn wait_for(node: &Node, wall: &Wall, in_tables: u64, in_memory: u64) {
    let began = wall.monotonic();
    loop {
        let found = entries(node);
        if found.0 <= in_tables && found.1 <= in_memory {
            return;
        }
        let waited = wall.monotonic().saturating_sub(began);
        assert!(waited < Duration::from_secs(30), "{found:?} entries stay in tables and in memory");
        wall.sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_space_of_what_expired_comes_back_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let node = open(&dir, &wall);
    for number in 0..3000 {
        node.put_with(format!("{number:05}"), "x".repeat(300), for_ten_seconds()).unwrap();
    }
    node.settle().unwrap();
    assert_eq!(entries(&node), (3000, 0));
    let snapshot = node.snapshot().unwrap();
    wall.pass(TTL);
    node.settle().unwrap();
    assert_eq!((entries(&node), snapshot.scan(..).count()), ((3000, 0), 3000), "the snapshot sees them");
    drop(snapshot);
    wait_for(&node, &wall, 0, 0);
    node.close().unwrap();
}

#[test]
fn what_expired_leaves_memory_though_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let node = open(&dir, &wall);
    for number in 0..300 {
        node.put_with(format!("{number:05}"), "v", for_ten_seconds()).unwrap();
    }
    assert_eq!(entries(&node), (0, 300));
    wall.pass(TTL);
    wall.pass(Duration::from_secs(6));
    wait_for(&node, &wall, 0, 0);
    node.close().unwrap();
    assert_eq!(open(&dir, &wall).scan(..).count(), 0);
}

#[test]
fn what_expired_leaves_a_table_whose_other_values_stay() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let node = open(&dir, &wall);
    for number in 0..3000 {
        let ttl = if number % 4 == 0 { 1000 * TTL } else { TTL };
        node.put_with(format!("{number:05}"), "x".repeat(300), PutOptions::new().ttl(ttl)).unwrap();
    }
    node.settle().unwrap();
    wall.pass(TTL);
    wait_for(&node, &wall, 750, 0);
    assert_eq!(node.scan(..).count(), 750);
    node.close().unwrap();
}

#[test]
fn what_expired_leaves_small_tables_beside_large_ones() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let node = open(&dir, &wall);
    let mut random = 1u64;
    for number in 0..6000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number);
        node.put(format!("{number:05}"), format!("{random:x}").repeat(10)).unwrap();
    }
    node.compact(..).unwrap();
    for number in 0..12 {
        node.put_with(format!("{:05}", 500 * number), "v", for_ten_seconds()).unwrap();
    }
    node.settle().unwrap();
    assert_eq!(entries(&node), (6012, 0));
    wall.pass(TTL);
    wait_for(&node, &wall, 5988, 0);
    assert_eq!(node.scan(..).count(), 5988);
    node.close().unwrap();
}
