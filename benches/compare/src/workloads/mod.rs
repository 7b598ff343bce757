//! The workloads, a function a group: each opens an engine in a directory of its own, measures, and checks
//! every value that it reads.

mod durability;
mod fill;
mod footprint;
mod mixed;
mod paced;
mod read;
mod sustained;
mod synced;
mod tasks;

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::Result;

use crate::{
    data::{Key, Values, key},
    engines::{Budgets, Engine, EngineKind},
    sample::Finding,
};

pub use durability::fill_and_die;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Entries of a data set, unless the row says otherwise.
    pub entries: u64,
    /// Length of each measurement that is bounded by time.
    pub seconds: f64,
}

/// Where and with what a group runs.
pub struct Place<'a> {
    pub engine: EngineKind,
    pub dir: &'a Path,
    pub budgets: Budgets,
    pub sizes: Sizes,
}

impl Place<'_> {
    fn open(&self) -> Result<Arc<dyn Engine>> {
        self.engine.open(self.dir, self.budgets)
    }
}

/// Runs one group; `None` for a name that is none.
pub fn run(group: &str, place: &Place<'_>) -> Option<Result<Vec<Finding>>> {
    Some(match group {
        "fill" => fill::fill(place),
        "fill-threads" => fill::fill_threads(place, 2, "fill-2"),
        "fill-many-threads" => fill::fill_threads(place, 64, "fill-64"),
        "fill-tasks" => tasks::fill(place),
        "fill-batch" => fill::fill_batch(place),
        "fill-20m" => fill::fill_20m(place),
        "read" => read::read(place),
        "synced" => synced::threads(place),
        "synced-tasks" => tasks::synced(place),
        "large" => fill::large(place),
        "reopen" => durability::reopen(place),
        "space" => footprint::space(place),
        "open-100k" => paced::open_100k(place),
        "open-150k" => paced::open_150k(place),
        "overload" => paced::overload(place),
        "memory" => footprint::memory(place),
        _ => sustained::sustained(place, &sustained::Setup::find(group)?),
    })
}

/// Bytes of a small value.
const VALUE_BYTES: usize = 100;
/// Entries of a batch.
const BATCH: u64 = 100;
/// One of so many fast operations is timed.
const TIMED: u64 = 16;

fn small_values() -> Values {
    Values::new(VALUE_BYTES)
}

/// Writes entries `0..entries` in batches, in the order of their ids, which is random over keys.
fn load(engine: &dyn Engine, entries: u64, values: &mut Values, version: u32) -> Result<()> {
    let mut batch: Vec<(Key, Vec<u8>)> = Vec::new();
    for id in 0..entries {
        batch.push((key(id), values.make(id, version).to_vec()));
        if batch.len() as u64 == BATCH || id + 1 == entries {
            engine.write_batch(&batch)?;
            batch.clear();
        }
    }
    Ok(())
}

/// Reads one entry that must be there, and checks it.
fn read_entry(engine: &dyn Engine, id: u64, values: &Values) -> Result<()> {
    let found = engine.get(&key(id), &mut |value| values.check(id, value).map(|_| ()))?;
    anyhow::ensure!(found, "entry {id} is missing");
    Ok(())
}

/// Whether a measurement's time is over; looks at the clock at every 64th operation.
struct Until {
    started: Instant,
    seconds: f64,
    count: u64,
}

impl Until {
    fn new(seconds: f64) -> Self {
        Self { started: Instant::now(), seconds, count: 0 }
    }

    /// One operation more, unless the time is over.
    fn another(&mut self) -> bool {
        let look = self.count.is_multiple_of(64);
        if look && self.started.elapsed().as_secs_f64() >= self.seconds {
            return false;
        }
        self.count += 1;
        true
    }

    /// Whether there is time for one slow operation more.
    fn now(&self) -> bool {
        self.started.elapsed().as_secs_f64() < self.seconds
    }
}
