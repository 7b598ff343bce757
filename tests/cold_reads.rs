//! An async caller's thread never waits for the disk: while a cold read does, a timer of the same thread ticks on,
//! and what needs no disk is answered in place, on the first poll.
//!
//! The disk is simulated, and has a gate that a test shuts: behind it stand all operations on tables that may wait
//! for a device. What waits there goes on when the test says so, and by itself only where the test has failed.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use dbex::{
    Compression, Env, ErrorKind, Node, NodeOptions, blocking,
    storage::{DirEntry, OpenMode, Storage, StorageFile, StorageLock, sim::SimStorage},
};
use futures_util::{FutureExt, StreamExt, future::join_all};
use parking_lot::{Condvar, Mutex};

const KEYS: usize = 60;
const TICK: Duration = Duration::from_millis(5);
const TICKS: usize = 4;
/// How long a test that has failed hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where operations wait while a test wants them to.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct GateState {
    is_shut: bool,
    /// Only read workers have to wait.
    lets_callers_pass: bool,
    fault: Option<Fault>,
    waiting: usize,
    most_waiting: usize,
    panics: usize,
    opens: usize,
    reads: usize,
    reads_nowait: usize,
}

/// What becomes of a read that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Fails,
    /// On a read worker; other threads wait until one has panicked.
    Panics,
}

impl Gate {
    fn set_shut(&self, is_shut: bool) {
        self.state.lock().is_shut = is_shut;
        self.changed.notify_all();
    }

    fn state(&self) -> GateState {
        *self.state.lock()
    }

    /// Counts an operation that may wait for the device, and lets it wait.
    fn pass(&self, count: impl FnOnce(&mut GateState)) {
        let mut state = self.state.lock();
        count(&mut state);
        state.waiting += 1;
        state.most_waiting = state.most_waiting.max(state.waiting);
        let has_to = |state: &mut GateState| state.is_shut && (is_worker() || !state.lets_callers_pass);
        if self.changed.wait_while_for(&mut state, has_to, PATIENCE).timed_out() {
            state.is_shut = false;
        }
        state.waiting -= 1;
    }

    /// Ends as the fault says.
    fn fail(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.fault {
            None => Ok(()),
            Some(Fault::Fails) => Err(io::Error::other("a planted fault")),
            Some(Fault::Panics) if is_worker() => {
                state.panics += 1;
                self.changed.notify_all();
                drop(state);
                panic!("a planted panic");
            }
            Some(Fault::Panics) => {
                let waited = self.changed.wait_while_for(&mut state, |state| state.panics == 0, PATIENCE);
                assert!(!waited.timed_out(), "no worker reads");
                Ok(())
            }
        }
    }

    /// Waits until so many operations wait at once.
    async fn until_waiting(&self, count: usize) {
        let until = async {
            while self.state().waiting < count {
                tokio::time::sleep(TICK).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, until).await;
        assert!(waited.is_ok(), "{} wait at once, and not {count}", self.state().waiting);
    }
}

fn is_worker() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with("dbex-read"))
}

/// A simulated disk whose tables lie behind a gate.
#[derive(Clone, Debug)]
struct GatedDisk {
    disk: SimStorage,
    gate: Arc<Gate>,
}

