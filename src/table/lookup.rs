//! What a point read asks for and what it returns.

use bytes::Bytes;

use crate::{entry::ValueKind, ids::SeqNo};

/// Whether a read may wait for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// It may.
    Blocking,
    /// It returns [`Lookup::WouldBlock`] instead.
    NoWait,
}

/// The answer of a point read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The newest version that the read may see; it can be a tombstone.
    Found(OwnedEntry),
    /// No version of the key.
    Missing,
    /// The answer needs the device: ask again with [`ReadMode::Blocking`] on a thread that may wait.
    /// Only in [`ReadMode::NoWait`].
    WouldBlock,
}

/// One version of a key, without the key, that outlives where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEntry {
    /// When it was written, in the node's order.
    pub seqno: SeqNo,
    /// What it does to the key.
    pub kind: ValueKind,
    /// When it expires, in milliseconds on the node's clock; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// The value; empty unless `kind` is `Put`. A part of the cached block it lies in, or a copy where the
    /// block is much larger.
    pub value: Bytes,
}
