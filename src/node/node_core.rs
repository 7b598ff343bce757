//! What a node is, as its handles, actors, workers and the batch lane share it. It starts nothing and
//! waits for nobody; `open.rs` builds it, `close.rs` ends it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::{
    accountant::{Accountant, Holding},
    admission::Admission,
    batch::BatchRequest,
    coordinator::{Coordinator, LookAgain, ShardFailed},
    directory_lock::DirectoryLock,
    env::{ActorSystem, Env, Thread},
    foreground::Foreground,
    grant::GrantBook,
    node_clock::NodeClock,
    node_file::NodeRecord,
    open_scans::OpenScans,
    options::NodeOptions,
    router::Router,
    schedule::{Budget, FlushMeter},
    shard_core::ShardCore,
    snapshots::Snapshots,
    stepped_workers::SteppedWorkers,
    workers::WorkerPool,
};
use crate::{
    error::{Error, Result},
    ids::{BatchId, SeqNo},
    table::BlockCache,
    tree::{TreeContext, TreeOptions},
    waiting::SlowMutex,
};

/// The node; see the module.
pub(super) struct NodeCore {
    pub options: NodeOptions,
    pub env: Env,
    pub record: NodeRecord,
    pub router: Router,
    pub tree_context: TreeContext,
    pub tree_options: TreeOptions,
    pub cache: Arc<BlockCache>,
    /// One place a shard: its present incarnation, or why it could not be opened.
    pub shards: Box<[ShardSlot]>,
    pub accountant: Accountant,
    pub budget: Arc<Budget>,
    /// What flushes have been found to bear.
    pub flushes: FlushMeter,
    pub foreground: Arc<Foreground>,
    pub grants: GrantBook,
    pub pools: Pools,
    /// Admission of actor messages, before their shard is known.
    pub message_admission: Admission,
    pub batch_lane: Mutex<Option<flume::Sender<Option<BatchRequest>>>>,
    /// Batches that one participant could not take back in its log: void when it is re-opened.
    pub void_batches: Mutex<HashSet<BatchId>>,
    /// Shards in whose turns a batch panicked, until they are re-opened: half of it may be in their logs, so none of them
    /// comes back without the others. Locked while all of them are marked.
    pub panicked_together: Mutex<Vec<BTreeSet<usize>>>,
    pub coordinator: OnceLock<Addr<Coordinator>>,
    /// The thread that the coordinator lives on; those of the shards' actors end with it.
    pub system: OnceLock<Box<dyn ActorSystem>>,
    /// The batch lane's thread, joined by the close.
    pub lane_thread: Mutex<Option<Box<dyn Thread>>>,
    /// Held while shards are re-opened, one call after the other.
    pub reopening: SlowMutex<()>,
    /// Held while new lives of shards take their places, and by who must not find some of them and the last lives of
    /// others.
    pub places: RwLock<()>,
    pub lifecycle: Lifecycle,
    /// Moves on whenever a background job ends or a shard changes; what waits for background work watches it.
    pub progress: watch::Sender<u64>,
    /// Wakes writers that wait for a flush to give memory back.
    pub memory_freed: Notify,
    pub counters: Counters,
    /// The positions that snapshots read at.
    pub snapshots: Arc<Snapshots>,
    pub open_scans: Arc<OpenScans>,
    next_seqno: AtomicU64,
    clock: NodeClock,
}

/// The worker threads, a set for each kind of work.
#[derive(Debug)]
pub(super) struct Pools {
    pub flush: Arc<SteppedWorkers>,
    pub compaction: Arc<SteppedWorkers>,
    pub read: WorkerPool,
    /// Log segments ahead of need, apart from the syncs: filling one takes long, and acks wait for syncs.
    pub prepare: WorkerPool,
    pub sync: WorkerPool,
}

/// A shard's place in the node.
pub(super) type ShardSlot = ArcSwap<ShardState>;

/// What stands at a shard's place.
pub(super) enum ShardState {
    /// An incarnation that serves.
    Open(Arc<ShardCore>),
    /// The shard did not open; the others did.
    Refused(Error),
}

impl ShardState {
    pub(super) fn open(&self) -> Result<&Arc<ShardCore>> {
        match self {
            Self::Open(core) => Ok(core),
            Self::Refused(error) => Err(error.clone()),
        }
    }
}

/// What the node counts for its stats.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub stalls: AtomicU64,
    pub stall_ns: AtomicU64,
    pub slowdowns: AtomicU64,
    pub slowdown_ns: AtomicU64,
    pub reopens: AtomicU64,
}

