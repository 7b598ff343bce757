//! A blocked Bloom filter: all bits of a key lie in one 64-byte line, so that a probe costs one cache miss
//! (Putze, Sanders, Singler: "Cache-, Hash- and Space-Efficient Bloom Filters").
//!
//! ```text
//! record   codec::record, kind 1, seeded; body: the archive of `FilterDirectory`
//! bits     lines × 64 bytes; bit b of a line is bit b % 8 of its byte b / 8
//! ```
//! A key's line is `mixed hash (high 32 bits) × lines >> 32`. Its bits follow from the low 32 bits h: the
//! i-th is the top nine bits of h × φⁱ, where φ is 0x9E3779B9.

use std::path::Path;

use rkyv::{Archive, Serialize};

use super::metadata::{Part, put_part_record, read_part_record};
use crate::{
    codec::archive::{OwnedArchive, to_archive},
    error::{Error, Result},
    key::KeyHash,
    memory::prefetch_lines,
};

/// The record kind of the filter's directory.
const RECORD_KIND: u8 = 1;
const LINE_BYTES: usize = 64;
const LINE_BITS: u64 = 512;
const MAX_PROBES: u32 = 24;

#[derive(Archive, Serialize)]
struct FilterDirectory {
    keys: u64,
    lines: u32,
    probes: u32,
}

/// One cache line of bits.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u64; 8]);

/// Says of a key that it is not in the table, or that it may be.
#[derive(Debug)]
pub(super) struct Filter {
    lines: Box<[Line]>,
    probes: u32,
}

impl Filter {
    /// The filter of these keys' hashes.
    pub(super) fn build(hashes: &[KeyHash], bits_per_key: u32) -> Self {
        let bits = (hashes.len() as u64).saturating_mul(u64::from(bits_per_key));
        let lines = bits.div_ceil(LINE_BITS).clamp(1, u64::from(u32::MAX));
        let lines = usize::try_from(lines).unwrap_or(usize::MAX);
        // The best number of probes is bits × ln 2; a little less, because lines fill unevenly.
        let probes = (bits_per_key * 6 / 10).clamp(1, MAX_PROBES);
        let mut filter = Self { lines: vec![Line([0; 8]); lines].into(), probes };
        for hash in hashes {
            filter.insert(*hash);
        }
        filter
    }

    /// Whether the key with this hash may be in the table.
    #[inline]
    pub(super) fn may_contain(&self, hash: KeyHash) -> bool {
        let Some(line) = self.lines.get(self.line_of(hash)) else { return true };
        bits_of(hash, self.probes).all(|(word, mask)| line.0.get(word).is_some_and(|word| word & mask != 0))
    }

    /// Asks for what [`Filter::may_contain`] looks at, and does not wait for it.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        prefetch_lines(self.lines.as_ptr().wrapping_add(self.line_of(hash)).cast(), 1);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES
    }

    /// Appends the filter's part of the file to `out`.
    pub(super) fn put(&self, out: &mut Vec<u8>, keys: u64, seed: u64) -> Result<()> {
        let lines = u32::try_from(self.lines.len()).expect("clamped by the constructor");
        let directory = FilterDirectory { keys, lines, probes: self.probes };
        put_part_record(out, RECORD_KIND, seed, &to_archive(&directory)?)?;
        out.reserve(self.memory_bytes());
        for word in self.lines.iter().flat_map(|line| line.0) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    /// Reads what [`Filter::put`] wrote, from a part whose checksum held.
    pub(super) fn read(part: &Part<'_>, path: &Path) -> Result<Self> {
        let (body, bits) = read_part_record(part, RECORD_KIND, path)?;
        let directory = OwnedArchive::<FilterDirectory>::check(body, path, part.offset)?;
        let directory = directory.get();
        let (lines, probes) = (directory.lines.to_native(), directory.probes.to_native());
        let expected = u64::from(lines) * LINE_BYTES as u64;
        if bits.len() as u64 != expected || lines == 0 {
            return Err(Error::corruption(
                path,
                part.offset,
                format_args!("{expected} bytes of filter, at least a line"),
                format_args!("{} bytes", bits.len()),
            ));
        }
        if !(1..=MAX_PROBES).contains(&probes) {
            return Err(Error::corruption(
                path,
                part.offset,
                format_args!("1 to {MAX_PROBES} probes of the filter"),
                probes,
            ));
        }
        let (lines, _) = bits.as_chunks::<LINE_BYTES>();
        let lines = lines.iter().map(|bytes| {
            let mut line = Line([0; 8]);
            for (word, bytes) in line.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            line
        });
        Ok(Self { lines: lines.collect(), probes })
    }

    fn insert(&mut self, hash: KeyHash) {
        let line = self.line_of(hash);
        let Some(line) = self.lines.get_mut(line) else { return };
        for (word, mask) in bits_of(hash, self.probes) {
            if let Some(word) = line.0.get_mut(word) {
                *word |= mask;
            }
        }
    }

    #[inline]
    fn line_of(&self, hash: KeyHash) -> usize {
        // NOTE: two numbers below 2³²; the upper half of their product is below the number of lines.
        (((hash.mixed() >> 32) * self.lines.len() as u64) >> 32) as usize
    }
}

/// The words of a line, and the bit in each, that a hash sets.
#[inline]
fn bits_of(hash: KeyHash, probes: u32) -> impl Iterator<Item = (usize, u64)> {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is used")]
    let mut h = hash.mixed() as u32;
    (0..probes).map(move |_| {
        h = h.wrapping_mul(0x9E37_79B9);
        let bit = h >> 23;
        ((bit >> 6) as usize, 1u64 << (bit & 63))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of keys that all fall into one shard.
    fn hashes_of_shard(shard: u32, shards: u32) -> impl Iterator<Item = KeyHash> {
        (0u64..).map(|i| KeyHash::of(&i.to_le_bytes(), 11)).filter(move |hash| hash.shard(shards) == shard)
    }

    #[test]
    fn one_shard_of_64_has_the_false_positive_rate_of_the_whole() {
        const KEYS: usize = 20_000;
        for shard in [0, 31, 63] {
            let mut hashes = hashes_of_shard(shard, 64);
            let inside: Vec<_> = hashes.by_ref().take(KEYS).collect();
            let filter = Filter::build(&inside, 10);
            assert!(inside.iter().all(|hash| filter.may_contain(*hash)));
            let wrong = hashes.take(KEYS).filter(|hash| filter.may_contain(*hash)).count();
            let permille = wrong * 1000 / KEYS;
            assert!((3..=15).contains(&permille), "shard {shard}: {permille} ‰");
        }
    }

    #[test]
    fn filters_come_back_from_their_bytes() {
        let hashes: Vec<_> = hashes_of_shard(0, 1).take(300).collect();
        let filter = Filter::build(&hashes, 10);
        let mut out = vec![];
        filter.put(&mut out, 300, 4).unwrap();
        let part = Part { bytes: &out, offset: 9, seed: 4 };
        let read = Filter::read(&part, Path::new("t")).unwrap();
        for hash in hashes_of_shard(0, 1).take(1000) {
            assert_eq!(read.may_contain(hash), filter.may_contain(hash));
        }
        let cut = Part { bytes: &out[..out.len() - 1], offset: 9, seed: 4 };
        assert_eq!(Filter::read(&cut, Path::new("t")).unwrap_err().corruption_at().unwrap().offset, 9);
    }
}
