//! Which shard a key belongs to: the one place that turns a key into its hash.

use super::read_path::Located;
use crate::{
    error::Result,
    key::{KeyHash, check_key},
};

/// Routes keys to shards. Seed and shard count come from the node's NODE file and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Router {
    /// The seed of the key hash.
    pub hash_seed: u64,
    /// The number of shards, at least 1.
    pub shards: u32,
}

impl Router {
    /// The key's hash.
    #[inline]
    pub(super) fn hash(self, key: &[u8]) -> KeyHash {
        KeyHash::of(key, self.hash_seed)
    }

    /// How many shards there are.
    pub(super) const fn shards(self) -> usize {
        self.shards as usize
    }

    /// The shard of a hash.
    #[inline]
    pub(super) fn shard(self, hash: KeyHash) -> usize {
        hash.shard(self.shards) as usize
    }

    /// Where a caller's key is looked for.
    ///
    /// # Errors
    /// `Invalid`.
    #[inline]
    pub(super) fn locate(self, key: &[u8]) -> Result<Located> {
        check_key(key)?;
        let hash = self.hash(key);
        Ok(Located { shard: self.shard(hash), hash })
    }
}
