//! The framed record that manifests, NODE and the parts of a table's metadata are made of. A record
//! is checked in this order: magic, version, length bound, checksum; only then does its body mean anything.
//!
//! ```text
//! offset size
//!  0     4    magic, one for each kind of file
//!  4     1    kind, one for each kind of record in that file
//!  5     1    version of the body's layout
//!  6     2    flags: bit 0: a reader that does not know the kind may skip the record
//!  8     4    body length in bytes
//! 12     4    zero
//! 16     8    XXH3-64 over bytes 0..16 and the body, seeded with the caller's context
//! 24          body
//! ```
//! All numbers are little-endian.

use xxhash_rust::xxh3::Xxh3;

use super::varint::ByteReader;

/// The length of a record's header in bytes.
pub const RECORD_HEADER_BYTES: usize = 24;
const FLAG_SKIPPABLE: u16 = 1;

/// What a record says about its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Four bytes that name the kind of file.
    pub magic: [u8; 4],
    /// What the body is.
    pub kind: u8,
    /// The layout of the body.
    pub version: u8,
    /// Whether a reader that does not know `kind` may skip the record.
    pub skippable: bool,
}

/// One step of reading records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordRead<'a> {
    /// An intact record.
    Record {
        /// What it says about itself.
        head: RecordHead,
        /// Its body.
        body: &'a [u8],
        /// Header and body together, in bytes: where the next record begins.
        bytes: usize,
    },
    /// Nothing more: no bytes at all.
    End,
    /// Not an intact record: torn or damaged.
    Broken {
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: &'static str,
    },
}

/// Appends a record. `seed` binds the checksum to a context (a file's identity, an offset); 0 where there is none.
///
/// # Panics
/// If the body is 4 GiB or longer.
pub fn put_record(out: &mut Vec<u8>, head: RecordHead, seed: u64, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&head.magic);
    out.push(head.kind);
    out.push(head.version);
    let flags = if head.skippable { FLAG_SKIPPABLE } else { 0 };
    out.extend_from_slice(&flags.to_le_bytes());
    let length = u32::try_from(body.len()).expect("a record's body is far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let checksum = checksum(out.get(start..).unwrap_or_default(), body, seed);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(body);
}

/// Reads the record at the start of `bytes`. A body above `max_body` bytes counts as broken.
pub fn read_record(bytes: &[u8], magic: [u8; 4], seed: u64, max_body: usize) -> RecordRead<'_> {
    if bytes.is_empty() {
        return RecordRead::End;
    }
    let broken = |expected, found| RecordRead::Broken { expected, found };
    let mut reader = ByteReader::new(bytes);
    let Some(head_bytes) = reader.bytes(16) else {
        return broken("a record header", "the end of the file");
    };
    let Some(stated) = reader.u64() else {
        return broken("a record header", "the end of the file");
    };
    let mut fields = ByteReader::new(head_bytes);
    if fields.bytes(4) != Some(&magic[..]) {
        return broken("the record's magic bytes", "others");
    }
    let (Some(kind), Some(version), Some(flags), Some(length), Some(zero)) =
        (fields.byte(), fields.byte(), fields.u16(), fields.u32(), fields.u32())
    else {
        return broken("a record header", "the end of the file");
    };
    if flags & !FLAG_SKIPPABLE != 0 || zero != 0 {
        return broken("known record flags", "unknown ones");
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > max_body {
        return broken("a record body within its bound", "a longer one");
    }
    let Some(body) = reader.bytes(length) else {
        return broken("the whole record", "the end of the file");
    };
    if checksum(head_bytes, body, seed) != stated {
        return broken("the record's checksum", "another");
    }
    let head = RecordHead { magic, kind, version, skippable: flags & FLAG_SKIPPABLE != 0 };
    RecordRead::Record { head, body, bytes: RECORD_HEADER_BYTES + length }
}

fn checksum(head: &[u8], body: &[u8], seed: u64) -> u64 {
    let mut hasher = Xxh3::with_seed(seed);
    hasher.update(head);
    hasher.update(body);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: RecordHead = RecordHead { magic: *b"TEST", kind: 7, version: 2, skippable: true };

    #[test]
    fn records_follow_each_other() {
        let mut out = vec![];
        put_record(&mut out, HEAD, 1, b"first");
        put_record(&mut out, HEAD, 2, b"");
        let RecordRead::Record { head, body, bytes } = read_record(&out, *b"TEST", 1, 100) else {
            panic!("not read")
        };
        assert_eq!((head, body), (HEAD, &b"first"[..]));
        let rest = &out[bytes..];
        assert!(matches!(read_record(rest, *b"TEST", 2, 100), RecordRead::Record { body: b"", .. }));
        assert!(matches!(read_record(rest, *b"TEST", 1, 100), RecordRead::Broken { .. }), "another context");
        assert_eq!(read_record(&[], *b"TEST", 0, 100), RecordRead::End);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut out = vec![];
        put_record(&mut out, HEAD, 9, b"some body");
        for i in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[i / 8] ^= 1 << (i % 8);
            assert!(matches!(read_record(&bad, *b"TEST", 9, 100), RecordRead::Broken { .. }), "bit {i}");
        }
        for n in 1..out.len() {
            assert!(matches!(read_record(&out[..n], *b"TEST", 9, 100), RecordRead::Broken { .. }), "cut {n}");
        }
        assert!(matches!(read_record(&out, *b"TEST", 9, 8), RecordRead::Broken { .. }), "above the bound");
    }
}
