//! A scan over one shard: the merge of its memtables and tables, as one reader sees it.

use std::sync::Arc;

use super::{
    block_cursor::BlockCursor,
    merge::MergeCursor,
    pair_batch::{PairBatch, PairBatchBuilder},
    run_cursor::RunCursor,
    view::ReadView,
    visible::{ReadPoint, VisibleCursor},
};
use crate::{
    entry::{Cursor, Entry},
    error::{Error, Result},
    key::KeyRange,
    memtable::MemtableCursor,
    table::{CursorSource, TableCursor, WholeBlock},
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

    #[inline]
    fn next(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.next())
    }

    #[inline]
    fn walk(&mut self, take: &mut impl FnMut(&Entry<'_>) -> bool) -> Result<()> {
        each_source!(self, cursor => cursor.walk(take))
    }

    fn prev(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.prev())
    }

    #[inline]
    fn entry(&self) -> Option<Entry<'_>> {
        each_source!(self, cursor => cursor.entry())
    }

    #[inline]
    fn key(&self) -> Option<&[u8]> {
        each_source!(self, cursor => cursor.key())
    }
}

impl BlockCursor for SourceCursor {
    #[inline]
    fn block_bound(&self) -> Option<&[u8]> {
        each_source!(self, cursor => BlockCursor::block_bound(cursor))
    }

    fn whole_block(&self) -> Option<WholeBlock> {
        each_source!(self, cursor => BlockCursor::whole_block(cursor))
    }

    fn skip_block(&mut self) -> Result<()> {
        each_source!(self, cursor => BlockCursor::skip_block(cursor))
    }
}

/// Walks the visible entries of a range of one shard, from a view that it holds. Each step may read blocks, and
/// wait for them.
pub struct TreeScan {
    entries: VisibleCursor<MergeCursor<SourceCursor>>,
    /// Told after the pairs that came before it.
    failed: Option<Error>,
    /// Keeps the files of the tables that are walked.
    _view: Arc<ReadView>,
}

impl TreeScan {
    pub(super) fn new(view: Arc<ReadView>, range: &KeyRange, reverse: bool, point: ReadPoint) -> Self {
        let memtables =
            std::iter::once(&view.active).chain(view.sealed.iter().map(|sealed| &sealed.memtable));
        let mut sources: Vec<_> = memtables
            .filter(|memtable| !memtable.is_empty())
            .map(|memtable| SourceCursor::Memtable(memtable.cursor()))
            .collect();
        let in_range = view.version.l0().filter(|table| {
            !range.is_before(&table.record().max_key) && !range.is_behind(&table.record().min_key)
        });
        sources.extend(in_range.map(|table| SourceCursor::Table(table.table().cursor(CursorSource::Cached))));
        let runs = view.version.runs().filter(|run| !run.tables().is_empty());
        sources.extend(
            runs.map(|run| SourceCursor::Run(RunCursor::new(Arc::clone(run.tables()), CursorSource::Cached))),
        );
        let entries = VisibleCursor::new(MergeCursor::new(sources), range.clone(), reverse, point);
        Self { entries, failed: None, _view: view }
    }

    /// The next visible pairs, up to so many and at least one; none at the end, and from then on. An error comes
    /// after the pairs before it.
    ///
    /// # Errors
    /// `Io` or `Corruption`; the scan is at its end then.
    pub fn next_batch(&mut self, most: usize) -> Result<PairBatch> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut batch = PairBatchBuilder::new(most.max(1));
        let filled = self.entries.fill(&mut batch);
        let batch = batch.finish();
        match filled {
            Err(error) if batch.is_empty() => return Err(error),
            Err(error) => self.failed = Some(error),
            Ok(()) => {}
        }
        Ok(batch)
    }
}
