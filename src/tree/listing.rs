//! What lies in a shard's directory: its tables, whether the manifest names them or not, and strangers.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use super::{
    edit::{parse_table_name, table_path},
    manifest::{MANIFEST_NAME, NEW_MANIFEST_NAME},
};
use crate::{
    error::{Error, Result},
    ids::{FileNumber, Level},
    storage::{DirEntry, FileKind, Storage},
};

/// The log's directory in a shard's.
pub(super) const WAL_DIR: &str = "wal";

/// What lies in a shard's directory, beside the log's own listing.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) tables: BTreeMap<PathBuf, FileNumber>,
    pub(super) segments: Vec<PathBuf>,
    pub(super) strangers: Vec<PathBuf>,
}

/// Lists a shard's directory and those in it. What is not there is empty.
///
/// # Errors
/// `Io`.
pub(super) fn list_shard(storage: &dyn Storage, dir: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    let dirs: BTreeSet<OsString> =
        Level::ALL.iter().map(|level| level.dir_name()).chain([WAL_DIR]).map(OsString::from).collect();
    for entry in read_dir(storage, dir)? {
        let is_ours = match entry.kind {
            FileKind::Dir => dirs.contains(&entry.name),
            FileKind::File => entry.name == MANIFEST_NAME || entry.name == NEW_MANIFEST_NAME,
            FileKind::Other => false,
        };
        if !is_ours {
            listing.strangers.push(dir.join(entry.name));
        }
    }
    for level in Level::ALL {
        let level_dir = dir.join(level.dir_name());
        for entry in read_dir(storage, &level_dir)? {
            let number = entry.name.to_str().and_then(parse_table_name);
            match number {
                Some(file) if entry.kind == FileKind::File => {
                    listing.tables.insert(table_path(dir, level, file), file);
                }
                _ => listing.strangers.push(level_dir.join(entry.name)),
            }
        }
    }
    let wal_dir = dir.join(WAL_DIR);
    let wal = read_dir(storage, &wal_dir)?.into_iter().map(|entry| wal_dir.join(entry.name));
    listing.segments = wal.filter(|path| path.extension().is_some_and(|ext| ext == "wal")).collect();
    Ok(listing)
}

fn read_dir(storage: &dyn Storage, dir: &Path) -> Result<Vec<DirEntry>> {
    match storage.read_dir(dir) {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("list", dir, error)),
    }
}
