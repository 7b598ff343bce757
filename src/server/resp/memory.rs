//! The memory that all connections may use together: a counter with a cap, and charges against it that
//! give themselves back when dropped.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What each connection may hold even when the cap is reached, so that a node at its cap still answers.
pub(super) const FREE_BYTES: usize = 32 << 10;

/// The bytes that all connections hold, and the most they may.
#[derive(Debug)]
pub(super) struct MemoryCap {
    used: AtomicUsize,
    cap: usize,
}

impl MemoryCap {
    pub(super) fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), cap })
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn cap(&self) -> usize {
        self.cap
    }

    pub(super) fn is_reached(&self) -> bool {
        self.used() >= self.cap
    }
}

/// What one connection holds of the cap.
#[derive(Debug)]
pub(super) struct MemoryCharge {
    memory: Arc<MemoryCap>,
    bytes: usize,
}

impl MemoryCharge {
    pub(super) fn new(memory: &Arc<MemoryCap>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    /// Sets the charge to `bytes` unless that grows it, beyond what is free, past the cap.
    pub(super) fn try_set(&mut self, bytes: usize) -> bool {
        let growth = bytes.saturating_sub(self.bytes);
        if growth > 0 && bytes > FREE_BYTES && self.memory.used().saturating_add(growth) > self.memory.cap {
            return false;
        }
        self.set(bytes);
        true
    }

    /// Sets the charge to what is held already, past the cap if need be.
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.memory.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.memory.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_past_the_cap_is_refused_and_a_drop_gives_back() {
        let memory = MemoryCap::new(100 << 10);
        let mut first = MemoryCharge::new(&memory);
        let mut second = MemoryCharge::new(&memory);
        assert!(first.try_set(90 << 10));
        assert!(!second.try_set(40 << 10), "130 KiB of 100");
        assert_eq!(second.bytes(), 0);
        assert!(second.try_set(FREE_BYTES), "the free part is always granted");
        assert!(memory.is_reached());
        assert!(first.try_set(10), "shrinking is always granted");
        drop(second);
        assert_eq!(memory.used(), 10);
    }
}
