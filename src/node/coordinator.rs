//! The coordinator actor: starts the shard actors, has the pure scheduler decide which shard may flush or
//! compact, hands the granted jobs to the workers, drives the interval sync and the preparing of log
//! segments, and has shards that failed re-opened. It never waits, and it survives its own panics: nobody would
//! start it again, and without it nothing is flushed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::{Actor, AsyncContext, Context, Handler, Message};

use super::{
    compaction_job::CompactionJob,
    flush_job::FlushJob,
    health::Sickness,
    jobs,
    node_core::NodeCore,
    reopen,
    schedule::{Decision, GOVERNOR_TICK, IoClass, ShardLoad, compaction_is_pressing, decide},
    shard_core::ShardCore,
    shard_place::{RETRY_AFTER, ShardPlace},
    steering::Steering,
};
use crate::{
    error::{Error, Result},
    memory::reserve,
    waiting::is_simulated,
};

/// A memtable is sealed when all its expiring values have been expired for so long: where values live for a moment only,
/// new ones keep it open.
const EXPIRED_FOR_MS: u64 = 5_000;
const TICKS_A_LOOK_AT_EXPIRIES: u64 = 10;
/// How often the shards are looked at when nothing calls for it.
const TICK: Duration = Duration::from_millis(100);

/// The actor; see the module. One a node.
pub struct Coordinator {
    core: Arc<NodeCore>,
    places: Vec<ShardPlace>,
    steering: Steering,
    /// Whether the throttle will be looked at soon.
    is_throttling: bool,
    syncing: Arc<AtomicBool>,
    ticks: u64,
}

impl Coordinator {
    /// A coordinator of `core`'s shards; each gets a thread of its own beside that of the coordinator, which this is
    /// called on.
    ///
    /// # Errors
    /// `Io` when one cannot be started.
    pub(super) fn new(core: Arc<NodeCore>) -> Result<Self> {
        let system = core.system.get().ok_or_else(|| Error::internal("the node has no actor system"))?;
        let places = (0..core.shards.len()).map(|_| ShardPlace::start(&**system)).collect::<Result<_>>()?;
        let steering = Steering::new(&core);
        Ok(Self { core, places, steering, is_throttling: false, syncing: Arc::default(), ticks: 0 })
    }

    #[cfg(feature = "actix-api")]
    pub(super) fn core(&self) -> &Arc<NodeCore> {
        &self.core
    }

    /// Runs a step of the coordinator's work while the node is open.
    fn run(&mut self, step: impl FnOnce(&mut Self)) {
        if self.core.lifecycle.check_open().is_ok() {
            self.survive(step);
        }
    }

