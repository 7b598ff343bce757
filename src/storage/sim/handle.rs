//! The simulated file system as a [`Storage`]: open files and locks.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    SimStorage,
    changes::NodeId,
    fault::{Errno, OpKind},
    step::Op,
};
use crate::storage::{DirEntry, OpenMode, Storage, StorageFile, StorageLock};

impl Storage for SimStorage {
    fn identity(&self, path: &Path) -> (usize, PathBuf) {
        (Arc::as_ptr(&self.world).addr(), path.to_owned())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.world.lock().create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.world.lock().read_dir(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let path: Arc<Path> = path.into();
        let node = self.world.lock().open(&path, mode)?.0;
        Ok(Arc::new(SimFile { storage: self.clone(), path, node, mode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world.lock().rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.world.lock().remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.world.lock().sync_dir(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let node = self.world.lock().try_lock(path)?.0;
        Ok(Box::new(SimLock { storage: self.clone(), node }))
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let node = self.world.lock().try_lock_shared(path)?.0;
        Ok(Box::new(SimLock { storage: self.clone(), node }))
    }
}

struct SimFile {
    storage: SimStorage,
    path: Arc<Path>,
    node: NodeId,
    mode: OpenMode,
}

impl SimFile {
    fn op(&self, kind: OpKind) -> Op {
        Op::new(kind, Arc::clone(&self.path))
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.mode == OpenMode::Read { Err(Errno::BADF.into()) } else { Ok(()) }
    }
}

impl StorageFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let op = self.op(OpKind::Read).at(offset, buf.len() as u64);
        self.storage.world.lock().read(op, self.node, buf)
    }

    fn read_at_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let op = self.op(OpKind::ReadNowait).at(offset, buf.len() as u64);
        self.storage.world.lock().read(op, self.node, buf)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.check_writable()?;
        let op = self.op(OpKind::Write).at(offset, buf.len() as u64);
        self.storage.world.lock().write(op, self.node, buf)
    }

    fn write_at_synced(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let before = self.len()?;
        let written = self.write_at(buf, offset)?;
        let end = offset + written as u64;
        // NOTE: a file that grows has a new length to be made durable, too.
        let op = self.op(OpKind::Sync);
        let op = if end <= before { op.at(offset, written as u64) } else { op };
        self.storage.world.lock().sync(op, self.node).map(|()| written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.world.lock().sync(self.op(OpKind::Sync), self.node)
    }

    fn len(&self) -> io::Result<u64> {
        self.storage.world.lock().len(self.op(OpKind::Len), self.node)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.storage.world.lock().allocate(self.op(OpKind::Allocate).at(0, len), self.node)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.storage.world.lock().truncate(self.op(OpKind::Truncate).at(0, len), self.node)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.storage.world.lock().volume.closed(self.node, self.mode == OpenMode::CreateNew);
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct SimLock {
    storage: SimStorage,
    node: NodeId,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.storage.world.lock().unlock(self.node);
    }
}

impl StorageLock for SimLock {}
