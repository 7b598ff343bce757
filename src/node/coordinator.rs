//! The coordinator actor: starts the shard actors, has the pure scheduler decide which shard may flush or
//! compact, hands the granted jobs to the workers, drives the interval sync and the preparing of log
//! segments, and has shards that failed re-opened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Addr, Arbiter, AsyncContext, Context, Handler, Message};

use super::{
    budget::IoClass,
    jobs,
    node_core::NodeCore,
    reopen,
    scheduler::{self, Decision, ShardLoad},
    shard_actor::{ShardActor, StopShard},
    shard_core::ShardCore,
};

/// How often the shards are looked at when nothing calls for it.
const TICK: Duration = Duration::from_millis(100);
/// How long a shard whose job failed is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// A shard that panics more often than this within [`PANIC_WINDOW`] stays closed until `reopen_shards`.
const MAX_PANICS: usize = 5;
const PANIC_WINDOW: Duration = Duration::from_mins(1);

/// The actor; see the module. One a node.
pub struct Coordinator {
    core: Arc<NodeCore>,
    shards: Vec<ShardPlace>,
    syncing: Arc<AtomicBool>,
}

/// What the coordinator keeps of one shard.
struct ShardPlace {
    arbiter: Arbiter,
    actor: Option<Addr<ShardActor>>,
    compaction_due_since: Option<Duration>,
    no_flush_before: Option<Duration>,
    no_compaction_before: Option<Duration>,
    preparing: Arc<AtomicBool>,
    panics: Vec<Duration>,
}

impl Coordinator {
    /// A coordinator of `core`'s shards; each gets an arbiter thread of its own.
    pub(super) fn new(core: Arc<NodeCore>) -> Self {
        let shards = (0..core.shards.len()).map(|index| ShardPlace::new(&core, index)).collect();
        Self { core, shards, syncing: Arc::default() }
    }

    #[cfg(feature = "actix-api")]
    pub(super) fn core(&self) -> &Arc<NodeCore> {
        &self.core
    }

    fn start_shard(&mut self, shard: &Arc<ShardCore>) {
        let Some(place) = self.shards.get_mut(shard.index) else { return };
        if let Some(old) = place.actor.take() {
            old.do_send(StopShard);
        }
        let (core, shard) = (Arc::clone(&self.core), Arc::clone(shard));
        place.no_flush_before = None;
        place.no_compaction_before = None;
        place.actor = Some(ShardActor::start_in_arbiter(&place.arbiter.handle(), move |_| {
            ShardActor::new(core, shard)
        }));
    }

    /// Looks after everything that nobody called for: a backstop, so that no figure and nobody who waits is left behind.
    fn tick(&mut self) {
        for index in 0..self.core.shards.len() {
            self.core.note_memory(index);
        }
        self.core.note_progress();
        self.schedule();
    }

    /// Starts every job that the scheduler grants now.
    fn schedule(&mut self) {
        if self.core.lifecycle.check_open().is_err() {
            return;
        }
        let now = self.core.env.clock.monotonic();
        // NOTE: bounded, because how jobs end is learned only between two calls.
        for _ in 0..=self.core.shards.len() {
            let shards: Vec<_> = self.core.open_shards().collect();
            let loads: Vec<_> = shards.iter().map(|shard| self.load(shard, now)).collect();
            let decisions = scheduler::decide(now, &loads);
            let started = decisions.iter().filter(|decision| self.start_job(**decision, now)).count();
            if started == 0 {
                break;
            }
        }
        self.prepare_segments();
    }

    fn load(&mut self, shard: &ShardCore, now: Duration) -> ShardLoad {
        shard.news.store(false, Ordering::Release);
        let load = shard.tree.load();
        let mut place = self.shards.get_mut(shard.index);
        if let Some(place) = &mut place
            && shard.retry.swap(false, Ordering::AcqRel)
        {
            (place.no_flush_before, place.no_compaction_before) = (None, None);
        }
        let (waited, mut no_flush_before, mut no_compaction_before) =
            place.map_or_else(Default::default, |place| {
                let due = load.compaction_due;
                place.compaction_due_since = due.then(|| place.compaction_due_since.unwrap_or(now));
                let waited =
                    place.compaction_due_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
                (waited, place.no_flush_before, place.no_compaction_before)
            });
        if shard.jobs.revoked() {
            (no_flush_before, no_compaction_before) = (Some(Duration::MAX), Some(Duration::MAX));
        }
        ShardLoad {
            shard: shard.index,
            sealed_bytes: if load.flush_due { load.sealed_bytes.max(1) } else { 0 },
            flush_running: load.flush_running,
            compaction_score: (f64::from(load.compaction_score_permille) / 1000.0)
                .max(if load.compaction_due { 1.0 } else { 0.0 }),
            compactions_running: load.compactions_running,
            waited,
            no_flush_before,
            no_compaction_before,
        }
    }

    /// Plans the decided job and hands it to a worker. False when there was nothing to plan after all.
    fn start_job(&mut self, decision: Decision, now: Duration) -> bool {
        let (index, class) = match decision {
            Decision::Flush(index) => (index, IoClass::Flush),
            Decision::Compact(index) => (index, IoClass::Compaction),
        };
        let Ok(shard) = self.core.shard(index) else { return false };
        let Some(grant) = self.core.grants.take(class, &shard.jobs) else { return false };
        let (watermark, now_ms) = (self.core.seqno_watermark(), self.core.now_ms());
        let core = Arc::clone(&self.core);
        let submitted = match class {
            IoClass::Flush => shard.tree.plan_flush(watermark, now_ms).map(|plan| {
                let job = Box::new(move || jobs::flush(&core, &shard, plan, grant));
                self.core.pools.flush.submit(job)
            }),
            IoClass::Compaction => shard.tree.plan_compaction(watermark, now_ms).map(|plan| {
                let job = Box::new(move || jobs::compact(&core, &shard, plan, grant));
                self.core.pools.compaction.submit(job)
            }),
        };
        let started = matches!(submitted, Some(Ok(())));
        if started
            && class == IoClass::Compaction
            && let Some(place) = self.shards.get_mut(index)
        {
            place.compaction_due_since = Some(now);
        }
        started
    }

