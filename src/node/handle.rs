//! The async face of a node: from any async runtime, no tokio needed around it.

use std::{fmt, future::Future, sync::Arc};

use bytes::Bytes;

use super::{
    close,
    env::Env,
    node_core::NodeCore,
    open,
    options::NodeOptions,
    parallel::on_a_thread,
    put_options::PutOptions,
    read_path,
    scan::Scan,
    scan_source::Scanned,
    snapshot::Snapshot,
    stats::NodeStats,
    step::{Change, Step, StepDone},
    update,
    write_batch::WriteBatch,
    write_path::Caller,
};
use crate::{
    error::{Error, Result},
    key::KeyRange,
};

pub use update::Expected;

/// A running node. Cheap to clone; all clones are the same node. Every method returns a future that is
/// `Send + 'static`, copies what it is given inside the call, and does nothing before its first poll.
///
/// Dropping a future does not undo a write: it is applied wholly or not at all. Dropping the last handle
/// never blocks: it starts an orderly close on the node's own threads; [`Node::close`] waits for it.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # pollster::block_on(async {
/// use dbex::{Node, Settings};
///
/// let node = Node::open(Settings::builder().data_dir(dir.path()).build()?).await?;
/// node.put("greeting", "hello").await?;
/// assert_eq!(node.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
/// node.close().await?;
/// # Ok::<(), dbex::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Node {
    handle: Arc<Handle>,
}

/// What the clones of a node share; the last one starts the close.
struct Handle {
    core: Arc<NodeCore>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        close::start(&self.core);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.core().options.data_dir.display())
    }
}

