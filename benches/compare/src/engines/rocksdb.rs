//! `RocksDB` through its Rust binding: the default column family, leveled compaction.

use std::path::Path;

use anyhow::Result;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, WaitForCompactOptions, WriteBatch, WriteOptions,
};

use super::{Budgets, Engine, ShowPair, ShowValue};
use crate::{data::Key, seconds::Background};

pub(super) struct RocksDb {
    db: DB,
    synced: WriteOptions,
}

impl RocksDb {
    pub(super) fn open(dir: &Path, budgets: Budgets) -> Result<Self> {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(budgets.block_cache_bytes));
        blocks.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&blocks);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(budgets.memtable_bytes);
        options.increase_parallelism(2);
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Self { db: DB::open(&options, dir)?, synced })
    }
}

impl Engine for RocksDb {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.db.put(key, value)?)
    }

    fn put_synced(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.db.put_opt(key, value, &self.synced)?)
    }

    fn write_batch(&self, entries: &[(Key, Vec<u8>)]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in entries {
            batch.put(key, value);
        }
        Ok(self.db.write(batch)?)
    }

    fn get(&self, key: &Key, show: ShowValue<'_>) -> Result<bool> {
        let found = self.db.get_pinned(key)?;
        found.map_or(Ok(false), |value| show(&value).map(|()| true))
    }

    fn scan(&self, from: &Key, count: usize, show: ShowPair<'_>) -> Result<usize> {
        let mut pairs = self.db.raw_iterator();
        pairs.seek(from);
        let mut seen = 0;
        while let (true, Some((key, value))) = (seen < count, pairs.item()) {
            show(key, value)?;
            seen += 1;
            pairs.next();
        }
        pairs.status()?;
        Ok(seen)
    }

    fn settle(&self) -> Result<()> {
        let mut wait = WaitForCompactOptions::default();
        wait.set_flush(true);
        Ok(self.db.wait_for_compact(&wait)?)
    }

    fn background(&self) -> Background {
        let debt = self.db.property_int_value("rocksdb.estimate-pending-compaction-bytes");
        Background { debt_bytes: debt.ok().flatten(), bytes: None }
    }

    fn close(&self) -> Result<()> {
        self.db.cancel_all_background_work(true);
        Ok(())
    }
}
