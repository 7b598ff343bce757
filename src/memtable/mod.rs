//! The memtable: an append-only arena with a hash index, sorted on demand. One writer, any number of readers
//! without locks.
//!
//! ```text
//!  writer ──► arena   [ a@1 ][ c@2 ][ b@3 ][ a@4 ]…   records in order of insertion
//!    │                  ▲       ◄──links───┘  ▲        a later version leads to the older ones
//!    └──► index       [ · │ a ───────────────┘ │ · ]   slot: newest version of a key
//!  cursor ──► runs    [ a@4 a@1 c@2 ] [ b@3 ]         sorted when someone asks, merged geometrically
//! ```
//! Range deletes lie beside all that in sets of their own (`range_deletes.rs`).

mod arena;
mod counters;
mod cursor;
mod index;
mod layout;
mod range_deletes;
mod reader;
mod runs;
mod sync;
mod versions;
mod walk;
mod writer;

pub use cursor::MemtableCursor;
pub use reader::Memtable;
pub use writer::{MemtableOptions, MemtableWriter, memtable};

// What the arena's files name through `super`, so that the model check can compile them elsewhere.
use crate::{
    entry::{Entry, ValueKind},
    ids::SeqNo,
    key::KeyHash,
    memory::{allocate_chunk, free_chunk, prefetch_lines},
};

#[cfg(test)]
mod memtable_test;
