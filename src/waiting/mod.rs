//! How a thread waits. The machine's threads park until what they wait for has come; where a simulation runs many
//! threads on one, it says how those wait. Whatever a simulated thread may come to wait for goes through here.

mod locks;

use std::{
    cell::RefCell,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};

pub use locks::{SlowMutex, SlowRwLock};

/// How the threads that a simulation runs on one thread wait.
pub trait Waiter {
    /// Returns when the future is ready; other simulated threads run meanwhile.
    fn wait(&self, future: Pin<&mut dyn Future<Output = ()>>);
}

thread_local! {
    static WAITER: RefCell<Option<Rc<dyn Waiter>>> = const { RefCell::new(None) };
}

/// From here on this thread waits as that waiter has it; `None`: it parks.
pub fn wait_by(waiter: Option<Rc<dyn Waiter>>) {
    WAITER.with(|current| *current.borrow_mut() = waiter);
}

/// The waiter of this thread. While a thread ends there is none.
fn waiter() -> Option<Rc<dyn Waiter>> {
    WAITER.try_with(|waiter| waiter.borrow().clone()).ok().flatten()
}

/// Whether a simulation runs on this thread.
pub fn is_simulated() -> bool {
    waiter().is_some()
}

/// Waits on this thread for a future's outcome.
///
/// # Panics
/// If a simulation's waiter comes back too early.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    // IMPORTANT: a task that has had its share of tokio's attention is asked to yield, and this thread does not.
    let future = tokio::task::unconstrained(future);
    match waiter() {
        None => parked(|| pollster::block_on(future)),
        Some(waiter) => wait_by_it(&*waiter, future),
    }
}

/// Waits by parking this thread. IMPORTANT: it may be polling what another wait of its own is for, and to be woken for that
/// one is used up by this one. So the other one looks again.
fn parked<T>(wait: impl FnOnce() -> T) -> T {
    let outcome = wait();
    std::thread::current().unpark();
    outcome
}

fn wait_by_it<T>(waiter: &dyn Waiter, future: impl Future<Output = T>) -> T {
    let mut outcome = None;
    waiter.wait(pin!(async { outcome = Some(future.await) }));
    outcome.expect("a waiter comes back when the future is ready")
}

/// Waits on this thread for a message.
///
/// # Errors
/// When there is none and no sender is left.
pub fn receive<T>(messages: &flume::Receiver<T>) -> Result<T, flume::RecvError> {
    match waiter() {
        None => parked(|| messages.recv()),
        Some(waiter) => wait_by_it(&*waiter, messages.recv_async()),
    }
}

/// Sends a message, and waits on this thread while there is no room for it.
///
/// # Errors
/// When no receiver is left.
pub fn send<T>(messages: &flume::Sender<T>, message: T) -> Result<(), flume::SendError<T>> {
    match waiter() {
        None => parked(|| messages.send(message)),
        Some(waiter) => wait_by_it(&*waiter, messages.send_async(message)),
    }
}

/// Is pending once, and ready when it is polled again: lets others of whatever runtime this is run first, and whoever
/// polls it decide where to go on.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, task::Context};

    use super::*;

    /// Polls until the future is ready, and counts how often.
    #[derive(Default)]
    struct Polling(Cell<u32>);

    impl Waiter for Polling {
        fn wait(&self, mut future: Pin<&mut dyn Future<Output = ()>>) {
            let mut context = Context::from_waker(std::task::Waker::noop());
            while future.as_mut().poll(&mut context).is_pending() {
                self.0.set(self.0.get() + 1);
            }
        }
    }

    /// A request that goes to two shards waits for the second one's turn while the first one's answer comes.
    #[test]
    fn who_waits_within_a_wait_is_woken_for_both() {
        let mut is_first = true;
        block_on(std::future::poll_fn(|context| {
            if !is_first {
                return Poll::Ready(());
            }
            is_first = false;
            context.waker().wake_by_ref();
            block_on(yield_now());
            Poll::Pending
        }));
    }

    #[test]
    fn a_thread_waits_as_it_was_told() {
        let polling = Rc::<Polling>::default();
        wait_by(Some(Rc::clone(&polling) as _));
        let mut pending = 3;
        let future = std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            pending -= 1;
            if pending == 0 { std::task::Poll::Ready(7) } else { std::task::Poll::Pending }
        });
        assert_eq!((block_on(future), polling.0.get()), (7, 2));
        wait_by(None);
        assert_eq!((block_on(async { 8 }), polling.0.get()), (8, 2));
    }

    #[test]
    fn messages_come_or_it_is_known_that_none_will() {
        let (sender, receiver) = flume::bounded(1);
        send(&sender, 1).unwrap();
        let other = sender.clone();
        let waits = std::thread::spawn(move || send(&other, 2));
        assert_eq!((receive(&receiver), receive(&receiver)), (Ok(1), Ok(2)));
        waits.join().unwrap().unwrap();
        drop(sender);
        assert!(receive(&receiver).is_err());
        let (sender, receiver) = flume::bounded(1);
        drop(receiver);
        assert_eq!(send(&sender, 3).unwrap_err().0, 3);
    }
}
