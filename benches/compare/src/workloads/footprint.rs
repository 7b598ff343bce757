//! What the data costs: bytes on disk, bytes written, memory.

use std::time::Instant;

use anyhow::Result;

use super::{Place, VALUE_BYTES, load, read_entry, small_values};
use crate::{
    data::{KEY_BYTES, Pick, key},
    measure::{Counters, Measured, disk_bytes},
    sample::Finding,
};

/// Writes of each entry: one and three overwrites.
const PASSES: u32 = 4;

/// Overwrites everything three times in batches, settles, and weighs the directory and what was written.
pub(super) fn space(place: &Place<'_>) -> Result<Vec<Finding>> {
    let counters = Counters::read()?;
    let started = Instant::now();
    let engine = place.open()?;
    let entries = place.sizes.entries;
    let mut values = small_values();
    for version in 0..PASSES {
        load(&*engine, entries, &mut values, version)?;
    }
    engine.settle()?;
    let disk = disk_bytes(place.dir)? as f64;
    let mut pick = Pick::uniform(entries, 99);
    for _ in 0..10_000 {
        let id = pick.next();
        engine.get(&key(id), &mut |value| {
            anyhow::ensure!(values.check(id, value)? == PASSES - 1, "entry {id} has an old value");
            Ok(())
        })?;
    }
    engine.close()?;
    let written = counters.usage()?.written_bytes as f64;
    let logical = (entries * (KEY_BYTES + VALUE_BYTES) as u64) as f64;
    let measured = Measured {
        operations: entries * u64::from(PASSES),
        seconds: started.elapsed().as_secs_f64(),
        ..Measured::default()
    };
    Ok(vec![
        Finding::of("space", disk / logical, &measured),
        Finding::of("written", written / (logical * f64::from(PASSES)), &measured),
    ])
}

/// Loads and compacts five times the usual data, and looks at the highest memory that took.
pub(super) fn memory(place: &Place<'_>) -> Result<Vec<Finding>> {
    let counters = Counters::read()?;
    let started = Instant::now();
    let engine = place.open()?;
    let entries = 5 * place.sizes.entries;
    let mut values = small_values();
    for id in 0..entries {
        engine.put(&key(id), values.make(id, 0))?;
    }
    engine.settle()?;
    let mut pick = Pick::uniform(entries, 98);
    (0..entries).try_for_each(|_| read_entry(&*engine, pick.next(), &values))?;
    let peak = counters.usage()?.peak_memory_bytes as f64;
    engine.close()?;
    let over = (peak - place.budgets.total() as f64) / f64::from(1 << 20);
    let measured =
        Measured { operations: entries, seconds: started.elapsed().as_secs_f64(), ..Measured::default() };
    Ok(vec![Finding::of("memory", over, &measured)])
}
