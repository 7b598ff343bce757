//! Views that were replaced and may still be read.
//!
//! Who lets go of a view last frees what only it needed: memtables, the blocks of its tables that are cached, and with an
//! obsolete file the system's pages of it, which takes tens of milliseconds. Here each is held until nobody else
//! holds it, so that no get and no put is the last. NOTE: an open scan holds the tables that it reads, and no view.

use std::sync::Arc;

use parking_lot::Mutex;

use super::view::ReadView;

#[derive(Default)]
pub(super) struct ReplacedViews(Mutex<Vec<Arc<ReadView>>>);

impl ReplacedViews {
    /// Adds a view that nobody can come to any more: who reads it does so already.
    pub(super) fn push(&self, view: Arc<ReadView>) {
        self.0.lock().push(view);
    }

    /// Whether there is one that nobody reads any more.
    pub(super) fn has_unread(&self) -> bool {
        self.0.lock().iter().any(is_unread)
    }

    /// Frees those.
    pub(super) fn free_unread(&self) {
        let unread: Vec<_> = self.0.lock().extract_if(.., |view| is_unread(view)).collect();
        // NOTE: not under the lock, which turns take.
        drop(unread);
    }
}

fn is_unread(view: &Arc<ReadView>) -> bool {
    Arc::strong_count(view) == 1
}
