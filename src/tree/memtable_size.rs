//! How large the next memtable is made.

use std::sync::Arc;

use crate::memtable::{Memtable, MemtableOptions};

/// What a memtable spends on an entry beside its key and value, roughly.
const ENTRY_OVERHEAD_BYTES: u64 = 40;
/// The mean entry that the first memtable's index is sized for.
const FIRST_MEAN_ENTRY_BYTES: u64 = 128;
/// The index is as large as if entries were at least this long; shorter ones seal the memtable early.
const LEAST_MEAN_ENTRY_BYTES: u64 = 48;
const LEAST_INDEX_SLOTS: u64 = 64;

/// Sizes the next memtable: its index by the mean entry of the one before, and for `ops` at least.
pub(super) fn next_memtable(arena_bytes: u64, before: Option<&Arc<Memtable>>, ops: usize) -> MemtableOptions {
    let mean = before.and_then(|memtable| {
        let data = memtable.data_bytes().checked_div(memtable.entries() as u64)?;
        Some(data.saturating_add(ENTRY_OVERHEAD_BYTES))
    });
    let mean = mean.unwrap_or(FIRST_MEAN_ENTRY_BYTES).max(LEAST_MEAN_ENTRY_BYTES);
    let keys = (arena_bytes / mean).max(ops as u64);
    // A tenth more than fit at 70 % full, so that entries a little shorter do not seal early.
    let slots = keys.saturating_mul(11) / 7;
    MemtableOptions {
        arena_bytes: usize::try_from(arena_bytes).unwrap_or(usize::MAX),
        index_slots: usize::try_from(slots.max(LEAST_INDEX_SLOTS)).unwrap_or(usize::MAX),
    }
}
