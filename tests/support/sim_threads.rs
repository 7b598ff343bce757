//! A world in which all of a node's threads run on one, as coroutines, and time passes only when all of them wait. The
//! node's actors, workers, locks and schedule are the real ones. Who is woken first comes first, unless the seed says that
//! he lets others pass, or comes late: the same seed gives the same order.
//!
//! ```text
//!   tokio, one thread, paused time ─► Coroutine: a task that runs a thread until it waits
//!                                        ▲                        │ waiting::block_on
//!                                        └── woken by what it waits for, sometimes late
//! ```

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use dbex::{
    ActorSystem, Clock, Executor, MakeFuture, Thread, Threads,
    waiting::{self, Waiter, block_on},
};
use futures_util::future::select;
use generator::{Generator, Gn};
use tokio::{
    sync::watch,
    task::LocalSet,
    time::{Instant, sleep},
};

use crate::random::Random;

/// In words.
const STACK: usize = (1 << 20) / size_of::<usize>();
const START_MS: u64 = 1_700_000_000_000;

thread_local! {
    /// The simulated thread that runs now.
    static CURRENT: RefCell<Option<Rc<Me>>> = const { RefCell::new(None) };
    static STARTED: Cell<u64> = const { Cell::new(0) };
    static ALIVE: RefCell<BTreeMap<u64, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// A simulated thread, as it sees itself.
struct Me {
    name: String,
    id: u64,
    task: RefCell<Waker>,
}

fn me() -> Option<Rc<Me>> {
    CURRENT.with_borrow(Clone::clone)
}

/// The name of the simulated thread that runs now; empty outside of them.
pub(crate) fn current_name() -> String {
    me().map_or_else(String::new, |me| me.name.clone())
}

/// The names of the simulated threads that have not ended.
pub(crate) fn alive() -> Vec<String> {
    ALIVE.with_borrow(|alive| alive.values().cloned().collect())
}

/// Has this thread wait as a simulated one does, as long as this lives.
struct Simulating;

impl Simulating {
    fn start(seed: u64, lateness: Lateness) -> Self {
        ALIVE.take();
        waiting::wait_by(Some(Rc::new(SimWaiter { random: RefCell::new(Random::new(seed)), lateness })));
        Self
    }
}

impl Drop for Simulating {
    fn drop(&mut self) {
        waiting::wait_by(None);
    }
}

/// Runs `main` on a simulated thread, in a world in which so many waits are late; returns what it returns.
pub(crate) fn simulate<T: Send + 'static>(
    seed: u64,
    lateness: Lateness,
    main: impl FnOnce() -> T + Send + 'static,
) -> T {
    // NOTE: a real thread for each: what the node keeps for a thread is not to come from another life.
    let life = std::thread::spawn(move || simulate_here(seed, lateness, main));
    life.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn simulate_here<T: Send + 'static>(
    seed: u64,
    lateness: Lateness,
    main: impl FnOnce() -> T + Send + 'static,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime on this thread");
    let _simulating = Simulating::start(seed, lateness);
    let result = Arc::new(parking_lot::Mutex::new(None));
    let put = Arc::clone(&result);
    LocalSet::new().block_on(&runtime, async move {
        let main = start("main", Box::new(move || *put.lock() = Some(main())));
        let mut end = main.end;
        let ended = end.wait_for(Option::is_some).await;
        assert_eq!(ended.map(|ended| *ended).ok(), Some(Some(true)), "the simulated main thread panicked");
    });
    let result = result.lock().take();
    result.expect("the main thread has ended")
}

/// How often a thread whose wait is over comes to itself late, in 1,000, and by how much at the most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lateness {
    pub(crate) permille: usize,
    pub(crate) most: Duration,
}

/// Starts threads as coroutines.
#[derive(Debug)]
pub(crate) struct SimThreads;

impl Threads for SimThreads {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Thread>> {
        Ok(Box::new(start(name, body)))
    }

    fn start_system(&self, name: &str) -> io::Result<Box<dyn ActorSystem>> {
        Ok(Box::new(SimExecutor { name: name.to_owned(), ended: Arc::new(watch::Sender::new(false)) }))
    }

    fn parallelism(&self) -> usize {
        1
    }
}

