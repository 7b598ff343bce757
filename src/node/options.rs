//! What a node is opened with, as plain data. `settings/` makes it from `shards.toml`; a host program may
//! fill it in itself. Zero means "choose for this machine" where a field says so; [`NodeOptions::resolve`]
//! is where that choice is made.

use std::{path::PathBuf, time::Duration};

use crate::codec::compress::Compression;

/// What a node is opened with. Every field has a default, see [`NodeOptions::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeOptions {
    /// The data directory; created (mode 0700) if absent. Default: `data`, below the current directory.
    pub data_dir: PathBuf,
    /// How many shards the key space is split into. 0 (the default): one per core when the directory is
    /// created; an existing directory keeps its count, and another number than its own is refused. Files,
    /// WAL segments and actors grow with it.
    pub shards: u32,
    /// What an ack promises when a write does not say. Default: [`Durability::Buffered`].
    pub durability: Durability,
    /// How often buffered writes are synced in the background, so the most that a power loss can take.
    /// Default: 1 s. Shorter costs one sync a shard each time.
    pub sync_interval: Duration,
    /// Pins each shard's thread to a core. Default: false; it pays only on a machine that runs nothing else.
    pub pin_cores: bool,
    /// Bound for all memtables of the node, sealed ones and indexes included, in bytes. Default: 64 MiB.
    /// Flushes get rarer, and the log that a restart replays longer, as it grows.
    pub memtable_bytes: u64,
    /// Bound for the node's block cache in bytes. Default: 256 MiB.
    pub block_cache_bytes: u64,
    /// Bound for the tables' filters and indexes held in memory, in bytes. Default: 512 MiB. Past it, tables that
    /// were not used for a while give theirs up; a get that comes to one reads them again.
    pub filter_bytes_max: u64,
    /// Bound for admitted requests that wait for a shard, in bytes of keys and values. Default: 64 MiB.
    /// Past it writers wait, or get `Busy`.
    pub queue_bytes: u64,
    /// What all background reads and writes together may use. Default: [`IoBudget::Auto`].
    pub io_budget: IoBudget,
    /// How many table files are open at once. 0 (the default): half of the process's soft limit.
    pub max_open_files: usize,
    /// Flushes at once, that is memtables written to tables. 0 (the default): one per four cores, 1 to 4. Each has two
    /// threads, of which one has a low priority, and works as long as memory fills up slowly enough.
    pub flush_workers: usize,
    /// Compactions at once. 0 (the default): one per two cores, 1 to 8. Each has two threads, of which one has
    /// the lowest priority, and works as long as no shard is far behind.
    pub compaction_workers: usize,
    /// Threads for reads that must wait for the disk. 0 (the default): two per core, 4 to 32.
    pub read_workers: usize,
    /// How tables are merged. Default: [`CompactionStrategy::Leveled`].
    pub strategy: CompactionStrategy,
    /// How many L0 tables of a shard start a compaction into L1. Default: 4. Up to three times as many wait until they
    /// are worth rewriting L1. A get that misses memory consults so many filters more as it grows; each byte is
    /// rewritten less often.
    pub l0_trigger: usize,
    /// Where a compaction starts another output table, in bytes. Default: 32 MiB. One compaction's size and
    /// the space it needs for a while grow with it, the number of files shrinks.
    pub table_bytes: u64,
    /// A data block's size before compression, in bytes. Default: 4 KiB. Larger blocks compress better; a
    /// get reads one whole block.
    pub block_bytes: usize,
    /// How the blocks of L0, L1 and L2 are compressed. Default: LZ4 on all.
    pub compression: [Compression; 3],
    /// Filter bits per key; 0 means no filters. Default: 10, about 1 % false positives.
    pub filter_bits_per_key: u32,
    /// WAL frame bodies above this many bytes are compressed with LZ4; `None`: never. Default: 4 KiB, so that a lone
    /// small write's is not, and those of batches, of large values and of many writes that waited together are.
    pub wal_compress_above: Option<u64>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            shards: 0,
            durability: Durability::Buffered,
            sync_interval: Duration::from_secs(1),
            pin_cores: false,
            memtable_bytes: 64 << 20,
            block_cache_bytes: 256 << 20,
            filter_bytes_max: 512 << 20,
            queue_bytes: 64 << 20,
            io_budget: IoBudget::Auto,
            max_open_files: 0,
            flush_workers: 0,
            compaction_workers: 0,
            read_workers: 0,
            strategy: CompactionStrategy::Leveled,
            l0_trigger: 4,
            table_bytes: 32 << 20,
            block_bytes: 4 << 10,
            compression: [Compression::Lz4; 3],
            filter_bits_per_key: 10,
            wal_compress_above: Some(4 << 10),
        }
    }
}

