//! The node: handles, actors, turns, and what schedules the background work.
//!
//! ```text
//!   handle   blocking   messages                     what a host program holds
//!      │         │         │
//!      ▼         ▼         ▼
//!   read_path   write_path ──► turn_gate ──► turn    reads: in the caller's thread, from the shard's view
//!                   │                         ▲      writes: in place when the shard is idle,
//!                   ├──► inbox ──► shard_actor┤      else by its actor,
//!                   └──► batch lane ──► batch ┘      and across shards with all turns held
//!
//!   coordinator ──► scheduler (pure) ──► grant ──► workers: jobs ──► tree
//!                                          └──► budget (bytes per second, all shards)
//!
//!   open ──► node_core ◄── close, reopen             node_core: what all of the above share
//!   read_only: a directory that no node has open; of the above only what reads
//! ```

mod accountant;
mod admission;
mod batch;
mod batch_parts;
mod batch_path;
pub mod blocking;
mod close;
mod compaction_job;
mod conditions;
mod coordinator;
mod directory_lock;
mod env;
mod executor;
mod expiry;
mod flush_job;
mod foreground;
mod grant;
mod handle;
mod health;
mod in_flight;
mod job_failures;
mod jobs;
mod maintenance;
#[cfg(feature = "actix-api")]
pub mod messages;
mod multi_get;
mod node_clock;
mod node_core;
mod node_file;
mod open;
mod open_scans;
pub(crate) mod options;
mod pacing;
mod parallel;
mod pin;
mod put_options;
mod range_deletes;
mod read_only;
mod read_path;
mod recover;
mod reopen;
mod request;
mod router;
mod scan;
mod scan_source;
mod schedule;
mod shard_actor;
mod shard_core;
mod shard_place;
mod snapshot;
mod snapshots;
mod stats;
mod steering;
mod step;
mod stepped_workers;
mod sync;
mod sync_rule;
mod table_job;
mod thread_priority;
mod turn;
mod turn_gate;
mod update;
mod wants;
mod workers;
mod write_batch;
mod write_path;

pub use admission::Permit;
pub use coordinator::Coordinator;
pub use env::{
    ActorSystem, Clock, Env, Executor, MakeFuture, Priority, Random, SystemClock, SystemRandom,
    SystemThreads, Thread, Threads,
};
#[cfg(feature = "server")]
pub(crate) use expiry::Presence;
pub use expiry::{Expiry, TimeToLive};
pub use handle::{Expected, Node};
pub use options::{CompactionStrategy, Durability, IoBudget, NodeOptions};
pub use put_options::PutOptions;
pub use read_only::ReadOnlyNode;
pub use scan::{Pair, Scan};
pub use schedule::{SlowdownReason, WriteLimit};
pub use snapshot::Snapshot;
pub use stats::{NodeStats, ShardStats};
pub use step::{Change, ChangeFn, Current, Step, StepDone};
pub use write_batch::{MAX_BATCH_BYTES, WriteBatch};
