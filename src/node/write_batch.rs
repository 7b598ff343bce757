//! A batch: writes that happen all or not at all, over all shards, and on which conditions.

use std::{ops::Bound, time::Duration};

use bytes::Bytes;

use super::{
    expiry::{check_ttl, whole_ms},
    options::Durability,
};
use crate::{
    error::{Error, Result},
    key::{KeyRange, MAX_KEY_BYTES, check_key, check_value},
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
///
/// With conditions it is written only if all of them hold:
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use dbex::{ErrorKind, Settings, WriteBatch, blocking::Node};
///
/// let node = Node::open(Settings::builder().data_dir(dir.path()).build()?)?;
/// node.put("alice", "100")?;
/// let mut transfer = WriteBatch::new();
/// transfer.require("alice", "100").put("alice", "90");
/// transfer.require_absent("bob").put("bob", "10");
/// node.write(transfer.clone())?;
/// let again = node.write(transfer).unwrap_err();
/// assert_eq!(again.kind(), ErrorKind::Conflict);
/// # Ok::<(), dbex::Error>(())
/// ```
///
/// Ranges of keys are removed by one record, and set anew in the same moment:
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use dbex::{Settings, WriteBatch, blocking::Node};
///
/// let node = Node::open(Settings::builder().data_dir(dir.path()).build()?)?;
/// node.put("price/apple", "3")?;
/// node.put("price/pear", "4")?;
/// let mut prices = WriteBatch::new();
/// prices.delete_prefix("price/").put("price/apple", "5");
/// node.write(prices)?; // nobody sees an apple without a price
/// assert_eq!(node.scan(..).prefix("price/").count(), 1);
/// # Ok::<(), dbex::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// Keys, and the values that were copied, each behind its key.
    copied: Vec<u8>,
    writes: Vec<Item>,
    range_deletes: Vec<RangeItem>,
    conditions: Vec<Item>,
    pub(super) durability: Option<Durability>,
    pub(super) no_wait: bool,
    has_ttl: bool,
    bytes: usize,
}

/// A key, and the value that it gets or must have.
#[derive(Clone, Debug)]
struct Item {
    /// Where the key begins in `copied`.
    at: usize,
    key_len: usize,
    value: ItemValue,
    /// How long a value that is put is there, in milliseconds.
    ttl_ms: Option<u64>,
}

/// Keys that are removed together.
#[derive(Clone, Debug)]
pub(super) struct RangeItem {
    pub range: KeyRange,
    /// How many writes stand before it, which it removes again; what comes later stays.
    pub writes_before: usize,
}

