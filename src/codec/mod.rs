//! What stands around every piece of bytes on disk.
//!
//! ```text
//!   varint ◄── entry_meta   what precedes each entry, in WAL frames and data blocks
//!          ◄── record       magic, kind, version, length, checksum, body
//!   archive                 rkyv, checked
//!   compress                LZ4 and Zstandard, bounded
//! ```

pub mod archive;
pub mod compress;
pub mod entry_meta;
pub mod record;
pub mod varint;
