//! A node as a host program meets it: opened, written, read, closed, opened again, through each of its faces.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use bytes::Bytes;
use dbex::{
    Change, Durability, Env, Error, ErrorKind, Expected, Node, NodeOptions, PutOptions, Settings, WriteBatch,
    blocking,
};
use futures_util::{StreamExt, TryStreamExt};

fn options(dir: &tempfile::TempDir, shards: u32) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.data_dir = dir.path().join("data");
    options.shards = shards;
    options.memtable_bytes = 1 << 20;
    options.block_cache_bytes = 1 << 20;
    options
}

fn open(dir: &tempfile::TempDir, shards: u32) -> blocking::Node {
    blocking::Node::open(options(dir, shards)).unwrap()
}

fn pairs(node: &blocking::Node) -> Vec<(Bytes, Bytes)> {
    node.scan(..).map(Result::unwrap).collect()
}

#[test]
fn what_is_written_is_read_and_survives_a_close_and_a_drop() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let node = open(&dir, 3);
        if round > 0 {
            assert_eq!(node.get("kept").unwrap().as_deref(), Some(&b"value"[..]));
            assert_eq!(node.get("gone").unwrap(), None);
        }
        node.put("kept", "value").unwrap();
        node.put("gone", "x").unwrap();
        node.delete("gone").unwrap();
        node.delete("never there").unwrap();
        node.put("empty", "").unwrap();
        assert_eq!(node.get("empty").unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(node.multi_get(["kept", "gone"]).unwrap(), [Some(Bytes::from("value")), None]);
        if round == 0 {
            node.close().unwrap();
            assert_eq!(node.get("kept").unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(node.put("kept", "x").unwrap_err().kind(), ErrorKind::Closed);
            node.close().unwrap();
        }
        // Otherwise the drop closes it, and the next open waits for that.
    }
}

/// The log segments of all shards.
fn segments(data: &Path) -> BTreeSet<PathBuf> {
    let shards = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path().join("wal"));
    let logs = shards.filter_map(|log| fs::read_dir(log).ok());
    logs.flatten().map(|entry| entry.unwrap().path().strip_prefix(data).unwrap().to_owned()).collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the file system tells nobody that a file is gone")]
fn a_recovered_log_leaves_the_directory_while_the_node_is_up() {
    let (dir, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = open(&dir, 2);
    (0..1000).for_each(|n| node.put(format!("key-{n}"), "value").unwrap());
    // What a kill of the process would leave.
    let (from, to) = (options(&dir, 2).data_dir, options(&after, 2).data_dir);
    assert!(Command::new("cp").arg("-r").args([&from, &to]).status().unwrap().success());
    node.close().unwrap();
    let old = segments(&to);
    assert!(old.len() >= 2, "{old:?}");
    let node = open(&after, 2);
    assert_eq!(pairs(&node).len(), 1000);
    let gone = (0..12_000).any(|_| {
        thread::sleep(Duration::from_millis(5));
        segments(&to).is_disjoint(&old)
    });
    assert!(gone, "{old:?} stay beside {:?}", segments(&to));
}

#[test]
fn flushes_and_compactions_keep_the_latest_value_of_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, 2);
    let mut model = BTreeMap::new();
    for i in 0u32..30_000 {
        let key = format!("key-{:05}", i.wrapping_mul(7919) % 9_000);
        if i % 7 == 3 {
            node.delete(&key).unwrap();
            model.remove(&key);
        } else {
            let value = format!("{i}-{}", "v".repeat(100));
            node.put(&key, &value).unwrap();
            model.insert(key, value);
        }
    }
    let check = |node: &blocking::Node| {
        let scanned = pairs(node);
        assert_eq!(scanned.len(), model.len());
        for ((key, value), (expected_key, expected_value)) in scanned.iter().zip(&model) {
            assert_eq!((&key[..], &value[..]), (expected_key.as_bytes(), expected_value.as_bytes()));
            assert_eq!(node.get(key).unwrap().as_ref(), Some(value));
        }
    };
    check(&node);
    node.settle().unwrap();
    let stats = node.stats().unwrap();
    assert!(stats.shards.iter().all(|shard| shard.tree.flushes > 0), "{stats:?}");
    check(&node);
    node.compact(..).unwrap();
    check(&node);
    node.close().unwrap();
    check(&open(&dir, 0));
}

