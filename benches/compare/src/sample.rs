//! One measurement as it goes from a child process to the report: a line of JSON.

use serde::{Deserialize, Serialize};

use crate::{
    engines::EngineKind,
    measure::{LatencySummary, Measured, Usage},
    seconds::Second,
};

/// One row, measured once for one engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub row: String,
    pub engine: EngineKind,
    pub round: u32,
    /// The figure that is compared; its unit is the row's.
    pub figure: f64,
    pub operations: u64,
    pub seconds: f64,
    pub latency: Option<LatencySummary>,
    pub usage: Usage,
    /// Where each second counts: the seconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Second>,
}

/// What a workload has found out about one row; the child adds who and when.
#[derive(Clone, Debug)]
pub struct Finding {
    pub row: &'static str,
    pub figure: f64,
    pub operations: u64,
    pub seconds: f64,
    pub latency: Option<LatencySummary>,
    pub series: Vec<Second>,
}

impl Finding {
    /// A row whose figure is operations a second.
    pub fn rate(row: &'static str, measured: &Measured) -> Self {
        let figure = measured.operations as f64 / measured.seconds;
        Self::of(row, figure, measured)
    }

    /// A row whose figure is something else of what was measured.
    pub fn of(row: &'static str, figure: f64, measured: &Measured) -> Self {
        Self {
            row,
            figure,
            operations: measured.operations,
            seconds: measured.seconds,
            latency: measured.latencies.summary(),
            series: Vec::new(),
        }
    }
}
