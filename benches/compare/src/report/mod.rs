//! From samples to what people read: medians and ratios, a table, charts.

mod charts;
mod series;
pub mod simulation;
mod summary;
mod sustained;
mod table;

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::sample::Sample;
use summary::Summary;

/// Writes table.md and the charts beside the samples.
pub fn write(out: &Path) -> Result<()> {
    let path = out.join("samples.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let samples: Vec<Sample> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("a sample is damaged")?;
    let summary = Summary::of(&samples);
    let table = table::markdown(&summary) + &sustained::markdown(&samples);
    fs::write(out.join("table.md"), &table)?;
    charts::draw(&summary, out)?;
    series::draw(&samples, out)?;
    println!("{table}");
    Ok(())
}
