//! A shard's turn: everything that waits is staged, appended to the log with one `write`, synced once if
//! anyone asked, applied to the memtable, published, answered. A turn never reads the disk.
//!
//! ```text
//!  requests ─► stage (conditions, updates) ─► append ─► sync? ─► apply ─► reply
//!                 │ a request may fail alone     │ all staged requests fail together
//! ```
//! A lone write of a caller in place stages nothing: it is appended from the caller's own memory.

use std::{
    cell::Cell,
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
};

use bytes::Bytes;

use super::{
    conditions::{Verdict, judge},
    expiry::Expiry,
    node_core::NodeCore,
    options::Durability,
    request::{Action, BatchAnswer, StepResult, StoredValue, TurnStep, Work, WriteRequest},
    shard_core::{ShardCore, Turn, outcome_unknown},
    step::{Change, Current, StepDone},
    write_path::{Caller, WriteMode},
};
use crate::{
    entry::ValueKind,
    error::{Error, Result},
    ids::SeqNo,
    key::{KeyHash, check_value},
    tree::{SMALL_WRITE_BYTES, TreeWriter, WriteOp, is_visible},
    wal::{FrameKind, GroupBuffer, LogPosition},
};

/// A turn that holds so much takes no further update; those wait for the next one.
const MAX_UPDATED_BYTES: usize = 64 << 20;

thread_local! {
    /// Where a thread builds the frame of a small lone write: the shard's own memory for frames was last touched by
    /// whoever had the turn before, mostly on another core. Taken out while it is used, and made anew where it is
    /// gone: a put may come from within another node's, or while the thread ends.
    static LONE_FRAME: Cell<Option<Box<GroupBuffer>>> = const { Cell::new(None) };
}

