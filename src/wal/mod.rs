//! The write-ahead log of one shard: a chain of frames over preallocated segment files.
//!
//! ```text
//!   turn ──► group ──► writer ──► segment file ◄── pool ◄── worker (prepares ahead, recycles)
//!                         │
//!                         └─written─► sync ◄── turn, workers, other shards
//!
//!   open:  reader (lists, loads) ──► replay (follows the chain) ◄── scan (what lies beside it)
//! ```
//!
//! `frame` has the byte table of a frame, `ops` of the operations inside it, `segment` of a file's header.

mod frame;
mod group;
mod ops;
mod pool;
mod reader;
mod replay;
mod scan;
mod segment;
mod sync;
mod writer;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod log_test;
#[cfg(test)]
mod testing;

use std::fmt;

pub use frame::FrameKind;
pub use group::GroupBuffer;
pub use ops::{OpSpan, Ops};
pub use pool::SegmentPool;
pub use reader::read_log;
pub use replay::{Discarded, RecoveredFrame, RecoveredLog};
pub use segment::segment_path;
pub use sync::WalSync;
pub use writer::{NewLog, Predecessor, WalWriter, create_log};

use crate::ids::SegmentNumber;

/// How a shard's log is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// The size of a segment file in bytes. A group that does not fit grows the segment it begins.
    pub segment_bytes: u64,
    /// Frame bodies of more than this many bytes are compressed with LZ4; `None`: never.
    pub compress_above: Option<usize>,
    /// How many idle files (spares and freed ones) are kept to be written again; more are removed.
    pub idle_segments: usize,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, compress_above: None, idle_segments: 2 }
    }
}

/// A place in a shard's log. Later places compare greater, across segments too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The segment.
    pub segment: SegmentNumber,
    /// The byte offset in the segment's file.
    pub offset: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.segment, self.offset)
    }
}
