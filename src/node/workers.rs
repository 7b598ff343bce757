//! Fixed sets of worker threads, each fed by a bounded flume queue. A job that panics ends itself, not its
//! worker. Flushes, compactions, reads, syncs and the preparing of log segments have sets of their own: none queues
//! behind another kind.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;

use super::env::{Priority, Thread, Threads};
use crate::{
    error::{Error, ErrorKind, Result},
    waiting,
};

/// One unit of work.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Work that is done in steps, by several workers at once; a worker is done when it breaks.
pub(super) type Step = Arc<dyn Fn() -> ControlFlow<()> + Send + Sync>;

/// A set of worker threads.
#[derive(Debug)]
pub(super) struct WorkerPool {
    name: &'static str,
    count: usize,
    queue: Mutex<Option<Queue>>,
    threads: Mutex<Vec<Box<dyn Thread>>>,
}

#[derive(Debug)]
struct Queue {
    jobs: flume::Sender<Option<Job>>,
    waiting: flume::Receiver<Option<Job>>,
}

impl WorkerPool {
    /// Starts `count` threads with room for `capacity` waiting jobs.
    ///
    /// # Errors
    /// `Io` when a thread cannot be started.
    pub(super) fn start(
        threads: &dyn Threads,
        name: &'static str,
        count: usize,
        capacity: usize,
    ) -> Result<Self> {
        Self::start_with(threads, Priority::Normal, name, count, capacity)
    }

    /// The same with threads of some priority.
    ///
    /// # Errors
    /// `Io` when a thread cannot be started.
    pub(super) fn start_with(
        threads: &dyn Threads,
        priority: Priority,
        name: &'static str,
        count: usize,
        capacity: usize,
    ) -> Result<Self> {
        let (jobs, waiting) = flume::bounded::<Option<Job>>(capacity);
        let mut handles = Vec::with_capacity(count);
        for i in 0..count {
            let waiting = waiting.clone();
            let body: Job = Box::new(move || {
                while let Ok(Some(job)) = waiting::receive(&waiting) {
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!(worker = name, "a background job panicked");
                    }
                }
            });
            let handle = threads.spawn_with(priority, &format!("dbex-{name}-{i}"), body);
            let handle = handle.map_err(|error| {
                Error::with_source(ErrorKind::Io, format!("cannot start a {name} thread"), error)
            })?;
            handles.push(handle);
        }
        Ok(Self {
            name,
            count,
            queue: Mutex::new(Some(Queue { jobs, waiting })),
            threads: Mutex::new(handles),
        })
    }

    /// Hands a job over, waiting while the queue is full.
    ///
    /// # Errors
    /// `Closed` after [`WorkerPool::stop`].
    pub(super) fn submit(&self, job: Job) -> Result<()> {
        waiting::send(&self.sender()?, Some(job)).map_err(|_| Error::closed())
    }

    /// Hands a job over if there is room for it.
    ///
    /// # Errors
    /// `Busy` when the queue is full; `Closed` after [`WorkerPool::stop`].
    pub(super) fn try_submit(&self, job: Job) -> Result<()> {
        self.sender()?.try_send(Some(job)).map_err(|error| match error {
            flume::TrySendError::Full(_) => {
                Error::busy(format!("too many jobs wait for a {} worker", self.name))
            }
            flume::TrySendError::Disconnected(_) => Error::closed(),
        })
    }

    /// Runs `work` on a worker and waits for it, without blocking the thread.
    ///
    /// # Errors
    /// `Closed` after [`WorkerPool::stop`], which a job that came too late is told, too; `Internal` when it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            let _ = reply.send(work());
        });
        let sender = self.sender()?;
        sender.send_async(Some(job)).await.map_err(|_| Error::closed())?;
        drop(sender);
        answer.await.map_err(|_| self.why_dropped())
    }

    /// How many threads there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Has up to `workers` workers take steps until each breaks: one for certain, waiting for room in the queue, the
    /// others if there is room. Whatever waits in the queue has its turn between two steps.
    ///
    /// # Errors
    /// `Closed` after [`WorkerPool::stop`].
    pub(super) async fn start_steps(&self, workers: usize, step: Step) -> Result<()> {
        let sender = self.sender()?;
        let job = steps(sender.clone(), Arc::clone(&step));
        sender.send_async(Some(job)).await.map_err(|_| Error::closed())?;
        self.try_start_steps(workers.saturating_sub(1), &step);
        Ok(())
    }

    /// The same, without waiting: with as many workers as there is room for, maybe none.
    pub(super) fn try_start_steps(&self, workers: usize, step: &Step) {
        let Ok(sender) = self.sender() else { return };
        for _ in 0..workers {
            if sender.try_send(Some(steps(sender.clone(), Arc::clone(step)))).is_err() {
                return;
            }
        }
    }

    /// Why a job was dropped that was handed over.
    pub(super) fn why_dropped(&self) -> Error {
        match self.sender() {
            Ok(_) => Error::internal(format!("a {} worker panicked", self.name)),
            Err(closed) => closed,
        }
    }

    /// Lets the queued jobs finish and ends the threads. A worker that calls this does not wait for itself. Jobs
    /// that come later are dropped.
    pub(super) fn stop(&self) {
        let queue = self.queue.lock().take();
        let threads = std::mem::take(&mut *self.threads.lock());
        // NOTE: told one by one: a caller's future that waits for room holds a sender of its own, so the
        // threads would not see the queue end.
        for _ in &threads {
            let _ = queue.as_ref().map(|queue| waiting::send(&queue.jobs, None));
        }
        for thread in threads {
            if !thread.is_current() && !thread.join() {
                tracing::error!(worker = self.name, "a worker thread panicked");
            }
        }
        // IMPORTANT: only now: what is told one by one stands in the same queue.
        if let Some(queue) = queue {
            queue.waiting.try_iter().for_each(drop);
        }
    }

    fn sender(&self) -> Result<flume::Sender<Option<Job>>> {
        self.queue.lock().as_ref().map(|queue| queue.jobs.clone()).ok_or_else(Error::closed)
    }
}

