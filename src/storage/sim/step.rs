//! One operation on its way through the simulated machine: what was asked for, and what it meets.

use std::{io, path::Path, sync::Arc};

use super::{
    changes::NodeId,
    fault::{Fault, OpKind},
    rng::Rng,
};
use crate::storage::DirEntry;

/// An operation, as it is asked for.
pub(super) struct Op {
    pub(super) kind: OpKind,
    pub(super) path: Arc<Path>,
    pub(super) to: Option<Arc<Path>>,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) data: u64,
}

impl Op {
    pub(super) fn new(kind: OpKind, path: impl Into<Arc<Path>>) -> Self {
        Self { kind, path: path.into(), to: None, offset: 0, bytes: 0, data: 0 }
    }

    pub(super) fn at(mut self, offset: u64, bytes: u64) -> Self {
        (self.offset, self.bytes) = (offset, bytes);
        self
    }
}

/// What an operation meets.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    Run,
    Fault(Fault),
    /// The power goes while it is carried out.
    Crash(InFlight),
}

/// How much of the operation in flight is carried out.
#[derive(Clone, Copy)]
pub(super) enum InFlight {
    Absent,
    Partial,
    Full,
}

pub(super) struct Step {
    pub(super) verdict: Verdict,
    pub(super) rng: Rng,
}

impl Step {
    /// For what is done wholly or not at all: whether it is done. A fault is an error.
    pub(super) fn is_done(&mut self) -> io::Result<bool> {
        match self.verdict {
            Verdict::Run | Verdict::Crash(InFlight::Full) => Ok(true),
            Verdict::Crash(InFlight::Partial) => Ok(self.rng.coin()),
            Verdict::Crash(InFlight::Absent) => Ok(false),
            Verdict::Fault(fault) => Err(fault.error()),
        }
    }

    /// At least one byte, and fewer than all where there is a choice.
    pub(super) fn part(&mut self, bytes: usize) -> usize {
        match bytes {
            0 | 1 => bytes,
            _ => 1 + self.rng.up_to(bytes - 2),
        }
    }
}

/// A result that says how many bytes came or went.
pub(super) trait Outcome {
    fn bytes(&self) -> u64 {
        0
    }
}

impl Outcome for usize {
    fn bytes(&self) -> u64 {
        *self as u64
    }
}

impl Outcome for u64 {
    fn bytes(&self) -> u64 {
        *self
    }
}

impl Outcome for () {}
impl Outcome for Vec<DirEntry> {}

/// A file that an operation opened.
pub(super) struct Opened(pub(super) NodeId);

impl Outcome for Opened {}
