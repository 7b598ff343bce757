//! The `dbex` binary is killed by SIGKILL under load, again and again, on one data directory: whatever it has
//! replied to is there after the next start. The oracle lives in this process.
//!
//! `DBEX_TEST_SEED` repeats the choices of a run; `DBEX_TEST_SCALE=20` makes it the long run: so many times the rounds.

#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
mod report;
#[path = "support/resp_client.rs"]
mod resp_client;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Condvar, Mutex},
    thread,
    time::Duration,
};

use random::{Random, derive};
use report::{Watchdog, say};
use resp_client::{Reply, RespClient};

const ROUNDS: usize = 100;
const CONNECTIONS: usize = 4;
const KEYS: usize = 1_500;
/// The keys that a connection only ever sets together, by one MSET.
const TOGETHER: usize = 6;
/// At the most so many replies come before the kill.
const MOST_REPLIES: usize = 12_000;
const HANGS_AFTER: Duration = Duration::from_mins(3);

/// The server as a child process; killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(dir: &Path, durability: &str) -> Self {
        let log = File::options().append(true).create(true).open(dir.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbex"));
        command.arg("serve").current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command
            .env_clear()
            .env("DBEX_NODE__DATA_DIR", dir.join("data"))
            .env("DBEX_NODE__SHARDS", "3")
            .env("DBEX_NODE__DURABILITY", durability)
            .env("DBEX_SERVER__LISTEN", "127.0.0.1:0")
            // So small that flushes and compactions are under way at most kills.
            .env("DBEX_MEMORY__MEMTABLE_BYTES", "256KiB")
            .env("DBEX_COMPACTION__TABLE_BYTES", "256KiB")
            .env("DBEX_COMPACTION__L0_TRIGGER", "2")
            .env("RUST_LOG", "warn");
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().rsplit(' ').next().and_then(|address| address.parse().ok()) else {
            let _ = child.kill();
            panic!("the server does not start: it says {line:?}, and in its log\n{}", log_of(dir));
        };
        Self { child, address }
    }

    /// Kills it by SIGKILL, and waits until it is gone.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// How many writes were replied to in this round, over all connections, and when that is enough.
struct Enough {
    /// Replies, and connections that ended.
    counts: Mutex<(usize, usize)>,
    changed: Condvar,
    limit: usize,
}

impl Enough {
    fn count_reply(&self) {
        let mut counts = self.counts.lock().unwrap();
        counts.0 += 1;
        if counts.0 == self.limit {
            self.changed.notify_all();
        }
    }

    fn count_end(&self) {
        self.counts.lock().unwrap().1 += 1;
        self.changed.notify_all();
    }

    /// Waits until it is enough. False if every connection ended before.
    fn wait(&self) -> bool {
        let mut counts = self.counts.lock().unwrap();
        while counts.0 < self.limit && counts.1 < CONNECTIONS {
            counts = self.changed.wait(counts).unwrap();
        }
        counts.0 >= self.limit
    }
}

/// A key: what the last reply said of it, and what was sent since.
#[derive(Default)]
struct Line {
    acked: Option<Vec<u8>>,
    sent: Vec<Option<Vec<u8>>>,
}

/// A write that was sent.
enum Sent {
    Set(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Increment,
    Together(Vec<u8>),
}

/// One connection's side: its own keys, and what it knows of them.
struct Writer {
    number: usize,
    random: Random,
    values: usize,
    keys: BTreeMap<Vec<u8>, Line>,
    /// The counter's last reply, and how many increments were sent since.
    counted: i64,
    counting: i64,
    acked: usize,
}

impl Writer {
    fn new(number: usize, seed: u64) -> Self {
        let random = Random::new(seed);
        Self { number, random, values: 0, keys: BTreeMap::new(), counted: 0, counting: 0, acked: 0 }
    }

    fn key(&mut self) -> Vec<u8> {
        format!("writer{}:{}", self.number, self.random.below(KEYS)).into_bytes()
    }

