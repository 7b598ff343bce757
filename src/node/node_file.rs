//! NODE: the file that makes a directory a node's, and what in it never changes.
//!
//! One [`codec::record`](crate::codec::record) (magic `DBXN`, kind 1, version 1) whose body is the rkyv
//! archive of [`NodeRecord`]. It is written once, as NODE.new, when the directory is made; NODE.new becomes NODE by
//! a rename after every shard's directory stands. So a directory with NODE.new and without NODE is one
//! whose making was interrupted: it holds no data, and making it starts again.

use std::{io, path::Path};

use rkyv::{Archive, Serialize};

use crate::{
    codec::{
        archive::{OwnedArchive, to_archive},
        record::{RecordHead, RecordRead, put_record, read_record},
    },
    error::{Error, ErrorKind, Result},
    storage::{OpenMode, Storage, read_exact_at, write_all_at},
};

const MAGIC: [u8; 4] = *b"DBXN";
const KIND: u8 = 1;
const VERSION: u8 = 1;
const MAX_BYTES: u64 = 64 << 10;
/// The order of keys; the only one there is.
const COMPARATOR: &[u8] = b"bytewise";
/// The format that this version writes.
const FORMAT_VERSION: u32 = 1;

/// The name of the node file.
pub(super) const NODE_FILE: &str = "NODE";
const NODE_FILE_NEW: &str = "NODE.new";
const NODE_FILE_TEMPORARY: &str = "NODE.tmp";

/// What NODE holds.
#[derive(Archive, Serialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeRecord {
    /// The version of the whole directory's format.
    pub format_version: u32,
    /// Features that an older version may ignore.
    pub compatible_features: u64,
    /// Features that a version must know to open the directory.
    pub incompatible_features: u64,
    /// A random name of the node, high half first.
    pub node_id: (u64, u64),
    /// The number of shards.
    pub shards: u32,
    /// The seed of the key hash.
    pub hash_seed: u64,
    /// The order of keys.
    pub comparator: Vec<u8>,
}

impl NodeRecord {
    /// The record of a new node.
    pub(super) fn new(shards: u32, hash_seed: u64, node_id: (u64, u64)) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            compatible_features: 0,
            incompatible_features: 0,
            node_id,
            shards,
            hash_seed,
            comparator: COMPARATOR.to_vec(),
        }
    }
}

/// What a directory is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Directory {
    /// A node's.
    Node(NodeRecord),
    /// One whose making was interrupted: nothing in it was ever acked.
    Unfinished,
    /// No node's.
    Fresh,
}

/// Looks for a node in `dir`.
///
/// # Errors
/// `Corruption` for a damaged NODE, `Invalid` for one of another version or kind, `Io`.
pub(super) fn inspect(storage: &dyn Storage, dir: &Path) -> Result<Directory> {
    let path = dir.join(NODE_FILE);
    match storage.open(&path, OpenMode::Read) {
        Ok(file) => {
            let length = file.len().map_err(|error| Error::io("measure", &path, error))?;
            if length > MAX_BYTES {
                return Err(Error::corruption(&path, 0, "a node file of at most 64 KiB", length));
            }
            let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
            read_exact_at(&*file, &mut bytes, 0).map_err(|error| Error::io("read", &path, error))?;
            parse(&bytes, &path).map(Directory::Node)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let names = storage.read_dir(dir).map_err(|error| Error::io("list", dir, error))?;
            let has = |name: &str| names.iter().any(|entry| entry.name == *name);
            if has(NODE_FILE_NEW) {
                return Ok(Directory::Unfinished);
            }
            if has("shard-0000") {
                return Err(Error::corruption(&path, 0, "the file NODE beside the shards", "none"));
            }
            Ok(Directory::Fresh)
        }
        Err(error) => Err(Error::io("open", &path, error)),
    }
}

/// Begins the making of a node in `dir`: from here on the directory counts as unfinished.
///
/// # Errors
/// `NoSpace` or `Io`.
pub(super) fn begin_making(storage: &dyn Storage, dir: &Path, record: &NodeRecord) -> Result<()> {
    // Under a name of its own first: at no moment is there a shard's directory and neither NODE nor NODE.new.
    let path = dir.join(NODE_FILE_TEMPORARY);
    if let Err(error) = storage.remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(Error::io("remove", &path, error));
    }
    let mut bytes = vec![];
    let head = RecordHead { magic: MAGIC, kind: KIND, version: VERSION, skippable: false };
    put_record(&mut bytes, head, 0, &to_archive(record)?);
    let file = storage.open(&path, OpenMode::CreateNew).map_err(|error| Error::io("create", &path, error))?;
    write_all_at(&*file, &bytes, 0).map_err(|error| Error::io("write", &path, error))?;
    file.sync_data().map_err(|error| Error::io("sync", &path, error))?;
    let unfinished = dir.join(NODE_FILE_NEW);
    storage.rename(&path, &unfinished).map_err(|error| Error::io("rename to", &unfinished, error))?;
    storage.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
}

