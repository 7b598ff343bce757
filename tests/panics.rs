//! A panic somewhere in a node ends what it hit, and nothing hangs: the coordinator and the close go on, a shard is
//! re-opened, and says so when it is not.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/history.rs"]
#[expect(dead_code, reason = "only its types are used here")]
mod history;
#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
#[expect(dead_code, reason = "only its watchdog is used here")]
mod report;
#[path = "support/sim_node.rs"]
#[expect(dead_code, reason = "only its options and its disk are used here")]
mod sim_node;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use dbex::{
    ActorSystem, Clock, Durability, ErrorKind, PutOptions, Result, SystemClock, SystemThreads, Thread,
    Threads, WriteBatch,
    blocking::Node,
    storage::sim::{Errno, Fault, FaultRule, OpKind, SimStorage},
};
use random::Random;
use report::Watchdog;

const HANGS_AFTER: Duration = Duration::from_mins(1);

/// A clock that panics once in the thread that it is told.
#[derive(Debug, Default)]
struct Planted {
    clock: SystemClock,
    thread: Mutex<Option<String>>,
}

impl Planted {
    fn plant(&self, thread: &str) {
        *self.thread.lock().unwrap() = Some(thread.to_owned());
    }

    fn is_planted(&self) -> bool {
        self.thread.lock().unwrap().is_some()
    }
}

impl Clock for Planted {
    fn monotonic(&self) -> Duration {
        let mut thread = self.thread.lock().unwrap();
        let is_here = thread.is_some() && thread.as_deref() == thread::current().name();
        if is_here {
            *thread = None;
            drop(thread);
            panic!("a planted panic");
        }
        self.clock.monotonic()
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration);
    }
}

/// Threads, of which the one that re-opens shards does not start while that is refused.
#[derive(Debug, Default)]
struct Scarce {
    refuses: AtomicBool,
}

impl Threads for Scarce {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Thread>> {
        if name == "dbex-reopen" && self.refuses.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        SystemThreads.spawn(name, body)
    }

    fn start_system(&self, name: &str) -> io::Result<Box<dyn ActorSystem>> {
        SystemThreads.start_system(name)
    }

    fn parallelism(&self) -> usize {
        SystemThreads.parallelism()
    }
}

struct Scene {
    disk: SimStorage,
    clock: Arc<Planted>,
    threads: Arc<Scarce>,
    node: Node,
    watchdog: Watchdog,
}

impl Scene {
    fn new() -> Self {
        let (disk, clock, threads) = (sim_node::disk(1), Arc::<Planted>::default(), Arc::<Scarce>::default());
        let mut env = sim_node::env(&disk, 1);
        env.clock = Arc::clone(&clock) as _;
        env.threads = Arc::clone(&threads) as _;
        let mut options = sim_node::options(&mut Random::new(1));
        options.sync_interval = Duration::from_hours(1);
        let node = Node::open_with(options, env).unwrap();
        Self { disk, clock, threads, node, watchdog: Watchdog::new(HANGS_AFTER, String::new) }
    }

    fn put(&self) -> Result<()> {
        self.node.put_with("key", "value", PutOptions::new().durability(Durability::Synced))
    }

    /// A turn of the shard of the only key panics, in this thread: as it looks at the clock, which a put by itself
    /// need not do.
    fn panic_in_a_turn(&self) {
        self.clock.plant(thread::current().name().unwrap());
        let mut batch = WriteBatch::new();
        batch.put("key", "value").durability(Durability::Synced);
        assert_eq!(self.node.write(batch).unwrap_err().kind(), ErrorKind::Internal);
        assert!(!self.clock.is_planted());
    }

    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        self.watchdog.at(what);
        while !is_so() {
            self.clock.sleep(Duration::from_millis(1));
        }
    }

    fn open_again(&self) -> Node {
        self.watchdog.at("the next open");
        Node::open_with(sim_node::options(&mut Random::new(1)), sim_node::env(&self.disk, 2)).unwrap()
    }
}

#[test]
fn the_coordinator_survives_its_panics() {
    let scene = Scene::new();
    for _ in 0..3 {
        scene.clock.plant("dbex-system");
        scene.until("a panic of the coordinator", || !scene.clock.is_planted());
        scene.put().unwrap();
        scene.watchdog.at("a flush after the panic");
        scene.node.flush().unwrap();
    }
    scene.node.close().unwrap();
    scene.open_again().close().unwrap();
}

