//! Medians over the rounds, and how dbex stands to the best peer and to its target.

use std::collections::BTreeMap;

use crate::{
    engines::EngineKind,
    rows::{Row, Target, all_groups},
    sample::Sample,
};

/// A row's medians.
pub struct RowSummary {
    pub row: Row,
    pub medians: BTreeMap<EngineKind, Median>,
}

/// An engine's median round.
#[derive(Clone, Copy)]
pub struct Median {
    pub figure: f64,
}

/// All rows that were measured, in the table's order.
pub struct Summary {
    pub rows: Vec<RowSummary>,
    pub rounds: usize,
}

impl Summary {
    pub fn of(samples: &[Sample]) -> Self {
        let all_rows = all_groups().flat_map(|group| group.rows);
        let rows: Vec<RowSummary> = all_rows
            .map(|row| RowSummary { row: *row, medians: medians(samples, row.name) })
            .filter(|row| !row.medians.is_empty())
            .collect();
        let rounds = samples.iter().map(|sample| sample.round as usize + 1).max().unwrap_or_default();
        Self { rows, rounds }
    }
}

fn medians(samples: &[Sample], row: &str) -> BTreeMap<EngineKind, Median> {
    let mut by_engine: BTreeMap<EngineKind, Vec<&Sample>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.row == row) {
        by_engine.entry(sample.engine).or_default().push(sample);
    }
    let median = |mut samples: Vec<&Sample>| {
        samples.sort_by(|a, b| a.figure.total_cmp(&b.figure));
        let middle = samples[samples.len() / 2];
        Median { figure: middle.figure }
    };
    by_engine.into_iter().map(|(engine, samples)| (engine, median(samples))).collect()
}

impl RowSummary {
    pub fn figure(&self, engine: EngineKind) -> Option<f64> {
        self.medians.get(&engine).map(|median| median.figure)
    }

    /// The best figure of the others.
    pub fn best_peer(&self) -> Option<f64> {
        let peers = [EngineKind::Fjall, EngineKind::RocksDb, EngineKind::Redb];
        let figures = peers.iter().filter_map(|&peer| self.figure(peer));
        if self.row.target.less_is_better() { figures.reduce(f64::min) } else { figures.reduce(f64::max) }
    }

    /// dbex as a multiple of the best peer.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.figure(EngineKind::Dbex)? / self.best_peer()?)
    }

    /// Whether dbex reaches the row's target; `None` where there is none, or nothing to hold it against.
    /// A tail counts as reached when it is within twice the machine's own, which the control shows.
    pub fn reached(&self) -> Option<bool> {
        let figure = self.figure(EngineKind::Dbex)?;
        match self.row.target {
            Target::TimesBest(times) => Some(self.ratio()? >= times),
            Target::PartOfBest(part) => Some(self.ratio()? <= part),
            Target::AtMost(most) => {
                let machine = self.figure(EngineKind::Control).unwrap_or_default();
                Some(figure <= most.max(2.0 * machine))
            }
            Target::Report => None,
        }
    }
}
