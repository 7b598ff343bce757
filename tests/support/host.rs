//! The process that hosts the node: this test binary, started again with orders in its environment. It serves RESP, and
//! has the clients of the handle and of the messages in it, until it is killed. On standard error it says how far it is.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use dbex::{
    Settings,
    blocking::Node,
    server::resp::{RespSettings, serve},
};

use crate::{
    ask::FaceKind,
    load::{Client, clients_of, face_of},
    random::derive,
    report::say,
    three_faces::{HandleFace, MessagesFace},
};

/// The name of the test that is the host where it is asked to be, and does nothing otherwise.
pub(crate) const HOST_TEST: &str = "host_process";
const DIR: &str = "DBEX_TEST_HOST_DIR";
const SEED: &str = "DBEX_TEST_HOST_SEED";
const LIFE: &str = "DBEX_TEST_HOST_LIFE";
/// What the host's lines to its parent begin with.
const WORD: &str = "host: ";
/// After so many operations a client tells the parent.
const TOLD: usize = 100;
/// How much of what the host says is kept for a failing test.
const LINES_KEPT: usize = 60;

/// What a host is told.
pub(crate) struct Orders {
    pub(crate) dir: PathBuf,
    pub(crate) seed: u64,
    pub(crate) life: usize,
}

pub(crate) fn histories(dir: &Path) -> PathBuf {
    dir.join("histories")
}

/// What a host says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The node is about to open.
    Opening,
    Listening(SocketAddr),
    /// All clients have seen what former lives left.
    Looked,
    /// So many operations more have returned.
    Returned(usize),
}

impl Progress {
    fn tell(self) {
        match self {
            Self::Opening => say(format_args!("{WORD}opening")),
            Self::Listening(address) => say(format_args!("{WORD}listening {address}")),
            Self::Looked => say(format_args!("{WORD}looked")),
            Self::Returned(count) => say(format_args!("{WORD}returned {count}")),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(WORD)?.split_whitespace();
        Some(match (words.next()?, words.next()) {
            ("opening", None) => Self::Opening,
            ("listening", Some(address)) => Self::Listening(address.parse().ok()?),
            ("looked", None) => Self::Looked,
            ("returned", Some(count)) => Self::Returned(count.parse().ok()?),
            _ => return None,
        })
    }
}

/// A host as its parent has it. Killed when dropped.
pub(crate) struct Host {
    child: Child,
    lines: BufReader<ChildStderr>,
    /// The last lines that were no progress: what goes wrong stands there.
    log: VecDeque<String>,
}

impl Host {
    pub(crate) fn start(orders: &Orders) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", HOST_TEST, "--nocapture", "--test-threads=1"])
            .env(DIR, &orders.dir)
            .env(SEED, orders.seed.to_string())
            .env(LIFE, orders.life.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self { child, lines, log: VecDeque::new() }
    }

    /// Waits for the next thing that the host says of itself.
    pub(crate) fn progress(&mut self) -> Progress {
        loop {
            let mut line = String::new();
            let count = self.lines.read_line(&mut line).unwrap();
            assert!(count > 0, "the host ended by itself; it said:\n{}", self.log());
            if let Some(progress) = Progress::parse(line.trim_end()) {
                return progress;
            }
            self.log.push_back(line);
            if self.log.len() > LINES_KEPT {
                self.log.pop_front();
            }
        }
    }

    /// Kills it by SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn log(&self) -> String {
        self.log.iter().map(String::as_str).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The orders of this process, if it is a host.
fn orders() -> Option<Orders> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let life = usize::try_from(number(LIFE)?).ok()?;
    Some(Orders { dir: std::env::var_os(DIR)?.into(), seed: number(SEED)?, life })
}

/// Is the host until it is killed; or returns at once, if nobody has told this process to be one.
pub(crate) fn run() {
    let Some(orders) = orders() else { return };
    end_with_any_panic();
    thread::spawn(|| {
        // Nothing is ever sent: it ends with the parent, and so does the host.
        let _ = std::io::stdin().lock().read(&mut [0]);
        std::process::exit(1);
    });
    Progress::Opening.tell();
    let node = open(&orders.dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let server = serve(node.to_async(), listener, RespSettings::default(), std::future::pending());
    let server = runtime.spawn(server);
    Progress::Listening(address).tell();
    let clients = clients_of(|kind| kind != FaceKind::Resp);
    let yet_to_look = AtomicUsize::new(clients.len());
    thread::scope(|scope| {
        for number in clients {
            let (node, orders, yet_to_look) = (&node, &orders, &yet_to_look);
            scope.spawn(move || be_client(node, orders, number, yet_to_look));
        }
    });
    let ended = runtime.block_on(server);
    panic!("the load does not end, and the server ends neither: {ended:?}");
}

/// A host with a thread less would go on, and show nothing.
fn end_with_any_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

fn open(dir: &Path) -> Node {
    let settings = Settings::builder()
        .data_dir(dir.join("data"))
        .shards(4)
        // So small that flushes and compactions are always under way, and most reads of old groups find a table.
        .memtable_bytes(512 << 10)
        .block_cache_bytes(256 << 10)
        .table_bytes(256 << 10)
        .l0_trigger(2);
    Node::open(settings.build().unwrap()).unwrap()
}

fn be_client(node: &Node, orders: &Orders, number: usize, yet_to_look: &AtomicUsize) {
    let mut client = Client::new(&histories(&orders.dir), orders.seed, orders.life, number);
    let mut handle = HandleFace::new(node, number.is_multiple_of(2));
    let mut messages = MessagesFace::new(node, derive(orders.seed, u64::try_from(number).unwrap()));
    let mut has_looked = false;
    for count in 1_usize.. {
        let asked = client.call();
        let answer = if face_of(number) == FaceKind::Handle {
            handle.run(asked.group, asked.id, asked.ask)
        } else {
            messages.run(asked.group, asked.id, asked.ask)
        };
        client.returned(&asked, &answer);
        if count % TOLD == 0 {
            Progress::Returned(TOLD).tell();
        }
        if !has_looked && client.has_looked() {
            has_looked = true;
            if yet_to_look.fetch_sub(1, Ordering::AcqRel) == 1 {
                Progress::Looked.tell();
            }
        }
    }
}
