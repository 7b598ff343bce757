//! Cursors that can hand out whole blocks of tables, for a merge that copies what it does not change.

use crate::{
    entry::Cursor,
    error::Result,
    memtable::MemtableCursor,
    table::{TableCursor, WholeBlock},
};

/// A cursor over entries of which some lie in blocks.
pub(super) trait BlockCursor: Cursor {
    /// A key at or behind all entries of the block that it stands on the first entry of, and before all others that
    /// are still to come, but for older versions of the block's last key right behind it; nothing if there is no such
    /// block.
    fn block_bound(&self) -> Option<&[u8]> {
        None
    }

    /// The block that it stands in.
    fn whole_block(&self) -> Option<WholeBlock> {
        None
    }

    /// Moves behind the last entry of the block that it stands in.
    ///
    /// # Errors
    /// As [`Cursor::next`]'s.
    fn skip_block(&mut self) -> Result<()> {
        Ok(())
    }
}

impl BlockCursor for MemtableCursor {}

impl BlockCursor for TableCursor {
    #[inline]
    fn block_bound(&self) -> Option<&[u8]> {
        self.block_bound()
    }

    fn whole_block(&self) -> Option<WholeBlock> {
        self.whole_block()
    }

    fn skip_block(&mut self) -> Result<()> {
        self.skip_block()
    }
}