    /// Runs a step. A panic ends it and not the actor.
    fn survive(&mut self, step: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| step(self))).is_err() {
            tracing::error!("the coordinator panicked; it goes on with what comes next");
        }
    }

    fn start_shard(&mut self, shard: &Arc<ShardCore>) {
        if let Some(place) = self.places.get_mut(shard.index) {
            place.start_actor(&self.core, shard);
        }
    }

    /// Looks after everything that nobody called for: a backstop, so that no figure and nobody who waits is left
    /// behind.
    fn tick(&mut self) {
        for index in 0..self.core.shards.len() {
            self.core.note_memory(index);
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS_A_LOOK_AT_EXPIRIES) {
            self.seal_what_has_expired();
        }
        self.make_regions();
        self.core.note_progress();
        self.schedule();
    }

    /// Has memory made ahead of need: who touches it first waits for the system.
    fn make_regions(&self) {
        // NOTE: memory is the process's: another node's must not change the order of what a simulated one does.
        let wanted = if is_simulated() { 0 } else { reserve::look() };
        if wanted > 0 {
            // NOTE: without a place for the job they are made by who needs them.
            let _ = self.core.pools.prepare.try_submit(Box::new(move || reserve::make(wanted)));
        }
    }

    /// Has memtables whose values have expired sealed: where nothing is written nobody else would.
    fn seal_what_has_expired(&self) {
        let now_ms = self.core.readers().now_ms.saturating_sub(EXPIRED_FOR_MS);
        for shard in self.core.open_shards().filter(|shard| shard.tree.view().active_has_expired(now_ms)) {
            self.core.accountant.seal_at_next_turn(shard.index);
            shard.nudge();
        }
    }

    /// Starts every job that the scheduler grants now.
    fn schedule(&mut self) {
        let (now, now_ms) = (self.core.env.clock.monotonic(), self.core.now_ms());
        // NOTE: bounded, because how jobs end is learned only between two calls.
        for _ in 0..=self.core.shards.len() {
            let shards = self.core.open_shards().filter(|shard| !shard.tree.is_revoked());
            let shards: Vec<_> = shards.collect();
            let places = &mut self.places;
            let loads: Vec<_> = shards
                .iter()
                .filter_map(|shard| Some(places.get_mut(shard.index)?.load(shard, now, now_ms)))
                .collect();
            self.note_pressing(&loads);
            let decisions = decide(now, &loads);
            let started = decisions.iter().filter(|decision| self.start_job(**decision, now)).count();
            if started == 0 {
                break;
            }
        }
        self.prepare_segments(now);
    }

    /// Decides whether compactions may go on at a low priority.
    fn note_pressing(&self, loads: &[ShardLoad]) {
        let compaction = &self.core.pools.compaction;
        let is = compaction_is_pressing(compaction.is_pressing(), loads);
        if compaction.set_pressing(is) {
            tracing::debug!(pressing = is, "compactions have another priority");
        }
    }

    /// Sets what writers may add, and does so again soon while that changes.
    fn throttle(&mut self, ctx: &mut Context<Self>) {
        if self.is_throttling {
            return;
        }
        let mut again = None;
        self.run(|this| again = this.steering.throttle(&this.core, this.core.env.clock.monotonic()));
        if let Some(soon) = again {
            self.is_throttling = true;
            ctx.run_later(soon, |this, ctx| {
                this.is_throttling = false;
                this.throttle(ctx);
            });
        }
    }

    fn govern(&mut self) {
        self.steering.govern(&self.core, self.core.env.clock.monotonic());
    }

    /// Plans the decided job and hands it to a worker. False when there was nothing to plan after all.
    fn start_job(&mut self, decision: Decision, now: Duration) -> bool {
        let (index, class) = match decision {
            Decision::Flush(index) => (index, IoClass::Flush),
            Decision::Compact(index) => (index, IoClass::Compaction),
        };
        let Ok(shard) = self.core.shard(index) else { return false };
        let Some(grant) = self.core.grants.take(class, &shard.jobs) else { return false };
        let readers = self.core.readers();
        let core = Arc::clone(&self.core);
        // NOTE: there is room for every job that has a grant; a plan that is refused gives back what it took.
        let submitted = match class {
            IoClass::Flush => {
                shard.tree.plan_flush(readers.positions, readers.now_ms, self.core.now_ms()).map(|plan| {
                    shard.jobs.begin_flush(&plan);
                    let job = move || FlushJob::new(&core, &shard, plan, grant);
                    self.core.pools.flush.try_submit(Box::new(|| Box::new(job())))
                })
            }
            IoClass::Compaction => {
                shard.tree.plan_compaction(readers.positions, readers.now_ms).map(|plan| {
                    let job = move || CompactionJob::new(&core, &shard, plan, grant);
                    self.core.pools.compaction.try_submit(Box::new(|| Box::new(job())))
                })
            }
        };
        let started = matches!(submitted, Some(Ok(())));
        if started && let Some(place) = self.places.get_mut(index) {
            place.times.note_job_begun(class, now);
        }
        started
    }

    fn prepare_segments(&mut self, now: Duration) {
        for shard in self.core.open_shards().collect::<Vec<_>>() {
            let Some(place) = self.places.get_mut(shard.index) else { continue };
            let tree = &shard.tree;
            let is_due = tree.wants_segment() || tree.has_unneeded_segments() || tree.has_unread_views();
            if !is_due || !place.times.begin_to_prepare(now) {
                continue;
            }
            let job = jobs::Preparing::new(&self.core, &shard);
            // A job that finds no room is dropped, and says that it has ended; the tick tries again.
            let _ = self.core.pools.prepare.try_submit(Box::new(move || job.run()));
        }
    }

    fn sync_round(&mut self) {
        let Some(syncing) = Raised::raise(&self.syncing) else { return };
        let core = Arc::clone(&self.core);
        let _ = self.core.pools.sync.try_submit(Box::new(move || {
            let _syncing = syncing;
            jobs::sync_round(&core);
        }));
    }

    /// Has shards that panicked re-opened.
    fn reopen_panicked(&self) {
        if let Err(error) = reopen::start(&self.core, None) {
            tracing::error!(error = %error, "a shard that panicked is not re-opened yet");
        }
    }

    /// Tries again what a re-opening that nobody asked for has left behind.
    fn retry_reopening(&self) {
        let waits = |shard: Arc<ShardCore>| {
            matches!(shard.sickness(), Some(Sickness::Panicked | Sickness::NotReopened))
        };
        if self.core.open_shards().any(waits) && self.core.reopening.is_free() {
            self.reopen_panicked();
        }
    }

    fn shard_panicked(&mut self, index: usize) {
        let now = self.core.env.clock.monotonic();
        let may_reopen = self.places.get_mut(index).is_some_and(|place| place.times.note_panic(now));
        if may_reopen {
            tracing::error!(shard = index, "a shard panicked; re-opening it from disk");
            self.reopen_panicked();
        } else if let Ok(shard) = self.core.shard(index) {
            tracing::error!(shard = index, "a shard keeps panicking; it stays closed until `reopen_shards`");
            shard.give_up();
            self.core.note_progress();
        }
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

impl Actor for Coordinator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.survive(|this| {
            let shards: Vec<_> = this.core.open_shards().collect();
            for shard in &shards {
                this.start_shard(shard);
            }
        });
        ctx.run_interval(TICK, |this, ctx| {
            this.run(Self::tick);
            this.throttle(ctx);
        });
        if self.steering.governs() {
            ctx.run_interval(GOVERNOR_TICK, |this, _| this.run(Self::govern));
        }
        ctx.run_interval(self.core.options.sync_interval, |this, _| this.run(Self::sync_round));
        ctx.run_interval(RETRY_AFTER, |this, _| this.run(|this| this.retry_reopening()));
        self.run(Self::schedule);
    }
}