/// Takes steps until one breaks; when others wait, it stands in line again behind them.
fn steps(queue: flume::Sender<Option<Job>>, step: Step) -> Job {
    Box::new(move || {
        while step().is_continue() {
            if queue.is_empty() {
                continue;
            }
            let again = steps(queue.clone(), Arc::clone(&step));
            if queue.try_send(Some(again)).is_ok() {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::env::SystemThreads;

    #[test]
    fn a_panic_ends_the_job_and_not_the_worker() {
        let pool = WorkerPool::start(&SystemThreads, "test", 1, 4).unwrap();
        pool.submit(Box::new(|| panic!("a planted panic"))).unwrap();
        let (done, wait) = flume::bounded(1);
        pool.submit(Box::new(move || done.send(7).unwrap())).unwrap();
        assert_eq!(wait.recv(), Ok(7));
        let panicked = pollster::block_on(pool.run(|| panic!("a planted panic")));
        assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(pollster::block_on(pool.run(|| 8)).unwrap(), 8);
        pool.stop();
        assert_eq!(pool.submit(Box::new(|| ())).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(pollster::block_on(pool.run(|| 9)).unwrap_err().kind(), ErrorKind::Closed);
    }

    #[test]
    fn what_comes_behind_the_end_is_told_that_the_pool_is_closed() {
        let pool = WorkerPool::start(&SystemThreads, "test", 2, 8).unwrap();
        // The workers are told to end, and the pool does not know it yet: as between two steps of a stop.
        let sender = pool.sender().unwrap();
        (0..2).for_each(|_| sender.send(None).unwrap());
        drop(sender);
        std::thread::scope(|scope| {
            let late = scope.spawn(|| pollster::block_on(pool.run(|| ())));
            while pool.queue.lock().as_ref().is_some_and(|queue| queue.jobs.is_empty()) {
                std::thread::yield_now();
            }
            pool.stop();
            assert_eq!(late.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        });
    }

    #[test]
    fn a_full_queue_is_busy_for_who_does_not_wait() {
        let pool = WorkerPool::start(&SystemThreads, "test", 1, 1).unwrap();
        let (go, wait) = flume::bounded::<()>(0);
        pool.submit(Box::new(move || assert!(wait.recv().is_err()))).unwrap();
        pool.submit(Box::new(|| ())).unwrap();
        let full = (0..2).map(|_| pool.try_submit(Box::new(|| ()))).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), ErrorKind::Busy);
        drop(go);
        pool.stop();
    }
}
