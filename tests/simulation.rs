//! Whole nodes on paused time: the real actors, workers, schedule and budget, on a modelled device. Panics, a device
//! that is slow for a while, threads that come late, more writes than there is disk: whoever asked gets an answer, no
//! acked write is lost, and when it is over the node is as it was.
//!
//! `DBEX_TEST_SEED` names the first seed, `DBEX_TEST_SCALE` does the work of CI that many times.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of bytes, and rates of them"
)]

#[path = "support/history.rs"]
#[expect(dead_code, reason = "only its types are used here")]
mod history;
#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
mod report;
#[path = "support/sim_client.rs"]
mod sim_client;
#[path = "support/sim_device.rs"]
mod sim_device;
#[path = "support/sim_node.rs"]
#[expect(dead_code, reason = "only its disk is used here")]
mod sim_node;
#[path = "support/sim_threads.rs"]
mod sim_threads;
#[path = "support/sim_world.rs"]
mod sim_world;

use std::{
    fmt,
    panic::resume_unwind,
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dbex::{
    Durability, ErrorKind, IoBudget, NodeStats, PutOptions, WriteBatch, storage::sim::OpKind,
    waiting::block_on,
};
use random::{Random, derive};
use report::{Watchdog, say, scale, seed};
use sim_client::{Client, Crowd};
use sim_device::{PanicAt, Transfer};
use sim_threads::{Lateness, alive, simulate};
use sim_world::{COMPACTION_WORKERS, FLUSH_WORKERS, SHARDS, SLOW, WELL, World};

const BUDGET: u64 = 512 << 10;
const CLIENTS: usize = 6;
const STORM_SECONDS: usize = 120;
const CALM_SECONDS: usize = 480;
/// Background work reads and writes no larger pieces.
const LARGEST_PIECE: u64 = 256 << 10;
const HANGS_AFTER: Duration = Duration::from_mins(2);
const PUNCTUAL: Lateness = Lateness { permille: 0, most: Duration::ZERO };
const LATE: Lateness = Lateness { permille: 10, most: Duration::from_millis(40) };
/// When the faults are over, the node is well again in so long.
const HEALS_IN: Duration = Duration::from_mins(4);
/// No shard waits longer for a flush or a compaction that is due.
const STARVES_AFTER: Duration = Duration::from_mins(4);

/// Where the panics of a storm are: what is done, in which files, by which threads.
const PANICS: [(OpKind, &str, &str); 10] = [
    (OpKind::Write, ".wal", "client"),
    (OpKind::Write, ".wal", "dbex-system-shard"),
    (OpKind::Write, ".wal", "dbex-batch"),
    (OpKind::Write, ".wal", "dbex-prepare"),
    (OpKind::Read, ".wal", "dbex-reopen"),
    (OpKind::Write, ".sst", "dbex-flush"),
    (OpKind::Sync, ".sst", "dbex-flush"),
    (OpKind::Write, ".sst", "dbex-compact"),
    (OpKind::Read, ".sst", "dbex-compact"),
    (OpKind::Read, ".sst", "dbex-read"),
];

/// What a life has come to.
#[derive(Debug, PartialEq, Eq)]
struct Life {
    operations: u64,
    /// By their places in [`PANICS`].
    panics: [u64; PANICS.len()],
    reopens: u64,
    slowdowns: u64,
    longest_answer: Duration,
    longest_heal: Duration,
    longest_wait_for_a_job: Duration,
    background_bytes: u64,
    most_above_the_rate: u64,
    trace: u64,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} panics, {} re-opens, {} slowdowns, {} MB in the background, at most {} kB above the rate; \
             the longest answer took {:?}, the longest healing {:?}, a job that was due waited at most {:?}",
            self.operations,
            self.panics.iter().sum::<u64>(),
            self.reopens,
            self.slowdowns,
            self.background_bytes / 1_000_000,
            self.most_above_the_rate / 1000,
            self.longest_answer,
            self.longest_heal,
            self.longest_wait_for_a_job
        )
    }
}

