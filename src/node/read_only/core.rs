//! What the handles, scans and workers of a read-only node share: a view of each shard that nothing changes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;

use super::super::{
    close,
    directory_lock::DirectoryLock,
    env::Env,
    node_clock::NodeClock,
    node_core::Lifecycle,
    options::NodeOptions,
    read_path::{Located, PointReads},
    router::Router,
    scan_source::ScanSource,
    stats::{NodeStats, ShardStats},
    workers::WorkerPool,
};
use crate::{
    error::{Error, Result},
    ids::SeqNo,
    key::KeyRange,
    table::{BlockCache, Lookup, ReadMode},
    tree::{ReadView, TreeScan, TreeStats, is_visible},
};

/// A read-only node; see the module.
pub(in crate::node) struct ReadOnlyCore {
    options: NodeOptions,
    env: Env,
    router: Router,
    clock: NodeClock,
    cache: Arc<BlockCache>,
    workers: WorkerPool,
    /// By their numbers; gone once it is closed, and their memory with them.
    shards: ArcSwapOption<Shards>,
    lifecycle: Lifecycle,
}

/// Each shard, or why it is not open.
pub(super) type Shards = Box<[Result<ReadOnlyShard>]>;

/// One shard.
pub(super) struct ReadOnlyShard {
    pub(super) view: Arc<ReadView>,
    pub(super) flushed_seqno: SeqNo,
}

/// What `open.rs` puts together.
pub(super) struct Parts {
    pub(super) options: NodeOptions,
    pub(super) env: Env,
    pub(super) router: Router,
    pub(super) clock_high_ms: u64,
    pub(super) cache: Arc<BlockCache>,
    pub(super) workers: WorkerPool,
    pub(super) shards: Shards,
    pub(super) lock: DirectoryLock,
}

/// It, with all expiries judged by one time.
pub(in crate::node) struct Moment {
    core: Arc<ReadOnlyCore>,
    now_ms: u64,
}

impl ReadOnlyCore {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { options, env, router, clock_high_ms, cache, workers, shards, lock } = parts;
        Self {
            clock: NodeClock::new(Arc::clone(&env.clock), clock_high_ms),
            shards: ArcSwapOption::from_pointee(shards),
            lifecycle: Lifecycle::new(lock),
            options,
            env,
            router,
            cache,
            workers,
        }
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// Its time in milliseconds since the epoch; never goes backwards.
    pub(in crate::node) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// What several things are read from together.
    pub(in crate::node) fn moment(self: &Arc<Self>) -> Arc<Moment> {
        Arc::new(Moment { core: Arc::clone(self), now_ms: self.now_ms() })
    }

    /// Who reads what has to be waited for.
    pub(in crate::node) const fn workers(&self) -> &WorkerPool {
        &self.workers
    }

    /// What it tells of itself.
    ///
    /// # Errors
    /// `Closed`.
    pub(in crate::node) fn stats(&self) -> Result<NodeStats> {
        let shards = self.shards()?;
        let shards: Vec<_> = shards
            .iter()
            .flat_map(|shards| shards.iter())
            .map(|shard| shard_stats(shard, self.now_ms()))
            .collect();
        let cache = self.cache.stats();
        Ok(NodeStats {
            active_memtable_bytes: shards.iter().map(|shard| shard.load.active_bytes).sum(),
            sealed_memtable_bytes: shards.iter().map(|shard| shard.load.sealed_bytes).sum(),
            shards,
            block_cache_bytes: cache.bytes,
            block_cache_hits: cache.hits,
            block_cache_misses: cache.misses,
            ..NodeStats::default()
        })
    }

    /// Starts the close on a thread of its own; does nothing if it has begun. Never blocks.
    pub(super) fn start_close(self: &Arc<Self>) {
        if !self.lifecycle.begin_close() {
            return;
        }
        let core = Arc::clone(self);
        if let Err(error) = self.env.threads.spawn("dbex-close", Box::new(move || core.end())) {
            tracing::error!(error = %error, "cannot start a thread to close the node; closing here");
            self.end();
        }
    }