impl NodeCore {
    /// Runs one turn with these requests and answers them. Never panics.
    pub(super) fn run_turn(&self, shard: &ShardCore, mut turn: Turn<'_>, requests: Vec<WriteRequest>) {
        if let Err(error) = shard.check_takes_writes() {
            for request in requests {
                request.refuse(&error);
            }
            return;
        }
        let writer = &mut *turn.writer;
        // On a panic the requests are dropped while unwinding, and each caller learns that its outcome is unknown.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.run_requests(shard, writer, requests);
            self.after_turn(shard, writer);
        }));
        if ran.is_err() {
            self.shard_panicked(shard);
        }
    }

    /// Runs one turn in place with a single write of a caller that waits for it.
    ///
    /// # Errors
    /// As a put.
    pub(super) fn run_lone_write(
        &self,
        shard: &ShardCore,
        mut turn: Turn<'_>,
        op: &WriteOp<'_>,
        mode: WriteMode,
    ) -> Result<()> {
        shard.check_takes_writes()?;
        let is_synced = mode.durability == Durability::Synced;
        if is_synced {
            self.check_syncable(shard)?;
        }
        let writer = &mut *turn.writer;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let result = self.commit_lone(shard, writer, op, is_synced, mode.caller);
            self.after_turn(shard, writer);
            result
        }));
        ran.unwrap_or_else(|_| {
            self.shard_panicked(shard);
            Err(outcome_unknown())
        })
    }

    fn run_requests(&self, shard: &ShardCore, writer: &mut TreeWriter, requests: Vec<WriteRequest>) {
        let mut synced = false;
        let mut answers = Vec::with_capacity(requests.len());
        let wants_sync = requests.iter().any(|request| request.durability == Durability::Synced);
        let unsyncable = if wants_sync { self.check_syncable(shard).err() } else { None };
        writer.begin_frame(FrameKind::Data);
        for request in requests {
            if let Some(error) = unsyncable.as_ref().filter(|_| request.durability == Durability::Synced) {
                request.refuse(error);
                continue;
            }
            let WriteRequest { work, durability, _permit: permit } = request;
            let before = writer.staged_ops();
            let answer = self.stage(shard, writer, work);
            let makes_durable = writer.staged_ops() > before || answer.is_written_batch();
            synced |= durability == Durability::Synced && makes_durable;
            answers.push((answer, permit));
        }
        writer.end_frame();
        let result = if writer.staged_ops() > 0 {
            self.commit(shard, writer, synced)
        } else {
            // What the conditions of a batch found is made durable, even if it writes nothing.
            self.sync_turn(shard, synced)
        };
        for (answer, permit) in answers {
            answer.send(&result, writer);
            drop(permit);
        }
    }

    fn commit_lone(
        &self,
        shard: &ShardCore,
        writer: &mut TreeWriter,
        op: &WriteOp<'_>,
        synced: bool,
        caller: Caller,
    ) -> Result<()> {
        if !writer.is_small(op) {
            writer.begin_frame(FrameKind::Data);
            writer.stage(op);
            writer.end_frame();
            return self.commit(shard, writer, synced);
        }
        let kept = LONE_FRAME.try_with(Cell::take).ok().flatten();
        let mut frame = kept.unwrap_or_else(|| Box::new(GroupBuffer::new(SMALL_WRITE_BYTES)));
        let appended = self.append(shard, 1, caller, |first| writer.append_one(op, &mut frame, first));
        let _ = LONE_FRAME.try_with(|kept| kept.set(Some(frame)));
        appended?;
        self.sync_turn(shard, synced)?;
        writer.apply_one(op);
        shard.in_flight.end();
        Ok(())
    }

    /// Appends what is staged, syncs if asked, and applies it.
    fn commit(&self, shard: &ShardCore, writer: &mut TreeWriter, synced: bool) -> Result<()> {
        self.append(shard, writer.staged_ops(), Caller::Async, |first| writer.append(first))?;
        self.sync_turn(shard, synced)?;
        writer.apply();
        shard.in_flight.end();
        Ok(())
    }

    /// Runs an append of so many operations. How long it takes is noted for callers that may not wait for one.
    fn append(
        &self,
        shard: &ShardCore,
        operations: u64,
        caller: Caller,
        append: impl FnOnce(SeqNo) -> Result<LogPosition>,
    ) -> Result<()> {
        shard.in_flight.begin(self.seqno_watermark().get());
        let first = self.take_seqnos(operations);
        let started = (caller == Caller::Async).then(|| self.env.clock.monotonic());
        append(first).inspect_err(|error| self.note_append_failure(shard, error))?;
        if let Some(started) = started {
            shard.note_turn(nanos(self.env.clock.monotonic().saturating_sub(started)));
        }
        Ok(())
    }

    fn sync_turn(&self, shard: &ShardCore, synced: bool) -> Result<()> {
        if !synced {
            return Ok(());
        }
        shard.turn_syncs.store(true, Ordering::Relaxed);
        let result = self.sync_with_batches(shard, &[]);
        shard.turn_syncs.store(false, Ordering::Relaxed);
        // IMPORTANT: the log holds what the memtable will never show, so this incarnation ends here: a re-open decides
        // over the logs what stands.
        result.inspect_err(|error| {
            shard.fail_for_sync(error);
        })
    }

    /// What a turn leaves for others: memory to account, a memtable to seal or flush.
    pub(super) fn after_turn(&self, shard: &ShardCore, writer: &mut TreeWriter) {
        let seal = self.accountant.take_seal_request(shard.index);
        if seal && let Err(error) = writer.seal() {
            tracing::warn!(shard = shard.index, error = %error, "cannot seal the memtable");
            // The next turn tries again; it is not called for, or turns that fail would go on without end.
            self.accountant.seal_at_next_turn(shard.index);
        }
        if writer.memory_has_changed() || !shard.seems_well() {
            self.note_memory(shard.index);
        }
    }

    fn shard_panicked(&self, shard: &ShardCore) {
        shard.fail_for_panic();
        self.tell_failed(shard);
    }

    /// Stages one request; what it returns answers the caller once the turn's outcome is known.
    fn stage(&self, shard: &ShardCore, writer: &mut TreeWriter, work: Work) -> Answer {
        match work {
            Work::Steps { steps, reply } => {
                Answer::Steps { results: self.stage_steps(shard, writer, steps), reply }
            }
            Work::Batch { parts, reply } => {
                let verdict = judge(shard, writer, &parts, self.time_for(&parts));
                if matches!(verdict, Verdict::Holds) {
                    parts.writes_of(shard.index).for_each(|op| writer.stage(&op));
                }
                Answer::Batch { answer: BatchAnswer::of(Ok(verdict), parts), reply }
            }
            Work::Seal { reply } => Answer::Seal(reply),
            Work::Nudge => Answer::Nobody,
        }
    }

    fn stage_steps(
        &self,
        shard: &ShardCore,
        writer: &mut TreeWriter,
        steps: Vec<TurnStep>,
    ) -> Vec<StepResult> {
        // Once a step is stale, the later steps of its key wait with it, so that their order stays.
        let mut stale: HashSet<KeyHash> = HashSet::new();
        steps
            .into_iter()
            .map(|step| {
                if stale.contains(&step.hash) {
                    return StepResult::Stale(step);
                }
                let hash = step.hash;
                let result = self.stage_step(shard, writer, step);
                if matches!(result, StepResult::Stale(_)) {
                    stale.insert(hash);
                }
                result
            })
            .collect()
    }

    fn stage_step(&self, shard: &ShardCore, writer: &mut TreeWriter, step: TurnStep) -> StepResult {
        let TurnStep { hash, key, action } = step;
        let (base, change) = match action {
            Action::Put(value, expiry) => {
                let expires_at_ms = expiry.at_ms(|| self.now_ms(), None);
                writer.stage(&WriteOp { expires_at_ms, ..WriteOp::new(hash, &key, Some(&value)) });
                return StepResult::Done(StepDone { is_changed: true, ..StepDone::default() });
            }
            Action::Delete => {
                writer.stage(&WriteOp::new(hash, &key, None));
                return StepResult::Done(StepDone { is_changed: true, ..StepDone::default() });
            }
            // NOTE: what updates write is not known when they are admitted.
            Action::Update { base, change } if writer.staged_bytes() > MAX_UPDATED_BYTES => {
                return StepResult::Stale(TurnStep { hash, key, action: Action::Update { base, change } });
            }
            Action::Update { base, change } => (base, change),
        };
        let now_ms = self.now_ms();
        let in_memory = writer.newest_in_memory(hash, &key).map(|entry| {
            (entry.kind == ValueKind::Put).then(|| StoredValue {
                value: Bytes::copy_from_slice(entry.value),
                expires_at_ms: entry.expires_at_ms,
            })
        });
        let stored = match in_memory {
            Some(value) => value,
            None if base.holds_at(shard.incarnation, writer.flush_count()) => base.value,
            None => {
                return StepResult::Stale(TurnStep { hash, key, action: Action::Update { base, change } });
            }
        };
        // NOTE: judged now: what was read before the turn may have expired since.
        let previous = stored.filter(|stored| is_visible(ValueKind::Put, stored.expires_at_ms, now_ms));
        let current = previous.as_ref().map(|stored| Current {
            value: &stored.value,
            expires_at_ms: stored.expires_at_ms,
            now_ms,
        });
        let called = catch_unwind(AssertUnwindSafe(|| change(current)));
        let change = match called {
            Ok(Ok(change)) => change,
            Ok(Err(error)) => return StepResult::Failed(error),
            Err(_) => {
                return StepResult::Failed(Error::internal(
                    "the update's closure panicked; nothing was written",
                ));
            }
        };
        let before = previous.as_ref().and_then(|stored| stored.expires_at_ms);
        let previous = previous.map(|stored| stored.value);
        let (value, expiry) = match change {
            Change::Keep => {
                return StepResult::Done(StepDone { current: previous.clone(), previous, is_changed: false });
            }
            Change::Put(value) => (Some(value), Expiry::Keep),
            Change::PutUntil(value, expiry) => (Some(value), expiry),
            Change::Expire(expiry) if previous.is_some() => (previous.clone(), expiry),
            Change::Expire(_) => return StepResult::Done(StepDone::default()),
            Change::Delete => (None, Expiry::Never),
        };
        if let Some(Err(error)) = value.as_deref().map(check_value) {
            return StepResult::Failed(error);
        }
        let expires_at_ms = expiry.at_ms(|| now_ms, before);
        writer.stage(&WriteOp { expires_at_ms, ..WriteOp::new(hash, &key, value.as_deref()) });
        self.charge(shard, value.as_ref().map_or(0, Bytes::len));
        StepResult::Done(StepDone { previous, current: value, is_changed: true })
    }
}

