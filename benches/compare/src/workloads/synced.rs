//! Puts that are on stable storage before they return, from threads; and buffered ones beside them.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use super::{Place, Until, small_values};
use crate::{
    data::key,
    engines::Engine,
    measure::{Lap, Latencies, Measured, on_threads},
    sample::Finding,
};

/// Entries that the writers go over, a range a thread.
const SPAN: u64 = 1 << 20;

pub(super) fn threads(place: &Place<'_>) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let seconds = place.sizes.seconds;
    let mut findings = Vec::new();
    for (row, writers) in [("synced-1", 1), ("synced-8", 8), ("synced-64", 64)] {
        let measured = on_threads(writers, |thread| synced_puts(&*engine, thread, seconds))?;
        findings.push(Finding::rate(row, &measured));
    }
    let beside = beside(&*engine, seconds)?;
    let latency = beside.latencies.summary();
    for (row, micros) in [
        ("beside-synced-p50", latency.map(|latency| latency.p50_us)),
        ("beside-synced-p99", latency.map(|latency| latency.p99_us)),
    ] {
        findings.push(Finding::of(row, micros.unwrap_or_default(), &beside));
    }
    engine.close()?;
    Ok(findings)
}

fn synced_puts(engine: &dyn Engine, thread: usize, seconds: f64) -> Result<(u64, Latencies)> {
    let until = Until::new(seconds);
    let mut values = small_values();
    let mut lap = Lap::start(1);
    let mut done = 0;
    while until.now() {
        let id = thread as u64 * SPAN + done % SPAN;
        engine.put_synced(&key(id), values.make(id, 0))?;
        lap.end();
        done += 1;
    }
    Ok((done, lap.latencies))
}

/// Buffered puts of one thread while eight others write synced.
fn beside(engine: &dyn Engine, seconds: f64) -> Result<Measured> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers = scope.spawn(|| {
            on_threads(8, |thread| {
                let mut done = 0;
                while !over.load(Ordering::Relaxed) {
                    done += synced_puts(engine, thread, 0.05)?.0;
                }
                Ok((done, Latencies::default()))
            })
        });
        let buffered = on_threads(1, |_| {
            let mut values = small_values();
            let until = Until::new(seconds);
            let mut lap = Lap::start(1);
            let mut done = 0;
            while until.now() {
                let id = 100 * SPAN + done % SPAN;
                engine.put(&key(id), values.make(id, 0))?;
                lap.end();
                done += 1;
            }
            Ok((done, lap.latencies))
        });
        over.store(true, Ordering::Relaxed);
        writers.join().expect("a writer panicked")?;
        buffered
    })
}
