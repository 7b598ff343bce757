//! Block compression: which algorithm, its byte in file formats, and bounded decompression.

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

    /// Compresses `raw` into `out` (cleared first). Returns the algorithm that was really used: `None`,
    /// with `out` left empty, when compressing would not pay; the caller then stores `raw` itself.
    ///
    /// # Errors
    /// `Internal` when the compressor fails.
    pub fn compress(self, raw: &[u8], out: &mut Vec<u8>) -> Result<Self> {
        out.clear();
        match self {
            Self::None => return Ok(Self::None),
            Self::Lz4 => {
                out.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                let n = lz4_flex::block::compress_into(raw, out).map_err(|e| failed("LZ4", e))?;
                out.truncate(n);
            }
            Self::Zstd => {
                let compressed = zstd::bulk::compress(raw, ZSTD_LEVEL).map_err(|e| failed("Zstandard", e))?;
                out.extend_from_slice(&compressed);
            }
        }
        if out.len() > raw.len() - raw.len() / 8 {
            out.clear();
            return Ok(Self::None);
        }
        Ok(self)
    }

    /// Decompresses `stored` to exactly `raw_len` bytes. The caller has bounded `raw_len`.
    ///
    /// # Errors
    /// What is wrong, as a phrase for a corruption error.
    pub fn decompress(self, stored: &[u8], raw_len: usize) -> Result<Vec<u8>, &'static str> {
        let raw = match self {
            Self::None => stored.to_vec(),
            Self::Lz4 => {
                let mut raw = vec![0; raw_len];
                let n = lz4_flex::block::decompress_into(stored, &mut raw)
                    .map_err(|_| "bytes that are not LZ4")?;
                raw.truncate(n);
                raw
            }
            Self::Zstd => {
                zstd::bulk::decompress(stored, raw_len).map_err(|_| "bytes that are not Zstandard")?
            }
        };
        if raw.len() == raw_len { Ok(raw) } else { Err("content of another length") }
    }
}

fn failed(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Internal, format!("{name} compression failed"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back() {
        let raw = b"abcdefgh".repeat(100);
        for how in [Compression::Lz4, Compression::Zstd] {
            let mut out = vec![];
            assert_eq!(how.compress(&raw, &mut out).unwrap(), how);
            assert!(out.len() < raw.len() / 2);
            assert_eq!(how.decompress(&out, raw.len()).unwrap(), raw);
            assert!(how.decompress(&out, raw.len() - 1).is_err());
            assert!(how.decompress(&out, raw.len() + 1).is_err());
            assert!(how.decompress(&[0xFF; 9], 100).is_err());
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored_raw() {
        let raw: Vec<u8> =
            (0u64..64).flat_map(|i| crate::key::KeyHash::of(&i.to_le_bytes(), 1).0.to_le_bytes()).collect();
        for how in [Compression::Lz4, Compression::Zstd, Compression::None] {
            assert_eq!(how.compress(&raw, &mut vec![]).unwrap(), Compression::None);
        }
    }
}
