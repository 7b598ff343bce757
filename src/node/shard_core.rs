//! One incarnation of a shard, as everyone who works with it shares it: its tree, its inbox, the turn, its
//! health. The actor, callers in place, the batch lane and the workers all hold an `Arc` of it; a re-open
//! puts a new one in its place.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    admission::Admission,
    budget::IoClass,
    grant::ShardJobs,
    job_failures::JobFailures,
    options::Durability,
    request::{Work, WriteRequest},
    turn_gate::{TurnGate, TurnPermit},
};
use crate::{
    error::{Error, ErrorKind, Result},
    tree::{Tree, TreeWriter},
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
    pub jobs: Arc<ShardJobs>,
    gate: TurnGate,
    /// IMPORTANT: locked only by whoever holds the gate, so it never waits.
    writer: Mutex<TreeWriter>,
    health: Mutex<Option<Error>>,
    sick: AtomicBool,
    log_in_doubt: AtomicBool,
    /// The last `write`s of turns took this long, in nanoseconds, averaged; what a caller in place may have to wait.
    recent_turn_ns: AtomicU64,
    flush_failures: JobFailures,
    compaction_failures: JobFailures,
    /// Somebody waits for the jobs: what failed is to be tried again at once.
    pub retry: AtomicBool,
    /// Whether the coordinator has been told that this shard wants to be looked at.
    pub news: AtomicBool,
}

/// The turn: the gate's permit and the writer it guards.
pub(super) struct Turn<'a> {
    // NOTE: dropped in this order: the writer is unlocked before the gate lets the next one in.
    pub writer: MutexGuard<'a, TreeWriter>,
    _permit: TurnPermit<'a>,
}

/// A turn that takes longer than this on average does not run on an async caller's thread.
const QUICK_TURN_NS: u64 = 200_000;

impl ShardCore {
    pub(super) fn new(index: usize, tree: Arc<Tree>, writer: TreeWriter, queue_bytes: u64) -> Self {
        let (inbox, waiting) = flume::bounded(INBOX_REQUESTS);
        Self {
            incarnation: INCARNATIONS.fetch_add(1, Ordering::Relaxed),
            index,
            tree,
            inbox,
            waiting,
            admission: Admission::new(queue_bytes),
            jobs: Arc::default(),
            gate: TurnGate::new(),
            writer: Mutex::new(writer),
            health: Mutex::new(None),
            sick: AtomicBool::new(false),
            log_in_doubt: AtomicBool::new(false),
            recent_turn_ns: AtomicU64::new(0),
            flush_failures: JobFailures::default(),
            compaction_failures: JobFailures::default(),
            retry: AtomicBool::new(false),
            news: AtomicBool::new(false),
        }
    }

    /// Takes the turn for a caller in place: only if the shard is idle and nobody waits in its inbox.
    pub(super) fn try_turn_in_place(&self) -> Option<Turn<'_>> {
        if !self.inbox.is_empty() {
            return None;
        }
        self.try_turn()
    }

    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        let permit = self.gate.try_acquire()?;
        Some(Turn { writer: self.writer.lock(), _permit: permit })
    }

    /// Takes the turn, waiting in the order of asking.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let permit = self.gate.acquire().await;
        Turn { writer: self.writer.lock(), _permit: permit }
    }

    /// Whether the shard takes writes.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.sick.load(Ordering::Acquire)
            && let Some(error) = &*self.health.lock()
        {
            return Err(error.clone());
        }
        Ok(())
    }

    /// Whether the shard and its tree take writes.
    ///
    /// # Errors
    /// Why they do not.
    pub(super) fn check_takes_writes(&self) -> Result<()> {
        self.check_writable()?;
        self.tree.writable()
    }

    /// The shard takes no more writes, for this reason. The first reason stays.
    pub(super) fn fail(&self, error: Error) {
        self.health.lock().get_or_insert(error);
        self.sick.store(true, Ordering::Release);
    }

    /// A sync that this shard's turn depended on failed: its log and its memtable part ways.
    pub(super) fn fail_for_sync(&self, error: &Error) {
        self.fail(Error::with_source(
            ErrorKind::Poisoned,
            format!(
                "a sync for shard {} failed: it refuses writes until it is re-opened (`reopen_shards`)",
                self.index
            ),
            error.clone(),
        ));
    }

    /// Why the shard takes no writes, if it does not.
    pub(super) fn health(&self) -> Option<Error> {
        self.health.lock().clone()
    }

    /// What its log is worth has to be decided together with all the others'.
    pub(super) fn doubt_log(&self) {
        self.log_in_doubt.store(true, Ordering::Release);
    }

    pub(super) fn log_is_in_doubt(&self) -> bool {
        self.log_in_doubt.load(Ordering::Acquire)
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
    /// Why this incarnation takes no writes. The request itself may then have been answered already.
    pub(super) async fn send(&self, request: WriteRequest) -> Result<()> {
        self.check_writable()?;
        self.inbox.send_async(request).await.map_err(|_| Error::closed())?;
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
        if let Err(error) = self.check_writable() {
            self.waiting.try_iter().for_each(|request| request.refuse(&error));
        }
    }

    /// Asks for a turn that seals. Full inboxes are fine: each turn looks for the request in the account.
    pub(super) fn ask_to_seal(&self) {
        let request = WriteRequest {
            work: Work::Seal { reply: None },
            durability: Durability::Buffered,
            _permit: None,
        };
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
    }
}

/// What callers are told whose request was in a turn that failed past its append.
pub(super) fn outcome_unknown() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the shard failed while the write was under way: its outcome is unknown, read the key to learn it",
    )
}
