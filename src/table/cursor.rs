//! Walks a table's entries in storage order, both ways.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    block::{Block, Damage, EntryPlace},
    block_iter::BlockIter,
    metadata::read_range_into,
    pace::Pace,
    stored_block::{CheckedBlock, check_stored_block},
    table::{Loaded, Table},
    whole_block::WholeBlock,
};
use crate::{
    entry::{Cursor, Entry},
    error::{Error, Result},
    storage::StorageFile,
};

/// How much is read, and paid for, at once in the background.
const READ_AHEAD_BYTES: u64 = 256 << 10;

/// A chunk's memory is used again unless a huge block has made it larger than this.
const MAX_KEPT_BYTES: usize = 512 << 10;

/// Where a cursor gets its blocks from.
#[derive(Clone)]
pub enum CursorSource {
    /// A user's scan: through the block cache.
    Cached,
    /// Background work: from the file in large chunks that are paid for, past the block cache.
    Background(Arc<dyn Pace>),
}

/// A cursor over one table.
pub struct TableCursor {
    table: Arc<Table>,
    /// The table's metadata, from the first use on.
    loaded: Option<Arc<Loaded>>,
    chunks: Option<ChunkReader>,
    iter: Option<BlockIter>,
    block: usize,
    stands: bool,
}

/// The way a cursor moves, and so what is read ahead.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

impl TableCursor {
    pub(super) const fn new(table: Arc<Table>, chunks: Option<ChunkReader>) -> Self {
        Self { table, loaded: None, chunks, iter: None, block: 0, stands: false }
    }

    fn load(&mut self) -> Result<Arc<Loaded>> {
        if let Some(loaded) = &self.loaded {
            return Ok(Arc::clone(loaded));
        }
        let loaded = match &self.chunks {
            Some(chunks) => self.table.load_paced(&*chunks.pace)?,
            None => self.table.load()?,
        };
        Ok(Arc::clone(self.loaded.insert(loaded)))
    }

    /// Stands on the first or, going backward, the last entry of a block; nowhere if there is no such block.
    fn enter(&mut self, number: Option<usize>, direction: Direction) -> Result<()> {
        let loaded = &*self.load()?;
        let Some(number) = number.filter(|number| *number < loaded.metadata.index.blocks()) else {
            return Ok(());
        };
        let block = self.fetch(loaded, number, direction)?;
        if direction == Direction::Forward && self.chunks.is_none() {
            loaded.slots.prefetch_block(number + 1);
        }
        let entry = match direction {
            Direction::Forward => block.view().place(0),
            Direction::Backward => block.view().place(block.view().entries() - 1),
        };
        let entry = entry.map_err(|damage| self.table.damaged_block(loaded, number, damage))?;
        self.stand(loaded, number, block, entry)
    }

    fn stand(&mut self, loaded: &Loaded, number: usize, block: Block, entry: EntryPlace) -> Result<()> {
        let stood = match &mut self.iter {
            Some(iter) => iter.replace_block(block, entry),
            None => BlockIter::new(block, entry).map(|iter| self.iter = Some(iter)),
        };
        stood.map_err(|damage| self.table.damaged_block(loaded, number, damage))?;
        self.block = number;
        self.stands = true;
        Ok(())
    }

    fn fetch(&mut self, loaded: &Loaded, number: usize, direction: Direction) -> Result<Block> {
        match &mut self.chunks {
            None => self.table.cached_block(loaded, number),
            Some(chunks) => chunks.block(&self.table, loaded, number, direction).map(|(block, _)| block),
        }
    }

    /// Moves inside the block by `step`; the result is `step`'s.
    #[inline]
    fn step(&mut self, step: fn(&mut BlockIter) -> Result<bool, Damage>) -> Result<bool> {
        let Some(iter) = &mut self.iter else { return Ok(false) };
        step(iter).or_else(|damage| self.fail(damage))
    }

    /// The block that it stands in is damaged; it stands nowhere from now on.
    #[cold]
    fn fail<T>(&mut self, damage: Damage) -> Result<T> {
        self.stands = false;
        let loaded = self.load()?;
        Err(self.table.damaged_block(&loaded, self.block, damage))
    }