/// A node's life of so many rounds: a storm of two minutes, and eight minutes of calm.
fn live(seed: u64, budget: IoBudget, rounds: usize) -> Life {
    count_panics();
    let world = Arc::new(World::new(seed, budget));
    let crowd = Arc::<Crowd>::default();
    let mut random = Random::new(derive(seed, 1));
    let client = |number| Client::new(number, seed, Arc::clone(&world), Arc::clone(&crowd)).start();
    let clients: Vec<_> = (0..CLIENTS).map(client).collect();
    let (mut watch, mut meter) = (JobWatch::default(), RateMeter::new(BUDGET));
    let mut longest_heal = Duration::ZERO;
    for _ in 0..rounds {
        crowd.floods.store(true, Ordering::Relaxed);
        for second in 0..STORM_SECONDS {
            weather(&world, &mut random, second);
            world.sleep(Duration::from_secs(1));
            watch.look(&world);
            meter.add(world.device.take_background());
        }
        crowd.floods.store(false, Ordering::Relaxed);
        world.device.set_speed(WELL);
        world.device.forget_panics();
        longest_heal = longest_heal.max(heal(&world));
        crowd.weather.fetch_add(1, Ordering::Relaxed);
        for _ in 0..CALM_SECONDS {
            world.sleep(Duration::from_secs(1));
            watch.look(&world);
            meter.add(world.device.take_background());
        }
        assert!(is_well(&stats(&world)), "the node falls ill in calm weather: {:?}", stats(&world));
        crowd.weather.fetch_add(1, Ordering::Relaxed);
    }
    let mut clients = crowd.stop(clients);
    let stats = stats(&world);
    meter.add(world.device.take_background());
    let paid = stats.flush_io_bytes + stats.compaction_io_bytes;
    assert!(meter.bytes <= paid, "{} bytes, and {paid} were paid", meter.bytes);
    clients.iter_mut().for_each(Client::read_all);
    world.reopen();
    clients.iter_mut().for_each(Client::read_all);
    end(&world);
    if budget == IoBudget::BytesPerSecond(BUDGET) {
        meter.assert_kept(Duration::from_secs((rounds * STORM_SECONDS) as u64));
    }
    assert_eq!(count_panics(), 0, "somebody panicked who was not told to");
    for count in [&crowd.acked, &crowd.in_doubt, &crowd.read] {
        assert!(count.load(Ordering::Relaxed) > 0, "a life without incidents");
    }
    Life {
        operations: crowd.operations(),
        panics: PANICS.map(|(kind, file, thread)| world.device.panicked(kind, file, thread)),
        reopens: stats.reopens,
        slowdowns: stats.slowdowns,
        longest_answer: crowd.longest_answer(),
        longest_heal,
        longest_wait_for_a_job: watch.longest,
        background_bytes: meter.bytes,
        most_above_the_rate: meter.most_above,
        trace: world.disk.trace_hash(),
    }
}

/// Closes the node; nothing of it is left.
fn end(world: &World) {
    block_on(world.node().close()).unwrap();
    // Whoever has told of the end is a moment from his own.
    world.sleep(Duration::from_millis(100));
    assert_eq!(alive(), ["main"], "threads that outlive their node");
    world.disk.assert_no_violations();
}

/// How many panics there were in this process, without those that were planted: these call no hook.
fn count_panics() -> u64 {
    static PANICKED: AtomicU64 = AtomicU64::new(0);
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let tells = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.fetch_add(1, Ordering::Relaxed);
            tells(panic);
        }));
    });
    PANICKED.load(Ordering::Relaxed)
}

/// A storm: the device is slow for a while, and now and then somebody panics.
fn weather(world: &World, random: &mut Random, second: usize) {
    if second.is_multiple_of(20) {
        world.device.set_speed(if random.permille(500) { SLOW } else { WELL });
    }
    if random.permille(150) {
        let shard = random.below(SHARDS as usize);
        let (kind, file, thread) = *random.pick(&PANICS);
        world.device.panic_at(PanicAt { kind, shard, file, thread });
    }
}

fn stats(world: &World) -> NodeStats {
    block_on(world.node().stats()).unwrap()
}

/// Nobody waits, nothing is owed, every shard takes writes as they come.
fn is_well(stats: &NodeStats) -> bool {
    stats.shards.iter().all(|shard| {
        let load = &shard.load;
        shard.trouble.is_none()
            && shard.write_limit.is_none()
            && load.backlog_permille < 1000
            && load.sealed_count <= 1
    })
}

/// How long it takes until the node is well, when the faults are over. A shard that has panicked too often waits for
/// somebody to have it re-opened.
fn heal(world: &World) -> Duration {
    let began = world.now();
    let mut is_asked = false;
    loop {
        let stats = stats(world);
        let took = world.since(began);
        if is_well(&stats) {
            return took;
        }
        assert!(took < HEALS_IN, "{took:?} after the faults the node is not well: {stats:?}");
        let keeps_panicking = |trouble: &String| trouble.contains("keeps panicking");
        if !is_asked && stats.shards.iter().filter_map(|shard| shard.trouble.as_ref()).any(keeps_panicking) {
            is_asked = true;
            block_on(world.node().reopen_shards()).unwrap();
        }
        world.sleep(Duration::from_millis(100));
    }
}

