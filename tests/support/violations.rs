//! The parts of a long test, on a few threads, and what went wrong in any of them.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::report::say;

/// What was broken, over all parts of a test. The test goes on, and fails at its end.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    lines: Mutex<Vec<String>>,
}

impl Violations {
    /// Runs a part of the test; an error or a panic in it is a violation.
    pub(crate) fn note(&self, part: impl FnOnce() -> Result<(), String>, place: &str) {
        let done = catch_unwind(AssertUnwindSafe(part)).unwrap_or_else(|panic| Err(text_of(&*panic)));
        if let Err(what) = done {
            let line = format!("{place}: {what}");
            say(format_args!("VIOLATION {line}"));
            self.lines.lock().expect("no panic under the lock").push(line);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lines.lock().expect("no panic under the lock").len()
    }

    /// Ends the test.
    ///
    /// # Panics
    /// If there is a violation.
    pub(crate) fn assert_none(&self, seed: u64) {
        let lines = self.lines.lock().expect("no panic under the lock");
        let first = lines.first().map_or("", String::as_str);
        assert!(
            lines.is_empty(),
            "{} violations, repeat with DBEX_TEST_SEED={seed}; the first: {first}",
            lines.len()
        );
    }
}

/// What a panic says.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

/// Calls `work` for each number below `count`, on so many threads.
pub(crate) fn on_threads(threads: usize, count: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        break;
                    }
                    work(place);
                }
            });
        }
    });
}
