//! How a batch gets from a handle to its turns: taken apart, its conditions read; in place where all participants are
//! idle, by its one shard's inbox or by the batch lane otherwise.

use std::sync::Arc;

use super::{
    admission::Permit,
    batch::{BatchRequest, RoundBatch},
    batch_parts::BatchParts,
    node_core::NodeCore,
    request::{BatchAnswer, Work},
    shard_core::outcome_unknown,
    write_batch::WriteBatch,
    write_path::{Caller, WriteMode},
};
use crate::error::{Error, Result};

impl NodeCore {
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
        let mode = WriteMode {
            durability: batch.durability.unwrap_or(self.options.durability),
            caller,
            may_wait: !batch.no_wait,
        };
        let now_ms = if batch.has_ttl() { self.now_ms() } else { 0 };
        let mut parts = Box::new(BatchParts::new(batch, self.router, now_ms));
        self.keep_pace_of_all(&parts, mode).await?;
        loop {
            if parts.conditions() > 0 {
                // NOTE: waits first, and reads then: what is read is not to be old when the turn comes.
                permit = self.admit_batch(&parts, mode, permit).await?;
                parts = self.read_for_conditions(parts, caller).await?;
            }
            match self.try_batch(parts, mode, permit.take()).await? {
                BatchAnswer::Done(result) => return result,
                BatchAnswer::Stale(again) => parts = again,
            }
        }
    }

    async fn try_batch(
        &self,
        parts: Box<BatchParts>,
        mode: WriteMode,
        permit: Option<Permit>,
    ) -> Result<BatchAnswer> {
        let Some(first) = parts.shards().next() else { return Ok(BatchAnswer::Done(Ok(()))) };
        let first_shard = self.shard(first)?;
        if parts.shards().nth(1).is_none() {
            let bytes = parts.bytes();
            let (reply, answer) = oneshot::channel();
            let work = Work::Batch { parts, reply };
            self.dispatch(&first_shard, work, bytes, mode, permit).await?;
            return answer.await.map_err(|_| outcome_unknown());
        }
        let durability = mode.durability;
        if self.may_run_in_place(&first_shard, mode)
            && let Some(outcome) = self.try_batch_in_place(RoundBatch { parts: &parts, durability })
        {
            return Ok(BatchAnswer::of(outcome, parts));
        }
        let permit = self.admit_batch(&parts, mode, permit).await?;
        let lane = self.batch_lane.lock().clone().ok_or_else(Error::closed)?;
        let (reply, answer) = oneshot::channel();
        let request = BatchRequest { parts, durability, reply, _permit: permit };
        if mode.may_wait {
            lane.send_async(Some(request)).await.map_err(|_| Error::closed())?;
        } else {
            lane.try_send(Some(request)).map_err(|error| match error {
                flume::TrySendError::Full(_) => Error::busy("too many batches wait: try again in a moment"),
                flume::TrySendError::Disconnected(_) => Error::closed(),
            })?;
        }
        drop(lane);
        answer.await.map_err(|_| outcome_unknown())
    }

    /// Waits until there is memory for a batch, and for its permit at its first shard, if it has none.
    async fn admit_batch(
        &self,
        parts: &BatchParts,
        mode: WriteMode,
        permit: Option<Permit>,
    ) -> Result<Option<Permit>> {
        let Some(first) = parts.shards().next() else { return Ok(permit) };
        let first = self.shard(first)?;
        self.wait_for_memory(&first, mode.may_wait).await?;
        Ok(Some(match permit {
            Some(permit) => permit,
            None => first.admission.acquire(parts.bytes(), mode.may_wait).await?,
        }))
    }
}
