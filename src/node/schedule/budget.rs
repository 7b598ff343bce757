//! The node's I/O budget: one token bucket, in bytes, that all background reads and writes of all shards pay before
//! they happen. Half of it is kept for flushes; what one half does not use spills to the other. Who waits in one half
//! is served by urgency (stride scheduling: each byte that a shard pays for moves it back in the line, the less the
//! more urgent it is), which may change while a job runs, and nobody starves.
//!
//! In any window no more bytes are paid than the rate allows plus one burst: nobody pays into debt, and what is larger
//! than the bucket is paid in pieces, all of them before the chunk is read or written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::node::env::Clock;

/// What a payment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum IoClass {
    /// Writing a memtable to a table.
    Flush,
    /// Merging tables, and everything else that can wait.
    Compaction,
}

/// The longest that a payer sleeps before it looks again: at the bucket, and whether it was revoked.
const LONGEST_NAP: Duration = Duration::from_millis(20);
const SHORTEST_NAP: Duration = Duration::from_millis(1);
/// How much unused budget is kept, as time at full rate.
pub(in crate::node) const BURST: Duration = Duration::from_millis(100);
/// Nobody is more, or less, urgent than this: who has been served while it was not urgent waits no longer for its next
/// chunk, when it is, than the others take for as many chunks as these are apart.
const LEAST_URGENCY: f64 = 0.25;
const MOST_URGENCY: f64 = 16.0;
const UNLIMITED: u64 = u64::MAX;

/// Where one shard's jobs of a class stand in the line at the budget, and what they have paid.
#[derive(Debug)]
pub(in crate::node) struct Standing {
    class: IoClass,
    /// In thousandths; who is twice as urgent gets twice as much.
    urgency: AtomicU32,
    /// How far the shard has been served; changed under the bucket's lock only.
    pass: AtomicU64,
    /// Whether it waits; changed under the bucket's lock only.
    waits: AtomicBool,
    paid: AtomicU64,
}

impl Standing {
    /// Where nothing was paid yet.
    pub(in crate::node) fn new(class: IoClass) -> Self {
        let (pass, paid, waits) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Self { class, urgency: AtomicU32::new(1000), pass, waits, paid }
    }

    /// Sets how urgent the jobs are; what runs is served by it from its next chunk on.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    pub(in crate::node) fn set_urgency(&self, urgency: f64) {
        let urgency = urgency.clamp(LEAST_URGENCY, MOST_URGENCY);
        self.urgency.store((urgency * 1000.0) as u32, Ordering::Relaxed);
    }

    /// All bytes that were paid.
    pub(in crate::node) fn paid(&self) -> u64 {
        self.paid.load(Ordering::Relaxed)
    }

    fn pass(&self) -> u64 {
        self.pass.load(Ordering::Relaxed)
    }
}

/// The bucket; see the module.
#[derive(Debug)]
pub(in crate::node) struct Budget {
    clock: Arc<dyn Clock>,
    /// In bytes a second, or [`UNLIMITED`].
    rate: AtomicU64,
    bucket: Mutex<Bucket>,
    paid: [AtomicU64; 2],
    has_held_back: AtomicBool,
    compaction_pauses: AtomicBool,
}

#[derive(Debug)]
struct Bucket {
    refilled_at: Duration,
    /// Bytes that each class may pay now.
    tokens: [i64; 2],
    /// Who waits.
    waiting: Vec<Arc<Standing>>,
    /// How far each class has been served: who comes anew begins there.
    served: [u64; 2],
}

impl Budget {
    /// A bucket that is filled at a rate in bytes a second, `None`: unlimited. It starts with one burst.
    pub(in crate::node) fn new(rate: Option<u64>, clock: Arc<dyn Clock>) -> Self {
        let tokens = rate.map_or(0, |rate| burst_of(rate) / 2);
        let bucket = Mutex::new(Bucket {
            refilled_at: clock.monotonic(),
            tokens: [tokens; 2],
            waiting: Vec::new(),
            served: [0; 2],
        });
        let rate = AtomicU64::new(rate.map_or(UNLIMITED, |rate| rate.clamp(1, UNLIMITED - 1)));
        Self {
            clock,
            rate,
            bucket,
            paid: Default::default(),
            has_held_back: AtomicBool::new(false),
            compaction_pauses: AtomicBool::new(false),
        }
    }

