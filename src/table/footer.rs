//! The last bytes of a table file; everything else is found from here.
//!
//! ```text
//! offset size
//!   0     8   magic "DBEXSST\0"
//!   8     2   version of the whole file's format, 3
//!  10     2   feature bits that a reader must know, 0
//!  12     4   shard
//!  16     8   file number
//!  24     8   length of the file, footer included
//!  32    24   filter: offset, length, checksum; u64 each; length 0: none
//!  56    24   index, likewise
//!  80    24   properties, likewise
//! 104    24   range deletes, likewise
//! 128    24   zero, for a part to come
//! 152     8   XXH3-64 over bytes 0..152, seeded with the table's id
//! 160
//! ```
//! The checksum of a part is XXH3-64 over its bytes, seeded with the table's id and the part's offset. The parts
//! follow the data blocks in this order, without gaps. All numbers are little-endian.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::options::TableId;
use crate::codec::varint::ByteReader;

/// The footer's length in bytes.
pub(super) const FOOTER_BYTES: usize = 160;
const MAGIC: [u8; 8] = *b"DBEXSST\0";
const VERSION: u16 = 3;
const RESERVED_BYTES: usize = 24;
/// The footer's own checksum is seeded like something at an offset that no part can have.
const FOOTER_SEED_OFFSET: u64 = u64::MAX;

/// Where one part of the file lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PartHandle {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) checksum: u64,
}

/// Where the parts of the file lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) file_bytes: u64,
    pub(super) filter: PartHandle,
    pub(super) index: PartHandle,
    pub(super) properties: PartHandle,
    pub(super) range_deletes: PartHandle,
}

impl Footer {
    /// The footer's bytes and its checksum.
    pub(super) fn encode(&self, id: TableId) -> (Vec<u8>, u64) {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&id.shard.get().to_le_bytes());
        out.extend_from_slice(&id.file.get().to_le_bytes());
        out.extend_from_slice(&self.file_bytes.to_le_bytes());
        for part in [self.filter, self.index, self.properties, self.range_deletes] {
            for number in [part.offset, part.len, part.checksum] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out.extend_from_slice(&[0; RESERVED_BYTES]);
        let checksum = xxh3_64_with_seed(&out, id.checksum_seed(FOOTER_SEED_OFFSET));
        out.extend_from_slice(&checksum.to_le_bytes());
        debug_assert_eq!(out.len(), FOOTER_BYTES, "the table above says so");
        (out, checksum)
    }

    /// Reads and checks the footer of the table `id`, whose file has `file_bytes`.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub(super) fn decode(
        bytes: &[u8; FOOTER_BYTES],
        id: TableId,
        file_bytes: u64,
        footer_checksum: u64,
    ) -> Result<Self, (String, String)> {
        let expected = |expected: &str, found: &str| Err((expected.to_owned(), found.to_owned()));
        let Some((content, stated)) = bytes.split_last_chunk::<8>() else {
            return expected("a table's footer", "fewer bytes");
        };
        let mut reader = ByteReader::new(content);
        if reader.bytes(MAGIC.len()) != Some(&MAGIC) {
            return expected("the magic bytes of a table", "others");
        }
        if reader.u16() != Some(VERSION) {
            return expected("table format version 3", "another version");
        }
        if reader.u16() != Some(0) {
            return expected("no feature bits", "some that this version does not know");
        }
        let (shard, file) = (reader.u32(), reader.u64());
        if (shard, file) != (Some(id.shard.get()), Some(id.file.get())) {
            return expected("the footer of this table", "that of another table");
        }
        let stated = u64::from_le_bytes(*stated);
        if xxh3_64_with_seed(content, id.checksum_seed(FOOTER_SEED_OFFSET)) != stated {
            return expected("the footer's checksum", "another");
        }
        if stated != footer_checksum {
            return Err((format!("footer checksum {footer_checksum:016x}"), format!("{stated:016x}")));
        }
        if reader.u64() != Some(file_bytes) {
            return expected("the file's length in its footer", "another length");
        }
        let mut part =
            || Some(PartHandle { offset: reader.u64()?, len: reader.u64()?, checksum: reader.u64()? });
        let (
            Some(filter),
            Some(index),
            Some(properties),
            Some(range_deletes),
            Some(PartHandle { len: 0, .. }),
        ) = (part(), part(), part(), part(), part())
        else {
            return expected("the parts that this version knows", "others");
        };
        let footer = Self { file_bytes, filter, index, properties, range_deletes };
        footer.check_parts()?;
        Ok(footer)
    }

    /// The parts in the order in which they follow the data blocks.
    const fn parts(&self) -> [PartHandle; 4] {
        [self.filter, self.index, self.properties, self.range_deletes]
    }

    fn check_parts(&self) -> Result<(), (String, String)> {
        let mut offset = self.filter.offset;
        for part in self.parts() {
            if part.offset != offset {
                return Err((format!("a part of the table at offset {offset}"), part.offset.to_string()));
            }
            offset = offset.checked_add(part.len).ok_or_else(|| {
                ("parts that fit the file".to_owned(), format!("one of {} bytes", part.len))
            })?;
        }
        if offset.checked_add(FOOTER_BYTES as u64) != Some(self.file_bytes) {
            return Err(("parts that end at the footer".to_owned(), format!("an end at {offset}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{FileNumber, ShardId};

    const ID: TableId = TableId { shard: ShardId(2), file: FileNumber(7) };

    fn sample() -> Footer {
        let part = |offset, len| PartHandle { offset, len, checksum: 5 };
        Footer {
            file_bytes: 1000 + 60 + FOOTER_BYTES as u64,
            filter: part(1000, 10),
            index: part(1010, 20),
            properties: part(1030, 30),
            range_deletes: part(1060, 0),
        }
    }

    #[test]
    fn footers_come_back_and_every_flipped_bit_is_noticed() {
        let (bytes, checksum) = sample().encode(ID);
        let bytes: [u8; FOOTER_BYTES] = bytes.try_into().unwrap();
        let decode = |bytes: &_, id| Footer::decode(bytes, id, sample().file_bytes, checksum);
        assert_eq!(decode(&bytes, ID), Ok(sample()));
        assert!(decode(&bytes, TableId { shard: ShardId(3), ..ID }).is_err());
        assert!(Footer::decode(&bytes, ID, sample().file_bytes, checksum ^ 1).is_err());
        assert!(Footer::decode(&bytes, ID, 1, checksum).is_err());
        for i in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[i / 8] ^= 1 << (i % 8);
            assert!(decode(&bad, ID).is_err(), "bit {i}");
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let cases: [fn(&mut Footer); 4] = [
            |footer| footer.index.offset += 1,
            |footer| footer.filter.offset = u64::MAX,
            |footer| footer.properties.len = u64::MAX,
            |footer| footer.range_deletes.len = 1,
        ];
        for change in cases {
            let mut footer = sample();
            change(&mut footer);
            let (bytes, checksum) = footer.encode(ID);
            assert!(Footer::decode(&bytes.try_into().unwrap(), ID, footer.file_bytes, checksum).is_err());
        }
    }
}
