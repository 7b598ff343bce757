//! What background work may use of the disk: the engine's own count is what the operating system counts, and writers
//! that bring more than the budget bears are slowed down by degrees, or told so.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a test fails by panicking, and prints figures"
)]

#[path = "support/random.rs"]
mod random;

use std::{
    fs, hint,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use dbex::{
    Clock, ErrorKind, IoBudget, NodeOptions, PutOptions, SlowdownReason, SystemClock, WriteBatch, WriteLimit,
    blocking::Node,
};
use parking_lot::Mutex;
use random::Random;

const VALUE_BYTES: usize = 1000;
/// What the system counts is the whole process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn options(dir: &Path, budget: IoBudget) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.data_dir = dir.to_path_buf();
    options.shards = 2;
    options.io_budget = budget;
    options
}

fn value(random: &mut Random) -> Vec<u8> {
    (0..VALUE_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// Bytes that the system calls of this process have read and written, whatever they went to.
#[cfg(target_os = "linux")]
fn system_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    let of =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse::<u64>();
    of("rchar:").unwrap() + of("wchar:").unwrap()
}

fn background_bytes(node: &Node) -> u64 {
    let stats = node.stats().unwrap();
    stats.flush_io_bytes + stats.compaction_io_bytes
}

/// Compaction has work for half a minute, and a flush beside it; nobody reads or writes in the foreground.
#[cfg(target_os = "linux")]
#[test]
fn what_the_engine_counts_is_what_the_system_counts() {
    const BUDGET: u64 = 20_000_000;
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(1);
    let mut fill = options(dir.path(), IoBudget::Unlimited);
    fill.l0_trigger = 1_000_000;
    let node = Node::open(fill).unwrap();
    let mut write = |node: &Node, keys: usize| {
        for _ in 0..keys / 100 {
            let mut batch = WriteBatch::new();
            (0..100).for_each(|_| {
                batch.put(random.next().to_be_bytes(), value(&mut random));
            });
            node.write(batch).unwrap();
        }
    };
    write(&node, 300_000);
    node.flush().unwrap();
    node.close().unwrap();

    let node = Node::open(options(dir.path(), IoBudget::BytesPerSecond(BUDGET))).unwrap();
    write(&node, 50_000);
    let clock = SystemClock::new();
    clock.sleep(Duration::from_secs(1));
    let (began, engine, system) = (clock.monotonic(), background_bytes(&node), system_bytes());
    clock.sleep(Duration::from_secs(10));
    let (system, engine) = (system_bytes() - system, background_bytes(&node) - engine);
    let seconds = clock.monotonic().saturating_sub(began).as_secs_f64();
    let flushed = node.stats().unwrap().flush_io_bytes;
    node.close().unwrap();

    println!(
        "{engine} bytes by the engine's count, {system} by the system's, in {seconds:.2} s; {flushed} of flushes"
    );
    assert!(engine.abs_diff(system) * 10 <= system, "{engine} and {system} differ by more than a tenth");
    let allowed = BUDGET as f64 * (seconds + 0.1);
    assert!(engine as f64 <= allowed, "{engine} bytes in {seconds} s are more than a rate and a burst");
    assert!(flushed > 0 && engine > BUDGET, "there was not enough to do for the test to say anything");
}

struct Overload {
    /// What each writer has written, and how often it was refused at first.
    written: Vec<(u64, u64)>,
    /// Those of the shards, as seen meanwhile.
    limits: Vec<WriteLimit>,
    /// Whether flushes and compactions were seen to count as much as the writers.
    flush_was_pressing: bool,
    compaction_was_pressing: bool,
}

/// Two writers that never pause.
fn overload(node: &Node, seconds: u64) -> Overload {
    let clock = SystemClock::new();
    let ends = clock.monotonic() + Duration::from_secs(seconds);
    let write = |seed: u64| {
        let (mut random, mut written, mut refused) = (Random::new(seed), 0u64, 0u64);
        while clock.monotonic() < ends {
            let (key, value) = (random.next().to_be_bytes(), value(&mut random));
            if let Err(error) = node.put_with(key, &value, PutOptions::new().no_wait()) {
                assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                assert_eq!(node.get(key).unwrap(), None, "a write that was refused is there");
                refused += 1;
                node.put(key, &value).unwrap();
            }
            assert_eq!(node.get(key).unwrap().as_deref(), Some(&*value));
            written += 1;
        }
        (written, refused)
    };
    let (mut limits, mut flush_was_pressing, mut compaction_was_pressing) = (vec![], false, false);
    let written = thread::scope(|scope| {
        let writers: Vec<_> = (0..2).map(|seed| scope.spawn(move || write(seed))).collect();
        while clock.monotonic() < ends {
            let stats = node.stats().unwrap();
            flush_was_pressing |= stats.flush_is_pressing;
            compaction_was_pressing |= stats.compaction_is_pressing;
            limits.extend(stats.shards.iter().filter_map(|shard| shard.write_limit));
            clock.sleep(Duration::from_millis(5));
        }
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    Overload { written, limits, flush_was_pressing, compaction_was_pressing }
}

fn is_for(limits: &[WriteLimit], reason: SlowdownReason) -> bool {
    limits.iter().any(|limit| limit.reason == reason && limit.bytes_per_second > 0.0)
}

fn print(written: &[(u64, u64)], node: &Node) {
    let stats = node.stats().unwrap();
    println!(
        "{written:?} puts and those of them that were busy at first; {} waits of {:?}; {} stalls of {:?}; L0 {:?}",
        stats.slowdowns,
        stats.slowed_down,
        stats.stalls,
        stats.stalled,
        stats.shards.iter().map(|shard| shard.load.l0_tables).collect::<Vec<_>>()
    );
}

/// A disk of which the node may use a few megabytes a second.
#[test]
fn writers_are_slowed_down_to_what_flushes_bear() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), IoBudget::BytesPerSecond(16 << 20));
    options.memtable_bytes = 16 << 20;
    let node = Node::open(options).unwrap();
    let Overload { written, limits, flush_was_pressing, .. } = overload(&node, 6);
    print(&written, &node);
    let stats = node.stats().unwrap();
    assert!(stats.slowdowns > 0 && !stats.slowed_down.is_zero(), "nobody was slowed down");
    assert!(written.iter().all(|(_, refused)| *refused > 0), "nobody was told");
    assert!(is_for(&limits, SlowdownReason::Memory));
    assert!(flush_was_pressing, "flushes were left behind by everybody");
    node.flush().unwrap();
    assert!(node.stats().unwrap().shards.iter().all(|shard| shard.load.sealed_bytes == 0));
    node.close().unwrap();
}