/// Look at all shards again. From: turns and workers, at most one a shard at a time. No reply.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LookAgain;

impl Handler<LookAgain> for Coordinator {
    type Result = ();

    fn handle(&mut self, _: LookAgain, ctx: &mut Self::Context) {
        self.run(Self::schedule);
        self.throttle(ctx);
    }
}

/// A background job has ended. From: whoever ran it, one a grant. No reply.
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
        tracing::trace!(shard = done.shard, job = ?done.class, failed = done.failed, "a job ended");
        self.run(|this| {
            let now = this.core.env.clock.monotonic();
            if let Some(place) = this.places.get_mut(done.shard) {
                place.times.note_job_ended(done.class, done.failed, now);
            }
            this.schedule();
        });
    }
}

/// The preparing of a log segment has ended. From: its worker, one a job. No reply.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SegmentPrepared {
    pub shard: usize,
    pub failed: bool,
}

impl Handler<SegmentPrepared> for Coordinator {
    type Result = ();

    fn handle(&mut self, done: SegmentPrepared, _: &mut Self::Context) {
        self.run(|this| {
            let now = this.core.env.clock.monotonic();
            if let Some(place) = this.places.get_mut(done.shard) {
                place.times.note_prepared(done.failed, now);
            }
            this.prepare_segments(now);
        });
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
        self.run(|this| this.shard_panicked(failed.shard));
    }
}

/// New incarnations stand at their places: start their actors. From: the re-open thread. No reply.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StartShards(pub Vec<usize>);

impl Handler<StartShards> for Coordinator {
    type Result = ();

    fn handle(&mut self, message: StartShards, _: &mut Self::Context) {
        // NOTE: also while the node closes: what was admitted is answered by these.
        self.survive(|this| {
            for index in message.0 {
                if let Ok(shard) = this.core.shard(index) {
                    this.start_shard(&shard);
                }
            }
        });
        self.run(Self::tick);
    }
}
