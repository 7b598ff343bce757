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
    /// Keys, and the values that were copied, each behind its key.
    copied: Vec<u8>,
    writes: Vec<BatchWrite>,
    pub(super) durability: Option<Durability>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct BatchWrite {
    /// Where the key begins in `copied`.
    at: usize,
    key_len: usize,
    value: BatchValue,
}

#[derive(Clone, Debug)]
enum BatchValue {
    /// None: the key is removed.
    Absent,
    /// So many bytes, behind the key.
    Copied(usize),
    Shared(Bytes),
}

/// The most that one batch may hold, in bytes of keys and values (1 GiB).
pub const MAX_BATCH_BYTES: usize = 1 << 30;

/// A value from this size on has memory of its own, which growing the batch does not move.
const SHARED_FROM_BYTES: usize = 4 << 10;

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key. Key and value are copied.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        if value.len() < SHARED_FROM_BYTES {
            return self.push(key.as_ref(), BatchValue::Copied(value.len()), value);
        }
        self.push(key.as_ref(), BatchValue::Shared(Bytes::copy_from_slice(value)), &[])
    }

    /// Sets a key, without copying a value of 4 KiB or more.
    #[expect(clippy::needless_pass_by_value, reason = "as all that take `Bytes`")]
    pub fn put_bytes(&mut self, key: Bytes, value: Bytes) -> &mut Self {
        if value.len() < SHARED_FROM_BYTES {
            return self.push(&key, BatchValue::Copied(value.len()), &value);
        }
        self.push(&key, BatchValue::Shared(value), &[])
    }

    /// Removes a key; removing an absent one is fine.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(key.as_ref(), BatchValue::Absent, &[])
    }

    fn push(&mut self, key: &[u8], value: BatchValue, copied: &[u8]) -> &mut Self {
        let value_len = if let BatchValue::Shared(shared) = &value { shared.len() } else { copied.len() };
        self.bytes += key.len() + value_len;
        self.writes.push(BatchWrite { at: self.copied.len(), key_len: key.len(), value });
        self.copied.extend_from_slice(key);
        self.copied.extend_from_slice(copied);
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

    /// The key and the value of a write, which is there; `None` removes.
    #[inline]
    pub(super) fn write(&self, number: usize) -> (&[u8], Option<&[u8]>) {
        let Some(write) = self.writes.get(number) else { return (&[], None) };
        let behind = write.at + write.key_len;
        let key = self.copied.get(write.at..behind).unwrap_or_default();
        let value = match &write.value {
            BatchValue::Absent => None,
            BatchValue::Copied(len) => self.copied.get(behind..behind + len),
            BatchValue::Shared(shared) => Some(&shared[..]),
        };
        (key, value)
    }

    /// Checks every key and value, and the batch's size.
    pub(super) fn check(&self) -> Result<()> {
        if self.bytes > MAX_BATCH_BYTES {
            return Err(Error::invalid(format!(
                "the batch has {} bytes; a batch has at most {MAX_BATCH_BYTES}: split it",
                self.bytes
            )));
        }
        (0..self.len()).map(|number| self.write(number)).try_for_each(|(key, value)| {
            check_key(key)?;
            value.map_or(Ok(()), check_value)
        })
    }
}
