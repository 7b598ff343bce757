//! One segment file: its name, its header, and how it is prepared.
//!
//! ```text
//! offset size
//!    0    24   record header: magic "DBXW", kind 1, version 1 (see `codec::record`)
//!   24     4   shard
//!   28     8   segment number
//!   36     8   incarnation
//!   44     8   length of the file when it was prepared
//!   52         zeroes up to 4096
//! 4096         frames
//! ```
//!
//! A file gets the name `<number>.wal` only when its header and length are durable, so a file with such a
//! name and no valid header is damaged, never half-made.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::frame::Identity;
use crate::{
    codec::{
        record::{RecordHead, RecordRead, put_record, read_record},
        varint::ByteReader,
    },
    error::{Error, Result},
    ids::{Incarnation, SegmentNumber, ShardId},
    storage::{OpenMode, Storage, StorageFile, write_all_at, write_all_at_synced},
    waiting::SlowMutex,
};

/// Where the first frame of a segment stands.
pub(super) const SEGMENT_DATA_START: u64 = 4096;
const HEADER_BYTES: usize = 4096;
const MAGIC: [u8; 4] = *b"DBXW";
const HEAD: RecordHead = RecordHead { magic: MAGIC, kind: 1, version: 1, skippable: false };
const BODY_BYTES: usize = 28;
const TEMP_SUFFIX: &str = ".wal.new";
const SUFFIX: &str = ".wal";
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What a name in the log's directory means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentName {
    /// A segment.
    Segment(SegmentNumber),
    /// A file that was being prepared.
    Temp(SegmentNumber),
}

impl SegmentName {
    /// The meaning of a file name; `None` for a name that is not ours.
    pub(super) fn parse(name: &OsStr) -> Option<Self> {
        let name = name.to_str()?;
        let (digits, temp) = match name.strip_suffix(TEMP_SUFFIX) {
            Some(digits) => (digits, true),
            None => (name.strip_suffix(SUFFIX)?, false),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number = SegmentNumber(digits.parse().ok()?);
        // NOTE: another spelling of the same number (`1.wal`) is not ours; 0 is never used.
        if number.get() == 0 || number.to_string() != digits {
            return None;
        }
        Some(if temp { Self::Temp(number) } else { Self::Segment(number) })
    }

    pub(super) const fn number(self) -> SegmentNumber {
        match self {
            Self::Segment(number) | Self::Temp(number) => number,
        }
    }
}

/// The path of a segment.
pub fn segment_path(dir: &Path, number: SegmentNumber) -> PathBuf {
    dir.join(format!("{number}{SUFFIX}"))
}

/// The path of a segment that is being prepared.
pub(super) fn temp_path(dir: &Path, number: SegmentNumber) -> PathBuf {
    dir.join(format!("{number}{TEMP_SUFFIX}"))
}

/// A segment that a writer can begin: its name, header and length are durable.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) identity: Identity,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) path: PathBuf,
    /// The file's length: frames end before it.
    pub(super) capacity: u64,
}

/// How the space of a new file is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// Written with zeroes, so that a later sync changes no metadata at all. Takes its time.
    Zeroes,
    /// Only reserved: for a writer that waits for the file, or that nobody waits for to sync.
    Reserve,
}

/// Makes a new segment file of `capacity` bytes. One at a time is named, under `naming`.
///
/// # Errors
/// `NoSpace`, or `Io`; nothing of the file is left then, as far as the file system allows.
pub(super) fn create_segment(
    storage: &dyn Storage,
    dir: &Path,
    identity: Identity,
    capacity: u64,
    how: Fill,
    naming: &SlowMutex<()>,
) -> Result<Segment> {
    let temp = temp_path(dir, identity.segment);
    let path = segment_path(dir, identity.segment);
    let made = (|| {
        let file = storage.open(&temp, OpenMode::CreateNew).map_err(|e| Error::io("create", &temp, e))?;
        file.allocate(capacity).map_err(|e| Error::io("reserve space for", &temp, e))?;
        if how == Fill::Zeroes {
            write_zeroes(&*file, capacity).map_err(|e| Error::io("write", &temp, e))?;
        }
        write_header(&*file, identity, capacity, &temp)?;
        file.sync_data().map_err(|e| Error::io("sync", &temp, e))?;
        name_segment(storage, dir, &temp, &path, naming)?;
        Ok(file)
    })();
    match made {
        Ok(file) => Ok(Segment { identity, file, path, capacity }),
        Err(error) => {
            discard(storage, &temp, &path);
            Err(error)
        }
    }
}

/// Gives a segment file that nothing needs any more a new number and incarnation. As for new ones, under `naming`.
/// Only the header is made durable, unless a later sync is to find nothing of what was in it ([`Fill::Zeroes`]).
///
/// # Errors
/// `Io` or `NoSpace`; the file is removed then, as far as the file system allows.
pub(super) fn recycle_segment(
    storage: &dyn Storage,
    dir: &Path,
    old_path: &Path,
    identity: Identity,
    capacity: u64,
    how: Fill,
    naming: &SlowMutex<()>,
) -> Result<Segment> {
    let path = segment_path(dir, identity.segment);
    let made = (|| {
        let file = storage.open(old_path, OpenMode::ReadWrite).map_err(|e| Error::io("open", old_path, e))?;
        if how == Fill::Zeroes {
            write_header(&*file, identity, capacity, old_path)?;
            file.sync_data().map_err(|e| Error::io("sync", old_path, e))?;
        } else {
            write_all_at_synced(&*file, &encode_header(identity, capacity), 0)
                .map_err(|e| Error::io("write", old_path, e))?;
        }
        name_segment(storage, dir, old_path, &path, naming)?;
        Ok(file)
    })();
    match made {
        Ok(file) => Ok(Segment { identity, file, path, capacity }),
        Err(error) => {
            discard(storage, old_path, &path);
            Err(error)
        }
    }
}

