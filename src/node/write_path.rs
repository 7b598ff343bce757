//! How a write gets from a handle to a turn: checked, hashed, routed; in place when the shard is idle, or is after a
//! few looks (a thread that may wait spins between them, a task lets other tasks run), through admission and the
//! inbox otherwise.

use std::{collections::BTreeMap, sync::Arc, task::Poll};

use bytes::Bytes;

use super::{
    admission::Permit,
    batch::{BatchRequest, RoundBatch},
    batch_parts::BatchParts,
    node_core::{NodeCore, ShardSlot},
    options::Durability,
    request::{Action, Base, BatchAnswer, StepResult, TurnStep, Work, WriteRequest},
    shard_core::{ShardCore, outcome_unknown},
    step::{Step, StepDone},
    write_batch::WriteBatch,
};
use crate::{
    error::{Error, Result},
    key::{KeyHash, check_key, check_value},
    tree::WriteOp,
};

/// Whose thread it is: whether it may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A thread of an async runtime: nothing on it may wait for the disk.
    Async,
    /// A thread that waits.
    Blocking,
}

/// Whether a caller spins for a turn: not on a runtime's thread, where other tasks have what to do, and not for a
/// sync, since whose turn it is may wait for one, too.
fn is_patient(durability: Durability, caller: Caller) -> bool {
    caller == Caller::Blocking && durability != Durability::Synced
}

/// How often a task lets others run while another caller has the turn, before its write goes through the inbox: that
/// costs as much as several turns.
const MOST_YIELDS: usize = 8;

