//! The operating system's file system: the only place that names `std::fs`.
//!
//! Every file that dbex opens must be a regular file that stands where its name says: links, pipes,
//! devices and directories in its place are refused, and never waited for.

use std::{
    fs::{self, DirBuilder, File, FileType, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, OFlags},
    io::Errno,
};

use super::{DirEntry, FileKind, OpenMode, Storage, StorageFile, StorageLock, not_regular};

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What is written at once where the file system cannot reserve space by itself.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// The disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskStorage;

impl DiskStorage {
    /// The disk.
    pub const fn new() -> Self {
        Self
    }
}

impl Storage for DiskStorage {
    fn identity(&self, path: &Path) -> (usize, PathBuf) {
        (0, path.canonicalize().unwrap_or_else(|_| path.to_owned()))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                let found = entry.file_type()?;
                let kind = match (found.is_file(), found.is_dir()) {
                    (true, _) => FileKind::File,
                    (_, true) => FileKind::Dir,
                    _ => FileKind::Other,
                };
                Ok(DirEntry { name: entry.file_name(), kind })
            })
            .collect()
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(DiskFile { file: open_regular(path, &mut options)? }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Without O_DIRECTORY a pipe in the directory's place would be waited for.
        OpenOptions::new().read(true).custom_flags(raw(OFlags::DIRECTORY)).open(path)?.sync_all()
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let file =
            open_regular(path, OpenOptions::new().read(true).write(true).create(true).truncate(false))?;
        let locked = file.try_lock();
        held(file, locked)
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let file = open_regular(path, OpenOptions::new().read(true))?;
        let locked = file.try_lock_shared();
        held(file, locked)
    }
}

/// A flock belongs to the open file, not to the process, so it holds against this process too.
fn held(file: File, locked: Result<(), TryLockError>) -> io::Result<Box<dyn StorageLock>> {
    match locked {
        Ok(()) => Ok(Box::new(DiskLock { _file: file })),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Opens a regular file by its own name: links are not followed, a pipe without a reader is not waited for.
fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(FILE_MODE).custom_flags(raw(OFlags::NOFOLLOW | OFlags::NONBLOCK));
    let file = options.open(path).map_err(|error| {
        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) {
            return error;
        }
        // The system's words for a link or a pipe ("too many levels of symbolic links") explain little.
        match fs::symlink_metadata(path) {
            Ok(found) if !found.is_file() => not_regular(file_type_name(found.file_type())),
            _ => error,
        }
    })?;
    let found = file.metadata()?.file_type();
    if !found.is_file() {
        return Err(not_regular(file_type_name(found)));
    }
    // Some network and user-space file systems answer reads of a non-blocking file with short counts.
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

fn raw(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

fn file_type_name(found: FileType) -> &'static str {
    if found.is_dir() {
        "a directory"
    } else if found.is_symlink() {
        "a symbolic link"
    } else if found.is_fifo() {
        "a pipe"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[derive(Debug)]
struct DiskFile {
    file: File,
}

impl StorageFile for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    #[cfg(target_os = "linux")]
    fn read_at_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        use rustix::io::ReadWriteFlags;
        if i64::try_from(offset).is_err() {
            // The system would take -1 for "the current position".
            return Err(Errno::INVAL.into());
        }
        let mut parts = [io::IoSliceMut::new(buf)];
        rustix::io::preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT).map_err(|errno| {
            match errno {
                // Not every file system (and no old kernel) can promise not to wait.
                Errno::OPNOTSUPP | Errno::NOSYS => io::ErrorKind::WouldBlock.into(),
                _ => errno.into(),
            }
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn read_at_nowait(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    #[cfg(target_os = "linux")]
    fn write_at_synced(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        use rustix::io::ReadWriteFlags;
        if i64::try_from(offset).is_err() {
            return Err(Errno::INVAL.into());
        }
        match rustix::io::pwritev2(&self.file, &[io::IoSlice::new(buf)], offset, ReadWriteFlags::DSYNC) {
            // Not every file system (and no old kernel) knows the flag.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                let written = self.write_at(buf, offset)?;
                self.sync_data().map(|()| written)
            }
            written => Ok(written?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let reserve = || rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len);
        match rustix::io::retry_on_intr(reserve) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => extend_with_zeroes(&self.file, len),
            other => Ok(other?),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

/// Writes zeroes from the end of the file up to `len`, which takes the space by using it.
fn extend_with_zeroes(file: &File, len: u64) -> io::Result<()> {
    let mut end = file.metadata()?.len();
    while end < len {
        let bytes = usize::try_from(len - end).unwrap_or(usize::MAX).min(ZEROES.len());
        let (zeroes, _) = ZEROES.split_at(bytes);
        file.write_all_at(zeroes, end)?;
        end += bytes as u64;
    }
    Ok(())
}

/// Closing the file releases the lock.
#[derive(Debug)]
struct DiskLock {
    _file: File,
}

impl StorageLock for DiskLock {}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
