//! A data block as it stands in the file: its content, compressed or not, and a trailer.
//!
//! ```text
//! content      as `block_builder` lays it out, or compressed
//! compression  1 byte   codec::compress
//! raw_len      u32      the content's length before it was compressed
//! checksum     u64      XXH3-64 over all of the above, seeded with the table's id and the block's offset
//! ```

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::options::MAX_BLOCK_BYTES;
use crate::{
    codec::compress::{Compression, Compressor},
    error::Result,
    key::{MAX_KEY_BYTES, MAX_VALUE_BYTES},
};

/// The length of the trailer in bytes.
pub(super) const TRAILER_BYTES: usize = 13;
const CHECKSUM_BYTES: usize = 8;
/// No content is longer: the largest entry, and what stands around it.
const MAX_RAW_BYTES: usize = MAX_VALUE_BYTES + MAX_KEY_BYTES + MAX_BLOCK_BYTES;

/// Appends `raw` to `out` as a stored block; returns its checksum.
///
/// # Errors
/// `Internal` when the compressor fails.
pub(super) fn put_stored_block(
    out: &mut Vec<u8>,
    raw: &[u8],
    compressor: &mut Compressor,
    seed: u64,
) -> Result<u64> {
    let start = out.len();
    let (used, content) = compressor.compress(raw)?;
    out.extend_from_slice(content);
    out.push(used.byte());
    let raw_len = u32::try_from(raw.len()).expect("a block is below 4 GiB: key and value are bounded");
    out.extend_from_slice(&raw_len.to_le_bytes());
    let checksum = xxh3_64_with_seed(out.get(start..).unwrap_or_default(), seed);
    out.extend_from_slice(&checksum.to_le_bytes());
    Ok(checksum)
}

/// Appends a stored block of another table, or of another place in this one, as it is but for its checksum, which is
/// returned.
pub(super) fn copy_stored_block(out: &mut Vec<u8>, stored: &[u8], seed: u64) -> u64 {
    let content = stored.split_last_chunk::<CHECKSUM_BYTES>().map_or(stored, |(content, _)| content);
    let checksum = xxh3_64_with_seed(content, seed);
    out.extend_from_slice(content);
    out.extend_from_slice(&checksum.to_le_bytes());
    checksum
}

/// A stored block whose checksum held.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckedBlock {
    compression: Compression,
    raw_len: usize,
    content_len: usize,
    checksum: u64,
}

/// Checks the trailer of a stored block.
///
/// # Errors
/// What is wrong, as a phrase for a corruption error.
pub(super) fn check_stored_block(stored: &[u8], seed: u64) -> Result<CheckedBlock, &'static str> {
    let (checked, stated) = stored.split_last_chunk::<CHECKSUM_BYTES>().ok_or("a block that ends early")?;
    let checksum = u64::from_le_bytes(*stated);
    if xxh3_64_with_seed(checked, seed) != checksum {
        return Err("a block with another checksum");
    }
    let (rest, raw_len) = checked.split_last_chunk::<4>().ok_or("a block that ends early")?;
    let (compression, content) = rest.split_last().ok_or("a block that ends early")?;
    let compression =
        Compression::from_byte(*compression).ok_or("a compression that this version does not know")?;
    let raw_len = usize::try_from(u32::from_le_bytes(*raw_len)).unwrap_or(usize::MAX);
    if raw_len > MAX_RAW_BYTES {
        return Err("a block that claims to be larger than any");
    }
    if compression == Compression::None && raw_len != content.len() {
        return Err("a block of another length");
    }
    Ok(CheckedBlock { compression, raw_len, content_len: content.len(), checksum })
}

impl CheckedBlock {
    /// The checksum in the trailer.
    pub(super) const fn checksum(self) -> u64 {
        self.checksum
    }

    /// How it is compressed.
    pub(super) const fn compression(self) -> Compression {
        self.compression
    }

    /// The content's length before it was compressed.
    pub(super) const fn raw_len(self) -> usize {
        self.raw_len
    }

    /// Writes the content of the block, from its stored form, to `content`, which is as long as it.
    ///
    /// # Errors
    /// What is wrong, as a phrase for a corruption error.
    pub(super) fn read_into(self, stored: &[u8], content: &mut [u8]) -> Result<(), &'static str> {
        let stored = stored.get(..self.content_len).unwrap_or_default();
        self.compression.decompress_into(stored, content)
    }

    /// The content of the block, from a part of a chunk that holds it; shared with it if not compressed.
    ///
    /// # Errors
    /// What is wrong, as a phrase for a corruption error.
    pub(super) fn content_in(self, mut stored: Bytes) -> Result<Bytes, &'static str> {
        stored.truncate(self.content_len);
        match self.compression {
            Compression::None => Ok(stored),
            compression => compression.decompress(&stored, self.raw_len).map(Bytes::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_every_flip_and_cut_is_noticed() {
        let raw = b"some content, some content, some content".repeat(4);
        for how in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let mut out = vec![];
            put_stored_block(&mut out, &raw, &mut Compressor::new(how), 5).unwrap();
            let checked = check_stored_block(&out, 5).unwrap();
            let mut content = vec![7; checked.raw_len()];
            checked.read_into(&out, &mut content).unwrap();
            assert_eq!(content, raw);
            assert_eq!(checked.content_in(Bytes::from(out.clone())).unwrap(), raw);
            assert!(check_stored_block(&out, 6).is_err(), "another place");
            for i in 0..out.len() * 8 {
                let mut bad = out.clone();
                bad[i / 8] ^= 1 << (i % 8);
                assert!(check_stored_block(&bad, 5).is_err(), "bit {i}");
            }
            for n in 0..out.len() {
                assert!(check_stored_block(&out[..n], 5).is_err(), "cut {n}");
            }
        }
    }

    #[test]
    fn a_block_that_claims_four_gigabytes_is_refused_before_it_is_allocated() {
        let mut out = vec![1u8, 2, 3, Compression::Zstd.byte()];
        out.extend_from_slice(&u32::MAX.to_le_bytes());
        let checksum = xxh3_64_with_seed(&out, 5);
        out.extend_from_slice(&checksum.to_le_bytes());
        assert_eq!(check_stored_block(&out, 5).unwrap_err(), "a block that claims to be larger than any");
    }
}
