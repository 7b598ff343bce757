//! What a user asks of the whole node: sync, flush, settle, compact, re-open.

use std::sync::{Arc, atomic::Ordering};

use super::{
    compaction_job::CompactionJob,
    env::Priority,
    node_core::NodeCore,
    options::Durability,
    parallel::in_parallel,
    reopen,
    request::Work,
    schedule::IoClass,
    shard_core::{ShardCore, outcome_unknown},
    stepped_workers::{Next, Stepped},
    sync_rule::note_sync,
    write_path::{Caller, WriteMode},
};
use crate::{
    error::{Error, ErrorKind, Result},
    key::KeyRange,
    tree::{FullCompaction, compaction::Readers},
    waiting::block_on,
};

impl NodeCore {
    /// Makes every earlier ack durable: one node-wide round of syncs.
    ///
    /// # Errors
    /// `Poisoned` when a shard's sync fails now or failed before; `Closed`.
    pub(super) async fn sync_all(self: &Arc<Self>) -> Result<()> {
        self.lifecycle.check_open()?;
        for slot in &self.shards {
            slot.load().open()?;
        }
        let core = Arc::clone(self);
        let synced = self.pools.sync.run(move || {
            let mut result = Ok(());
            for shard in core.open_shards() {
                // A shard that refuses writes may hold acks that no sync of its log makes safe.
                result = result
                    .and(shard.check_takes_writes())
                    .and(note_sync(&shard, shard.tree.wal().sync().map(|_| ())));
            }
            result
        });
        synced.await?
    }

    /// Writes every memtable to tables.
    ///
    /// # Errors
    /// Why a shard is not open or its flush fails.
    pub(super) async fn flush_all(&self, caller: Caller) -> Result<()> {
        self.lifecycle.check_open()?;
        let _waiting = self.pools.flush.wait();
        let mut waiting = vec![];
        for index in 0..self.shards.len() {
            let shard = self.shard(index)?;
            let (reply, answer) = oneshot::channel();
            let seal = Work::Seal { reply };
            self.dispatch(&shard, seal, 0, WriteMode::patient(Durability::Buffered, caller), None).await?;
            waiting.push((shard, answer));
        }
        let mut sealed = vec![];
        for (shard, answer) in waiting {
            answer.await.unwrap_or_else(|_| Err(outcome_unknown()))?;
            let flushes = shard.tree.view().flush_count();
            self.tell_news(&shard);
            sealed.push((shard, flushes));
        }
        for (shard, flushes) in sealed {
            // A flush that ran already may have left out what was sealed now; the second from here has it.
            self.wait_until(&shard, &[IoClass::Flush], |shard| {
                let view = shard.tree.view();
                !view.has_sealed() || view.flush_count() >= flushes + 2
            })
            .await?;
        }
        Ok(())
    }

    /// Flushes, then waits until no background work is due, and removes idle log segments.
    ///
    /// # Errors
    /// As [`NodeCore::flush_all`].
    pub(super) async fn settle_all(self: &Arc<Self>, caller: Caller) -> Result<()> {
        let _waiting = (self.pools.flush.wait(), self.pools.compaction.wait());
        self.flush_all(caller).await?;
        for index in 0..self.shards.len() {
            let shard = self.shard(index)?;
            self.wait_until(&shard, &[IoClass::Flush, IoClass::Compaction], |shard| {
                let readers = self.readers();
                shard.tree.is_at_rest(readers.positions, readers.now_ms)
            })
            .await?;
        }
        let core = Arc::clone(self);
        self.pools.prepare.run(move || core.trim_segments()).await
    }

    fn trim_segments(&self) {
        for shard in self.open_shards() {
            shard.tree.free_unread_views();
            if let Err(error) = shard.tree.trim_segments(0) {
                tracing::warn!(shard = shard.index, error = %error, "cannot remove idle log segments");
            }
        }
    }

    /// Waits for background work of these kinds until `done`, or until it fails. What failed before is tried again.
    async fn wait_until(
        &self,
        shard: &ShardCore,
        classes: &[IoClass],
        done: impl Fn(&ShardCore) -> bool,
    ) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let failures = classes.iter().map(|class| shard.failures(*class));
        let before: Vec<_> = failures.map(|failures| (failures, failures.count())).collect();
        shard.retry.store(true, Ordering::Release);
        loop {
            progress.borrow_and_update();
            if done(shard) {
                return Ok(());
            }
            self.lifecycle.check_open()?;
            shard.check_takes_writes()?;
            if let Some(error) = before.iter().find_map(|(failures, count)| failures.since(*count)) {
                return Err(error);
            }
            self.tell_news(shard);
            progress.changed().await.map_err(|_| Error::closed())?;
        }
    }

    /// Rewrites every table that has keys in `range` into the last level, dropping what nothing needs.
    ///
    /// # Errors
    /// Why a shard is not open or its compaction fails; `Closed`.
    pub(super) async fn compact_range(self: &Arc<Self>, range: KeyRange, caller: Caller) -> Result<()> {
        range.check()?;
        self.flush_all(caller).await?;
        let shards = (0..self.shards.len()).map(|index| self.shard(index)).collect::<Result<Vec<_>>>()?;
        let (reply, answer) = oneshot::channel();
        let core = Arc::clone(self);
        let body = Box::new(move || {
            let _waiting = core.pools.compaction.wait();
            let threads =
                if core.env.threads.parallelism() == 1 { 1 } else { core.options.compaction_workers };
            let done = in_parallel(shards, threads, |shard| core.compact_shard(&shard, &range));
            let _ = reply.send(done.into_iter().collect::<Result<()>>());
        });
        // NOTE: not on the compaction workers: their queued jobs hold the grants that this one waits for.
        self.env
            .threads
            .spawn("dbex-compact-now", body)
            .map_err(|error| Error::with_source(ErrorKind::Io, "cannot start a thread to compact", error))?;
        answer.await.map_err(|_| Error::internal("a compaction panicked"))?
    }

    fn compact_shard(self: &Arc<Self>, shard: &Arc<ShardCore>, range: &KeyRange) -> Result<()> {
        let bound = shard.tree.full_bound();
        let mut progress = self.progress.subscribe();
        loop {
            progress.borrow_and_update();
            self.lifecycle.check_open()?;
            shard.check_takes_writes()?;
            if let Some(grant) = self.grants.take(IoClass::Compaction, &shard.jobs) {
                let Readers { positions, now_ms } = self.readers();
                match shard.tree.plan_full_compaction(range, bound, positions, now_ms) {
                    // NOTE: nothing is all that a shard that has just failed plans, too.
                    FullCompaction::Nothing => return shard.check_takes_writes(),
                    FullCompaction::Busy => {}
                    FullCompaction::Plan(plan) => {
                        let mut job = CompactionJob::new(self, shard, *plan, grant);
                        while job.advance(Priority::Normal) != Next::Finish {}
                        job.install()?;
                        continue;
                    }
                }
            }
            // For a place, or for the tables of a job that runs.
            block_on(progress.changed()).map_err(|_| Error::closed())?;
        }
    }

    /// Re-opens every shard that is poisoned, failed or was refused.
    ///
    /// # Errors
    /// As [`Node::reopen_shards`](super::Node::reopen_shards).
    pub(super) async fn reopen_shards(self: &Arc<Self>) -> Result<()> {
        self.lifecycle.check_open()?;
        let (reply, answer) = oneshot::channel();
        reopen::start(self, Some(reply))?;
        answer.await.map_err(|_| Error::internal("the re-opening panicked"))?
    }
}
