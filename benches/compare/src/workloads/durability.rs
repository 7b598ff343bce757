//! What a killed process leaves: the time until a node with a log to replay serves again.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context, Result};

use super::{Place, read_entry, small_values};
use crate::{
    data::key,
    engines::{Budgets, EngineKind},
    measure::Measured,
    sample::Finding,
};

/// Keys and values that wait in the log, in bytes.
const LOGGED_BYTES: u64 = 64_000_000;

/// A memtable that takes all of it, so that nothing is flushed before the kill.
fn budgets() -> Budgets {
    Budgets { memtable_bytes: 256 << 20, ..Budgets::default() }
}

fn entries() -> u64 {
    LOGGED_BYTES / (crate::data::KEY_BYTES + super::VALUE_BYTES) as u64
}

/// Fills an engine and ends the process without a goodbye.
pub fn fill_and_die(kind: EngineKind, dir: &Path) -> Result<()> {
    let engine = kind.open(dir, budgets())?;
    let mut values = small_values();
    for id in 0..entries() {
        engine.put(&key(id), values.make(id, 0))?;
    }
    std::process::abort()
}

/// Kills a process that has filled an engine, and opens what it left.
pub(super) fn reopen(place: &Place<'_>) -> Result<Vec<Finding>> {
    if !place.engine.buffered_survives_a_kill() {
        return Ok(Vec::new());
    }
    let status = Command::new(std::env::current_exe()?)
        .arg("fill-and-die")
        .args(["--engine", &place.engine.name().to_lowercase()])
        .arg("--dir")
        .arg(place.dir)
        .status()
        .context("cannot start the process that is to die")?;
    anyhow::ensure!(status.code().is_none(), "the process that was to die ended with {status}");
    let started = Instant::now();
    let engine = place.engine.open(place.dir, budgets())?;
    let values = small_values();
    read_entry(&*engine, 0, &values)?;
    let seconds = started.elapsed().as_secs_f64();
    (0..entries()).try_for_each(|id| read_entry(&*engine, id, &values))?;
    engine.close()?;
    let measured = Measured { operations: entries(), seconds, ..Measured::default() };
    Ok(vec![Finding::of("reopen", seconds, &measured)])
}
