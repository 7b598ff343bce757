//! YCSB's mixes of reads and updates over a zipfian choice of entries, from two threads.

use anyhow::Result;

use super::{TIMED, Until, read_entry, small_values};
use crate::{
    data::{Pick, Random, key},
    engines::Engine,
    measure::{Lap, Measured, on_threads},
};

/// Of a hundred operations `updates` write, the others read.
pub(super) fn mix(engine: &dyn Engine, entries: u64, seconds: f64, updates: u64) -> Result<Measured> {
    on_threads(2, |thread| {
        let seed = thread as u64;
        let mut pick = Pick::zipfian(entries, seed);
        let mut random = Random(seed << 32);
        let mut values = small_values();
        let mut until = Until::new(seconds);
        let mut lap = Lap::start(TIMED);
        let mut version = 1;
        while until.another() {
            let id = pick.next();
            lap.begin();
            if random.below(100) < updates {
                version += 1;
                engine.put(&key(id), values.make(id, version))?;
            } else {
                read_entry(engine, id, &values)?;
            }
            lap.end();
        }
        Ok((until.count, lap.latencies))
    })
}
