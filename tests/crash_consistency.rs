//! The power goes at every sync of a random script, and at every step of the recovery after that: each time every
//! acked write that was promised to stay is found again, a batch is whole or absent, and the node goes on.
//!
//! `DBEX_TEST_SEED` repeats a run (up to the order in which threads come to the disk), `DBEX_TEST_SYNC` takes only
//! that crash point, and `DBEX_TEST_SCALE=50` makes it the long run: so many times the scripts.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/client.rs"]
mod client;
#[path = "support/history.rs"]
mod history;
#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
mod report;
#[path = "support/sim_node.rs"]
mod sim_node;
#[path = "support/violations.rs"]
mod violations;

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use client::Client;
use dbex::{
    NodeOptions,
    blocking::Node,
    storage::sim::{CrashPoint, SimStorage},
};
use random::{Random, derive};
use report::{Watchdog, say};
use sim_node::open;
use violations::{Violations, on_threads};

/// Scripts in CI, the steps of each, and how many images of the disk are looked at for each crash.
const SCRIPTS: usize = 4;
const STEPS: usize = 150;
const POWER_LOSSES: u64 = 3;
/// Steps after each recovery.
const HEALING_STEPS: usize = 12;
const HANGS_AFTER: Duration = Duration::from_mins(1);
const THREADS: usize = 2;

/// What a script is: everything in it follows from the seed.
#[derive(Clone)]
struct Script {
    seed: u64,
    options: NodeOptions,
    clients: Vec<Client>,
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let options = sim_node::options(&mut random);
        // One client alone writes in place; several share turns and the batch lane.
        let clients = if random.permille(500) { 1 } else { 3 };
        let clients = (0..clients).map(|number| Client::new(number, random.next())).collect();
        Self { seed, options, clients }
    }

    /// Lets every client take its steps, side by side. An error is fine once the power has gone.
    fn run(&mut self, node: &Node, disk: &SimStorage, steps: usize) {
        let steps = steps / self.clients.len();
        let run = |client: &mut Client| match client.run(node, steps) {
            Err(error) if !disk.is_dead() => panic!("an error while the disk is well: {error}"),
            _ => {}
        };
        match &mut self.clients[..] {
            [alone] => run(alone),
            clients => {
                thread::scope(|scope| {
                    for client in clients {
                        scope.spawn(|| run(client));
                    }
                });
            }
        }
    }

    /// Runs the script on a fresh disk up to the crash point, or to its end.
    fn run_to(&mut self, crash_point: Option<CrashPoint>) -> SimStorage {
        let disk = sim_node::disk(derive(self.seed, 1));
        if let Some(crash_point) = crash_point {
            disk.set_crash_point(crash_point);
        }
        match open(&disk, &self.options, derive(self.seed, 2)) {
            Ok(node) => {
                self.run(&node, &disk, STEPS);
                if crash_point.is_none() {
                    node.close().unwrap();
                } else {
                    end(&node, &disk);
                }
            }
            Err(error) => assert!(disk.is_dead(), "the node does not open on a disk that is well: {error}"),
        }
        disk
    }

    /// Opens what a power loss or a kill left, checks it, goes on, and ends in order or not: it must all be there.
    fn recover(mut self, disk: &SimStorage, seed: u64, is_power_loss: bool) -> Result<(), String> {
        let node =
            open(disk, &self.options, seed).map_err(|error| format!("the node does not open: {error}"))?;
        for client in &mut self.clients {
            if is_power_loss {
                client.check_after_power_loss(&node)?;
            } else {
                client.check_after_end_of_process(&node)?;
            }
        }
        self.run(&node, disk, HEALING_STEPS);
        node.flush().map_err(|error| format!("no flush after recovery: {error}"))?;
        self.run(&node, disk, HEALING_STEPS);
        let next = if seed.is_multiple_of(2) {
            node.close().map_err(|error| format!("no close after recovery: {error}"))?;
            disk.kill()
        } else {
            self.clients[0].sync(&node).map_err(|error| format!("no sync after recovery: {error}"))?;
            let next = disk.crash(seed);
            let _ = node.close();
            next
        };
        let node = open(&next, &self.options, seed).map_err(|error| format!("no second open: {error}"))?;
        self.clients.iter_mut().try_for_each(|client| client.check_after_end_of_process(&node))?;
        node.settle().map_err(|error| format!("does not settle: {error}"))?;
        let tables = sim_node::tables(&node);
        node.close().map_err(|error| format!("no second close: {error}"))?;
        next.assert_no_violations();
        let files = sim_node::table_files(&next);
        if files == tables { Ok(()) } else { Err(format!("{files} files of tables, {tables} in use")) }
    }
}

/// Cuts the power if it is not off yet, and waits until the node's threads are gone.
fn end(node: &Node, disk: &SimStorage) {
    drop(disk.crash(0));
    // The last sync fails on a dead disk, if there is anything to sync.
    let _ = node.close();
}

/// What was done, over all scripts.
#[derive(Default)]
struct Counts {
    crashes: AtomicU64,
    images: AtomicU64,
    acked: AtomicUsize,
    violations: Violations,
}

impl Counts {
    fn note(&self, what: impl FnOnce() -> Result<(), String>, place: &str) {
        self.images.fetch_add(1, Ordering::Relaxed);
        self.violations.note(what, place);
    }
}

