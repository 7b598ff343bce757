//! Whether this thread's gets mostly ask for keys that are not there: then a filter is worth waiting for, and what a hit
//! needs is not worth asking for. What a workload asks for changes rarely; a wrong guess costs one wait or one look at
//! an index, no more.

use std::cell::Cell;

/// A guess changes after this many of the other kind, at most.
const MEMORY: u8 = 8;

thread_local! {
    /// How many of the last filters said no: one more for each, one less for each that did not.
    static MISSES: Cell<u8> = const { Cell::new(0) };
}

/// Whether the next key is most likely not there.
#[inline]
pub(super) fn expects_miss() -> bool {
    MISSES.get() > MEMORY / 2
}

/// Notes what a filter said.
#[inline]
pub(super) fn note(is_miss: bool) {
    let misses = MISSES.get();
    MISSES.set(if is_miss { (misses + 1).min(MEMORY) } else { misses.saturating_sub(1) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guess_follows_what_most_gets_found() {
        let after = |notes: &[bool]| {
            for is_miss in notes {
                note(*is_miss);
            }
            expects_miss()
        };
        assert!(!after(&[]), "nothing is known yet");
        assert!(!after(&[true; 4]), "a few misses may be chance");
        assert!(after(&[true]));
        assert!(after(&[true; 1_000]));
        assert!(after(&[false; 3]), "a few hits, too");
        assert!(!after(&[false]), "however long it was otherwise");
        assert!(!after(&[false; 1_000]));
        assert!(after(&[true, true, true, false, true, true, true]), "most of them");
    }
}
