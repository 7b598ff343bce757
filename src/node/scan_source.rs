//! What scans read from: a node at one moment.

use std::sync::Arc;

use super::{node_core::NodeCore, open_scans::OpenScan, read_only::ReadOnlyCore, workers::WorkerPool};
use crate::{error::Result, key::KeyRange, tree::TreeScan};

/// All shards as they were at one moment.
pub(super) trait ScanSource: Send + Sync + 'static {
    /// How many shards the node has.
    fn shards(&self) -> usize;

    /// Walks the entries of a range in one shard.
    ///
    /// # Errors
    /// `Closed`; why the shard cannot be read from.
    fn scan_shard(&self, index: usize, range: &KeyRange, reverse: bool) -> Result<TreeScan>;

    /// Notes that a scan is under way, where somebody wants to know.
    fn begin_scan(&self) -> Option<OpenScan> {
        None
    }
}

/// Whose shards are scanned.
#[derive(Clone)]
pub(super) enum Scanned {
    Node(Arc<NodeCore>),
    ReadOnly(Arc<ReadOnlyCore>),
}

impl Scanned {
    /// The shards as they are now.
    ///
    /// # Errors
    /// `Closed`.
    pub(super) async fn now(&self) -> Result<Arc<dyn ScanSource>> {
        Ok(match self {
            Self::Node(core) => core.snapshot().await? as Arc<dyn ScanSource>,
            Self::ReadOnly(core) => core.moment(),
        })
    }

    /// Who reads what has to be waited for.
    pub(super) fn workers(&self) -> &WorkerPool {
        match self {
            Self::Node(core) => &core.pools.read,
            Self::ReadOnly(core) => core.workers(),
        }
    }
}
