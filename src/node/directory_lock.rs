//! The lock of a data directory: one node at a time, of any process, or any number of read-only ones. An open waits
//! for what is in its way in this process and already closing; any other holder is an error at once.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, OnceLock},
};

use parking_lot::{Condvar, Mutex};

use crate::{
    error::{Error, Result},
    storage::{Storage, StorageLock},
};

const LOCK_FILE: &str = "LOCK";

/// The directories that nodes of this process hold. The key tells apart storages too: simulated ones use the same
/// paths.
static HELD: LazyLock<(Mutex<HashMap<Key, Holders>>, Condvar)> = LazyLock::new(Default::default);
type Key = (usize, PathBuf);

/// Who of this process holds a directory: one node or read-only ones, never both.
#[derive(Debug, Default)]
struct Holders {
    mode: LockMode,
    count: usize,
    /// How many of them are closing.
    closing: usize,
}

/// What a directory is locked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LockMode {
    #[default]
    Write,
    Read,
}

/// A held directory; released on drop.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    key: Key,
    lock: OnceLock<Box<dyn StorageLock>>,
    is_closing: OnceLock<()>,
}

impl DirectoryLock {
    /// Locks `dir` for a node, waiting for those of this process that are closing there.
    ///
    /// # Errors
    /// `Invalid` when another node, of this or another process, is open on it, read-only or not; `Io`.
    pub(super) fn take(storage: &Arc<dyn Storage>, dir: &Path) -> Result<Self> {
        let held = Self::reserve(storage.identity(dir), LockMode::Write)?;
        let path = dir.join(LOCK_FILE);
        match storage.try_lock(&path) {
            Ok(lock) => Ok(held.with(lock)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // NOTE: held for this moment only; it can be in nobody's way who would have come through now.
                let holder = if storage.try_lock_shared(&path).is_ok() { READER } else { NODE };
                Err(in_use(dir, holder, "another process"))
            }
            Err(error) => Err(Error::io("lock", &path, error)),
        }
    }

    /// Locks `dir` for a reader, beside others, waiting for a node of this process that is closing there. Changes
    /// nothing on disk: where there is no lock file, nobody of another process is kept out.
    ///
    /// # Errors
    /// `Invalid` when a node, of this or another process, is open on it; `Io`.
    pub(super) fn share(storage: &Arc<dyn Storage>, dir: &Path) -> Result<Self> {
        let held = Self::reserve(storage.identity(dir), LockMode::Read)?;
        let path = dir.join(LOCK_FILE);
        match storage.try_lock_shared(&path) {
            Ok(lock) => Ok(held.with(lock)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(held),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(in_use(dir, NODE, "another process"))
            }
            Err(error) => Err(Error::io("lock", &path, error)),
        }
    }

    /// Takes a place in this process's table; dropping it gives it back.
    fn reserve(key: Key, mode: LockMode) -> Result<Self> {
        let mut held = HELD.0.lock();
        loop {
            let holders = held.entry(key.clone()).or_default();
            if holders.count == 0 {
                *holders = Holders { mode, count: 1, closing: 0 };
                break;
            }
            if (holders.mode, mode) == (LockMode::Read, LockMode::Read) {
                holders.count += 1;
                break;
            }
            if holders.closing < holders.count {
                let holder = if holders.mode == LockMode::Read { READER } else { NODE };
                return Err(in_use(&key.1, holder, "this process"));
            }
            HELD.1.wait(&mut held);
        }
        drop(held);
        Ok(Self { key, lock: OnceLock::new(), is_closing: OnceLock::new() })
    }

    fn with(self, lock: Box<dyn StorageLock>) -> Self {
        let _ = self.lock.set(lock);
        self
    }

    /// Says that the node is closing: an open that it is in the way of waits from here on.
    pub(super) fn mark_closing(&self) {
        if self.is_closing.set(()).is_ok()
            && let Some(holders) = HELD.0.lock().get_mut(&self.key)
        {
            holders.closing += 1;
        }
        HELD.1.notify_all();
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // IMPORTANT: the file's lock goes first, so that whoever is woken finds it free.
        drop(self.lock.take());
        let mut held = HELD.0.lock();
        if let Some(holders) = held.get_mut(&self.key) {
            holders.count -= 1;
            holders.closing -= usize::from(self.is_closing.get().is_some());
            if holders.count == 0 {
                held.remove(&self.key);
            }
        }
        drop(held);
        HELD.1.notify_all();
    }
}

const NODE: &str = "node";
const READER: &str = "reader (a read-only node)";

fn in_use(dir: &Path, holder: &str, of: &str) -> Error {
    Error::invalid(format!(
        "the data directory {} is in use by a {holder} of {of}: close that one first, or name another directory",
        dir.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::ErrorKind, storage::sim::SimStorage};

    fn storage() -> Arc<dyn Storage> {
        let sim = SimStorage::new(1);
        sim.write_file("/data/LOCK", &[]);
        Arc::new(sim)
    }

    #[test]
    fn readers_share_and_keep_a_node_out_and_a_node_keeps_all_out() {
        let (storage, dir) = (storage(), Path::new("/data"));
        let refused = |result: Result<DirectoryLock>, by: &str| {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(by), "{error}");
        };
        let first = DirectoryLock::share(&storage, dir).unwrap();
        let second = DirectoryLock::share(&storage, dir).unwrap();
        refused(DirectoryLock::take(&storage, dir), "a reader (a read-only node) of this process");
        first.mark_closing();
        refused(DirectoryLock::take(&storage, dir), "a reader (a read-only node) of this process");
        drop(first);
        refused(DirectoryLock::take(&storage, dir), "a reader (a read-only node) of this process");
        drop(second);
        let node = DirectoryLock::take(&storage, dir).unwrap();
        refused(DirectoryLock::take(&storage, dir), "a node of this process");
        refused(DirectoryLock::share(&storage, dir), "a node of this process");
        drop(node);
        drop(DirectoryLock::share(&storage, dir).unwrap());
    }

    #[test]
    fn other_processes_are_told_apart_too() {
        let (storage, dir) = (storage(), Path::new("/data"));
        let theirs = storage.try_lock_shared(Path::new("/data/LOCK")).unwrap();
        let error = DirectoryLock::take(&storage, dir).unwrap_err().to_string();
        assert!(error.contains("a reader (a read-only node) of another process"), "{error}");
        drop(DirectoryLock::share(&storage, dir).unwrap());
        drop(theirs);
        let theirs = storage.try_lock(Path::new("/data/LOCK")).unwrap();
        for refused in [DirectoryLock::take(&storage, dir), DirectoryLock::share(&storage, dir)] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("a node of another process"), "{error}");
        }
        drop(theirs);
        drop(DirectoryLock::take(&storage, dir).unwrap());
    }

    #[test]
    fn an_open_waits_for_who_is_closing_in_its_way() {
        let (storage, dir) = (storage(), Path::new("/data"));
        let readers = [(); 2].map(|()| DirectoryLock::share(&storage, dir).unwrap());
        readers.iter().for_each(DirectoryLock::mark_closing);
        std::thread::scope(|scope| {
            let node = scope.spawn(|| DirectoryLock::take(&storage, dir));
            drop(readers);
            let node = node.join().unwrap().unwrap();
            node.mark_closing();
            let reader = scope.spawn(|| DirectoryLock::share(&storage, dir));
            drop(node);
            reader.join().unwrap().unwrap();
        });
        assert!(!HELD.0.lock().contains_key(&storage.identity(dir)));
    }
}
