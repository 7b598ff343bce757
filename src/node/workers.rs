//! Fixed sets of worker threads, each fed by a bounded flume queue. A job that panics ends itself, not its
//! worker. Flushes, compactions, reads and syncs have sets of their own: none queues behind another kind.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread::JoinHandle,
};

use parking_lot::Mutex;

use super::env::Threads;
use crate::error::{Error, ErrorKind, Result};

/// One unit of work.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A set of worker threads.
#[derive(Debug)]
pub(super) struct WorkerPool {
    name: &'static str,
    queue: Mutex<Option<flume::Sender<Option<Job>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
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
        let (sender, receiver) = flume::bounded::<Option<Job>>(capacity);
        let mut handles = Vec::with_capacity(count);
        for i in 0..count {
            let receiver = receiver.clone();
            let body = Box::new(move || {
                while let Ok(Some(job)) = receiver.recv() {
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!(worker = name, "a background job panicked");
                    }
                }
            });
            let handle = threads.spawn(&format!("dbex-{name}-{i}"), body).map_err(|error| {
                Error::with_source(ErrorKind::Io, format!("cannot start a {name} thread"), error)
            })?;
            handles.push(handle);
        }
        Ok(Self { name, queue: Mutex::new(Some(sender)), threads: Mutex::new(handles) })
    }

    /// Hands a job over, waiting while the queue is full.
    ///
    /// # Errors
    /// `Closed` after [`WorkerPool::stop`].
    pub(super) fn submit(&self, job: Job) -> Result<()> {
        self.sender()?.send(Some(job)).map_err(|_| Error::closed())
    }

    /// Hands a job over, waiting, without blocking the thread, while the queue is full.
    ///
    /// # Errors
    /// `Closed` after [`WorkerPool::stop`].
    pub(super) async fn submit_async(&self, job: Job) -> Result<()> {
        let sender = self.sender()?;
        sender.send_async(Some(job)).await.map_err(|_| Error::closed())
    }

    /// Lets the queued jobs finish and ends the threads. A worker that calls this does not wait for itself.
    pub(super) fn stop(&self) {
        let queue = self.queue.lock().take();
        let threads = std::mem::take(&mut *self.threads.lock());
        // NOTE: told one by one: a caller's future that waits for room holds a sender of its own, so the
        // threads would not see the queue end.
        for _ in &threads {
            let _ = queue.as_ref().map(|queue| queue.send(None));
        }
        for handle in threads {
            if handle.thread().id() != std::thread::current().id() && handle.join().is_err() {
                tracing::error!(worker = self.name, "a worker thread panicked");
            }
        }
    }

    fn sender(&self) -> Result<flume::Sender<Option<Job>>> {
        self.queue.lock().clone().ok_or_else(Error::closed)
    }
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
        pool.stop();
        assert_eq!(pool.submit(Box::new(|| ())).unwrap_err().kind(), ErrorKind::Closed);
    }
}
