//! A cursor over a sorted vector, for the tests of what walks cursors.

use crate::{
    entry::{Cursor, Entry, ValueKind},
    error::Result,
    ids::SeqNo,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnedVersion {
    pub(super) key: Vec<u8>,
    pub(super) seqno: u64,
    pub(super) value: Option<Vec<u8>>,
    pub(super) expires: Option<u64>,
}

impl OwnedVersion {
    pub(super) fn entry(&self) -> Entry<'_> {
        Entry {
            key: &self.key,
            seqno: SeqNo(self.seqno),
            kind: if self.value.is_some() { ValueKind::Put } else { ValueKind::Delete },
            expires_at_ms: self.expires,
            value: self.value.as_deref().unwrap_or_default(),
        }
    }
}

/// A version of a key; without a value it is a tombstone.
pub(super) fn version(key: &[u8], seqno: u64, value: Option<&[u8]>) -> OwnedVersion {
    OwnedVersion { key: key.to_vec(), seqno, value: value.map(<[u8]>::to_vec), expires: None }
}

#[derive(Debug)]
pub(super) struct VecCursor {
    entries: Vec<OwnedVersion>,
    place: Option<usize>,
}

impl VecCursor {
    pub(super) fn new(mut entries: Vec<OwnedVersion>) -> Self {
        entries.sort_by(|a, b| a.entry().storage_order(&b.entry()));
        Self { entries, place: None }
    }
}

impl Cursor for VecCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.place = (!self.entries.is_empty()).then_some(0);
        Ok(())
    }

    fn seek_last(&mut self) -> Result<()> {
        self.place = self.entries.len().checked_sub(1);
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.place = self.entries.iter().position(|entry| &entry.key[..] >= key);
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.place = self.entries.iter().rposition(|entry| &entry.key[..] < key);
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.place = self.place.map(|place| place + 1).filter(|place| *place < self.entries.len());
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.place = self.place.and_then(|place| place.checked_sub(1));
        Ok(())
    }

    fn entry(&self) -> Option<Entry<'_>> {
        self.place.map(|place| self.entries[place].entry())
    }
}