#[test]
fn scans_are_ordered_over_the_shards_in_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, 4);
    for i in 0..2_000 {
        node.put(format!("{i:04}"), format!("value {i}")).unwrap();
        if i == 1_000 {
            node.flush().unwrap();
        }
    }
    let keys = |scan: blocking::Scan| {
        scan.map(|pair| String::from_utf8(pair.unwrap().0.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys(node.scan("0010".."0013")), ["0010", "0011", "0012"]);
    assert_eq!(keys(node.scan("0010"..="0012").reverse()), ["0012", "0011", "0010"]);
    assert_eq!(keys(node.scan(..).prefix("199")).len(), 10);
    assert_eq!(keys(node.scan(..).limit(3)), ["0000", "0001", "0002"]);
    assert_eq!(keys(node.scan("1998"..)), ["1998", "1999"]);
    assert_eq!(keys(node.scan(..).limit(0)), Vec::<String>::new());
    assert_eq!(keys(node.scan(..)).len(), 2_000);
    let mut shown = vec![];
    let mut scan = node.scan("0010"..).limit(5);
    assert_eq!(scan.next().unwrap().unwrap().0, "0010");
    let visited = scan.visit(|key, value| {
        shown.push((String::from_utf8(key.to_vec()).unwrap(), value.to_vec()));
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(visited.unwrap(), ControlFlow::Continue(()));
    let expected = (11..15).map(|i| (format!("{i:04}"), format!("value {i}").into_bytes()));
    assert_eq!(shown, expected.collect::<Vec<_>>());
    let broken = node.scan(..).reverse().visit(|key, _| ControlFlow::Break(key.to_vec()));
    assert_eq!(broken.unwrap(), ControlFlow::Break(b"1999".to_vec()));
    let inverted = node.scan("b".."a").visit(|_, _| ControlFlow::Break(()));
    assert_eq!(inverted.unwrap_err().kind(), ErrorKind::Invalid);
    let inverted = node.scan("b".."a").next().unwrap();
    assert_eq!(inverted.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_batch_is_written_over_all_shards_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, 4);
    node.put("key 7", "old").unwrap();
    let mut batch = WriteBatch::new();
    for i in 0..100 {
        batch.put(format!("key {i}"), "first").put(format!("key {i}"), "second");
    }
    batch.delete("key 7").durability(Durability::Synced);
    node.write(batch).unwrap();
    assert_eq!(pairs(&node).len(), 99, "the delete came last and wins");
    assert!(pairs(&node).iter().all(|(_, value)| value == "second"));
    drop(node);
    assert_eq!(pairs(&open(&dir, 4)).len(), 99);
}

#[test]
fn a_key_is_written_to_the_shard_that_it_is_said_to_belong_to() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, 3);
    let mut expected = [0u64; 3];
    for number in 0..300 {
        let key = format!("key/{number}");
        expected[node.shard_of(&key)] += 1;
        node.put(&key, "value").unwrap();
    }
    let entries: Vec<u64> =
        node.stats().unwrap().shards.iter().map(|shard| shard.load.active_entries).collect();
    assert_eq!(entries, expected);
    assert!(expected.iter().all(|count| *count > 50), "{expected:?}");
}

#[test]
fn many_threads_write_one_node_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, 2);
    thread::scope(|scope| {
        for writer in 0..8 {
            let node = node.clone();
            scope.spawn(move || {
                for i in 0..2_000 {
                    let durability = if i % 100 == 0 { Durability::Synced } else { Durability::Buffered };
                    let options = PutOptions::new().durability(durability);
                    node.put_with(format!("{writer}/{i}"), format!("{i}"), options).unwrap();
                    if i % 50 == 0 {
                        let mut batch = WriteBatch::new();
                        for k in 0..10 {
                            batch.put(format!("batch/{writer}/{i}/{k}"), "b");
                        }
                        node.write(batch).unwrap();
                    }
                    node.increment("counter", 1).unwrap();
                }
            });
        }
    });
    assert_eq!(node.get("counter").unwrap().as_deref(), Some(&b"16000"[..]));
    assert_eq!(pairs(&node).len(), 8 * 2_000 + 8 * 40 * 10 + 1);
    drop(node);
    let node = open(&dir, 2);
    assert_eq!(pairs(&node).len(), 8 * 2_000 + 8 * 40 * 10 + 1);
    assert_eq!(node.increment("counter", 0).unwrap(), 16_000);
}

