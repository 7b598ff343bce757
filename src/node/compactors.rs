//! The workers that compact: two sets of them, one of low priority. What runs goes over to the other one, between two of its
//! steps, while compaction is pressing or somebody waits for it. A thread can lower its priority, but mostly may not raise
//! it again: so it is the work that moves.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{
    env::Threads,
    workers::{Job, WorkerPool},
};
use crate::error::Result;

/// Work in steps.
pub(super) trait Stepped: Send {
    /// Takes the next step, of a few milliseconds. Whether there are others.
    fn advance(&mut self) -> bool;

    /// What is to be done at the end, which others may wait for: it never runs at a low priority.
    fn finish(self: Box<Self>);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Priority {
    Low,
    Normal,
}

/// Begins the work, on a worker.
pub(super) type Begin = Box<dyn FnOnce() -> Box<dyn Stepped> + Send>;

/// See the module.
#[derive(Debug)]
pub(super) struct Compactors {
    low: WorkerPool,
    normal: WorkerPool,
    is_pressing: AtomicBool,
    /// How many wait for compactions to end.
    waiting: AtomicUsize,
}

/// While it lives, somebody waits for compactions.
pub(super) struct Waiting<'a>(&'a Compactors);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Compactors {
    /// Starts `count` threads of each kind, for as many jobs.
    ///
    /// # Errors
    /// `Io` when a thread cannot be started.
    pub(super) fn start(threads: &dyn Threads, count: usize) -> Result<Self> {
        Ok(Self {
            low: WorkerPool::start_low_priority(threads, "compact-low", count, count)?,
            normal: WorkerPool::start(threads, "compact", count, count)?,
            is_pressing: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Whether a shard is far behind.
    pub(super) fn is_pressing(&self) -> bool {
        self.is_pressing.load(Ordering::Relaxed)
    }

    /// Says so. What runs follows at its next step.
    pub(super) fn set_pressing(&self, pressing: bool) {
        self.is_pressing.store(pressing, Ordering::Relaxed);
    }

    /// For who waits for compactions to end: as long as he does, they have no low priority.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    fn priority(&self) -> Priority {
        let hurries = self.is_pressing() || self.waiting.load(Ordering::Relaxed) > 0;
        if hurries { Priority::Normal } else { Priority::Low }
    }

    /// Hands work over, if there is room for it.
    ///
    /// # Errors
    /// `Busy` when there is none; `Closed` after [`Compactors::stop`].
    pub(super) fn try_submit(self: &Arc<Self>, begin: Begin) -> Result<()> {
        let (this, priority) = (Arc::clone(self), self.priority());
        self.workers(priority).try_submit(Box::new(move || this.go_on(begin(), priority)))
    }

    /// Lets the queued work finish and ends the threads.
    pub(super) fn stop(&self) {
        // NOTE: what goes over when both are told to end finds a closed queue, and is dropped.
        self.low.stop();
        self.normal.stop();
    }

    fn workers(&self, priority: Priority) -> &WorkerPool {
        match priority {
            Priority::Low => &self.low,
            Priority::Normal => &self.normal,
        }
    }

    /// Goes on with work on a worker of that priority, as long as it is the one that it should have.
    fn go_on(self: Arc<Self>, mut work: Box<dyn Stepped>, priority: Priority) {
        while work.advance() {
            let wanted = self.priority();
            if wanted != priority {
                let this = Arc::clone(&self);
                return self.hand_over(wanted, Box::new(move || this.go_on(work, wanted)));
            }
        }
        let finish: Job = Box::new(move || work.finish());
        match priority {
            Priority::Low => self.hand_over(Priority::Normal, finish),
            Priority::Normal => finish(),
        }
    }

    /// NOTE: there is room for as many jobs as there are grants, and nothing is stopped before all of them have ended; else
    /// it is dropped, and tells so itself.
    fn hand_over(&self, priority: Priority, job: Job) {
        drop(self.workers(priority).try_submit(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::env::SystemThreads;

    /// Tells where each of its steps is taken, and takes the next when it is told to.
    struct Told {
        steps: usize,
        go: flume::Receiver<()>,
        places: flume::Sender<(String, i32)>,
    }

    impl Told {
        fn tell(&self) {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            let nice = rustix::process::getpriority_process(None).unwrap();
            self.places.send((name, nice)).unwrap();
        }
    }

    impl Stepped for Told {
        fn advance(&mut self) -> bool {
            self.go.recv().unwrap();
            self.tell();
            self.steps -= 1;
            self.steps > 0
        }

        fn finish(self: Box<Self>) {
            self.tell();
        }
    }

    #[test]
    fn work_goes_where_it_should_run_and_ends_where_nobody_goes_first() {
        let compactors = Arc::new(Compactors::start(&SystemThreads, 1).unwrap());
        let ((go, told), (places, came)) = (flume::unbounded(), flume::unbounded());
        let begin: Begin = Box::new(move || Box::new(Told { steps: 6, go: told, places }));
        compactors.try_submit(begin).unwrap();
        let own = rustix::process::getpriority_process(None).unwrap();
        let step = || {
            go.send(()).unwrap();
            came.recv().unwrap()
        };
        let is_low = |(name, nice): (String, i32)| {
            let is_low = name == "dbex-compact-low-0";
            assert!(is_low || name == "dbex-compact-0", "{name}");
            let is_nicer = is_low && own < 19 && cfg!(target_os = "linux");
            assert_eq!(nice > own, is_nicer, "{name} has {nice}, the host {own}");
            is_low
        };
        let mut ran = vec![step()];
        compactors.set_pressing(true);
        // The step before this one may have looked already.
        ran.extend([step(), step()]);
        compactors.set_pressing(false);
        ran.extend([step(), step(), step()]);
        ran.push(came.recv().unwrap());
        let ran: Vec<_> = ran.into_iter().map(is_low).collect();
        assert_eq!((ran[0], ran[2], &ran[4..]), (true, false, &[true, true, false][..]), "{ran:?}");
        compactors.stop();
    }

    #[test]
    fn who_waits_for_compactions_is_not_kept_waiting_by_others() {
        let compactors = Compactors::start(&SystemThreads, 1).unwrap();
        let first = compactors.wait();
        let second = compactors.wait();
        drop(first);
        assert_eq!((compactors.priority(), compactors.is_pressing()), (Priority::Normal, false));
        drop(second);
        assert_eq!(compactors.priority(), Priority::Low);
        compactors.stop();
    }

    #[test]
    fn nothing_is_taken_after_the_end() {
        let compactors = Arc::new(Compactors::start(&SystemThreads, 2).unwrap());
        compactors.stop();
        let begin: Begin = Box::new(|| panic!("it never runs"));
        assert_eq!(compactors.try_submit(begin).unwrap_err().kind(), crate::error::ErrorKind::Closed);
    }
}
