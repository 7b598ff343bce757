//! A snapshot: all shards as they were at one moment, each write and each batch wholly or not at all.
//!
//! Taking one pauses nobody: the position is held against compaction, then the turns that may have a number below it
//! are waited for. What is read later is what each shard holds then, as far as it is not newer than the position.

use std::{fmt, future::Future, sync::Arc};

use bytes::Bytes;

use super::{
    multi_get,
    node_core::{NodeCore, ShardSlot},
    open_scans::OpenScan,
    read_path::{self, Located, PointReads, locate_all},
    scan::Scan,
    scan_source::{ScanSource, Scanned},
    shard_core::ShardCore,
    snapshots::Hold,
    workers::WorkerPool,
};
use crate::{
    error::{Error, Result},
    ids::SeqNo,
    key::KeyRange,
    table::{Lookup, ReadMode},
    tree::{ReadPoint, ReadView, TreeScan, compaction::Readers, is_visible},
};

/// The node as it was at one moment: every write acked, or returned by a read, before [`Node::snapshot`] was called,
/// and of each batch all or nothing. Writes that were under way then are in it if they had taken their numbers, also if
/// nobody is told of them yet. What has expired is judged by that moment, too. Cheap to clone.
///
/// Taking one copies nothing, but compaction keeps all versions since then until the last clone is dropped, and what a
/// shard held in memory stays there if it is re-opened meanwhile: [`NodeStats`](crate::NodeStats) tells how long the
/// oldest has been held. A snapshot does not keep the node open; when that is closed, it is [`Closed`], too.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # pollster::block_on(async {
/// use dbex::{Node, Settings};
///
/// let node = Node::open(Settings::builder().data_dir(dir.path()).build()?).await?;
/// node.put("stock", "7").await?;
/// let snapshot = node.snapshot().await?;
/// node.put("stock", "6").await?;
/// assert_eq!(snapshot.get("stock").await?.as_deref(), Some(&b"7"[..]));
/// assert_eq!(node.get("stock").await?.as_deref(), Some(&b"6"[..]));
/// # node.close().await?;
/// # Ok::<(), dbex::Error>(())
/// # }).unwrap();
/// ```
///
/// [`Node::snapshot`]: crate::Node::snapshot
/// [`Closed`]: crate::ErrorKind::Closed
#[derive(Clone)]
pub struct Snapshot {
    core: Arc<SnapshotCore>,
}

/// What the clones of a snapshot share.
pub(super) struct SnapshotCore {
    core: Arc<NodeCore>,
    hold: Hold,
    shards: Shards,
}

/// The incarnations that a snapshot reads, or why it cannot; `None` where it does not have to.
type Shards = Box<[Option<Result<Arc<ShardCore>>>]>;

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({})", self.core.hold.point.at)
    }
}

impl Snapshot {
    pub(super) fn new(core: Arc<SnapshotCore>) -> Self {
        Self { core }
    }

    /// The value that a key had.
    ///
    /// # Errors
    /// As [`Node::get`](crate::Node::get); why the key's shard was not open, or is in doubt, when this was taken.
    pub fn get(&self, key: impl AsRef<[u8]>) -> impl Future<Output = Result<Option<Bytes>>> + Send + 'static {
        let (core, key) = (Arc::clone(&self.core), Bytes::copy_from_slice(key.as_ref()));
        async move { read_path::get_async(&core, key).await }
    }

    /// The values that keys had, in their order.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<Bytes>>>> + Send + 'static {
        let core = Arc::clone(&self.core);
        let keys: Vec<_> = keys.into_iter().map(|key| Bytes::copy_from_slice(key.as_ref())).collect();
        async move { multi_get::multi_get_async(&*core, &keys, &locate_all(&*core, &keys)?).await }
    }

    /// Scans a range in key order over all shards; see [`Scan`] for prefix, reverse and limit.
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        let snapshot = Arc::clone(&self.core) as Arc<dyn ScanSource>;
        Scan::new(Scanned::Node(Arc::clone(&self.core.core)), range.into(), Some(snapshot))
    }
}

impl NodeCore {
    /// Takes a snapshot of all shards. One that is not open, or whose last turn panicked, cannot be read from it.
    ///
    /// # Errors
    /// `Closed`.
    pub(super) async fn snapshot(self: &Arc<Self>) -> Result<Arc<SnapshotCore>> {
        self.snapshot_of(|_| true).await
    }

