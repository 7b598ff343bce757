//! The sections of `shards.toml` as structs: each field's meaning, unit, default and bounds. What grows with
//! a field is told in `shards.toml` and in [`NodeOptions`]. Bounds between fields are in `check.rs`.

use std::{fmt, net::Ipv4Addr, net::SocketAddr, path::PathBuf, time::Duration};

use garde::Validate;

use super::check::{between, budget_rate, millis, named, open_files, size, workers};
use crate::{
    codec::compress::Compression,
    node::options::{CompactionStrategy, Durability, IoBudget, MAX_SHARDS, NodeOptions},
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// `[node]`: where the data lies, how it is split, and what an ack promises.
#[derive(Clone, Debug, PartialEq, Eq, Validate)]
#[non_exhaustive]
pub struct NodeSection {
    /// The data directory, created if absent. Default: `data`, below the current directory.
    #[garde(custom(named()))]
    pub data_dir: PathBuf,
    /// Shards; 0 (the default) is one per core when the directory is created, and what it has afterwards.
    #[garde(custom(between(0, u64::from(MAX_SHARDS))))]
    pub shards: u32,
    /// What the ack of a write promises that does not say so itself. Default: buffered.
    #[garde(skip)]
    pub durability: Durability,
    /// `sync_interval_ms`: time between background syncs of buffered writes, 1 ms to 1 h. Default: 1 s.
    #[garde(custom(millis(1, 3_600_000)))]
    pub sync_interval: Duration,
    /// Whether each shard's thread is pinned to a core. Default: false.
    #[garde(skip)]
    pub pin_cores: bool,
}

/// `[memory]`: what the node's parts may hold. Each is a bound for the whole node.
#[derive(Clone, Debug, PartialEq, Eq, Validate)]
#[non_exhaustive]
pub struct MemorySection {
    /// Bytes for all memtables, indexes included, at least 64 KiB. Default: 64 MiB.
    #[garde(custom(size(64 * KIB, TIB)))]
    pub memtable_bytes: u64,
    /// Bytes for the block cache, at least 64 KiB. Default: 256 MiB.
    #[garde(custom(size(64 * KIB, TIB)))]
    pub block_cache_bytes: u64,
    /// Bytes for the tables' filters and indexes, at least 64 KiB. Default: 512 MiB.
    #[garde(custom(size(64 * KIB, TIB)))]
    pub filter_bytes_max: u64,
    /// Bytes of requests that wait for a shard, at least 64 KiB. Default: 64 MiB.
    #[garde(custom(size(64 * KIB, TIB)))]
    pub queue_bytes: u64,
}

/// `[io]`: the background I/O budget, the threads that use it, and the open files.
#[derive(Clone, Debug, PartialEq, Eq, Validate)]
#[non_exhaustive]
pub struct IoSection {
    /// Bytes per second for all background reads and writes, at least 64 KiB/s. Default: auto.
    #[garde(custom(budget_rate()))]
    pub budget: IoBudget,
    /// Table files held open, 16 or more; 0 (the default): half of the process's soft limit.
    #[garde(custom(open_files()))]
    pub max_open_files: usize,
    /// Flushes at once, up to 256; 0 (the default): one per four cores, 1 to 4. Two threads for each.
    #[garde(custom(workers()))]
    pub flush_workers: usize,
    /// Compactions at once, up to 256; 0 (the default): one per two cores, 1 to 8. Two threads for each.
    #[garde(custom(workers()))]
    pub compaction_workers: usize,
    /// Threads for reads that wait for the disk, up to 256; 0 (the default): two per core, 4 to 32.
    #[garde(custom(workers()))]
    pub read_workers: usize,
    /// WAL frame bodies above this many bytes are compressed with LZ4; `None` never. Default: 4 KiB.
    #[garde(skip)]
    pub wal_compress_above: Option<u64>,
}

/// `[compaction]`: how tables are built and merged.
#[derive(Clone, Debug, PartialEq, Eq, Validate)]
#[non_exhaustive]
pub struct CompactionSection {
    /// How tables are merged. Default: leveled.
    #[garde(skip)]
    pub strategy: CompactionStrategy,
    /// L0 tables of a shard that start a compaction, 1 to 100. Default: 4.
    #[garde(custom(between(1, 100)))]
    pub l0_trigger: usize,
    /// Bytes after which a compaction starts another table, 64 KiB to 4 GiB. Default: 32 MiB.
    #[garde(custom(size(64 * KIB, 4 * GIB)))]
    pub table_bytes: u64,
    /// Bytes of a data block before compression, 512 B to 1 MiB. Default: 4 KiB.
    #[garde(custom(size(512, MIB)))]
    pub block_bytes: u64,
    /// How blocks of L0, L1 and L2 are compressed. Default: LZ4 on all three.
    #[garde(skip)]
    pub compression: [Compression; 3],
    /// Filter bits per key, 0 (no filters) to 32. Default: 10.
    #[garde(custom(between(0, 32)))]
    pub filter_bits_per_key: u32,
}

/// `[server]`: the Redis protocol server of `dbex serve`. A node in a host program does not look at it.
#[derive(Clone, Debug, PartialEq, Eq, Validate)]
#[non_exhaustive]
pub struct ServerSection {
    /// Address and port; port 0 takes a free one. Default: 127.0.0.1:6380. Others than loopback need a password.
    #[garde(skip)]
    pub listen: SocketAddr,
    /// A file whose first line is the password. Default: none.
    #[garde(skip)]
    pub password_file: Option<PathBuf>,
    /// The password itself: only from the environment (`DBEX_SERVER__PASSWORD`) or the builder.
    #[garde(skip)]
    pub password: Option<Secret>,
    /// Connections served at a time; one more is told so and closed. Default: 10,000.
    #[garde(custom(between(1, 1_000_000)))]
    pub max_connections: usize,
    /// Bytes that all connections' buffers together may hold, at least 1 MiB. Default: 256 MiB.
    #[garde(custom(size(MIB, TIB)))]
    pub client_memory_bytes: u64,
    /// Bytes of the longest argument of a request, 1 KiB to 64 MiB. Default: 64 MiB.
    #[garde(custom(size(KIB, 64 * MIB)))]
    pub max_request_bytes: u64,
    /// `idle_timeout_ms`: a connection without a request for so long is closed; 0: never. Default: 1 h.
    #[garde(custom(millis(0, 7 * 86_400_000)))]
    pub idle_timeout: Duration,
    /// `request_timeout_ms`: for a request to arrive, and for its reply to be taken; 0: for ever. Default: 60 s.
    #[garde(custom(millis(0, 86_400_000)))]
    pub request_timeout: Duration,
    /// `shutdown_grace_ms`: for connections to finish what they have received, up to 10 min. Default: 5 s.
    #[garde(custom(millis(0, 600_000)))]
    pub shutdown_grace: Duration,
    /// Whether `FLUSHALL` and `FLUSHDB` are served. Default: false.
    #[garde(skip)]
    pub enable_flushall: bool,
}

/// `[log]`: what `dbex` writes to stderr. A node in a host program does not look at it.
#[derive(Clone, Debug, PartialEq, Eq, Validate)]
#[non_exhaustive]
pub struct LogSection {
    /// The least important events that are written; `RUST_LOG` wins. Default: info.
    #[garde(skip)]
    pub level: LogLevel,
    /// How a line looks. Default: auto.
    #[garde(skip)]
    pub format: LogFormat,
}

/// Which events the log shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLevel {
    /// What needs somebody's attention.
    Error,
    /// And what may soon.
    Warn,
    /// And what happens seldom and matters: start, recovery, close.
    #[default]
    Info,
    /// And each flush and compaction.
    Debug,
    /// Everything.
    Trace,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// Text; in colours if stderr is a terminal.
    #[default]
    Auto,
    /// Text without colours.
    Text,
    /// One JSON object a line.
    Json,
}