    /// A key at or behind all entries of the block that it stands on the first entry of; nothing if it stands
    /// elsewhere, or reads through the cache.
    #[inline]
    pub fn block_bound(&self) -> Option<&[u8]> {
        let begins = self.stands && self.chunks.is_some() && self.iter.as_ref()?.place().number == 0;
        self.loaded.as_ref().filter(|_| begins).map(|loaded| loaded.metadata.index.separator(self.block))
    }

    /// The block that it stands in, unless it reads through the cache.
    pub fn whole_block(&self) -> Option<WholeBlock> {
        if !self.stands {
            return None;
        }
        let (stored, checked) = self.chunks.as_ref()?.last.clone()?;
        let loaded = Arc::clone(self.loaded.as_ref()?);
        let block = self.iter.as_ref()?.block().clone();
        Some(WholeBlock {
            table: Arc::clone(&self.table),
            loaded,
            number: self.block,
            stored,
            checked,
            block,
        })
    }

    /// Moves to the first entry of the next block.
    ///
    /// # Errors
    /// As [`Cursor::next`]'s.
    pub fn skip_block(&mut self) -> Result<()> {
        self.stands = false;
        self.enter(Some(self.block + 1), Direction::Forward)
    }

    /// The block that holds the first key at or behind `key`, or ends before it, and that entry if it is there.
    fn locate(
        &mut self,
        loaded: &Loaded,
        key: &[u8],
        direction: Direction,
    ) -> Result<Option<(usize, Block, Option<EntryPlace>)>> {
        let index = &loaded.metadata.index;
        let number = match (index.find(key), direction) {
            (Some(number), _) => number,
            (None, Direction::Forward) => return Ok(None),
            (None, Direction::Backward) => match index.blocks().checked_sub(1) {
                Some(last) => last,
                // It holds range deletes only.
                None => return Ok(None),
            },
        };
        let block = self.fetch(loaded, number, direction)?;
        if direction == Direction::Forward && self.chunks.is_none() {
            loaded.slots.prefetch_block(number + 1);
        }
        let entry = block
            .view()
            .lower_bound(key)
            .map_err(|damage| self.table.damaged_block(loaded, number, damage))?;
        Ok(Some((number, block, entry)))
    }
}

impl Cursor for TableCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.stands = false;
        self.enter(Some(0), Direction::Forward)
    }

    fn seek_last(&mut self) -> Result<()> {
        self.stands = false;
        let last = self.load()?.metadata.index.blocks().checked_sub(1);
        self.enter(last, Direction::Backward)
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.stands = false;
        let loaded = &*self.load()?;
        let Some((number, block, entry)) = self.locate(loaded, key, Direction::Forward)? else {
            return Ok(());
        };
        match entry {
            Some(entry) => self.stand(loaded, number, block, entry),
            None => self.enter(Some(number + 1), Direction::Forward),
        }
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.stands = false;
        let loaded = &*self.load()?;
        let Some((number, block, entry)) = self.locate(loaded, key, Direction::Backward)? else {
            return Ok(());
        };
        let Some(before) = entry.map_or(block.view().entries(), |entry| entry.number).checked_sub(1) else {
            return self.enter(number.checked_sub(1), Direction::Backward);
        };
        let before =
            block.view().place(before).map_err(|damage| self.table.damaged_block(loaded, number, damage))?;
        self.stand(loaded, number, block, before)
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        if !self.stands || self.step(BlockIter::next)? {
            return Ok(());
        }
        self.skip_block()
    }

    #[inline]
    fn walk(&mut self, take: &mut impl FnMut(&Entry<'_>) -> bool) -> Result<()> {
        while let Some(iter) = self.iter.as_mut().filter(|_| self.stands) {
            if iter.walk(take).or_else(|damage| self.fail(damage))? {
                break;
            }
            self.skip_block()?;
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if !self.stands || self.step(BlockIter::prev)? {
            return Ok(());
        }
        self.stands = false;
        self.enter(self.block.checked_sub(1), Direction::Backward)
    }

    #[inline]
    fn entry(&self) -> Option<Entry<'_>> {
        self.iter.as_ref().filter(|_| self.stands).map(BlockIter::entry)
    }

    #[inline]
    fn key(&self) -> Option<&[u8]> {
        self.iter.as_ref().filter(|_| self.stands).map(BlockIter::key)
    }
}

