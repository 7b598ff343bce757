//! The sparse index: for each data block, where it ends and a separator: a key at or behind the block's last
//! key and before the next block's first one (the same key, if its versions go on in the next block).
//!
//! The part of the file is one record (`codec::record`, kind 2), its body the archive of `IndexArchive`.

use std::path::Path;

use rkyv::{Archive, Serialize};

use super::{
    block_builder::common_prefix,
    heads::Heads,
    metadata::{Part, put_part_record, read_part_record},
};
use crate::{
    codec::archive::{OwnedArchive, to_archive},
    error::{Error, Result},
};

const RECORD_KIND: u8 = 2;

#[derive(Archive, Serialize, Default, Debug)]
struct IndexArchive {
    /// Where each block ends in the file; the first begins at 0.
    block_ends: Vec<u64>,
    /// Where each separator ends in `separators`.
    separator_ends: Vec<u32>,
    separators: Vec<u8>,
}

/// Collects the index while the blocks are written.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    archive: IndexArchive,
}

impl IndexBuilder {
    /// Adds the next block, which ends at `block_end` of the file with `last` key; `next` is the first key of the
    /// block behind it, if there is one.
    ///
    /// # Errors
    /// `Invalid` when the separators of one table exceed 2 GiB.
    pub(super) fn add(&mut self, block_end: u64, last: &[u8], next: Option<&[u8]>) -> Result<()> {
        put_separator(&mut self.archive.separators, last, next);
        let end = u32::try_from(self.archive.separators.len())
            .ok()
            .filter(|end| *end <= u32::MAX / 2)
            .ok_or_else(|| Error::invalid("the keys of one table's index exceed 2 GiB"))?;
        self.archive.block_ends.push(block_end);
        self.archive.separator_ends.push(end);
        Ok(())
    }

    /// Appends the index's part of the file to `out`.
    pub(super) fn put(&self, out: &mut Vec<u8>, seed: u64) -> Result<()> {
        put_part_record(out, RECORD_KIND, seed, &to_archive(&self.archive)?)
    }
}

/// Appends a short key that is at or behind `last` and before `next`.
fn put_separator(out: &mut Vec<u8>, last: &[u8], next: Option<&[u8]>) {
    let next = next.unwrap_or(last);
    let common = common_prefix(last, next);
    let (Some(a), Some(b)) = (last.get(common), next.get(common)) else {
        out.extend_from_slice(last);
        return;
    };
    if next.len() > common + 1 {
        out.extend_from_slice(next.get(..=common).unwrap_or_default());
    } else if b - a > 1 {
        out.extend_from_slice(last.get(..common).unwrap_or_default());
        out.push(a + 1);
    } else {
        out.extend_from_slice(last);
    }
}

/// Finds the block of a key.
#[derive(Debug)]
pub(super) struct Index {
    block_ends: Box<[u64]>,
    /// What all separators begin with.
    prefix: Box<[u8]>,
    /// The eight bytes of each separator behind the prefix, as a number that orders like them.
    heads: Heads,
    separator_ends: Box<[u32]>,
    separators: Box<[u8]>,
}

impl Index {
    /// Reads what [`IndexBuilder::put`] wrote, from a part whose checksum held. The blocks fill the file
    /// up to `data_end`, in at least `min_block_bytes` each.
    pub(super) fn read(part: &Part<'_>, data_end: u64, min_block_bytes: u64, path: &Path) -> Result<Self> {
        let (body, rest) = read_part_record(part, RECORD_KIND, path)?;
        let archive = OwnedArchive::<IndexArchive>::check(body, path, part.offset)?;
        let archive = archive.get();
        let damaged = |what: &str| Error::corruption(path, part.offset, "an index in order", what);
        if !rest.is_empty() {
            return Err(damaged("bytes behind it"));
        }
        let mut end = 0;
        let mut block_ends = Vec::with_capacity(archive.block_ends.len());
        for next in archive.block_ends.iter().map(|end| end.to_native()) {
            if next > data_end || next < end + min_block_bytes {
                return Err(damaged("a block that does not follow the one before"));
            }
            end = next;
            block_ends.push(end);
        }
        if end != data_end || block_ends.len() != archive.separator_ends.len() {
            return Err(damaged("blocks that do not fill the file"));
        }
        let separator_ends: Box<[u32]> = archive.separator_ends.iter().map(|end| end.to_native()).collect();
        let mut index = Self {
            block_ends: block_ends.into(),
            prefix: Box::default(),
            heads: Heads::default(),
            separator_ends,
            separators: archive.separators.as_slice().into(),
        };
        index.check_separators().map_err(damaged)?;
        index.fill_heads();
        Ok(index)
    }

    /// How many blocks there are.
    pub(super) const fn blocks(&self) -> usize {
        self.block_ends.len()
    }

    /// Where a block lies: its offset and length.
    #[inline]
    pub(super) fn extent(&self, block: usize) -> Option<(u64, u64)> {
        let end = *self.block_ends.get(block)?;
        let start = match block.checked_sub(1) {
            None => 0,
            Some(before) => *self.block_ends.get(before)?,
        };
        Some((start, end - start))
    }

