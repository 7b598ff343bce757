//! Whatever clients do through the handle, by messages and over RESP at the same time, and however often the process is
//! killed by SIGKILL in the middle of it: what they were told could have been told by one client after the other. The
//! histories are recorded call by call, and a [checker](wgl) looks for an order that explains them.
//!
//! `DBEX_TEST_SEED` repeats the choices of a run; `DBEX_TEST_SCALE=50` makes it the long run: so many times the
//! operations and the kills. `DBEX_TEST_HISTORY` names the directory of a history that was kept, and only checks it again.

#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/ask.rs"]
mod ask;
#[path = "support/cells.rs"]
mod cells;
#[path = "support/face.rs"]
mod face;
#[path = "support/host.rs"]
mod host;
#[path = "support/load.rs"]
mod load;
#[path = "support/plants.rs"]
mod plants;
#[path = "support/random.rs"]
mod random;
#[path = "support/recording.rs"]
mod recording;
#[path = "support/report.rs"]
mod report;
#[path = "support/resp_client.rs"]
#[expect(dead_code, reason = "here every command goes by a pipeline")]
mod resp_client;
#[path = "support/three_faces.rs"]
mod three_faces;
#[path = "support/verdicts.rs"]
mod verdicts;
#[path = "support/wgl.rs"]
mod wgl;
#[path = "support/wgl_test.rs"]
mod wgl_test;

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use ask::FaceKind;
use host::{Host, Orders, Progress, histories};
use load::{CLIENTS, Client, clients_of, face_of};
use plants::{Plant, half_a_batch, stale_get};
use random::{Random, derive};
use recording::{Recorded, note_death, now};
use report::{Watchdog, say};
use resp_client::RespClient;
use three_faces::RespFace;
use verdicts::{Explained, History, check_group, for_each_group, show_entry};

/// Of one run; `DBEX_TEST_SCALE` makes it several, one after the other.
const OPERATIONS: usize = 1_100_000;
/// Kills under load, and beside them those while the node opens.
const KILLS: usize = 24;
/// Every so many lives, the host is killed while it opens, too.
const KILLED_OPENING: usize = 4;
/// The longest pipeline of a client of RESP.
const PIPELINE: usize = 4;
const HANGS_AFTER: Duration = Duration::from_mins(5);

/// No test, but the process that hosts the node, which the test of histories starts and kills.
#[test]
fn host_process() {
    host::run();
}

/// A run of the load in a directory.
struct Run<'a> {
    dir: &'a Path,
    seed: u64,
    random: Random,
    kills: usize,
}

impl Run<'_> {
    /// All lives of the host, each ended by a kill.
    fn record(&mut self, watchdog: &Watchdog) {
        fs::create_dir(histories(self.dir)).unwrap();
        let mut left = OPERATIONS;
        // The last life only looks at what the others left.
        for life in 0..=KILLS {
            watchdog.at(format!("life {life}"));
            if life % KILLED_OPENING == 1 {
                self.kill_opening(life);
            }
            let share = match KILLS - life {
                0 => 0,
                1 => left,
                lives => left / lives * self.random.between(40, 160) / 100,
            };
            left = left.saturating_sub(self.live(life, share));
        }
    }

    fn orders(&self, life: usize) -> Orders {
        Orders { dir: self.dir.to_owned(), seed: self.seed, life }
    }

    fn kill_opening(&mut self, life: usize) {
        let mut host = Host::start(&self.orders(life));
        assert_eq!(host.progress(), Progress::Opening);
        host.kill();
        self.kills += 1;
    }

    /// One life, up to the kill when at least so many operations have returned. Returns how many have.
    fn live(&mut self, life: usize, operations: usize) -> usize {
        let mut host = Host::start(&self.orders(life));
        let address = loop {
            if let Progress::Listening(address) = host.progress() {
                break address;
            }
        };
        let clients = clients_of(|kind| kind == FaceKind::Resp);
        let (over_resp, yet_to_look) = (AtomicUsize::new(0), AtomicUsize::new(clients.len()));
        let mut returned = 0;
        thread::scope(|scope| {
            for number in clients {
                let client = Client::new(&histories(self.dir), self.seed, life, number);
                let (over_resp, yet_to_look) = (&over_resp, &yet_to_look);
                // It ends when the connection does.
                scope.spawn(move || be_client(client, address, over_resp, yet_to_look));
            }
            let mut have_looked = false;
            while !have_looked
                || yet_to_look.load(Ordering::Acquire) > 0
                || returned + over_resp.load(Ordering::Relaxed) < operations
            {
                match host.progress() {
                    Progress::Looked => have_looked = true,
                    Progress::Returned(count) => returned += count,
                    other => panic!("the host says {other:?}"),
                }
            }
            host.kill();
            note_death(&histories(self.dir), life, now());
        });
        self.kills += 1;
        returned + over_resp.into_inner()
    }
}

