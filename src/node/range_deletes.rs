//! Range deletes, as a handle offers them: each is a batch over all shards, one record in each.

use std::future::Future;

use super::{handle::Node, write_batch::WriteBatch};
use crate::{error::Result, key::KeyRange};

/// The batch that removes the keys of a range.
pub(super) fn delete_range(range: KeyRange) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.delete_range(range);
    batch
}

impl Node {
    /// Removes all keys in a range at one moment, in all shards: a snapshot, a scan or a `multi_get` finds all of them or
    /// none. It costs one record a
    /// shard, however many keys there are; compaction takes back their space. [`WriteBatch::delete_range`] does the
    /// same beside other writes, on conditions, or with another durability than the node's.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # pollster::block_on(async {
    /// use dbex::{Node, Settings};
    ///
    /// let node = Node::open(Settings::builder().data_dir(dir.path()).build()?).await?;
    /// for key in ["log/1", "log/2", "log/3", "user/1"] {
    ///     node.put(key, "…").await?;
    /// }
    /// node.delete_range("log/1".."log/3").await?;
    /// assert_eq!(node.get("log/2").await?, None);
    /// assert!(node.get("log/3").await?.is_some());
    /// node.delete_prefix("log/").await?;
    /// assert!(node.get("user/1").await?.is_some());
    /// # node.close().await?;
    /// # Ok::<(), dbex::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Invalid` for an inverted range or a bound above 64 KiB; otherwise as [`Node::write`].
    pub fn delete_range(
        &self,
        range: impl Into<KeyRange>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        self.write(delete_range(range.into()))
    }

    /// Removes all keys that begin with `prefix`, as [`Node::delete_range`]; with an empty one all keys.
    ///
    /// # Errors
    /// As there.
    pub fn delete_prefix(
        &self,
        prefix: impl AsRef<[u8]>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        self.delete_range(KeyRange::prefix(prefix))
    }
}
