//! How a write gets from a handle to a turn: checked, hashed, routed; in place when the shard is idle, or is soon (a thread
//! that may wait spins and then sleeps at the gate, a task lets other tasks run), through admission and the inbox otherwise.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    admission::Permit,
    expiry::{Expiry, check_ttl},
    node_core::{NodeCore, ShardSlot},
    options::Durability,
    put_options::PutOptions,
    request::{Action, Base, StepResult, TurnStep, Work, WriteRequest},
    shard_core::{ShardCore, outcome_unknown},
    step::{Step, StepDone},
};
use crate::{
    error::{Error, Result},
    key::{KeyHash, check_key, check_value},
    tree::WriteOp,
    waiting::yield_now,
};

/// Whose thread it is: whether it may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A thread of an async runtime: nothing on it may wait for the disk.
    Async,
    /// A thread that waits.
    Blocking,
}

/// How a write is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteMode {
    pub durability: Durability,
    pub caller: Caller,
    /// Whether it waits for memory, for its place while writers are slowed down, and for room in the queue.
    pub may_wait: bool,
}

impl WriteMode {
    /// Of a write that waits for what it needs.
    pub(super) const fn patient(durability: Durability, caller: Caller) -> Self {
        Self { durability, caller, may_wait: true }
    }

    /// Whether the caller spins for a turn: not on a runtime's thread, where other tasks have what to do, and not for a
    /// sync, since whose turn it is may wait for one, too.
    fn spins(self) -> bool {
        self.caller == Caller::Blocking && self.durability != Durability::Synced
    }

    /// Whether it sleeps, too, where there is nothing else to hand in meanwhile.
    fn sleeps(self) -> bool {
        self.spins() && self.may_wait
    }
}

/// How often a task lets others run while another caller has the turn, before its write goes through the inbox: that
/// costs as much as several turns.
const MOST_YIELDS: usize = 8;

