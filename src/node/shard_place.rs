//! What the coordinator keeps of one shard: its thread and actor, what waits for how long, and what is left alone
//! for a while because it has just failed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{Addr, Context, dev::channel};

use super::{
    env::{ActorSystem, Executor},
    node_core::NodeCore,
    pin::pin_this_thread,
    schedule::{IoClass, ShardLoad, relief},
    shard_actor::{ShardActor, StopShard},
    shard_core::ShardCore,
};
use crate::error::{Error, ErrorKind, Result};

/// An actor's mailbox has room for so many messages of those who wait for it; a shard's actor is only ever told to stop.
const MAILBOX_MESSAGES: usize = 16;
/// How long what failed is left alone.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(500);
/// A shard that panics more often than this within [`PANIC_WINDOW`] stays closed until `reopen_shards`.
const MAX_PANICS: usize = 5;
const PANIC_WINDOW: Duration = Duration::from_mins(1);

/// See the module.
pub(super) struct ShardPlace {
    executor: Box<dyn Executor>,
    actor: Option<Addr<ShardActor>>,
    pub times: ShardTimes,
}

impl ShardPlace {
    /// Starts the shard's thread.
    ///
    /// # Errors
    /// `Io` when it cannot be started.
    pub(super) fn start(system: &dyn ActorSystem) -> Result<Self> {
        let executor = system.start_another().map_err(|error| {
            Error::with_source(ErrorKind::Io, "cannot start the thread of a shard", error)
        })?;
        Ok(Self { executor, actor: None, times: ShardTimes::default() })
    }

    /// Starts the actor of a new incarnation; what the one before failed at is tried anew.
    pub(super) fn start_actor(&mut self, core: &Arc<NodeCore>, shard: &Arc<ShardCore>) {
        if let Some(old) = self.actor.take() {
            old.do_send(StopShard);
        }
        self.times.forget_failures();
        let (core, shard) = (Arc::clone(core), Arc::clone(shard));
        let (sender, mailbox) = channel::channel(MAILBOX_MESSAGES);
        self.executor.run(Box::new(move || {
            if core.options.pin_cores {
                pin_this_thread(shard.index);
            }
            Box::pin(Context::with_receiver(mailbox).into_future(ShardActor::new(core, shard)))
        }));
        self.actor = Some(Addr::new(sender));
    }

    /// What the scheduler needs to know of the shard, at a time on the monotonic clock and on the node's.
    pub(super) fn load(&mut self, shard: &ShardCore, now: Duration, now_ms: u64) -> ShardLoad {
        shard.news.store(false, Ordering::Release);
        if shard.retry.swap(false, Ordering::AcqRel) {
            self.times.forget_failures();
        }
        let load = shard.tree.load(now_ms);
        let load = ShardLoad {
            shard: shard.index,
            sealed_bytes: if load.flush_due { load.sealed_bytes.max(1) } else { 0 },
            flush_running: load.flush_running,
            compaction_score: f64::from(load.compaction_score_permille) / 1000.0,
            backlog: f64::from(load.backlog_permille) / 1000.0,
            compaction_fails: !shard.seems_well() || shard.failures(IoClass::Compaction).last().is_some(),
            compaction_bytes: load.next_compaction_bytes,
            compactions_running: load.compactions_running,
            waited: self.times.note_compaction_due(load.compaction_due, now),
            no_flush_before: self.times.no_flush_before,
            no_compaction_before: self.times.no_compaction_before,
        };
        shard.jobs.compaction.set_urgency(relief(&load));
        load
    }
}

/// What waits since when, and what is not tried before when.
#[derive(Debug, Default)]
pub(super) struct ShardTimes {
    compaction_due_since: Option<Duration>,
    no_flush_before: Option<Duration>,
    no_compaction_before: Option<Duration>,
    no_segment_before: Option<Duration>,
    /// Whether a worker prepares a log segment.
    preparing: bool,
    panics: Vec<Duration>,
}

impl ShardTimes {
    fn forget_failures(&mut self) {
        (self.no_flush_before, self.no_compaction_before, self.no_segment_before) = (None, None, None);
    }

    /// How long a compaction has been due without one being begun.
    fn note_compaction_due(&mut self, is_due: bool, now: Duration) -> Duration {
        self.compaction_due_since = is_due.then(|| self.compaction_due_since.unwrap_or(now));
        self.compaction_due_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    pub(super) fn note_job_begun(&mut self, class: IoClass, now: Duration) {
        if class == IoClass::Compaction {
            self.compaction_due_since = Some(now);
        }
    }

    pub(super) fn note_job_ended(&mut self, class: IoClass, failed: bool, now: Duration) {
        let not_before = match class {
            IoClass::Flush => &mut self.no_flush_before,
            IoClass::Compaction => &mut self.no_compaction_before,
        };
        *not_before = failed.then(|| now + RETRY_AFTER);
    }

    /// Whether a log segment may be prepared now: none is being prepared, and none has failed lately. If so, it is
    /// taken to be under way until [`ShardTimes::note_prepared`].
    pub(super) fn begin_to_prepare(&mut self, now: Duration) -> bool {
        let may = !self.preparing && self.no_segment_before.is_none_or(|at| at <= now);
        self.preparing |= may;
        may
    }

    pub(super) fn note_prepared(&mut self, failed: bool, now: Duration) {
        self.preparing = false;
        self.no_segment_before = failed.then(|| now + RETRY_AFTER);
    }

    /// Counts a panic. Whether the shard may be re-opened without being asked.
    pub(super) fn note_panic(&mut self, now: Duration) -> bool {
        self.panics.retain(|at| now.saturating_sub(*at) < PANIC_WINDOW);
        self.panics.push(now);
        self.panics.len() <= MAX_PANICS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(9);

    #[test]
    fn a_segment_that_could_not_be_prepared_is_left_alone_for_a_while() {
        let mut times = ShardTimes::default();
        assert!(times.begin_to_prepare(NOW));
        assert!(!times.begin_to_prepare(NOW), "one is under way");
        times.note_prepared(false, NOW);
        assert!(times.begin_to_prepare(NOW));
        times.note_prepared(true, NOW);
        times.note_job_ended(IoClass::Flush, false, NOW);
        assert!(!times.begin_to_prepare(NOW + RETRY_AFTER / 2), "a flush has nothing to do with it");
        assert!(times.begin_to_prepare(NOW + RETRY_AFTER));
    }

    #[test]
    fn so_many_panics_in_a_row_are_enough() {
        let mut times = ShardTimes::default();
        assert!((0..MAX_PANICS).all(|_| times.note_panic(NOW)));
        assert!(!times.note_panic(NOW));
        assert!(times.note_panic(NOW + PANIC_WINDOW), "that was long ago");
    }

    #[test]
    fn a_compaction_waits_from_when_it_is_due_or_from_the_last_that_began() {
        let mut times = ShardTimes::default();
        let second = Duration::from_secs(1);
        assert_eq!(times.note_compaction_due(true, NOW), Duration::ZERO);
        assert_eq!(times.note_compaction_due(true, NOW + second), second);
        times.note_job_begun(IoClass::Compaction, NOW + second);
        assert_eq!(times.note_compaction_due(true, NOW + second), Duration::ZERO);
        assert_eq!(times.note_compaction_due(false, NOW + 2 * second), Duration::ZERO);
        assert_eq!(times.note_compaction_due(true, NOW + 3 * second), Duration::ZERO);
    }
}