    /// The first block whose separator is at or behind `key`: where the key's newest version is, if anywhere.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let Some(rest) = key.strip_prefix(&*self.prefix) else {
            // Every separator begins with the prefix, so the key is before or behind all of them.
            return (key < &*self.prefix && self.blocks() > 0).then_some(0);
        };
        let head = head_of(rest);
        let first = self.heads.lower_bound(head);
        let is_told_by_head = self.heads.get(first) != Some(head);
        let block = if is_told_by_head { first } else { self.find_among_same_heads(first, head, key) };
        (block < self.blocks()).then_some(block)
    }

    /// The same among the blocks from `first` on whose separators have this head.
    fn find_among_same_heads(&self, first: usize, head: u64, key: &[u8]) -> usize {
        let behind = head.checked_add(1).map_or(self.blocks(), |next| self.heads.lower_bound(next));
        let (mut low, mut high) = (first, behind);
        while low < high {
            let middle = low.midpoint(high);
            if self.separator(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// A block's separator.
    pub(super) fn separator(&self, block: usize) -> &[u8] {
        let end = |block: usize| self.separator_ends.get(block).and_then(|end| usize::try_from(*end).ok());
        let start = block.checked_sub(1).map_or(Some(0), end);
        start.zip(end(block)).and_then(|(start, end)| self.separators.get(start..end)).unwrap_or_default()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.block_ends.len() * 8
            + self.heads.memory_bytes()
            + self.separator_ends.len() * 4
            + self.separators.len()
            + self.prefix.len()
    }

    fn check_separators(&self) -> Result<(), &'static str> {
        let mut last = 0;
        for end in &self.separator_ends {
            if *end < last {
                return Err("separators that overlap");
            }
            last = *end;
        }
        if u64::from(last) != self.separators.len() as u64 {
            return Err("separators of another length");
        }
        for block in 1..self.blocks() {
            if self.separator(block - 1) > self.separator(block) {
                return Err("separators out of order");
            }
        }
        Ok(())
    }

    fn fill_heads(&mut self) {
        let Some(last) = self.blocks().checked_sub(1) else { return };
        // In order, so what the first and the last have in common all have.
        let common = common_prefix(self.separator(0), self.separator(last));
        self.prefix = self.separator(0).get(..common).unwrap_or_default().into();
        let heads = (0..=last).map(|block| head_of(self.separator(block).get(common..).unwrap_or_default()));
        self.heads = Heads::new(&heads.collect::<Vec<_>>());
    }
}

/// The first eight bytes as a number that orders like them; a shorter key is filled up with zeroes.
#[inline]
fn head_of(bytes: &[u8]) -> u64 {
    if let Some(head) = bytes.first_chunk::<8>() {
        return u64::from_be_bytes(*head);
    }
    bytes
        .iter()
        .zip([56, 48, 40, 32, 24, 16, 8])
        .fold(0, |head, (byte, shift)| head | u64::from(*byte) << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn separators_are_short_and_between() {
        for (last, next, expected) in [
            ("abc", Some("abf"), "abd"),
            ("abc", Some("abd"), "abc"),
            ("abcxyz", Some("abdxyz"), "abd"),
            ("ab", Some("abc"), "ab"),
            ("abc", Some("abc"), "abc"),
            ("abc", None, "abc"),
        ] {
            let mut out = vec![];
            put_separator(&mut out, last.as_bytes(), next.map(str::as_bytes));
            assert_eq!(out, expected.as_bytes(), "{last} {next:?}");
        }
    }

    fn index_of(keys: &[Vec<u8>]) -> Index {
        let mut builder = IndexBuilder::default();
        for (i, last) in keys.iter().enumerate() {
            builder.add((i as u64 + 1) * 100, last, keys.get(i + 1).map(Vec::as_slice)).unwrap();
        }
        let mut out = vec![];
        builder.put(&mut out, 1).unwrap();
        let part = Part { bytes: &out, offset: 0, seed: 1 };
        Index::read(&part, keys.len() as u64 * 100, 10, Path::new("t")).unwrap()
    }

    proptest! {
        /// One block for each key: a key is in the block that the index names, and no other.
        #[test]
        fn every_key_is_found(
            mut keys in prop::collection::vec("[ab]{0,12}|[\u{0}-\u{3}]{1,3}", 1..40),
            probe in "[ab]{0,13}|[\u{0}-\u{3}]{1,3}",
        ) {
            keys.sort_unstable();
            keys.dedup();
            let keys: Vec<Vec<u8>> = keys.into_iter().map(String::into_bytes).collect();
            let index = index_of(&keys);
            prop_assert_eq!(index.blocks(), keys.len());
            for (i, key) in keys.iter().enumerate() {
                prop_assert_eq!(index.find(key), Some(i));
                prop_assert_eq!(index.extent(i), Some((i as u64 * 100, 100)));
            }
            let expected = (0..keys.len()).find(|i| index.separator(*i) >= probe.as_bytes());
            prop_assert_eq!(index.find(probe.as_bytes()), expected);
        }
    }

    #[test]
    fn an_index_that_does_not_fill_the_file_is_corruption() {
        let mut builder = IndexBuilder::default();
        builder.add(100, b"a", None).unwrap();
        let mut out = vec![];
        builder.put(&mut out, 1).unwrap();
        let part = Part { bytes: &out, offset: 7, seed: 1 };
        for (data_end, min) in [(99, 1), (101, 1), (100, 101)] {
            let error = Index::read(&part, data_end, min, Path::new("t")).unwrap_err();
            assert_eq!(error.corruption_at().unwrap().offset, 7);
        }
    }
}
