//! The markdown table.

use std::fmt::Write;

use crate::{
    engines::EngineKind,
    report::summary::{RowSummary, Summary},
    rows::{Target, Unit},
};

pub(super) const ENGINES: [EngineKind; 5] =
    [EngineKind::Dbex, EngineKind::RocksDb, EngineKind::Fjall, EngineKind::Redb, EngineKind::Control];

pub(super) fn markdown(summary: &Summary) -> String {
    let mut text = format!("Medians of {} rounds.\n\n| workload |", summary.rounds);
    for engine in ENGINES {
        let _ = write!(text, " {} |", engine.name());
    }
    text.push_str(" dbex / best peer | target | |\n|---|");
    text.push_str(&"---:|".repeat(ENGINES.len() + 1));
    text.push_str("---|---|\n");
    for row in &summary.rows {
        let _ = write!(text, "| {} |", row.row.title);
        for engine in ENGINES {
            let figure = row.figure(engine).map_or("–".to_owned(), |figure| shown(figure, row.row.unit));
            let _ = write!(text, " {figure} |");
        }
        let ratio = row.ratio().map_or("–".to_owned(), |ratio| format!("{} ×", digits(ratio)));
        let _ = writeln!(text, " {ratio} | {} | {} |", target(row), verdict(row));
    }
    text
}

fn target(row: &RowSummary) -> String {
    match row.row.target {
        Target::TimesBest(times) => format!("≥ {times} ×"),
        Target::PartOfBest(part) => format!("≤ {part} ×"),
        Target::AtMost(most) => format!("≤ {}", shown(most, row.row.unit)),
        Target::Report => "–".to_owned(),
    }
}

fn verdict(row: &RowSummary) -> &'static str {
    match row.reached() {
        Some(true) => "reached",
        Some(false) => "**missed**",
        None => "",
    }
}

/// A figure with its unit, in three digits.
pub(super) fn shown(figure: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond if figure >= 1e6 => format!("{} M/s", digits(figure / 1e6)),
        Unit::PerSecond => format!("{} k/s", digits(figure / 1e3)),
        Unit::Seconds => format!("{} s", digits(figure)),
        Unit::Milliseconds => format!("{} ms", digits(figure)),
        Unit::Microseconds => format!("{} µs", digits(figure)),
        Unit::Ratio => digits(figure),
        Unit::Mebibytes => format!("{figure:.0} MiB"),
    }
}

fn digits(figure: f64) -> String {
    match figure.abs() {
        large if large >= 100.0 => format!("{figure:.0}"),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        small if small >= 0.1 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}
