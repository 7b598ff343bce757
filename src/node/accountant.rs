//! Who holds how much memory in memtables, over all shards of the node. When the active ones reach half of
//! the budget, the largest is to be sealed, so that a hot shard may use more than its even share; the other half is for sealed ones
//! that are being flushed. When both are full, writers wait for a flush.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// The account of all shards.
#[derive(Debug)]
pub(super) struct Accountant {
    limit: u64,
    shards: Box<[ShardAccount]>,
    active_total: AtomicU64,
    sealed_total: AtomicU64,
}

#[derive(Debug, Default)]
struct ShardAccount {
    active: AtomicU64,
    sealed: AtomicU64,
    seal_asked: AtomicBool,
    noting: Mutex<()>,
}

impl Accountant {
    /// An account of `shards` shards that together may hold `limit` bytes.
    pub(super) fn new(limit: u64, shards: usize) -> Self {
        Self {
            limit,
            shards: (0..shards).map(|_| ShardAccount::default()).collect(),
            active_total: AtomicU64::new(0),
            sealed_total: AtomicU64::new(0),
        }
    }

    /// Notes what a shard holds now: `read` tells its active and its sealed bytes. Returns the shard that should
    /// seal its active memtable, if the active ones together have reached their half and nobody was asked yet.
    pub(super) fn note(&self, shard: usize, read: impl FnOnce() -> (u64, u64)) -> Option<usize> {
        let account = self.shards.get(shard)?;
        {
            // IMPORTANT: read under the lock. If a turn wrote what it read before a flush over what the flush
            // noted, writers would wait for ever for a flush that is long done.
            let _one_at_a_time = account.noting.lock();
            let (active, sealed) = read();
            change(&account.active, &self.active_total, active);
            change(&account.sealed, &self.sealed_total, sealed);
        }
        if self.active_total.load(Ordering::Relaxed) < self.limit / 2 {
            return None;
        }
        let largest = (0..self.shards.len()).max_by_key(|i| self.active(*i))?;
        let asked = &self.shards.get(largest)?.seal_asked;
        (!asked.swap(true, Ordering::AcqRel)).then_some(largest)
    }

    /// Takes the request to seal this shard's active memtable, if there is one.
    pub(super) fn take_seal_request(&self, shard: usize) -> bool {
        // NOTE: read before the swap, because nearly every turn asks and nearly none finds a request.
        self.shards.get(shard).is_some_and(|account| {
            account.seal_asked.load(Ordering::Relaxed) && account.seal_asked.swap(false, Ordering::AcqRel)
        })
    }

    /// Whether writers must wait for a flush: the budget is used up, and sealed memtables will give back some.
    pub(super) fn full(&self) -> bool {
        let sealed = self.sealed_total.load(Ordering::Relaxed);
        sealed > 0 && self.active_total.load(Ordering::Relaxed) + sealed >= self.limit
    }

    /// Bytes in active and in sealed memtables of all shards.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.active_total.load(Ordering::Relaxed), self.sealed_total.load(Ordering::Relaxed))
    }

    fn active(&self, shard: usize) -> u64 {
        self.shards.get(shard).map_or(0, |account| account.active.load(Ordering::Relaxed))
    }
}

/// Sets one shard's figure and moves the total by the difference.
fn change(figure: &AtomicU64, total: &AtomicU64, now: u64) {
    let before = figure.swap(now, Ordering::AcqRel);
    if now >= before {
        total.fetch_add(now - before, Ordering::AcqRel);
    } else {
        total.fetch_sub(before - now, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn the_largest_active_memtable_is_sealed_once() {
        let accountant = Accountant::new(100, 3);
        assert_eq!(accountant.note(0, || (10, 0)), None);
        assert_eq!(accountant.note(1, || (30, 0)), None);
        assert_eq!(
            accountant.note(2, || (12, 0)),
            Some(1),
            "52 of 50 bytes are used, most of them by shard 1"
        );
        assert_eq!(accountant.note(2, || (13, 0)), None, "it was asked already");
        assert!(accountant.take_seal_request(1));
        assert!(!accountant.take_seal_request(1));
        assert_eq!(accountant.note(1, || (2, 30)), None);
        assert_eq!(accountant.totals(), (25, 30));
    }

    #[test]
    fn writers_wait_only_for_what_a_flush_can_give_back() {
        let accountant = Accountant::new(100, 1);
        accountant.note(0, || (200, 0));
        assert!(!accountant.full(), "nothing is sealed: nothing to wait for");
        accountant.note(0, || (50, 50));
        assert!(accountant.full());
        accountant.note(0, || (50, 0));
        assert!(!accountant.full());
    }

    #[test]
    fn an_older_picture_is_never_noted_over_a_newer_one() {
        let (accountant, sealed) = (Accountant::new(100, 1), AtomicU64::new(0));
        let note = || accountant.note(0, || (0, sealed.load(Ordering::SeqCst)));
        let round = Barrier::new(2);
        std::thread::scope(|scope| {
            // A turn notes while a flush ends and notes.
            scope.spawn(|| {
                (0..20_000).for_each(|_| {
                    round.wait();
                    note();
                    round.wait();
                });
            });
            for now in 0..20_000 {
                round.wait();
                sealed.store(now, Ordering::SeqCst);
                note();
                round.wait();
                assert_eq!(accountant.totals(), (0, now));
            }
        });
    }
}
