//! From which sequence number on a shard's turn is under way: what a snapshot waits for.
//!
//! A turn says where the counter stands before it takes its numbers from there, and that it is over once all of them
//! are published. One who reads the counter and then finds no turn below it has everything below it:
//!
//! ```text
//!   turn        begin(counter) ─► take numbers ─► append, sync, publish ─► end ─► (others' turns) ─► wake
//!   snapshot                 read the counter ─► passed: wait for the end, if the turn began below
//! ```
//! `tests/model_in_flight.rs` checks this file, as it is, under every interleaving with at most three preemptions.

use std::{future::poll_fn, task::Poll, task::Waker};

use super::sync::{AtomicBool, AtomicU64, Mutex, Ordering, PoisonError, fence};

const NONE: u64 = u64::MAX;

/// A shard's register; see the module.
#[derive(Debug)]
pub(super) struct InFlight {
    /// The turn under way has no number below this.
    lowest: AtomicU64,
    /// Whether there is a waker.
    waited_for: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl InFlight {
    /// No turn is under way.
    pub(super) fn new() -> Self {
        Self {
            lowest: AtomicU64::new(NONE),
            waited_for: AtomicBool::new(false),
            wakers: Mutex::new(Vec::new()),
        }
    }

    /// A turn begins to take numbers, from this one on or from a later one; if it has begun before, that stands.
    /// Whoever has the turn calls this.
    // IMPORTANT: the numbers are taken with Release, and the counter is read with Acquire, so that a snapshot whose bound
    // has the turn's numbers sees its beginning, too.
    pub(super) fn begin(&self, lowest: u64) {
        if self.lowest() == NONE {
            // Release: whoever finds it past its bound sees what the turn before has published.
            self.lowest.store(lowest, Ordering::Release);
        }
    }

    /// The lowest number that the turn under way may have; `u64::MAX` if it has taken none.
    pub(super) fn lowest(&self) -> u64 {
        self.lowest.load(Ordering::Relaxed)
    }

    /// All that the turn took is published, or never will be. [`InFlight::wake`] must follow, once the turn is over.
    pub(super) fn end(&self) {
        if self.lowest() != NONE {
            self.lowest.store(NONE, Ordering::Release);
        }
    }

    /// Wakes who waits. Not within the turn: it takes time, and runs what others wrote.
    pub(super) fn wake(&self) {
        // Either this sees who waits, or who waits sees that the turn has ended.
        fence(Ordering::SeqCst);
        if self.waited_for.load(Ordering::Relaxed) {
            let wakers = {
                let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
                self.waited_for.store(false, Ordering::Relaxed);
                std::mem::take(&mut *wakers)
            };
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Waits until no turn is under way that may have a number below `bound`, which was read from the counter before.
    pub(super) async fn passed(&self, bound: u64) {
        poll_fn(|context| {
            if self.is_past(bound) {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            self.waited_for.store(true, Ordering::Relaxed);
            drop(wakers);
            // The turn may have ended just before it could know of this.
            fence(Ordering::SeqCst);
            if self.is_past(bound) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether there is nothing to wait for; see [`InFlight::passed`].
    pub(super) fn is_past(&self, bound: u64) -> bool {
        self.lowest.load(Ordering::Acquire) >= bound
    }
}
