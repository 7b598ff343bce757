//! A data block of one table, to be taken into another as it is: nothing in it is compressed or laid out again.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    block::{Block, Damage, RawEntry},
    block_iter::BlockIter,
    options::TableOptions,
    stored_block::CheckedBlock,
    table::{Loaded, Table},
};
use crate::{
    entry::{Entry, ValueKind},
    error::{Error, Result},
    ids::SeqNo,
};

/// A block as it stands in its table's file, and its content.
pub struct WholeBlock {
    pub(super) table: Arc<Table>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) number: usize,
    /// With its trailer, whose checksum held.
    pub(super) stored: Bytes,
    pub(super) checked: CheckedBlock,
    pub(super) block: Block,
}

impl WholeBlock {
    /// How many entries it has.
    pub fn entries(&self) -> u64 {
        self.block.view().entries() as u64
    }

    /// Whether a table with these options can take it over as it is: a block that is laid out anew would look much the
    /// same, and it holds one version each of its keys, all of them puts that never expire, which any merge keeps.
    /// `keeps` says whether a sequence number stays as it is.
    ///
    /// # Errors
    /// `Corruption`.
    pub fn suits(&self, options: &TableOptions, keeps: impl Fn(SeqNo) -> bool) -> Result<bool> {
        let bytes = self.checked.raw_len();
        let is_sized =
            bytes >= options.block_bytes / 2 && (bytes <= options.block_bytes * 3 / 2 || self.entries() == 1);
        if self.checked.compression() != options.compression || !is_sized {
            return Ok(false);
        }
        let is_plain = |raw: &RawEntry<'_>| {
            raw.kind == ValueKind::Put && raw.expires_at_ms.is_none() && keeps(raw.seqno)
        };
        self.has_only_keys_of_one_version(is_plain).map_err(|damage| self.damaged(damage))
    }

    /// Out of order, they are none either: who adds them one by one says so.
    fn has_only_keys_of_one_version(&self, is_plain: impl Fn(&RawEntry<'_>) -> bool) -> Result<bool, Damage> {
        let view = self.block.view();
        let mut offset = view.place(0)?.offset;
        let mut last_suffix = None;
        for _ in 0..view.entries() {
            let raw = view.entry_at(offset)?;
            if !is_plain(&raw) || last_suffix.is_some_and(|last| last >= raw.suffix) {
                return Ok(false);
            }
            (offset, last_suffix) = (raw.end, Some(raw.suffix));
        }
        Ok(true)
    }

    fn damaged(&self, damage: Damage) -> Error {
        self.table.damaged_block(&self.loaded, self.number, damage)
    }

    /// Calls `see` with each entry in storage order.
    ///
    /// # Errors
    /// `Corruption`.
    pub(super) fn for_each(&self, mut see: impl FnMut(&Entry<'_>)) -> Result<()> {
        let damaged = |damage| self.damaged(damage);
        let first = self.block.view().place(0).map_err(damaged)?;
        let mut iter = BlockIter::new(self.block.clone(), first).map_err(damaged)?;
        loop {
            see(&iter.entry());
            if !iter.next().map_err(damaged)? {
                return Ok(());
            }
        }
    }
}