impl NodeCore {
    /// A write of one key, checked and hashed.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn lone_write<'a>(&self, key: &'a [u8], value: Option<&'a [u8]>) -> Result<WriteOp<'a>> {
        check_key(key)?;
        value.map_or(Ok(()), check_value)?;
        Ok(WriteOp::new(self.router.hash(key), key, value))
    }

    /// Writes one key on this thread, if its shard is idle and the thread may. It needs no bytes of its own then.
    pub(super) fn try_write_in_place(
        &self,
        op: &WriteOp<'_>,
        durability: Durability,
        caller: Caller,
    ) -> Option<Result<()>> {
        let slot = self.shards.get(self.router.shard(op.hash))?.load();
        let shard = slot.open().ok()?;
        if self.lifecycle.check_open().is_err() || !self.may_run_in_place(shard, durability, caller) {
            return None;
        }
        let turn = shard.turn_in_place(is_patient(durability, caller))?;
        Some(self.run_lone_write(shard, turn, op, durability, caller))
    }

    /// Writes one key that owns its bytes.
    ///
    /// # Errors
    /// As a put.
    pub(super) async fn write_one(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        durability: Durability,
        caller: Caller,
        permit: Option<Permit>,
    ) -> Result<()> {
        let op = self.lone_write(&key, value.as_deref())?;
        // NOTE: with a permit it came as a message, and does not let the later ones of its sender by.
        let mut yields = if permit.is_none() { MOST_YIELDS } else { 0 };
        loop {
            if let Some(done) = self.try_write_in_place(&op, durability, caller) {
                return done;
            }
            if yields == 0 || !self.is_worth_a_yield(op.hash, durability, caller) {
                break;
            }
            yields -= 1;
            yield_now().await;
        }
        let hash = op.hash;
        self.queue_write(hash, key, value, durability, permit).await
    }

    /// Writes one key that was hashed, and could not be written in place.
    ///
    /// # Errors
    /// As a put.
    pub(super) async fn queue_write(
        &self,
        hash: KeyHash,
        key: Bytes,
        value: Option<Bytes>,
        durability: Durability,
        permit: Option<Permit>,
    ) -> Result<()> {
        self.lifecycle.check_open()?;
        let shard = self.shard(self.router.shard(hash))?;
        let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
        let action = value.map_or(Action::Delete, Action::Put);
        let (reply, answer) = oneshot::channel();
        let work = Work::Steps { steps: vec![TurnStep { hash, key, action }], reply };
        self.queue(&shard, work, bytes, durability, permit).await?;
        let results = answer.await.map_err(|_| outcome_unknown())?;
        match results.into_iter().next() {
            Some(StepResult::Done(_)) => Ok(()),
            Some(StepResult::Failed(error)) => Err(error),
            Some(StepResult::Stale(_)) | None => Err(Error::internal("a put came back undone")),
        }
    }

    /// Runs steps; same-shard ones in their order, in one turn where they can.
    pub(super) async fn run_steps(
        &self,
        steps: Vec<Step>,
        durability: Durability,
        caller: Caller,
    ) -> Vec<Result<StepDone>> {
        let mut results: Vec<Result<StepDone>> =
            steps.iter().map(|_| Err(Error::internal("a step was not run"))).collect();
        let mut by_shard: BTreeMap<usize, Vec<(usize, Step)>> = BTreeMap::new();
        for (place, step) in steps.into_iter().enumerate() {
            match self.check_step(&step) {
                Ok(index) => by_shard.entry(index).or_default().push((place, step)),
                Err(error) => put_result(&mut results, place, Err(error)),
            }
        }
        // All shards' requests are handed in before the first answer is awaited.
        let runs =
            by_shard.into_iter().map(|(index, steps)| self.run_shard_steps(index, steps, durability, caller));
        for (place, result) in futures_util::future::join_all(runs).await.into_iter().flatten() {
            put_result(&mut results, place, result);
        }
        results
    }

    /// Writes a batch: all or nothing.
    ///
    /// # Errors
    /// As a put.
    pub(super) async fn write_batch(
        self: &Arc<Self>,
        batch: WriteBatch,
        caller: Caller,
        mut permit: Option<Permit>,
    ) -> Result<()> {
        batch.check()?;
        self.lifecycle.check_open()?;
        let durability = batch.durability.unwrap_or(self.options.durability);
        let mut parts = BatchParts::new(batch, self.router);
        loop {
            if parts.conditions() > 0 {
                // NOTE: waits first, and reads then: what is read is not to be old when the turn comes.
                permit = self.admit_batch(&parts, permit).await?;
                parts = self.read_for_conditions(parts, caller).await?;
            }
            match self.try_batch(parts, durability, caller, permit.take()).await? {
                BatchAnswer::Done(result) => return result,
                BatchAnswer::Stale(again) => parts = again,
            }
        }
    }

    async fn try_batch(
        &self,
        parts: BatchParts,
        durability: Durability,
        caller: Caller,
        permit: Option<Permit>,
    ) -> Result<BatchAnswer> {
        let Some(first) = parts.shards().next() else { return Ok(BatchAnswer::Done(Ok(()))) };
        let first_shard = self.shard(first)?;
        if parts.shards().nth(1).is_none() {
            let bytes = parts.bytes();
            let (reply, answer) = oneshot::channel();
            let work = Work::Batch { parts, reply };
            self.dispatch(&first_shard, work, bytes, durability, caller, permit).await?;
            return answer.await.map_err(|_| outcome_unknown());
        }
        if self.may_run_in_place(&first_shard, durability, caller)
            && let Some(outcome) = self.try_batch_in_place(RoundBatch { parts: &parts, durability })
        {
            return Ok(BatchAnswer::of(outcome, parts));
        }
        let permit = self.admit_batch(&parts, permit).await?;
        let lane = self.batch_lane.lock().clone().ok_or_else(Error::closed)?;
        let (reply, answer) = oneshot::channel();
        let request = BatchRequest { parts, durability, reply, _permit: permit };
        lane.send_async(Some(request)).await.map_err(|_| Error::closed())?;
        drop(lane);
        answer.await.map_err(|_| outcome_unknown())
    }

    /// Waits until there is memory for a batch, and for its permit at its first shard, if it has none.
    async fn admit_batch(&self, parts: &BatchParts, permit: Option<Permit>) -> Result<Option<Permit>> {
        let Some(first) = parts.shards().next() else { return Ok(permit) };
        let first = self.shard(first)?;
        self.wait_for_memory(&first).await?;
        Ok(Some(match permit {
            Some(permit) => permit,
            None => first.admission.acquire(parts.bytes()).await?,
        }))
    }

    /// Runs a request's turn on this thread if the shard is idle, and queues it otherwise.
    ///
    /// # Errors
    /// Nothing was written: the shard takes no writes, or the node is closed.
    pub(super) async fn dispatch(
        &self,
        shard: &Arc<ShardCore>,
        work: Work,
        bytes: usize,
        durability: Durability,
        caller: Caller,
        permit: Option<Permit>,
    ) -> Result<()> {
        if self.may_run_in_place(shard, durability, caller)
            && let Some(turn) = shard.turn_in_place(is_patient(durability, caller))
        {
            self.run_turn(shard, turn, vec![WriteRequest { work, durability, _permit: permit }]);
            return Ok(());
        }
        self.queue(shard, work, bytes, durability, permit).await
    }

    /// Queues a request for the shard's actor.
    async fn queue(
        &self,
        shard: &ShardCore,
        work: Work,
        bytes: usize,
        durability: Durability,
        permit: Option<Permit>,
    ) -> Result<()> {
        self.wait_for_memory(shard).await?;
        let permit = match permit {
            Some(permit) => permit,
            None => shard.admission.acquire(bytes).await?,
        };
        shard.send(WriteRequest { work, durability, _permit: Some(permit) }).await
    }

    /// A turn waits for one `write`, and for the disk if a sync is asked: an async caller's thread runs it
    /// only while `write`s are quick, and never with a sync.
    fn may_run_in_place(&self, shard: &ShardCore, durability: Durability, caller: Caller) -> bool {
        let may_wait =
            caller == Caller::Blocking || (durability == Durability::Buffered && shard.turns_are_quick());
        may_wait && !self.accountant.full()
    }

    /// Whether a write of a task was not run in place for no other reason than that somebody had the turn just then.
    fn is_worth_a_yield(&self, hash: KeyHash, durability: Durability, caller: Caller) -> bool {
        let shard = self.shards.get(self.router.shard(hash)).map(ShardSlot::load);
        let shard = shard.as_ref().and_then(|state| state.open().ok());
        caller == Caller::Async
            && self.lifecycle.check_open().is_ok()
            && shard
                .is_some_and(|shard| self.may_run_in_place(shard, durability, caller) && shard.nobody_waits())
    }

    fn check_step(&self, step: &Step) -> Result<usize> {
        self.lifecycle.check_open()?;
        check_key(step.key())?;
        if let Step::Put { value, .. } = step {
            check_value(value)?;
        }
        Ok(self.router.shard(self.router.hash(step.key())))
    }

    async fn run_shard_steps(
        &self,
        index: usize,
        steps: Vec<(usize, Step)>,
        durability: Durability,
        caller: Caller,
    ) -> Vec<(usize, Result<StepDone>)> {
        let bytes = steps.iter().map(|(_, step)| step.bytes()).sum();
        let mut done = Vec::with_capacity(steps.len());
        let mut open: Vec<(usize, TurnStep)> = Vec::with_capacity(steps.len());
        for (place, step) in steps {
            match self.turn_step(step, caller).await {
                Ok(step) => open.push((place, step)),
                Err(error) => done.push((place, Err(error))),
            }
        }
        while !open.is_empty() {
            let (places, steps): (Vec<usize>, Vec<TurnStep>) = open.drain(..).unzip();
            match self.try_steps(index, steps, bytes, durability, caller).await {
                Err(error) => done.extend(places.into_iter().map(|place| (place, Err(error.clone())))),
                Ok(results) => {
                    for (place, result) in places.into_iter().zip(results) {
                        match result {
                            StepResult::Done(step) => done.push((place, Ok(step))),
                            StepResult::Failed(error) => done.push((place, Err(error))),
                            StepResult::Stale(step) => match self.read_again(step, caller).await {
                                Ok(step) => open.push((place, step)),
                                Err(error) => done.push((place, Err(error))),
                            },
                        }
                    }
                }
            }
        }
        done
    }

    async fn try_steps(
        &self,
        index: usize,
        steps: Vec<TurnStep>,
        bytes: usize,
        durability: Durability,
        caller: Caller,
    ) -> Result<Vec<StepResult>> {
        let shard = self.shard(index)?;
        let (reply, answer) = oneshot::channel();
        self.dispatch(&shard, Work::Steps { steps, reply }, bytes, durability, caller, None).await?;
        answer.await.map_err(|_| outcome_unknown())
    }

    async fn turn_step(&self, step: Step, caller: Caller) -> Result<TurnStep> {
        let hash = self.router.hash(step.key());
        Ok(match step {
            Step::Put { key, value } => TurnStep { hash, key, action: Action::Put(value) },
            Step::Delete { key } => TurnStep { hash, key, action: Action::Delete },
            Step::Update { key, change } => {
                let base = self.read_base(hash, &key, caller).await?;
                TurnStep { hash, key, action: Action::Update { base, change } }
            }
        })
    }

    async fn read_again(&self, mut step: TurnStep, caller: Caller) -> Result<TurnStep> {
        if let Action::Update { base, .. } = &mut step.action {
            *base = self.read_base(step.hash, &step.key, caller).await?;
        }
        Ok(step)
    }

    /// What an update needs to know of the tables before its turn, which never reads the disk.
    async fn read_base(&self, hash: KeyHash, key: &Bytes, caller: Caller) -> Result<Base> {
        let shard = self.shard(self.router.shard(hash))?;
        let view = shard.tree.view();
        let flush_count = view.flush_count();
        let value = self.read_view(view, hash, key, caller).await?;
        Ok(Base { incarnation: shard.incarnation, flush_count, value })
    }
}

/// Lets the other tasks of whatever runtime this is run first.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn put_result(results: &mut [Result<StepDone>], place: usize, result: Result<StepDone>) {
    if let Some(slot) = results.get_mut(place) {
        *slot = result;
    }
}