    fn prepare_segments(&mut self) {
        let now = self.core.env.clock.monotonic();
        for shard in self.core.open_shards().collect::<Vec<_>>() {
            let Some(place) = self.shards.get(shard.index) else { continue };
            let wait = place.no_flush_before.is_some_and(|at| at > now);
            if wait || !shard.tree.wants_segment() {
                continue;
            }
            let Some(preparing) = Raised::raise(&place.preparing) else { continue };
            let core = Arc::clone(&self.core);
            // A pool that is stopped drops the job, and with it the flag.
            let _ = self.core.pools.sync.submit(Box::new(move || {
                let _preparing = preparing;
                let _ = jobs::prepare_segment(&core, &shard);
            }));
        }
    }

    fn sync_round(&self) {
        if self.core.lifecycle.check_open().is_err() {
            return;
        }
        let Some(syncing) = Raised::raise(&self.syncing) else { return };
        let core = Arc::clone(&self.core);
        let _ = self.core.pools.sync.submit(Box::new(move || {
            let _syncing = syncing;
            jobs::sync_round(&core);
        }));
    }

    /// Whether a shard that panicked may be re-opened without being asked.
    fn may_reopen(&mut self, index: usize) -> bool {
        let now = self.core.env.clock.monotonic();
        let Some(place) = self.shards.get_mut(index) else { return false };
        place.panics.retain(|at| now.saturating_sub(*at) < PANIC_WINDOW);
        place.panics.push(now);
        place.panics.len() <= MAX_PANICS
    }
}

/// A flag that is up as long as this lives, on a panic too.
struct Raised(Arc<AtomicBool>);

impl Raised {
    /// `None` if it is up already.
    fn raise(flag: &Arc<AtomicBool>) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(flag)))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl ShardPlace {
    fn new(core: &NodeCore, index: usize) -> Self {
        let arbiter = Arbiter::new();
        if core.options.pin_cores {
            arbiter.spawn_fn(move || super::pin::pin_this_thread(index));
        }
        Self {
            arbiter,
            actor: None,
            compaction_due_since: None,
            no_flush_before: None,
            no_compaction_before: None,
            preparing: Arc::default(),
            panics: vec![],
        }
    }
}

impl Actor for Coordinator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for shard in self.core.open_shards().collect::<Vec<_>>() {
            self.start_shard(&shard);
        }
        ctx.run_interval(TICK, |this, _| this.tick());
        ctx.run_interval(self.core.options.sync_interval, |this, _| this.sync_round());
        self.schedule();
    }
}

/// Look at all shards again. From: turns and workers, at most one a shard at a time. No reply.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LookAgain;

impl Handler<LookAgain> for Coordinator {
    type Result = ();

    fn handle(&mut self, _: LookAgain, _: &mut Self::Context) {
        self.schedule();
    }
}

/// A background job has ended. From: workers, one a grant. No reply.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct JobDone {
    pub shard: usize,
    pub class: IoClass,
    pub failed: bool,
}

impl Handler<JobDone> for Coordinator {
    type Result = ();

    fn handle(&mut self, done: JobDone, _: &mut Self::Context) {
        let now = self.core.env.clock.monotonic();
        if let Some(place) = self.shards.get_mut(done.shard) {
            let not_before = match done.class {
                IoClass::Flush => &mut place.no_flush_before,
                IoClass::Compaction => &mut place.no_compaction_before,
            };
            *not_before = done.failed.then(|| now + RETRY_AFTER);
        }
        tracing::trace!(shard = done.shard, job = ?done.class, failed = done.failed, "a job ended");
        self.schedule();
    }
}

/// A shard panicked in a turn. From: whoever ran the turn, once an incarnation. No reply.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ShardFailed {
    pub shard: usize,
}

impl Handler<ShardFailed> for Coordinator {
    type Result = ();

    fn handle(&mut self, failed: ShardFailed, _: &mut Self::Context) {
        if self.may_reopen(failed.shard) {
            tracing::error!(shard = failed.shard, "a shard panicked; re-opening it from disk");
            reopen::start(&self.core, None);
        } else {
            tracing::error!(
                shard = failed.shard,
                "a shard keeps panicking; it stays closed until `reopen_shards`"
            );
        }
    }
}

/// New incarnations stand at their places: start their actors. From: the re-open thread. No reply.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StartShards(pub Vec<usize>);

impl Handler<StartShards> for Coordinator {
    type Result = ();

    fn handle(&mut self, message: StartShards, _: &mut Self::Context) {
        for index in message.0 {
            if let Ok(shard) = self.core.shard(index) {
                self.start_shard(&shard);
            }
        }
        (0..self.core.shards.len()).for_each(|index| self.core.note_memory(index));
        self.core.note_progress();
        self.schedule();
    }
}

/// The node is closed: end every actor and the system. From: the close thread, once. No reply.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct EndSystem;

impl Handler<EndSystem> for Coordinator {
    type Result = ();

    fn handle(&mut self, _: EndSystem, _: &mut Self::Context) {
        for place in &mut self.shards {
            if let Some(actor) = place.actor.take() {
                actor.do_send(StopShard);
            }
            place.arbiter.stop();
        }
        actix::System::current().stop();
    }
}
