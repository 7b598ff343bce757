//! Bounds the memory that the filters and indexes of all tables take. Each table has a place for its own, which is
//! filled at the table's first use; when all together exceed the bound, tables that were not used for a while give
//! theirs up (second chance), and load them again at their next use.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwapOption, Guard};
use parking_lot::Mutex;

use super::table::Loaded;

/// Places of tables that are gone are cleared away when the queue is so long and half of it is dead.
const TIDY_ABOVE: usize = 64;

/// The bound, shared by all tables of a node.
#[derive(Debug)]
pub(super) struct MetadataCache {
    max_bytes: u64,
    used_bytes: AtomicU64,
    queue: Mutex<VecDeque<Weak<MetadataPlace>>>,
}

/// The place of one table.
#[derive(Debug)]
pub(super) struct MetadataPlace {
    cache: Arc<MetadataCache>,
    loaded: ArcSwapOption<Loaded>,
    /// Whether it was used since the queue last came by.
    used: AtomicBool,
}

impl MetadataCache {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, used_bytes: AtomicU64::new(0), queue: Mutex::default() }
    }

    /// An empty place.
    pub(super) fn place(self: &Arc<Self>) -> Arc<MetadataPlace> {
        Arc::new(MetadataPlace {
            cache: Arc::clone(self),
            loaded: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
        })
    }

    /// What all places hold. One that gave up is still in memory while somebody uses it.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Lets places give up until the bound holds; `newest` is the last to.
    fn make_room(&self, newest: &Arc<MetadataPlace>) {
        // NOTE: freed behind the lock, which a get may wait for while a thread of low priority holds it.
        let mut given_up = Vec::new();
        let mut queue = self.queue.lock();
        if queue.len() > TIDY_ABOVE && queue.len() == queue.capacity() {
            queue.retain(|place| place.strong_count() > 0);
        }
        // NOTE: each place is passed by twice at the most, so this ends also when all are in use.
        let mut steps = 2 * queue.len();
        while self.used_bytes() > self.max_bytes && steps > 0 {
            steps -= 1;
            let Some(place) = queue.pop_front() else { break };
            let Some(held) = place.upgrade() else { continue };
            if held.used.swap(false, Ordering::Relaxed) {
                queue.push_back(place);
            } else {
                given_up.push((held.give_up(), held));
            }
        }
        queue.push_back(Arc::downgrade(newest));
    }
}

impl MetadataPlace {
    /// What is there; nothing before the first use, and after it was given up.
    #[inline]
    pub(super) fn get(&self) -> Guard<Option<Arc<Loaded>>> {
        // NOTE: looked at first, so that readers of different threads do not take the line from each other.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.loaded.load()
    }

    /// Fills the place, which is empty. Called by one thread at a time.
    pub(super) fn fill(self: &Arc<Self>, loaded: Arc<Loaded>) {
        self.cache.used_bytes.fetch_add(bytes_of(&loaded), Ordering::Relaxed);
        self.loaded.store(Some(loaded));
        self.cache.make_room(self);
    }

    /// The bytes that are held here.
    pub(super) fn bytes(&self) -> u64 {
        self.loaded.load().as_ref().map_or(0, |loaded| bytes_of(loaded))
    }

    /// Empties the place. Returns what was there, to be freed.
    fn give_up(&self) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.swap(None)?;
        self.cache.used_bytes.fetch_sub(bytes_of(&loaded), Ordering::Relaxed);
        Some(loaded)
    }
}

impl Drop for MetadataPlace {
    fn drop(&mut self) {
        drop(self.give_up());
    }
}

fn bytes_of(loaded: &Loaded) -> u64 {
    loaded.metadata.memory_bytes() as u64
}
