//! The lock of a data directory: one node at a time, of any process. An open waits for a node of this
//! process that is already closing; any other holder is an error at once.

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

/// The directories that nodes of this process hold, and whether each is closing. The key tells apart
/// storages too: simulated ones use the same paths.
static HELD: LazyLock<(Mutex<HashMap<Key, bool>>, Condvar)> = LazyLock::new(Default::default);
type Key = (usize, PathBuf);

/// A held directory; released on drop.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    key: Key,
    lock: OnceLock<Box<dyn StorageLock>>,
}

impl DirectoryLock {
    /// Locks `dir`, waiting for a node of this process that is closing there.
    ///
    /// # Errors
    /// `Invalid` when another node, of this or another process, is open on it; `Io`.
    pub(super) fn take(storage: &Arc<dyn Storage>, dir: &Path) -> Result<Self> {
        let key = storage.identity(dir);
        reserve(&key)?;
        // From here on the place in the table is ours; dropping `held` gives it back.
        let held = Self { key, lock: OnceLock::new() };
        let path = dir.join(LOCK_FILE);
        match storage.try_lock(&path) {
            Ok(lock) => {
                let _ = held.lock.set(lock);
                Ok(held)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use(dir, "another process")),
            Err(error) => Err(Error::io("lock", &path, error)),
        }
    }

    /// Says that the node is closing: an open of the same directory waits from here on.
    pub(super) fn mark_closing(&self) {
        if let Some(closing) = HELD.0.lock().get_mut(&self.key) {
            *closing = true;
        }
        HELD.1.notify_all();
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // IMPORTANT: the file's lock goes first, so that whoever is woken finds it free.
        drop(self.lock.take());
        HELD.0.lock().remove(&self.key);
        HELD.1.notify_all();
    }
}

fn reserve(key: &Key) -> Result<()> {
    let mut held = HELD.0.lock();
    loop {
        match held.get(key) {
            None => {
                held.insert(key.clone(), false);
                return Ok(());
            }
            Some(true) => HELD.1.wait(&mut held),
            Some(false) => return Err(in_use(&key.1, "this process")),
        }
    }
}

fn in_use(dir: &Path, by: &str) -> Error {
    Error::invalid(format!(
        "the data directory {} is in use by a node of {by}: close that one first, or name another directory",
        dir.display()
    ))
}
