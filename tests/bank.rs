//! A bank with accounts in all shards: clients move money by batches that require what they read, through both faces,
//! and the total is the same at every moment: for every scan, `multi_get` and snapshot, while flushes and compactions
//! run, and after every power loss and kill, during recovery as well. A transfer is whole or absent, what was promised
//! is there, and a killed process loses no ack.
//!
//! `DBEX_TEST_SEED` is the seed of the first bank, so a failing bank's own seed repeats it (up to the order in which
//! threads come to the disk); `DBEX_TEST_SCALE=20` makes it the long run: so many times the banks.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/bank_book.rs"]
mod bank_book;
#[path = "support/history.rs"]
#[expect(dead_code, reason = "only its types are used here")]
mod history;
#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
mod report;
#[path = "support/sim_node.rs"]
mod sim_node;
#[path = "support/teller.rs"]
mod teller;
#[path = "support/violations.rs"]
mod violations;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bank_book::{Book, Holding, Journal, Loss, check_conditions};
use dbex::{Durability, NodeOptions, WriteBatch, blocking::Node, storage::sim::SimStorage};
use history::{Key, State};
use random::{Random, derive};
use report::{Watchdog, say};
use sim_node::{HASH_SEED, open, read_all};
use teller::{ACCOUNTS, Ended, Face, Fuse, Hall, Teller};
use tokio::{runtime::Runtime, task::JoinHandle};
use violations::{Violations, on_threads, text_of};

/// Banks in CI, and how often each is crashed while clients are at work.
const BANKS: u64 = 48;
const LIVES: u64 = 20;
/// How many images of each crash are recovered and checked; with one more the bank goes on.
const IMAGES: u64 = 5;
/// Half of them come through each face; the first and the last only add up.
const CLIENTS: usize = 10;
const OPENING_BALANCE: u64 = 1000;
/// Accounts that come and go.
const SLOTS: usize = 6;
/// The machine stops within so many transfers.
const MOST_TRANSFERS: usize = 300;
const HANGS_AFTER: Duration = Duration::from_mins(1);
const THREADS: usize = 2;

/// What was done, over all banks.
#[derive(Default)]
struct Counts {
    power_losses: AtomicU64,
    kills: AtomicU64,
    in_recovery: AtomicU64,
    moments: AtomicU64,
    recoveries: AtomicU64,
    acked: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    sums: AtomicU64,
    flushes: AtomicU64,
}

fn add(counter: &AtomicU64, count: impl TryInto<u64>) {
    counter.fetch_add(count.try_into().ok().expect("a count"), Ordering::Relaxed);
}

struct Bank<'a> {
    random: Random,
    options: NodeOptions,
    /// What the next life begins with, and what came before it.
    disk: SimStorage,
    loss: Loss,
    book: Book,
    /// The last life's.
    journal: Journal,
    accounts: Vec<Key>,
    moments: Arc<AtomicU64>,
    runtime: &'a Runtime,
    counts: &'a Counts,
}

impl<'a> Bank<'a> {
    fn open(seed: u64, runtime: &'a Runtime, counts: &'a Counts) -> Self {
        let mut random = Random::new(seed);
        let mut options = sim_node::options(&mut random);
        options.shards = *random.pick(&[2, 4, 4, 4, 5]);
        let mut accounts: Vec<_> = (0..random.between(16, 48)).map(|n| format!("{ACCOUNTS}{n:02}")).collect();
        accounts.extend((0..CLIENTS).flat_map(|n| ["a", "b"].map(|part| own(n, part))));
        let mut batch = WriteBatch::new();
        batch.durability(Durability::Synced);
        for account in &accounts {
            batch.put(account, Holding { balance: OPENING_BALANCE, writer: 0 }.to_value(100));
        }
        accounts.extend((0..SLOTS).map(|n| format!("{ACCOUNTS}slot/{n}")));
        let disk = sim_node::disk(random.next());
        let node = open(&disk, &options, random.next()).unwrap();
        node.write(batch).unwrap();
        let opening = read_all(&node, ACCOUNTS.as_bytes()).unwrap();
        let book = Book::new(HASH_SEED, options.shards, &opening).unwrap();
        node.close().unwrap();
        Self {
            random,
            options,
            disk: disk.kill(),
            loss: Loss::Process,
            book,
            journal: Journal::default(),
            accounts: accounts.into_iter().map(String::into_bytes).collect(),
            moments: Arc::new(AtomicU64::new(1)),
            runtime,
            counts,
        }
    }

    /// What a crash leaves: after a power loss one of many possible images.
    fn image(&mut self, disk: &SimStorage) -> (SimStorage, Loss) {
        if self.random.permille(600) {
            add(&self.counts.power_losses, 1);
            (disk.crash(self.random.next()), Loss::Power)
        } else {
            add(&self.counts.kills, 1);
            (disk.kill(), Loss::Process)
        }
    }

