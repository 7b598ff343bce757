//! Walks the arena's records in the order of insertion, and keeps lists of them together with the arena in which
//! they lie. What makes a list sorted is in `runs.rs`.
#![expect(unsafe_code, reason = "a list of records that keeps their arena alive, and steps by record length")]

use std::ptr;

use super::{
    arena::{Arena, Record},
    layout::{Header, LINK_RECORD},
    sync::{Arc, Ordering},
};

/// A record, with eight bytes of its key beside it so that sorting seldom has to look at the key itself.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) word: u64,
    pub(super) record: Record<'a>,
}

/// Records of one arena, which it keeps alive.
pub(super) struct Pinned {
    arena: Arc<Arena>,
    /// IMPORTANT: they lie in `arena`, and leave this struct only with its lifetime in place of 'static.
    items: Vec<Item<'static>>,
}

impl Pinned {
    fn new(arena: &Arc<Arena>, items: Vec<Item<'static>>) -> Self {
        arena.counters.add_run(items.capacity() * size_of::<Item<'_>>());
        Self { arena: Arc::clone(arena), items }
    }

    pub(super) fn items(&self) -> &[Item<'_>] {
        &self.items
    }

    /// One list of the items of two of the same arena. `merge` can't keep an item, nor bring one in.
    pub(super) fn merge(
        a: &Self,
        b: &Self,
        merge: impl for<'x> FnOnce(&[Item<'x>], &[Item<'x>]) -> Vec<Item<'x>>,
    ) -> Self {
        assert!(Arc::ptr_eq(&a.arena, &b.arena), "both lists are of one arena");
        Self::new(&a.arena, merge(&a.items, &b.items))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.arena.counters.remove_run(self.items.capacity() * size_of::<Item<'_>>());
    }
}

/// Takes each record of an arena once.
pub(super) struct Walker {
    arena: Arc<Arena>,
    /// Behind the last record that was taken; null before the first.
    next: *const Header,
    taken: usize,
}

// SAFETY: it only reads, and keeps the arena that its pointer leads into.
unsafe impl Send for Walker {}

impl Walker {
    pub(super) fn new(arena: Arc<Arena>) -> Self {
        Self { arena, next: ptr::null(), taken: 0 }
    }

    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Takes the records that were completed since the last call, and lets `arrange` fill in the words and the
    /// order. `arrange` can't keep an item, nor bring one in.
    pub(super) fn take(&mut self, arrange: impl for<'x> FnOnce(&mut [Item<'x>])) -> Option<Pinned> {
        let complete = self.arena.counters.entries();
        let count = complete - self.taken;
        if count == 0 {
            return None;
        }
        if self.next.is_null() {
            self.next = self.arena.first.load(Ordering::Acquire);
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            // SAFETY: fewer records were taken than are complete, so there is one more to come.
            let record = unsafe { self.step() };
            items.push(Item { word: 0, record });
        }
        self.taken = complete;
        arrange(&mut items);
        Some(Pinned::new(&self.arena, items))
    }

    /// # Safety
    /// At least one complete record, counted in an Acquire load of the entries, lies at or behind `next`. The
    /// record that is returned lives no longer than the arena.
    unsafe fn step(&mut self) -> Record<'static> {
        // SAFETY: what lies at `next` was written before a record that is complete, or is one. A link record has
        // its address behind its header; an entry's record ends where its shape says.
        unsafe {
            (*self.next).witness.read();
            if (*self.next).shape.is_link_to_chunk() {
                self.next = self.link();
                (*self.next).witness.read();
            }
            let shape = (*self.next).shape;
            if shape.is_link_to_entry() {
                let record = Record::new(self.link());
                self.next = self.next.byte_add(LINK_RECORD);
                return record;
            }
            let record = Record::new(self.next);
            self.next = self.next.byte_add(shape.record_bytes());
            record
        }
    }

    /// # Safety
    /// There is a link record at `next`.
    unsafe fn link(&self) -> *const Header {
        // SAFETY: the caller's promise.
        unsafe { self.next.add(1).cast::<*const Header>().read() }
    }
}
