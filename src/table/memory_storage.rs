//! Files in memory, for this module's tests.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::storage::{DirEntry, OpenMode, Storage, StorageFile, StorageLock};

/// Files by path; nothing else.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryStorage {
    files: Arc<Mutex<HashMap<PathBuf, Arc<MemoryFile>>>>,
}

#[derive(Debug, Default)]
pub(super) struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
    cold: AtomicBool,
    reads: AtomicU64,
    synced: AtomicBool,
}

impl MemoryStorage {
    pub(super) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let file = MemoryFile { bytes: Mutex::new(bytes), ..Default::default() };
        self.files.lock().insert(path.to_owned(), Arc::new(file));
    }

    pub(super) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.files.lock()[path].bytes.lock().clone()
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.files.lock().contains_key(path)
    }

    /// Whether reads that must not wait are refused.
    pub(super) fn set_cold(&self, path: &Path, cold: bool) {
        self.files.lock()[path].cold.store(cold, Ordering::Relaxed);
    }

    pub(super) fn reads(&self, path: &Path) -> u64 {
        self.files.lock()[path].reads.load(Ordering::Relaxed)
    }

    pub(super) fn is_synced(&self, path: &Path) -> bool {
        self.files.lock()[path].synced.load(Ordering::Relaxed)
    }
}

impl Storage for MemoryStorage {
    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn read_dir(&self, _path: &Path) -> io::Result<Vec<DirEntry>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut files = self.files.lock();
        match (files.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(Arc::clone(file) as _),
            (None, OpenMode::CreateNew) => {
                let file = Arc::<MemoryFile>::default();
                files.insert(path.to_owned(), Arc::clone(&file));
                Ok(file)
            }
            (None, _) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.files.lock().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self, _path: &Path) -> io::Result<Box<dyn StorageLock>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl StorageFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.lock();
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }

    fn read_at_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.cold.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.bytes.lock();
        let from = usize::try_from(offset).unwrap();
        let end = (from + buf.len()).max(bytes.len());
        bytes.resize(end, 0);
        bytes[from..from + buf.len()].copy_from_slice(buf);
        Ok(buf.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.synced.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().truncate(usize::try_from(len).unwrap());
        Ok(())
    }
}
