//! Batches across shards: one turn on all participants. Turns are taken in ascending shard order, one frame
//! is appended to each participant's log, logs are synced in parallel if anyone asked, everything is applied,
//! and the turns end together.
//!
//! In place when all participants are idle; otherwise by the batch lane, a thread of its own, which takes
//! all waiting batches at once. If a participant's append fails, the others append a cancel frame; where
//! that fails too, the shard is poisoned. A shard of which a batch only requires something takes part with its turn,
//! and writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use super::{
    admission::Permit,
    batch_parts::BatchParts,
    conditions::{Verdict, judge},
    node_core::NodeCore,
    options::Durability,
    request::BatchAnswer,
    shard_core::{ShardCore, Turn, outcome_unknown},
};
use crate::{
    error::{Error, Result},
    ids::{BatchId, SeqNo, ShardId},
    waiting::{self, block_on},
    wal::FrameKind,
};

/// A cross-shard batch that waits for its turns.
pub(super) struct BatchRequest {
    /// At least two participants.
    pub parts: Box<BatchParts>,
    pub durability: Durability,
    pub reply: oneshot::Sender<BatchAnswer>,
    pub _permit: Option<Permit>,
}

/// A batch of a round.
#[derive(Clone, Copy)]
pub(super) struct RoundBatch<'a> {
    pub parts: &'a BatchParts,
    pub durability: Durability,
}

impl RoundBatch<'_> {
    fn is_synced(&self) -> bool {
        self.durability == Durability::Synced
    }
}

impl BatchRequest {
    const fn in_round(&self) -> RoundBatch<'_> {
        RoundBatch { parts: &self.parts, durability: self.durability }
    }
}

/// How many batches the lane takes at once, at the most.
const MAX_ROUND: usize = 256;

/// The turns of all participants of a round, by shard.
type Turns<'a> = BTreeMap<usize, (&'a Arc<ShardCore>, Turn<'a>)>;

impl NodeCore {
    /// The body of the batch lane's thread: ends when it is told so by a `None`. What came later is turned away.
    pub(super) fn run_batch_lane(&self, waiting: &flume::Receiver<Option<BatchRequest>>) {
        let mut open = true;
        while open && let Ok(Some(first)) = waiting::receive(waiting) {
            let mut round = vec![first];
            while round.len() < MAX_ROUND
                && open
                && let Ok(next) = waiting.try_recv()
            {
                open = next.is_some();
                round.extend(next);
            }
            if catch_unwind(AssertUnwindSafe(|| self.run_round(round))).is_err() {
                tracing::error!("the batch lane panicked; the round's outcome is unknown");
            }
        }
        for late in waiting.try_iter().flatten() {
            let _ = late.reply.send(BatchAnswer::Done(Err(Error::closed())));
        }
    }

    /// Runs a batch on this thread if every participant is idle.
    pub(super) fn try_batch_in_place(&self, batch: RoundBatch<'_>) -> Option<Result<Verdict>> {
        let shards = match self.participants(batch.parts.shards()) {
            Ok(shards) => shards,
            Err(error) => return Some(Err(error)),
        };
        let mut turns = Turns::new();
        for shard in &shards {
            turns.insert(shard.index, (shard, shard.turn_in_place(false)?));
        }
        Some(only(self.run_together(turns, &[batch])))
    }

    /// Runs a round: all batches together, or, when that fails and nothing of them stands, each alone.
    fn run_round(&self, round: Vec<BatchRequest>) {
        let batches: Vec<_> = round.iter().map(BatchRequest::in_round).collect();
        let together = self.run_waiting(&batches);
        let alone = |batch: &RoundBatch<'_>| only(self.run_waiting(&[*batch]));
        let outcomes: Vec<Result<Verdict>> = match together {
            Ok(verdicts) => verdicts.into_iter().map(Ok).collect(),
            Err(failure) if failure.nothing_stands && round.len() > 1 => batches.iter().map(alone).collect(),
            Err(failure) => round.iter().map(|_| Err(failure.error.clone())).collect(),
        };
        for (BatchRequest { parts, reply, .. }, outcome) in round.into_iter().zip(outcomes) {
            let _ = reply.send(BatchAnswer::of(outcome, parts));
        }
    }

