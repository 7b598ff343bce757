//! A batch: writes that happen all or not at all, over all shards.

use bytes::Bytes;

use super::options::Durability;
use crate::{
    error::{Error, Result},
    key::{check_key, check_value},
};

/// Writes that happen all or not at all, also when their keys lie in several shards, also across a crash.
/// A later write of the same key in the batch wins.
///
/// ```
/// let mut batch = dbex::WriteBatch::new();
/// batch.put("alice", "90");
/// batch.put("bob", "110");
/// batch.delete("pending");
/// assert_eq!(batch.len(), 3);
/// ```
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    pub(super) writes: Vec<(Bytes, Option<Bytes>)>,
    pub(super) durability: Option<Durability>,
    bytes: usize,
}

/// The most that one batch may hold, in bytes of keys and values (1 GiB).
pub const MAX_BATCH_BYTES: usize = 1 << 30;

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key. Key and value are copied.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.put_bytes(Bytes::copy_from_slice(key.as_ref()), Bytes::copy_from_slice(value.as_ref()))
    }

    /// Sets a key, without copying.
    pub fn put_bytes(&mut self, key: Bytes, value: Bytes) -> &mut Self {
        self.bytes += key.len() + value.len();
        self.writes.push((key, Some(value)));
        self
    }

    /// Removes a key; removing an absent one is fine.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.bytes += key.as_ref().len();
        self.writes.push((Bytes::copy_from_slice(key.as_ref()), None));
        self
    }

    /// Says what the batch's ack promises; the node's `durability` otherwise.
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = Some(durability);
        self
    }

    /// The number of writes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether there is no write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks every key and value, and the batch's size.
    pub(super) fn check(&self) -> Result<()> {
        if self.bytes > MAX_BATCH_BYTES {
            return Err(Error::invalid(format!(
                "the batch has {} bytes; a batch has at most {MAX_BATCH_BYTES}: split it",
                self.bytes
            )));
        }
        self.writes.iter().try_for_each(|(key, value)| {
            check_key(key)?;
            value.as_deref().map_or(Ok(()), check_value)
        })
    }
}
