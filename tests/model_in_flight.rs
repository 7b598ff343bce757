//! What a snapshot waits for, checked under every interleaving of a few threads with at most three preemptions: whatever
//! number the counter had given out when it was read is published when the wait is over.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod sync {
    pub(crate) use loom::sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    };
    pub(crate) use std::sync::PoisonError;
}

#[path = "../src/node/in_flight.rs"]
mod in_flight;

use in_flight::InFlight;
use loom::{future::block_on, sync::Arc, thread};
use sync::{AtomicBool, AtomicU64, Ordering};

const MAX_PREEMPTIONS: usize = 3;
const TURNS: usize = 2;

/// A counter, a shard's register, and what its turns publish: a mark a number.
struct Shard {
    counter: AtomicU64,
    in_flight: InFlight,
    published: [AtomicBool; TURNS],
}

impl Shard {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            counter: AtomicU64::new(0),
            in_flight: InFlight::new(),
            published: std::array::from_fn(|_| AtomicBool::new(false)),
        })
    }

    fn turn(&self) {
        self.in_flight.begin(self.counter.load(Ordering::Acquire));
        let number = self.counter.fetch_add(1, Ordering::AcqRel);
        self.published[usize::try_from(number).unwrap()].store(true, Ordering::Relaxed);
        self.in_flight.end();
        self.in_flight.wake();
    }

    fn snapshot(&self) {
        let bound = self.counter.load(Ordering::Acquire);
        block_on(self.in_flight.passed(bound));
        for number in 0..usize::try_from(bound).unwrap() {
            assert!(self.published[number].load(Ordering::Relaxed), "{number} of {bound} is missing");
        }
    }
}

fn check(scene: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(MAX_PREEMPTIONS);
    builder.check(scene);
}

/// Runs the parts at once. None of them on the thread that starts them: the model would let it go ahead to its end.
fn at_once<const N: usize>(parts: [fn(&Shard); N]) {
    check(move || {
        let shard = Shard::new();
        let threads = parts.map(|part| {
            let shard = Arc::clone(&shard);
            thread::spawn(move || part(&shard))
        });
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

fn all_turns(shard: &Shard) {
    (0..TURNS).for_each(|_| shard.turn());
}

#[test]
fn what_the_counter_gave_out_is_there_after_the_wait() {
    at_once([all_turns, Shard::snapshot]);
}

#[test]
fn two_who_wait_are_both_woken() {
    at_once([Shard::turn, Shard::snapshot, Shard::snapshot]);
}
