//! The node's I/O budget: one token bucket, in bytes, that all background reads and writes of all shards
//! pay before they happen. Half of it is kept for flushes; what one half does not use spills to the other.
//!
//! In any window no more bytes are paid than the rate allows plus one burst and one chunk per class: a
//! chunk larger than what is left is paid into debt, and the next one waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{env::Clock, options::IoBudget};

/// What a payment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IoClass {
    /// Writing a memtable to a table.
    Flush,
    /// Merging tables, and everything else that can wait.
    Compaction,
}

/// The longest that a payer sleeps before it looks again: at the bucket, and whether it was revoked.
const MAX_NAP: Duration = Duration::from_millis(20);
/// How much unused budget is kept, as time at full rate.
const BURST: Duration = Duration::from_millis(100);

/// The bucket; see the module.
#[derive(Debug)]
pub(super) struct Budget {
    clock: Arc<dyn Clock>,
    bytes_per_second: Option<u64>,
    bucket: Mutex<Bucket>,
    /// One payer of a class at a time waits at the bucket; the others wait here, in their order.
    turnstiles: [Mutex<()>; 2],
    paid: [AtomicU64; 2],
}

#[derive(Debug)]
struct Bucket {
    refilled_at: Duration,
    /// Bytes that each class may pay now; negative: in debt.
    tokens: [i64; 2],
}

impl Budget {
    /// A bucket that starts with one burst.
    pub(super) fn new(rate: IoBudget, clock: Arc<dyn Clock>) -> Self {
        let bytes_per_second = match rate {
            IoBudget::BytesPerSecond(rate) => Some(rate.max(1)),
            IoBudget::Auto | IoBudget::Unlimited => None,
        };
        let tokens = bytes_per_second.map_or(0, |rate| burst_of(rate) / 2);
        let bucket = Mutex::new(Bucket { refilled_at: clock.monotonic(), tokens: [tokens; 2] });
        Self { clock, bytes_per_second, bucket, turnstiles: Default::default(), paid: Default::default() }
    }

    /// Pays for `bytes`, waiting until the budget has them. Returns false, unpaid, as soon as `revoked` says so.
    pub(super) fn pay(&self, class: IoClass, bytes: u64, revoked: &dyn Fn() -> bool) -> bool {
        if revoked() {
            return false;
        }
        if let Some(rate) = self.bytes_per_second {
            let _turn = loop {
                match self.turnstile(class).try_lock_for(MAX_NAP) {
                    Some(turn) => break turn,
                    None if revoked() => return false,
                    None => {}
                }
            };
            loop {
                match self.bucket.lock().try_pay(class, bytes, rate, self.clock.monotonic()) {
                    Ok(()) => break,
                    Err(wait) => self.clock.sleep(wait.min(MAX_NAP)),
                }
                if revoked() {
                    return false;
                }
            }
        }
        self.paid_counter(class).fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// All bytes paid so far for this class.
    pub(super) fn paid(&self, class: IoClass) -> u64 {
        self.paid_counter(class).load(Ordering::Relaxed)
    }

    /// The rate in bytes per second; none: unlimited.
    pub(super) fn rate(&self) -> Option<u64> {
        self.bytes_per_second
    }

    fn turnstile(&self, class: IoClass) -> &Mutex<()> {
        let [flush, compaction] = &self.turnstiles;
        if class == IoClass::Flush { flush } else { compaction }
    }

    fn paid_counter(&self, class: IoClass) -> &AtomicU64 {
        let [flush, compaction] = &self.paid;
        if class == IoClass::Flush { flush } else { compaction }
    }
}

/// The bytes of one burst at this rate.
fn burst_of(rate: u64) -> i64 {
    bytes_in(rate, BURST).max(2)
}

fn bytes_in(rate: u64, time: Duration) -> i64 {
    i64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX / 4)
}