impl NodeCore {
    /// A write of one key, checked and hashed.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn lone_write<'a>(
        &self,
        key: &'a [u8],
        value: Option<&'a [u8]>,
        ttl: Option<Duration>,
    ) -> Result<WriteOp<'a>> {
        check_key(key)?;
        value.map_or(Ok(()), check_value)?;
        check_ttl(ttl)?;
        let expires_at_ms = ttl.and_then(|ttl| Expiry::In(ttl).at_ms(|| self.now_ms(), None));
        Ok(WriteOp { expires_at_ms, ..WriteOp::new(self.router.hash(key), key, value) })
    }

    /// How a put is made.
    pub(super) fn mode_of(&self, options: PutOptions, caller: Caller) -> WriteMode {
        let durability = options.durability.unwrap_or(self.options.durability);
        WriteMode { durability, caller, may_wait: !options.no_wait }
    }

    /// Writes one key on this thread, if its shard is idle, or is soon, and the thread may. It needs no bytes of its own then. A
    /// thread that may wait keeps the shard's pace first.
    pub(super) fn try_write_in_place(&self, op: &WriteOp<'_>, mode: WriteMode) -> Option<Result<()>> {
        let slot = self.shards.get(self.router.shard(op.hash))?.load();
        let shard = slot.open().ok()?;
        if self.lifecycle.check_open().is_err() {
            return None;
        }
        if shard.pacer.is_on()
            && mode.caller == Caller::Blocking
            && let Err(busy) = self.keep_pace_here(shard, op.key.len() + op.value.len(), mode)
        {
            return Some(Err(busy));
        }
        if !self.may_run_in_place(shard, mode) {
            return None;
        }
        let turn = if mode.sleeps() { shard.turn_of_sleeper() } else { shard.turn_in_place(mode.spins()) }?;
        Some(self.run_lone_write(shard, turn, op, mode))
    }

    /// Writes one key that owns its bytes.
    ///
    /// # Errors
    /// As a put.
    pub(super) async fn write_one(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        options: PutOptions,
        caller: Caller,
        permit: Option<Permit>,
    ) -> Result<()> {
        let mode = self.mode_of(options, caller);
        let op = self.lone_write(&key, value.as_deref(), options.ttl)?;
        if caller == Caller::Async {
            let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
            self.keep_pace_of(self.router.shard(op.hash), bytes, mode).await?;
        }
        // NOTE: with a permit it came as a message, and does not let the later ones of its sender by.
        let mut yields = if permit.is_none() { MOST_YIELDS } else { 0 };
        loop {
            if let Some(done) = self.try_write_in_place(&op, mode) {
                return done;
            }
            if yields == 0 || !self.is_worth_a_yield(op.hash, mode) {
                break;
            }
            yields -= 1;
            yield_now().await;
        }
        let (hash, action) = (op.hash, put_or_delete(value, options.ttl));
        self.queue_write(TurnStep { hash, key, action }, mode, permit).await
    }

    /// Writes one key that was hashed, has kept the pace, and could not be written in place.
    ///
    /// # Errors
    /// As a put.
    pub(super) async fn queue_write(
        &self,
        step: TurnStep,
        mode: WriteMode,
        permit: Option<Permit>,
    ) -> Result<()> {
        self.lifecycle.check_open()?;
        let shard = self.shard(self.router.shard(step.hash))?;
        let value = if let Action::Put(value, _) = &step.action { value.len() } else { 0 };
        let bytes = step.key.len() + value;
        let (reply, answer) = oneshot::channel();
        let work = Work::Steps { steps: vec![step], reply };
        self.queue(&shard, work, bytes, mode, permit).await?;
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

    /// Runs a request's turn on this thread if the shard is idle, and queues it otherwise. It has kept the pace.
    ///
    /// # Errors
    /// Nothing was written: the shard takes no writes, the node is closed, or `Busy` if it would have to wait and may
    /// not.
    pub(super) async fn dispatch(
        &self,
        shard: &Arc<ShardCore>,
        work: Work,
        bytes: usize,
        mode: WriteMode,
        permit: Option<Permit>,
    ) -> Result<()> {
        if self.may_run_in_place(shard, mode)
            && let Some(turn) = shard.turn_in_place(mode.spins())
        {
            let request = WriteRequest { work, durability: mode.durability, _permit: permit };
            self.run_turn(shard, turn, vec![request]);
            return Ok(());
        }
        self.queue(shard, work, bytes, mode, permit).await
    }

    /// Queues a request for the shard's actor.
    async fn queue(
        &self,
        shard: &ShardCore,
        work: Work,
        bytes: usize,
        mode: WriteMode,
        permit: Option<Permit>,
    ) -> Result<()> {
        self.wait_for_memory(shard, mode.may_wait).await?;
        let permit = match permit {
            Some(permit) => permit,
            None => shard.admission.acquire(bytes, mode.may_wait).await?,
        };
        let request = WriteRequest { work, durability: mode.durability, _permit: Some(permit) };
        shard.send(request, mode.may_wait).await
    }

    /// A turn waits for one `write`, and for the disk if a sync is asked: an async caller's thread runs it
    /// only while `write`s are quick, and never with a sync.
    pub(super) fn may_run_in_place(&self, shard: &ShardCore, mode: WriteMode) -> bool {
        let is_quick = || mode.durability == Durability::Buffered && shard.turns_are_quick();
        (mode.caller == Caller::Blocking || is_quick()) && !self.accountant.full()
    }

    /// Whether a write of a task was not run in place for no other reason than that somebody had the turn just then.
    fn is_worth_a_yield(&self, hash: KeyHash, mode: WriteMode) -> bool {
        let shard = self.shards.get(self.router.shard(hash)).map(ShardSlot::load);
        let shard = shard.as_ref().and_then(|state| state.open().ok());
        mode.caller == Caller::Async
            && self.lifecycle.check_open().is_ok()
            && shard.is_some_and(|shard| self.may_run_in_place(shard, mode) && shard.nobody_waits())
    }

    fn check_step(&self, step: &Step) -> Result<usize> {
        self.lifecycle.check_open()?;
        check_key(step.key())?;
        if let Step::Put { value, expiry, .. } = step {
            check_value(value)?;
            match expiry {
                Expiry::In(ttl) => check_ttl(Some(*ttl))?,
                Expiry::Keep => return Err(Error::invalid("a put keeps no expiry: use an update")),
                Expiry::Never | Expiry::At(_) => {}
            }
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
        let mode = WriteMode::patient(durability, caller);
        // NOTE: before anything is read: what is read is not to be old when the turn comes.
        if let Err(error) = self.keep_pace_of(index, bytes, mode).await {
            return steps.into_iter().map(|(place, _)| (place, Err(error.clone()))).collect();
        }
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
            match self.try_steps(index, steps, bytes, mode).await {
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
        mode: WriteMode,
    ) -> Result<Vec<StepResult>> {
        let shard = self.shard(index)?;
        let (reply, answer) = oneshot::channel();
        self.dispatch(&shard, Work::Steps { steps, reply }, bytes, mode, None).await?;
        answer.await.map_err(|_| outcome_unknown())
    }

    async fn turn_step(&self, step: Step, caller: Caller) -> Result<TurnStep> {
        let hash = self.router.hash(step.key());
        Ok(match step {
            Step::Put { key, value, expiry } => TurnStep { hash, key, action: Action::Put(value, expiry) },
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

/// A lone write's action. A value's time begins with its turn.
pub(super) fn put_or_delete(value: Option<Bytes>, ttl: Option<Duration>) -> Action {
    let expiry = ttl.map_or(Expiry::Never, Expiry::In);
    value.map_or(Action::Delete, |value| Action::Put(value, expiry))
}

fn put_result(results: &mut [Result<StepDone>], place: usize, result: Result<StepDone>) {
    if let Some(slot) = results.get_mut(place) {
        *slot = result;
    }
}
