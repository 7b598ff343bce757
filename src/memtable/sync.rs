//! The atomics that the arena is built on. The model check (`tests/model_memtable.rs`) puts loom's in their
//! place and compiles the arena unchanged.

pub(super) use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
};

/// Whether an atomic whose bytes are all zero is a valid one that holds zero.
pub(super) const ZEROED_ATOMICS_ARE_VALID: bool = true;

/// Stands in a record for the record's bytes. Here it is nothing; under the model it is a tracked cell, so that
/// a read of a record that does not happen after its writing is found.
pub(super) struct Witness;

impl Witness {
    /// The record is being written.
    pub(super) const fn new() -> Self {
        Self
    }

    /// The record is being read.
    #[expect(clippy::unused_self, reason = "the model's witness has what to read")]
    pub(super) const fn read(&self) {}
}
