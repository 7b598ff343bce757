//! The shard actors, the coordinator and the handles.

pub mod options;

pub use options::{CompactionStrategy, Durability, IoBudget, NodeOptions};