impl Node {
    /// Opens the node in the settings' data directory, creating it if absent, and recovers what the last
    /// process left. A damaged shard refuses alone; the others serve.
    ///
    /// # Errors
    /// `Invalid` when settings and directory do not fit or another node has the directory open, `Corruption`
    /// for a damaged NODE, `NoSpace`, `Io`.
    pub fn open(options: impl Into<NodeOptions>) -> impl Future<Output = Result<Self>> + Send + 'static {
        Self::open_with(options, Env::system())
    }

    /// Opens a node in another world: its storage, clocks, randomness and threads. For tests.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub fn open_with(
        options: impl Into<NodeOptions>,
        env: Env,
    ) -> impl Future<Output = Result<Self>> + Send + 'static {
        let options = options.into();
        async move {
            let threads = Arc::clone(&env.threads);
            on_a_thread(&*threads, "dbex-open", move || open::open(options, env).map(Self::from_core)).await?
        }
    }

    pub(super) fn from_core(core: Arc<NodeCore>) -> Self {
        Self { handle: Arc::new(Handle { core }) }
    }

    pub(super) fn core(&self) -> &Arc<NodeCore> {
        &self.handle.core
    }

    /// Sets a key, with the node's durability: on return the record has reached the operating system
    /// (`Buffered`) or stable storage (`Synced`).
    ///
    /// # Errors
    /// `Invalid`, `Busy`, `Closed`: nothing was written. `NoSpace`: nothing was written that anyone sees, and what was
    /// may come back only as [`ErrorKind::NoSpace`](crate::ErrorKind::NoSpace) says. `Io`, `Poisoned`, `Internal`: the
    /// outcome is unknown.
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        self.put_bytes(copy(key), copy(value))
    }

    /// Sets a key, without copying it or its value. Durability and errors as [`Node::put`].
    ///
    /// # Errors
    /// As [`Node::put`].
    pub fn put_bytes(&self, key: Bytes, value: Bytes) -> impl Future<Output = Result<()>> + Send + 'static {
        self.write_one(key, Some(value), PutOptions::new())
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
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        self.write_one(copy(key), Some(copy(value)), options)
    }

    /// Removes a key; removing an absent one is fine.
    ///
    /// # Errors
    /// As [`Node::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> impl Future<Output = Result<()>> + Send + 'static {
        self.write_one(copy(key), None, PutOptions::new())
    }

    fn write_one(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        options: PutOptions,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let node = self.clone();
        async move { node.core().write_one(key, value, options, Caller::Async, None).await }
    }

    /// Sets a key that is absent.
    ///
    /// # Errors
    /// `Conflict` when the key is there; otherwise as [`Node::put`].
    pub fn put_if_absent(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let step = update::put_if_absent(copy(key), copy(value));
        let done = self.step(step);
        async move { done.await.map(|_| ()) }
    }

    /// The value of a key, or `None`. It holds every write acked before the call. Never blocks the runtime:
    /// what is in memory or in the page cache is answered in place, the rest by a read worker.
    ///
    /// # Errors
    /// `Invalid`, `Closed`, `Io`, `Corruption`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> impl Future<Output = Result<Option<Bytes>>> + Send + 'static {
        let (node, key) = (self.clone(), copy(key));
        async move { read_path::get_async(node.core(), key).await }
    }

    /// The values of keys, in their order, all as of one moment: of a batch all or nothing is seen.
    ///
    /// # Errors
    /// As [`Node::get`]; `Busy` while a shard of the keys is being re-opened.
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<Bytes>>>> + Send + 'static {
        let (node, keys) = (self.clone(), keys.into_iter().map(copy).collect::<Vec<_>>());
        async move { node.core().multi_get_async(&keys).await }
    }

    /// The node as it is now, to be read from later: see [`Snapshot`]. No writer waits for it; it waits for the turns
    /// that are under way, which is for a sync at most.
    ///
    /// # Errors
    /// `Closed`.
    pub fn snapshot(&self) -> impl Future<Output = Result<Snapshot>> + Send + 'static {
        let node = self.clone();
        async move { node.core().snapshot().await.map(Snapshot::new) }
    }

    /// Writes a batch: all of it or nothing, over all shards, also across a crash.
    ///
    /// # Errors
    /// As [`Node::put`], also where only a condition is on a shard that refuses writes. `Conflict` when a condition does
    /// not hold; then nothing was written.
    pub fn write(&self, batch: WriteBatch) -> impl Future<Output = Result<()>> + Send + 'static {
        let node = self.clone();
        async move { node.core().write_batch(batch, Caller::Async, None).await }
    }

    /// Reads a key and writes what `change` makes of its value, with no other write between. `change` returns
    /// an `Option` (`Some` puts, `None` deletes) or a [`Change`]; it is called at most once, on a thread of
    /// the node, and should be quick. Returns the value before. Where a value expires, the new one does so, too.
    ///
    /// # Errors
    /// As [`Node::put`]; `Internal` when `change` panics (nothing was written).
    pub fn update<C: Into<Change>>(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnOnce(Option<&[u8]>) -> C + Send + 'static,
    ) -> impl Future<Output = Result<Option<Bytes>>> + Send + 'static {
        let done = self.step(update::update(copy(key), change));
        async move { done.await.map(|done| done.previous) }
    }

    /// Adds `by` to the decimal number that the key holds (0 when absent); returns the sum. An expiry stays.
    ///
    /// # Errors
    /// `Invalid` when the value is not a 64-bit number or the sum overflows; otherwise as [`Node::put`].
    pub fn increment(
        &self,
        key: impl AsRef<[u8]>,
        by: i64,
    ) -> impl Future<Output = Result<i64>> + Send + 'static {
        let done = self.step(update::increment(copy(key), by));
        async move { done.await.and_then(|done| update::number(done.current.as_deref())) }
    }

    /// Sets the key if its value is as expected; returns whether it was. An expiry stays.
    ///
    /// # Errors
    /// As [`Node::put`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Expected<'_>,
        value: impl AsRef<[u8]>,
    ) -> impl Future<Output = Result<bool>> + Send + 'static {
        let done = self.step(update::compare_and_set(copy(key), expected, Some(copy(value))));
        async move { update::swapped(done.await) }
    }

    /// Removes the key if its value is as expected; returns whether it was.
    ///
    /// # Errors
    /// As [`Node::put`].
    pub fn compare_and_delete(
        &self,
        key: impl AsRef<[u8]>,
        expected: Expected<'_>,
    ) -> impl Future<Output = Result<bool>> + Send + 'static {
        let done = self.step(update::compare_and_set(copy(key), expected, None));
        async move { update::swapped(done.await) }
    }

    fn step(&self, step: Step) -> impl Future<Output = Result<StepDone>> + Send + 'static {
        let done = self.steps(vec![step]);
        async move { done.await.pop().unwrap_or_else(|| Err(Error::internal("a step has no result"))) }
    }

    /// Runs independent writes: each has a result of its own. Those whose keys lie in one shard run in their
    /// order, in one turn where they can, and share its `write` and sync.
    pub fn steps(&self, steps: Vec<Step>) -> impl Future<Output = Vec<Result<StepDone>>> + Send + 'static {
        let node = self.clone();
        async move { node.core().run_steps(steps, node.core().options.durability, Caller::Async).await }
    }

    /// Scans a range in key order over all shards; see [`Scan`] for prefix, reverse and limit.
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        Scan::new(Scanned::Node(Arc::clone(self.core())), range.into(), None)
    }

    /// On return every write acked before the call is on stable storage.
    ///
    /// # Errors
    /// `Poisoned` when a shard's sync fails now or failed before; `Closed`.
    pub fn sync(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let node = self.clone();
        async move { node.core().sync_all().await }
    }

    /// On return every write acked before the call is in tables.
    ///
    /// # Errors
    /// Why a shard's flush fails: `NoSpace`, `Io`, `Poisoned`; `Closed`.
    pub fn flush(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let node = self.clone();
        async move { node.core().flush_all(Caller::Async).await }
    }

    /// Flushes, then waits until no background work is due.
    ///
    /// # Errors
    /// As [`Node::flush`].
    pub fn settle(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let node = self.clone();
        async move { node.core().settle_all(Caller::Async).await }
    }

    /// Rewrites every table that has keys in `range` into the last level: frees what deletes and overwrites left.
    ///
    /// # Errors
    /// As [`Node::flush`]; `Invalid` for an inverted range.
    pub fn compact(&self, range: impl Into<KeyRange>) -> impl Future<Output = Result<()>> + Send + 'static {
        let (node, range) = (self.clone(), range.into());
        async move { node.core().compact_range(range, Caller::Async).await }
    }

    /// The shard that a key belongs to, from 0 on. It stays so for as long as the data directory has its shards; other
    /// directories have other seeds. For hosts that place work beside its data, and to see which keys are hot together.
    pub fn shard_of(&self, key: impl AsRef<[u8]>) -> usize {
        let router = self.core().router;
        router.shard(router.hash(key.as_ref()))
    }

    /// What the node tells of itself.
    ///
    /// # Errors
    /// `Closed`.
    pub fn stats(&self) -> impl Future<Output = Result<NodeStats>> + Send + 'static {
        let node = self.clone();
        async move { node.core().stats() }
    }

    /// Re-opens every shard that refuses writes, or did not open: after a sync failure, repeated panics, or
    /// once damage is mended. What its log still holds is written anew before it takes a write.
    ///
    /// A log whose sync failed may have lost its half of a batch, so the healthy shards are re-opened with it;
    /// their writers get `Busy` for that moment, and buffered writes that rest on what was lost go with it.
    ///
    /// # Errors
    /// `Corruption`, `Invalid`: why a shard could not be re-opened; the others are. `Io`, `NoSpace`, `Poisoned`,
    /// `Internal`: none is, and all that should be refuse writes as `Poisoned` until the next call. `Closed`.
    pub fn reopen_shards(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let node = self.clone();
        async move { node.core().reopen_shards().await }
    }

    /// The actor face: see [`messages`](crate::messages).
    ///
    /// # Panics
    /// Never: an open node has a coordinator.
    #[cfg(feature = "actix-api")]
    pub fn coordinator(&self) -> actix::Addr<super::coordinator::Coordinator> {
        self.core().coordinator.get().cloned().expect("an open node has a coordinator")
    }

    /// Waits until `bytes` may wait at the node, and returns the right to it, to be carried by a message.
    ///
    /// # Errors
    /// `Closed`.
    #[cfg(feature = "actix-api")]
    pub fn admit(
        &self,
        bytes: usize,
    ) -> impl Future<Output = Result<super::admission::Permit>> + Send + 'static {
        let node = self.clone();
        async move { node.core().message_admission.acquire(bytes, true).await }
    }

    /// Closes the node: answers what was admitted, syncs, stops. Idempotent; later calls of anything else
    /// get `Closed`.
    ///
    /// # Errors
    /// `Poisoned` when the last sync fails.
    pub fn close(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let core = Arc::clone(self.core());
        async move {
            close::start(&core);
            close::wait(&core).await
        }
    }
}

fn copy(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}