    /// Waits until it is closed.
    ///
    /// # Errors
    /// `Internal` when a step of the close panicked.
    pub(super) async fn closed(&self) -> Result<()> {
        close::wait_for(&self.lifecycle.closed).await
    }

    fn end(&self) {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            self.workers.stop();
            self.shards.store(None);
        }));
        self.lifecycle.finish_close(ended.map_err(|_| Error::internal("a step of the close panicked")));
    }

    fn shards(&self) -> Result<Guard<Option<Arc<Shards>>>> {
        self.lifecycle.check_open()?;
        Ok(self.shards.load())
    }

    /// Does something with the view of one shard.
    fn with_view<T>(&self, index: usize, read: impl FnOnce(&Arc<ReadView>) -> Result<T>) -> Result<T> {
        let shards = self.shards()?;
        let shard = shards.as_ref().and_then(|shards| shards.get(index)).ok_or_else(Error::closed)?;
        read(&shard.as_ref().map_err(Error::clone)?.view)
    }

    fn visible_at(lookup: Lookup, now_ms: impl FnOnce() -> u64) -> Option<Bytes> {
        let Lookup::Found(entry) = lookup else { return None };
        let now_ms = if entry.expires_at_ms.is_some() { now_ms() } else { 0 };
        is_visible(entry.kind, entry.expires_at_ms, now_ms).then_some(entry.value)
    }
}

fn shard_stats(shard: &Result<ReadOnlyShard>, now_ms: u64) -> ShardStats {
    match shard {
        Err(error) => ShardStats { trouble: Some(error.to_string()), ..ShardStats::default() },
        Ok(ReadOnlyShard { view, flushed_seqno }) => ShardStats {
            load: view.load(now_ms),
            tree: TreeStats { flushed_seqno: *flushed_seqno, ..view.stats() },
            ..ShardStats::default()
        },
    }
}

impl PointReads for ReadOnlyCore {
    fn locate(&self, key: &[u8]) -> Result<Located> {
        self.router.locate(key)
    }

    fn check_open(&self) -> Result<()> {
        self.lifecycle.check_open()
    }

    fn view_of(&self, shard: usize) -> Result<Arc<ReadView>> {
        self.with_view(shard, |view| Ok(Arc::clone(view)))
    }

    fn position(&self) -> SeqNo {
        SeqNo::MAX
    }

    fn look_up(&self, key: &[u8], mode: ReadMode) -> Result<Lookup> {
        let Located { shard, hash } = self.locate(key)?;
        self.with_view(shard, |view| view.get(hash, key, SeqNo::MAX, mode))
    }

    fn visible(&self, lookup: Lookup) -> Option<Bytes> {
        Self::visible_at(lookup, || self.now_ms())
    }

    fn workers(&self) -> &WorkerPool {
        &self.workers
    }
}

impl PointReads for Moment {
    fn locate(&self, key: &[u8]) -> Result<Located> {
        self.core.router.locate(key)
    }

    fn check_open(&self) -> Result<()> {
        self.core.lifecycle.check_open()
    }

    fn view_of(&self, shard: usize) -> Result<Arc<ReadView>> {
        self.core.with_view(shard, |view| Ok(Arc::clone(view)))
    }

    fn position(&self) -> SeqNo {
        SeqNo::MAX
    }

    fn look_up(&self, key: &[u8], mode: ReadMode) -> Result<Lookup> {
        self.core.look_up(key, mode)
    }

    fn visible(&self, lookup: Lookup) -> Option<Bytes> {
        ReadOnlyCore::visible_at(lookup, || self.now_ms)
    }

    fn workers(&self) -> &WorkerPool {
        &self.core.workers
    }
}

impl ScanSource for Moment {
    fn shards(&self) -> usize {
        usize::try_from(self.core.router.shards).unwrap_or(usize::MAX)
    }

    fn scan_shard(&self, index: usize, range: &KeyRange, reverse: bool) -> Result<TreeScan> {
        self.core.with_view(index, |view| Ok(view.scan(range, reverse, SeqNo::MAX, self.now_ms)))
    }
}
