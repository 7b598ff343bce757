//! dbex: an embeddable, multi-core key-value storage node.
//!
//! Keys are hashed to N shard actors, each owning one LSM tree: a memtable, a write-ahead log, and L0–L2 directories
//! of sorted-string tables. A coordinator actor decides which shard may flush or compact next, under one I/O budget
//! for the whole node. Host programs use it through a handle ([`Node`] from any async runtime, [`blocking::Node`]
//! from threads) or by actor messages ([`messages`]); `dbex serve` is a host of ours that speaks the Redis protocol.
//!
//! It is a storage node, not a database: bytes in, bytes out, no queries, no replication yet.
//!
//! ```
//! use dbex::{Node, Settings, WriteBatch};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # pollster::block_on(async {
//! let node = Node::open(Settings::builder().data_dir(dir.path()).shards(2).build()?).await?;
//! node.put("k", "v").await?;
//! let mut batch = WriteBatch::new();
//! batch.put("a", "1").delete("z");
//! node.write(batch).await?; // atomic, across shards too
//! assert_eq!(node.get("a").await?.as_deref(), Some(&b"1"[..]));
//! node.close().await?;
//! # Ok::<(), dbex::Error>(())
//! # }).unwrap();
//! ```
//!
//! ```text
//!   cli ─► server ─► settings ─► node ─► tree ─► memtable ─► wal ─► table ─► codec ─► storage ─► memory error key ids entry waiting
//! ```
//! Imports go that way only. The modules marked hidden are not part of the API: benches and fault tests use them.

#[doc(hidden)]
pub mod codec;
#[doc(hidden)]
pub mod entry;
mod error;
#[doc(hidden)]
pub mod ids;
#[doc(hidden)]
pub mod key;
#[doc(hidden)]
pub mod memory;
#[doc(hidden)]
pub mod memtable;
mod node;
#[doc(hidden)]
pub mod range_delete;
mod settings;
pub mod storage;
#[doc(hidden)]
pub mod table;
#[doc(hidden)]
pub mod tree;
#[doc(hidden)]
pub mod waiting;
#[doc(hidden)]
pub mod wal;

#[cfg(feature = "server")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "actix-api")]
pub use node::messages;
pub use {
    codec::compress::Compression,
    error::{Corruption, Error, ErrorKind, Result},
    key::{KeyRange, MAX_KEY_BYTES, MAX_VALUE_BYTES},
    node::{
        ActorSystem, Change, ChangeFn, Clock, CompactionStrategy, Coordinator, Current, Durability, Env,
        Executor, Expected, Expiry, IoBudget, MAX_BATCH_BYTES, MakeFuture, Node, NodeOptions, NodeStats,
        Pair, Permit, Priority, PutOptions, Random, ReadOnlyNode, Scan, ShardStats, SlowdownReason, Snapshot,
        Step, StepDone, SystemClock, SystemRandom, SystemThreads, Thread, Threads, TimeToLive, WriteBatch,
        WriteLimit, blocking,
    },
    settings::*,
};
