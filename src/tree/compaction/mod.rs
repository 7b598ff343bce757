//! Compaction.
pub mod rule;
