//! The machine's disk, but reads of tables take as long as a device does, and none is in the page cache.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dbex::storage::{DirEntry, DiskStorage, OpenMode, Storage, StorageFile, StorageLock};

/// What the simulated device adds to each read; a timer's slack of some 50 µs comes on top.
const READ: Duration = Duration::from_micros(100);

/// See the module.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    disk: DiskStorage,
    is_slow: Arc<AtomicBool>,
}

impl SlowDisk {
    /// A disk that is as fast as the machine's as long as `is_slow` is false.
    pub(crate) fn new(is_slow: Arc<AtomicBool>) -> Self {
        Self { disk: DiskStorage::new(), is_slow }
    }
}

impl Storage for SlowDisk {
    fn identity(&self, path: &Path) -> (usize, PathBuf) {
        self.disk.identity(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.read_dir(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.disk.open(path, mode)?;
        if path.extension().is_none_or(|extension| extension != "sst") {
            return Ok(file);
        }
        Ok(Arc::new(SlowFile { file, is_slow: Arc::clone(&self.is_slow) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.disk.try_lock(path)
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.disk.try_lock_shared(path)
    }
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn StorageFile>,
    is_slow: Arc<AtomicBool>,
}

impl StorageFile for SlowFile {
    #[expect(clippy::disallowed_methods, reason = "this is how long a device takes")]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.is_slow.load(Ordering::Relaxed) {
            std::thread::sleep(READ);
        }
        self.file.read_at(buf, offset)
    }

    fn read_at_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.is_slow.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.file.read_at_nowait(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
}
