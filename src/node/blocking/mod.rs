//! The blocking face of a node: the same operations, on any thread, with or without a runtime around it.
//! A lone caller's write runs in its own thread.

mod read_only;
mod scan;
mod snapshot;

use std::fmt;

use bytes::Bytes;
pub use read_only::ReadOnlyNode;
pub use scan::Scan;
pub use snapshot::Snapshot;

use super::{
    env::Env,
    expiry::{Presence, TimeToLive},
    handle::Expected,
    options::NodeOptions,
    put_options::PutOptions,
    range_deletes::delete_range,
    read_path::PointReads,
    request::TurnStep,
    stats::NodeStats,
    step::{Change, Step, StepDone},
    update,
    write_batch::WriteBatch,
    write_path::{Caller, put_or_delete},
};
use crate::{
    error::{Error, Result},
    key::KeyRange,
    waiting::block_on,
};

/// A running node, for threads. Cheap to clone. Every method waits until it is done; names, durability and
/// errors are those of [`dbex::Node`](crate::Node).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use dbex::{Settings, blocking::Node};
///
/// let node = Node::open(Settings::builder().data_dir(dir.path()).build()?)?;
/// node.put("greeting", "hello")?;
/// for pair in node.scan("a".."z") {
///     let (key, value) = pair?;
///     assert_eq!((&key[..], &value[..]), (&b"greeting"[..], &b"hello"[..]));
/// }
/// node.close()?;
/// # Ok::<(), dbex::Error>(())
/// ```
#[derive(Clone)]
pub struct Node {
    node: super::handle::Node,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocking::{:?}", self.node)
    }
}

impl Node {
    /// Opens the node; see [`dbex::Node::open`](crate::Node::open).
    ///
    /// # Errors
    /// As there.
    pub fn open(options: impl Into<NodeOptions>) -> Result<Self> {
        Self::open_with(options, Env::system())
    }