    /// Sets the rate. It holds from the next payment on.
    pub(in crate::node) fn set_rate(&self, rate: Option<u64>) {
        let rate = rate.map_or(UNLIMITED, |rate| rate.clamp(1, UNLIMITED - 1));
        let mut bucket = self.bucket.lock();
        let before = self.rate.swap(rate, Ordering::Relaxed);
        if rate != before && rate != UNLIMITED {
            let now = self.clock.monotonic();
            if before == UNLIMITED {
                (bucket.tokens, bucket.refilled_at) = ([0; 2], now);
            } else {
                bucket.refill(before, now);
            }
            let cap = burst_of(rate) / 2;
            bucket.tokens.iter_mut().for_each(|tokens| *tokens = (*tokens).min(cap));
        }
    }

    /// Has compaction wait, or go on.
    pub(in crate::node) fn pause_compaction(&self, pauses: bool) {
        self.compaction_pauses.store(pauses, Ordering::Relaxed);
    }

    /// Pays for `bytes`, waiting until the budget has them. Returns false as soon as `revoked` says so; a part may be
    /// paid then.
    pub(in crate::node) fn pay(&self, who: &Arc<Standing>, bytes: u64, revoked: &dyn Fn() -> bool) -> bool {
        let mut left = bytes;
        loop {
            if revoked() {
                self.leave(who);
                return false;
            }
            match self.try_pay(who, left, self.clock.monotonic()) {
                Ok(paid) if paid == left => return true,
                Ok(paid) => left -= paid,
                Err(wait) => self.clock.sleep(wait.clamp(SHORTEST_NAP, LONGEST_NAP)),
            }
        }
    }

    /// Pays for `bytes`, or for a piece of them if they are many for the bucket, if it is there and nobody else's turn.
    ///
    /// # Errors
    /// When to ask again. Who asks stands in line from now on, until it has paid or [left](Budget::leave).
    pub(in crate::node) fn try_pay(
        &self,
        who: &Arc<Standing>,
        bytes: u64,
        now: Duration,
    ) -> Result<u64, Duration> {
        if who.class == IoClass::Compaction && self.compaction_pauses.load(Ordering::Relaxed) {
            return Err(LONGEST_NAP);
        }
        let rate = self.rate.load(Ordering::Relaxed);
        let paid = if rate == UNLIMITED {
            self.leave(who);
            bytes
        } else {
            let paid = self.bucket.lock().try_pay(who, bytes, rate, now);
            paid.inspect_err(|_| self.has_held_back.store(true, Ordering::Relaxed))?
        };
        who.paid.fetch_add(paid, Ordering::Relaxed);
        self.paid_counter(who.class).fetch_add(paid, Ordering::Relaxed);
        Ok(paid)
    }

    /// Leaves the line.
    pub(in crate::node) fn leave(&self, who: &Arc<Standing>) {
        // NOTE: without a limit nobody takes the lock, which a thread of low priority could hold for long.
        if who.waits.load(Ordering::Relaxed) {
            self.bucket.lock().leave(who);
        }
    }

    /// All bytes paid so far for this class.
    pub(in crate::node) fn paid(&self, class: IoClass) -> u64 {
        self.paid_counter(class).load(Ordering::Relaxed)
    }

    /// The rate in bytes per second; none: unlimited.
    pub(in crate::node) fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate != UNLIMITED)
    }

    /// Whether anybody had to wait since this was asked last.
    pub(in crate::node) fn take_has_held_back(&self) -> bool {
        self.has_held_back.swap(false, Ordering::Relaxed)
    }

    fn paid_counter(&self, class: IoClass) -> &AtomicU64 {
        of_class(&self.paid, class)
    }
}

/// The bytes of one burst at this rate.
fn burst_of(rate: u64) -> i64 {
    bytes_in(rate, BURST).max(2)
}

fn bytes_in(rate: u64, time: Duration) -> i64 {
    i64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX / 4)
}

fn of_class<T>([flush, compaction]: &[T; 2], class: IoClass) -> &T {
    if class == IoClass::Flush { flush } else { compaction }
}

fn of_class_mut<T>([flush, compaction]: &mut [T; 2], class: IoClass) -> &mut T {
    if class == IoClass::Flush { flush } else { compaction }
}

impl Bucket {
    fn try_pay(
        &mut self,
        who: &Arc<Standing>,
        bytes: u64,
        rate: u64,
        now: Duration,
    ) -> Result<u64, Duration> {
        self.refill(rate, now);
        // NOTE: half of what fits, so that nothing is lost while who waits for it naps.
        let price = i64::try_from(bytes).unwrap_or(i64::MAX).min((burst_of(rate) / 4).max(1));
        let tokens = *of_class(&self.tokens, who.class);
        if tokens < price || !self.is_first(who) {
            self.join(who);
            let missing = u128::from((price - tokens).max(0).unsigned_abs());
            // NOTE: its half of the rate is what is certain to come.
            let nanos = u64::try_from(missing * 2_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX);
            return Err(Duration::from_nanos(nanos));
        }
        *of_class_mut(&mut self.tokens, who.class) -= price;
        self.leave(who);
        let served = of_class_mut(&mut self.served, who.class);
        let pass = who.pass().max(*served);
        *served = pass;
        let paid = price.unsigned_abs();
        let step = paid.saturating_mul(1000) / u64::from(who.urgency.load(Ordering::Relaxed)).max(1);
        who.pass.store(pass.saturating_add(step.max(1)), Ordering::Relaxed);
        Ok(paid)
    }

