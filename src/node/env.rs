//! The outside world as the node sees it: storage, clock, randomness and threads. Tests replace it whole.
//! The only place that reads the machine's clocks.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{executor::ActixSystem, parallel::cores, thread_priority::take_priority};
use crate::storage::{DiskStorage, Storage};

/// Everything outside the node that it depends on.
#[derive(Clone, Debug)]
pub struct Env {
    /// Where files live.
    pub storage: Arc<dyn Storage>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where random numbers come from.
    pub random: Arc<dyn Random>,
    /// How threads are started, those that actors live on, too.
    pub threads: Arc<dyn Threads>,
}

impl Env {
    /// The machine itself: its disk, clocks, randomness and threads.
    pub fn system() -> Self {
        Self::with_storage(Arc::new(DiskStorage::new()))
    }

    /// The machine, but with another storage.
    pub fn with_storage(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
            threads: Arc::new(SystemThreads),
        }
    }
}

/// Two clocks: one that only goes forward, and the wall's.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time since some fixed moment; never goes backwards.
    fn monotonic(&self) -> Duration;

    /// Milliseconds since the Unix epoch, as the machine believes; may jump.
    fn wall_ms(&self) -> u64;

    /// Blocks the calling thread for `duration`.
    fn sleep(&self, duration: Duration);
}

/// A source of random numbers.
pub trait Random: Send + Sync + fmt::Debug {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// What a thread gets where there are too few processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// As much as the others.
    Normal,
    /// A small part beside those: enough to come to the next of a few milliseconds before long, however many there are.
    Low,
    /// Next to nothing but what those leave.
    Lowest,
}

/// Starts threads.
pub trait Threads: Send + Sync + fmt::Debug {
    /// Starts a thread called `name` that runs `body`.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Thread>>;

    /// The same with a thread of some priority. Unless implemented, it is one as any other.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    fn spawn_with(
        &self,
        priority: Priority,
        name: &str,
        body: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Box<dyn Thread>> {
        let _ = priority;
        self.spawn(name, body)
    }

    /// Starts a thread called `name` that actors live on.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    fn start_system(&self, name: &str) -> io::Result<Box<dyn ActorSystem>>;

    /// Over how many threads one piece of work is spread at the most; 1: whoever has it does it alone.
    fn parallelism(&self) -> usize;
}

/// A thread that was started.
pub trait Thread: Send + fmt::Debug {
    /// Whether the caller runs on it.
    fn is_current(&self) -> bool;

    /// Waits for its end. False if it panicked.
    fn join(self: Box<Self>) -> bool;
}

/// A thread that runs futures which never leave it: actors.
pub trait Executor: Send + Sync + fmt::Debug {
    /// Makes a future on the executor's thread, and runs it there beside its others. Once the executor has ended it is
    /// dropped.
    fn run(&self, make: MakeFuture);
}

/// The first of a node's executors, which has the others.
pub trait ActorSystem: Executor {
    /// Starts another executor with a thread of its own, which ends with this one. Called on this one's thread.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    fn start_another(&self) -> io::Result<Box<dyn Executor>>;

    /// Ends it and the others: what runs on them is dropped. Waits for the end of its own thread; those of the others
    /// may take a moment longer.
    fn end(&self);
}

/// Makes a future where it is to run.
pub type MakeFuture = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn wall_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that puts a thread to sleep")]
    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// The machine's randomness.
#[derive(Debug)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        let mut bytes = [0u8; 8];
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        if got == Ok(bytes.len()) {
            return u64::from_le_bytes(bytes);
        }
        // The standard library's hasher keys are random too; they serve where the system call does not.
        std::hash::RandomState::new().build_hasher().finish()
    }
}

/// The machine's threads.
#[derive(Debug)]
pub struct SystemThreads;

impl Threads for SystemThreads {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Thread>> {
        Ok(Box::new(std::thread::Builder::new().name(name.to_owned()).spawn(body)?))
    }

    fn spawn_with(
        &self,
        priority: Priority,
        name: &str,
        body: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Box<dyn Thread>> {
        let body = Box::new(move || {
            take_priority(priority);
            body();
        });
        self.spawn(name, body)
    }

    fn start_system(&self, name: &str) -> io::Result<Box<dyn ActorSystem>> {
        Ok(Box::new(ActixSystem::start(name)?))
    }

    fn parallelism(&self) -> usize {
        cores()
    }
}

impl Thread for JoinHandle<()> {
    fn is_current(&self) -> bool {
        self.thread().id() == std::thread::current().id()
    }

    fn join(self: Box<Self>) -> bool {
        (*self).join().is_ok()
    }
}