    /// The same, of some shards.
    ///
    /// # Errors
    /// `Closed`.
    pub(super) async fn snapshot_of(
        self: &Arc<Self>,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<Arc<SnapshotCore>> {
        loop {
            self.lifecycle.check_open()?;
            // IMPORTANT: the lives first, and the position then. A life that begins later was recovered without looking
            // at what is held: it may lack the versions that a position before it needs.
            let shards = self.wanted_shards(&is_wanted);
            let hold = self.snapshots.hold(self.env.clock.monotonic(), || self.latest_point());
            let bound = hold.point.at.plus(1).get();
            let open = || shards.iter().flatten().filter_map(|shard| shard.as_ref().ok());
            for shard in open() {
                if !shard.is_past_soon(bound) {
                    shard.in_flight.passed(bound).await;
                }
            }
            // IMPORTANT: of a shard that was re-opened meanwhile, the last life may lack half of a batch that ended
            // in the new one.
            if open().all(|shard| self.is_current(shard)) {
                return Ok(Arc::new(SnapshotCore { core: Arc::clone(self), hold, shards }));
            }
        }
    }

    /// The shards as they are now, all of them of one time: between two re-opens.
    fn wanted_shards(&self, is_wanted: impl Fn(usize) -> bool) -> Shards {
        let _between = self.places.read();
        (0..self.shards.len()).map(|index| is_wanted(index).then(|| self.shard(index))).collect()
    }

    fn is_current(&self, shard: &Arc<ShardCore>) -> bool {
        let slot = self.shards.get(shard.index).map(ShardSlot::load);
        slot.is_some_and(|now| now.open().is_ok_and(|now| Arc::ptr_eq(now, shard)))
    }

    /// Where one reads who reads now.
    pub(super) fn latest_point(&self) -> ReadPoint {
        let next = self.seqno_watermark().get();
        ReadPoint { at: SeqNo(next.saturating_sub(1)), now_ms: self.now_ms() }
    }

    /// Who reads, now or later.
    pub(super) fn readers(&self) -> Readers {
        self.snapshots.readers(|| self.latest_point())
    }
}

impl SnapshotCore {
    fn shard(&self, index: usize) -> Result<&Arc<ShardCore>> {
        let shard = self.shards.get(index).and_then(Option::as_ref);
        let shard = shard.ok_or_else(|| Error::internal("a shard that is not in the snapshot"))?;
        let shard = shard.as_ref().map_err(Error::clone)?;
        shard.check_whole(self.hold.point.at)?;
        Ok(shard)
    }
}

impl ScanSource for SnapshotCore {
    fn shards(&self) -> usize {
        self.shards.len()
    }

    fn scan_shard(&self, index: usize, range: &KeyRange, reverse: bool) -> Result<TreeScan> {
        self.core.lifecycle.check_open()?;
        let ReadPoint { at, now_ms } = self.hold.point;
        Ok(self.shard(index)?.tree.scan(range, reverse, at, now_ms))
    }

    fn begin_scan(&self) -> Option<OpenScan> {
        Some(self.core.open_scans.begin(self.core.env.clock.monotonic()))
    }
}

impl PointReads for SnapshotCore {
    #[inline]
    fn locate(&self, key: &[u8]) -> Result<Located> {
        self.core.router.locate(key)
    }

    fn check_open(&self) -> Result<()> {
        self.core.lifecycle.check_open()
    }

    fn view_of(&self, shard: usize) -> Result<Arc<ReadView>> {
        self.check_open()?;
        Ok(self.shard(shard)?.tree.view())
    }

    fn position(&self) -> SeqNo {
        self.hold.point.at
    }

    fn look_up(&self, key: &[u8], mode: ReadMode) -> Result<Lookup> {
        let Located { shard, hash } = self.locate(key)?;
        self.check_open()?;
        self.shard(shard)?.tree.get(hash, key, self.hold.point.at, mode)
    }

    fn visible(&self, lookup: Lookup) -> Option<Bytes> {
        let Lookup::Found(entry) = lookup else { return None };
        is_visible(entry.kind, entry.expires_at_ms, self.hold.point.now_ms).then_some(entry.value)
    }

    fn workers(&self) -> &WorkerPool {
        &self.core.pools.read
    }
}
