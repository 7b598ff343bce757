//! How a read is answered: in the caller's thread, from the shard's published view, without a queue and
//! without a lock that a writer can hold. Only a block that is in no cache sends an async caller's read to a
//! read worker.

use std::sync::Arc;

use bytes::Bytes;

use super::{node_core::NodeCore, write_path::Caller};
use crate::{
    error::{Error, Result},
    ids::SeqNo,
    key::{KeyHash, check_key},
    table::{Lookup, ReadMode},
    tree::{ReadView, is_visible},
};

impl NodeCore {
    /// The value of a key, reading the disk on this thread if it must.
    ///
    /// # Errors
    /// `Invalid`, `Closed`, `Io`, `Corruption`.
    pub(super) fn get_blocking(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.look_up(key, ReadMode::Blocking)? {
            Lookup::WouldBlock => Err(Error::internal("a blocking read would block")),
            lookup => Ok(self.visible(lookup)),
        }
    }

    /// The value of a key; `Err(())` inside when a thread that may wait must look.
    fn get_now(&self, key: &[u8]) -> Result<std::result::Result<Option<Bytes>, ()>> {
        match self.look_up(key, ReadMode::NoWait)? {
            Lookup::WouldBlock => Ok(Err(())),
            lookup => Ok(Ok(self.visible(lookup))),
        }
    }

    /// The value of a key, for an async caller.
    ///
    /// # Errors
    /// `Invalid`, `Closed`, `Io`, `Corruption`.
    pub(super) async fn get_async(self: &Arc<Self>, key: Bytes) -> Result<Option<Bytes>> {
        if let Ok(value) = self.get_now(&key)? {
            return Ok(value);
        }
        let core = Arc::clone(self);
        self.pools.read.run(move || core.get_blocking(&key)).await?
    }

    /// The values of keys, in their order; what is cold is read by one worker, in one go.
    ///
    /// # Errors
    /// `Invalid`, `Closed`, `Io`, `Corruption`.
    pub(super) async fn multi_get_async(self: &Arc<Self>, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>> {
        let mut values = Vec::with_capacity(keys.len());
        let mut cold = vec![];
        for (place, key) in keys.iter().enumerate() {
            values.push(self.get_now(key)?.unwrap_or_else(|()| {
                cold.push((place, key.clone()));
                None
            }));
        }
        if cold.is_empty() {
            return Ok(values);
        }
        let core = Arc::clone(self);
        let read = self.pools.read.run(move || {
            let read = cold.into_iter().map(|(place, key)| Ok((place, core.get_blocking(&key)?)));
            read.collect::<Result<Vec<_>>>()
        });
        for (place, value) in read.await?? {
            if let Some(slot) = values.get_mut(place) {
                *slot = value;
            }
        }
        Ok(values)
    }

    /// What a view says of a key, memory and tables together; for the base of an update.
    pub(super) async fn read_view(
        &self,
        view: Arc<ReadView>,
        hash: KeyHash,
        key: &Bytes,
        caller: Caller,
    ) -> Result<Option<Bytes>> {
        let mode = if caller == Caller::Blocking { ReadMode::Blocking } else { ReadMode::NoWait };
        let lookup = match view.get(hash, key, SeqNo::MAX, mode)? {
            Lookup::WouldBlock => {
                let key = key.clone();
                self.pools.read.run(move || view.get(hash, &key, SeqNo::MAX, ReadMode::Blocking)).await??
            }
            lookup => lookup,
        };
        Ok(self.visible(lookup))
    }

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
}
