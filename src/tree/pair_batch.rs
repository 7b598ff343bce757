//! Pairs of keys and values as a scan hands them out: copied out of blocks and memtables into one piece of memory
//! for many of them, so that a small pair costs no allocation of its own.

use bytes::Bytes;

use crate::key::key_prefix;

/// A batch of more than one pair holds at most so many bytes.
const MAX_BYTES: usize = 16 << 10;
/// A key beside a value from this size on does not keep the value's memory.
const LARGE_VALUE_BYTES: usize = 4 << 10;

/// Some pairs in the order of a scan. A key or value that is kept keeps the memory of its batch: at most 16 KiB, or a
/// single pair.
#[derive(Debug, Default)]
pub struct PairBatch {
    bytes: Bytes,
    pairs: Vec<PairSpan>,
}

/// Where a pair lies in its batch.
#[derive(Clone, Copy, Debug)]
struct PairSpan {
    /// The first bytes of the key; see [`key_prefix`].
    prefix: u64,
    start: usize,
    key_end: usize,
    end: usize,
}

impl PairBatch {
    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// A pair's key and its first bytes, as a number that orders like them; `None` behind the last pair.
    #[inline]
    pub fn key(&self, number: usize) -> Option<(u64, &[u8])> {
        let span = self.pairs.get(number)?;
        Some((span.prefix, self.bytes.get(span.start..span.key_end)?))
    }

    /// A pair in place; `None` behind the last one.
    #[inline]
    pub fn pair_in_place(&self, number: usize) -> Option<(&[u8], &[u8])> {
        let span = self.pairs.get(number)?;
        self.bytes.get(span.start..span.end)?.split_at_checked(span.key_end - span.start)
    }

    /// A pair, sharing the batch's memory; `None` behind the last one.
    #[inline]
    pub fn pair(&self, number: usize) -> Option<(Bytes, Bytes)> {
        let span = self.pairs.get(number)?;
        let value = self.bytes.slice(span.key_end..span.end);
        if value.len() >= LARGE_VALUE_BYTES {
            let key = self.bytes.get(span.start..span.key_end)?;
            return Some((Bytes::copy_from_slice(key), value));
        }
        Some((self.bytes.slice(span.start..span.key_end), value))
    }
}

/// Collects the pairs of a batch.
#[derive(Debug)]
pub(super) struct PairBatchBuilder {
    bytes: Vec<u8>,
    pairs: Vec<PairSpan>,
    most: usize,
}

impl PairBatchBuilder {
    /// For up to `most` pairs, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { bytes: Vec::new(), pairs: Vec::with_capacity(most.min(MAX_BYTES / 16)), most }
    }

    /// Whether it has as many pairs as were asked for.
    #[inline]
    pub(super) const fn is_complete(&self) -> bool {
        self.pairs.len() >= self.most
    }

    /// Whether a pair of so many bytes may come; any may be the first.
    #[inline]
    pub(super) fn has_room(&self, pair_bytes: usize) -> bool {
        self.pairs.is_empty() || (!self.is_complete() && self.bytes.len() + pair_bytes <= MAX_BYTES)
    }

    #[inline]
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        let (key_end, end) = (start + key.len(), start + key.len() + value.len());
        if self.bytes.capacity() < end {
            self.reserve(end - start);
        }
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.pairs.push(PairSpan { prefix: key_prefix(key), start, key_end, end });
    }

    /// The key of the last pair; empty before the first.
    #[inline]
    pub(super) fn last_key(&self) -> &[u8] {
        let span = self.pairs.last();
        span.and_then(|span| self.bytes.get(span.start..span.key_end)).unwrap_or_default()
    }

    /// Whether the last pair's key is this one.
    #[inline]
    pub(super) fn last_key_is(&self, key: &[u8]) -> bool {
        // NOTE: the prefixes tell most keys apart, without a call.
        self.pairs.last().is_some_and(|span| span.prefix == key_prefix(key)) && self.last_key() == key
    }

    pub(super) fn finish(mut self) -> PairBatch {
        if self.bytes.capacity() > 2 * self.bytes.len() {
            self.bytes.shrink_to_fit();
        }
        PairBatch { bytes: Bytes::from(self.bytes), pairs: self.pairs }
    }

    /// Makes room for as many pairs as are asked for, if they are all as long as this one.
    #[cold]
    fn reserve(&mut self, pair_bytes: usize) {
        let left = self.most.saturating_sub(self.pairs.len()).max(1);
        let all = pair_bytes.saturating_mul(left).min(MAX_BYTES);
        self.bytes.reserve(all.max(pair_bytes));
    }
}
