//! What all connections of one server share, and what a connection's commands see: its session.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    auth::AuthGate,
    clients::{Client, Clients},
    info::KeyCount,
    limits::Limits,
    memory::{MemoryCap, MemoryCharge},
    reply::Protocol,
    scan_cursors::ScanCursors,
    settings::RespSettings,
};
use crate::node::Node;

/// What all connections share.
pub(super) struct Server {
    pub(super) node: Node,
    pub(super) settings: RespSettings,
    pub(super) address: SocketAddr,
    pub(super) started: Instant,
    /// A random name for this run of the server, 40 hexadecimal digits.
    pub(super) run_id: String,
    pub(super) memory: Arc<MemoryCap>,
    pub(super) clients: Arc<Clients>,
    pub(super) cursors: ScanCursors,
    pub(super) auth: AuthGate,
    pub(super) counters: Counters,
    pub(super) key_count: Mutex<Option<KeyCount>>,
}

impl Server {
    pub(super) fn new(node: Node, settings: RespSettings, address: SocketAddr) -> Self {
        let random = RandomState::new();
        let (a, b, c) = (random.hash_one(1), random.hash_one(2), random.hash_one(3) >> 32);
        Self {
            node,
            address,
            started: Instant::now(),
            run_id: format!("{a:016x}{b:016x}{c:08x}"),
            memory: MemoryCap::new(settings.client_memory_bytes),
            clients: Arc::default(),
            cursors: ScanCursors::new(),
            auth: AuthGate::new(settings.password.clone(), settings.auth_failure_delay),
            counters: Counters::default(),
            key_count: Mutex::new(None),
            settings,
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, amount: usize) {
        self.0.fetch_add(amount as u64, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What `INFO stats` shows.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections_received: Counter,
    pub(super) connections_rejected: Counter,
    pub(super) commands: Counter,
    pub(super) input_bytes: Counter,
    pub(super) output_bytes: Counter,
    pub(super) key_hits: Counter,
    pub(super) key_misses: Counter,
    pub(super) auth_failures: Counter,
}

/// The largest number of values that one connection asks the node for at once.
const MAX_GETS: usize = 30;
/// The most bytes of values that one connection should get from the node at once.
const GET_BYTES: usize = 256 << 10;

/// The most steps that one connection hands to the node at once.
pub(super) const MAX_STEPS: usize = 1024;
/// The most bytes of old values that one connection should hold in the results of its steps.
const STEP_BYTES: usize = 16 << 20;

/// One connection as its commands see it.
pub(super) struct Session {
    pub(super) server: Arc<Server>,
    pub(super) client: Arc<Client>,
    pub(super) protocol: Protocol,
    pub(super) authenticated: bool,
    /// Close the connection once the replies so far are written.
    pub(super) closing: bool,
    /// About how large the values are that this connection reads.
    value_bytes: usize,
}

impl Session {
    pub(super) fn new(server: Arc<Server>, client: Arc<Client>) -> Self {
        let authenticated = !server.auth.is_closed();
        let protocol = Protocol::default();
        Self { server, client, protocol, authenticated, closing: false, value_bytes: 8 << 10 }
    }

    pub(super) fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
        self.client.details.lock().protocol = protocol;
    }

    pub(super) fn limits(&self) -> Limits {
        Limits::new(&self.server.settings, self.authenticated)
    }

    /// A charge for what a command holds while it makes a large reply.
    pub(super) fn new_charge(&self) -> MemoryCharge {
        MemoryCharge::new(&self.server.memory)
    }

    /// How many values to get at once: fewer when they are large, because all are held until they are
    /// encoded.
    pub(super) fn gets_at_once(&self) -> usize {
        (GET_BYTES / self.value_bytes.max(1)).clamp(1, MAX_GETS)
    }

    /// How many steps to hand to the node at once: fewer when the values that they change are large, because
    /// all old values are held until the replies are made.
    pub(super) fn steps_at_once(&self) -> usize {
        (STEP_BYTES / self.value_bytes.max(1)).clamp(1, MAX_STEPS)
    }

    /// Remembers how large values are: at once when they grow, slowly when they shrink.
    pub(super) fn saw_value(&mut self, bytes: usize) {
        self.value_bytes = bytes.max(self.value_bytes - self.value_bytes / 16);
    }

    pub(super) fn count_lookups(&self, hits: usize, misses: usize) {
        self.server.counters.key_hits.add(hits);
        self.server.counters.key_misses.add(misses);
    }
}
