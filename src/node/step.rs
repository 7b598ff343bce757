//! Writes as a caller says them: single steps, and what an update makes of a value.

use std::fmt;

use bytes::Bytes;

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

/// What an update does with the current value of its key (`None`: absent).
pub type ChangeFn = Box<dyn FnOnce(Option<&[u8]>) -> Result<Change> + Send>;

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
            Self::Put { key, value } => key.len() + value.len(),
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
    /// The key gets this value.
    Put(Bytes),
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
}