    /// Opens a node in another world. For tests.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub fn open_with(options: impl Into<NodeOptions>, env: Env) -> Result<Self> {
        block_on(super::handle::Node::open_with(options, env)).map(|node| Self { node })
    }

    /// The same node, for async callers.
    pub fn to_async(&self) -> super::handle::Node {
        self.node.clone()
    }

    /// Sets a key, with the node's durability.
    ///
    /// # Errors
    /// As [`dbex::Node::put`](crate::Node::put).
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, PutOptions::new())
    }

    /// Sets a key as the options say.
    ///
    /// # Errors
    /// As [`Node::put`].
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: PutOptions,
    ) -> Result<()> {
        self.write_one(key.as_ref(), Some(value.as_ref()), options)
    }

    /// Sets a key, without copying it or its value where they wait for a turn.
    ///
    /// # Errors
    /// As [`Node::put`].
    pub fn put_bytes(&self, key: Bytes, value: Bytes) -> Result<()> {
        let core = self.node.core();
        block_on(core.write_one(key, Some(value), PutOptions::new(), Caller::Blocking, None))
    }

    /// Removes a key; removing an absent one is fine.
    ///
    /// # Errors
    /// As [`Node::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.write_one(key.as_ref(), None, PutOptions::new())
    }

    /// Removes all keys in a range at one moment; see [`dbex::Node::delete_range`](crate::Node::delete_range).
    ///
    /// # Errors
    /// As there.
    pub fn delete_range(&self, range: impl Into<KeyRange>) -> Result<()> {
        self.write(delete_range(range.into()))
    }

    /// Removes all keys that begin with `prefix`; with an empty one all keys.
    ///
    /// # Errors
    /// As [`Node::delete_range`].
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<()> {
        self.delete_range(KeyRange::prefix(prefix))
    }

    /// Writes in place from borrowed bytes; copies them only if the write must wait.
    fn write_one(&self, key: &[u8], value: Option<&[u8]>, options: PutOptions) -> Result<()> {
        let core = self.node.core();
        let mode = core.mode_of(options, Caller::Blocking);
        let op = core.lone_write(key, value, options.ttl)?;
        if let Some(done) = core.try_write_in_place(&op, mode) {
            return done;
        }
        let action = put_or_delete(value.map(Bytes::copy_from_slice), options.ttl);
        let step = TurnStep { hash: op.hash, key: Bytes::copy_from_slice(key), action };
        block_on(core.queue_write(step, mode, None))
    }

    /// Sets a key that is absent.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let node = dbex::blocking::Node::open(dbex::Settings::builder().data_dir(dir.path()).build()?)?;
    /// node.put_if_absent("leader", "a")?;
    /// let refused = node.put_if_absent("leader", "b").unwrap_err();
    /// assert_eq!(refused.kind(), dbex::ErrorKind::Conflict);
    /// # Ok::<(), dbex::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Conflict` when the key is there; otherwise as [`Node::put`].
    pub fn put_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.step(update::put_if_absent(copy(key), copy(value))).map(|_| ())
    }

    /// The value of a key, or `None`; reads the disk on this thread if it must.
    ///
    /// # Errors
    /// `Invalid`, `Closed`, `Io`, `Corruption`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.node.core().get_blocking(key.as_ref())
    }

    /// How long a key stays; `None` if it is absent.
    ///
    /// # Errors
    /// As [`Node::get`].
    pub fn time_to_live(&self, key: impl AsRef<[u8]>) -> Result<Option<TimeToLive>> {
        self.node.core().expiry_of_blocking(key.as_ref()).map(Presence::time_to_live)
    }

    /// The values of keys, in their order, all as of one moment.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let node = dbex::blocking::Node::open(dbex::Settings::builder().data_dir(dir.path()).build()?)?;
    /// node.put("a", "1")?;
    /// let values = node.multi_get(["b", "a"])?;
    /// assert_eq!((values[0].as_deref(), values[1].as_deref()), (None, Some(&b"1"[..])));
    /// # Ok::<(), dbex::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dbex::Node::multi_get`](crate::Node::multi_get).
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Bytes>>> {
        let keys: Vec<K> = keys.into_iter().collect();
        self.node.core().multi_get_blocking(&keys)
    }

    /// The node as it is now, to be read from later; see [`dbex::Node::snapshot`](crate::Node::snapshot).
    ///
    /// # Errors
    /// `Closed`.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let snapshot = block_on(self.node.core().snapshot())?;
        Ok(Snapshot::new(self.clone(), snapshot))
    }

    /// Writes a batch: all of it or nothing, over all shards, also across a crash.
    ///
    /// # Errors
    /// As [`dbex::Node::write`](crate::Node::write).
    pub fn write(&self, batch: WriteBatch) -> Result<()> {
        block_on(self.node.core().write_batch(batch, Caller::Blocking, None))
    }

    /// Reads a key and writes what `change` makes of its value, with no other write between; returns the
    /// value before. See [`dbex::Node::update`](crate::Node::update).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let node = dbex::blocking::Node::open(dbex::Settings::builder().data_dir(dir.path()).build()?)?;
    /// node.put("words", "one")?;
    /// let before = node.update("words", |words| {
    ///     let words = std::str::from_utf8(words.unwrap_or_default()).unwrap_or_default();
    ///     Some(format!("{words} two"))
    /// })?;
    /// assert_eq!((before.as_deref(), node.get("words")?.as_deref()), (Some(&b"one"[..]), Some(&b"one two"[..])));
    /// # Ok::<(), dbex::Error>(())
    /// ```
    ///
    /// # Errors
    /// As there.
    pub fn update<C: Into<Change>>(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnOnce(Option<&[u8]>) -> C + Send + 'static,
    ) -> Result<Option<Bytes>> {
        self.step(update::update(copy(key), change)).map(|done| done.previous)
    }

    /// Adds `by` to the decimal number that the key holds (0 when absent); returns the sum.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let node = dbex::blocking::Node::open(dbex::Settings::builder().data_dir(dir.path()).build()?)?;
    /// assert_eq!(node.increment("visits", 1)?, 1);
    /// assert_eq!(node.increment("visits", 41)?, 42);
    /// # Ok::<(), dbex::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` when the value is not a 64-bit number or the sum overflows; otherwise as [`Node::put`].
    pub fn increment(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64> {
        self.step(update::increment(copy(key), by)).and_then(|done| update::number(done.current.as_deref()))
    }

    /// Sets the key if its value is as expected; returns whether it was.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let node = dbex::blocking::Node::open(dbex::Settings::builder().data_dir(dir.path()).build()?)?;
    /// use dbex::Expected;
    ///
    /// assert!(node.compare_and_swap("state", Expected::Absent, "idle")?);
    /// assert!(node.compare_and_swap("state", Expected::Value(b"idle"), "busy")?);
    /// assert!(!node.compare_and_swap("state", Expected::Value(b"idle"), "busy")?);
    /// # Ok::<(), dbex::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Node::put`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Expected<'_>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool> {
        update::swapped(self.step(update::compare_and_set(copy(key), expected, Some(copy(value)))))
    }

    /// Removes the key if its value is as expected; returns whether it was.
    ///
    /// # Errors
    /// As [`Node::put`].
    pub fn compare_and_delete(&self, key: impl AsRef<[u8]>, expected: Expected<'_>) -> Result<bool> {
        update::swapped(self.step(update::compare_and_set(copy(key), expected, None)))
    }

    fn step(&self, step: Step) -> Result<StepDone> {
        let mut results = self.steps(vec![step]);
        results.pop().unwrap_or_else(|| Err(Error::internal("a step has no result")))
    }

    /// Runs independent writes; see [`dbex::Node::steps`](crate::Node::steps).
    pub fn steps(&self, steps: Vec<Step>) -> Vec<Result<StepDone>> {
        let core = self.node.core();
        block_on(core.run_steps(steps, core.options.durability, Caller::Blocking))
    }

    /// Scans a range in key order over all shards; see [`Scan`].
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        Scan::new(scan::Open::Node(self.clone()), range.into(), None)
    }

    /// On return every write acked before the call is on stable storage.
    ///
    /// # Errors
    /// As [`dbex::Node::sync`](crate::Node::sync).
    pub fn sync(&self) -> Result<()> {
        block_on(self.node.core().sync_all())
    }

    /// On return every write acked before the call is in tables.
    ///
    /// # Errors
    /// As [`dbex::Node::flush`](crate::Node::flush).
    pub fn flush(&self) -> Result<()> {
        block_on(self.node.core().flush_all(Caller::Blocking))
    }

    /// Flushes, then waits until no background work is due.
    ///
    /// # Errors
    /// As [`Node::flush`].
    pub fn settle(&self) -> Result<()> {
        block_on(self.node.core().settle_all(Caller::Blocking))
    }

    /// Rewrites every table that has keys in `range` into the last level.
    ///
    /// # Errors
    /// As [`dbex::Node::compact`](crate::Node::compact).
    pub fn compact(&self, range: impl Into<KeyRange>) -> Result<()> {
        block_on(self.node.core().compact_range(range.into(), Caller::Blocking))
    }

    /// The shard that a key belongs to; see [`dbex::Node::shard_of`](crate::Node::shard_of).
    pub fn shard_of(&self, key: impl AsRef<[u8]>) -> usize {
        self.node.shard_of(key)
    }

    /// What the node tells of itself.
    ///
    /// # Errors
    /// `Closed`.
    pub fn stats(&self) -> Result<NodeStats> {
        self.node.core().stats()
    }

    /// Re-opens every shard that refuses writes, or did not open.
    ///
    /// # Errors
    /// As [`dbex::Node::reopen_shards`](crate::Node::reopen_shards).
    pub fn reopen_shards(&self) -> Result<()> {
        block_on(self.node.core().reopen_shards())
    }

    /// Closes the node: answers what was admitted, syncs, stops. Idempotent.
    ///
    /// # Errors
    /// `Poisoned` when the last sync fails.
    pub fn close(&self) -> Result<()> {
        block_on(self.node.close())
    }
}

fn copy(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}
