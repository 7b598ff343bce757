//! One incarnation of a shard, as everyone who works with it shares it: its tree, its inbox, the turn, its
//! health. The actor, callers in place, the batch lane and the workers all hold an `Arc` of it; a re-open
//! puts a new one in its place.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    admission::Admission,
    env::Clock,
    grant::ShardJobs,
    health::{Health, Sickness},
    in_flight::InFlight,
    job_failures::JobFailures,
    options::Durability,
    request::{Work, WriteRequest},
    schedule::{IoClass, Pacer},
    turn_gate::{TurnGate, TurnPermit},
    wants::Wants,
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::SeqNo,
    tree::{Tree, TreeWriter},
    waiting::block_on,
};

/// The number of requests that may wait in an inbox; their bytes are bounded by admission.
const INBOX_REQUESTS: usize = 4096;

/// Tells the incarnations of all shards of this process apart.
static INCARNATIONS: AtomicU64 = AtomicU64::new(0);

pub(super) struct ShardCore {
    pub incarnation: u64,
    pub index: usize,
    pub tree: Arc<Tree>,
    inbox: flume::Sender<WriteRequest>,
    waiting: flume::Receiver<WriteRequest>,
    pub admission: Admission,
    /// What writers may add, and whose place is next.
    pub pacer: Pacer,
    pub jobs: Arc<ShardJobs>,
    gate: TurnGate,
    /// Ended by the turn's drop.
    pub in_flight: InFlight,
    /// From which number on the memtable may hold a part of a write: a turn panicked.
    torn_from: AtomicU64,
    /// IMPORTANT: locked only by whoever holds the gate, so it never waits.
    writer: Mutex<TreeWriter>,
    health: Health,
    /// The last `write`s of turns took this long, in nanoseconds, averaged; what a caller in place may have to wait.
    recent_turn_ns: AtomicU64,
    flush_failures: JobFailures,
    compaction_failures: JobFailures,
    /// Somebody waits for the jobs: what failed is to be tried again at once.
    pub retry: AtomicBool,
    /// Whether the coordinator has been told that this shard wants to be looked at.
    pub news: AtomicBool,
    pub wants: Wants,
    /// Whether the turn that is under way waits for the disk.
    pub turn_syncs: AtomicBool,
}

/// The turn: the gate's permit and the writer it guards.
pub(super) struct Turn<'a> {
    // NOTE: dropped in this order: the writer is unlocked before the gate lets the next one in.
    pub writer: MutexGuard<'a, TreeWriter>,
    in_flight: &'a InFlight,
    _permit: TurnPermit<'a>,
    _wake: WakeSnapshots<'a>,
}

/// Wakes who waits for a turn's numbers, after the turn.
struct WakeSnapshots<'a>(&'a InFlight);

impl Drop for WakeSnapshots<'_> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// How often the end of revoked jobs is looked for; they end at their next chunk.
const POLL: Duration = Duration::from_millis(1);
/// A turn that takes longer than this on average does not run on an async caller's thread.
const QUICK_TURN_NS: u64 = 200_000;
/// How often a thread that sleeps until the turn is free may find it taken before it queues.
const CHANCES: usize = 4;
/// How often a caller looks whether the turn has become free before it sleeps: for as long as to fall asleep, and to be
/// woken, would take, some tens of microseconds. On a single processor nobody could end a turn meanwhile.
static SPINS: LazyLock<usize> = LazyLock::new(|| {
    let is_alone = std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
    if is_alone { 1 } else { 1000 }
});

impl ShardCore {
    pub(super) fn new(index: usize, tree: Arc<Tree>, writer: TreeWriter, queue_bytes: u64) -> Self {
        let (inbox, waiting) = flume::bounded(INBOX_REQUESTS);
        Self {
            incarnation: INCARNATIONS.fetch_add(1, Ordering::Relaxed),
            index,
            jobs: Arc::new(ShardJobs::new(Arc::clone(&tree))),
            tree,
            inbox,
            waiting,
            admission: Admission::new(queue_bytes),
            pacer: Pacer::default(),
            gate: TurnGate::new(),
            in_flight: InFlight::new(),
            torn_from: AtomicU64::new(u64::MAX),
            writer: Mutex::new(writer),
            health: Health::default(),
            recent_turn_ns: AtomicU64::new(0),
            flush_failures: JobFailures::default(),
            compaction_failures: JobFailures::default(),
            retry: AtomicBool::new(false),
            news: AtomicBool::new(false),
            wants: Wants::default(),
            turn_syncs: AtomicBool::new(false),
        }
    }