    /// Whether nobody of the same class who waits has been served less.
    fn is_first(&self, who: &Arc<Standing>) -> bool {
        let begins_at = *of_class(&self.served, who.class);
        let pass = who.pass().max(begins_at);
        self.waiting.iter().all(|other| {
            other.class != who.class || Arc::ptr_eq(other, who) || pass <= other.pass().max(begins_at)
        })
    }

    fn join(&mut self, who: &Arc<Standing>) {
        if !self.waiting.iter().any(|other| Arc::ptr_eq(other, who)) {
            let pass = who.pass().max(*of_class(&self.served, who.class));
            who.pass.store(pass, Ordering::Relaxed);
            who.waits.store(true, Ordering::Relaxed);
            self.waiting.push(Arc::clone(who));
        }
    }

    fn leave(&mut self, who: &Arc<Standing>) {
        self.waiting.retain(|other| !Arc::ptr_eq(other, who));
        who.waits.store(false, Ordering::Relaxed);
    }

    /// Adds what the time since the last refill brought: half to each class, the overflow of one to the other.
    fn refill(&mut self, rate: u64, now: Duration) {
        let fresh = bytes_in(rate, now.saturating_sub(self.refilled_at));
        if fresh == 0 {
            return;
        }
        self.refilled_at = now;
        let cap = burst_of(rate) / 2;
        let [flush, compaction] = &mut self.tokens;
        let flush_over = add_up_to(flush, fresh / 2, cap);
        let over = add_up_to(compaction, fresh - fresh / 2 + flush_over, cap);
        add_up_to(flush, over, cap);
    }
}