    /// Opens what a crash left, and checks it. Some recoveries crash as well, up to three in a row.
    fn recover(&mut self, image: (SimStorage, Loss)) -> Result<(Node, SimStorage, State), String> {
        let (mut disk, mut loss) = image;
        let crashes = if self.random.permille(200) { self.random.between(1, 3) } else { 0 };
        for _ in 0..crashes {
            let later = self.random.below(80) as u64;
            Fuse { transfers: 0, later, at_sync: false }.light(&disk);
            match open(&disk, &self.options, self.random.next()) {
                Ok(node) => end(&node, &disk),
                Err(error) if !disk.is_dead() => return Err(format!("the node does not open: {error}")),
                Err(_) => add(&self.counts.in_recovery, 1),
            }
            let (next, next_loss) = self.image(&disk);
            if next_loss == Loss::Power {
                loss = Loss::Power;
            }
            disk = next;
        }
        let node = open(&disk, &self.options, self.random.next());
        let node = node.map_err(|error| format!("the node does not open: {error}"))?;
        add(&self.counts.recoveries, 1);
        let found = self.find(&node).map_err(|error| format!("cannot read: {error}"))?;
        let standing = self.book.check(&self.journal, &found, loss)?;
        add(&self.counts.lost, standing.lost);
        Ok((node, disk, found))
    }

    /// All open accounts, as every way to read agrees to see them.
    fn find(&self, node: &Node) -> dbex::Result<State> {
        let found = read_all(node, ACCOUNTS.as_bytes())?;
        let named = |values: Vec<Option<_>>| -> State {
            let pairs = self.accounts.iter().cloned().zip(values);
            pairs.filter_map(|(key, value): (_, Option<bytes::Bytes>)| Some((key, value?.to_vec()))).collect()
        };
        assert!(named(node.multi_get(&self.accounts)?) == found, "a multi_get and a scan differ");
        assert!(named(node.snapshot()?.multi_get(&self.accounts)?) == found, "a snapshot and a scan differ");
        Ok(found)
    }

    /// Recovers an image, and leaves it after some tidying.
    fn look_at(&mut self, image: (SimStorage, Loss)) -> Result<(), String> {
        let (node, disk, found) = self.recover(image)?;
        if self.random.permille(250) {
            node.settle().map_err(|error| format!("does not settle: {error}"))?;
            let settled = self.find(&node).map_err(|error| format!("cannot read: {error}"))?;
            assert!(settled == found, "to settle has changed something");
            let tables = sim_node::tables(&node);
            node.close().map_err(|error| format!("does not close: {error}"))?;
            let files = sim_node::table_files(&disk);
            if files != tables {
                return Err(format!("{files} files of tables, {tables} in use"));
            }
        }
        end(&node, &disk);
        disk.assert_no_violations();
        Ok(())
    }

    /// Recovers what the last life left, lets the clients work until the machine stops, and looks at what that leaves.
    fn live(&mut self) -> Result<(), String> {
        let (node, disk, found) = self.recover((self.disk.clone(), self.loss))?;
        self.book.go_on_from(&found)?;
        let fuse = Fuse {
            transfers: self.random.below(MOST_TRANSFERS) as u64,
            later: self.random.below(30) as u64,
            at_sync: self.random.permille(200),
        };
        let hall = Arc::new(Hall {
            disk: disk.clone(),
            accounts: self.accounts.clone(),
            always_open: self.accounts.len() - SLOTS - 2 * CLIENTS,
            total: self.book.total(),
            synced_permille: *self.random.pick(&[5, 50, 200]),
            // Where nearly all do, a sync has no batch across shards to take along.
            lone_permille: *self.random.pick(&[0, 0, 0, 980]),
            fuse,
            moments: Arc::clone(&self.moments),
            acked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            sums: AtomicU64::new(0),
        });
        if fuse.transfers == 0 {
            fuse.light(&disk);
        }
        let worked = self.work(&node, &hall);
        let stats = node.stats().map_err(|error| format!("no stats: {error}"))?;
        add(&self.counts.flushes, stats.shards.iter().map(|shard| shard.tree.flushes).sum::<u64>());
        end(&node, &disk);
        add(&self.counts.moments, 1);
        for (total, of_life) in [
            (&self.counts.acked, &hall.acked),
            (&self.counts.refused, &hall.refused),
            (&self.counts.sums, &hall.sums),
        ] {
            add(total, of_life.load(Ordering::Relaxed));
        }
        self.journal = worked?;
        check_conditions(&self.journal)?;
        for _ in 0..IMAGES {
            let image = self.image(&disk);
            self.look_at(image)?;
        }
        (self.disk, self.loss) = self.image(&disk);
        Ok(())
    }

