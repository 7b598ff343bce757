//! fjall 3: one keyspace, its journal written through to the operating system at every commit.

use std::{path::Path, time::Duration};

use anyhow::Result;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::{BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry},
};

use super::{Budgets, Engine, ShowPair, ShowValue};
use crate::data::Key;

pub(super) struct Fjall {
    db: Database,
    keyspace: Keyspace,
}

impl Fjall {
    pub(super) fn open(dir: &Path, budgets: Budgets) -> Result<Self> {
        let db = Database::builder(dir).cache_size(budgets.block_cache_bytes as u64).open()?;
        let options = || {
            let ten_bits = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0));
            KeyspaceCreateOptions::default()
                .max_memtable_size(budgets.memtable_bytes as u64)
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
                .filter_policy(FilterPolicy::all(ten_bits))
        };
        let keyspace = db.keyspace("entries", options)?;
        Ok(Self { db, keyspace })
    }
}

impl Engine for Fjall {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.keyspace.insert(key, value)?)
    }

    fn put_synced(&self, key: &Key, value: &[u8]) -> Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.keyspace, key, value);
        Ok(batch.commit()?)
    }

    fn write_batch(&self, entries: &[(Key, Vec<u8>)]) -> Result<()> {
        let mut batch = self.db.batch();
        for (key, value) in entries {
            batch.insert(&self.keyspace, key, value.as_slice());
        }
        Ok(batch.commit()?)
    }

    fn get(&self, key: &Key, show: ShowValue<'_>) -> Result<bool> {
        let found = self.keyspace.get(key)?;
        found.map_or(Ok(false), |value| show(&value).map(|()| true))
    }

    fn scan(&self, from: &Key, count: usize, show: ShowPair<'_>) -> Result<usize> {
        let mut seen = 0;
        for entry in self.keyspace.range(from.as_slice()..).take(count) {
            let (key, value) = entry.into_inner()?;
            show(&key, &value)?;
            seen += 1;
        }
        Ok(seen)
    }

    fn settle(&self) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait()?;
        let mut quiet = 0;
        while quiet < 10 {
            std::thread::sleep(Duration::from_millis(20));
            let busy = self.db.active_compactions() > 0 || self.db.outstanding_flushes() > 0;
            quiet = if busy { 0 } else { quiet + 1 };
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }
}
