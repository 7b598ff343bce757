//! A storage that refuses, and takes down, whatever would change something, and by which threads tables are read.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use dbex::storage::{DirEntry, OpenMode, Storage, StorageFile, StorageLock};
use parking_lot::Mutex;

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    changes: Mutex<Vec<String>>,
    table_readers: Mutex<BTreeSet<String>>,
}

impl Seen {
    fn refuse<T>(&self, what: &str, path: &Path) -> io::Result<T> {
        self.changes.lock().push(format!("{what} {}", path.display()));
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// The storage; see the module.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    inner: Arc<dyn Storage>,
    seen: Arc<Seen>,
}

impl Watched {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, seen: Arc::default() }
    }

    /// What was asked for and refused.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.seen.changes.lock().clone()
    }

    /// The names of the threads that did what may wait for a table's bytes, since the last call.
    pub(crate) fn take_table_readers(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.seen.table_readers.lock())
    }

    fn note_reader(&self, path: &Path) {
        if path.extension().is_some_and(|extension| extension == "sst") {
            let name = thread::current().name().unwrap_or_default().to_owned();
            self.seen.table_readers.lock().insert(name);
        }
    }
}

impl Storage for Watched {
    fn identity(&self, path: &Path) -> (usize, PathBuf) {
        self.inner.identity(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.seen.refuse("create directory", path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.read_dir(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        if mode != OpenMode::Read {
            return self.seen.refuse("open to write", path);
        }
        self.note_reader(path);
        let file = self.inner.open(path, mode)?;
        Ok(Arc::new(WatchedFile { file, path: path.to_owned(), storage: self.clone() }))
    }

    fn rename(&self, from: &Path, _: &Path) -> io::Result<()> {
        self.seen.refuse("rename", from)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.seen.refuse("remove", path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.seen.refuse("sync directory", path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.seen.refuse("lock", path)
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.inner.try_lock_shared(path)
    }
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn StorageFile>,
    path: PathBuf,
    storage: Watched,
}

impl StorageFile for WatchedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.storage.note_reader(&self.path);
        self.file.read_at(buf, offset)
    }

    fn read_at_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at_nowait(buf, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        self.storage.seen.refuse("write", &self.path)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.seen.refuse("sync", &self.path)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        self.storage.seen.refuse("allocate", &self.path)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        self.storage.seen.refuse("truncate", &self.path)
    }
}