    /// Lets tellers and auditors work, in threads and in tasks.
    fn work(&mut self, node: &Node, hall: &Arc<Hall>) -> Result<Journal, String> {
        let mut tellers: Vec<_> = (0..CLIENTS).map(|number| self.teller(number, node, hall)).collect();
        let in_tasks = tellers.split_off(tellers.len() / 2);
        let steps = 4 * MOST_TRANSFERS as u64;
        let ended: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = tellers
                .into_iter()
                .map(|teller| scope.spawn(move || pollster::block_on(teller.run(steps))))
                .collect();
            let tasks: Vec<_> =
                in_tasks.into_iter().map(|teller| self.runtime.spawn(teller.run(steps))).collect();
            let of_task = |task: JoinHandle<Ended>| {
                self.runtime.block_on(task).map_err(|error| text_of(&*error.into_panic()))
            };
            let of_tasks: Vec<_> = tasks.into_iter().map(of_task).collect();
            let of_threads =
                threads.into_iter().map(|thread| thread.join().map_err(|panic| text_of(&*panic)));
            of_threads.chain(of_tasks).collect()
        });
        let mut journal = Journal::default();
        for ended in ended {
            let (own, seen) = ended?;
            seen?;
            journal.append(own);
        }
        Ok(journal)
    }

    fn teller(&mut self, number: usize, node: &Node, hall: &Arc<Hall>) -> Teller {
        let is_task = number >= CLIENTS / 2;
        let face = if is_task { Face::Async(node.to_async()) } else { Face::Blocking(node.clone()) };
        let own = ["a", "b"].map(|part| {
            let account = own(number, part).into_bytes();
            let holding = self.book.holding(&account).expect("it is always open");
            (account, holding)
        });
        let is_auditor = number == 0 || number == CLIENTS - 1;
        Teller::new(face, self.random.next(), Arc::clone(hall), own, is_auditor)
    }

    /// The last life: ends in order, and all is there.
    fn end(mut self) -> Result<(), String> {
        let (node, disk, found) = self.recover((self.disk.clone(), self.loss))?;
        node.settle().map_err(|error| format!("does not settle: {error}"))?;
        node.close().map_err(|error| format!("does not close: {error}"))?;
        let node =
            open(&disk.kill(), &self.options, 0).map_err(|error| format!("no open at the end: {error}"))?;
        let again = self.find(&node).map_err(|error| format!("cannot read: {error}"))?;
        assert!(again == found, "closed in order, and something has changed");
        node.close().map_err(|error| format!("does not close: {error}"))
    }
}

/// An account that only one teller touches.
fn own(teller: usize, part: &str) -> String {
    format!("{ACCOUNTS}own/{teller}/{part}")
}

/// Stops the machine if it runs still, and waits until the node's threads are gone.
fn end(node: &Node, disk: &SimStorage) {
    if !disk.is_dead() {
        drop(disk.kill());
    }
    // The last sync fails on a dead disk, if there is anything to sync.
    let _ = node.close();
}

#[test]
fn the_total_is_the_same_at_every_moment_and_after_every_crash() {
    let seed = report::seed();
    say(format_args!("bank: DBEX_TEST_SEED={seed}"));
    let (counts, violations) = (Counts::default(), Violations::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let banks = BANKS * report::scale() as u64;
    on_threads(THREADS, banks, |number| {
        let seed = if number == 0 { seed } else { derive(seed, number) };
        let watchdog = Watchdog::new(HANGS_AFTER, move || format!("the bank with DBEX_TEST_SEED={seed}"));
        let lives = || {
            let mut bank = Bank::open(seed, &runtime, &counts);
            for life in 0..LIVES {
                watchdog.at(format!("life {life}"));
                bank.live().map_err(|what| format!("life {life}: {what}"))?;
            }
            watchdog.at("the end");
            bank.end()
        };
        violations.note(lives, &format!("DBEX_TEST_SEED={seed}"));
    });
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (power_losses, kills) = (of(&counts.power_losses), of(&counts.kills));
    say(format_args!(
        "bank: {banks} banks, {} crashes at {} moments: {power_losses} power losses, {kills} kills, {} of them \
         during recovery; {} recoveries checked; {} transfers acked, {} of them lost with the power (counted in each \
         image), {} conflicts, {} sums, {} flushes, {} violations",
        power_losses + kills,
        of(&counts.moments),
        of(&counts.in_recovery),
        of(&counts.recoveries),
        of(&counts.acked),
        of(&counts.lost),
        of(&counts.refused),
        of(&counts.sums),
        of(&counts.flushes),
        violations.count()
    ));
    violations.assert_none(seed);
    assert!(of(&counts.lost) > 0, "no power loss takes anything: the crashes show nothing");
    assert!(of(&counts.refused) > 0, "nobody comes in between");
}