/// Ends the making of a node in `dir`: from here on the directory is a node's.
///
/// # Errors
/// `Io`.
pub(super) fn finish_making(storage: &dyn Storage, dir: &Path) -> Result<()> {
    let path = dir.join(NODE_FILE);
    storage.rename(&dir.join(NODE_FILE_NEW), &path).map_err(|error| Error::io("rename to", &path, error))?;
    storage.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
}

fn parse(bytes: &[u8], path: &Path) -> Result<NodeRecord> {
    let (head, body, length) = match read_record(bytes, MAGIC, 0, bytes.len()) {
        RecordRead::Record { head, body, bytes } => (head, body, bytes),
        RecordRead::End => return Err(Error::corruption(path, 0, "a node record", "an empty file")),
        RecordRead::Broken { expected, found } => return Err(Error::corruption(path, 0, expected, found)),
    };
    if (head.kind, head.version) != (KIND, VERSION) {
        return Err(newer(path, format_args!("record kind {} version {}", head.kind, head.version)));
    }
    if length != bytes.len() {
        return Err(Error::corruption(path, length as u64, "the end of the file", "more bytes"));
    }
    let archive = OwnedArchive::<NodeRecord>::check(body, path, 0)?;
    let record = archive.get();
    let record = NodeRecord {
        format_version: record.format_version.to_native(),
        compatible_features: record.compatible_features.to_native(),
        incompatible_features: record.incompatible_features.to_native(),
        node_id: (record.node_id.0.to_native(), record.node_id.1.to_native()),
        shards: record.shards.to_native(),
        hash_seed: record.hash_seed.to_native(),
        comparator: record.comparator.to_vec(),
    };
    if record.format_version != FORMAT_VERSION {
        return Err(newer(path, format_args!("format version {}", record.format_version)));
    }
    if record.incompatible_features != 0 {
        return Err(newer(path, format_args!("feature bits {:#x}", record.incompatible_features)));
    }
    if record.comparator != COMPARATOR {
        let name = record.comparator.escape_ascii();
        return Err(newer(path, format_args!("the key order \"{name}\"")));
    }
    if record.shards == 0 {
        return Err(Error::corruption(path, 0, "at least one shard", "0 shards"));
    }
    Ok(record)
}

fn newer(path: &Path, what: std::fmt::Arguments<'_>) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "{} has {what}, which this version of dbex does not know: open it with the version that wrote it",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NodeRecord {
        NodeRecord::new(4, 99, (1, 2))
    }

    fn bytes_of(record: &NodeRecord) -> Vec<u8> {
        let mut bytes = vec![];
        let head = RecordHead { magic: MAGIC, kind: KIND, version: VERSION, skippable: false };
        put_record(&mut bytes, head, 0, &to_archive(record).unwrap());
        bytes
    }

    #[test]
    fn a_node_file_comes_back_and_every_flip_cut_and_tail_is_refused() {
        let path = Path::new("NODE");
        let bytes = bytes_of(&record());
        assert_eq!(parse(&bytes, path).unwrap(), record());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bad, path).unwrap_err().kind(), ErrorKind::Corruption, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..length], path).unwrap_err().kind(),
                ErrorKind::Corruption,
                "cut {length}"
            );
        }
        assert!(parse(&[&bytes[..], &[0]].concat(), path).is_err(), "bytes behind the record");
    }

    #[test]
    fn another_version_feature_or_order_is_refused_by_name() {
        let path = Path::new("NODE");
        let others = [
            (NodeRecord { format_version: 2, ..record() }, "format version 2"),
            (NodeRecord { incompatible_features: 8, ..record() }, "feature bits 0x8"),
            (NodeRecord { comparator: b"reverse".to_vec(), ..record() }, "\"reverse\""),
        ];
        for (other, named) in others {
            let error = parse(&bytes_of(&other), path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