#[test]
fn a_close_that_panics_ends_and_releases_the_directory() {
    let scene = Scene::new();
    scene.put().unwrap();
    scene.clock.plant("dbex-close");
    scene.watchdog.at("the close");
    assert_eq!(scene.node.close().unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(scene.put().unwrap_err().kind(), ErrorKind::Closed);
    let node = scene.open_again();
    assert_eq!(node.get("key").unwrap().as_deref(), Some(&b"value"[..]));
    node.close().unwrap();
}

#[test]
fn a_lone_write_that_panics_fails_its_shard_and_the_next_one_is_whole() {
    let scene = Scene::new();
    let node = scene.node.to_async();
    let put = |value| {
        let buffered = PutOptions::new().durability(Durability::Buffered);
        pollster::block_on(node.put_with("key", value, buffered))
    };
    put("before").unwrap();
    let held = scene.node.snapshot().unwrap();
    // A write of a task looks at the clock before it is appended.
    scene.clock.plant(thread::current().name().unwrap());
    assert_eq!(put("lost").unwrap_err().kind(), ErrorKind::Internal);
    assert!(!scene.clock.is_planted());
    scene
        .until("the re-opening", || scene.node.get("key").is_ok() && scene.node.stats().unwrap().reopens > 0);
    assert_eq!(scene.node.get("key").unwrap().as_deref(), Some(&b"before"[..]));
    scene.until("a shard that takes writes", || put("after").is_ok());
    assert_eq!(scene.node.get("key").unwrap().as_deref(), Some(&b"after"[..]));
    assert_eq!(held.get("key").unwrap().as_deref(), Some(&b"before"[..]), "of the life before");
    let latest = scene.node.snapshot().unwrap();
    assert_eq!(latest.get("key").unwrap().as_deref(), Some(&b"after"[..]));
    drop(node);
    scene.node.close().unwrap();
}

#[test]
fn a_shard_that_keeps_panicking_says_that_it_waits_to_be_reopened() {
    let scene = Scene::new();
    for _ in 0..5 {
        scene.panic_in_a_turn();
        scene.until("a re-opening that nobody asked for", || scene.put().is_ok());
    }
    scene.panic_in_a_turn();
    let refuses = || scene.put().is_err_and(|error| error.kind() == ErrorKind::Poisoned);
    scene.until("word that nobody re-opens it any more", refuses);
    assert!(scene.put().unwrap_err().to_string().contains("reopen_shards"));
    scene.node.reopen_shards().unwrap();
    scene.put().unwrap();
    scene.node.close().unwrap();
}

#[test]
fn a_reopening_that_fails_is_told_and_tried_again_as_often_as_it_takes() {
    let scene = Scene::new();
    scene.put().unwrap();
    let broken = FaultRule::new(Fault::Fail(Errno::IO)).on(&[OpKind::Open]).path("MANIFEST");
    scene.disk.fail(broken);
    scene.panic_in_a_turn();
    // More often than a shard may panic; each try meets the fault once.
    scene.until("many tries", || scene.disk.faults_fired() > 6);
    scene.until("word of a try that failed", || {
        scene.put().unwrap_err().to_string().contains("could not be re-opened")
    });
    scene.disk.clear_faults();
    scene.until("the try that works", || scene.put().is_ok());
    scene.node.close().unwrap();
}

#[test]
fn a_reopening_without_a_thread_or_that_panics_is_tried_again() {
    let scene = Scene::new();
    scene.threads.refuses.store(true, Ordering::SeqCst);
    scene.panic_in_a_turn();
    scene.watchdog.at("a re-opening that is asked for, without a thread");
    assert_eq!(scene.node.reopen_shards().unwrap_err().kind(), ErrorKind::Io);
    scene.clock.plant("dbex-reopen");
    scene.threads.refuses.store(false, Ordering::SeqCst);
    scene.until("a panic of the re-opening", || !scene.clock.is_planted());
    scene.until("the try that works", || scene.put().is_ok());
    scene.node.close().unwrap();
}