/// A caller that waits for the turn's outcome.
enum Answer {
    Steps { results: Vec<StepResult>, reply: oneshot::Sender<Vec<StepResult>> },
    Batch { answer: BatchAnswer, reply: oneshot::Sender<BatchAnswer> },
    Seal(oneshot::Sender<Result<()>>),
    Nobody,
}

impl Answer {
    /// Whether it is that of a batch whose conditions hold.
    const fn is_written_batch(&self) -> bool {
        matches!(self, Self::Batch { answer: BatchAnswer::Done(Ok(())), .. })
    }

    fn send(self, result: &Result<()>, writer: &mut TreeWriter) {
        match self {
            Self::Steps { mut results, reply } => {
                if let Err(error) = result {
                    fail_steps(&mut results, error);
                }
                let _ = reply.send(results);
            }
            Self::Batch { answer, reply } => {
                let answer = match (result, answer) {
                    // NOTE: also where a condition did not hold: what it found may have been among that.
                    (Err(error), BatchAnswer::Done(_)) => BatchAnswer::Done(Err(error.clone())),
                    (_, answer) => answer,
                };
                let _ = reply.send(answer);
            }
            Self::Seal(reply) => {
                let _ = reply.send(writer.seal());
            }
            Self::Nobody => {}
        }
    }
}

/// The turn failed: what it would have done is not done, and what an update found may have been among that.
fn fail_steps(results: &mut [StepResult], error: &Error) {
    for result in results {
        if !matches!(result, StepResult::Stale(_)) {
            *result = StepResult::Failed(error.clone());
        }
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
