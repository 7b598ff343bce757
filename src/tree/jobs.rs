//! What background work a tree has under way, and the fence that ends it. Marks return themselves when the
//! plan or output that carries them is dropped, on a panic too.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::compaction::KeySpan;
use crate::{
    error::{Error, Result},
    ids::FileNumber,
    table::Pace,
    waiting::SlowRwLock,
};

/// The marks of one tree's running jobs.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    state: Mutex<JobState>,
}

#[derive(Debug, Default)]
pub(super) struct JobState {
    pub(super) flush_running: bool,
    pub(super) compactions: usize,
    /// The inputs of running compactions.
    pub(super) busy: HashSet<FileNumber>,
    /// The key ranges that running compactions write in L2.
    pub(super) writing_l2: Vec<KeySpan>,
}

impl Jobs {
    pub(super) fn with<T>(&self, read: impl FnOnce(&mut JobState) -> T) -> T {
        read(&mut self.state.lock())
    }
}

/// The right to flush; there is one a tree.
#[derive(Debug)]
pub(super) struct FlushMark {
    jobs: Arc<Jobs>,
}

impl FlushMark {
    pub(super) fn take(jobs: &Arc<Jobs>) -> Option<Self> {
        let free = jobs.with(|state| !std::mem::replace(&mut state.flush_running, true));
        free.then(|| Self { jobs: Arc::clone(jobs) })
    }
}

impl Drop for FlushMark {
    fn drop(&mut self) {
        self.jobs.with(|state| state.flush_running = false);
    }
}

/// The right to replace some tables.
#[derive(Debug)]
pub(super) struct CompactionMark {
    jobs: Arc<Jobs>,
    files: Vec<FileNumber>,
    writing_l2: Option<KeySpan>,
}

impl CompactionMark {
    /// Marks what a choice made under the same lock takes.
    pub(super) fn take(
        jobs: &Arc<Jobs>,
        state: &mut JobState,
        files: Vec<FileNumber>,
        writing_l2: Option<KeySpan>,
    ) -> Self {
        state.compactions += 1;
        state.busy.extend(files.iter().copied());
        state.writing_l2.extend(writing_l2.clone());
        Self { jobs: Arc::clone(jobs), files, writing_l2 }
    }
}

impl Drop for CompactionMark {
    fn drop(&mut self) {
        self.jobs.with(|state| {
            state.compactions = state.compactions.saturating_sub(1);
            for file in &self.files {
                state.busy.remove(file);
            }
            if let Some(place) =
                state.writing_l2.iter().position(|span| Some(span) == self.writing_l2.as_ref())
            {
                state.writing_l2.swap_remove(place);
            }
        });
    }
}

/// Separates the lives of a shard: once revoked, nothing of this life changes the shard's files any more.
#[derive(Debug, Default)]
pub(super) struct Fence {
    revoked: AtomicBool,
    /// Held shared while files are created or removed, so that none of that is under way once it is revoked.
    gate: SlowRwLock<()>,
}

impl Fence {
    pub(super) fn check(&self) -> Result<()> {
        if self.is_revoked() {
            return Err(Error::busy("the shard is being re-opened; this work belongs to its former life"));
        }
        Ok(())
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Runs `change` unless the fence is up; it cannot go up meanwhile.
    pub(super) fn pass<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let _open = self.gate.read();
        self.check()?;
        change()
    }

    /// Raises the fence, and waits for the changes that are under way.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        drop(self.gate.write());
    }
}

/// A pace that ends when the fence is raised.
pub(super) struct FencedPace {
    pub(super) pace: Arc<dyn Pace>,
    pub(super) fence: Arc<Fence>,
}

impl Pace for FencedPace {
    fn pay(&self, bytes: u64) -> Result<()> {
        self.fence.check()?;
        self.pace.pay(bytes)?;
        self.fence.check()
    }

    fn begin_end(&self) {
        self.pace.begin_end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::NoPace;
    use bytes::Bytes;

    #[test]
    fn marks_return_themselves() {
        let jobs = Arc::new(Jobs::default());
        let flush = FlushMark::take(&jobs).unwrap();
        assert!(FlushMark::take(&jobs).is_none());
        drop(flush);
        assert!(FlushMark::take(&jobs).is_some());

        let span = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        let mark =
            jobs.with(|state| CompactionMark::take(&jobs, state, vec![FileNumber(3)], Some(span.clone())));
        let seen = jobs.with(|state| (state.compactions, state.busy.len(), state.writing_l2.clone()));
        assert_eq!(seen, (1, 1, vec![span]));
        drop(mark);
        assert!(
            jobs.with(|state| state.compactions == 0 && state.busy.is_empty() && state.writing_l2.is_empty())
        );
    }

    #[test]
    fn a_revoked_fence_lets_nothing_pass() {
        let fence = Arc::new(Fence::default());
        let pace = FencedPace { pace: Arc::new(NoPace), fence: Arc::clone(&fence) };
        assert!(pace.pay(1).is_ok() && fence.pass(|| Ok(1)).is_ok());
        fence.revoke();
        assert_eq!(pace.pay(1).unwrap_err().kind(), crate::error::ErrorKind::Busy);
        assert!(fence.pass(|| Ok(1)).is_err());
    }
}
