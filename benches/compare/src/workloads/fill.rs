//! Fills: keys in random order, a put or a batch per commit, from threads.

use std::time::Instant;

use anyhow::Result;

use super::{BATCH, Place, VALUE_BYTES, read::read_for, read_entry, small_values};
use crate::{
    data::{Key, Pick, Values, key},
    engines::Engine,
    measure::{Lap, Measured, on_threads},
    sample::Finding,
};

/// A put a commit, from `threads` threads with a share of the entries each.
fn fill_with(engine: &dyn Engine, threads: usize, entries: u64, value_bytes: usize) -> Result<Measured> {
    let share = entries / threads as u64;
    on_threads(threads, |thread| {
        let mut values = Values::new(value_bytes);
        let first = thread as u64 * share;
        let mut lap = Lap::start(1);
        for id in first..first + share {
            engine.put(&key(id), values.make(id, 0))?;
            lap.end();
        }
        Ok((share, lap.latencies))
    })
}

/// Reads a sample of what was written.
fn check(engine: &dyn Engine, entries: u64, value_bytes: usize) -> Result<()> {
    let values = Values::new(value_bytes);
    let mut pick = Pick::uniform(entries, 99);
    (0..10_000).try_for_each(|_| read_entry(engine, pick.next(), &values))
}

fn fill_and_settle(place: &Place<'_>, entries: u64, rows: [&'static str; 2]) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let started = Instant::now();
    let filled = fill_with(&*engine, 1, entries, VALUE_BYTES)?;
    engine.settle()?;
    let settled = entries as f64 / started.elapsed().as_secs_f64();
    check(&*engine, entries, VALUE_BYTES)?;
    engine.close()?;
    Ok(vec![Finding::rate(rows[0], &filled), Finding::of(rows[1], settled, &filled)])
}

pub(super) fn fill(place: &Place<'_>) -> Result<Vec<Finding>> {
    fill_and_settle(place, place.sizes.entries, ["fill-1", "fill-1-settled"])
}

pub(super) fn fill_20m(place: &Place<'_>) -> Result<Vec<Finding>> {
    fill_and_settle(place, 10 * place.sizes.entries, ["fill-20m", "fill-20m-settled"])
}

pub(super) fn fill_threads(place: &Place<'_>, threads: usize, row: &'static str) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let filled = fill_with(&*engine, threads, place.sizes.entries, VALUE_BYTES)?;
    check(&*engine, place.sizes.entries, VALUE_BYTES)?;
    engine.close()?;
    Ok(vec![Finding::rate(row, &filled)])
}

pub(super) fn fill_batch(place: &Place<'_>) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let entries = place.sizes.entries;
    let filled = on_threads(1, |_| {
        let mut values = small_values();
        let mut batch: Vec<(Key, Vec<u8>)> = (0..BATCH).map(|_| (Key::default(), Vec::new())).collect();
        let mut lap = Lap::start(1);
        for first in (0..entries).step_by(batch.len()) {
            for (id, slot) in (first..).zip(&mut batch) {
                slot.0 = key(id);
                slot.1.clear();
                slot.1.extend_from_slice(values.make(id, 0));
            }
            engine.write_batch(&batch)?;
            lap.end();
        }
        Ok((entries, lap.latencies))
    })?;
    check(&*engine, entries, VALUE_BYTES)?;
    engine.close()?;
    Ok(vec![Finding::rate("fill-batch", &filled)])
}

/// Bytes of a large value.
const LARGE_BYTES: usize = 4096;

/// The same bytes of data as a small fill has, in values of 4 KiB.
pub(super) fn large(place: &Place<'_>) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let entries = place.sizes.entries / 10;
    let filled = fill_with(&*engine, 1, entries, LARGE_BYTES)?;
    engine.settle()?;
    let read = on_threads(1, |thread| {
        let values = Values::new(LARGE_BYTES);
        let pick = Pick::uniform(entries, thread as u64);
        read_for(&*engine, place.sizes.seconds, pick, &values)
    })?;
    engine.close()?;
    Ok(vec![Finding::rate("fill-4k", &filled), Finding::rate("read-4k", &read)])
}
