//! Latency under a rate that does not wait: operations are due in bursts, whatever happened to those before, and
//! their latency counts from when they were due. And the closed loop, for the rate that an engine can bear.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Place, Until, load, read_entry, small_values};
use crate::{
    data::{Pick, key},
    engines::{Engine, EngineKind},
    measure::{Lap, Latencies, Measured, on_threads},
    sample::Finding,
};

pub(super) const WRITERS: usize = 2;
/// Gets a second beside the puts.
pub(super) const GETS: f64 = 20_000.0;
/// Operations become due together, once an interval.
const BURST: Duration = Duration::from_micros(250);
/// A measurement of tails is so many times as long as one of a rate.
const LONGER: f64 = 4.0;

/// When the operations of one thread are due.
pub(super) struct Schedule {
    started: Instant,
    per_burst: f64,
}

impl Schedule {
    pub(super) fn new(per_second: f64) -> Self {
        Self { started: Instant::now(), per_burst: per_second * BURST.as_secs_f64() }
    }

    /// Waits until the operation is due; returns since when it is.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a run has fewer than 2^32 bursts"
    )]
    pub(super) fn wait_for(&self, operation: u64) -> Instant {
        let due = self.started + BURST * ((operation as f64 / self.per_burst) as u32);
        let ahead = due.saturating_duration_since(Instant::now());
        if !ahead.is_zero() {
            std::thread::sleep(ahead);
        }
        due
    }
}

/// Puts and gets as they went beside each other.
struct OpenLoop {
    puts: Measured,
    gets: Measured,
}

/// Puts at a rate from two writers, gets beside.
fn open_loop(engine: &dyn Engine, entries: u64, puts_per_second: f64, seconds: f64) -> Result<OpenLoop> {
    std::thread::scope(|scope| {
        let gets = scope.spawn(|| {
            let values = small_values();
            let get = |id| read_entry(engine, id, &values);
            on_threads(1, |_| paced_thread(WRITERS, GETS, seconds, entries, get))
        });
        let share = puts_per_second / WRITERS as f64;
        let puts = on_threads(WRITERS, |writer| {
            let mut values = small_values();
            paced_thread(writer, share, seconds, entries, |id| engine.put(&key(id), values.make(id, 1)))
        })?;
        Ok(OpenLoop { puts, gets: gets.join().expect("a reader panicked")? })
    })
}

/// One thread's operations on entries chosen at random.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of operations")]
fn paced_thread(
    seed: usize,
    per_second: f64,
    seconds: f64,
    entries: u64,
    mut operation: impl FnMut(u64) -> Result<()>,
) -> Result<(u64, Latencies)> {
    let mut pick = Pick::uniform(entries, seed as u64);
    let mut latencies = Latencies::default();
    let schedule = Schedule::new(per_second);
    let count = (per_second * seconds) as u64;
    for number in 0..count {
        let due = schedule.wait_for(number);
        operation(pick.next())?;
        latencies.record(due.elapsed());
    }
    Ok((count, latencies))
}

fn millis(micros: Option<f64>) -> f64 {
    micros.unwrap_or_default() / 1_000.0
}

fn open_rate(place: &Place<'_>, per_second: f64) -> Result<OpenLoop> {
    let engine = place.open()?;
    load(&*engine, place.sizes.entries, &mut small_values(), 0)?;
    engine.settle()?;
    let measured = open_loop(&*engine, place.sizes.entries, per_second, LONGER * place.sizes.seconds)?;
    engine.close()?;
    Ok(measured)
}

pub(super) fn open_100k(place: &Place<'_>) -> Result<Vec<Finding>> {
    let OpenLoop { puts, gets } = open_rate(place, 100_000.0)?;
    let (put, get) = (puts.latencies.summary(), gets.latencies.summary());
    Ok(vec![
        Finding::of("open-100k-p999", millis(put.map(|put| put.p999_us)), &puts),
        Finding::of("open-100k-max", millis(put.map(|put| put.max_us)), &puts),
        Finding::of("open-100k-get", millis(get.map(|get| get.p99_us)), &gets),
    ])
}

pub(super) fn open_150k(place: &Place<'_>) -> Result<Vec<Finding>> {
    let OpenLoop { puts, .. } = open_rate(place, 150_000.0)?;
    let put = puts.latencies.summary();
    Ok(vec![
        Finding::of("open-150k-p999", millis(put.map(|put| put.p999_us)), &puts),
        Finding::of("open-150k-max", millis(put.map(|put| put.max_us)), &puts),
    ])
}

/// As many puts as the engine takes.
pub(super) fn closed_loop(
    engine: &dyn Engine,
    pick: &(dyn Fn(u64) -> Pick + Sync),
    seconds: f64,
) -> Result<Measured> {
    on_threads(WRITERS, |writer| {
        let (mut values, mut pick) = (small_values(), pick(writer as u64));
        let mut until = Until::new(seconds);
        let mut lap = Lap::start(1);
        while until.another() {
            let id = pick.next();
            engine.put(&key(id), values.make(id, 1))?;
            lap.end();
        }
        Ok((until.count, lap.latencies))
    })
}

/// As many puts as the engine takes, then four fifths of that rate.
pub(super) fn overload(place: &Place<'_>) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let entries = place.sizes.entries;
    load(&*engine, entries, &mut small_values(), 0)?;
    engine.settle()?;
    let pick = |writer| Pick::uniform(entries, writer);
    let closed = closed_loop(&*engine, &pick, LONGER * place.sizes.seconds)?;
    let put = closed.latencies.summary();
    let mut findings = vec![
        Finding::rate("overload", &closed),
        Finding::of("overload-p999", millis(put.map(|put| put.p999_us)), &closed),
        Finding::of("overload-max", millis(put.map(|put| put.max_us)), &closed),
    ];
    if place.engine != EngineKind::Control {
        let rate = 0.8 * closed.operations as f64 / closed.seconds;
        let OpenLoop { puts, .. } = open_loop(&*engine, entries, rate, LONGER * place.sizes.seconds)?;
        let put = puts.latencies.summary();
        findings.push(Finding::of("open-80-p999", millis(put.map(|put| put.p999_us)), &puts));
    }
    engine.close()?;
    Ok(findings)
}