#[test]
fn a_power_loss_at_every_sync_loses_nothing_that_was_promised() {
    let seed = report::seed();
    let only: Option<u64> = std::env::var("DBEX_TEST_SYNC").ok().map(|text| text.parse().unwrap());
    say(format_args!("crash_consistency: DBEX_TEST_SEED={seed}"));
    let counts = Counts::default();
    let mut all_syncs = 0;
    for number in 0..SCRIPTS * report::scale() {
        let script_seed = if number == 0 { seed } else { derive(seed, number as u64) };
        let watchdog =
            Watchdog::new(HANGS_AFTER, move || format!("the script with DBEX_TEST_SEED={script_seed}"));
        let script = Script::new(script_seed);
        let syncs = script.clone().run_to(None).syncs();
        all_syncs += syncs;
        on_threads(THREADS, syncs, |sync| {
            if only.is_some_and(|only| only != sync) {
                return;
            }
            let place = format!("DBEX_TEST_SEED={script_seed} DBEX_TEST_SYNC={sync}");
            watchdog.at(&place);
            let mut crashed = script.clone();
            let disk = crashed.run_to(Some(CrashPoint::AtSync(sync)));
            counts.crashes.fetch_add(1, Ordering::Relaxed);
            counts
                .acked
                .fetch_add(crashed.clients.iter().map(|client| client.acked).sum(), Ordering::Relaxed);
            for loss in 0..POWER_LOSSES {
                let image_seed = derive(derive(script_seed, sync), loss);
                let what = || crashed.clone().recover(&disk.crash(image_seed), image_seed, true);
                counts.note(what, &format!("{place}, power loss {loss}"));
            }
            let kill_seed = derive(derive(script_seed, sync), POWER_LOSSES);
            let what = || crashed.clone().recover(&disk.kill(), kill_seed, false);
            counts.note(what, &format!("{place}, kill"));
        });
    }
    say(format_args!(
        "crash_consistency: {} scripts, {all_syncs} syncs, {} crashes, {} acked writes, {} images recovered twice, {} violations",
        SCRIPTS * report::scale(),
        counts.crashes.load(Ordering::Relaxed),
        counts.acked.load(Ordering::Relaxed),
        counts.images.load(Ordering::Relaxed),
        counts.violations.count()
    ));
    counts.violations.assert_none(seed);
    assert!(all_syncs > 100, "the scripts sync too rarely to show anything");
}

/// Images in CI whose recovery is crashed at every change it makes.
const RECOVERIES: u64 = 10;
/// How many recoveries in a row crash before one may end.
const CRASHES_IN_A_ROW: usize = 3;

/// Crashes recovery at the given changes, one after the other, on a copy of an image; returns what is then there.
fn crash_recoveries(
    script: &Script,
    image: &SimStorage,
    at: &[u64],
    seed: u64,
) -> Result<Vec<history::State>, String> {
    let mut disk = image.crash(seed);
    for (number, change) in at.iter().enumerate() {
        disk.set_crash_point(CrashPoint::AtChange(*change));
        let opened = open(&disk, &script.options, derive(seed, number as u64));
        match opened {
            Ok(node) => end(&node, &disk),
            Err(error) if !disk.is_dead() => return Err(format!("recovery {number} fails: {error}")),
            Err(_) => {}
        }
        disk = disk.crash(derive(seed, 100 + number as u64));
    }
    let node =
        open(&disk, &script.options, seed).map_err(|error| format!("the node does not open: {error}"))?;
    let found = script.clients.iter().map(|client| client.find(&node)).collect();
    let mut after = script.clone();
    after.clients.iter_mut().try_for_each(|client| client.check_after_power_loss(&node))?;
    after.run(&node, &disk, HEALING_STEPS);
    node.close().map_err(|error| format!("no close after recovery: {error}"))?;
    found
}

#[test]
fn crashes_during_recovery_change_nothing() {
    let seed = derive(report::seed(), 1 << 32);
    let counts = Counts::default();
    let changes_of_all = AtomicU64::new(0);
    on_threads(THREADS, RECOVERIES * report::scale() as u64, |number| {
        let script_seed = derive(seed, number);
        let watchdog = Watchdog::new(HANGS_AFTER, move || format!("recovery {number} of {seed}"));
        let mut script = Script::new(script_seed);
        let syncs = script.clone().run_to(None).syncs();
        let disk = script.run_to(Some(CrashPoint::AtSync(syncs * 2 / 3 + script_seed % (syncs / 3))));
        let image = disk.crash(script_seed);

        let undisturbed = image.crash(script_seed);
        let node = open(&undisturbed, &script.options, script_seed).unwrap();
        let expected: Result<Vec<_>, _> = script.clients.iter().map(|client| client.find(&node)).collect();
        let changes = undisturbed.changes();
        end(&node, &undisturbed);
        changes_of_all.fetch_add(changes, Ordering::Relaxed);
        let mut random = Random::new(script_seed);
        for change in 0..changes {
            let mut at = vec![change];
            let bound = usize::try_from(changes).unwrap();
            watchdog.at(format!("change {change}"));
            at.extend((1..CRASHES_IN_A_ROW).map(|_| random.below(bound) as u64));
            let what = || {
                let found = crash_recoveries(&script, &image, &at, derive(script_seed, change))?;
                if Ok(&found) == expected.as_ref() {
                    Ok(())
                } else {
                    Err("crashed recoveries find something else".to_owned())
                }
            };
            counts.note(what, &format!("recovery {number} of {seed}, crashes at changes {at:?}"));
        }
    });
    say(format_args!(
        "crash_consistency: {} images, {} changes of recovery, {} crashes in a row at each, {} violations",
        RECOVERIES * report::scale() as u64,
        changes_of_all.load(Ordering::Relaxed),
        CRASHES_IN_A_ROW,
        counts.violations.count()
    ));
    counts.violations.assert_none(seed);
}
