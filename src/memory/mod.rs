//! Memory for what is large or comes by the thousand, straight from the operating system on huge pages: the
//! processor finds it with few look-ups of addresses, which on virtual machines cost as much as the data's own
//! cache misses.
//!
//! ```text
//!   reserve  regions at hand
//!     └─ region   2 MiB, one huge page     memtable chunks take one whole
//!          └─ slab   64 KiB, pieces of one size
//!               └─ piece   up to 8 KiB     `Shared`: a cached block
//! ```

mod chunk;
mod region;
pub mod reserve;
mod shared;
mod slabs;

pub use chunk::{allocate_chunk, free_chunk, prefetch_lines};
pub use region::{REGION_BYTES, Region};
pub use shared::Shared;
pub use slabs::{Piece, Slabs};
