//! The right to run a shard's turn: one holder at a time, handed over in the order of asking.
//!
//! ```text
//!            try_acquire                 acquire (queues)
//!   IDLE ───────────────► RUNNING ───────────────────────► RUNNING_WAITERS
//!    ▲                     │  ▲                                  │ release: the turn goes straight
//!    └──────── release ────┘  └───────── last waiter served ─────┘ to the first waiter
//! ```
//! `IDLE` means that nobody waits, so a caller that finds it may take the turn without looking further.
//! The waiters' list is touched under its lock only; the state leaves and enters `RUNNING_WAITERS` only
//! under that lock. `tests/model_turn_gate.rs` checks this file, as it is, under every
//! interleaving with at most two preemptions.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::sync::{Arc, AtomicU32, Mutex, MutexGuard, Ordering, PoisonError};

const IDLE: u32 = 0;
const RUNNING: u32 = 1;
const RUNNING_WAITERS: u32 = 2;

/// The gate; see the module.
#[derive(Debug)]
pub(super) struct TurnGate {
    state: AtomicU32,
    waiters: Mutex<VecDeque<Arc<Waiter>>>,
}

#[derive(Debug)]
struct Waiter {
    state: Mutex<WaiterState>,
}

#[derive(Debug)]
enum WaiterState {
    Waiting(Waker),
    Granted,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TurnGate {
    /// An idle gate.
    pub(super) fn new() -> Self {
        Self { state: AtomicU32::new(IDLE), waiters: Mutex::new(VecDeque::new()) }
    }

    /// Whether nobody had the turn a moment ago.
    pub(super) fn seems_idle(&self) -> bool {
        self.state.load(Ordering::Relaxed) == IDLE
    }

    /// Takes the turn if nobody has it.
    pub(super) fn try_acquire(&self) -> Option<TurnPermit<'_>> {
        let taken = self.state.compare_exchange(IDLE, RUNNING, Ordering::Acquire, Ordering::Relaxed).is_ok();
        // IMPORTANT: the permit is made only when the turn was taken: dropping one ends whoever's turn it is.
        taken.then(|| TurnPermit { gate: self })
    }

    /// Takes the turn, waiting behind those who asked before. Dropping the future gives the place up.
    pub(super) fn acquire(&self) -> Acquire<'_> {
        Acquire { gate: self, waiter: None }
    }

    /// Joins the queue, or takes the turn if it has just become free.
    fn enqueue(&self, waker: &Waker) -> Option<Arc<Waiter>> {
        let mut waiters = lock(&self.waiters);
        loop {
            let seen = self.state.load(Ordering::Relaxed);
            let next = if seen == IDLE { RUNNING } else { RUNNING_WAITERS };
            if self.state.compare_exchange(seen, next, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                if seen == IDLE {
                    return None;
                }
                let waiter = Arc::new(Waiter { state: Mutex::new(WaiterState::Waiting(waker.clone())) });
                waiters.push_back(Arc::clone(&waiter));
                return Some(waiter);
            }
        }
    }

    fn release(&self) {
        if self.state.compare_exchange(RUNNING, IDLE, Ordering::Release, Ordering::Relaxed).is_ok() {
            return;
        }
        let mut waiters = lock(&self.waiters);
        let next = waiters.pop_front();
        let state = match (&next, waiters.is_empty()) {
            (None, _) => IDLE,
            (Some(_), true) => RUNNING,
            (Some(_), false) => RUNNING_WAITERS,
        };
        self.state.store(state, Ordering::Release);
        // IMPORTANT: granted under the list's lock, so that a waiter that gives up sees either its place
        // in the list or the grant, never neither.
        let waker = next.map(|waiter| std::mem::replace(&mut *lock(&waiter.state), WaiterState::Granted));
        drop(waiters);
        if let Some(WaiterState::Waiting(waker)) = waker {
            waker.wake();
        }
    }

    /// Takes a waiter out of the queue; if it was granted the turn meanwhile, passes the turn on.
    fn give_up(&self, waiter: &Arc<Waiter>) {
        let mut waiters = lock(&self.waiters);
        let granted = matches!(*lock(&waiter.state), WaiterState::Granted);
        if granted {
            drop(waiters);
            self.release();
            return;
        }
        waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        if waiters.is_empty() {
            // Whoever runs now finds RUNNING again; a release that already saw waiters finds the list empty.
            let _ =
                self.state.compare_exchange(RUNNING_WAITERS, RUNNING, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Default for TurnGate {
    fn default() -> Self {
        Self::new()
    }
}

/// The turn itself; released on drop.
#[derive(Debug)]
#[must_use = "dropping the permit ends the turn"]
pub(super) struct TurnPermit<'a> {
    gate: &'a TurnGate,
}

impl Drop for TurnPermit<'_> {
    fn drop(&mut self) {
        self.gate.release();
    }
}

/// Waits for the turn; made by [`TurnGate::acquire`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub(super) struct Acquire<'a> {
    gate: &'a TurnGate,
    waiter: Option<Arc<Waiter>>,
}

impl<'a> Future for Acquire<'a> {
    type Output = TurnPermit<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gate = self.gate;
        if let Some(waiter) = &self.waiter {
            let mut state = lock(&waiter.state);
            if let WaiterState::Waiting(waker) = &mut *state {
                waker.clone_from(context.waker());
                return Poll::Pending;
            }
            drop(state);
            self.waiter = None;
            return Poll::Ready(TurnPermit { gate });
        }
        match gate.enqueue(context.waker()) {
            None => Poll::Ready(TurnPermit { gate }),
            Some(waiter) => {
                self.waiter = Some(waiter);
                Poll::Pending
            }
        }
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            self.gate.give_up(&waiter);
        }
    }
}