#[test]
fn read_modify_write_runs_in_the_turn_and_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, 2);
    assert_eq!(node.increment("n", 5).unwrap(), 5);
    node.flush().unwrap();
    assert_eq!(node.increment("n", -7).unwrap(), -2);
    let same = node.update("n", |old: Option<&[u8]>| old.map(<[u8]>::to_vec)).unwrap();
    assert_eq!(same.as_deref(), Some(&b"-2"[..]));
    assert_eq!(node.update("n", |_: Option<&[u8]>| Change::Delete).unwrap().as_deref(), Some(&b"-2"[..]));
    assert_eq!(node.get("n").unwrap(), None);

    node.put_if_absent("once", "1").unwrap();
    assert_eq!(node.put_if_absent("once", "2").unwrap_err().kind(), ErrorKind::Conflict);
    assert!(!node.compare_and_swap("once", Expected::Value(b"2"), "3").unwrap());
    assert!(node.compare_and_swap("once", Expected::Value(b"1"), "3").unwrap());
    assert!(!node.compare_and_delete("once", Expected::Absent).unwrap());
    assert!(node.compare_and_delete("once", Expected::Value(b"3")).unwrap());
    assert!(node.compare_and_swap("once", Expected::Absent, "4").unwrap());

    node.put("text", "abc").unwrap();
    assert_eq!(node.increment("text", 1).unwrap_err().kind(), ErrorKind::Invalid);
    node.put("big", i64::MAX.to_string()).unwrap();
    assert_eq!(node.increment("big", 1).unwrap_err().kind(), ErrorKind::Invalid);
    let panicked = node.update("text", |_: Option<&[u8]>| -> Option<Bytes> { panic!("planted") });
    assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(
        node.get("text").unwrap().as_deref(),
        Some(&b"abc"[..]),
        "the panic failed its own request only"
    );
    node.put("text", "after").unwrap();
}

#[test]
fn bad_calls_are_refused_by_name_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, 1);
    let kind = |result: Result<(), Error>| result.unwrap_err().kind();
    assert_eq!(kind(node.put("", "v")), ErrorKind::Invalid);
    assert_eq!(kind(node.put(vec![b'k'; (64 << 10) + 1], "v")), ErrorKind::Invalid);
    assert_eq!(kind(node.put("k", vec![0; (64 << 20) + 1])), ErrorKind::Invalid);
    assert_eq!(node.get("").unwrap_err().kind(), ErrorKind::Invalid);
    let mut batch = WriteBatch::new();
    batch.put("fine", "v").put("", "v");
    assert_eq!(kind(node.write(batch)), ErrorKind::Invalid);
    assert_eq!(node.get("fine").unwrap(), None, "a refused batch writes nothing");
    node.write(WriteBatch::new()).unwrap();
    node.put(vec![b'k'; 64 << 10], vec![1; 4 << 20]).unwrap();
    assert_eq!(node.get(vec![b'k'; 64 << 10]).unwrap().unwrap().len(), 4 << 20);
    node.flush().unwrap();
    assert_eq!(node.get(vec![b'k'; 64 << 10]).unwrap().unwrap().len(), 4 << 20);
}

#[test]
fn a_directory_is_one_nodes_and_keeps_its_shard_count() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, 3);
    let second = blocking::Node::open(options(&dir, 3)).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Invalid);
    assert!(second.to_string().contains("in use"), "{second}");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("data"), &link).unwrap();
    let mut through_link = options(&dir, 3);
    through_link.data_dir = link;
    assert_eq!(blocking::Node::open(through_link).unwrap_err().kind(), ErrorKind::Invalid);
    node.close().unwrap();
    let other_count = blocking::Node::open(options(&dir, 4)).unwrap_err();
    assert_eq!(other_count.kind(), ErrorKind::Invalid);
    assert!(other_count.to_string().contains("set node.shards = 3"), "{other_count}");
    assert_eq!(open(&dir, 0).stats().unwrap().shards.len(), 3);
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data"), "not a directory").unwrap();
    let error = blocking::Node::open(options(&dir, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[test]
fn a_damaged_shard_refuses_alone_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir, 2);
    (0..100).for_each(|i| node.put(format!("{i}"), "v").unwrap());
    node.close().unwrap();
    let manifest = dir.path().join("data/shard-0001/MANIFEST");
    std::fs::remove_file(&manifest).unwrap();
    let node = open(&dir, 2);
    let results: Vec<_> = (0..100).map(|i| node.get(format!("{i}"))).collect();
    let served = results.iter().filter(|result| matches!(result, Ok(Some(_)))).count();
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(served + refused.len(), 100);
    assert!(served > 20 && refused.len() > 20, "{served} served, {} refused", refused.len());
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert_eq!(error.corruption_at().unwrap().path, manifest);
    }
    assert!(node.stats().unwrap().shards[1].trouble.is_some());
}

