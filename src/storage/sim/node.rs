//! A directory or file of the simulated disk, whatever its name, and how a path is taken apart.

use std::{
    ffi::OsStr,
    io,
    path::{Component, Path},
    sync::Arc,
};

use super::{changes::Names, content::Content};

#[derive(Clone, Debug)]
pub(super) enum Node {
    Dir(Dir),
    File(File),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    pub(super) live: Names,
    pub(super) durable: Names,
}

#[derive(Clone, Debug, Default)]
pub(super) struct File {
    /// Shared with images of the file.
    pub(super) content: Arc<Content>,
    /// The handle that created it is closed: nothing is meant to be written any more.
    pub(super) is_finished: bool,
    pub(super) is_linked: bool,
    pub(super) handles: u32,
}

impl File {
    /// A file is there until it has neither a name nor a handle.
    pub(super) fn is_present(&self) -> bool {
        self.is_linked || self.handles > 0
    }
}

/// The names of a path, from the root on; a relative path starts there too.
pub(super) fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    let mut names = vec![];
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path leads upward"));
            }
        }
    }
    Ok(names)
}
