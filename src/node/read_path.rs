//! How a read is answered: in the caller's thread, from the shard's published view, without a queue and
//! without a lock that a writer can hold. Only a block that is in no cache sends an async caller's read to a
//! read worker.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    node_core::NodeCore, request::StoredValue, snapshot::SnapshotCore, workers::WorkerPool,
    write_path::Caller,
};
use crate::{
    entry::ValueKind,
    error::{Error, Result},
    ids::SeqNo,
    key::{KeyHash, check_key},
    table::{Lookup, ReadMode},
    tree::{ReadView, is_visible},
};

/// What keys can be looked up in: the node as it is, or as it was.
pub(super) trait PointReads: Send + Sync + 'static {
    /// What is stored of a key.
    ///
    /// # Errors
    /// `Invalid`, `Closed`, `Busy`, `Io`, `Corruption`.
    fn look_up(&self, key: &[u8], mode: ReadMode) -> Result<Lookup>;

    /// What a reader sees of it.
    fn visible(&self, lookup: Lookup) -> Option<Bytes>;

    /// Who reads what has to be waited for.
    fn workers(&self) -> &WorkerPool;

    /// The value of a key, reading the disk on this thread if it must.
    ///
    /// # Errors
    /// As [`PointReads::look_up`]'s.
    fn get_blocking(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.look_up(key, ReadMode::Blocking)? {
            Lookup::WouldBlock => Err(Error::internal("a blocking read would block")),
            lookup => Ok(self.visible(lookup)),
        }
    }

    /// The value of a key; `Err(())` inside when a thread that may wait must look.
    ///
    /// # Errors
    /// As [`PointReads::look_up`]'s.
    fn get_now(&self, key: &[u8]) -> Result<std::result::Result<Option<Bytes>, ()>> {
        match self.look_up(key, ReadMode::NoWait)? {
            Lookup::WouldBlock => Ok(Err(())),
            lookup => Ok(Ok(self.visible(lookup))),
        }
    }
}

/// The value of a key, for an async caller.
///
/// # Errors
/// As [`PointReads::look_up`]'s.
pub(super) async fn get_async<R: PointReads>(reads: &Arc<R>, key: Bytes) -> Result<Option<Bytes>> {
    if let Ok(value) = reads.get_now(&key)? {
        return Ok(value);
    }
    let from = Arc::clone(reads);
    reads.workers().run(move || from.get_blocking(&key)).await?
}

/// What is stored of a key, for an async caller.
///
/// # Errors
/// As [`PointReads::look_up`]'s.
pub(super) async fn look_up_async<R: PointReads>(reads: &Arc<R>, key: Bytes) -> Result<Lookup> {
    match reads.look_up(&key, ReadMode::NoWait)? {
        Lookup::WouldBlock => {
            let from = Arc::clone(reads);
            reads.workers().run(move || from.look_up(&key, ReadMode::Blocking)).await?
        }
        lookup => Ok(lookup),
    }
}

/// The values of keys, in their order; what is cold is read by one worker, in one go.
///
/// # Errors
/// As [`PointReads::look_up`]'s.
pub(super) async fn multi_get_async<R: PointReads>(
    reads: &Arc<R>,
    keys: Vec<Bytes>,
) -> Result<Vec<Option<Bytes>>> {
    let mut values = Vec::with_capacity(keys.len());
    let mut cold = vec![];
    for (place, key) in keys.iter().enumerate() {
        values.push(reads.get_now(key)?.unwrap_or_else(|()| {
            cold.push((place, key.clone()));
            None
        }));
    }
    if cold.is_empty() {
        return Ok(values);
    }
    let from = Arc::clone(reads);
    let read = reads.workers().run(move || {
        let read = cold.into_iter().map(|(place, key)| Ok((place, from.get_blocking(&key)?)));
        read.collect::<Result<Vec<_>>>()
    });
    for (place, value) in read.await?? {
        if let Some(slot) = values.get_mut(place) {
            *slot = value;
        }
    }
    Ok(values)
}

impl PointReads for NodeCore {
    fn look_up(&self, key: &[u8], mode: ReadMode) -> Result<Lookup> {
        check_key(key)?;
        self.lifecycle.check_open()?;
        let hash = self.router.hash(key);
        let slot = self.shards.get(self.router.shard(hash)).ok_or_else(Error::closed)?;
        slot.load().open()?.tree.get(hash, key, SeqNo::MAX, mode)
    }

    fn visible(&self, lookup: Lookup) -> Option<Bytes> {
        let Lookup::Found(entry) = lookup else { return None };
        let now_ms = if entry.expires_at_ms.is_some() { self.now_ms() } else { 0 };
        is_visible(entry.kind, entry.expires_at_ms, now_ms).then_some(entry.value)
    }

    fn workers(&self) -> &WorkerPool {
        &self.pools.read
    }
}

impl NodeCore {
    /// The values of keys, in their order, all as of one moment.
    ///
    /// # Errors
    /// As [`PointReads::look_up`]'s.
    pub(super) async fn multi_get_async(self: &Arc<Self>, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>> {
        if keys.len() < 2 {
            return multi_get_async(self, keys).await;
        }
        multi_get_async(&self.snapshot_for(&keys).await?, keys).await
    }

    /// What several keys are read from together: the node at one moment, as far as the keys' shards go.
    ///
    /// # Errors
    /// `Closed`.
    pub(super) async fn snapshot_for<K: AsRef<[u8]>>(
        self: &Arc<Self>,
        keys: &[K],
    ) -> Result<Arc<SnapshotCore>> {
        let mut wanted = vec![false; self.shards.len()];
        for key in keys {
            if let Some(wanted) = wanted.get_mut(self.router.shard(self.router.hash(key.as_ref()))) {
                *wanted = true;
            }
        }
        self.snapshot_of(|index| wanted.get(index).copied().unwrap_or(false)).await
    }

    /// What a view says of a key, memory and tables together, expired or not; for the base of an update.
    pub(super) async fn read_view(
        &self,
        view: Arc<ReadView>,
        hash: KeyHash,
        key: &Bytes,
        caller: Caller,
    ) -> Result<Option<StoredValue>> {
        let mode = if caller == Caller::Blocking { ReadMode::Blocking } else { ReadMode::NoWait };
        let lookup = match view.get(hash, key, SeqNo::MAX, mode)? {
            Lookup::WouldBlock => {
                let key = key.clone();
                self.pools.read.run(move || view.get(hash, &key, SeqNo::MAX, ReadMode::Blocking)).await??
            }
            lookup => lookup,
        };
        Ok(match lookup {
            Lookup::Found(entry) if entry.kind == ValueKind::Put => {
                Some(StoredValue { value: entry.value, expires_at_ms: entry.expires_at_ms })
            }
            _ => None,
        })
    }
}
