//! One shard's LSM tree.

pub mod compaction;
pub mod cut;
pub mod edit;
pub mod manifest;
pub mod merge;
#[cfg(test)]
mod test_cursor;
pub mod visible;

pub use cut::{BatchMark, Cut, ShardLog, consistent_cut};
pub use visible::is_visible;
