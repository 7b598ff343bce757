//! A table of the tree: what the manifest knows of it, and the table itself. The last handle of an obsolete
//! table removes its file.

use std::{path::Path, sync::Arc};

use super::{edit::TableRecord, live::LiveTables, options::TreeContext};
use crate::{
    error::Result,
    ids::ShardId,
    storage::Storage,
    table::{Table, TableExpectation, TableId},
};

/// A table and its place in the tree.
#[derive(Debug)]
pub struct TableHandle {
    record: Arc<TableRecord>,
    table: Arc<Table>,
    storage: Arc<dyn Storage>,
    live: Arc<LiveTables>,
}

impl TableHandle {
    /// The table that `record` describes. Reads nothing.
    ///
    /// # Errors
    /// `Corruption` when the record states what no table can be.
    pub fn open(
        context: &TreeContext,
        shard: ShardId,
        shard_dir: &Path,
        record: Arc<TableRecord>,
    ) -> Result<Arc<Self>> {
        let id = TableId { shard, file: record.file };
        let expected =
            TableExpectation { file_bytes: record.file_bytes, footer_checksum: record.footer_checksum };
        let path = record.path(shard_dir);
        let table = Table::open(Arc::clone(&context.files), path, id, Arc::clone(&context.cache), &expected)?;
        Ok(Self::new(record, table, Arc::clone(&context.storage), Arc::clone(&context.live)))
    }

    fn new(
        record: Arc<TableRecord>,
        table: Arc<Table>,
        storage: Arc<dyn Storage>,
        live: Arc<LiveTables>,
    ) -> Arc<Self> {
        live.enter(table.path());
        Arc::new(Self { record, table, storage, live })
    }

    /// The same table at another place of the tree.
    pub(super) fn moved(&self, record: TableRecord) -> Arc<Self> {
        let (storage, live) = (Arc::clone(&self.storage), Arc::clone(&self.live));
        Self::new(Arc::new(record), Arc::clone(&self.table), storage, live)
    }

    /// What the manifest knows of it.
    pub fn record(&self) -> &Arc<TableRecord> {
        &self.record
    }

    /// The table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Lets the file be removed with the last handle. Only when the durable manifest does not name it.
    pub(super) fn retire(&self) {
        self.live.retire(self.table.path());
    }
}

impl Drop for TableHandle {
    fn drop(&mut self) {
        if self.live.leave(self.table.path()) {
            // NOTE: a file that stays is found and removed when the shard is opened next.
            drop(self.storage.remove_file(self.table.path()));
        }
    }
}
