//! dbex: an embeddable, multi-core key-value storage node.

pub mod codec;
pub mod entry;
pub mod error;
pub mod ids;
pub mod key;
pub mod memtable;
pub mod node;
pub mod settings;
pub mod storage;
pub mod table;
pub mod tree;
pub mod wal;

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod server;
