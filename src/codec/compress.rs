//! Block compression: which algorithm, its byte in file formats, and bounded decompression.

use lz4_flex::block::{CompressTable, compress_into_with_table};

use crate::error::{Error, ErrorKind, Result};

/// How blocks are compressed. A block that does not shrink by at least an eighth is stored as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: fast both ways.
    #[default]
    Lz4,
    /// Zstandard level 3: smaller, slower to write.
    Zstd,
}

const ZSTD_LEVEL: i32 = 3;

impl Compression {
    /// The algorithm's byte in file formats.
    pub const fn byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    /// The algorithm with this byte, if known.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Decompresses `stored` to exactly `raw_len` bytes. The caller has bounded `raw_len`.
    ///
    /// # Errors
    /// What is wrong, as a phrase for a corruption error.
    pub fn decompress(self, stored: &[u8], raw_len: usize) -> Result<Vec<u8>, &'static str> {
        let mut raw = Vec::new();
        raw.try_reserve_exact(raw_len).map_err(|_| "content that does not fit into memory")?;
        raw.resize(raw_len, 0);
        self.decompress_into(stored, &mut raw)?;
        Ok(raw)
    }

    /// Decompresses `stored` to exactly as many bytes as `raw` has.
    ///
    /// # Errors
    /// What is wrong, as a phrase for a corruption error.
    pub fn decompress_into(self, stored: &[u8], raw: &mut [u8]) -> Result<(), &'static str> {
        let written = match self {
            Self::None if stored.len() == raw.len() => {
                raw.copy_from_slice(stored);
                stored.len()
            }
            Self::None => stored.len(),
            Self::Lz4 => {
                lz4_flex::block::decompress_into(stored, raw).map_err(|_| "bytes that are not LZ4")?
            }
            Self::Zstd => {
                zstd::bulk::decompress_to_buffer(stored, raw).map_err(|_| "bytes that are not Zstandard")?
            }
        };
        if written == raw.len() { Ok(()) } else { Err("content of another length") }
    }
}

/// Compresses one block after the other, in memory that it keeps (the longest one's, until
/// [`Compressor::shrink_to`]). While blocks do not shrink it tries only some of
/// them: after each one that did not it passes over twice as many, up to 15.
pub struct Compressor {
    compression: Compression,
    lz4_table: CompressTable,
    out: Vec<u8>,
    /// How many blocks are stored as they are before the next try.
    to_pass: u32,
    /// How many are passed over if the next try does not pay.
    pass_next: u32,
}

/// So many blocks are stored untried behind one that did not shrink.
const MOST_PASSED: u32 = 15;

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor")
            .field("compression", &self.compression)
            .field("kept_bytes", &self.out.len())
            .finish_non_exhaustive()
    }
}

impl Compressor {
    /// A compressor that has tried nothing yet.
    pub fn new(compression: Compression) -> Self {
        Self { compression, lz4_table: CompressTable::small(), out: Vec::new(), to_pass: 0, pass_next: 0 }
    }

    /// What is to be stored for `raw`, and how it is compressed: `None`, and `raw` itself, where compressing does
    /// not pay.
    ///
    /// # Errors
    /// `Internal` when the compressor fails.
    pub fn compress<'a>(&'a mut self, raw: &'a [u8]) -> Result<(Compression, &'a [u8])> {
        if self.compression == Compression::None || self.to_pass > 0 {
            self.to_pass = self.to_pass.saturating_sub(1);
            return Ok((Compression::None, raw));
        }
        let len = self.run(raw)?;
        let compressed = self.out.get(..len).filter(|out| out.len() <= raw.len() - raw.len() / 8);
        if let Some(compressed) = compressed {
            self.pass_next = 0;
            return Ok((self.compression, compressed));
        }
        self.pass_next = (self.pass_next * 2 + 1).min(MOST_PASSED);
        self.to_pass = self.pass_next;
        Ok((Compression::None, raw))
    }

    /// Lets go of what it keeps above so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        if self.out.len() > bytes {
            self.out = Vec::new();
        }
    }

    /// How much memory it keeps from block to block, but for a table of fixed size.
    pub const fn kept_bytes(&self) -> usize {
        self.out.len()
    }

    /// Compresses `raw` to the front of `out`; how many bytes it takes there.
    fn run(&mut self, raw: &[u8]) -> Result<usize> {
        let most = match self.compression {
            Compression::None => 0,
            Compression::Lz4 => lz4_flex::block::get_maximum_output_size(raw.len()),
            Compression::Zstd => zstd::zstd_safe::compress_bound(raw.len()),
        };
        if self.out.len() < most {
            self.out = vec![0; most];
        }
        match self.compression {
            Compression::None => Ok(0),
            Compression::Lz4 => compress_into_with_table(raw, &mut self.out, &mut self.lz4_table)
                .map_err(|e| failed("LZ4", e)),
            Compression::Zstd => zstd::bulk::compress_to_buffer(raw, &mut self.out, ZSTD_LEVEL)
                .map_err(|e| failed("Zstandard", e)),
        }
    }
}

fn failed(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Internal, format!("{name} compression failed"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that do not shrink.
    fn noise() -> Vec<u8> {
        (0u64..64).flat_map(|i| crate::key::KeyHash::of(&i.to_le_bytes(), 1).0.to_le_bytes()).collect()
    }

    #[test]
    fn what_is_compressed_comes_back() {
        // One compressor for blocks of all sizes.
        for how in [Compression::Lz4, Compression::Zstd] {
            let mut compressor = Compressor::new(how);
            for repeats in [100, 100_000, 2_000_000, 100] {
                let raw = b"abcdefgh".repeat(repeats);
                let (used, out) = compressor.compress(&raw).unwrap();
                assert_eq!(used, how);
                assert!(out.len() < raw.len() / 2);
                assert_eq!(how.decompress(out, raw.len()).unwrap(), raw);
                assert!(how.decompress(out, raw.len() - 1).is_err());
                assert!(how.decompress(out, raw.len() + 1).is_err());
            }
            assert!(how.decompress(&[0xFF; 9], 100).is_err());
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored_raw() {
        let raw = noise();
        for how in [Compression::Lz4, Compression::Zstd, Compression::None] {
            assert_eq!(Compressor::new(how).compress(&raw).unwrap(), (Compression::None, &raw[..]));
        }
    }

    #[test]
    fn fewer_and_fewer_are_tried_while_nothing_shrinks() {
        let (noise, text) = (noise(), b"abcdefgh".repeat(100));
        let mut compressor = Compressor::new(Compression::Lz4);
        let passed_over = |compressor: &mut Compressor| {
            (0..100).find(|_| compressor.compress(&text).unwrap().0 == Compression::Lz4).unwrap()
        };
        compressor.compress(&noise).unwrap();
        assert_eq!(passed_over(&mut compressor), 1);
        (0..100).for_each(|_| assert_eq!(compressor.compress(&noise).unwrap().0, Compression::None));
        assert!(passed_over(&mut compressor) <= 15);
        compressor.compress(&noise).unwrap();
        assert_eq!(passed_over(&mut compressor), 1, "one that shrinks begins anew");
    }
}