impl Storage for GatedDisk {
    fn identity(&self, path: &Path) -> (usize, PathBuf) {
        self.disk.identity(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.read_dir(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        if path.extension().is_none_or(|extension| extension != "sst") {
            return self.disk.open(path, mode);
        }
        self.gate.pass(|state| state.opens += 1);
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(GatedFile { file, gate: Arc::clone(&self.gate) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.disk.try_lock(path)
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.disk.try_lock_shared(path)
    }
}

/// A table's file behind the gate.
#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn StorageFile>,
    gate: Arc<Gate>,
}

impl StorageFile for GatedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.gate.pass(|state| state.reads += 1);
        self.gate.fail()?;
        self.file.read_at(buf, offset)
    }

    fn read_at_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.gate.state.lock().reads_nowait += 1;
        self.file.read_at_nowait(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
}

fn key(n: usize) -> String {
    format!("key-{n:03}")
}

fn value(n: usize) -> Bytes {
    format!("{n:0>1000}").into()
}

/// A node that has just been opened over some tables with a few blocks each: none of them was used yet, none is in
/// a cache, at most one file stays open, and a single thread reads.
fn open_cold() -> (Node, GatedDisk) {
    let (node, disk) = open_cold_with(|_| ());
    (node.to_async(), disk)
}

/// The same, with several threads that read, and with all tables in use but for their blocks.
fn open_in_use(read_workers: usize) -> (blocking::Node, GatedDisk) {
    let (node, disk) = open_cold_with(|options| {
        options.read_workers = read_workers;
        options.max_open_files = 0;
    });
    for n in 0..KEYS {
        assert_eq!(node.get(key(n)).unwrap(), Some(value(n)));
    }
    (node, disk)
}

fn open_cold_with(change: impl FnOnce(&mut NodeOptions)) -> (blocking::Node, GatedDisk) {
    let disk = GatedDisk { disk: SimStorage::new(1), gate: Arc::default() };
    disk.disk.set_cached_permille(0);
    let mut options = NodeOptions::default();
    options.data_dir = "/data".into();
    options.shards = 1;
    options.block_cache_bytes = 0;
    options.table_bytes = 16 << 10;
    options.compression = [Compression::None; 3];
    options.max_open_files = 1;
    options.read_workers = 1;
    change(&mut options);
    let env = || Env::with_storage(Arc::new(disk.clone()));

    let node = blocking::Node::open_with(options.clone(), env()).unwrap();
    for n in 0..KEYS {
        node.put(key(n), value(n)).unwrap();
    }
    node.compact(..).unwrap();
    node.settle().unwrap();
    let tables: u64 = node.stats().unwrap().shards[0].tree.levels.iter().map(|level| level.tables).sum();
    assert!(tables > 2, "{tables} tables");
    node.close().unwrap();

    let node = blocking::Node::open_with(options, env()).unwrap();
    (node, disk)
}

/// What `read` returns. Its disk lets it go on only after a timer of this thread has ticked a few times while it
/// waited there.
async fn beside_a_timer<T>(gate: &Gate, read: impl Future<Output = T>) -> T {
    gate.set_shut(true);
    let mut read = pin!(read);
    let timer = async {
        let mut ticks = 0;
        while ticks < TICKS {
            tokio::select! {
                biased;
                _ = &mut read => panic!("the read was not cold, or held its thread: it ended after {ticks} ticks"),
                () = tokio::time::sleep(TICK) => ticks += gate.state().waiting.min(1),
            }
        }
    };
    tokio::time::timeout(PATIENCE, timer).await.expect("a cold read waits at the disk");
    assert!(gate.state().is_shut, "the read had to wait too long");
    gate.set_shut(false);
    read.await
}

#[tokio::test]
async fn a_cold_get_leaves_its_thread_to_a_timer() {
    let (node, disk) = open_cold();
    let cold_get = async |n| {
        let before = disk.gate.state();
        let found = beside_a_timer(&disk.gate, node.get(key(n))).await.unwrap();
        assert_eq!(found, Some(value(n)));
        let after = disk.gate.state();
        (after.opens - before.opens, after.reads_nowait - before.reads_nowait)
    };
    assert_eq!(cold_get(0).await, (1, 0), "of a table that was not used before");
    for n in 1..6 {
        assert_eq!(cold_get(n).await, (0, 1), "of a table that is in use, but for the block");
    }
    assert_eq!(cold_get(KEYS - 1).await, (1, 0), "of another table");
    let opens = cold_get(0).await.0 + cold_get(KEYS - 1).await.0;
    assert!(opens > 0, "of a table in use whose file was closed");
}

#[tokio::test]
async fn a_cold_multi_get_leaves_its_thread_to_a_timer() {
    for read_workers in [1, 4] {
        let (node, disk) = open_cold_with(|options| options.read_workers = read_workers);
        beside_a_cold_multi_get(&node.to_async(), &disk).await;
    }
}

async fn beside_a_cold_multi_get(node: &Node, disk: &GatedDisk) {
    node.put("in memory", "value").await.unwrap();
    for _ in 0..2 {
        let numbers = [KEYS - 1, 0, 30];
        let keys = numbers.iter().map(|n| key(*n)).chain(["in memory".to_owned(), "nowhere".to_owned()]);
        let found = beside_a_timer(&disk.gate, node.multi_get(keys)).await.unwrap();
        let expected = numbers.iter().map(|n| Some(value(*n))).chain([Some("value".into()), None]);
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_cold_reads_of_a_multi_get_overlap() {
    const WORKERS: usize = 4;
    let (node, disk) = open_in_use(WORKERS);
    let node = node.to_async();
    disk.gate.state.lock().most_waiting = 0;
    let snapshot = node.snapshot().await.unwrap();
    for from_snapshot in [false, true] {
        let keys = (0..KEYS).rev().map(key);
        disk.gate.set_shut(true);
        let read =
            async { if from_snapshot { snapshot.multi_get(keys).await } else { node.multi_get(keys).await } };
        let (found, ()) = tokio::join!(read, async {
            disk.gate.until_waiting(WORKERS).await;
            disk.gate.set_shut(false);
        });
        assert_eq!(found.unwrap(), (0..KEYS).rev().map(|n| Some(value(n))).collect::<Vec<_>>());
    }
    assert_eq!(disk.gate.state().most_waiting, WORKERS, "the caller's thread waits for no disk");
}

#[tokio::test]
async fn the_cold_reads_of_a_blocking_multi_get_overlap() {
    const WORKERS: usize = 4;
    let (node, disk) = open_in_use(WORKERS);
    let snapshot = node.snapshot().unwrap();
    for from_snapshot in [false, true] {
        disk.gate.set_shut(true);
        let (node, snapshot) = (node.clone(), snapshot.clone());
        let reader = thread::spawn(move || {
            let keys = (0..KEYS).map(key);
            if from_snapshot { snapshot.multi_get(keys) } else { node.multi_get(keys) }
        });
        disk.gate.until_waiting(WORKERS + 1).await;
        disk.gate.set_shut(false);
        assert_eq!(reader.join().unwrap().unwrap(), (0..KEYS).map(|n| Some(value(n))).collect::<Vec<_>>());
    }
    // One key is read where it is asked for.
    disk.gate.set_shut(true);
    disk.gate.state.lock().lets_callers_pass = true;
    let found = node.multi_get([key(7), "nowhere".to_owned()]).unwrap();
    assert_eq!(found, [Some(value(7)), None]);
    assert!(disk.gate.state().is_shut, "it waited for a worker");
}

#[tokio::test]
async fn a_blocking_multi_get_does_without_workers_that_hang() {
    let (blocking, disk) = open_in_use(1);
    let node = blocking.to_async();
    disk.gate.state.lock().lets_callers_pass = true;
    disk.gate.set_shut(true);
    // The worker reads; then so much waits for it that there is no room for more.
    let mut gets = vec![];
    for count in [1, 1_199] {
        gets.extend((0..count).map(|n| tokio::spawn(node.get(key(n % KEYS)))));
        disk.gate.until_waiting(1).await;
        let blocking = blocking.clone();
        let keys = || (0..KEYS).rev().map(key);
        let reader = tokio::task::spawn_blocking(move || {
            [blocking.multi_get(keys()).unwrap(), blocking.snapshot().unwrap().multi_get(keys()).unwrap()]
        });
        let expected: Vec<_> = (0..KEYS).rev().map(|n| Some(value(n))).collect();
        assert_eq!(reader.await.unwrap(), [expected.clone(), expected]);
        assert_eq!((disk.gate.state().is_shut, disk.gate.state().waiting), (true, 1), "the worker hangs");
    }
    disk.gate.set_shut(false);
    for (n, get) in gets.into_iter().enumerate() {
        let n = n.saturating_sub(1);
        assert_eq!(get.await.unwrap().unwrap(), Some(value(n % KEYS)));
    }
}

#[tokio::test]
async fn a_multi_get_fails_as_its_reads_do() {
    let (blocking, disk) = open_in_use(2);
    let node = blocking.to_async();
    let kind = |found: dbex::Result<_>| found.unwrap_err().kind();
    let both = async |fault| {
        disk.gate.state.lock().fault = fault;
        let blocking = blocking.clone();
        let beside = tokio::task::spawn_blocking(move || blocking.multi_get((0..KEYS).map(key)));
        let by_blocking = kind(beside.await.unwrap());
        [by_blocking, kind(node.multi_get((0..KEYS).map(key)).await)]
    };
    // First, so that no read of another call panics in place of the blocking one's.
    assert_eq!(both(Some(Fault::Panics)).await, [ErrorKind::Internal; 2]);
    assert_eq!(both(Some(Fault::Fails)).await, [ErrorKind::Io; 2]);
    disk.gate.state.lock().fault = None;
    let invalid = node.multi_get([key(0), String::new()]).await;
    assert_eq!(invalid.unwrap_err().kind(), ErrorKind::Invalid);
    let found = node.multi_get((0..KEYS).map(key)).await.unwrap();
    assert_eq!(found, (0..KEYS).map(|n| Some(value(n))).collect::<Vec<_>>());
    node.close().await.unwrap();
    assert_eq!(both(None).await, [ErrorKind::Closed; 2]);
}

#[tokio::test]
async fn each_cold_step_of_a_scan_leaves_its_thread_to_a_timer() {
    let (node, disk) = open_cold();
    let mut scan = node.scan(..);
    let (mut found, mut cold_steps) = (vec![], 0);
    loop {
        disk.gate.set_shut(true);
        // What was fetched before is there at once; what is not makes the node fetch more.
        let ready = scan.next().now_or_never();
        assert!(disk.gate.state().is_shut, "a step held its thread");
        let step = if let Some(step) = ready {
            step
        } else {
            cold_steps += 1;
            beside_a_timer(&disk.gate, scan.next()).await
        };
        match step {
            Some(pair) => found.push(pair.unwrap()),
            None => break,
        }
    }
    assert!(cold_steps > 1, "{cold_steps} cold steps");
    let expected: Vec<_> = (0..KEYS).map(|n| (Bytes::from(key(n)), value(n))).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_cold_base_of_an_update_leaves_its_thread_to_a_timer() {
    let (node, disk) = open_cold();
    for n in 0..2 {
        let update = node.update(key(n), |_| Some("new"));
        assert_eq!(beside_a_timer(&disk.gate, update).await.unwrap(), Some(value(n)));
        assert_eq!(node.get(key(n)).await.unwrap(), Some("new".into()));
    }
}

#[tokio::test]
async fn more_cold_gets_than_there_is_room_for_leave_their_thread_to_a_timer() {
    let (node, disk) = open_cold();
    let gets = (0..1_200).map(|n| node.get(key(n % KEYS)));
    let found = beside_a_timer(&disk.gate, join_all(gets)).await;
    for (n, found) in found.into_iter().enumerate() {
        assert_eq!(found.unwrap(), Some(value(n % KEYS)));
    }
}

#[tokio::test]
async fn what_is_in_memory_is_answered_in_place_while_a_cold_get_waits() {
    let (node, disk) = open_cold();
    node.put("in memory", "value").await.unwrap();
    disk.gate.set_shut(true);
    let cold = tokio::spawn(node.get(key(0)));
    while disk.gate.state().waiting == 0 {
        assert!(!cold.is_finished(), "it was not cold, or held its thread");
        tokio::task::yield_now().await;
    }
    let found = node.get("in memory").now_or_never().expect("it is in memory").unwrap();
    assert_eq!(found, Some("value".into()));
    assert_eq!(disk.gate.state().waiting, 1);
    disk.gate.set_shut(false);
    assert_eq!(cold.await.unwrap().unwrap(), Some(value(0)));
}

#[tokio::test]
async fn what_is_in_the_page_cache_is_answered_in_place() {
    let (node, disk) = open_cold();
    disk.disk.set_cached_permille(1000);
    // A table that was not used before is the read workers' in any case.
    assert_eq!(node.get(key(0)).await.unwrap(), Some(value(0)));
    disk.gate.set_shut(true);
    let before = disk.gate.state();
    for n in 0..10 {
        let found = node.get(key(n)).now_or_never().expect("the page cache has it").unwrap();
        assert_eq!(found, Some(value(n)));
    }
    let found = node.multi_get((0..10).map(key)).now_or_never().expect("the page cache has them").unwrap();
    assert_eq!(found, (0..10).map(|n| Some(value(n))).collect::<Vec<_>>());
    let after = disk.gate.state();
    assert_eq!((after.opens, after.reads, after.waiting), (before.opens, before.reads, 0));
    assert_eq!(after.reads_nowait - before.reads_nowait, 20);
}
