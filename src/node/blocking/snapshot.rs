//! A snapshot, for threads.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{
    super::{
        multi_get::multi_get_blocking,
        read_path::{PointReads, locate_all},
        scan_source::ScanSource,
        snapshot::SnapshotCore,
    },
    Node, Scan,
    scan::Open,
};
use crate::{error::Result, key::KeyRange};

/// The node as it was at one moment; see [`dbex::Snapshot`](crate::Snapshot). It keeps the node open.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use dbex::{Settings, blocking::Node};
///
/// let node = Node::open(Settings::builder().data_dir(dir.path()).build()?)?;
/// node.put("a", "1")?;
/// let snapshot = node.snapshot()?;
/// node.put("b", "2")?;
/// assert_eq!(snapshot.scan(..).count(), 1);
/// assert_eq!(node.scan(..).count(), 2);
/// # Ok::<(), dbex::Error>(())
/// ```
#[derive(Clone)]
pub struct Snapshot {
    node: Node,
    snapshot: Arc<SnapshotCore>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocking::Snapshot({:?})", self.node)
    }
}

impl Snapshot {
    pub(super) const fn new(node: Node, snapshot: Arc<SnapshotCore>) -> Self {
        Self { node, snapshot }
    }

    /// The value that a key had.
    ///
    /// # Errors
    /// As [`Node::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.snapshot.get_blocking(key.as_ref())
    }

    /// The values that keys had, in their order.
    ///
    /// # Errors
    /// As [`Node::get`].
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Bytes>>> {
        let keys: Vec<K> = keys.into_iter().collect();
        multi_get_blocking(&*self.snapshot, &keys, &locate_all(&*self.snapshot, &keys)?)
    }

    /// Scans a range in key order over all shards; see [`Scan`].
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        let snapshot = Arc::clone(&self.snapshot) as Arc<dyn ScanSource>;
        Scan::new(Open::Node(self.node.clone()), range.into(), Some(snapshot))
    }
}