/// How long jobs that are due wait to be begun.
#[derive(Default)]
struct JobWatch {
    since: [[Option<(Duration, u64)>; 2]; SHARDS as usize],
    longest: Duration,
}

impl JobWatch {
    fn look(&mut self, world: &World) {
        let now = world.now();
        for (shard, since) in stats(world).shards.iter().zip(&mut self.since) {
            let (load, tree) = (&shard.load, &shard.tree);
            let flush = (load.flush_due && !load.flush_running, tree.flushes);
            let compaction =
                (load.compaction_due && load.compactions_running == 0, tree.compactions + tree.moves);
            for ((waits, done), since) in [flush, compaction].into_iter().zip(since) {
                let before = since.filter(|(_, count)| waits && shard.trouble.is_none() && *count == done);
                *since = waits.then_some(before.unwrap_or((now, done)));
                if let Some((began, _)) = before {
                    self.longest = self.longest.max(now.saturating_sub(began));
                }
            }
        }
        assert!(self.longest < STARVES_AFTER, "a shard starves: {:?}", stats(world));
    }
}

/// Whether what background work reads and writes keeps within a rate, and a burst, in every window.
struct RateMeter {
    rate: u64,
    last: Duration,
    /// By how much the worst window that ends here is above the rate.
    above: f64,
    most_above: u64,
    bytes: u64,
}

impl RateMeter {
    fn new(rate: u64) -> Self {
        Self { rate, last: Duration::ZERO, above: 0.0, most_above: 0, bytes: 0 }
    }

    fn add(&mut self, transfers: Vec<Transfer>) {
        for Transfer { at, bytes } in transfers {
            assert!(bytes <= LARGEST_PIECE, "a piece of {bytes} bytes");
            let earned = self.rate as f64 * at.saturating_sub(self.last).as_secs_f64();
            self.above = (self.above - earned).max(0.0) + bytes as f64;
            self.most_above = self.most_above.max(self.above.ceil() as u64);
            self.bytes += bytes;
            self.last = at;
        }
    }

    /// `busy`: how long there was more to do than the rate allows.
    fn assert_kept(&self, busy: Duration) {
        // What was paid and not done yet is one piece for each worker.
        let most = self.rate / 10 + (FLUSH_WORKERS + COMPACTION_WORKERS) as u64 * LARGEST_PIECE;
        assert!(self.most_above <= most, "{} bytes above the rate, at most {most}", self.most_above);
        let least = self.rate as f64 * busy.as_secs_f64() / 3.0;
        assert!(self.bytes as f64 > least, "{} bytes, so that the rate was no limit", self.bytes);
    }
}

