//! What a table is told when it is made: who it is, and how it is laid out.

use crate::{
    codec::compress::Compression,
    error::{Error, Result},
    ids::{FileNumber, ShardId},
};

/// The largest target size of a data block. A block with a single entry may be larger.
pub(super) const MAX_BLOCK_BYTES: usize = 1 << 20;
const MIN_BLOCK_BYTES: usize = 64;
const MAX_FILTER_BITS_PER_KEY: u32 = 64;

/// Which table of the node a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableId {
    /// The shard it belongs to.
    pub shard: ShardId,
    /// Its number in that shard.
    pub file: FileNumber,
}

impl TableId {
    /// The seed of a checksum over what stands at `offset` of this table: the same bytes at another
    /// place, or in another table, have another checksum.
    pub(super) const fn checksum_seed(self, offset: u64) -> u64 {
        let table = (self.file.get() ^ ((self.shard.get() as u64) << 40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (table ^ (table >> 29)).wrapping_add(offset).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }
}

/// How a table is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// The target size of a data block before compression, in bytes.
    pub block_bytes: usize,
    /// Every how many entries of a block a search can begin: fewer take space, more take time. Not 0.
    pub restart_interval: u8,
    /// How data blocks are compressed.
    pub compression: Compression,
    /// The filter's size in bits for each distinct key; 0: no filter.
    pub filter_bits_per_key: u32,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            block_bytes: 4 << 10,
            restart_interval: 8,
            compression: Compression::default(),
            filter_bits_per_key: 10,
        }
    }
}

impl TableOptions {
    /// Checks that every field is in its range.
    ///
    /// # Errors
    /// `Invalid`, naming the field and its range.
    pub fn check(&self) -> Result<()> {
        let check = |name: &str, value: usize, min: usize, max: usize| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::invalid(format!("{name} is {value}; it must be {min} to {max}")))
        };
        check("block_bytes", self.block_bytes, MIN_BLOCK_BYTES, MAX_BLOCK_BYTES)?;
        check("restart_interval", usize::from(self.restart_interval), 1, usize::from(u8::MAX))?;
        let bits = self.filter_bits_per_key;
        if bits > MAX_FILTER_BITS_PER_KEY {
            return Err(Error::invalid(format!(
                "filter_bits_per_key is {bits}; it must be 0 to {MAX_FILTER_BITS_PER_KEY}"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_by_shard_file_and_offset() {
        let mut seeds = std::collections::HashSet::new();
        for shard in 0..8 {
            for file in 0..64 {
                let id = TableId { shard: ShardId(shard), file: FileNumber(file) };
                for offset in (0..64u64).map(|i| i * 4096) {
                    assert!(seeds.insert(id.checksum_seed(offset)), "{id:?} at {offset}");
                }
            }
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        assert!(TableOptions::default().check().is_ok());
        for (bad, name) in [
            (TableOptions { block_bytes: 0, ..Default::default() }, "block_bytes"),
            (TableOptions { block_bytes: 2 << 20, ..Default::default() }, "block_bytes"),
            (TableOptions { restart_interval: 0, ..Default::default() }, "restart_interval"),
            (TableOptions { filter_bits_per_key: 65, ..Default::default() }, "filter_bits_per_key"),
        ] {
            assert!(bad.check().unwrap_err().to_string().contains(name));
        }
    }
}