/// Set when it is dropped, on a panic too.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_host_that_wants_every_core_does_not_keep_flushes_from_ending() {
    const PUTS_PER_MS: u64 = 10;
    const MS: u64 = 4_000;
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), IoBudget::Unlimited);
    options.memtable_bytes = 8 << 20;
    let node = Node::open(options).unwrap();
    let cores = thread::available_parallelism().unwrap().get();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&is_done);
        for _ in 0..8 * cores {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            });
        }
        let (clock, mut random) = (SystemClock::new(), Random::new(5));
        let began = clock.monotonic();
        for put in 0..PUTS_PER_MS * MS {
            node.put(random.next().to_be_bytes(), value(&mut random)).unwrap();
            let due = began + Duration::from_millis(put / PUTS_PER_MS);
            clock.sleep(due.saturating_sub(clock.monotonic()));
        }
    });
    print(&[(PUTS_PER_MS * MS, 0)], &node);
    let stats = node.stats().unwrap();
    // Where each thread has a ninth of a core, memory may be full for a moment; it was for seconds when flushes had what
    // others left.
    assert!(stats.stalled < Duration::from_secs(1), "writers came to a stop for {:?}", stats.stalled);
    let least = PUTS_PER_MS * MS * VALUE_BYTES as u64 / 2;
    assert!(stats.flush_io_bytes >= least, "{} bytes were flushed", stats.flush_io_bytes);
    node.close().unwrap();
}

/// Small memtables make many tables, of which a healthy shard has no more than five here.
#[test]
fn writers_are_slowed_down_to_what_compaction_takes_off_and_let_go_when_it_has_caught_up() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), IoBudget::BytesPerSecond(8 << 20));
    options.memtable_bytes = 2 << 20;
    options.l0_trigger = 1;
    let node = Node::open(options).unwrap();
    assert!(!node.stats().unwrap().compaction_is_pressing);
    let Overload { written, limits, compaction_was_pressing, .. } = overload(&node, 8);
    print(&written, &node);
    assert!(is_for(&limits, SlowdownReason::Backlog));
    assert!(compaction_was_pressing, "compactions were left behind by everybody");
    let tables = node.stats().unwrap().shards.iter().map(|shard| shard.load.l0_tables).max();
    assert!(tables < Some(40), "{tables:?} tables in L0");
    node.settle().unwrap();
    let clock = SystemClock::new();
    while node.stats().unwrap().compaction_is_pressing {
        assert!(clock.monotonic() < Duration::from_secs(10), "it has caught up");
        clock.sleep(Duration::from_millis(5));
    }
    node.put_with("at last", "nobody waits", PutOptions::new().no_wait()).unwrap();
    node.close().unwrap();
}
