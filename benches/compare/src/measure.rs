//! What is measured: operations, their latencies, and what the process used meanwhile, as the kernel counts it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// No latency is told apart from a longer one above this: ten minutes.
const MAX_NANOS: u64 = 600_000_000_000;

/// Latencies of one kind of operation.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(MAX_NANOS, 3).expect("three significant digits are allowed"))
    }
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    pub fn merge(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    pub fn summary(&self) -> Option<LatencySummary> {
        let at = |quantile| micros(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| LatencySummary {
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.0.max()),
        })
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1_000.0
}

/// Latencies as they are reported, in microseconds.
#[expect(clippy::struct_field_names, reason = "the unit is part of the name")]
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LatencySummary {
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// Times one operation after the other: the end of one is the start of the next. To time only one in
/// `every` keeps the clock out of fast operations.
pub struct Lap {
    every: u64,
    count: u64,
    last: Instant,
    pub latencies: Latencies,
}

impl Lap {
    pub fn start(every: u64) -> Self {
        Self { every, count: 0, last: Instant::now(), latencies: Latencies::default() }
    }

    /// Before an operation.
    pub fn begin(&mut self) {
        if self.every > 1 && self.count.is_multiple_of(self.every) {
            self.last = Instant::now();
        }
    }

    /// After an operation.
    pub fn end(&mut self) {
        if self.count.is_multiple_of(self.every) {
            let now = Instant::now();
            self.latencies.record(now - self.last);
            self.last = now;
        }
        self.count += 1;
    }
}

/// What threads or tasks did together.
#[derive(Debug, Default)]
pub struct Measured {
    pub operations: u64,
    pub seconds: f64,
    pub latencies: Latencies,
}

/// Runs `work` on `count` threads at once; it returns how many operations it did.
pub fn on_threads(count: usize, work: impl Fn(usize) -> Result<(u64, Latencies)> + Sync) -> Result<Measured> {
    let started = Instant::now();
    let results: Vec<Result<(u64, Latencies)>> = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker panicked")).collect()
    });
    let mut measured = Measured { seconds: started.elapsed().as_secs_f64(), ..Measured::default() };
    for result in results {
        let (operations, latencies) = result?;
        measured.operations += operations;
        measured.latencies.merge(&latencies);
    }
    Ok(measured)
}

/// What the process, and the machine under it, has used so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_seconds: f64,
    /// Bytes that the process sent towards the device.
    pub written_bytes: u64,
    /// Share of the machine's time that its host took away, in percent.
    pub steal_percent: f64,
    /// The process's highest resident memory so far.
    pub peak_memory_bytes: u64,
}

/// A reading of the counters that [`Usage`] is the difference of.
pub struct Counters {
    cpu_ticks: u64,
    written_bytes: u64,
    machine_ticks: u64,
    stolen_ticks: u64,
}

/// Ticks a second in /proc; fixed by the kernel's interface on all Linux machines in use.
const TICKS_PER_SECOND: f64 = 100.0;

impl Counters {
    pub fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        let machine = fs::read_to_string("/proc/stat")?;
        let machine: Vec<u64> = machine
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .flat_map(str::parse)
            .collect();
        Ok(Self {
            cpu_ticks: ticks(11).context("no user time")? + ticks(12).context("no system time")?,
            written_bytes: number_after("/proc/self/io", "write_bytes:")?,
            machine_ticks: machine.iter().take(8).sum(),
            stolen_ticks: machine.get(7).copied().unwrap_or_default(),
        })
    }

    /// What has been used since this reading.
    pub fn usage(&self) -> Result<Usage> {
        let now = Self::read()?;
        let machine_ticks = (now.machine_ticks - self.machine_ticks).max(1);
        Ok(Usage {
            cpu_seconds: (now.cpu_ticks - self.cpu_ticks) as f64 / TICKS_PER_SECOND,
            written_bytes: now.written_bytes - self.written_bytes,
            steal_percent: 100.0 * (now.stolen_ticks - self.stolen_ticks) as f64 / machine_ticks as f64,
            peak_memory_bytes: number_after("/proc/self/status", "VmHWM:")? << 10,
        })
    }
}

/// A number of a file in /proc, behind its name.
pub fn number_after(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find(|line| line.starts_with(name)).context("a counter is missing in /proc")?;
    line.split_whitespace().nth(1).context("a counter without number")?.parse().context("not a number")
}

/// Bytes that a directory and all below it occupy on the device.
pub fn disk_bytes(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += disk_bytes(&entry.path())?;
        }
    }
    Ok(bytes)
}