/// A password. It never shows in logs, errors or `dbex config`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The password, to compare with (in constant time).
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Default for NodeSection {
    fn default() -> Self {
        let NodeOptions { data_dir, shards, durability, sync_interval, pin_cores, .. } =
            NodeOptions::default();
        Self { data_dir, shards, durability, sync_interval, pin_cores }
    }
}

impl Default for MemorySection {
    fn default() -> Self {
        let NodeOptions { memtable_bytes, block_cache_bytes, filter_bytes_max, queue_bytes, .. } =
            NodeOptions::default();
        Self { memtable_bytes, block_cache_bytes, filter_bytes_max, queue_bytes }
    }
}

impl Default for IoSection {
    fn default() -> Self {
        let node = NodeOptions::default();
        Self {
            budget: node.io_budget,
            max_open_files: node.max_open_files,
            flush_workers: node.flush_workers,
            compaction_workers: node.compaction_workers,
            read_workers: node.read_workers,
            wal_compress_above: node.wal_compress_above,
        }
    }
}

impl Default for CompactionSection {
    fn default() -> Self {
        let node = NodeOptions::default();
        Self {
            strategy: node.strategy,
            l0_trigger: node.l0_trigger,
            table_bytes: node.table_bytes,
            block_bytes: 4 * KIB,
            compression: node.compression,
            filter_bits_per_key: node.filter_bits_per_key,
        }
    }
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6380)),
            password_file: None,
            password: None,
            max_connections: 10_000,
            client_memory_bytes: 256 * MIB,
            max_request_bytes: 64 * MIB,
            idle_timeout: Duration::from_hours(1),
            request_timeout: Duration::from_mins(1),
            shutdown_grace: Duration::from_secs(5),
            enable_flushall: false,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Auto }
    }
}