    fn together(&self) -> Vec<Vec<u8>> {
        (0..TOGETHER).map(|i| format!("together{}:{i}", self.number).into_bytes()).collect()
    }

    fn counter(&self) -> Vec<u8> {
        format!("counter{}", self.number).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        self.values += 1;
        let mut value = format!("{}-", self.values).into_bytes();
        value.resize(self.random.between(10, 300), b'v');
        value
    }

    /// Sends pipelines until the server is gone.
    fn run(&mut self, address: SocketAddr, enough: &Enough) {
        // The server may be gone before this connection stands.
        if let Ok(mut client) = RespClient::connect(address) {
            while self.pipeline(&mut client, enough).is_ok() {}
        }
        enough.count_end();
    }

    fn pipeline(&mut self, client: &mut RespClient, enough: &Enough) -> io::Result<()> {
        let sent: Vec<_> = (0..self.random.between(1, 24)).map(|_| self.queue(client)).collect();
        client.send()?;
        for sent in sent {
            let reply = client.reply()?;
            self.replied(sent, &reply);
            self.acked += 1;
            enough.count_reply();
        }
        Ok(())
    }

    fn queue(&mut self, client: &mut RespClient) -> Sent {
        match self.random.below(100) {
            0..70 => {
                let (key, value) = (self.key(), self.value());
                client.queue(&[b"SET", &key, &value]);
                self.keys.entry(key.clone()).or_default().sent.push(Some(value.clone()));
                Sent::Set(key, value)
            }
            70..85 => {
                let key = self.key();
                client.queue(&[b"DEL", &key]);
                self.keys.entry(key.clone()).or_default().sent.push(None);
                Sent::Delete(key)
            }
            85..92 => {
                client.queue(&[b"INCR", &self.counter()]);
                self.counting += 1;
                Sent::Increment
            }
            _ => {
                let value = self.value();
                let keys = self.together();
                let mut words: Vec<&[u8]> = vec![b"MSET"];
                words.extend(keys.iter().flat_map(|key| [&key[..], &value[..]]));
                client.queue(&words);
                for key in keys {
                    self.keys.entry(key).or_default().sent.push(Some(value.clone()));
                }
                Sent::Together(value)
            }
        }
    }

    fn replied(&mut self, sent: Sent, reply: &Reply) {
        let is_ok = |reply: &Reply| *reply == Reply::Status("OK".to_owned());
        match sent {
            Sent::Set(key, value) => {
                assert!(is_ok(reply), "SET: {reply:?}");
                self.acked(&key, Some(value));
            }
            Sent::Delete(key) => {
                assert!(matches!(reply, Reply::Integer(0 | 1)), "DEL: {reply:?}");
                self.acked(&key, None);
            }
            Sent::Increment => {
                let counted = self.counted + 1;
                assert_eq!(*reply, Reply::Integer(counted), "INCR");
                (self.counted, self.counting) = (counted, self.counting - 1);
            }
            Sent::Together(value) => {
                assert!(is_ok(reply), "MSET: {reply:?}");
                self.together().iter().for_each(|key| self.acked(key, Some(value.clone())));
            }
        }
    }

    fn acked(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        let line = self.keys.get_mut(key).unwrap();
        line.acked = value;
        line.sent.remove(0);
    }

