//! Which scans are under way, and since when: each pins the memtables and tables that it reads from.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

/// Every scan that was begun and is not at its end.
#[derive(Debug, Default)]
pub(super) struct OpenScans {
    begun: Mutex<Begun>,
}

#[derive(Debug, Default)]
struct Begun {
    /// Each one's number, and when it began, on the monotonic clock. They are few.
    scans: Vec<(u64, Duration)>,
    next_number: u64,
}

/// A scan under way, until it is dropped.
#[derive(Debug)]
pub(super) struct OpenScan {
    scans: Arc<OpenScans>,
    number: u64,
}

impl OpenScans {
    pub(super) fn begin(self: &Arc<Self>, now: Duration) -> OpenScan {
        let mut begun = self.begun.lock();
        let number = begun.next_number;
        begun.next_number += 1;
        begun.scans.push((number, now));
        drop(begun);
        OpenScan { scans: Arc::clone(self), number }
    }

    /// How many there are, and when the oldest began.
    pub(super) fn stats(&self) -> (usize, Option<Duration>) {
        let begun = self.begun.lock();
        (begun.scans.len(), begun.scans.iter().map(|scan| scan.1).min())
    }
}

impl Drop for OpenScan {
    fn drop(&mut self) {
        let scans = &mut self.scans.begun.lock().scans;
        if let Some(place) = scans.iter().position(|scan| scan.0 == self.number) {
            scans.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_scan_is_known_until_it_ends() {
        let scans = Arc::<OpenScans>::default();
        let first = scans.begin(Duration::from_secs(1));
        let second = scans.begin(Duration::from_secs(2));
        assert_eq!(scans.stats(), (2, Some(Duration::from_secs(1))));
        drop(first);
        assert_eq!(scans.stats(), (1, Some(Duration::from_secs(2))));
        drop(second);
        assert_eq!(scans.stats(), (0, None));
    }
}