#[derive(Clone, Debug)]
enum ItemValue {
    /// None: the key is removed, or must be absent.
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
        let write = self.item(key.as_ref(), Some(value.as_ref()));
        self.writes.push(write);
        self
    }

    /// Sets a key, without copying a value of 4 KiB or more.
    #[expect(clippy::needless_pass_by_value, reason = "as all that take `Bytes`")]
    pub fn put_bytes(&mut self, key: Bytes, value: Bytes) -> &mut Self {
        let write = if value.len() < SHARED_FROM_BYTES {
            self.item(&key, Some(&value))
        } else {
            self.bytes += value.len();
            Item { value: ItemValue::Shared(value), ..self.item(&key, None) }
        };
        self.writes.push(write);
        self
    }

    /// Sets a key for so long, from the call that writes the batch on; a millisecond at least. Key and value are copied.
    pub fn put_with_ttl(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> &mut Self {
        self.has_ttl = true;
        let write = Item { ttl_ms: Some(whole_ms(ttl)), ..self.item(key.as_ref(), Some(value.as_ref())) };
        self.writes.push(write);
        self
    }

    /// Removes a key; removing an absent one is fine.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        let write = self.item(key.as_ref(), None);
        self.writes.push(write);
        self
    }

    /// Removes all keys in a range, of which there may be any number: it costs one record a shard. What the batch writes
    /// later stays.
    pub fn delete_range(&mut self, range: impl Into<KeyRange>) -> &mut Self {
        let range = range.into();
        self.bytes += range.bound_bytes();
        self.range_deletes.push(RangeItem { range, writes_before: self.writes.len() });
        self
    }

    /// Removes all keys that begin with `prefix`, as [`WriteBatch::delete_range`].
    pub fn delete_prefix(&mut self, prefix: impl AsRef<[u8]>) -> &mut Self {
        self.delete_range(KeyRange::prefix(prefix))
    }

    /// Makes it a condition that `key` has this value when the batch is written, before its own writes. All conditions
    /// hold, or nothing is written and the error is [`Conflict`](crate::ErrorKind::Conflict). Both are copied.
    ///
    /// The value that a condition found is as durable as the ack of who wrote it; a `Synced` batch makes it durable, too.
    pub fn require(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        let condition = self.item(key.as_ref(), Some(value.as_ref()));
        self.conditions.push(condition);
        self
    }

    /// Makes it a condition that `key` is absent, as [`WriteBatch::require`] that it has a value.
    pub fn require_absent(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        let condition = self.item(key.as_ref(), None);
        self.conditions.push(condition);
        self
    }

    /// Copies a key and a value.
    fn item(&mut self, key: &[u8], value: Option<&[u8]>) -> Item {
        self.bytes += key.len() + value.map_or(0, <[u8]>::len);
        let at = self.copied.len();
        self.copied.extend_from_slice(key);
        let value = match value {
            None => ItemValue::Absent,
            Some(value) if value.len() < SHARED_FROM_BYTES => {
                self.copied.extend_from_slice(value);
                ItemValue::Copied(value.len())
            }
            Some(value) => ItemValue::Shared(Bytes::copy_from_slice(value)),
        };
        Item { at, key_len: key.len(), value, ttl_ms: None }
    }

    /// Says what the batch's ack promises; the node's `durability` otherwise.
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = Some(durability);
        self
    }

    /// Has the batch fail with `Busy` where it would have to wait for its turn to come, as
    /// [`PutOptions::no_wait`](crate::PutOptions::no_wait); nothing is written then.
    pub fn no_wait(&mut self) -> &mut Self {
        self.no_wait = true;
        self
    }

    /// The number of writes; a range delete is one.
    pub fn len(&self) -> usize {
        self.writes.len() + self.range_deletes.len()
    }

    /// Whether there is no write. There may be conditions all the same, which writing the batch judges.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many writes there are of single keys.
    pub(super) fn single_writes(&self) -> usize {
        self.writes.len()
    }

    /// The range deletes, in their order.
    pub(super) fn range_deletes(&self) -> &[RangeItem] {
        &self.range_deletes
    }

    /// Bytes of all keys and values, those of conditions included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The key and the value of a write, which is there; `None` removes.
    #[inline]
    pub(super) fn write(&self, number: usize) -> (&[u8], Option<&[u8]>) {
        self.writes.get(number).map_or((&[], None), |write| self.pair(write))
    }

    /// Whether a value is put that expires.
    pub(super) const fn has_ttl(&self) -> bool {
        self.has_ttl
    }

    /// How long the value of a write is there, in milliseconds; `None`: until it is removed.
    #[inline]
    pub(super) fn ttl_ms(&self, number: usize) -> Option<u64> {
        self.writes.get(number).and_then(|write| write.ttl_ms)
    }

    /// The keys of the conditions, and the values that they must have; `None`: absent.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.conditions.iter().map(|condition| self.pair(condition))
    }

    /// The key of a condition, which is there, and the value that it must have.
    pub(super) fn condition(&self, number: usize) -> (&[u8], Option<&[u8]>) {
        self.conditions.get(number).map_or((&[], None), |condition| self.pair(condition))
    }

    #[inline]
    fn pair<'a>(&'a self, item: &'a Item) -> (&'a [u8], Option<&'a [u8]>) {
        let behind = item.at + item.key_len;
        let key = self.copied.get(item.at..behind).unwrap_or_default();
        let value = match &item.value {
            ItemValue::Absent => None,
            ItemValue::Copied(len) => self.copied.get(behind..behind + len),
            ItemValue::Shared(shared) => Some(&shared[..]),
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
        if self.has_ttl {
            let mut ttls = self.writes.iter().map(|write| write.ttl_ms.map(Duration::from_millis));
            ttls.try_for_each(check_ttl)?;
        }
        self.range_deletes.iter().try_for_each(|delete| check_delete_range(&delete.range))?;
        let writes = (0..self.writes.len()).map(|number| self.write(number));
        writes.chain(self.conditions()).try_for_each(|(key, value)| {
            check_key(key)?;
            value.map_or(Ok(()), check_value)
        })
    }
}

/// Checks that a range is in order, and its bounds are as keys are.
fn check_delete_range(range: &KeyRange) -> Result<()> {
    range.check()?;
    for bound in [&range.start, &range.end] {
        if let Bound::Included(key) | Bound::Excluded(key) = bound
            && key.len() > MAX_KEY_BYTES
        {
            let found = key.len();
            return Err(Error::invalid(format!(
                "a bound of the range has {found} bytes; a key has at most {MAX_KEY_BYTES}"
            )));
        }
    }
    Ok(())
}
