//! dbex through `blocking::Node`; its async face for tasks.

use std::{ops::ControlFlow, path::Path};

use anyhow::Result;
use dbex::{Durability, PutOptions, Settings, WriteBatch, blocking::Node};

use super::{Budgets, Engine, ShowPair, ShowValue};
use crate::{data::Key, seconds::Background};

pub(super) struct Dbex {
    node: Node,
}

impl Dbex {
    pub(super) fn open(dir: &Path, budgets: Budgets) -> Result<Self> {
        let settings = Settings::builder()
            .data_dir(dir)
            .shards(budgets.shards)
            .memtable_bytes(budgets.memtable_bytes as u64)
            .block_cache_bytes(budgets.block_cache_bytes as u64)
            .build()?;
        Ok(Self { node: Node::open(settings)? })
    }
}

impl Engine for Dbex {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.node.put(key, value)?)
    }

    fn put_synced(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.node.put_with(key, value, PutOptions::new().durability(Durability::Synced))?)
    }

    fn write_batch(&self, entries: &[(Key, Vec<u8>)]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in entries {
            batch.put(key, value);
        }
        Ok(self.node.write(batch)?)
    }

    fn get(&self, key: &Key, show: ShowValue<'_>) -> Result<bool> {
        let found = self.node.get(key)?;
        found.map_or(Ok(false), |value| show(&value).map(|()| true))
    }

    fn scan(&self, from: &Key, count: usize, show: ShowPair<'_>) -> Result<usize> {
        let mut seen = 0;
        let visited = self.node.scan(from.as_slice()..).limit(count).visit(|key, value| {
            seen += 1;
            match show(key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        });
        match visited? {
            ControlFlow::Continue(()) => Ok(seen),
            ControlFlow::Break(error) => Err(error),
        }
    }

    fn settle(&self) -> Result<()> {
        Ok(self.node.settle()?)
    }

    fn tasks(&self) -> Option<::dbex::Node> {
        Some(self.node.to_async())
    }

    fn is_hot(&self, key: &Key) -> bool {
        self.node.shard_of(key) == 0
    }

    fn background(&self) -> Background {
        let Ok(stats) = self.node.stats() else { return Background::default() };
        Background {
            debt_bytes: Some(stats.shards.iter().map(|shard| shard.load.debt_bytes).sum()),
            bytes: Some(stats.flush_io_bytes + stats.compaction_io_bytes),
        }
    }

    fn close(&self) -> Result<()> {
        Ok(self.node.close()?)
    }
}
