//! What the seconds of the sustained workloads say beyond the table's figures, in a table of its own.

use std::fmt::Write;

use super::table::ENGINES;
use crate::{
    rows::LONG_GROUPS,
    sample::Sample,
    seconds::Second,
    steadiness::{explained_by_machine, swing},
};

/// From this p99 of its puts on, a second counts as a bad one, in microseconds.
const BAD_US: f64 = 100_000.0;

/// One line: what is said of a series.
struct Line {
    title: &'static str,
    figure: fn(&[Second]) -> Option<String>,
}

const LINES: [Line; 5] = [
    Line {
        title: "seconds in which p99 put was over 100 ms",
        figure: |series| {
            // NOTE: so is one in which no put ended at all.
            let is_bad = |second: &&Second| second.put.is_none_or(|put| put.p99_us > BAD_US);
            let bad = series.iter().filter(is_bad).count();
            Some(format!("{bad} of {}", series.len()))
        },
    },
    Line {
        title: "p99 put of a second, median",
        figure: |series| {
            let p99_puts = p99_puts(series);
            p99_puts.get(p99_puts.len() / 2).map(|p99| format!("{:.1} ms", p99 / 1e3))
        },
    },
    Line { title: "furthest 10 seconds from the mean", figure: |series| Some(percent(swing(series))) },
    Line {
        title: "correlation of 10 seconds with the processor time of the fixed work",
        figure: |series| Some(format!("{:.2}", explained_by_machine(series)?.correlation)),
    },
    Line {
        title: "furthest 10 seconds from what that explains",
        figure: |series| Some(percent(explained_by_machine(series)?.rest)),
    },
];

/// A table a workload, of each engine's last round; empty if none was run.
pub(super) fn markdown(samples: &[Sample]) -> String {
    let mut text = String::new();
    for group in LONG_GROUPS {
        let last: Vec<(&str, &[Second])> = ENGINES
            .into_iter()
            .filter_map(|engine| {
                let of_engine = |sample: &&Sample| sample.engine == engine && sample.row == group.name;
                let sample = samples.iter().rev().find(of_engine)?;
                Some((engine.name(), sample.series.as_slice()))
            })
            .collect();
        if last.is_empty() {
            continue;
        }
        let _ = write!(text, "\n| {} |", group.name);
        for (name, _) in &last {
            let _ = write!(text, " {name} |");
        }
        let _ = write!(text, "\n|---|{}\n", "---:|".repeat(last.len()));
        for line in &LINES {
            let _ = write!(text, "| {} |", line.title);
            for (_, series) in &last {
                let figure = (line.figure)(series).unwrap_or_else(|| "–".to_owned());
                let _ = write!(text, " {figure} |");
            }
            text.push('\n');
        }
    }
    text
}

/// Each second's, sorted.
fn p99_puts(series: &[Second]) -> Vec<f64> {
    let mut p99_puts: Vec<f64> = series.iter().filter_map(|second| Some(second.put?.p99_us)).collect();
    p99_puts.sort_by(f64::total_cmp);
    p99_puts
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}
