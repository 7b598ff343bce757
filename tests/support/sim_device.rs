//! A device below a simulated file system: it serves one request after the other, reads, writes, syncs and changes of
//! names take their time, and it keeps account of what background work does with tables. It can be slow for a while, and
//! code that uses it can be made to panic.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dbex::{
    Clock,
    storage::{DirEntry, OpenMode, Storage, StorageFile, StorageLock, sim::OpKind},
};
use parking_lot::Mutex;

use crate::sim_threads::current_name;

/// What the device takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    pub(crate) bytes_per_second: u64,
    pub(crate) request: Duration,
    pub(crate) sync: Duration,
}

/// Whoever does such a thing next panics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanicAt {
    pub(crate) kind: OpKind,
    /// In the directory of this shard.
    pub(crate) shard: usize,
    /// What the file's name contains.
    pub(crate) file: &'static str,
    /// What the thread's name begins with.
    pub(crate) thread: &'static str,
}

/// One background request on a table: when it was done, and how large it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) at: Duration,
    pub(crate) bytes: u64,
}

/// See the module. A clone is the same one.
#[derive(Clone)]
pub(crate) struct SimDevice {
    files: Arc<dyn Storage>,
    state: Arc<State>,
}

struct State {
    clock: Arc<dyn Clock>,
    speed: Mutex<Speed>,
    free_at: Mutex<Duration>,
    panics: Mutex<Vec<PanicAt>>,
    panicked: Mutex<Vec<PanicAt>>,
    background: Mutex<Vec<Transfer>>,
}

impl SimDevice {
    pub(crate) fn new(files: Arc<dyn Storage>, clock: Arc<dyn Clock>, speed: Speed) -> Self {
        let state = State {
            clock,
            speed: Mutex::new(speed),
            free_at: Mutex::default(),
            panics: Mutex::default(),
            panicked: Mutex::default(),
            background: Mutex::default(),
        };
        Self { files, state: Arc::new(state) }
    }

    pub(crate) fn set_speed(&self, speed: Speed) {
        *self.state.speed.lock() = speed;
    }

    /// Plants a panic.
    pub(crate) fn panic_at(&self, at: PanicAt) {
        self.state.panics.lock().push(at);
    }

    /// Takes back the panics that have not happened.
    pub(crate) fn forget_panics(&self) {
        self.state.panics.lock().clear();
    }

    /// How many of the planted panics of that kind have happened.
    pub(crate) fn panicked(&self, kind: OpKind, file: &str, thread: &str) -> u64 {
        let is_such = |at: &&PanicAt| (at.kind, at.file, at.thread) == (kind, file, thread);
        self.state.panicked.lock().iter().filter(is_such).count() as u64
    }

    /// What flushes and compactions have read of tables and written to them since this was asked last.
    pub(crate) fn take_background(&self) -> Vec<Transfer> {
        std::mem::take(&mut *self.state.background.lock())
    }

    fn file(&self, path: &Path, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(DeviceFile { file, path: path.to_owned(), state: Arc::clone(&self.state) })
    }
}

impl State {
    /// Serves a request: panics if that is planted, and otherwise takes its time.
    fn serve(&self, kind: OpKind, path: &Path, bytes: usize) {
        let thread = current_name();
        self.panic_if_planted(kind, path, &thread);
        let bytes = bytes as u64;
        let speed = *self.speed.lock();
        let cost = match kind {
            OpKind::Sync | OpKind::SyncDir => speed.sync,
            _ => speed.request + Duration::from_secs(bytes).div_f64(speed.bytes_per_second as f64),
        };
        let now = self.clock.monotonic();
        let wait = {
            let mut free_at = self.free_at.lock();
            *free_at = now.max(*free_at) + cost;
            free_at.saturating_sub(now)
        };
        // NOTE: the timer knows no less than a millisecond; what is shorter adds up in the queue.
        if wait >= Duration::from_millis(1) {
            self.clock.sleep(wait);
        }
        let is_background = thread.starts_with("dbex-flush") || thread.starts_with("dbex-compact");
        if is_background && bytes > 0 && is_table(path) {
            self.background.lock().push(Transfer { at: self.clock.monotonic(), bytes });
        }
    }

    fn panic_if_planted(&self, kind: OpKind, path: &Path, thread: &str) {
        let is_hit = |at: &PanicAt| {
            let path = path.to_string_lossy();
            let name_contains = |part: &str| path.rsplit('/').next().is_some_and(|name| name.contains(part));
            at.kind == kind
                && thread.starts_with(at.thread)
                && path.contains(&format!("shard-{:04}/", at.shard))
                && name_contains(at.file)
        };
        let mut panics = self.panics.lock();
        let Some(place) = panics.iter().position(is_hit) else { return };
        let at = panics.remove(place);
        drop(panics);
        self.panicked.lock().push(at);
        // What a panic hook would print is no news: it was planted.
        std::panic::resume_unwind(Box::new(at));
    }
}

fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sst")
}

impl fmt::Debug for SimDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDevice").finish_non_exhaustive()
    }
}

impl Storage for SimDevice {
    fn identity(&self, path: &Path) -> (usize, PathBuf) {
        self.files.identity(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.files.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.files.read_dir(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        self.state.serve(OpKind::Open, path, 0);
        Ok(self.file(path, self.files.open(path, mode)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.serve(OpKind::Rename, from, 0);
        self.files.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state.serve(OpKind::Remove, path, 0);
        self.files.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.state.serve(OpKind::SyncDir, path, 0);
        self.files.sync_dir(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.files.try_lock(path)
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.files.try_lock_shared(path)
    }
}

struct DeviceFile {
    file: Arc<dyn StorageFile>,
    path: PathBuf,
    state: Arc<State>,
}

impl fmt::Debug for DeviceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl StorageFile for DeviceFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.state.serve(OpKind::Read, &self.path, buf.len());
        self.file.read_at(buf, offset)
    }

    fn read_at_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at_nowait(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.state.serve(OpKind::Write, &self.path, buf.len());
        self.file.write_at(buf, offset)
    }

    fn write_at_synced(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.state.serve(OpKind::Write, &self.path, buf.len());
        self.state.serve(OpKind::Sync, &self.path, 0);
        self.file.write_at_synced(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state.serve(OpKind::Sync, &self.path, 0);
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.state.serve(OpKind::Allocate, &self.path, 0);
        self.file.allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.state.serve(OpKind::Truncate, &self.path, 0);
        self.file.truncate(len)
    }
}