const OPEN: u8 = 0;
const CLOSING: u8 = 1;
const CLOSED: u8 = 2;

/// Where the node is in its life, and the lock that ends with it.
pub(super) struct Lifecycle {
    state: AtomicU8,
    lock: Mutex<Option<DirectoryLock>>,
    /// Set once every admitted write is answered and the logs are synced.
    pub drained: watch::Sender<Option<Result<()>>>,
    /// Set once the node is closed: threads ended, directory released.
    pub closed: watch::Sender<Option<Result<()>>>,
}

impl Lifecycle {
    pub(super) fn new(lock: DirectoryLock) -> Self {
        Self {
            state: AtomicU8::new(OPEN),
            lock: Mutex::new(Some(lock)),
            drained: watch::Sender::new(None),
            closed: watch::Sender::new(None),
        }
    }

    /// Fails once the node closes.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.state.load(Ordering::Acquire) == OPEN { Ok(()) } else { Err(Error::closed()) }
    }

    /// Begins to close; true for the first caller only.
    pub(super) fn begin_close(&self) -> bool {
        let first = self.state.compare_exchange(OPEN, CLOSING, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if first && let Some(lock) = &*self.lock.lock() {
            lock.mark_closing();
        }
        first
    }

    /// The close is done: releases the directory and tells everyone who waits.
    pub(super) fn finish_close(&self, result: Result<()>) {
        self.state.store(CLOSED, Ordering::Release);
        drop(self.lock.lock().take());
        self.closed.send_replace(Some(result));
    }
}

/// What `open.rs` puts together.
pub(super) struct Parts {
    pub options: NodeOptions,
    pub env: Env,
    pub record: NodeRecord,
    pub tree_context: TreeContext,
    pub tree_options: TreeOptions,
    pub shards: Box<[ShardSlot]>,
    pub pools: Pools,
    pub budget: Arc<Budget>,
    pub foreground: Arc<Foreground>,
    pub batch_lane: flume::Sender<Option<BatchRequest>>,
    pub lock: DirectoryLock,
    pub next_seqno: SeqNo,
    pub clock_high_ms: u64,
}