impl NodeOptions {
    /// How many bytes may wait at one shard: twice its even share, so that a hot shard may have more.
    pub(super) fn shard_queue_bytes(&self) -> u64 {
        (self.queue_bytes * 2 / u64::from(self.shards).max(1)).clamp(1, self.queue_bytes.max(1))
    }

    /// Replaces every "choose for this machine" by a number: for `cores` processors and a soft limit of
    /// `open_files` descriptors. The shard count is for a directory that does not exist yet.
    #[must_use]
    pub fn resolve(mut self, cores: usize, open_files: usize) -> Self {
        let cores = cores.max(1);
        if self.shards == 0 {
            self.shards = u32::try_from(cores).unwrap_or(MAX_SHARDS).min(MAX_SHARDS);
        }
        if self.max_open_files == 0 {
            // The other half is for connections, the log, and whatever else the host process opens.
            self.max_open_files = (open_files / 2).clamp(16, 1 << 20);
        }
        if self.flush_workers == 0 {
            self.flush_workers = (cores / 4).clamp(1, 4);
        }
        if self.compaction_workers == 0 {
            self.compaction_workers = (cores / 2).clamp(1, 8);
        }
        if self.read_workers == 0 {
            self.read_workers = (cores * 2).clamp(4, 32);
        }
        self
    }
}

/// The most shards a node may have: their directories have four digits.
pub(crate) const MAX_SHARDS: u32 = 1024;

/// What an ack promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// The record has reached the operating system: it survives a killed process, and a power loss but for
    /// the last `sync_interval`.
    #[default]
    Buffered,
    /// The record is on stable storage, and becomes visible only then.
    Synced,
}

/// What all background reads and writes of a node together may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoBudget {
    /// Chosen by the node: everything while nobody suffers; less while syncs or cold reads take more than twice as long
    /// as at their best; more again as compaction falls behind.
    #[default]
    Auto,
    /// No limit; the bytes are counted all the same.
    Unlimited,
    /// This many bytes per second, at least 1.
    BytesPerSecond(u64),
}

impl IoBudget {
    /// The rate that it begins with, in bytes a second; `None`: unlimited.
    pub(super) const fn rate(self) -> Option<u64> {
        match self {
            Self::BytesPerSecond(rate) => Some(rate),
            Self::Auto | Self::Unlimited => None,
        }
    }
}

impl From<u64> for IoBudget {
    fn from(bytes_per_second: u64) -> Self {
        Self::BytesPerSecond(bytes_per_second)
    }
}

/// How tables are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CompactionStrategy {
    /// Small compactions by key range, one run in L1: fewest tables for a get to consult, least space.
    #[default]
    Leveled,
    /// Ten L0 tables merge into an L1 run, ten L1 runs into L2: least rewriting, more space and slower scans.
    SizeTiered,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_becomes_a_number_for_the_machine_and_a_number_stays() {
        let small = NodeOptions::default().resolve(1, 1024);
        assert_eq!((small.shards, small.max_open_files), (1, 512));
        assert_eq!((small.flush_workers, small.compaction_workers, small.read_workers), (1, 1, 4));

        let large = NodeOptions::default().resolve(64, 20);
        assert_eq!((large.shards, large.max_open_files), (64, 16));
        assert_eq!((large.flush_workers, large.compaction_workers, large.read_workers), (4, 8, 32));

        let fixed = NodeOptions {
            shards: 3,
            max_open_files: 99,
            flush_workers: 5,
            compaction_workers: 6,
            read_workers: 7,
            ..NodeOptions::default()
        };
        assert_eq!(fixed.clone().resolve(64, 1024), fixed);
    }
}
