//! Writes that run in place, alone in their turn: many at once from tasks and a thread, and from a thread that ends.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    cell::RefCell,
    sync::mpsc::{Sender, channel},
    thread,
};

use dbex::{NodeOptions, Result, blocking::Node};
use tokio::runtime::{Builder, Runtime};

const TASKS: u32 = 64;
const VERSIONS: u32 = 200;
/// Every so often a value is too long to be written from its thread's own memory.
const LONG_EVERY: u32 = 50;

fn open(dir: &tempfile::TempDir) -> Node {
    let mut options = NodeOptions::default();
    options.data_dir = dir.path().join("data");
    options.shards = 1;
    options.memtable_bytes = 1 << 20;
    options.block_cache_bytes = 1 << 20;
    Node::open(options).unwrap()
}

fn value(version: u32) -> Vec<u8> {
    let bytes = if version.is_multiple_of(LONG_EVERY) { 40_000 } else { 100 };
    version.to_le_bytes().repeat(bytes / 4)
}

#[test]
fn tasks_and_a_thread_take_the_turns_of_a_shard_and_each_keeps_its_order() {
    let one_thread = Builder::new_current_thread().build().unwrap();
    for runtime in [one_thread, Runtime::new().unwrap()] {
        let dir = tempfile::tempdir().unwrap();
        let node = open(&dir);
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                for version in 0..=VERSIONS * 10 {
                    node.put("thread", value(version)).unwrap();
                }
            });
            runtime.block_on(write_from_tasks(&node));
            thread.join().unwrap();
        });
        assert_eq!(node.get("thread").unwrap().unwrap(), value(VERSIONS * 10));
        for task in 0..TASKS {
            assert_eq!(node.get(format!("task {task}")).unwrap().unwrap(), value(VERSIONS), "task {task}");
        }
        assert_eq!(node.stats().unwrap().reopens, 0);
        node.close().unwrap();
        assert_eq!(open(&dir).scan(..).count(), TASKS as usize + 1);
    }
}

async fn write_from_tasks(node: &Node) {
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let node = node.to_async();
            tokio::spawn(async move {
                for version in 0..=VERSIONS {
                    node.put(format!("task {task}"), value(version)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Writes when its thread ends, after what the node kept for that thread is gone.
struct LastWords(RefCell<Option<(Node, Sender<Result<()>>)>>);

impl Drop for LastWords {
    fn drop(&mut self) {
        if let Some((node, told)) = self.0.take() {
            told.send(node.put("last", "words")).unwrap();
        }
    }
}

thread_local! {
    static LAST_WORDS: LastWords = const { LastWords(RefCell::new(None)) };
}

#[test]
fn a_thread_may_write_while_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(&dir);
    let (told, results) = channel();
    let in_thread = node.clone();
    let thread = thread::spawn(move || {
        LAST_WORDS.with(|words| *words.0.borrow_mut() = Some((in_thread.clone(), told)));
        in_thread.put("first", "words").unwrap();
    });
    thread.join().unwrap();
    results.recv().unwrap().unwrap();
    assert_eq!(node.get("last").unwrap().as_deref(), Some(&b"words"[..]));
    assert_eq!(node.stats().unwrap().reopens, 0);
    node.close().unwrap();
}
