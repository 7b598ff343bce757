//! The rows of the comparison: what each measures, in which unit, and what dbex must reach.

/// What makes a row's figure good.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At least so many times the best peer's figure.
    TimesBest(f64),
    /// At most so many times the best peer's figure.
    PartOfBest(f64),
    /// At most so much, whatever the peers do.
    AtMost(f64),
    /// Shown, not judged.
    Report,
}

impl Target {
    /// Whether a small figure is a good one.
    pub fn less_is_better(self) -> bool {
        matches!(self, Self::PartOfBest(_) | Self::AtMost(_))
    }
}

/// The unit of a row's figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    Seconds,
    Milliseconds,
    Microseconds,
    Ratio,
    Mebibytes,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub title: &'static str,
    pub unit: Unit,
    pub target: Target,
}

const fn row(name: &'static str, title: &'static str, unit: Unit, target: Target) -> Row {
    Row { name, title, unit, target }
}

/// Workloads that share a process and its data, and the rows that they find out.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub name: &'static str,
    pub rows: &'static [Row],
}

use Target::{AtMost, PartOfBest, Report, TimesBest};
use Unit::{Mebibytes, Microseconds, Milliseconds, PerSecond, Ratio, Seconds};

/// What `all` is, in the table's order.
pub const GROUPS: &[Group] = &[
    Group {
        name: "fill",
        rows: &[
            row("fill-1", "fill random, 1 thread, a put per commit", PerSecond, TimesBest(2.0)),
            row("fill-1-settled", "the same through `settle()`", PerSecond, Report),
        ],
    },
    Group {
        name: "fill-threads",
        rows: &[row("fill-2", "fill random, 2 threads", PerSecond, TimesBest(4.0))],
    },
    Group {
        name: "fill-many-threads",
        rows: &[row("fill-64", "fill random, 64 threads", PerSecond, Report)],
    },
    Group {
        name: "fill-tasks",
        rows: &[row("fill-tasks-64", "fill random, 64 async tasks", PerSecond, TimesBest(4.0))],
    },
    Group {
        name: "fill-batch",
        rows: &[row("fill-batch", "fill, batches of 100, atomic", PerSecond, TimesBest(3.0))],
    },
    Group {
        name: "fill-20m",
        rows: &[
            row("fill-20m", "fill random, 1 thread, 20 M keys", PerSecond, Report),
            row("fill-20m-settled", "the same through `settle()`", PerSecond, Report),
        ],
    },
    Group {
        name: "read",
        rows: &[
            row("read-1", "read uniform, 1 thread", PerSecond, TimesBest(3.0)),
            row("read-2", "read uniform, 2 threads", PerSecond, TimesBest(3.0)),
            row("zipf-1", "read zipfian 0.99, 1 thread", PerSecond, TimesBest(3.0)),
            row("zipf-2", "read zipfian 0.99, 2 threads", PerSecond, TimesBest(3.0)),
            row("missing-1", "read missing keys, 1 thread", PerSecond, TimesBest(1.5)),
            row("scan-100", "seek + 100 entries in order", PerSecond, TimesBest(1.0)),
            row("read-tasks-64", "read uniform, 64 async tasks", PerSecond, TimesBest(3.0)),
            row("ycsb-b", "YCSB B (95/5), 2 threads", PerSecond, TimesBest(3.0)),
            row("ycsb-a", "YCSB A (50/50), 2 threads", PerSecond, TimesBest(3.0)),
        ],
    },
    Group {
        name: "synced",
        rows: &[
            row("synced-1", "synced puts, 1 thread", PerSecond, TimesBest(1.0)),
            row("synced-8", "synced puts, 8 threads", PerSecond, TimesBest(1.5)),
            row("synced-64", "synced puts, 64 threads", PerSecond, TimesBest(2.5)),
            row("beside-synced-p50", "buffered put beside 8 synced writers, p50", Microseconds, Report),
            row("beside-synced-p99", "the same, p99", Microseconds, Report),
        ],
    },
    Group {
        name: "synced-tasks",
        rows: &[
            row("synced-tasks-64", "synced puts, 64 async tasks", PerSecond, TimesBest(4.0)),
            row("synced-tasks-256", "synced puts, 256 async tasks", PerSecond, TimesBest(10.0)),
        ],
    },
    Group {
        name: "large",
        rows: &[
            row("fill-4k", "fill, 4 KiB values", PerSecond, TimesBest(1.5)),
            row("read-4k", "read, 4 KiB values", PerSecond, TimesBest(1.5)),
        ],
    },
    Group {
        name: "reopen",
        rows: &[row("reopen", "reopen with 64 MB of WAL to replay", Seconds, PartOfBest(0.25))],
    },
    Group {
        name: "space",
        rows: &[
            row("space", "space on disk / logical, after 3 overwrites, settled", Ratio, AtMost(1.2)),
            row("written", "bytes written / logical, the same", Ratio, AtMost(2.19)),
        ],
    },
    Group {
        name: "open-100k",
        rows: &[
            row("open-100k-p999", "open loop, 100 k puts/s: p99.9 put", Milliseconds, AtMost(5.0)),
            row("open-100k-max", "the same: worst put", Milliseconds, AtMost(50.0)),
            row("open-100k-get", "the same: p99 get", Milliseconds, AtMost(0.5)),
        ],
    },
    Group {
        name: "open-150k",
        rows: &[
            row("open-150k-p999", "open loop, 150 k puts/s: p99.9 put", Milliseconds, AtMost(10.0)),
            row("open-150k-max", "the same: worst put", Milliseconds, AtMost(100.0)),
        ],
    },
    Group {
        name: "overload",
        rows: &[
            row("overload", "closed-loop overload, 2 writers", PerSecond, TimesBest(2.0)),
            row("overload-p999", "the same: p99.9 put", Milliseconds, AtMost(0.2)),
            row("overload-max", "the same: worst put", Milliseconds, AtMost(30.0)),
            row("open-80-p999", "open loop at 80 % of that: p99.9 put", Milliseconds, AtMost(100.0)),
        ],
    },
    Group {
        name: "memory",
        rows: &[row("memory", "peak memory over budget, loading 10 M keys", Mebibytes, AtMost(64.0))],
    },
];

/// A group of the sustained workload; see `workloads/sustained.rs` for the figures and their order.
macro_rules! sustained {
    ($name:literal, $title:literal, $swing:expr, $p999:expr) => {
        Group {
            name: $name,
            rows: &[
                row($name, concat!("minutes at ", $title, ": puts"), PerSecond, Report),
                row(concat!($name, "-swing"), "the same: furthest 10 seconds from the mean", Ratio, $swing),
                row(concat!($name, "-p999"), "the same: p99.9 put", Milliseconds, $p999),
                row(concat!($name, "-max"), "the same: worst put", Milliseconds, Report),
                row(concat!($name, "-get"), "the same: p99 get", Milliseconds, Report),
            ],
        }
    };
}

/// What runs only when it is named, in the table's order.
pub const LONG_GROUPS: &[Group] = &[
    sustained!("sustained-80", "80 % of its own maximum", AtMost(0.05), AtMost(100.0)),
    sustained!("sustained-120", "120 % of its own maximum", AtMost(0.05), Report),
    sustained!("sustained-hot-80", "80 %, nine of ten keys in one shard", AtMost(0.05), AtMost(100.0)),
    sustained!("sustained-hot-120", "120 %, nine of ten keys in one shard", AtMost(0.05), Report),
];

/// Every group, in the table's order.
pub fn all_groups() -> impl Iterator<Item = &'static Group> {
    GROUPS.iter().chain(LONG_GROUPS)
}
