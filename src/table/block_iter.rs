//! Walks the entries of one data block, both ways, with whole keys.

use std::ops::Range;

use super::block::{Block, Damage};
use crate::{
    entry::{Entry, ValueKind},
    ids::SeqNo,
};

/// Stands on one entry of a block.
#[derive(Debug)]
pub(super) struct BlockIter {
    block: Block,
    number: usize,
    key: Vec<u8>,
    /// The number of the restart point whose key `restart_key` is.
    restart: usize,
    restart_key: Vec<u8>,
    seqno: SeqNo,
    kind: ValueKind,
    expires_at_ms: Option<u64>,
    value: Range<usize>,
}

impl BlockIter {
    /// Stands on the entry `number` of `block`, which exists.
    pub(super) fn new(block: Block, number: usize) -> Result<Self, Damage> {
        let mut iter = Self {
            block,
            number,
            key: vec![],
            restart: usize::MAX,
            restart_key: vec![],
            seqno: SeqNo(0),
            kind: ValueKind::Delete,
            expires_at_ms: None,
            value: 0..0,
        };
        iter.read(number)?;
        Ok(iter)
    }

    /// The same, with the buffers of `self`.
    pub(super) fn replace_block(&mut self, block: Block, number: usize) -> Result<(), Damage> {
        self.block = block;
        self.restart = usize::MAX;
        self.read(number)
    }

    pub(super) const fn block(&self) -> &Block {
        &self.block
    }

    pub(super) const fn number(&self) -> usize {
        self.number
    }

    /// Moves one entry on; false, and nothing moved, at the end.
    pub(super) fn next(&mut self) -> Result<bool, Damage> {
        let next = self.number + 1;
        if next == self.block.entries() {
            return Ok(false);
        }
        self.read(next).map(|()| true)
    }

    /// Moves one entry back; false, and nothing moved, at the start.
    pub(super) fn prev(&mut self) -> Result<bool, Damage> {
        let Some(prev) = self.number.checked_sub(1) else { return Ok(false) };
        self.read(prev).map(|()| true)
    }

    pub(super) fn entry(&self) -> Entry<'_> {
        Entry {
            key: &self.key,
            seqno: self.seqno,
            kind: self.kind,
            expires_at_ms: self.expires_at_ms,
            value: self.block.value(self.value.clone()),
        }
    }

    fn read(&mut self, number: usize) -> Result<(), Damage> {
        let raw = self.block.entry(number)?;
        let restart = self.block.restart_of(number);
        if restart != self.restart {
            self.restart_key.clear();
            self.restart_key.extend_from_slice(self.block.restart_key(number)?);
            self.restart = restart;
        }
        let shared = self.restart_key.get(..raw.shared).ok_or("an entry that shares more than there is")?;
        self.key.clear();
        self.key.extend_from_slice(shared);
        self.key.extend_from_slice(raw.unshared);
        self.seqno = raw.seqno;
        self.kind = raw.kind;
        self.expires_at_ms = raw.expires_at_ms;
        self.value = Block::value_range(&raw);
        self.number = number;
        Ok(())
    }
}
