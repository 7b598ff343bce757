//! What must be on stable storage together. A batch counts as durable only when it is so in all its
//! participants: so an ack of a synced write, or a flush's manifest edit, syncs every log that holds an unsynced
//! cross-shard frame.

use std::sync::Arc;

use super::{node_core::NodeCore, shard_core::ShardCore};
use crate::{
    error::{Error, ErrorKind, Result},
    waiting,
};

impl NodeCore {
    /// Makes everything durable that the logs of the shard, and of those with these indexes, hold, and, because a batch
    /// counts as durable only when it is so everywhere, every other log that holds an unsynced cross-shard frame.
    ///
    /// # Errors
    /// `Poisoned` when a sync fails now or failed before.
    pub(super) fn sync_with_batches(&self, shard: &ShardCore, also: &[usize]) -> Result<()> {
        let others: Vec<_> = self
            .open_shards()
            .filter(|other| other.index != shard.index)
            .filter(|other| also.contains(&other.index) || other.tree.wal().has_unsynced_batch())
            .collect();
        for log in others.iter().map(|other| other.tree.wal()).chain([shard.tree.wal()]) {
            log.expect_syncs();
        }
        self.foreground.sync(|| self.sync_logs(shard, &others))
    }

    /// Whether a sync of this shard, and of what it depends on, can succeed at all.
    ///
    /// # Errors
    /// `Poisoned` when a log that must be synced with it is poisoned.
    pub(super) fn check_syncable(&self, shard: &ShardCore) -> Result<()> {
        let poisoned = |other: &Arc<ShardCore>| {
            let wal = other.tree.wal();
            wal.is_poisoned() && (other.index == shard.index || wal.has_unsynced_batch())
        };
        match self.open_shards().find(poisoned) {
            None => Ok(()),
            Some(other) => Err(Error::new(
                ErrorKind::Poisoned,
                format!(
                    "shard {} cannot be synced, and batches depend on it: re-open it (`reopen_shards`)",
                    other.index
                ),
            )),
        }
    }

    /// Syncs every log that holds an unsynced cross-shard frame: what a flush needs before its manifest edit.
    ///
    /// # Errors
    /// `Poisoned` when a sync fails now or failed before, or while half a batch waits to be taken back.
    pub(super) fn sync_all_batches(&self) -> Result<()> {
        if !self.void_batches.lock().is_empty() {
            return Err(Error::new(
                ErrorKind::Poisoned,
                "half a batch could not be taken back: re-open its shard (`reopen_shards`)",
            ));
        }
        self.sync_batches_except(&[])
    }

    /// Syncs every log that holds an unsynced cross-shard frame, but for these shards'.
    pub(super) fn sync_batches_except(&self, excepted: &[usize]) -> Result<()> {
        let with_batches: Vec<_> = self
            .open_shards()
            .filter(|shard| shard.tree.wal().has_unsynced_batch() && !excepted.contains(&shard.index))
            .collect();
        match with_batches.split_first() {
            Some((first, others)) => self.sync_logs(first, others),
            None => Ok(()),
        }
    }

    /// Syncs one log on this thread and the others beside it.
    pub(super) fn sync_logs(&self, mine: &ShardCore, others: &[Arc<ShardCore>]) -> Result<()> {
        let (done, results) = flume::unbounded();
        for other in others {
            let (other, done) = (Arc::clone(other), done.clone());
            self.pools.sync.submit(Box::new(move || {
                let _ = done.send(note_sync(&other, other.tree.wal().sync().map(|_| ())));
            }))?;
        }
        drop(done);
        let mut result = note_sync(mine, mine.tree.wal().sync().map(|_| ()));
        for _ in others {
            let other = waiting::receive(&results);
            let other = other.unwrap_or_else(|_| Err(Error::internal("a sync worker panicked")));
            result = result.and(other);
        }
        result
    }
}

/// Logs a failed sync of a shard's log; the log itself refuses everything from then on.
pub(super) fn note_sync(shard: &ShardCore, result: Result<()>) -> Result<()> {
    if let Err(error) = &result
        && shard.fail_for_sync(error)
    {
        tracing::error!(shard = shard.index, error = %error, "a sync failed: the shard refuses writes until it is re-opened");
    }
    result
}
