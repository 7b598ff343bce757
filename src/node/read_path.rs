//! How a read is answered: in the caller's thread, from the shard's published view, without a queue and
//! without a lock that a writer can hold. Only a block that is in no cache sends an async caller's read to a
//! read worker.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    multi_get, node_core::NodeCore, request::StoredValue, snapshot::SnapshotCore, workers::WorkerPool,
    write_path::Caller,
};
use crate::{
    entry::ValueKind,
    error::{Error, Result},
    ids::SeqNo,
    key::KeyHash,
    table::{Lookup, ReadMode},
    tree::{ReadView, is_visible},
    waiting::block_on,
};

/// Where a key is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located {
    pub shard: usize,
    pub hash: KeyHash,
}

/// What keys can be looked up in: the node as it is, or as it was.
pub(super) trait PointReads: Send + Sync + 'static {
    /// Where a key is looked for.
    ///
    /// # Errors
    /// `Invalid`.
    fn locate(&self, key: &[u8]) -> Result<Located>;

    /// Whether it can be read from.
    ///
    /// # Errors
    /// `Closed`.
    fn check_open(&self) -> Result<()>;

    /// What a shard's keys are looked up in, when there are many.
    ///
    /// # Errors
    /// `Closed`; why the shard cannot be read from.
    fn view_of(&self, shard: usize) -> Result<Arc<ReadView>>;

    /// Where one reads in a view.
    fn position(&self) -> SeqNo;

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

/// Where each of several keys is looked for.
///
/// # Errors
/// `Invalid`.
pub(super) fn locate_all<R: PointReads, K: AsRef<[u8]>>(reads: &R, keys: &[K]) -> Result<Vec<Located>> {
    keys.iter().map(|key| reads.locate(key.as_ref())).collect()
}

impl PointReads for NodeCore {
    #[inline]
    fn locate(&self, key: &[u8]) -> Result<Located> {
        self.router.locate(key)
    }

    fn check_open(&self) -> Result<()> {
        self.lifecycle.check_open()
    }

    fn view_of(&self, shard: usize) -> Result<Arc<ReadView>> {
        self.check_open()?;
        let slot = self.shards.get(shard).ok_or_else(Error::closed)?;
        Ok(slot.load().open()?.tree.view())
    }

    fn position(&self) -> SeqNo {
        SeqNo::MAX
    }

    fn look_up(&self, key: &[u8], mode: ReadMode) -> Result<Lookup> {
        let Located { shard, hash } = self.locate(key)?;
        self.check_open()?;
        let slot = self.shards.get(shard).ok_or_else(Error::closed)?;
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
    pub(super) async fn multi_get_async<K: AsRef<[u8]>>(
        self: &Arc<Self>,
        keys: &[K],
    ) -> Result<Vec<Option<Bytes>>> {
        if let [key] = keys {
            return Ok(vec![get_async(self, Bytes::copy_from_slice(key.as_ref())).await?]);
        }
        let located = locate_all(&**self, keys)?;
        multi_get::multi_get_async(&*self.snapshot_for(&located).await?, keys, &located).await
    }

    /// The same, reading the disk on this thread, too, if it must.
    ///
    /// # Errors
    /// As [`PointReads::look_up`]'s.
    pub(super) fn multi_get_blocking<K: AsRef<[u8]>>(
        self: &Arc<Self>,
        keys: &[K],
    ) -> Result<Vec<Option<Bytes>>> {
        if let [key] = keys {
            return Ok(vec![self.get_blocking(key.as_ref())?]);
        }
        let located = locate_all(&**self, keys)?;
        let snapshot = block_on(self.snapshot_for(&located))?;
        multi_get::multi_get_blocking(&*snapshot, keys, &located)
    }

    /// What several keys are read from together: the node at one moment, as far as the keys' shards go.
    ///
    /// # Errors
    /// `Closed`.
    async fn snapshot_for(self: &Arc<Self>, located: &[Located]) -> Result<Arc<SnapshotCore>> {
        let mut wanted = vec![false; self.shards.len()];
        for at in located {
            if let Some(wanted) = wanted.get_mut(at.shard) {
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
