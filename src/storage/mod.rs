//! The seam between dbex and the outside: every file operation goes through [`Storage`].
//!
//! ```text
//!   Storage ──► disk.rs   the operating system's file system (the only place that names std::fs)
//!          └──► sim/      a simulated file system with crashes and faults
//! ```

mod disk;
mod file_ext;
pub mod sim;

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use disk::DiskStorage;
pub use file_ext::{read_exact_at, write_all_at, write_all_at_synced};

/// A file system, real or simulated. Directories are made with mode 0700, files with 0600.
///
/// Nothing here retries: a short read or write and an interrupted call are the caller's to handle
/// ([`read_exact_at`], [`write_all_at`] do).
pub trait Storage: Send + Sync + fmt::Debug + 'static {
    /// A name for a directory of this file system that is the same however it is reached: through a link, or
    /// through another handle.
    fn identity(&self, path: &Path) -> (usize, PathBuf);

    /// Creates a directory and its missing parents. Does nothing if it exists. The name is not durable.
    ///
    /// # Errors
    /// Any error of the file system.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Lists a directory, in no order.
    ///
    /// # Errors
    /// `NotFound`, or any error of the file system.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// Opens or creates a file.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` for [`OpenMode::CreateNew`], or any error of the file system.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>>;

    /// Renames a file, replacing the target. Durable only after [`Storage::sync_dir`] of the target's directory.
    ///
    /// # Errors
    /// Any error of the file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open handles stay readable.
    ///
    /// # Errors
    /// `NotFound`, or any error of the file system.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Any error of the file system.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file (created if absent), without waiting; also against other handles
    /// of this process. It is released when the returned lock is dropped, and when the process ends.
    ///
    /// # Errors
    /// `WouldBlock` when somebody holds it.
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>>;

    /// Takes a shared lock on a file that is there, without waiting: others may share it, and nobody has it
    /// exclusively. Needs no more than the right to read the file, and changes nothing. Released as the exclusive one.
    ///
    /// # Errors
    /// `NotFound`; `WouldBlock` when somebody holds it exclusively.
    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>>;
}

/// An open file. Positions are explicit; any number of threads may use it.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty, only where it ends")]
pub trait StorageFile: Send + Sync + fmt::Debug {
    /// Reads at `offset`; returns how many bytes were read, 0 at the end. May be short.
    ///
    /// # Errors
    /// Any error of the file system.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Like [`StorageFile::read_at`], but never waits for the device. A short count, 0 or `WouldBlock` all
    /// mean: hand the whole read to a thread that may wait.
    ///
    /// # Errors
    /// `WouldBlock`, or any error of the file system.
    fn read_at_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at `offset`, extending the file if needed; returns how many bytes were written. May be short.
    ///
    /// # Errors
    /// `StorageFull`, or any error of the file system.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Writes as [`StorageFile::write_at`] does, and makes what was written durable. What else is not durable yet may
    /// stay so.
    ///
    /// # Errors
    /// Those of [`StorageFile::write_at`] and [`StorageFile::sync_data`].
    fn write_at_synced(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let written = self.write_at(buf, offset)?;
        self.sync_data().map(|()| written)
    }

    /// Makes content and length durable; not the name.
    ///
    /// # Errors
    /// Any error of the file system. IMPORTANT: after one, nothing in the file counts as durable, and a
    /// second call that succeeds proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// Any error of the file system.
    fn len(&self) -> io::Result<u64>;

    /// Reserves space up to `len` bytes and extends the file to it; the new bytes read as zero.
    ///
    /// # Errors
    /// `StorageFull`, or any error of the file system.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts the file to `len` bytes.
    ///
    /// # Errors
    /// Any error of the file system.
    fn truncate(&self, len: u64) -> io::Result<()>;
}

/// A held lock; released on drop.
pub trait StorageLock: Send + Sync + fmt::Debug {}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    ReadWrite,
    /// A file that must not exist yet, to read and write.
    CreateNew,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without the directory.
    pub name: OsString,
    /// What it names.
    pub kind: FileKind,
}

/// What a name in a directory names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A link, pipe, socket or device: never ours.
    Other,
}

/// Why something that is not a regular file is not opened.
fn not_regular(found: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {found}, not a regular file"))
}
