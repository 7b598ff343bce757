//! The engines behind one face: what every one of them is asked to do, with equal budgets and promises.
//!
//! ```text
//!  workloads ─► Engine (threads) ─► dbex::blocking::Node │ fjall │ RocksDB │ redb │ the bare control loop
//!            └► Tasks  (async)   ─► dbex::Node           │ the same peers, called directly
//! ```

mod control;
mod dbex;
#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;

use std::{path::Path, sync::Arc};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{data::Key, seconds::Background};

/// What each engine may use.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    pub block_cache_bytes: usize,
    pub memtable_bytes: usize,
    /// dbex only; 0 is its default, one a core.
    pub shards: u32,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { block_cache_bytes: 256 << 20, memtable_bytes: 64 << 20, shards: 0 }
    }
}

impl Budgets {
    /// Bytes that an engine is told to stay within.
    pub fn total(&self) -> usize {
        self.block_cache_bytes + self.memtable_bytes
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum EngineKind {
    Dbex,
    Fjall,
    RocksDb,
    Redb,
    /// No engine: a hash and one `write` a put. What it shows is the machine's own tail.
    Control,
    /// The same, and two dozen reads of memory that each wait for the one before, as an engine's index has.
    #[value(name = "control-memory")]
    #[serde(rename = "control-memory")]
    ControlMemory,
}

impl EngineKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Dbex => "dbex",
            Self::Fjall => "fjall",
            Self::RocksDb => "RocksDB",
            Self::Redb => "redb",
            Self::Control => "control",
            Self::ControlMemory => "control-memory",
        }
    }

    /// A file engine's commit without a sync promises less than the others' buffered one.
    pub fn buffered_survives_a_kill(self) -> bool {
        self != Self::Redb
    }

    /// Opens or creates the engine's data in a directory.
    pub fn open(self, dir: &Path, budgets: Budgets) -> Result<Arc<dyn Engine>> {
        Ok(match self {
            Self::Dbex => Arc::new(dbex::Dbex::open(dir, budgets)?),
            #[cfg(feature = "fjall")]
            Self::Fjall => Arc::new(fjall::Fjall::open(dir, budgets)?),
            #[cfg(feature = "rocksdb")]
            Self::RocksDb => Arc::new(rocksdb::RocksDb::open(dir, budgets)?),
            #[cfg(feature = "redb")]
            Self::Redb => Arc::new(redb::Redb::open(dir, budgets)?),
            Self::Control => Arc::new(control::Control::open(dir, false)?),
            Self::ControlMemory => Arc::new(control::Control::open(dir, true)?),
            #[allow(unreachable_patterns, reason = "which engines are left depends on the features")]
            left_out => anyhow::bail!("{} was left out of this build: see its feature", left_out.name()),
        })
    }
}

/// What is done with a value that was found.
pub type ShowValue<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// What is done with a key and value that a scan visits.
pub type ShowPair<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

/// An engine as threads use it. Every write but `put_synced` has left the process when it returns.
pub trait Engine: Send + Sync {
    /// Writes one entry in a commit of its own.
    fn put(&self, key: &Key, value: &[u8]) -> Result<()>;

    /// As `put`, and on stable storage on return.
    fn put_synced(&self, key: &Key, value: &[u8]) -> Result<()>;

    /// Writes all entries in one commit: all or none of them survive a crash.
    fn write_batch(&self, entries: &[(Key, Vec<u8>)]) -> Result<()>;

    /// Shows the value of a key; returns whether there is one.
    fn get(&self, key: &Key, show: ShowValue<'_>) -> Result<bool>;

    /// Shows up to `count` values in key order from `from` on; returns how many.
    fn scan(&self, from: &Key, count: usize, show: ShowPair<'_>) -> Result<usize>;

    /// Moves what is in memory to tables and waits until no background work is left.
    fn settle(&self) -> Result<()>;

    /// Whether a key is one of the hot ones, where a workload has some: those of one shard, if there are shards.
    fn is_hot(&self, key: &Key) -> bool {
        key.last().is_some_and(|last| last.is_multiple_of(2))
    }

    /// What its background work is up to, as far as it tells.
    fn background(&self) -> Background {
        Background::default()
    }

    /// The async face, where the engine has one.
    fn tasks(&self) -> Option<::dbex::Node> {
        None
    }

    /// Ends the engine in order.
    fn close(&self) -> Result<()>;
}
