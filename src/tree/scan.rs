//! A scan over one shard: the merge of its memtables and tables, as one reader sees it.

use std::sync::Arc;

use super::{
    block_cursor::BlockCursor,
    handle::TableHandle,
    masked::{DeleteSource, Mask, MaskedCursor},
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

/// Walks the visible entries of a range of one shard, from a view of which it holds the memtables, and the tables with
/// keys in the range. Each step may read blocks, and wait for them.
pub struct TreeScan {
    entries: Entries,
    /// Told after the pairs that came before it.
    failed: Option<Error>,
    /// Keeps the files of the tables that are walked; the runs' cursors keep theirs.
    _l0: Vec<Arc<TableHandle>>,
}

/// What is walked: nearly all views hold no range deletes, and their entries are not looked at for them.
#[expect(clippy::large_enum_variant, reason = "most are plain, and do without an allocation")]
enum Entries {
    Plain(VisibleCursor<MergeCursor<SourceCursor>>),
    Masked(Box<VisibleCursor<MergeCursor<MaskedCursor>>>),
}

impl TreeScan {
    pub(super) fn new(view: &ReadView, range: &KeyRange, reverse: bool, point: ReadPoint) -> Self {
        let l0: Vec<_> = view.version.l0().filter(|table| table.record().is_in(range)).cloned().collect();
        let sources = sources_of(view, &l0, range);
        let range = range.clone();
        let entries = if view.has_range_deletes() {
            let (cursors, deletes): (Vec<_>, Vec<_>) = sources.unzip();
            let mask = Arc::new(Mask { sources: deletes, at: point.at });
            let masked = cursors.into_iter().enumerate();
            let masked = masked.map(|(place, cursor)| MaskedCursor::new(cursor, Arc::clone(&mask), place));
            Entries::Masked(Box::new(VisibleCursor::new(MergeCursor::new(masked), range, reverse, point)))
        } else {
            let cursors = sources.map(|(cursor, _)| cursor);
            Entries::Plain(VisibleCursor::new(MergeCursor::new(cursors), range, reverse, point))
        };
        Self { entries, failed: None, _l0: l0 }
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
        let filled = match &mut self.entries {
            Entries::Plain(entries) => entries.fill(&mut batch),
            Entries::Masked(entries) => entries.fill(&mut batch),
        };
        let batch = batch.finish();
        match filled {
            Err(error) if batch.is_empty() => return Err(error),
            Err(error) => self.failed = Some(error),
            Ok(()) => {}
        }
        Ok(batch)
    }
}

/// The sources of a view that may have keys in a range, the newest first, and where their range deletes are.
fn sources_of(
    view: &ReadView,
    l0: &[Arc<TableHandle>],
    range: &KeyRange,
) -> impl Iterator<Item = (SourceCursor, Option<DeleteSource>)> {
    let memtables = std::iter::once(&view.active).chain(view.sealed.iter().map(|sealed| &sealed.memtable));
    let memtables = memtables.filter(|memtable| !memtable.is_empty()).map(|memtable| {
        // IMPORTANT: the range deletes first; see `Memtable::get`.
        let deletes = memtable.range_deletes().map(DeleteSource::Memtable);
        (SourceCursor::Memtable(memtable.cursor()), deletes)
    });
    let l0 = l0.iter().map(|table| {
        let deletes =
            (table.record().range_deletes > 0).then(|| DeleteSource::Tables([Arc::clone(table)].into()));
        (SourceCursor::Table(table.table().cursor(CursorSource::Cached)), deletes)
    });
    let runs = view.version.runs().filter(|run| !run.tables().is_empty()).map(|run| {
        let deleting = run.deleting();
        let deletes = (!deleting.is_empty()).then(|| DeleteSource::Tables(Arc::clone(deleting)));
        let cursor = RunCursor::new(run.within(range), CursorSource::Cached);
        (SourceCursor::Run(cursor), deletes)
    });
    memtables.chain(l0).chain(runs)
}
