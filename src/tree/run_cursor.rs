//! The cursor over a sorted run: over its tables one after the other, opened when they are reached.

use std::sync::Arc;

use super::{block_cursor::BlockCursor, handle::TableHandle};
use crate::{
    entry::{Cursor, Entry},
    error::Result,
    table::{CursorSource, TableCursor, WholeBlock},
};

pub(super) struct RunCursor {
    tables: Arc<[Arc<TableHandle>]>,
    source: CursorSource,
    /// The table it stands in, and its cursor.
    current: Option<(usize, TableCursor)>,
}

impl RunCursor {
    pub(super) const fn new(tables: Arc<[Arc<TableHandle>]>, source: CursorSource) -> Self {
        Self { tables, source, current: None }
    }

    /// Goes to a table with `seek`; nowhere if there is none.
    fn enter(
        &mut self,
        place: Option<usize>,
        seek: impl FnOnce(&mut TableCursor) -> Result<()>,
    ) -> Result<()> {
        let same = self.current.take().filter(|(current, _)| Some(*current) == place);
        let Some(place) = place else { return Ok(()) };
        let Some(table) = self.tables.get(place) else { return Ok(()) };
        let mut cursor = same.map_or_else(|| table.table().cursor(self.source.clone()), |(_, cursor)| cursor);
        seek(&mut cursor)?;
        self.current = Some((place, cursor));
        Ok(())
    }

    /// Goes to the first entry of the next table that has one, as long as it stands behind the last of its own: a
    /// table's range deletes may reach further than its entries.
    fn settle_forward(&mut self) -> Result<()> {
        while let Some((place, cursor)) = &self.current
            && cursor.entry().is_none()
        {
            let next = *place + 1;
            self.enter(Some(next), Cursor::seek_first)?;
        }
        Ok(())
    }

    /// The same backward.
    fn settle_backward(&mut self) -> Result<()> {
        while let Some((place, cursor)) = &self.current
            && cursor.entry().is_none()
        {
            let before = place.checked_sub(1);
            self.enter(before, Cursor::seek_last)?;
        }
        Ok(())
    }

    /// Moves forward inside the table by `step`, and to the next table from its end; whether it left the table.
    #[inline]
    fn forward(&mut self, step: impl FnOnce(&mut TableCursor) -> Result<()>) -> Result<bool> {
        let Some((_, cursor)) = &mut self.current else { return Ok(false) };
        let stepped = step(cursor);
        if stepped.is_ok() && cursor.entry().is_some() {
            return Ok(false);
        }
        if let Err(error) = stepped {
            self.current = None;
            return Err(error);
        }
        self.settle_forward().map(|()| true)
    }
}

impl BlockCursor for RunCursor {
    #[inline]
    fn block_bound(&self) -> Option<&[u8]> {
        self.current.as_ref()?.1.block_bound()
    }

    fn whole_block(&self) -> Option<WholeBlock> {
        self.current.as_ref()?.1.whole_block()
    }

    fn skip_block(&mut self) -> Result<()> {
        self.forward(TableCursor::skip_block).map(drop)
    }
}

impl Cursor for RunCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.enter(Some(0), Cursor::seek_first)?;
        self.settle_forward()
    }

    fn seek_last(&mut self) -> Result<()> {
        self.enter(self.tables.len().checked_sub(1), Cursor::seek_last)?;
        self.settle_backward()
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        let place = self.tables.partition_point(|table| table.record().ends_before(key));
        self.enter(Some(place), |cursor| cursor.seek(key))?;
        self.settle_forward()
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        let behind = self.tables.partition_point(|table| table.record().min_key < key);
        self.enter(behind.checked_sub(1), |cursor| cursor.seek_before(key))?;
        self.settle_backward()
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        self.forward(Cursor::next).map(drop)
    }

    #[inline]
    fn walk(&mut self, take: &mut impl FnMut(&Entry<'_>) -> bool) -> Result<()> {
        while self.forward(|cursor| cursor.walk(take))? {}
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        let Some((_, cursor)) = &mut self.current else { return Ok(()) };
        if let Err(error) = cursor.prev() {
            self.current = None;
            return Err(error);
        }
        self.settle_backward()
    }

    #[inline]
    fn entry(&self) -> Option<Entry<'_>> {
        self.current.as_ref()?.1.entry()
    }

    #[inline]
    fn key(&self) -> Option<&[u8]> {
        self.current.as_ref()?.1.key()
    }
}
