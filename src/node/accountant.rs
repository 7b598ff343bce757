//! Who holds how much memory in memtables, over all shards of the node. When the active ones reach half of the
//! budget, the largest is to be sealed, so that a hot shard may use more than its even share; the other half is for
//! sealed ones that are being flushed. When both are full, writers wait for a flush. Only shards that take writes are
//! asked.

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
    takes_writes: AtomicBool,
    /// Whether a seal would do anything: the shard takes writes, and its active memtable holds some.
    can_seal: AtomicBool,
    seal_asked: AtomicBool,
    noting: Mutex<()>,
}

/// What a shard holds in memtables, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    pub active: u64,
    pub sealed: u64,
    pub takes_writes: bool,
    /// Whether nothing was written to the active memtable yet.
    pub is_empty: bool,
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

    /// Notes what a shard holds now, as `read` tells. Returns the shard that should seal its active memtable, if the
    /// active ones together have reached their half, or nothing that is sealed can give memory back, and nobody was
    /// asked yet.
    pub(super) fn note(&self, shard: usize, read: impl FnOnce() -> Holding) -> Option<usize> {
        let account = self.shards.get(shard)?;
        {
            // IMPORTANT: read under the lock. If a turn wrote what it read before a flush over what the flush
            // noted, writers would wait for ever for a flush that is long done.
            let _one_at_a_time = account.noting.lock();
            let Holding { active, sealed, takes_writes, is_empty } = read();
            change(&account.active, &self.active_total, active);
            change(&account.sealed, &self.sealed_total, sealed);
            account.takes_writes.store(takes_writes, Ordering::Relaxed);
            account.can_seal.store(takes_writes && !is_empty, Ordering::Relaxed);
        }
        if self.active_total.load(Ordering::Relaxed) < self.limit / 2 && !self.is_stuck() {
            return None;
        }
        let can_seal = |index: &usize| {
            self.shards.get(*index).is_some_and(|account| account.can_seal.load(Ordering::Relaxed))
        };
        let largest = (0..self.shards.len()).filter(can_seal).max_by_key(|i| self.active(*i))?;
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

    /// The shard could not seal as it was asked: it does when it has a turn next, without being called.
    pub(super) fn seal_at_next_turn(&self, shard: usize) {
        if let Some(account) = self.shards.get(shard) {
            account.seal_asked.store(true, Ordering::Release);
        }
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

    /// Whether the budget is used up and what is sealed is all in shards that are sick.
    fn is_stuck(&self) -> bool {
        let may_go = |account: &ShardAccount| {
            account.takes_writes.load(Ordering::Relaxed) && account.sealed.load(Ordering::Relaxed) > 0
        };
        self.full() && !self.shards.iter().any(may_go)
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

    fn well(active: u64, sealed: u64) -> Holding {
        Holding { active, sealed, takes_writes: true, is_empty: false }
    }

    fn sick(active: u64, sealed: u64) -> Holding {
        Holding { takes_writes: false, ..well(active, sealed) }
    }

    #[test]
    fn the_largest_active_memtable_is_sealed_once() {
        let accountant = Accountant::new(100, 3);
        assert_eq!(accountant.note(0, || well(10, 0)), None);
        assert_eq!(accountant.note(1, || well(30, 0)), None);
        assert_eq!(
            accountant.note(2, || well(12, 0)),
            Some(1),
            "52 of 50 bytes are used, most of them by shard 1"
        );
        assert_eq!(accountant.note(2, || well(13, 0)), None, "it was asked already");
        assert!(accountant.take_seal_request(1));
        assert!(!accountant.take_seal_request(1));
        assert_eq!(accountant.note(1, || well(2, 30)), None);
        assert_eq!(accountant.totals(), (25, 30));
    }

    #[test]
    fn a_sick_shard_is_not_asked_and_keeps_nobody_from_being_asked() {
        let accountant = Accountant::new(100, 3);
        assert_eq!(accountant.note(0, || well(45, 0)), None);
        assert_eq!(accountant.note(1, || well(10, 0)), Some(0));
        assert_eq!(accountant.note(0, || sick(45, 0)), Some(1), "it was asked and has no turn any more");
        assert_eq!(accountant.note(2, || well(5, 0)), None, "shard 1 was asked already");
    }

    #[test]
    fn a_full_node_has_somebody_seal_when_nothing_that_is_sealed_can_go() {
        let accountant = Accountant::new(100, 2);
        assert_eq!(accountant.note(0, || sick(0, 90)), None);
        let empty = Holding { is_empty: true, ..well(10, 0) };
        assert_eq!(accountant.note(1, || empty), None, "there is nothing to seal");
        assert_eq!(accountant.note(1, || well(12, 0)), Some(1), "though it is far below half");
        assert!(accountant.take_seal_request(1));
        assert_eq!(accountant.note(1, || well(10, 2)), None, "a flush will give memory back");
    }

    #[test]
    fn a_seal_that_failed_waits_for_the_next_turn() {
        let accountant = Accountant::new(100, 1);
        assert_eq!(accountant.note(0, || well(60, 0)), Some(0));
        assert!(accountant.take_seal_request(0));
        accountant.seal_at_next_turn(0);
        assert_eq!(accountant.note(0, || well(60, 0)), None, "nobody is called");
        assert!(accountant.take_seal_request(0));
    }

    #[test]
    fn writers_wait_only_for_what_a_flush_can_give_back() {
        let accountant = Accountant::new(100, 1);
        accountant.note(0, || well(200, 0));
        assert!(!accountant.full(), "nothing is sealed: nothing to wait for");
        accountant.note(0, || well(50, 50));
        assert!(accountant.full());
        accountant.note(0, || well(50, 0));
        assert!(!accountant.full());
    }

    #[test]
    fn an_older_picture_is_never_noted_over_a_newer_one() {
        let (accountant, sealed) = (Accountant::new(100, 1), AtomicU64::new(0));
        let note = || accountant.note(0, || well(0, sealed.load(Ordering::SeqCst)));
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
