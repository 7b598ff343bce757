//! The right to run a shard's turn: one holder at a time.
//!
//! ```text
//!            try_acquire                 acquire, freed (queue)
//!   IDLE ───────────────► RUNNING ───────────────────────► RUNNING_WAITERS ◄──────────────┐
//!    ▲                     │  ▲                                  │ release: the first     │ try_acquire,
//!    └──────── release ────┘  └──── the last one has the turn ───┤ waiter has the turn,   │ acquire
//!    ▲                                                           │ or is told             │
//!    └────────────── the last one was told ──────────────────────┴── it was told ──► IDLE_WAITERS
//! ```
//! Who [acquires](TurnGate::acquire) the turn has it in the order of asking among such: it goes straight to him, and stands
//! still until he runs. Who waits until it is [freed](TurnGate::freed) is told, in the order of asking, and may find that
//! somebody else was quicker: the turn does not stand still until he is awake. An idle gate has no other waiters than these.
//!
//! The waiters' list is touched under its lock only, and so are the states in which somebody waits, but for an idle gate that
//! is taken. `tests/model_turn_gate.rs` checks this file, as it is, under every interleaving with at most two preemptions.

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
const IDLE_WAITERS: u32 = 3;

const fn is_idle(state: u32) -> bool {
    matches!(state, IDLE | IDLE_WAITERS)
}

/// The gate; see the module.
#[derive(Debug)]
pub(super) struct TurnGate {
    state: AtomicU32,
    waiters: Mutex<VecDeque<Arc<Waiter>>>,
}

#[derive(Debug)]
struct Waiter {
    wants: Wants,
    state: Mutex<WaiterState>,
}

/// What a waiter gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// The turn itself.
    Turn,
    /// Word that somebody's turn has ended.
    Word,
}

#[derive(Debug)]
enum WaiterState {
    Waiting(Waker),
    Served,
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
        is_idle(self.state.load(Ordering::Relaxed))
    }

    /// Takes the turn if nobody has it.
    pub(super) fn try_acquire(&self) -> Option<TurnPermit<'_>> {
        let take = |idle, running| {
            self.state.compare_exchange(idle, running, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let taken = take(IDLE, RUNNING) || take(IDLE_WAITERS, RUNNING_WAITERS);
        // IMPORTANT: the permit is made only when the turn was taken: dropping one ends whoever's turn it is.
        taken.then(|| TurnPermit { gate: self })
    }

    /// Takes the turn, waiting behind those who asked for it before. Dropping the future gives the place up.
    pub(super) fn acquire(&self) -> Acquire<'_> {
        Acquire(Queued { gate: self, wants: Wants::Turn, waiter: None })
    }

    /// Waits until a turn has ended, or the gate is idle. IMPORTANT: who was told must try to take the turn, if only to drop
    /// it again: those behind him are told when it ends.
    pub(super) fn freed(&self) -> Freed<'_> {
        Freed(Queued { gate: self, wants: Wants::Word, waiter: None })
    }

    /// Joins the queue; or, if the gate is idle, takes the turn where that is what is wanted.
    fn enqueue(&self, wants: Wants, waker: &Waker) -> Option<Arc<Waiter>> {
        let mut waiters = lock(&self.waiters);
        loop {
            let seen = self.state.load(Ordering::Relaxed);
            let next = match (seen, wants) {
                (IDLE | IDLE_WAITERS, Wants::Word) => return None,
                (IDLE, Wants::Turn) => RUNNING,
                _ => RUNNING_WAITERS,
            };
            if self.state.compare_exchange(seen, next, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                if is_idle(seen) {
                    return None;
                }
                let state = Mutex::new(WaiterState::Waiting(waker.clone()));
                let waiter = Arc::new(Waiter { wants, state });
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
        let is_told = waiters.front().is_some_and(|waiter| waiter.wants == Wants::Word);
        let told = if is_told { waiters.pop_front() } else { None };
        // IMPORTANT: whoever takes an idle gate would pass those who are to have the turn in their order.
        let next = waiters.iter().position(|waiter| waiter.wants == Wants::Turn);
        let next = next.and_then(|place| waiters.remove(place));
        let state = match (next.is_some(), waiters.is_empty()) {
            (false, true) => IDLE,
            (false, false) => IDLE_WAITERS,
            (true, true) => RUNNING,
            (true, false) => RUNNING_WAITERS,
        };
        self.state.store(state, Ordering::Release);
        // IMPORTANT: served under the list's lock, so that a waiter that gives up sees either its place
        // in the list or that it was served, never neither.
        let serve = |waiter: Arc<Waiter>| std::mem::replace(&mut *lock(&waiter.state), WaiterState::Served);
        let served = [next.map(serve), told.map(serve)];
        drop(waiters);
        for waiter in served.into_iter().flatten() {
            if let WaiterState::Waiting(waker) = waiter {
                waker.wake();
            }
        }
    }

    /// Takes a waiter out of the queue; if it was served meanwhile, passes on what it got.
    fn give_up(&self, waiter: &Arc<Waiter>) {
        let mut waiters = lock(&self.waiters);
        let served = matches!(*lock(&waiter.state), WaiterState::Served);
        if served {
            drop(waiters);
            match waiter.wants {
                Wants::Turn => self.release(),
                // Whoever has the turn tells the next one.
                Wants::Word => drop(self.try_acquire()),
            }
            return;
        }
        waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        if waiters.is_empty() {
            // Whoever runs now finds RUNNING again; a release that already saw waiters finds the list empty.
            let leave = |from, to| {
                self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            };
            let _ = leave(IDLE_WAITERS, IDLE) || leave(RUNNING_WAITERS, RUNNING);
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
pub(super) struct Acquire<'a>(Queued<'a>);

impl<'a> Future for Acquire<'a> {
    type Output = TurnPermit<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gate = self.0.gate;
        self.0.poll(context).map(|()| TurnPermit { gate })
    }
}

/// Waits for the end of somebody's turn; made by [`TurnGate::freed`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub(super) struct Freed<'a>(Queued<'a>);

impl Future for Freed<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll(context)
    }
}

/// A place in the queue, once it was asked for.
#[derive(Debug)]
struct Queued<'a> {
    gate: &'a TurnGate,
    wants: Wants,
    waiter: Option<Arc<Waiter>>,
}

impl Queued<'_> {
    /// Whether it has been served.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(waiter) = &self.waiter {
            let mut state = lock(&waiter.state);
            if let WaiterState::Waiting(waker) = &mut *state {
                waker.clone_from(context.waker());
                return Poll::Pending;
            }
            drop(state);
            self.waiter = None;
            return Poll::Ready(());
        }
        self.waiter = self.gate.enqueue(self.wants, context.waker());
        if self.waiter.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            self.gate.give_up(&waiter);
        }
    }
}
