//! What a long test says of itself: its seed before, its counts after, and where it hangs if it hangs.

use std::{
    fmt::Display,
    io::Write,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use dbex::{Random as _, SystemRandom};

/// Prints a line that `cargo test` shows of tests that pass, too.
pub(crate) fn say(line: impl Display) {
    // Nothing is lost when nobody reads it.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The seed of this run: `DBEX_TEST_SEED` (decimal, or hexadecimal with 0x), or another one each time.
pub(crate) fn seed() -> u64 {
    let Ok(text) = std::env::var("DBEX_TEST_SEED") else { return SystemRandom.next_u64() };
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|error| panic!("DBEX_TEST_SEED is {text:?}: {error}"))
}

/// How many times the work of CI is to be done: `DBEX_TEST_SCALE`, 1 unless it is set.
pub(crate) fn scale() -> usize {
    std::env::var("DBEX_TEST_SCALE")
        .map_or(1, |text| text.parse().expect("DBEX_TEST_SCALE is a whole number"))
}

/// How often a watchdog looks.
const LOOK: Duration = Duration::from_secs(1);

/// Ends the process with a word about where it stood when nothing moves: a test that hangs tells nothing else.
pub(crate) struct Watchdog {
    places: Sender<String>,
}

impl Watchdog {
    /// Says `about` and the last place when no [next place](Self::at) was come to in time.
    ///
    /// Time in which the whole machine stands still, as a virtual one may for minutes, counts for a look at the most.
    pub(crate) fn new(patience: Duration, about: impl FnOnce() -> String + Send + 'static) -> Self {
        let (places, reached) = channel();
        thread::spawn(move || {
            let mut last = "the beginning".to_owned();
            let mut left = patience;
            let ended = loop {
                match reached.recv_timeout(LOOK) {
                    Ok(place) => (last, left) = (place, patience),
                    Err(RecvTimeoutError::Timeout) if left > LOOK => left -= LOOK,
                    Err(ended) => break ended,
                }
            };
            if ended == RecvTimeoutError::Timeout {
                say(format_args!("HANGS for {patience:?} at {last}: {}", about()));
                std::process::abort();
            }
        });
        Self { places }
    }

    /// The test has come this far, and the patience begins anew.
    pub(crate) fn at(&self, place: impl Into<String>) {
        self.places.send(place.into()).expect("the watchdog lives as long as this");
    }
}