    /// Takes every participant's turn, in ascending order, and runs the batches.
    fn run_waiting(&self, batches: &[RoundBatch<'_>]) -> RoundResult {
        let union: BTreeSet<_> = batches.iter().flat_map(|batch| batch.parts.shards()).collect();
        let shards = self.participants(union).map_err(RoundFailure::refused)?;
        let mut turns = Turns::new();
        for shard in &shards {
            turns.insert(shard.index, (shard, block_on(shard.turn())));
        }
        self.run_together(turns, batches)
    }

    fn participants(&self, indexes: impl IntoIterator<Item = usize>) -> Result<Vec<Arc<ShardCore>>> {
        indexes.into_iter().map(|index| self.shard(index)).collect()
    }

    fn run_together(&self, mut turns: Turns<'_>, batches: &[RoundBatch<'_>]) -> RoundResult {
        for (shard, _) in turns.values() {
            shard.check_takes_writes().map_err(RoundFailure::refused)?;
        }
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let result = self.commit_together(&mut turns, batches);
            for (shard, turn) in turns.values_mut() {
                self.after_turn(shard, &mut turn.writer);
            }
            result
        }));
        ran.unwrap_or_else(|_| {
            let mut together = self.panicked_together.lock();
            for (shard, _) in turns.values() {
                shard.fail_for_panic();
            }
            together.push(turns.keys().copied().collect());
            drop(together);
            for (shard, _) in turns.values() {
                self.tell_failed(shard);
            }
            Err(RoundFailure { error: outcome_unknown(), nothing_stands: false })
        })
    }

    fn commit_together(&self, turns: &mut Turns<'_>, batches: &[RoundBatch<'_>]) -> RoundResult {
        if batches.iter().any(RoundBatch::is_synced) {
            let syncable = turns.values().try_for_each(|(shard, _)| self.check_syncable(shard));
            syncable.map_err(RoundFailure::refused)?;
        }
        let (ids, verdicts) = self.stage_batches(turns, batches);
        if let Err((error, tried)) = append_all(turns) {
            for (shard, turn) in turns.values_mut() {
                turn.writer.abandon();
                if tried.contains(&shard.index) {
                    self.cancel(shard, turn, &ids);
                }
            }
            return Err(RoundFailure::refused(error));
        }
        let mut judged = batches.iter().zip(&verdicts);
        let synced = judged.any(|(batch, verdict)| batch.is_synced() && matches!(verdict, Verdict::Holds));
        if synced && let Err(error) = self.sync_participants(turns) {
            // IMPORTANT: all that were written to end here and are re-opened together: their logs hold the batches,
            // and only over all of them is decided whether those stand.
            for (shard, _) in turns.values().filter(|(_, turn)| !turn.writer.is_empty()) {
                shard.fail_for_sync(&error);
            }
            return Err(RoundFailure { error, nothing_stands: false });
        }
        for (_, turn) in turns.values_mut() {
            turn.writer.apply();
        }
        for (shard, _) in turns.values() {
            shard.in_flight.end();
        }
        Ok(verdicts)
    }

    /// Judges each batch, and stages its frames if it may be written. A batch's id is the first sequence number of its
    /// range; in each participant its writes count up from there, so that a participant has flushed all of them once
    /// its flushed position reaches the last.
    fn stage_batches(
        &self,
        turns: &mut Turns<'_>,
        batches: &[RoundBatch<'_>],
    ) -> (Vec<BatchId>, Vec<Verdict>) {
        let (mut ids, mut verdicts) = (Vec::with_capacity(batches.len()), Vec::with_capacity(batches.len()));
        for RoundBatch { parts, .. } in batches {
            let verdict = self.judge_together(turns, parts);
            let is_written = matches!(verdict, Verdict::Holds) && parts.longest() > 0;
            verdicts.push(verdict);
            if !is_written {
                continue;
            }
            // IMPORTANT: all of them before its numbers are taken, so that a snapshot sees all parts of it or none.
            for (shard, _) in parts.written_shards().filter_map(|index| turns.get(&index)) {
                shard.in_flight.begin(self.seqno_watermark().get());
            }
            let id = BatchId(self.take_seqnos(parts.longest() as u64).get());
            let participants: Vec<_> =
                parts.written_shards().filter_map(|index| u32::try_from(index).ok()).map(ShardId).collect();
            for index in parts.written_shards() {
                if let Some((_, turn)) = turns.get_mut(&index) {
                    turn.writer.begin_frame(FrameKind::Batch { id, participants: participants.clone() });
                    parts.writes_of(index).for_each(|op| turn.writer.stage(&op));
                    turn.writer.end_frame();
                }
            }
            ids.push(id);
        }
        (ids, verdicts)
    }

    /// The verdict over all participants; what the batches before it have staged counts.
    fn judge_together(&self, turns: &mut Turns<'_>, parts: &BatchParts) -> Verdict {
        let (mut together, now_ms) = (Verdict::Holds, self.time_for(parts));
        for index in parts.shards() {
            let Some((shard, turn)) = turns.get_mut(&index) else { continue };
            match judge(shard, &mut turn.writer, parts, now_ms) {
                Verdict::Holds => {}
                Verdict::Stale => together = Verdict::Stale,
                fails @ Verdict::Fails(_) => return fails,
            }
        }
        together
    }

    fn sync_participants(&self, turns: &Turns<'_>) -> Result<()> {
        // NOTE: all of them by name: one that is only required something of holds no cross-shard frame.
        let Some((first, _)) = turns.values().next() else { return Ok(()) };
        let all: Vec<_> = turns.keys().copied().collect();
        let mark = |syncs| {
            for (shard, _) in turns.values() {
                shard.turn_syncs.store(syncs, Ordering::Relaxed);
            }
        };
        mark(true);
        let result = self.sync_with_batches(first, &all);
        mark(false);
        result
    }

    /// Takes batches back that this participant's log holds and another's does not.
    fn cancel(&self, shard: &ShardCore, turn: &mut Turn<'_>, ids: &[BatchId]) {
        for id in ids {
            turn.writer.begin_frame(FrameKind::Cancel { id: *id });
            turn.writer.end_frame();
        }
        if let Err(error) = turn.writer.append(SeqNo(0)) {
            self.void_batches.lock().extend(ids);
            tracing::error!(shard = shard.index, error = %error, "cannot cancel a batch: the shard refuses writes until it is re-opened");
            let message = format!(
                "shard {} could not take back half a batch: re-open it (`reopen_shards`)",
                shard.index
            );
            shard.doubt_log(message, &error);
        }
    }
}

