//! Faults: which operations fail, and how.

use std::{io, path::Path};

pub use rustix::io::Errno;

use super::content::SyncLoss;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpKind {
    /// `create_dir_all`
    CreateDir,
    /// `read_dir`
    ReadDir,
    /// `open` of an existing file
    Open,
    /// `open` of a new file
    Create,
    /// `rename`
    Rename,
    /// `remove_file`
    Remove,
    /// `sync_dir`
    SyncDir,
    /// `try_lock`
    Lock,
    /// `read_at`
    Read,
    /// `read_at_nowait`
    ReadNowait,
    /// `write_at`
    Write,
    /// `sync_data`
    Sync,
    /// `len`
    Len,
    /// `allocate`
    Allocate,
    /// `truncate`
    Truncate,
    /// `try_lock_shared`
    LockShared,
}

impl OpKind {
    /// Whether the operation can change what a reader sees or what is durable.
    pub const fn is_change(self) -> bool {
        !matches!(
            self,
            Self::ReadDir | Self::Open | Self::Read | Self::ReadNowait | Self::Len | Self::LockShared
        )
    }

    /// Whether the operation makes something durable.
    pub const fn is_sync(self) -> bool {
        matches!(self, Self::Sync | Self::SyncDir)
    }
}

/// How an operation fails. What makes no sense for an operation becomes a plain `EIO` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The error, and nothing is done; a sync so failing loses nothing.
    Fail(Errno),
    /// A read or write succeeds with fewer bytes than asked for, but at least one.
    Short,
    /// A write or sync does a part of its work (none and all of it included), and ends with the error.
    Partial(Errno),
    /// A sync fails with `EIO` and leaves this behind.
    Sync(SyncLoss),
    /// A read succeeds with one flipped bit; the next read is right.
    FlipOnce,
    /// A read succeeds with one flipped bit, and the bit is flipped on the disk too.
    FlipForever,
}

impl Fault {
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Fail(errno) | Self::Partial(errno) => errno.into(),
            _ => Errno::IO.into(),
        }
    }
}

/// Which operations a rule hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Every matching one.
    Always,
    /// The n-th matching one.
    Nth(u64),
    /// The n-th matching one and all after it.
    FromNth(u64),
    /// The one with this number, if it matches.
    Operation(u64),
    /// Every matching one from this number on.
    FromOperation(u64),
}

/// A fault and the operations that it hits: every one, unless it is narrowed down.
///
/// ```
/// use dbex::storage::sim::{Errno, Fault, FaultRule, OpKind};
/// let third_write_of_the_log = FaultRule::new(Fault::Fail(Errno::IO)).on(&[OpKind::Write]).path("wal").nth(2);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FaultRule {
    fault: Fault,
    kinds: Vec<OpKind>,
    path_part: Option<String>,
    when: When,
}

impl FaultRule {
    /// A rule that hits every operation.
    pub fn new(fault: Fault) -> Self {
        Self { fault, kinds: vec![], path_part: None, when: When::Always }
    }

    /// Only operations of these kinds.
    pub fn on(mut self, kinds: &[OpKind]) -> Self {
        kinds.clone_into(&mut self.kinds);
        self
    }

    /// Only operations on a path that contains `part`.
    pub fn path(mut self, part: &str) -> Self {
        self.path_part = Some(part.to_owned());
        self
    }

    /// Only the n-th operation that matches, counted from 0.
    pub fn nth(mut self, n: u64) -> Self {
        self.when = When::Nth(n);
        self
    }

    /// Only the n-th operation that matches and all matching ones after it, counted from 0.
    pub fn from_nth(mut self, n: u64) -> Self {
        self.when = When::FromNth(n);
        self
    }

    /// Only the operation with this number (see `operations`), if it matches.
    pub fn at_operation(mut self, number: u64) -> Self {
        self.when = When::Operation(number);
        self
    }

    /// Only matching operations with this number or a higher one.
    pub fn from_operation(mut self, number: u64) -> Self {
        self.when = When::FromOperation(number);
        self
    }

    fn matches(&self, kind: OpKind, path: &Path) -> bool {
        let path_fits = |part: &String| path.to_str().is_some_and(|path| path.contains(part.as_str()));
        (self.kinds.is_empty() || self.kinds.contains(&kind)) && self.path_part.as_ref().is_none_or(path_fits)
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<(FaultRule, u64)>,
    fired: u64,
}

impl Faults {
    pub(super) fn add(&mut self, rule: FaultRule) {
        self.rules.push((rule, 0));
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// How many operations were hit so far.
    pub(super) fn fired(&self) -> u64 {
        self.fired
    }

    /// The fault for the next operation: the first rule that hits it wins, but every rule counts it.
    pub(super) fn pick(&mut self, kind: OpKind, path: &Path, number: u64) -> Option<Fault> {
        let mut picked = None;
        for (rule, seen) in self.rules.iter_mut().filter(|(rule, _)| rule.matches(kind, path)) {
            let is_hit = match rule.when {
                When::Always => true,
                When::Nth(n) => *seen == n,
                When::FromNth(n) => *seen >= n,
                When::Operation(n) => number == n,
                When::FromOperation(n) => number >= n,
            };
            *seen += 1;
            if is_hit && picked.is_none() {
                picked = Some(rule.fault);
            }
        }
        self.fired += u64::from(picked.is_some());
        picked
    }
}
