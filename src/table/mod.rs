//! Sorted-string tables: immutable files of entries in storage order, and what reads them.
//!
//! ```text
//!   entries ──► TableBuilder ──► data blocks | filter | index | properties | footer
//!                  │ block_builder, stored_block, filter, index, properties, range_deletes, footer
//!   get ─────► Table ──► filter ──► index ──► block slot ──► block (hash slot ──► entry)
//!   scan ────► TableCursor ──► BlockIter          │ empty slot: FileCache ──► file
//!                                                 └ filled and emptied by BlockCache
//! ```
//! Nothing here knows of levels, versions or shards' trees.

mod block;
mod block_builder;
mod block_iter;
mod builder;
mod cache;
mod cursor;
mod expiries;
mod file_cache;
mod filter;
mod footer;
mod heads;
mod index;
mod last_read;
mod lookup;
mod metadata;
mod metadata_cache;
mod options;
mod pace;
mod properties;
mod range_deletes;
mod read_timer;
mod recent_misses;
mod stored_block;
#[expect(clippy::module_inception, reason = "the file of the type `Table`")]
mod table;
mod verify;
mod whole_block;

#[cfg(test)]
mod table_test;

pub use builder::TableBuilder;
pub use cache::{BlockCache, BlockCacheStats};
pub use cursor::{CursorSource, TableCursor};
pub use expiries::{ExpiryParts, expired_by};
pub use file_cache::FileCache;
pub use lookup::{Lookup, OwnedEntry, ReadMode};
pub use options::{TableId, TableOptions};
pub use pace::{NoPace, Pace};
pub use properties::TableSummary;
pub use read_timer::ReadTimer;
pub use table::{Table, TableExpectation};
pub use whole_block::WholeBlock;