/// Why a round of batches failed.
struct RoundFailure {
    error: Error,
    /// Whether no log holds anything of it that counts, so that it may be tried again.
    nothing_stands: bool,
}

/// What was decided of each batch.
type RoundResult = std::result::Result<Vec<Verdict>, RoundFailure>;

/// What was decided of a round's only batch.
fn only(result: RoundResult) -> Result<Verdict> {
    let mut verdicts = result.map_err(|failure| failure.error)?;
    verdicts.pop().ok_or_else(|| Error::internal("a batch was not judged"))
}

impl RoundFailure {
    fn refused(error: Error) -> Self {
        Self { error, nothing_stands: true }
    }
}

/// Appends every participant's frames. On failure: why, and which participants hold theirs, or may: a `write`
/// that failed can have left whole frames, which a cancel writes over.
fn append_all(turns: &mut Turns<'_>) -> std::result::Result<(), (Error, Vec<usize>)> {
    let mut appended = Vec::with_capacity(turns.len());
    for (shard, turn) in turns.values_mut().filter(|(_, turn)| !turn.writer.is_empty()) {
        // NOTE: a batch frame's sequence numbers come with its id; the argument is for data frames.
        let result = turn.writer.append(SeqNo(0));
        if result.is_ok() || turn.writer.log_tail_is_dirty() {
            appended.push(shard.index);
        }
        result.map_err(|error| (error, appended.clone()))?;
    }
    Ok(())
}