    /// Reads every key back; what is found is what counts from here on. Returns how many there are.
    fn check(&mut self, client: &mut RespClient) -> Result<usize, String> {
        let keys: Vec<_> = self.keys.keys().cloned().collect();
        for keys in keys.chunks(100) {
            let words: Vec<&[u8]> =
                [&b"MGET"[..]].into_iter().chain(keys.iter().map(Vec::as_slice)).collect();
            let Ok(Reply::Array(values)) = client.call(&words) else {
                return Err("no reply to MGET".to_owned());
            };
            for (key, value) in keys.iter().zip(values) {
                let Reply::Bulk(found) = value else { return Err(format!("MGET: {value:?}")) };
                self.check_key(key, found)?;
            }
        }
        let counter = self.counter();
        let found = match client.call(&[b"GET", &counter]) {
            Ok(Reply::Bulk(None)) => 0,
            Ok(Reply::Bulk(Some(text))) => String::from_utf8(text).unwrap().parse().unwrap(),
            reply => return Err(format!("GET: {reply:?}")),
        };
        if found < self.counted || found > self.counted + self.counting {
            return Err(format!(
                "the counter is {found}, was {} and {} on the way",
                self.counted, self.counting
            ));
        }
        (self.counted, self.counting) = (found, 0);
        let together: Vec<_> = self
            .together()
            .iter()
            .filter_map(|key| self.keys.get(key))
            .map(|line| line.acked.clone())
            .collect();
        if together.iter().any(|value| *value != together[0]) {
            return Err(format!("half an MSET is there: {together:?}"));
        }
        Ok(keys.len() + 1)
    }

    fn check_key(&mut self, key: &[u8], found: Option<Vec<u8>>) -> Result<(), String> {
        let line = self.keys.get_mut(key).unwrap();
        if line.acked != found && !line.sent.contains(&found) {
            let show = |value: &Option<Vec<u8>>| {
                value.as_ref().map_or("none".to_owned(), |value| {
                    value[..value.len().min(12)].escape_ascii().to_string()
                })
            };
            let sent: Vec<_> = line.sent.iter().map(show).collect();
            return Err(format!(
                "{} is {}; replied to was {}, sent after it {sent:?}",
                key.escape_ascii(),
                show(&found),
                show(&line.acked)
            ));
        }
        *line = Line { acked: found, sent: vec![] };
        Ok(())
    }
}

#[test]
fn no_reply_is_forgotten_by_a_server_that_is_killed() {
    let seed = report::seed();
    say(format_args!("kill: DBEX_TEST_SEED={seed}"));
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut writers: Vec<_> =
        (0..CONNECTIONS).map(|number| Writer::new(number, derive(seed, number as u64))).collect();
    let rounds = ROUNDS * report::scale();
    let (mut checked, mut synced_rounds) = (0, 0);
    let watchdog = Watchdog::new(HANGS_AFTER, move || format!("DBEX_TEST_SEED={seed}"));
    for round in 0..=rounds {
        watchdog.at(format!("round {round}"));
        let durability = if round % 3 == 2 { "synced" } else { "buffered" };
        let mut server = Server::start(dir.path(), durability);
        let mut client = RespClient::connect(server.address).unwrap();
        for writer in &mut writers {
            let found = writer.check(&mut client);
            checked += found.unwrap_or_else(|what| {
                let log = log_of(dir.path());
                panic!("after {round} kills: {what}\nDBEX_TEST_SEED={seed}; the server's log:\n{log}")
            });
        }
        if round == rounds {
            break;
        }
        synced_rounds += usize::from(durability == "synced");
        let limit = random.between(1, MOST_REPLIES);
        let limit = if durability == "synced" { limit / 8 + 1 } else { limit };
        let enough = Enough { counts: Mutex::new((0, 0)), changed: Condvar::new(), limit };
        let address = server.address;
        thread::scope(|scope| {
            for writer in &mut writers {
                let enough = &enough;
                scope.spawn(move || writer.run(address, enough));
            }
            let is_enough = enough.wait();
            server.kill();
            assert!(
                is_enough,
                "the server ended all connections by itself; its log:\n{}",
                log_of(dir.path())
            );
        });
    }
    let acked: usize = writers.iter().map(|writer| writer.acked).sum();
    say(format_args!(
        "kill: {rounds} rounds ({synced_rounds} of them synced), {acked} writes replied to, {checked} keys checked, none lost"
    ));
    assert!(acked > rounds * 100, "too few writes to show anything");
}
