//! What a tree is told when it is opened, and what it shares with the other trees of its node.

use std::sync::Arc;

use super::{compaction::PickerOptions, live::LiveTables};
use crate::{
    codec::compress::Compression,
    ids::Level,
    storage::Storage,
    table::{BlockCache, FileCache, TableOptions},
    wal::WalOptions,
};

/// How L0 becomes L1 becomes L2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// L1 and L2 are one sorted run each; compactions are partial, by key range. Fewer tables to look into.
    #[default]
    Leveled,
    /// Ten L0 tables make one L1 run, ten L1 runs go into L2. Fewer bytes written.
    SizeTiered,
}

/// How a tree is laid out and when it compacts. Plain data; all sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeOptions {
    /// The most that the records of one active memtable take. The node may seal it earlier.
    pub memtable_bytes: u64,
    /// The size at which a compaction begins its next output table.
    pub table_bytes: u64,
    /// How the tables of each level are laid out.
    pub tables: [TableOptions; 3],
    /// How L0 becomes L1 becomes L2.
    pub strategy: Strategy,
    /// Leveled: how many L0 tables make a compaction due.
    pub l0_trigger: usize,
    /// Size-tiered: how many L0 tables, or L1 runs, are merged at once.
    pub tiered_trigger: usize,
    /// The log.
    pub wal: WalOptions,
    /// The node's hash seed, for filters and in-block indexes. It never changes: compaction copies blocks with theirs.
    pub hash_seed: u64,
}

impl Default for TreeOptions {
    fn default() -> Self {
        let lz4 = TableOptions { compression: Compression::Lz4, ..TableOptions::default() };
        Self {
            memtable_bytes: 16 << 20,
            table_bytes: 32 << 20,
            tables: [lz4; 3],
            strategy: Strategy::default(),
            l0_trigger: 4,
            tiered_trigger: 10,
            wal: WalOptions::default(),
            hash_seed: 0,
        }
    }
}

impl TreeOptions {
    /// How the tables of `level` are laid out.
    pub const fn table(&self, level: Level) -> TableOptions {
        let [l0, l1, l2] = self.tables;
        match level {
            Level::L0 => l0,
            Level::L1 => l1,
            Level::L2 => l2,
        }
    }

    /// What the picker goes by.
    pub const fn picker(&self) -> PickerOptions {
        PickerOptions {
            strategy: self.strategy,
            l0_trigger: self.l0_trigger,
            tiered_trigger: self.tiered_trigger,
            at_rest: false,
            flush_bytes: self.memtable_bytes / 2,
        }
    }
}

/// What all trees of a node share. Made once; cloned for each shard and each re-opening.
#[derive(Clone, Debug)]
pub struct TreeContext {
    /// Where the files are.
    pub storage: Arc<dyn Storage>,
    /// The cached blocks.
    pub cache: Arc<BlockCache>,
    /// The open table files.
    pub files: Arc<FileCache>,
    /// Which table files are in use in this process.
    pub live: Arc<LiveTables>,
}

impl TreeContext {
    /// A context over `storage`. `files` must open from the same storage.
    pub fn new(storage: Arc<dyn Storage>, cache: Arc<BlockCache>, files: Arc<FileCache>) -> Self {
        Self { storage, cache, files, live: Arc::new(LiveTables::default()) }
    }
}
