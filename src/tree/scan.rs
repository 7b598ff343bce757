//! A scan over one shard: the merge of its memtables and tables, as one reader sees it.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    merge::MergeCursor,
    run_cursor::RunCursor,
    view::ReadView,
    visible::{ReadPoint, VisibleCursor},
};
use crate::{
    entry::{Cursor, Entry},
    error::Result,
    key::KeyRange,
    memtable::MemtableCursor,
    table::{CursorSource, TableCursor},
};

/// One of the sources that a scan, a flush or a compaction merges.
pub(super) enum SourceCursor {
    Memtable(MemtableCursor),
    Table(TableCursor),
    Run(RunCursor),
}

macro_rules! each_source {
    ($self:ident, $cursor:ident => $call:expr) => {
        match $self {
            Self::Memtable($cursor) => $call,
            Self::Table($cursor) => $call,
            Self::Run($cursor) => $call,
        }
    };
}

impl Cursor for SourceCursor {
    fn seek_first(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.seek_first())
    }

    fn seek_last(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.seek_last())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        each_source!(self, cursor => cursor.seek(key))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        each_source!(self, cursor => cursor.seek_before(key))
    }

    fn next(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.next())
    }

    fn prev(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.prev())
    }

    fn entry(&self) -> Option<Entry<'_>> {
        each_source!(self, cursor => cursor.entry())
    }
}

/// Walks the visible entries of a range of one shard, from a view that it holds. Each step may read blocks, and
/// wait for them.
pub struct TreeScan {
    entries: VisibleCursor<MergeCursor<SourceCursor>>,
    /// Keeps the files of the tables that are walked.
    _view: Arc<ReadView>,
}

impl TreeScan {
    pub(super) fn new(view: Arc<ReadView>, range: &KeyRange, reverse: bool, point: ReadPoint) -> Self {
        let mut sources = vec![SourceCursor::Memtable(view.active.cursor())];
        sources.extend(view.sealed.iter().map(|sealed| SourceCursor::Memtable(sealed.memtable.cursor())));
        let in_range = view.version.l0().filter(|table| {
            !range.is_before(&table.record().max_key) && !range.is_behind(&table.record().min_key)
        });
        sources.extend(in_range.map(|table| SourceCursor::Table(table.table().cursor(CursorSource::Cached))));
        let runs = view.version.runs().filter(|run| !run.tables().is_empty());
        sources.extend(
            runs.map(|run| SourceCursor::Run(RunCursor::new(Arc::clone(run.tables()), CursorSource::Cached))),
        );
        let entries = VisibleCursor::new(MergeCursor::new(sources), range.clone(), reverse, point);
        Self { entries, _view: view }
    }

    /// The next visible entry; `None` at the end, and from then on.
    ///
    /// # Errors
    /// `Io` or `Corruption`; the scan is at its end then.
    #[expect(clippy::should_implement_trait, reason = "an iterator's errors would come last")]
    pub fn next(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        self.entries.next()
    }
}