fn start(name: &str, body: Box<dyn FnOnce() + Send>) -> SimThread {
    let id = STARTED.get();
    STARTED.set(id + 1);
    let (ended, end) = watch::channel(None);
    let generator = Gn::<()>::new_opt(STACK, move || {
        let ran = catch_unwind(AssertUnwindSafe(body)).is_ok();
        ALIVE.with_borrow_mut(|alive| alive.remove(&id));
        ended.send_replace(Some(ran));
    });
    ALIVE.with_borrow_mut(|alive| alive.insert(id, name.to_owned()));
    let me = Rc::new(Me { name: name.to_owned(), id, task: RefCell::new(Waker::noop().clone()) });
    tokio::task::spawn_local(Coroutine { generator: Some(generator), me });
    SimThread { id, end }
}

/// A simulated thread as a task.
struct Coroutine {
    /// Gone when it has come to its end.
    generator: Option<Generator<'static, (), ()>>,
    me: Rc<Me>,
}

impl Future for Coroutine {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.me.task.borrow_mut().clone_from(context.waker());
        let Some(mut generator) = self.generator.take() else { return Poll::Ready(()) };
        let before = CURRENT.replace(Some(Rc::clone(&self.me)));
        generator.resume();
        CURRENT.replace(before);
        if generator.is_done() {
            return Poll::Ready(());
        }
        self.generator = Some(generator);
        Poll::Pending
    }
}

impl Drop for Coroutine {
    fn drop(&mut self) {
        // NOTE: one that never came to its end is forgotten: to unwind it would run code of the node that waits.
        std::mem::forget(self.generator.take());
    }
}

/// A simulated thread, as others see it.
pub(crate) struct SimThread {
    id: u64,
    end: watch::Receiver<Option<bool>>,
}

impl fmt::Debug for SimThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimThread({})", self.id)
    }
}

impl Thread for SimThread {
    fn is_current(&self) -> bool {
        me().is_some_and(|me| me.id == self.id)
    }

    fn join(mut self: Box<Self>) -> bool {
        block_on(async { self.end.wait_for(Option::is_some).await.is_ok_and(|ended| *ended == Some(true)) })
    }
}

/// Actors on simulated threads, one for each future.
#[derive(Debug)]
struct SimExecutor {
    name: String,
    ended: Arc<watch::Sender<bool>>,
}

impl Executor for SimExecutor {
    fn run(&self, make: MakeFuture) {
        let mut ended = self.ended.subscribe();
        let body = move || {
            if *ended.borrow() {
                return;
            }
            let future = make();
            block_on(async {
                let end = pin!(ended.wait_for(|ended| *ended));
                select(future, end).await;
            });
        };
        start(&self.name, Box::new(body));
    }
}

impl ActorSystem for SimExecutor {
    fn start_another(&self) -> io::Result<Box<dyn Executor>> {
        Ok(Box::new(Self { name: format!("{}-shard", self.name), ended: Arc::clone(&self.ended) }))
    }

    fn end(&self) {
        self.ended.send_replace(true);
        block_on(self.ended.closed());
    }
}

/// Suspends the simulated thread that waits, so that others run.
struct SimWaiter {
    random: RefCell<Random>,
    lateness: Lateness,
}

/// Whether what a thread waits for has called it.
struct Call {
    has_come: AtomicBool,
    task: Waker,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.has_come.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

impl Waiter for SimWaiter {
    fn wait(&self, future: Pin<&mut dyn Future<Output = ()>>) {
        suspend_until(future);
        let (passes, late) = {
            let mut random = self.random.borrow_mut();
            let most = usize::try_from(self.lateness.most.as_millis()).expect("a short time");
            let late = random.permille(self.lateness.permille).then(|| random.between(1, most.max(1)));
            (random.below(3), late)
        };
        for _ in 0..passes {
            suspend_until(pin!(tokio::task::yield_now()));
        }
        if let Some(ms) = late {
            suspend_until(pin!(sleep(Duration::from_millis(ms as u64))));
        }
    }
}

fn suspend_until(mut future: Pin<&mut dyn Future<Output = ()>>) {
    let me = me().expect("only a simulated thread may wait");
    // NOTE: each wait has a call of its own: one within another must not take what the outer one waits for.
    let call = Arc::new(Call { has_come: AtomicBool::new(false), task: me.task.borrow().clone() });
    let waker = Waker::from(Arc::clone(&call));
    while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        while !call.has_come.swap(false, Ordering::Relaxed) {
            #[expect(deprecated, reason = "whoever waits, however deep, has no scope at hand")]
            generator::yield_with(());
        }
    }
}

/// The world's time.
#[derive(Debug)]
pub(crate) struct SimClock {
    start: Instant,
}

impl SimClock {
    /// Inside a simulation: its time from now on.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        START_MS + u64::try_from(self.start.elapsed().as_millis()).expect("a short time")
    }

    fn sleep(&self, duration: Duration) {
        block_on(sleep(duration));
    }
}
