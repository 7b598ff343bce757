//! A grant: the right to run one background job, with its place at a worker. It returns itself when it is
//! dropped, on a panic too, and pays the node's I/O budget for the job chunk by chunk.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::schedule::{Budget, FlushProgress, IoClass, Standing};
use crate::{
    error::{Error, Result},
    table::Pace,
    tree::{FlushPlan, Tree},
};

/// How many jobs of each class may run at once on the node.
#[derive(Debug)]
pub(super) struct GrantBook {
    flush: Arc<Semaphore>,
    compaction: Arc<Semaphore>,
    budget: Arc<Budget>,
}

impl GrantBook {
    /// A book with this many places for each class of job.
    pub(super) fn new(flush: usize, compaction: usize, budget: Arc<Budget>) -> Self {
        Self {
            flush: Arc::new(Semaphore::new(flush)),
            compaction: Arc::new(Semaphore::new(compaction)),
            budget,
        }
    }

    /// Takes a place for a job of `class` in the incarnation of a shard that `jobs` belongs to.
    pub(super) fn take(&self, class: IoClass, jobs: &Arc<ShardJobs>) -> Option<Grant> {
        let places = if class == IoClass::Flush { &self.flush } else { &self.compaction };
        let place = Arc::clone(places).try_acquire_owned().ok()?;
        jobs.counter(class).fetch_add(1, Ordering::AcqRel);
        let (budget, jobs, ends) = (Arc::clone(&self.budget), Arc::clone(jobs), AtomicBool::new(false));
        Some(Grant { class, budget, jobs, ends, _place: place })
    }
}

/// The jobs that run for one incarnation of a shard; they stop at their next chunk once its tree is revoked.
pub(super) struct ShardJobs {
    flushes: AtomicUsize,
    compactions: AtomicUsize,
    /// Where the shard stands at the budget.
    pub flush: Arc<Standing>,
    pub compaction: Arc<Standing>,
    /// The last flush that was planned, and what was paid for those before it.
    flushing: Mutex<Option<(FlushProgress, u64)>>,
    tree: Arc<Tree>,
}

impl ShardJobs {
    pub(super) fn new(tree: Arc<Tree>) -> Self {
        Self {
            flushes: AtomicUsize::new(0),
            compactions: AtomicUsize::new(0),
            flush: Arc::new(Standing::new(IoClass::Flush)),
            compaction: Arc::new(Standing::new(IoClass::Compaction)),
            flushing: Mutex::new(None),
            tree,
        }
    }

    /// How many jobs of `class` hold a grant.
    pub(super) fn running(&self, class: IoClass) -> usize {
        self.counter(class).load(Ordering::Acquire)
    }

    /// Whether no job holds a grant.
    pub(super) fn idle(&self) -> bool {
        self.running(IoClass::Flush) == 0 && self.running(IoClass::Compaction) == 0
    }

    /// Notes the flush that is planned; there is one at a time.
    pub(super) fn begin_flush(&self, plan: &FlushPlan) {
        let progress = FlushProgress { input: plan.input_bytes(), memory: plan.memory_bytes(), paid: 0 };
        *self.flushing.lock() = Some((progress, self.flush.paid()));
    }

    /// How far the last flush is that was planned.
    pub(super) fn flush_progress(&self) -> Option<FlushProgress> {
        let (progress, before) = (*self.flushing.lock())?;
        Some(FlushProgress { paid: self.flush.paid().saturating_sub(before), ..progress })
    }

    fn counter(&self, class: IoClass) -> &AtomicUsize {
        if class == IoClass::Flush { &self.flushes } else { &self.compactions }
    }

    fn standing(&self, class: IoClass) -> &Arc<Standing> {
        if class == IoClass::Flush { &self.flush } else { &self.compaction }
    }
}

/// The right to run one job; see the module.
pub(super) struct Grant {
    class: IoClass,
    budget: Arc<Budget>,
    jobs: Arc<ShardJobs>,
    ends: AtomicBool,
    _place: OwnedSemaphorePermit,
}

impl Grant {
    pub(super) fn class(&self) -> IoClass {
        self.class
    }

    /// Whether the job's next step is its end.
    pub(super) fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }
}

impl Pace for Grant {
    fn pay(&self, bytes: u64) -> Result<()> {
        let standing = self.jobs.standing(self.class);
        if self.budget.pay(standing, bytes, &|| self.jobs.tree.is_revoked()) {
            return Ok(());
        }
        Err(Error::closed().context("the job was revoked: its shard is closing or being re-opened"))
    }

    fn begin_end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.jobs.counter(self.class).fetch_sub(1, Ordering::AcqRel);
    }
}
