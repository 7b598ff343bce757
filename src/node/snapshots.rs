//! The positions that are read from, now or later: what compaction keeps older versions for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    ids::SeqNo,
    tree::{ReadPoint, compaction::ReadPositions, compaction::Readers},
};

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
    /// [`Snapshots::readers`], so that these know of each point that is held later, or lie below it.
    pub(super) fn hold(self: &Arc<Self>, taken: Duration, latest: impl FnOnce() -> ReadPoint) -> Hold {
        let mut held = self.held.lock();
        let point = latest();
        let number = held.next_number;
        held.next_number += 1;
        held.points.insert((point.at, number), Since { now_ms: point.now_ms, taken });
        drop(held);
        Hold { snapshots: Arc::clone(self), number, point }
    }

    /// Who reads, now or later.
    pub(super) fn readers(&self, latest: impl FnOnce() -> ReadPoint) -> Readers {
        let held = self.held.lock();
        let latest = latest();
        let mut positions: Vec<_> = held.points.keys().map(|(at, _)| *at).collect();
        positions.dedup();
        let now_ms = held.points.first_key_value().map_or(latest.now_ms, |(_, since)| since.now_ms);
        Readers { positions: ReadPositions::new(positions, latest.at), now_ms }
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
    fn whoever_reads_reads_at_a_point_that_is_held_or_later() {
        let snapshots = Arc::<Snapshots>::default();
        let readers = |latest| snapshots.readers(|| point(latest));
        let at = |positions: &[u64], time_of: u64| {
            let (latest, held) = positions.split_last().unwrap();
            let positions = ReadPositions::new(held.iter().map(|at| SeqNo(*at)), SeqNo(*latest));
            Readers { positions, now_ms: point(time_of).now_ms }
        };
        assert_eq!(readers(3), at(&[3], 3));
        let first = snapshots.hold(Duration::from_secs(1), || point(5));
        let same = snapshots.hold(Duration::from_secs(2), || point(5));
        let later = snapshots.hold(Duration::from_secs(3), || point(9));
        assert_eq!(readers(12), at(&[5, 9, 12], 5));
        assert_eq!(snapshots.stats(), HeldStats { count: 3, oldest_taken: Some(Duration::from_secs(1)) });
        drop(first);
        assert_eq!(readers(12), at(&[5, 9, 12], 5), "another one holds it");
        drop(same);
        assert_eq!(readers(12), at(&[9, 12], 9));
        drop(later);
        assert_eq!(readers(12), at(&[12], 12));
        assert_eq!(snapshots.stats(), HeldStats::default());
    }
}
