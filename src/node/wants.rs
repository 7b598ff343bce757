//! What a shard wants of the workers, so that they are told once.

use std::sync::atomic::{AtomicU8, Ordering};

/// What a shard wanted when it was noted last.
#[derive(Debug, Default)]
pub(super) struct Wants(AtomicU8);

impl Wants {
    const FLUSH: u8 = 1;
    const SEGMENT: u8 = 2;

    /// Notes whether a memtable waits for a flush, and whether the log wants a segment. True if the shard has begun
    /// to want one of them: while it is under way, the next turns do not ask for it again.
    pub(super) fn note(&self, flush: bool, segment: bool) -> bool {
        let now = if flush { Self::FLUSH } else { 0 } | if segment { Self::SEGMENT } else { 0 };
        let before = self.0.load(Ordering::Relaxed);
        if now != before {
            self.0.store(now, Ordering::Relaxed);
        }
        now & !before != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_told_once_until_it_is_there() {
        let wants = Wants::default();
        assert!(!wants.note(false, false));
        assert!(wants.note(false, true));
        assert!(!wants.note(false, true), "it is under way");
        assert!(wants.note(true, true), "the flush is news");
        assert!(!wants.note(true, true));
        assert!(!wants.note(false, true), "the flush runs");
        assert!(wants.note(true, true), "and the next one is due");
    }
}