/// Reads blocks in chunks of many.
pub(super) struct ChunkReader {
    pace: Arc<dyn Pace>,
    file: Option<Arc<dyn StorageFile>>,
    chunk: Bytes,
    chunk_offset: u64,
    /// The block that was read last, as it is stored.
    last: Option<(Bytes, CheckedBlock)>,
}

impl ChunkReader {
    pub(super) const fn new(pace: Arc<dyn Pace>) -> Self {
        Self { pace, file: None, chunk: Bytes::new(), chunk_offset: 0, last: None }
    }

    /// A block of `table`, which is the same in every call, and its checksum.
    pub(super) fn block(
        &mut self,
        table: &Table,
        loaded: &Loaded,
        number: usize,
        direction: Direction,
    ) -> Result<(Block, u64)> {
        let Some((offset, len)) = loaded.metadata.index.extent(number) else {
            return Err(Error::internal("a block behind the last one"));
        };
        let stored = if let Some(stored) = self.part_of_chunk(offset, len) {
            stored
        } else {
            self.read_chunk(table, loaded, number, direction)?;
            self.part_of_chunk(offset, len)
                .ok_or_else(|| Error::internal("a chunk without the block it was read for"))?
        };
        let checked = check_stored_block(&stored, table.id().checksum_seed(offset));
        let block = checked.and_then(|checked| {
            let block = Block::read(checked.content_in(stored.clone())?)?;
            self.last = Some((stored, checked));
            Ok((block, checked.checksum()))
        });
        block.map_err(|damage| table.damaged_block(loaded, number, damage))
    }

    fn part_of_chunk(&self, offset: u64, len: u64) -> Option<Bytes> {
        let start = usize::try_from(offset.checked_sub(self.chunk_offset)?).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (end <= self.chunk.len()).then(|| self.chunk.slice(start..end))
    }

    /// Reads the block and those that come next in the direction, up to a chunk's size.
    fn read_chunk(
        &mut self,
        table: &Table,
        loaded: &Loaded,
        number: usize,
        direction: Direction,
    ) -> Result<()> {
        let index = &loaded.metadata.index;
        let (mut start, len) = index.extent(number).unwrap_or_default();
        let mut end = start + len;
        let mut next = number;
        loop {
            let step = match direction {
                Direction::Forward => next.checked_add(1),
                Direction::Backward => next.checked_sub(1),
            };
            let Some((offset, len)) = step.and_then(|step| index.extent(step)) else { break };
            if end.max(offset + len) - start.min(offset) > READ_AHEAD_BYTES {
                break;
            }
            (start, end) = (start.min(offset), end.max(offset + len));
            next = step.unwrap_or(next);
        }
        self.pace.pay(end - start)?;
        self.last = None;
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(table.file()?),
        };
        // NOTE: the old chunk's memory is the new one's, unless a block that is still looked at lies in it.
        let memory = std::mem::take(&mut self.chunk).try_into_mut().map_or_else(|_| Vec::new(), Vec::from);
        let memory = if memory.capacity() > MAX_KEPT_BYTES { Vec::new() } else { memory };
        self.chunk = Bytes::from(read_range_into(memory, &**file, table.path(), start, end - start)?);
        self.chunk_offset = start;
        Ok(())
    }
}

impl Table {
    /// A cursor over the whole table. Stands nowhere yet, and has read nothing.
    pub fn cursor(self: &Arc<Self>, source: CursorSource) -> TableCursor {
        let chunks = match source {
            CursorSource::Cached => None,
            CursorSource::Background(pace) => Some(ChunkReader::new(pace)),
        };
        TableCursor::new(Arc::clone(self), chunks)
    }
}
