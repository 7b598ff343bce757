//! Writes as a caller says them: single steps, and what an update makes of a value.

use std::fmt;

use bytes::Bytes;

use super::expiry::Expiry;
use crate::error::Result;

/// One write. Steps handed over together are independent of each other; those of one shard run in their
/// order, in one turn where they can.
pub enum Step {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// Until when; [`Expiry::Keep`] is for updates.
        expiry: Expiry,
    },
    /// Removes a key; removing an absent one is fine.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads a key and writes what `change` makes of it, with no other write between.
    Update {
        /// The key.
        key: Bytes,
        /// Called at most once, in the shard's turn, with the current value. Its error, or its panic, fails
        /// this step alone, and nothing is written.
        change: ChangeFn,
    },
}

/// What an update does with what its key has (`None`: it is absent).
pub type ChangeFn = Box<dyn FnOnce(Option<Current<'_>>) -> Result<Change> + Send>;

/// What a key has, as an update finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Current<'a> {
    /// Its value.
    pub value: &'a [u8],
    /// When that expires, in milliseconds since the Unix epoch; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// What the node's clock says now.
    pub now_ms: u64,
}

impl Step {
    /// The key that the step writes.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Update { key, .. } => key,
        }
    }

    /// What the step counts for in admission, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } | Self::Update { key, .. } => key.len(),
        }
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Put { .. } => "Put",
            Self::Delete { .. } => "Delete",
            Self::Update { .. } => "Update",
        };
        write!(f, "{name}({})", crate::key::EscapedKey(self.key()))
    }
}

/// What an update makes of a value. An `Option` of anything that becomes [`Bytes`] is one too: `Some` puts,
/// `None` deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key gets this value; its expiry stays.
    Put(Bytes),
    /// The key gets this value, until then.
    PutUntil(Bytes, Expiry),
    /// The key keeps its value, until then; nothing is written if it is absent.
    Expire(Expiry),
    /// The key is removed.
    Delete,
    /// Nothing is written.
    Keep,
}

impl<V: Into<Bytes>> From<Option<V>> for Change {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::Delete, |value| Self::Put(value.into()))
    }
}

/// What a step did. Filled for updates only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepDone {
    /// The value before.
    pub previous: Option<Bytes>,
    /// The value after.
    pub current: Option<Bytes>,
    /// Whether something was written.
    pub is_changed: bool,
}
