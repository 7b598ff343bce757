//! The hand-over of a shard's turn, checked under every interleaving of a few threads with at most two preemptions:
//! there is never more than one turn at a time, and nobody who waits is left behind, whether for the turn or for word of its
//! end, also when a waiter gives up.

#![expect(unsafe_code, reason = "loom's cell hands out raw pointers; loom itself checks every access")]

mod sync {
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic::AtomicU32, atomic::Ordering};
    pub(crate) use std::sync::PoisonError;
}

#[path = "../src/node/turn_gate.rs"]
mod turn_gate;

use std::{future::Future, pin::pin, task::Context};

use loom::{cell::UnsafeCell, future::block_on, sync::Arc, thread};
use turn_gate::TurnGate;

/// Checks every interleaving with at most this many forced switches of threads; each further one multiplies
/// the time, and bugs of a hand-over between three threads need two or three.
const MAX_PREEMPTIONS: usize = 2;

fn check(scene: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(MAX_PREEMPTIONS);
    builder.check(scene);
}

/// A gate and what it guards: a cell that loom watches for two writers at once.
struct Guarded {
    gate: TurnGate,
    turns: UnsafeCell<u32>,
}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self { gate: TurnGate::new(), turns: UnsafeCell::new(0) })
    }

    fn run_turn(&self) {
        // SAFETY: loom itself fails the test if another thread is inside at the same time.
        self.turns.with_mut(|turns| unsafe { *turns += 1 });
    }

    fn turns(&self) -> u32 {
        // SAFETY: as above.
        self.turns.with(|turns| unsafe { *turns })
    }
}

#[test]
fn a_caller_in_place_and_two_waiters_never_run_together_and_all_run() {
    check(|| {
        let guarded = Guarded::new();
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let guarded = Arc::clone(&guarded);
                thread::spawn(move || run_when_given(&guarded))
            })
            .collect();
        let mut expected = 2;
        if let Some(permit) = guarded.gate.try_acquire() {
            guarded.run_turn();
            expected += 1;
            drop(permit);
        }
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(guarded.turns(), expected);
        assert!(guarded.gate.seems_idle(), "and says so");
        assert!(guarded.gate.try_acquire().is_some(), "the gate is idle again");
    });
}

/// Waits for the turn.
fn run_when_given(guarded: &Guarded) {
    let permit = block_on(guarded.gate.acquire());
    guarded.run_turn();
    drop(permit);
}

/// Takes the turn as soon as it is told that it is free, or else waits for it.
fn run_when_freed(guarded: &Guarded) {
    block_on(guarded.gate.freed());
    let permit = guarded.gate.try_acquire();
    let permit = permit.unwrap_or_else(|| block_on(guarded.gate.acquire()));
    guarded.run_turn();
    drop(permit);
}

#[test]
fn who_is_told_that_the_turn_is_free_and_who_is_given_it_all_run() {
    for told in [1, 2] {
        check(move || {
            let guarded = Guarded::new();
            let held = guarded.gate.try_acquire().unwrap();
            let waiters: Vec<_> = (0..2)
                .map(|waiter| {
                    let guarded = Arc::clone(&guarded);
                    let run = if waiter < told { run_when_freed } else { run_when_given };
                    thread::spawn(move || run(&guarded))
                })
                .collect();
            guarded.run_turn();
            drop(held);
            for waiter in waiters {
                waiter.join().unwrap();
            }
            assert_eq!(guarded.turns(), 3);
            assert!(guarded.gate.seems_idle(), "and says so");
            assert!(guarded.gate.try_acquire().is_some(), "the gate is idle again");
        });
    }
}

#[test]
fn nobody_passes_who_waits_for_the_turn_itself() {
    check(|| {
        let guarded = Guarded::new();
        let held = guarded.gate.try_acquire().unwrap();
        let mut told = pin!(guarded.gate.freed());
        let mut given = pin!(guarded.gate.acquire());
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(told.as_mut().poll(&mut context).is_pending());
        assert!(given.as_mut().poll(&mut context).is_pending());
        drop(held);
        assert!(!guarded.gate.seems_idle() && guarded.gate.try_acquire().is_none());
        assert!(told.as_mut().poll(&mut context).is_ready(), "he knows");
        assert!(given.as_mut().poll(&mut context).is_ready());
    });
}

/// Two wait for a turn that ends; one gives up, the other one runs.
fn check_giving_up(quit: fn(&TurnGate), wait: fn(&Guarded)) {
    check(move || {
        let guarded = Guarded::new();
        let held = guarded.gate.try_acquire().expect("it is idle");
        let (quits, waits) = (Arc::clone(&guarded), Arc::clone(&guarded));
        let quitter = thread::spawn(move || quit(&quits.gate));
        let waiter = thread::spawn(move || wait(&waits));
        guarded.run_turn();
        drop(held);
        quitter.join().expect("it asks once");
        waiter.join().expect("it runs");
        assert_eq!(guarded.turns(), 2);
        assert!(guarded.gate.try_acquire().is_some(), "the gate is idle again");
    });
}

/// Asks once, and lets go, served or not.
fn ask_once<T>(future: impl Future<Output = T>) {
    let answer = pin!(future).poll(&mut Context::from_waker(std::task::Waker::noop()));
    drop(answer);
}

#[test]
fn who_is_told_and_gives_up_lets_the_next_one_know() {
    check_giving_up(|gate| ask_once(gate.freed()), run_when_freed);
}

#[test]
fn a_waiter_that_gives_up_passes_its_grant_on() {
    check_giving_up(|gate| ask_once(gate.acquire()), run_when_given);
}