impl NodeCore {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            options, env, record, tree_context, tree_options, shards, pools, budget, foreground, ..
        } = parts;
        Self {
            router: Router { hash_seed: record.hash_seed, shards: record.shards },
            accountant: Accountant::new(options.memtable_bytes, shards.len()),
            grants: GrantBook::new(options.flush_workers, options.compaction_workers, Arc::clone(&budget)),
            message_admission: Admission::new(options.queue_bytes / 4),
            cache: Arc::clone(&tree_context.cache),
            batch_lane: Mutex::new(Some(parts.batch_lane)),
            void_batches: Mutex::default(),
            panicked_together: Mutex::default(),
            coordinator: OnceLock::new(),
            system: OnceLock::new(),
            lane_thread: Mutex::default(),
            reopening: SlowMutex::default(),
            places: RwLock::new(()),
            lifecycle: Lifecycle::new(parts.lock),
            progress: watch::Sender::new(0),
            memory_freed: Notify::new(),
            counters: Counters::default(),
            snapshots: Arc::default(),
            open_scans: Arc::default(),
            next_seqno: AtomicU64::new(parts.next_seqno.get()),
            clock: NodeClock::new(Arc::clone(&env.clock), parts.clock_high_ms),
            options,
            env,
            record,
            tree_context,
            tree_options,
            shards,
            budget,
            flushes: FlushMeter::default(),
            foreground,
            pools,
        }
    }

    /// The present incarnation of a shard.
    ///
    /// # Errors
    /// Why the shard did not open.
    pub(super) fn shard(&self, index: usize) -> Result<Arc<ShardCore>> {
        let slot =
            self.shards.get(index).ok_or_else(|| Error::internal("a shard index beyond the node's"))?;
        slot.load().open().cloned()
    }

    /// Every shard that is open.
    pub(super) fn open_shards(&self) -> impl Iterator<Item = Arc<ShardCore>> + '_ {
        self.shards.iter().filter_map(|slot| slot.load().open().ok().cloned())
    }

    /// Takes `count` sequence numbers for turns that [have begun](super::in_flight::InFlight::begin); returns the first.
    pub(super) fn take_seqnos(&self, count: u64) -> SeqNo {
        SeqNo(self.next_seqno.fetch_add(count, Ordering::AcqRel))
    }

    /// Hands out no number up to `highest` any more.
    pub(super) fn skip_seqnos(&self, highest: SeqNo) {
        self.next_seqno.fetch_max(highest.plus(1).get(), Ordering::AcqRel);
    }

    /// The next sequence number that a turn will take: no read that begins later sees less than what is below it.
    pub(super) fn seqno_watermark(&self) -> SeqNo {
        SeqNo(self.next_seqno.load(Ordering::Acquire))
    }

    /// The node's time in milliseconds since the epoch; never goes backwards.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(super) fn note_append_failure(&self, shard: &ShardCore, error: &Error) {
        tracing::warn!(shard = shard.index, error = %error, "a write could not be appended to the log");
        self.tell_news(shard);
    }

    /// Brings the account of a shard's memory up to date, and has whoever should seal do so. What counts is
    /// the present incarnation, also when an old one's job asks.
    pub(super) fn note_memory(&self, index: usize) {
        let Some(slot) = self.shards.get(index) else { return };
        let largest = self.accountant.note(index, || match slot.load().open() {
            Ok(shard) => {
                let load = shard.tree.load(self.now_ms());
                if shard.wants.note(load.flush_due, shard.tree.wants_segment()) {
                    self.tell_news(shard);
                }
                Holding {
                    active: load.active_bytes,
                    sealed: load.sealed_bytes,
                    takes_writes: shard.seems_well(),
                    is_empty: load.active_is_empty,
                }
            }
            Err(_) => Holding::default(),
        });
        if let Some(largest) = largest
            && let Ok(other) = self.shard(largest)
        {
            other.nudge();
        }
    }

    /// Accounts for what stands at a shard's place now, and forgets what its predecessor held.
    pub(super) fn account_anew(&self, index: usize) {
        self.accountant.take_seal_request(index);
        self.note_memory(index);
        self.note_progress();
    }

    /// Has the coordinator look at the shards, once until it does.
    pub(super) fn tell_news(&self, shard: &ShardCore) {
        if !shard.news.swap(true, Ordering::AcqRel)
            && let Some(coordinator) = self.coordinator.get()
        {
            coordinator.do_send(LookAgain);
        }
    }

    /// Tells the coordinator that this incarnation is dead.
    pub(super) fn tell_failed(&self, shard: &ShardCore) {
        if let Some(coordinator) = self.coordinator.get() {
            coordinator.do_send(ShardFailed { shard: shard.index });
        }
    }

    /// Tells everyone who waits for background work that something has changed.
    pub(super) fn note_progress(&self) {
        self.progress.send_modify(|count| *count = count.wrapping_add(1));
        self.memory_freed.notify_waiters();
    }

    /// Waits while the memtables of the node are full and a flush will give memory back.
    ///
    /// # Errors
    /// `Busy` if the caller may not wait. Why this shard's flushes fail, if that is what is being waited for; `Closed`.
    pub(super) async fn wait_for_memory(&self, shard: &ShardCore, may_wait: bool) -> Result<()> {
        if !self.accountant.full() {
            return Ok(());
        }
        let started = self.env.clock.monotonic();
        let mut waiting = None;
        loop {
            let freed = self.memory_freed.notified();
            if !self.accountant.full() {
                break;
            }
            self.lifecycle.check_open()?;
            shard.check_takes_writes()?;
            if let Some(error) = self.why_nothing_is_flushed() {
                return Err(error.context("the memtables are full and cannot be flushed"));
            }
            self.tell_news(shard);
            if !may_wait {
                return Err(Error::busy(
                    "the memtables are full: try again in a moment, or let the write wait",
                ));
            }
            waiting.get_or_insert_with(|| {
                self.counters.stalls.fetch_add(1, Ordering::Relaxed);
                self.pools.flush.wait()
            });
            freed.await;
        }
        let waited = self.env.clock.monotonic().saturating_sub(started);
        self.counters.stall_ns.fetch_add(duration_ns(waited), Ordering::Relaxed);
        tracing::debug!(shard = shard.index, waited_us = waited.as_micros(), "a writer waited for a flush");
        Ok(())
    }

    /// Whichever shards hold the memory: if none of them can be flushed, waiting is of no use.
    fn why_nothing_is_flushed(&self) -> Option<Error> {
        let waiting = self.open_shards().filter(|shard| shard.tree.view().has_sealed());
        let failures: Vec<_> = waiting.map(|shard| shard.why_not_flushed()).collect();
        if failures.iter().all(Option::is_some) { failures.into_iter().next().flatten() } else { None }
    }
}

pub(super) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
