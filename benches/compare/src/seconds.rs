//! What happened in each second of a measurement, put together from the threads that took part.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::measure::{Latencies, LatencySummary};

/// One second. Latencies are those of the operations that ended in it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Second {
    pub puts: u64,
    pub put: Option<LatencySummary>,
    pub gets: u64,
    pub get: Option<LatencySummary>,
    /// At its end: bytes of background work that stand between the engine and its healthy shape, as far as it tells.
    pub debt_bytes: Option<u64>,
    /// Bytes that the engine's background work has read and written in it, as far as it tells.
    pub background_bytes: Option<u64>,
    /// Bytes that the process has passed to `write` in it, the log's included.
    pub written_bytes: u64,
    /// The processor time, in microseconds, that a fixed piece of work took in it: more where the machine is slower.
    #[serde(default)]
    pub yardstick_us: Option<f64>,
}

/// What an engine's background work was up to, as far as the engine tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Background {
    pub debt_bytes: Option<u64>,
    /// Since the engine was opened.
    pub bytes: Option<u64>,
}

/// Which of the two kinds of operation.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Put,
    Get,
}

/// The seconds of a measurement, while threads take part in it.
pub struct SecondLog {
    started: Instant,
    seconds: Mutex<Seconds>,
}

#[derive(Default)]
struct Seconds {
    done: Vec<Second>,
    open: BTreeMap<usize, Open>,
    threads: usize,
}

/// A second that some threads have not left yet.
#[derive(Default)]
struct Open {
    left_by: usize,
    puts: Latencies,
    gets: Latencies,
}

impl SecondLog {
    /// A log that `threads` threads write.
    pub fn start(threads: usize) -> Self {
        Self { started: Instant::now(), seconds: Mutex::new(Seconds { threads, ..Seconds::default() }) }
    }

    /// One thread's part.
    pub fn part(&self) -> SecondPart<'_> {
        SecondPart { log: self, second: 0, puts: Latencies::default(), gets: Latencies::default() }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The seconds that all threads have left.
    pub fn into_seconds(self) -> Vec<Second> {
        self.seconds.into_inner().unwrap_or_else(PoisonError::into_inner).done
    }

    fn leave(&self, second: usize, puts: &Latencies, gets: &Latencies) {
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = seconds.threads;
        let open = seconds.open.entry(second).or_default();
        open.puts.merge(puts);
        open.gets.merge(gets);
        open.left_by += 1;
        // NOTE: each thread leaves its seconds in their order, so they are all left in that order.
        if open.left_by == threads
            && let Some(Open { puts, gets, .. }) = seconds.open.remove(&second)
        {
            let (put, get) = (puts.summary(), gets.summary());
            seconds.done.push(Second {
                puts: puts.count(),
                put,
                gets: gets.count(),
                get,
                ..Second::default()
            });
        }
    }
}

/// One thread's part of a [`SecondLog`].
pub struct SecondPart<'a> {
    log: &'a SecondLog,
    second: usize,
    puts: Latencies,
    gets: Latencies,
}

impl SecondPart<'_> {
    /// Notes an operation that was due at `due` and has just ended.
    pub fn record(&mut self, kind: Kind, due: Instant) {
        let now = Instant::now();
        self.leave_until(now);
        let latencies = match kind {
            Kind::Put => &mut self.puts,
            Kind::Get => &mut self.gets,
        };
        latencies.record(now.saturating_duration_since(due));
    }

    #[expect(clippy::cast_possible_truncation, reason = "a run has fewer than 2^32 seconds")]
    fn leave_until(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.log.started).as_secs() as usize;
        while self.second < second {
            self.log.leave(self.second, &self.puts, &self.gets);
            (self.puts, self.gets) = (Latencies::default(), Latencies::default());
            self.second += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_done_when_all_threads_have_left_it() {
        let log = SecondLog::start(2);
        let at = |millis| log.started + Duration::from_millis(millis);
        let (mut one, mut two) = (log.part(), log.part());
        one.puts.record(Duration::from_micros(5));
        one.leave_until(at(2_500));
        assert_eq!(log.seconds.lock().unwrap().done.len(), 0);
        two.gets.record(Duration::from_micros(7));
        two.leave_until(at(1_100));
        drop((one, two));
        let seconds = log.into_seconds();
        assert_eq!(seconds.len(), 1);
        assert_eq!((seconds[0].puts, seconds[0].gets), (1, 1));
    }
}