    /// Takes the turn for a thread that may sleep until it is free; not while somebody waits in the inbox, or the turn waits
    /// for the disk.
    pub(super) fn turn_of_sleeper(&self) -> Option<Turn<'_>> {
        let mut turn = self.turn_in_place(true);
        for _ in 0..CHANCES {
            if turn.is_some() || self.turn_syncs.load(Ordering::Relaxed) || !self.nobody_waits() {
                break;
            }
            // Whoever has the turn has lost his processor, as it seems, and may get this one. When he goes on he does not
            // wait until this thread is awake.
            block_on(self.gate.freed());
            turn = self.turn_in_place(true);
            if turn.is_none() {
                // Those behind in the queue are told.
                drop(self.gate.try_acquire());
            }
        }
        turn
    }

    /// Takes the turn for a caller in place, if nobody waits in the inbox. With `spins` it looks for about as long as to queue,
    /// and to be woken, takes; but not while the turn waits for the disk.
    pub(super) fn turn_in_place(&self, spins: bool) -> Option<Turn<'_>> {
        for _ in 0..if spins { *SPINS } else { 1 } {
            if self.gate.seems_idle()
                && self.nobody_waits()
                && let Some(turn) = self.try_turn()
            {
                return Some(turn);
            }
            if self.turn_syncs.load(Ordering::Relaxed) {
                return None;
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Whether no turn is under way that may have a number below `bound`, after some looks: to be woken takes as long
    /// as many turns. Not while the turn waits for the disk.
    pub(super) fn is_past_soon(&self, bound: u64) -> bool {
        let looks = if self.turn_syncs.load(Ordering::Relaxed) { 1 } else { *SPINS };
        (0..looks).any(|look| {
            if look > 0 {
                std::hint::spin_loop();
            }
            self.in_flight.is_past(bound)
        })
    }

    /// Whether nothing waits in the inbox.
    pub(super) fn nobody_waits(&self) -> bool {
        self.inbox.is_empty()
    }

    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        self.gate.try_acquire().map(|permit| self.turn_of(permit))
    }

    /// Takes the turn, waiting in the order of asking.
    pub(super) async fn turn(&self) -> Turn<'_> {
        self.turn_of(self.gate.acquire().await)
    }

    fn turn_of<'a>(&'a self, permit: TurnPermit<'a>) -> Turn<'a> {
        let in_flight = &self.in_flight;
        Turn { writer: self.writer.lock(), in_flight, _permit: permit, _wake: WakeSnapshots(in_flight) }
    }

    /// Whether the shard and its tree take writes.
    ///
    /// # Errors
    /// Why they do not.
    pub(super) fn check_takes_writes(&self) -> Result<()> {
        self.health.check()?;
        self.tree.writable().inspect_err(|error| {
            if error.kind() == ErrorKind::Poisoned {
                self.health.fail(Sickness::LogInDoubt, error.clone());
            }
        })
    }

    /// Whether the shard takes writes, as far as is known without a lock.
    pub(super) fn seems_well(&self) -> bool {
        self.health.is_well() && self.tree.may_seal()
    }

    /// What the shard waits for, if it takes no writes.
    pub(super) fn sickness(&self) -> Option<Sickness> {
        if self.tree.wal().is_poisoned() {
            return Some(Sickness::LogInDoubt);
        }
        let known = self.health.sickness().map(|(sickness, _)| sickness);
        known.or_else(|| self.tree.writable().is_err().then_some(Sickness::LogInDoubt))
    }

    /// The shard takes no more writes, because of what befell its log.
    pub(super) fn doubt_log(&self, message: String, cause: &Error) -> bool {
        let error = Error::with_source(ErrorKind::Poisoned, message, cause.clone());
        self.health.fail(Sickness::LogInDoubt, error)
    }

    /// A sync that this shard's turn depended on failed: its log and its memtable part ways. Whether that is news.
    pub(super) fn fail_for_sync(&self, cause: &Error) -> bool {
        let index = self.index;
        let message = format!(
            "a sync for shard {index} failed: it refuses writes until it is re-opened (`reopen_shards`)"
        );
        self.doubt_log(message, cause)
    }

    /// A turn of the shard panicked. Whoever has that turn says so.
    pub(super) fn fail_for_panic(&self) {
        self.torn_from.fetch_min(self.in_flight.lowest(), Ordering::Release);
        self.health.fail(Sickness::Panicked, self.failed());
    }

    /// Whether the shard holds every write up to a position wholly or not at all.
    ///
    /// # Errors
    /// Why the shard takes no writes: a turn below the position panicked.
    pub(super) fn check_whole(&self, at: SeqNo) -> Result<()> {
        if at.get() < self.torn_from.load(Ordering::Acquire) {
            return Ok(());
        }
        let why = self.health.check().err().unwrap_or_else(|| self.failed());
        Err(why.context(
            "half a write may be there: read again when the shard is re-opened, with a new snapshot",
        ))
    }

    fn failed(&self) -> Error {
        let index = self.index;
        Error::busy(format!("shard {index} has failed and is being re-opened: try again in a moment"))
    }

    /// The shard panicked too often to be re-opened once more without being asked.
    pub(super) fn give_up(&self) {
        let message = format!(
            "shard {} keeps panicking and takes no writes until it is re-opened (`reopen_shards`)",
            self.index
        );
        let error = Error::new(ErrorKind::Poisoned, message);
        self.health.pass(Some(Sickness::Panicked), Sickness::KeepsPanicking, error);
    }

    /// Ends this incarnation: nothing of it writes again, and its jobs stop at their next chunk. Waits for the turn
    /// that is under way.
    pub(super) fn end(&self, why: Sickness, error: Error) {
        self.health.pass(None, why, error);
        // Whoever has the turn ends it; whoever takes it later sees the mark first.
        drop(block_on(self.turn()));
        self.refuse_waiting_if_sick();
        self.tree.revoke();
    }

    /// Waits until the jobs of an incarnation that was ended have ended, too.
    pub(super) fn wait_for_jobs(&self, clock: &dyn Clock) {
        while !self.jobs.idle() {
            clock.sleep(POLL);
        }
    }

    /// The re-opening that ended this incarnation failed: it waits for the next one, which `next` tells of.
    pub(super) fn note_reopen_failure(&self, next: Sickness, cause: &Error) {
        let again =
            if next == Sickness::NotReopened { "it is tried again, or re-open it" } else { "re-open it" };
        let message = format!("shard {} could not be re-opened: {again} with `reopen_shards`", self.index);
        let error = Error::with_source(ErrorKind::Poisoned, message, cause.clone());
        self.health.pass(Some(Sickness::Reopening), next, error);
    }

    /// Why the sealed memtables of the shard stay in memory, if they do: their flush failed, the manifest takes no
    /// edits, or the shard could not be re-opened.
    pub(super) fn why_not_flushed(&self) -> Option<Error> {
        let not_reopened = || {
            let (sickness, error) = self.health.sickness()?;
            (self.tree.is_revoked() && sickness != Sickness::Reopening).then_some(error)
        };
        self.flush_failures.last().or_else(|| self.tree.manifest_writable().err()).or_else(not_reopened)
    }

    pub(super) fn note_turn(&self, nanos: u64) {
        let before = self.recent_turn_ns.load(Ordering::Relaxed);
        self.recent_turn_ns.store(before - before / 8 + nanos / 8, Ordering::Relaxed);
    }

    /// Whether turns were quick lately.
    pub(super) fn turns_are_quick(&self) -> bool {
        self.recent_turn_ns.load(Ordering::Relaxed) < QUICK_TURN_NS
    }

    /// Queues a request for the actor's next turn.
    ///
    /// # Errors
    /// Why this incarnation takes no writes; the request itself may then have been answered already. `Busy` if the inbox
    /// is full and the request may not wait.
    pub(super) async fn send(&self, request: WriteRequest, may_wait: bool) -> Result<()> {
        self.health.check()?;
        if may_wait {
            self.inbox.send_async(request).await.map_err(|_| Error::closed())?;
        } else {
            self.inbox.try_send(request).map_err(|error| match error {
                flume::TrySendError::Full(_) => Error::busy("too many writes wait: try again in a moment"),
                flume::TrySendError::Disconnected(_) => Error::closed(),
            })?;
        }
        self.refuse_waiting_if_sick();
        Ok(())
    }

    /// What waits, for the actor.
    pub(super) fn waiting(&self) -> flume::Receiver<WriteRequest> {
        self.waiting.clone()
    }

    /// Answers everything that waits at an incarnation that takes no writes.
    ///
    /// IMPORTANT: called after the incarnation was marked, and by everyone who queued a request, after that:
    /// whichever comes second sees the other, so no request is left behind when the actor is gone.
    pub(super) fn refuse_waiting_if_sick(&self) {
        if let Err(error) = self.health.check() {
            self.waiting.try_iter().for_each(|request| request.refuse(&error));
        }
    }

    /// Asks for a turn. Full inboxes are fine: then there will be one.
    pub(super) fn nudge(&self) {
        let request = WriteRequest { work: Work::Nudge, durability: Durability::Buffered, _permit: None };
        let _ = self.inbox.try_send(request);
    }

    /// How the jobs of one kind fare.
    pub(super) const fn failures(&self, class: IoClass) -> &JobFailures {
        match class {
            IoClass::Flush => &self.flush_failures,
            IoClass::Compaction => &self.compaction_failures,
        }
    }
}

impl Drop for Turn<'_> {
    /// What was staged and not applied is forgotten: no later turn may write what this one refused.
    fn drop(&mut self) {
        self.writer.abandon();
        self.in_flight.end();
    }
}

/// What callers are told whose request was in a turn that failed past its append.
pub(super) fn outcome_unknown() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the shard failed while the write was under way: its outcome is unknown, read the key to learn it",
    )
}