fn write_header(file: &dyn StorageFile, identity: Identity, capacity: u64, path: &Path) -> Result<()> {
    write_all_at(file, &encode_header(identity, capacity), 0).map_err(|e| Error::io("write", path, e))
}

/// Gives the file its name, durably.
fn name_segment(
    storage: &dyn Storage,
    dir: &Path,
    from: &Path,
    to: &Path,
    naming: &SlowMutex<()>,
) -> Result<()> {
    let _alone = naming.lock();
    storage.rename(from, to).map_err(|e| Error::io("rename", from, e))?;
    storage.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))
}

/// Removes what a failed preparation left. A file whose sync failed is never tried again, and one that
/// cannot be removed now is passed over by the next recovery.
fn discard(storage: &dyn Storage, before: &Path, after: &Path) {
    for path in [before, after] {
        drop(storage.remove_file(path));
    }
}

fn write_zeroes(file: &dyn StorageFile, len: u64) -> std::io::Result<()> {
    let mut at = 0;
    while at < len {
        let n = usize::try_from(len - at).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
        write_all_at(file, ZEROES.get(..n).unwrap_or_default(), at)?;
        at += n as u64;
    }
    Ok(())
}

fn encode_header(identity: Identity, capacity: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(BODY_BYTES);
    body.extend_from_slice(&identity.shard.get().to_le_bytes());
    body.extend_from_slice(&identity.segment.get().to_le_bytes());
    body.extend_from_slice(&identity.incarnation.get().to_le_bytes());
    body.extend_from_slice(&capacity.to_le_bytes());
    let mut header = Vec::with_capacity(HEADER_BYTES);
    put_record(&mut header, HEAD, 0, &body);
    header.resize(HEADER_BYTES, 0);
    header
}

/// Reads a segment's header.
///
/// # Errors
/// What should stand there and what does. A header of a newer version is an `Invalid` error in its own right.
pub(super) fn decode_header(
    bytes: &[u8],
    path: &Path,
    shard: ShardId,
    number: SegmentNumber,
) -> Result<Result<Identity, (String, String)>> {
    let bad =
        |expected: &dyn ToString, found: &dyn ToString| Ok(Err((expected.to_string(), found.to_string())));
    let body = match read_record(bytes, MAGIC, 0, HEADER_BYTES) {
        RecordRead::Record { head, .. } if head.version > HEAD.version => {
            return Err(Error::invalid(format!(
                "{} has version {} and was written by a newer dbex; this one reads version {}",
                path.display(),
                head.version,
                HEAD.version
            )));
        }
        RecordRead::Record { head, .. } if head != HEAD => {
            return bad(&"a segment header", &"another record");
        }
        RecordRead::Record { body, .. } => body,
        RecordRead::End => return bad(&"a segment header", &"an empty file"),
        RecordRead::Broken { expected, found } => return bad(&expected, &found),
    };
    let mut reader = ByteReader::new(body);
    let (Some(in_shard), Some(in_number), Some(incarnation), Some(_capacity)) =
        (reader.u32(), reader.u64(), reader.u64(), reader.u64())
    else {
        return bad(&"a segment header", &"a shorter one");
    };
    if in_shard != shard.get() {
        return bad(&format!("shard {shard}"), &format!("shard {}", ShardId(in_shard)));
    }
    if in_number != number.get() {
        return bad(&format!("segment {number}"), &format!("segment {}", SegmentNumber(in_number)));
    }
    Ok(Ok(Identity { shard, segment: number, incarnation: Incarnation(incarnation) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_names_are_ours() {
        let parse = |name: &str| SegmentName::parse(OsStr::new(name));
        assert_eq!(parse("0000000001.wal"), Some(SegmentName::Segment(SegmentNumber(1))));
        assert_eq!(parse("0000000012.wal.new"), Some(SegmentName::Temp(SegmentNumber(12))));
        assert_eq!(parse("99999999999.wal"), Some(SegmentName::Segment(SegmentNumber(99_999_999_999))));
        for other in ["1.wal", "0000000000.wal", "+000000001.wal", ".wal", "a.wal", "0000000001.sst", "x"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_header_is_of_one_shard_and_segment() {
        let identity =
            Identity { shard: ShardId(3), segment: SegmentNumber(5), incarnation: Incarnation(77) };
        let header = encode_header(identity, 1 << 20);
        assert_eq!(header.len(), HEADER_BYTES);
        let decode = |shard, number| {
            decode_header(&header, Path::new("w"), ShardId(shard), SegmentNumber(number)).unwrap()
        };
        assert_eq!(decode(3, 5), Ok(identity));
        assert!(decode(4, 5).is_err() && decode(3, 6).is_err());
        let mut newer = vec![];
        put_record(&mut newer, RecordHead { version: 2, ..HEAD }, 0, &[0; BODY_BYTES]);
        let error = decode_header(&newer, Path::new("w"), ShardId(3), SegmentNumber(5)).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Invalid);
    }
}