impl Bucket {
    /// Takes `bytes` if the class is not in debt; otherwise says how long its debt lasts.
    fn try_pay(&mut self, class: IoClass, bytes: u64, rate: u64, now: Duration) -> Result<(), Duration> {
        self.refill(rate, now);
        let [flush, compaction] = &mut self.tokens;
        let tokens = if class == IoClass::Flush { flush } else { compaction };
        if *tokens <= 0 {
            let missing = u128::from(tokens.unsigned_abs() + 1);
            let nanos = u64::try_from(missing * 2_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX);
            return Err(Duration::from_nanos(nanos.max(1_000)));
        }
        *tokens -= i64::try_from(bytes).unwrap_or(i64::MAX / 4);
        Ok(())
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
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A clock on which sleeping is the only thing that takes time.
    #[derive(Debug, Default)]
    struct NapClock(AtomicU64);

    impl Clock for NapClock {
        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::Relaxed))
        }
        fn wall_ms(&self) -> u64 {
            0
        }
        fn sleep(&self, duration: Duration) {
            self.0.fetch_add(u64::try_from(duration.as_nanos()).unwrap(), Ordering::Relaxed);
        }
    }

    fn budget(rate: u64) -> (Arc<NapClock>, Budget) {
        let clock = Arc::new(NapClock::default());
        (Arc::clone(&clock), Budget::new(IoBudget::BytesPerSecond(rate), clock))
    }

    #[test]
    fn one_class_alone_gets_the_whole_rate_and_no_more_than_a_burst_above_it() {
        for class in [IoClass::Flush, IoClass::Compaction] {
            let (clock, budget) = budget(1_000_000);
            for _ in 0..1_000 {
                assert!(budget.pay(class, 10_000, &|| false));
                let paid = i64::try_from(budget.paid(class)).unwrap();
                let allowed = bytes_in(1_000_000, clock.monotonic()) + burst_of(1_000_000) + 10_000;
                assert!(paid <= allowed, "{paid} paid, {allowed} allowed");
            }
            let seconds = clock.monotonic().as_secs_f64();
            assert!((9.5..10.5).contains(&seconds), "10 MB at 1 MB/s took {seconds} s");
        }
    }

    #[test]
    fn a_flush_gets_its_half_beside_a_compaction_in_debt() {
        let (clock, budget) = budget(1_000_000);
        // A compaction takes a chunk worth many seconds, into debt; its next one would wait for them.
        assert!(budget.pay(IoClass::Compaction, 5_000_000, &|| false));
        let start = clock.monotonic();
        for _ in 0..100 {
            assert!(budget.pay(IoClass::Flush, 10_000, &|| false));
        }
        let seconds = clock.monotonic().saturating_sub(start).as_secs_f64();
        assert!(seconds < 2.1, "1 MB of flush at half of 1 MB/s took {seconds} s");
    }

    #[test]
    fn a_revoked_payer_stops_waiting_and_pays_nothing() {
        let (_clock, budget) = budget(1);
        assert!(budget.pay(IoClass::Compaction, 1_000_000, &|| false));
        let looks = AtomicU64::new(0);
        assert!(!budget.pay(IoClass::Compaction, 5, &|| looks.fetch_add(1, Ordering::Relaxed) > 3));
        assert_eq!(budget.paid(IoClass::Compaction), 1_000_000);
    }

    #[test]
    fn a_revoked_payer_stops_waiting_behind_another_one() {
        let (_clock, budget) = budget(1_000);
        let _waits_at_the_bucket = budget.turnstile(IoClass::Flush).lock();
        let looks = AtomicU64::new(0);
        assert!(!budget.pay(IoClass::Flush, 5, &|| looks.fetch_add(1, Ordering::Relaxed) > 1));
        assert_eq!(budget.paid(IoClass::Flush), 0);
    }

    #[test]
    fn an_unlimited_budget_counts_and_never_waits() {
        let clock = Arc::new(NapClock::default());
        let budget = Budget::new(IoBudget::Unlimited, clock.clone());
        assert!(budget.pay(IoClass::Flush, 1 << 40, &|| false));
        assert_eq!((budget.paid(IoClass::Flush), clock.monotonic()), (1 << 40, Duration::ZERO));
    }
}