/// Adds to `tokens` up to `cap`; returns what did not fit.
fn add_up_to(tokens: &mut i64, fresh: i64, cap: i64) -> i64 {
    let fits = fresh.min((cap - *tokens).max(0));
    *tokens += fits;
    fresh - fits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock on which sleeping is the only thing that takes time.
    #[derive(Debug, Default)]
    struct NapClock(AtomicU64);

    impl NapClock {
        fn pass(&self, duration: Duration) {
            self.0.fetch_add(u64::try_from(duration.as_nanos()).unwrap(), Ordering::Relaxed);
        }
    }

    impl Clock for NapClock {
        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::Relaxed))
        }
        fn wall_ms(&self) -> u64 {
            0
        }
        fn sleep(&self, duration: Duration) {
            self.pass(duration);
        }
    }

    fn budget(rate: u64) -> (Arc<NapClock>, Budget) {
        let clock = Arc::new(NapClock::default());
        (Arc::clone(&clock), Budget::new(Some(rate), clock))
    }

    fn standing(class: IoClass) -> Arc<Standing> {
        Arc::new(Standing::new(class))
    }

    #[test]
    fn one_class_alone_gets_the_whole_rate_and_no_more_than_a_burst_above_it() {
        for class in [IoClass::Flush, IoClass::Compaction] {
            let (clock, budget) = budget(1_000_000);
            let who = standing(class);
            for _ in 0..1_000 {
                assert!(budget.pay(&who, 10_000, &|| false));
                let paid = i64::try_from(budget.paid(class)).unwrap();
                let allowed = bytes_in(1_000_000, clock.monotonic()) + burst_of(1_000_000);
                assert!(paid <= allowed, "{paid} paid, {allowed} allowed");
            }
            let seconds = clock.monotonic().as_secs_f64();
            assert!((9.5..10.5).contains(&seconds), "10 MB at 1 MB/s took {seconds} s");
        }
    }

    #[test]
    fn what_is_larger_than_the_bucket_is_paid_in_pieces_before_it_is_moved() {
        let (clock, budget) = budget(1_000_000);
        let who = standing(IoClass::Compaction);
        assert!(budget.pay(&who, 5_000_000, &|| false));
        assert_eq!((budget.paid(IoClass::Compaction), who.paid()), (5_000_000, 5_000_000));
        let seconds = clock.monotonic().as_secs_f64();
        assert!((4.8..5.1).contains(&seconds), "5 MB at 1 MB/s took {seconds} s");
    }

    /// Lets payers that want all they can get pay in turn for so long; returns what each has paid.
    fn share(budget: &Budget, clock: &NapClock, payers: &[Arc<Standing>], seconds: u64) -> Vec<u64> {
        let ends = clock.monotonic() + Duration::from_secs(seconds);
        while clock.monotonic() < ends {
            let paid =
                payers.iter().filter(|who| budget.try_pay(who, 4_096, clock.monotonic()).is_ok()).count();
            if paid == 0 {
                clock.pass(SHORTEST_NAP);
            }
        }
        payers.iter().map(|who| who.paid()).collect()
    }

    #[test]
    fn a_flush_has_its_half_beside_any_number_of_compactions() {
        let (clock, budget) = budget(1_000_000);
        let mut payers: Vec<_> = (0..8).map(|_| standing(IoClass::Compaction)).collect();
        payers.push(standing(IoClass::Flush));
        let paid = share(&budget, &clock, &payers, 10);
        let flushed = paid[8];
        assert!((4_800_000..5_200_000).contains(&flushed), "{flushed} bytes of 10 MB");
        assert!(paid[..8].iter().all(|paid| (550_000..700_000).contains(paid)), "{paid:?}");
    }

    #[test]
    fn who_is_more_urgent_gets_more_of_it_at_once_and_nobody_starves() {
        let (clock, budget) = budget(1_000_000);
        let payers = [standing(IoClass::Compaction), standing(IoClass::Compaction)];
        payers[0].set_urgency(9.0);
        let before = share(&budget, &clock, &payers, 10);
        assert!(before[0] > 8 * before[1] && before[1] > 900_000, "{before:?}");
        payers[0].set_urgency(1.0);
        payers[1].set_urgency(9.0);
        let after = share(&budget, &clock, &payers, 10);
        let (first, second) = (after[0] - before[0], after[1] - before[1]);
        assert!(second > 8 * first && first > 900_000, "{first} and {second}");
    }

    #[test]
    fn who_comes_late_has_no_claim_on_the_past() {
        let (clock, budget) = budget(1_000_000);
        let payers = [standing(IoClass::Compaction), standing(IoClass::Compaction)];
        share(&budget, &clock, &payers[..1], 60);
        let before = payers[0].paid();
        let paid = share(&budget, &clock, &payers, 10);
        assert!(paid[0] - before > 4_500_000 && paid[1] > 4_500_000, "{before}, then {paid:?}");
    }

    #[test]
    fn a_revoked_payer_stops_waiting_and_holds_up_nobody() {
        let (_clock, budget) = budget(1_000);
        let (revoked, other) = (standing(IoClass::Compaction), standing(IoClass::Compaction));
        assert!(budget.pay(&other, 100, &|| false));
        let looks = AtomicU64::new(0);
        assert!(!budget.pay(&revoked, 1_000_000, &|| looks.fetch_add(1, Ordering::Relaxed) > 3));
        assert!(revoked.paid() < 1_000);
        assert!(budget.pay(&other, 100, &|| false), "or it waits for ever");
    }

    #[test]
    fn a_new_rate_holds_at_once() {
        let clock = Arc::new(NapClock::default());
        let budget = Budget::new(None, clock.clone());
        let who = standing(IoClass::Compaction);
        assert!(budget.pay(&who, 1 << 40, &|| false));
        assert_eq!((budget.paid(IoClass::Compaction), clock.monotonic()), (1 << 40, Duration::ZERO));
        assert!(!budget.take_has_held_back());
        budget.set_rate(Some(1_000_000));
        assert!(budget.try_pay(&who, 10_000, clock.monotonic()).is_err(), "no burst of what was unlimited");
        assert!(budget.take_has_held_back() && !budget.take_has_held_back());
        clock.pass(Duration::from_secs(9));
        assert!(budget.try_pay(&who, 10_000, clock.monotonic()).is_ok());
        budget.set_rate(Some(10_000));
        let at_once: u64 = std::iter::from_fn(|| budget.try_pay(&who, 1_000, clock.monotonic()).ok()).sum();
        assert_eq!(at_once, 500, "half a burst at the new rate, whatever was saved up at the old one");
        budget.set_rate(None);
        assert_eq!(budget.try_pay(&who, 1 << 40, clock.monotonic()), Ok(1 << 40));
    }

    #[test]
    fn compaction_pauses_and_flushes_go_on() {
        let (clock, budget) = budget(1_000_000);
        budget.pause_compaction(true);
        assert!(budget.try_pay(&standing(IoClass::Compaction), 1, clock.monotonic()).is_err());
        assert!(budget.try_pay(&standing(IoClass::Flush), 1, clock.monotonic()).is_ok());
        budget.pause_compaction(false);
        assert!(budget.try_pay(&standing(IoClass::Compaction), 1, clock.monotonic()).is_ok());
    }
}
