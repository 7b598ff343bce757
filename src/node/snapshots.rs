//! The positions that are read from, now or later: what compaction keeps older versions for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{ids::SeqNo, tree::ReadPoint};

/// Every snapshot that is held.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// By position, and numbered: several may be taken at one.
    points: BTreeMap<(SeqNo, u64), Since>,
    next_number: u64,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    now_ms: u64,
    taken: Duration,
}

/// Keeps a position readable until it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    snapshots: Arc<Snapshots>,
    number: u64,
    pub point: ReadPoint,
}

/// How many snapshots are held, and when the oldest was taken, on the monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldStats {
    pub count: usize,
    pub oldest_taken: Option<Duration>,
}

impl Snapshots {
    /// Holds the point that `latest` returns: one who reads now reads there. It is called under the lock, as in
    /// [`Snapshots::floor`], so that no floor lies above a point that is held later.
    pub(super) fn hold(self: &Arc<Self>, taken: Duration, latest: impl FnOnce() -> ReadPoint) -> Hold {
        let mut held = self.held.lock();
        let point = latest();
        let number = held.next_number;
        held.next_number += 1;
        held.points.insert((point.at, number), Since { now_ms: point.now_ms, taken });
        drop(held);
        Hold { snapshots: Arc::clone(self), number, point }
    }

    /// Nobody reads below this, now or later.
    pub(super) fn floor(&self, latest: impl FnOnce() -> ReadPoint) -> ReadPoint {
        let held = self.held.lock();
        match held.points.first_key_value() {
            Some(((at, _), since)) => ReadPoint { at: *at, now_ms: since.now_ms },
            None => latest(),
        }
    }

    /// What is held.
    pub(super) fn stats(&self) -> HeldStats {
        let held = self.held.lock();
        let oldest_taken = held.points.values().map(|since| since.taken).min();
        HeldStats { count: held.points.len(), oldest_taken }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.snapshots.held.lock().points.remove(&(self.point.at, self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: u64) -> ReadPoint {
        ReadPoint { at: SeqNo(at), now_ms: at * 10 }
    }

    #[test]
    fn the_floor_is_the_oldest_point_that_is_held() {
        let snapshots = Arc::<Snapshots>::default();
        let floor = |latest| snapshots.floor(|| point(latest));
        assert_eq!(floor(3), point(3));
        let first = snapshots.hold(Duration::from_secs(1), || point(5));
        let same = snapshots.hold(Duration::from_secs(2), || point(5));
        let later = snapshots.hold(Duration::from_secs(3), || point(9));
        assert_eq!(floor(12), point(5));
        assert_eq!(snapshots.stats(), HeldStats { count: 3, oldest_taken: Some(Duration::from_secs(1)) });
        drop(first);
        assert_eq!(floor(12), point(5), "another one holds it");
        drop(same);
        assert_eq!(floor(12), point(9));
        drop(later);
        assert_eq!(floor(12), point(12));
        assert_eq!(snapshots.stats(), HeldStats::default());
    }
}
