//! A node in a simulated world: its device, and how it is opened there.

use std::{sync::Arc, time::Duration};

use dbex::{Clock, Env, IoBudget, Node, NodeOptions, storage::sim::SimStorage, waiting::block_on};
use parking_lot::Mutex;

use crate::{
    sim_device::{SimDevice, Speed},
    sim_node,
    sim_threads::{SimClock, SimThreads},
};

pub(crate) const SHARDS: u32 = 4;
pub(crate) const FLUSH_WORKERS: usize = 1;
pub(crate) const COMPACTION_WORKERS: usize = 2;
pub(crate) const TABLE_BYTES: u64 = 64 << 10;
/// A disk as it should be, for so little data.
pub(crate) const WELL: Speed = Speed {
    bytes_per_second: 20_000_000,
    request: Duration::from_micros(100),
    sync: Duration::from_millis(2),
};
/// The same on a bad day.
pub(crate) const SLOW: Speed =
    Speed { bytes_per_second: 400_000, request: Duration::from_millis(2), sync: Duration::from_millis(150) };

/// See the module.
pub(crate) struct World {
    seed: u64,
    options: NodeOptions,
    pub(crate) disk: SimStorage,
    pub(crate) device: SimDevice,
    pub(crate) clock: Arc<SimClock>,
    node: Mutex<Node>,
}

fn options(budget: IoBudget) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.data_dir = sim_node::DATA_DIR.into();
    options.shards = SHARDS;
    options.memtable_bytes = 512 << 10;
    options.block_cache_bytes = 128 << 10;
    options.table_bytes = TABLE_BYTES;
    options.block_bytes = 1 << 10;
    options.flush_workers = FLUSH_WORKERS;
    options.compaction_workers = COMPACTION_WORKERS;
    options.read_workers = 2;
    options.io_budget = budget;
    options
}

impl World {
    /// Opens a node in a world of its own. On a simulated thread.
    pub(crate) fn new(seed: u64, budget: IoBudget) -> Self {
        let disk = sim_node::disk(seed);
        let clock = Arc::new(SimClock::new());
        let device = SimDevice::new(Arc::new(disk.clone()), Arc::clone(&clock) as _, WELL);
        let options = options(budget);
        let node = Mutex::new(open(seed, &options, &disk, &device, &clock));
        Self { seed, options, disk, device, clock, node }
    }

    pub(crate) fn node(&self) -> Node {
        self.node.lock().clone()
    }

    /// Closes the node, and opens it again.
    pub(crate) fn reopen(&self) {
        block_on(self.node().close()).unwrap();
        let node = open(self.seed, &self.options, &self.disk, &self.device, &self.clock);
        *self.node.lock() = node;
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// How long ago that was.
    pub(crate) fn since(&self, moment: Duration) -> Duration {
        self.now().saturating_sub(moment)
    }

    pub(crate) fn sleep(&self, time: Duration) {
        self.clock.sleep(time);
    }

    /// A key of that shard.
    pub(crate) fn key_of(&self, shard: usize) -> String {
        let node = self.node();
        (0..1_000_000).map(|number| format!("key-{number}")).find(|key| node.shard_of(key) == shard).unwrap()
    }
}

fn open(
    seed: u64,
    options: &NodeOptions,
    disk: &SimStorage,
    device: &SimDevice,
    clock: &Arc<SimClock>,
) -> Node {
    let env = Env {
        storage: Arc::new(device.clone()),
        clock: Arc::clone(clock) as _,
        threads: Arc::new(SimThreads),
        ..sim_node::env(disk, seed)
    };
    block_on(Node::open_with(options.clone(), env)).unwrap()
}