#[test]
fn the_async_face_does_the_same_on_any_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let work = async |options: NodeOptions| {
        let node = Node::open(options).await?;
        node.put("b", "2").await?;
        node.put_bytes(Bytes::from("a"), Bytes::from("1")).await?;
        node.put_with("c", "3", PutOptions::new().durability(Durability::Synced)).await?;
        node.delete("b").await?;
        node.delete("n").await?;
        assert_eq!(node.get("a").await?.as_deref(), Some(&b"1"[..]));
        assert_eq!(node.multi_get(["a", "b", "c"]).await?.iter().flatten().count(), 2);
        assert_eq!(node.increment("n", 3).await?, 3);
        node.sync().await?;
        node.flush().await?;
        let all: Vec<_> = node.scan(..).try_collect().await?;
        assert_eq!(all.len(), 3);
        assert_eq!(node.scan(..).reverse().limit(1).next().await.unwrap()?.0, "n");
        let unpolled = node.put("never", "polled");
        drop(unpolled);
        assert_eq!(node.get("never").await?, None);
        node.settle().await?;
        node.close().await?;
        Ok::<(), dbex::Error>(())
    };
    pollster::block_on(work(options(&dir, 2))).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(work(options(&dir, 2))).unwrap();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work(options(&dir, 2))).unwrap();
    // The blocking face is legal inside a runtime too.
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let node = open(&dir, 2);
        node.put("inside", "a runtime").unwrap();
        let mut batch = WriteBatch::new();
        batch.put("x", "1").put("y", "2").put("z", "3");
        node.write(batch).unwrap();
        assert_eq!(pairs(&node).len(), 7);
    });
}

#[test]
fn many_tasks_share_turns_and_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = Node::open(options(&dir, 2)).await.unwrap();
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let node = node.clone();
                tokio::spawn(async move {
                    for i in 0..50 {
                        let synced = PutOptions::new().durability(Durability::Synced);
                        node.put_with(format!("{task}/{i}"), "v", synced).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(node.scan(..).count().await, 64 * 50);
        node.close().await.unwrap();
    });
}

#[test]
fn the_api_of_the_design_is_there() {
    use futures_core::Stream;

    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    fn is_future<F: Future<Output = O> + Send + 'static, O>(future: F) -> F {
        future
    }
    fn is_stream<S: Stream<Item = dbex::Result<(Bytes, Bytes)>> + Unpin + Send + 'static>(stream: S) -> S {
        stream
    }
    is_shared::<Node>();
    is_shared::<blocking::Node>();
    let dir = tempfile::tempdir().unwrap();
    let settings =
        Settings::builder().data_dir(dir.path()).shards(2).memtable_bytes(1 << 20).build().unwrap();
    pollster::block_on(async {
        let node = Node::open_with(settings, Env::system()).await.unwrap();
        // A future outlives what it was made from.
        let key = String::from("k");
        let put = is_future(node.put(&key, key.as_bytes()));
        drop(key);
        put.await.unwrap();
        drop(is_future(node.get("k")));
        drop(is_future(node.write(WriteBatch::new())));
        drop(is_stream(node.scan("a".."b").prefix("a").reverse().limit(1)));
        let coordinator: actix::Addr<dbex::Coordinator> = node.coordinator();
        assert!(coordinator.connected());
        node.reopen_shards().await.unwrap();
        node.close().await.unwrap();
    });
}

#[test]
fn messages_give_the_same_answers_and_carry_permits() {
    use dbex::messages::{
        Close, Compact, Delete, Flush, Get, MultiGet, Put, Scan, Settle, Stats, Sync, Write,
    };
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir, 2);
    actix::System::new().block_on(async move {
        let node = Node::open(options).await.unwrap();
        let to = node.coordinator();
        to.send(Put::new("k", "v").durability(Durability::Synced)).await.unwrap().unwrap();
        let permit = node.admit(3).await.unwrap();
        to.send(Put::new("k2", "v").with_permit(permit)).await.unwrap().unwrap();
        let mut batch = WriteBatch::new();
        batch.put("a", "1").put("b", "2").put("c", "3");
        to.send(Write::new(batch)).await.unwrap().unwrap();
        to.send(Delete::new("b")).await.unwrap().unwrap();
        assert_eq!(to.send(Get::new("k")).await.unwrap().unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!(
            to.send(MultiGet::new(["a", "b"])).await.unwrap().unwrap(),
            [Some(Bytes::from("1")), None]
        );
        assert_eq!(to.send(Scan::new(.., 2)).await.unwrap().unwrap().len(), 2);
        to.send(Sync).await.unwrap().unwrap();
        to.send(Flush).await.unwrap().unwrap();
        to.send(Compact::new(..)).await.unwrap().unwrap();
        to.send(Settle).await.unwrap().unwrap();
        assert_eq!(to.send(Stats).await.unwrap().unwrap().shards.len(), 2);
        // All of the message admission is held: a write without a permit is told to come again.
        let all = node.admit(usize::MAX).await.unwrap();
        assert_eq!(to.send(Put::new("k3", "v")).await.unwrap().unwrap_err().kind(), ErrorKind::Busy);
        drop(all);
        to.send(Close).await.unwrap().unwrap();
        node.close().await.unwrap();
    });
}
