//! Open table files, under a bound: opened on use, closed when others are used more.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use super::read_timer::ReadTimer;
use crate::{
    error::{Error, Result},
    storage::{OpenMode, Storage, StorageFile},
};

/// Keeps up to a given number of files open for reading.
#[derive(Debug)]
pub struct FileCache {
    storage: Arc<dyn Storage>,
    files: Cache<PathBuf, Arc<dyn StorageFile>>,
    timer: Option<Arc<dyn ReadTimer>>,
}

impl FileCache {
    /// Keeps at most `max_open` files open, and at least one. A file in use stays open beyond that until
    /// its user lets go.
    pub fn new(storage: Arc<dyn Storage>, max_open: usize) -> Self {
        let max_open = max_open.max(1);
        // NOTE: a single shard, because the bound is exact only within one. Only block reads come here,
        // each of which makes a system call.
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(max_open)
            .weight_capacity(max_open as u64)
            .build()
            .expect("all that is required is given");
        let files = Cache::with_options(
            options,
            UnitWeighter,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        );
        Self { storage, files, timer: None }
    }

    /// The same cache, and `timer` is told of each block that is read for a lookup.
    #[must_use]
    pub fn timed_by(mut self, timer: Arc<dyn ReadTimer>) -> Self {
        self.timer = Some(timer);
        self
    }

    /// Runs a read that somebody waits for.
    pub(super) fn timed<T>(&self, read: impl FnOnce() -> T) -> T {
        let Some(timer) = &self.timer else { return read() };
        let (mut read, mut result) = (Some(read), None);
        timer.time(&mut || result = read.take().map(|read| read()));
        result.expect("a timer runs the read")
    }

    /// The file at `path`, opened if it is not open.
    ///
    /// # Errors
    /// `Corruption` when there is no such file, or `Io`.
    pub fn get(&self, path: &Path) -> Result<Arc<dyn StorageFile>> {
        if let Some(file) = self.files.get(path) {
            return Ok(file);
        }
        // Two threads may both open it; the later handle stays.
        let file = self.storage.open(path, OpenMode::Read).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::corruption(path, 0, "a table file", "no file"),
            _ => Error::io("open", path, error),
        })?;
        self.files.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    /// The file at `path` if it is open.
    pub fn get_open(&self, path: &Path) -> Option<Arc<dyn StorageFile>> {
        self.files.get(path)
    }

    /// Closes the file at `path` as soon as nobody uses it.
    pub fn close(&self, path: &Path) {
        self.files.remove(path);
    }

    /// How many files are held open.
    pub fn open_files(&self) -> usize {
        self.files.len()
    }

    /// Where the files are.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::SimStorage;

    #[test]
    fn no_more_files_stay_open_than_allowed() {
        let storage = SimStorage::new(1);
        let paths: Vec<PathBuf> = (0..50).map(|i| PathBuf::from(format!("{i}.sst"))).collect();
        for path in &paths {
            storage.write_file(path, &[1]);
        }
        let files = FileCache::new(Arc::new(storage), 7);
        for path in paths.iter().chain(&paths) {
            files.get(path).unwrap();
            assert!(files.open_files() <= 7);
        }
        assert!(files.open_files() >= 6);
        let open: Vec<_> = paths.iter().filter(|path| files.get_open(path).is_some()).collect();
        files.close(open[0]);
        assert!(files.get_open(open[0]).is_none());
    }

    #[test]
    fn a_missing_file_is_corruption_that_names_it() {
        let files = FileCache::new(Arc::new(SimStorage::new(1)), 7);
        let error = files.get(Path::new("l0/0000000001.sst")).unwrap_err();
        assert_eq!(error.corruption_at().unwrap().path, Path::new("l0/0000000001.sst"));
    }
}
