//! Which table files are in use, across all trees of a process, and so when an obsolete one can be removed.
//!
//! A shard that is re-opened shares its files with views of its former life, which open them on use: the file
//! goes when the manifest does not name it any more and the last user of either life is gone.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Use {
    users: usize,
    obsolete: bool,
}

/// Counts the users of each table file.
#[derive(Debug, Default)]
pub struct LiveTables {
    uses: Mutex<HashMap<PathBuf, Use>>,
}

impl LiveTables {
    /// How many files are in use.
    pub fn files(&self) -> usize {
        self.uses.lock().len()
    }

    /// Adds a user.
    pub(super) fn enter(&self, path: &Path) {
        self.uses.lock().entry(path.to_owned()).or_default().users += 1;
    }

    /// Takes a user away. Whether the caller must remove the file now.
    pub(super) fn leave(&self, path: &Path) -> bool {
        let mut uses = self.uses.lock();
        let Some(file) = uses.get_mut(path) else { return false };
        file.users = file.users.saturating_sub(1);
        let (unused, obsolete) = (file.users == 0, file.obsolete);
        if unused {
            uses.remove(path);
        }
        unused && obsolete
    }

    /// Says that the durable manifest does not name the file any more. Whether the caller must remove it now,
    /// because nobody uses it.
    pub(super) fn retire(&self, path: &Path) -> bool {
        match self.uses.lock().get_mut(path) {
            Some(file) => {
                file.obsolete = true;
                false
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_user_of_an_obsolete_file_removes_it() {
        let live = LiveTables::default();
        let path = Path::new("l0/0000000001.sst");
        live.enter(path);
        live.enter(path);
        assert!(!live.retire(path));
        assert!(!live.leave(path));
        assert!(live.leave(path));
        assert_eq!(live.files(), 0);
    }

    #[test]
    fn files_that_are_named_stay_and_unused_ones_go_at_once() {
        let live = LiveTables::default();
        let path = Path::new("l0/0000000001.sst");
        live.enter(path);
        assert!(!live.leave(path), "it was not retired");
        assert!(live.retire(path), "nobody uses it");
    }
}