#[test]
fn lives_with_storms_and_calm() {
    let first = seed();
    let lives = 16 * scale() as u64;
    let watchdog = Watchdog::new(HANGS_AFTER, move || format!("DBEX_TEST_SEED={first}"));
    let life = |number: u64| {
        let seed = derive(first, number);
        let budget = if number.is_multiple_of(2) { IoBudget::BytesPerSecond(BUDGET) } else { IoBudget::Auto };
        let life = simulate(seed, LATE, move || live(seed, budget, 6));
        say(format_args!("hour {number} of DBEX_TEST_SEED={first}: {life}"));
        watchdog.at(format!("after life {number}"));
        life
    };
    // Each needs one core.
    let all: Vec<Life> = std::thread::scope(|scope| {
        let every_other = |from| scope.spawn(move || (from..lives).step_by(2).map(life).collect::<Vec<_>>());
        let both = [every_other(0), every_other(1)];
        both.into_iter().flat_map(|lives| lives.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let panics = all
        .iter()
        .fold([0; PANICS.len()], |sum, life| std::array::from_fn(|place| sum[place] + life.panics[place]));
    assert!(panics.iter().all(|count| *count > 0), "nobody has panicked in some places: {panics:?}");
    let (reopens, slowdowns) =
        all.iter().fold((0, 0), |sum, life| (sum.0 + life.reopens, sum.1 + life.slowdowns));
    assert!(reopens > 0 && slowdowns > 0, "storms that are none");
}

#[test]
fn the_same_seed_gives_the_same_life() {
    let first = seed();
    let watchdog = Watchdog::new(HANGS_AFTER, move || format!("DBEX_TEST_SEED={first}"));
    for number in 0..2 {
        watchdog.at(format!("life {number}"));
        let seed = derive(first, number);
        let lives = [(), ()].map(|()| simulate(seed, LATE, move || live(seed, IoBudget::Auto, 1)));
        assert_eq!(lives[0], lives[1], "DBEX_TEST_SEED={first}");
    }
}

/// A turn of a shard panics, in the thread of who writes or in the actor's: the others do not notice.
#[test]
fn a_panic_in_one_shard_is_nobody_elses() {
    let watchdog = Watchdog::new(HANGS_AFTER, String::new);
    let in_place = (Durability::Buffered, "main");
    let by_the_actor = (Durability::Synced, "dbex-system-shard");
    for (durability, thread) in [in_place, by_the_actor] {
        for sick in 0..SHARDS as usize {
            watchdog.at(format!("shard {sick}"));
            simulate(sick as u64, PUNCTUAL, move || panic_in(sick, durability, thread));
        }
    }
}

fn panic_in(sick: usize, durability: Durability, thread: &'static str) {
    let world = World::new(1, IoBudget::Auto);
    let node = world.node();
    let keys: Vec<_> = (0..SHARDS as usize).map(|shard| world.key_of(shard)).collect();
    let put = |shard: usize, durability| {
        block_on(node.put_with(&keys[shard], "value", PutOptions::new().durability(durability)))
    };
    put(sick, Durability::Synced).unwrap();
    world.device.panic_at(PanicAt { kind: OpKind::Write, shard: sick, file: ".wal", thread });
    assert_eq!(put(sick, durability).unwrap_err().kind(), ErrorKind::Internal);
    let began = world.now();
    let mut is_back = None;
    while world.since(began) < Duration::from_secs(5) {
        for well in (0..SHARDS as usize).filter(|shard| *shard != sick) {
            let asked = world.now();
            put(well, Durability::Synced).unwrap();
            assert!(world.since(asked) < Duration::from_millis(20), "another shard waits");
        }
        match put(sick, Durability::Buffered) {
            Ok(()) => is_back = is_back.or(Some(world.since(began))),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
        }
        world.sleep(Duration::from_millis(1));
    }
    let is_back = is_back.expect("the shard is re-opened");
    assert!(is_back < Duration::from_secs(1), "it took {is_back:?}");
    assert_eq!(stats(&world).reopens, 1);
    drop(node);
    end(&world);
}

/// A shard keeps panicking, and is left closed; a batch that it had a part in panics before its other parts are written.
/// The others do not come back without it, or they would show half a batch, and so would it, later.
#[test]
fn of_a_batch_that_panics_with_a_shard_that_stays_closed_nothing_is_seen() {
    let watchdog = Watchdog::new(HANGS_AFTER, String::new);
    for (first, panics_at) in [(0, 1), (1, 3), (2, 3)] {
        watchdog.at(format!("shards {first} and {panics_at}"));
        simulate(1, PUNCTUAL, move || half_a_batch(first, panics_at));
    }
}

fn half_a_batch(keeps_panicking: usize, panics_at: usize) {
    let world = World::new(1, IoBudget::Auto);
    let node = world.node();
    let keys: Vec<_> = (0..SHARDS as usize).map(|shard| world.key_of(shard)).collect();
    let plant =
        |shard, thread| world.device.panic_at(PanicAt { kind: OpKind::Write, shard, file: ".wal", thread });
    let comes_back = || stats(&world).shards.iter().all(|shard| shard.trouble.is_none());
    for _ in 0..5 {
        plant(keeps_panicking, "main");
        assert_eq!(
            block_on(node.put(&keys[keeps_panicking], "old")).unwrap_err().kind(),
            ErrorKind::Internal
        );
        while !comes_back() {
            world.sleep(Duration::from_millis(10));
        }
    }
    let batch = || {
        let mut batch = WriteBatch::new();
        for key in &keys {
            batch.put(key, "new");
        }
        node.write(batch)
    };
    plant(panics_at, "");
    assert_eq!(block_on(batch()).unwrap_err().kind(), ErrorKind::Internal);
    let shows_all_or_nothing = || {
        let values = block_on(node.multi_get(&keys));
        let news = values.map(|values| values.iter().flatten().filter(|value| &value[..] == b"new").count());
        assert!(
            news.as_ref().is_ok_and(|count| [0, keys.len()].contains(count)) || news.is_err(),
            "{news:?} of 4"
        );
    };
    for _ in 0..200 {
        shows_all_or_nothing();
        world.sleep(Duration::from_millis(10));
    }
    assert!(!comes_back(), "somebody must have asked for that");
    block_on(node.reopen_shards()).unwrap();
    assert!(comes_back());
    shows_all_or_nothing();
    block_on(batch()).unwrap();
    shows_all_or_nothing();
    drop(node);
    end(&world);
}
