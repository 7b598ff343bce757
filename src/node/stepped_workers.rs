//! Workers for what can mostly wait: two sets of them, one of a low priority. What runs goes over to the other one, between
//! two of its steps, while it is pressing or somebody waits for it. A thread can lower its priority, but mostly may not
//! raise it again: so it is the work that moves. It begins and ends at normal priority.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{
    env::{Priority, Threads},
    workers::{Job, WorkerPool},
};
use crate::error::Result;

/// Work in steps.
pub(super) trait Stepped: Send {
    /// Takes the next step on a thread of that priority. What comes then.
    fn advance(&mut self, at: Priority) -> Next;

    /// What is to be done at the end, which others may wait for: it never runs at a low priority.
    fn finish(self: Box<Self>);
}

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another one, of a few milliseconds.
    Step,
    /// One that may take longer, and that others may wait for: it is never taken at a low priority.
    End,
    /// [`Stepped::finish`].
    Finish,
}

/// Begins the work, on a worker.
pub(super) type Begin = Box<dyn FnOnce() -> Box<dyn Stepped> + Send>;

/// See the module.
#[derive(Debug)]
pub(super) struct SteppedWorkers {
    /// What the patient ones have.
    low: Priority,
    patient: WorkerPool,
    normal: WorkerPool,
    is_pressing: AtomicBool,
    /// How many wait for the work to end.
    waiting: AtomicUsize,
}

/// What the threads of both sets are called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub normal: &'static str,
    pub patient: &'static str,
}

/// While it lives, somebody waits for the work.
pub(super) struct Waiting<'a>(&'a SteppedWorkers);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SteppedWorkers {
    /// Starts `count` threads of normal priority and as many of that `low` one, for as many jobs.
    ///
    /// # Errors
    /// `Io` when a thread cannot be started.
    pub(super) fn start(threads: &dyn Threads, low: Priority, names: Names, count: usize) -> Result<Self> {
        Ok(Self {
            low,
            patient: WorkerPool::start_with(threads, low, names.patient, count, count)?,
            normal: WorkerPool::start(threads, names.normal, count, count)?,
            is_pressing: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Whether the work can't wait.
    pub(super) fn is_pressing(&self) -> bool {
        self.is_pressing.load(Ordering::Relaxed)
    }

    /// Says so. What runs follows at its next step. Whether it was otherwise.
    pub(super) fn set_pressing(&self, pressing: bool) -> bool {
        self.is_pressing.swap(pressing, Ordering::Relaxed) != pressing
    }

    /// For who waits for the work to end: as long as he does, it has no low priority.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    fn priority(&self) -> Priority {
        let hurries = self.is_pressing() || self.waiting.load(Ordering::Relaxed) > 0;
        if hurries { Priority::Normal } else { self.low }
    }

    /// Hands work over, if there is room for it.
    ///
    /// # Errors
    /// `Busy` when there is none; `Closed` after [`SteppedWorkers::stop`].
    pub(super) fn try_submit(self: &Arc<Self>, begin: Begin) -> Result<()> {
        let this = Arc::clone(self);
        self.normal.try_submit(Box::new(move || this.go_on(begin(), Priority::Normal)))
    }

    /// Lets the queued work finish and ends the threads.
    pub(super) fn stop(&self) {
        // NOTE: what goes over when both are told to end finds a closed queue, and is dropped.
        self.patient.stop();
        self.normal.stop();
    }

    fn workers(&self, priority: Priority) -> &WorkerPool {
        if priority == Priority::Normal { &self.normal } else { &self.patient }
    }

    /// Goes on with work on a worker of that priority, as long as it is the one that it should have.
    fn go_on(self: Arc<Self>, mut work: Box<dyn Stepped>, priority: Priority) {
        loop {
            let wanted = match work.advance(priority) {
                Next::Step => self.priority(),
                Next::End => Priority::Normal,
                Next::Finish => break,
            };
            if wanted != priority {
                let this = Arc::clone(&self);
                return self.hand_over(wanted, Box::new(move || this.go_on(work, wanted)));
            }
        }
        let finish: Job = Box::new(move || work.finish());
        if priority == Priority::Normal { finish() } else { self.hand_over(Priority::Normal, finish) }
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

    fn start(count: usize) -> SteppedWorkers {
        let names = Names { normal: "test", patient: "test-low" };
        SteppedWorkers::start(&SystemThreads, Priority::Low, names, count).unwrap()
    }

    impl Told {
        fn tell(&self) {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            let nice = rustix::process::getpriority_process(None).unwrap();
            self.places.send((name, nice)).unwrap();
        }
    }

    impl Stepped for Told {
        fn advance(&mut self, at: Priority) -> Next {
            self.go.recv().unwrap();
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            assert_eq!(at == Priority::Low, name == "dbex-test-low-0", "{at:?} on {name}");
            self.tell();
            self.steps -= 1;
            match self.steps {
                0 => Next::Finish,
                1 => Next::End,
                _ => Next::Step,
            }
        }

        fn finish(self: Box<Self>) {
            self.tell();
        }
    }

    #[test]
    fn work_goes_where_it_should_run_and_begins_and_ends_where_nobody_goes_first() {
        let workers = Arc::new(start(1));
        let ((go, told), (places, came)) = (flume::unbounded(), flume::unbounded());
        let begin: Begin = Box::new(move || Box::new(Told { steps: 8, go: told, places }));
        workers.try_submit(begin).unwrap();
        let own = rustix::process::getpriority_process(None).unwrap();
        let step = || {
            go.send(()).unwrap();
            came.recv().unwrap()
        };
        let is_low = |(name, nice): (String, i32)| {
            let is_low = name == "dbex-test-low-0";
            assert!(is_low || name == "dbex-test-0", "{name}");
            let is_nicer = is_low && own < 19 && cfg!(target_os = "linux");
            assert_eq!(nice > own, is_nicer, "{name} has {nice}, the host {own}");
            is_low
        };
        let mut ran = vec![step(), step()];
        workers.set_pressing(true);
        // The step before this one may have looked already.
        ran.extend([step(), step()]);
        workers.set_pressing(false);
        ran.extend([step(), step(), step(), step()]);
        ran.push(came.recv().unwrap());
        let ran: Vec<_> = ran.into_iter().map(is_low).collect();
        assert_eq!(
            (&ran[..2], ran[3], &ran[5..]),
            (&[false, true][..], false, &[true, true, false, false][..]),
            "{ran:?}"
        );
        workers.stop();
    }

    #[test]
    fn who_waits_for_the_work_is_not_kept_waiting_by_others() {
        let workers = start(1);
        let first = workers.wait();
        let second = workers.wait();
        drop(first);
        assert_eq!((workers.priority(), workers.is_pressing()), (Priority::Normal, false));
        drop(second);
        assert_eq!(workers.priority(), Priority::Low);
        workers.stop();
    }

    #[test]
    fn nothing_is_taken_after_the_end() {
        let workers = Arc::new(start(2));
        workers.stop();
        let begin: Begin = Box::new(|| panic!("it never runs"));
        assert_eq!(workers.try_submit(begin).unwrap_err().kind(), crate::error::ErrorKind::Closed);
    }
}