/// A client of RESP, up to the end of the server.
fn be_client(
    mut client: Client,
    address: SocketAddr,
    returned: &AtomicUsize,
    yet_to_look: &AtomicUsize,
) -> io::Result<()> {
    let mut face = RespFace::new(RespClient::connect(address)?);
    let mut has_looked = false;
    loop {
        let length = client.random().between(1, PIPELINE);
        let length = if client.random().permille(300) { length } else { 1 };
        let pipeline: Vec<_> = (0..length).map(|_| client.call()).collect();
        for asked in &pipeline {
            face.queue(asked.group, asked.id, asked.ask);
        }
        face.send()?;
        for asked in pipeline {
            let answer = face.answer(asked.ask)?;
            client.returned(&asked, &answer);
            returned.fetch_add(1, Ordering::Relaxed);
        }
        if !has_looked && client.has_looked() {
            has_looked = true;
            yet_to_look.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Plants a stale get in every other group, and half a batch in the others, each in a history of its own: all must be
/// rejected. Returns how many there were of each.
fn plant_everywhere(groups: &BTreeMap<u32, History>, seed: u64) -> [usize; 2] {
    let results = for_each_group(groups, |group, history| {
        let mut random = Random::new(derive(seed, group.into()));
        let kind = usize::from(group % 2 == 1);
        let plant: Plant = [stale_get, half_a_batch][kind];
        let Some(planted) = plant(history, &mut random) else { return [0, 0] };
        assert!(
            check_group(group, &planted.history).is_err(),
            "what was planted in group {group} was not found, DBEX_TEST_SEED={seed}: {}, which was {}",
            show_entry(&planted.history[planted.place]),
            history[planted.place].op
        );
        [1 - kind, kind]
    });
    results.into_iter().fold([0, 0], |sum, found| [sum[0] + found[0], sum[1] + found[1]])
}

/// How many tables a node left in its levels.
fn count_tables(data: &Path) -> [usize; 3] {
    let shards: Vec<_> = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).collect();
    ["l0", "l1", "l2"].map(|level| {
        let levels = shards.iter().filter_map(|shard| fs::read_dir(shard.join(level)).ok());
        levels.map(Iterator::count).sum()
    })
}

/// What a run has shown.
#[derive(Default)]
struct Totals {
    returned: usize,
    by_face: [usize; 3],
    kills: usize,
    recording_ns: u64,
    checking_ns: u64,
    planting_ns: u64,
    groups: usize,
    configurations: usize,
    most_configurations: usize,
    in_flight: usize,
    dropped: usize,
    refused: usize,
    unknown: usize,
    refuted: usize,
    stale_gets: usize,
    half_batches: usize,
    tables: [usize; 3],
}

impl Totals {
    fn add(&mut self, recorded: &Recorded, explained: &[Explained]) {
        for (client, count) in &recorded.returned {
            self.by_face[face_of(*client) as usize] += count;
        }
        self.returned = self.by_face.iter().sum();
        self.groups += recorded.groups.len();
        self.in_flight += recorded.in_flight;
        self.refused += recorded.refused;
        self.unknown += recorded.unknown;
        let entries = recorded.groups.values().flatten();
        self.refuted +=
            entries.filter(|entry| !entry.op.unlike.is_empty() && entry.op.written.is_empty()).count();
        self.configurations += explained.iter().map(|done| done.configurations).sum::<usize>();
        let most = explained.iter().map(|done| done.most_configurations).max();
        self.most_configurations = self.most_configurations.max(most.unwrap_or(0));
        self.dropped += explained.iter().map(|done| done.dropped).sum::<usize>();
    }

    fn say(&self, seed: u64) {
        let [handle, messages, resp] = self.by_face;
        #[expect(clippy::cast_precision_loss, reason = "it is only told")]
        let per_second = self.returned as f64 / seconds(self.recording_ns);
        say(format_args!(
            "linearizable: {} operations of {CLIENTS} clients ({handle} by the handle, {messages} by messages, {resp} over RESP), \
             {per_second:.0} a second in {:.1} s, {} kills; {} conditions did not hold, {} operations refused, {} of unknown outcome",
            self.returned,
            seconds(self.recording_ns),
            self.kills,
            self.refuted,
            self.refused,
            self.unknown,
        ));
        say(format_args!(
            "linearizable: {} groups explained in {:.1} s by {} configurations ({} at the most); of {} writes in flight at a kill {} \
             never happened; planted and found in {:.1} s: {} stale gets, {} half batches; tables left in L0 to L2: {:?}; \
             DBEX_TEST_SEED={seed}",
            self.groups,
            seconds(self.checking_ns),
            self.configurations,
            self.most_configurations,
            self.in_flight,
            self.dropped,
            seconds(self.planting_ns),
            self.stale_gets,
            self.half_batches,
            self.tables,
        ));
    }
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

/// Checks what was recorded in a directory.
///
/// # Errors
/// Why it is not linearizable.
fn check_recorded(dir: &Path, seed: u64, totals: &mut Totals) -> Result<(), String> {
    let recorded = Recorded::read(dir);
    let began = now();
    let explained = for_each_group(&recorded.groups, |group, history| check_group(group, history));
    let explained: Vec<_> = explained.into_iter().collect::<Result<_, _>>()?;
    let checked = now();
    totals.add(&recorded, &explained);
    let [stale_gets, half_batches] = plant_everywhere(&recorded.groups, seed);
    totals.stale_gets += stale_gets;
    totals.half_batches += half_batches;
    totals.checking_ns += checked - began;
    totals.planting_ns += now() - checked;
    Ok(())
}

#[test]
fn every_history_of_three_faces_and_many_kills_is_linearizable() {
    let seed = report::seed();
    say(format_args!("linearizable: DBEX_TEST_SEED={seed}"));
    let mut totals = Totals::default();
    if let Some(kept) = std::env::var_os("DBEX_TEST_HISTORY").map(PathBuf::from) {
        check_recorded(&kept, seed, &mut totals).unwrap_or_else(|what| panic!("{what}"));
        return totals.say(seed);
    }
    let watchdog = Watchdog::new(HANGS_AFTER, move || format!("DBEX_TEST_SEED={seed}"));
    let runs = report::scale();
    for number in 0..runs {
        let dir = tempfile::tempdir().unwrap();
        let seed = if number == 0 { seed } else { derive(seed, u64::try_from(number).unwrap()) };
        let began = now();
        let mut run = Run { dir: dir.path(), seed, random: Random::new(seed), kills: 0 };
        run.record(&watchdog);
        totals.kills += run.kills;
        totals.recording_ns += now() - began;
        totals.tables = count_tables(&dir.path().join("data"));
        watchdog.at("checking");
        if let Err(what) = check_recorded(&histories(dir.path()), seed, &mut totals) {
            let kept = histories(&dir.keep());
            panic!("{what}\nDBEX_TEST_SEED={seed}; DBEX_TEST_HISTORY={} checks it again", kept.display());
        }
        totals.say(seed);
    }
    assert!(totals.returned >= runs * 1_000_000 && totals.kills >= runs * 20 && CLIENTS >= 16);
    assert!(totals.by_face.iter().all(|count| count * 20 > totals.returned), "a face was hardly used");
    assert!(totals.tables[1] + totals.tables[2] > 0, "nothing was flushed and compacted");
    assert_eq!(totals.unknown, 0, "nothing here makes a node fail");
    assert!(
        totals.dropped > 0 && totals.dropped < totals.in_flight,
        "writes in flight at a kill have two ends"
    );
    assert!(totals.half_batches > 0, "no half batch was planted");
    assert!(totals.stale_gets > totals.groups / 4, "hardly a stale get was planted");
}
