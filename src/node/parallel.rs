//! Work on several items at once, on threads that live no longer than the call.

use super::env::Threads;
use crate::error::{Error, ErrorKind, Result};

/// Runs `work` over `items` on up to `threads` threads; results stand in the items' order.
pub(super) fn in_parallel<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.into_iter().map(work).collect();
    }
    let (send, receive) = flume::unbounded();
    items.into_iter().enumerate().for_each(|item| drop(send.send(item)));
    drop(send);
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let run = || receive.iter().map(|(place, item)| (place, work(item))).collect::<Vec<_>>();
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let joined = handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.flatten().collect()
    });
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Does two pieces of work, at once where that is allowed.
pub(super) fn both<A: Send, B>(
    parallelism: usize,
    beside: impl FnOnce() -> A + Send,
    work: impl FnOnce() -> B,
) -> (A, B) {
    if parallelism <= 1 {
        let beside = beside();
        return (beside, work());
    }
    std::thread::scope(|scope| {
        let beside = scope.spawn(beside);
        let done = work();
        (beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), done)
    })
}

/// Does work on a thread of its own, without blocking this one.
///
/// # Errors
/// `Io` when the thread cannot be started, `Internal` when the work panics.
pub(super) async fn on_a_thread<T: Send + 'static>(
    threads: &dyn Threads,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    let body = Box::new(move || {
        let _ = reply.send(work());
    });
    threads.spawn(name, body).map_err(|error| {
        Error::with_source(ErrorKind::Io, format!("cannot start the thread {name}"), error)
    })?;
    answer.await.map_err(|_| Error::internal(format!("the thread {name} panicked")))
}

/// How many cores this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
