//! What waits in a shard's inbox for its turn.

use bytes::Bytes;

use super::{
    admission::Permit,
    batch_parts::BatchParts,
    expiry::Expiry,
    options::Durability,
    step::{ChangeFn, StepDone},
};
use crate::{
    error::{Error, Result},
    key::KeyHash,
};

/// One request; its permit is given back when the turn that ran it has replied.
pub(super) struct WriteRequest {
    pub work: Work,
    pub durability: Durability,
    /// Held until the request is done; none for requests that hold no bytes.
    pub _permit: Option<Permit>,
}

pub(super) enum Work {
    /// Steps that are independent of each other, in this order.
    Steps { steps: Vec<TurnStep>, reply: oneshot::Sender<Vec<StepResult>> },
    /// Writes that happen all or not at all, all of them here, and so their conditions.
    Batch { parts: Box<BatchParts>, reply: oneshot::Sender<BatchAnswer> },
    /// Seals the active memtable.
    Seal { reply: oneshot::Sender<Result<()>> },
    /// Nothing but a turn, whose end looks after what was asked of the shard.
    Nudge,
}

/// A step with its key hashed and, for an update, with what was read for it before the turn.
pub(super) struct TurnStep {
    pub hash: KeyHash,
    pub key: Bytes,
    pub action: Action,
}

pub(super) enum Action {
    Put(Bytes, Expiry),
    Delete,
    Update { base: Base, change: ChangeFn },
}

/// A value, and when it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredValue {
    pub value: Bytes,
    pub expires_at_ms: Option<u64>,
}

/// What the tables said of an update's key before the turn. It holds as long as no flush has moved newer
/// versions from memory to tables meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub incarnation: u64,
    pub flush_count: u64,
    pub value: Option<StoredValue>,
}

impl Base {
    /// Whether the tables still say what they said, if memory holds nothing newer.
    pub(super) fn holds_at(&self, incarnation: u64, flush_count: u64) -> bool {
        (self.incarnation, self.flush_count) == (incarnation, flush_count)
    }
}

/// What becomes of a batch.
pub(super) enum BatchAnswer {
    Done(Result<()>),
    /// A flush has moved what was read for its conditions: read it again and hand the batch in again.
    Stale(Box<BatchParts>),
}

pub(super) enum StepResult {
    Done(StepDone),
    Failed(Error),
    /// A flush has moved what the step had read: read it again and hand the step in again.
    Stale(TurnStep),
}

impl WriteRequest {
    /// Tells the caller that nothing of the request was written.
    pub(super) fn refuse(self, error: &Error) {
        match self.work {
            Work::Steps { steps, reply } => {
                let _ = reply.send(steps.iter().map(|_| StepResult::Failed(error.clone())).collect());
            }
            Work::Batch { reply, .. } => {
                let _ = reply.send(BatchAnswer::Done(Err(error.clone())));
            }
            Work::Seal { reply } => {
                let _ = reply.send(Err(error.clone()));
            }
            Work::Nudge => {}
        }
    }
}
