//! redb 4: one table. Its commit without durability stays in the process's memory, so it promises less than
//! the others' buffered one.

use std::path::Path;

use anyhow::Result;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{Budgets, Engine, ShowPair, ShowValue};
use crate::data::Key;

const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");

pub(super) struct Redb {
    db: Database,
}

impl Redb {
    pub(super) fn open(dir: &Path, budgets: Budgets) -> Result<Self> {
        let db = Database::builder().set_cache_size(budgets.total()).create(dir.join("entries.redb"))?;
        let engine = Self { db };
        engine.commit(Durability::Immediate, &[])?;
        Ok(engine)
    }

    fn commit(&self, durability: Durability, entries: &[(&[u8], &[u8])]) -> Result<()> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(ENTRIES)?;
            for (key, value) in entries {
                table.insert(*key, *value)?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Engine for Redb {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.commit(Durability::None, &[(key, value)])
    }

    fn put_synced(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.commit(Durability::Immediate, &[(key, value)])
    }

    fn write_batch(&self, entries: &[(Key, Vec<u8>)]) -> Result<()> {
        let entries: Vec<(&[u8], &[u8])> =
            entries.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        self.commit(Durability::None, &entries)
    }

    fn get(&self, key: &Key, show: ShowValue<'_>) -> Result<bool> {
        let table = self.db.begin_read()?.open_table(ENTRIES)?;
        let found = table.get(key.as_slice())?;
        found.map_or(Ok(false), |value| show(value.value()).map(|()| true))
    }

    fn scan(&self, from: &Key, count: usize, show: ShowPair<'_>) -> Result<usize> {
        let table = self.db.begin_read()?.open_table(ENTRIES)?;
        let mut seen = 0;
        for entry in table.range(from.as_slice()..)?.take(count) {
            let (key, value) = entry?;
            show(key.value(), value.value())?;
            seen += 1;
        }
        Ok(seen)
    }

    fn settle(&self) -> Result<()> {
        self.commit(Durability::Immediate, &[])
    }

    fn close(&self) -> Result<()> {
        self.commit(Durability::Immediate, &[])
    }
}
