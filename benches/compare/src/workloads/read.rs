//! Reads of a settled data set that fits the caches: uniform, zipfian, missing keys, scans, tasks, and the mixes.

use anyhow::Result;

use super::{Place, TIMED, Until, load, mixed, read_entry, small_values, tasks};
use crate::{
    data::{Pick, Random, Values, key},
    engines::Engine,
    measure::{Lap, Latencies, Measured, on_threads},
    sample::Finding,
};

/// Entries that a scan visits.
const SCAN: usize = 100;
/// So many entries are checked before anything is measured, which also brings what fits into the caches.
const MOST_CHECKED: u64 = 4_000_000;

/// Reads entries that are there until the time is over.
pub(super) fn read_for(
    engine: &dyn Engine,
    seconds: f64,
    mut pick: Pick,
    values: &Values,
) -> Result<(u64, Latencies)> {
    let mut until = Until::new(seconds);
    let mut lap = Lap::start(TIMED);
    while until.another() {
        let id = pick.next();
        lap.begin();
        read_entry(engine, id, values)?;
        lap.end();
    }
    Ok((until.count, lap.latencies))
}

/// All read rows over one data set; the mixes come last, since they write.
pub(super) fn read(place: &Place<'_>) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let (entries, seconds) = (place.sizes.entries, place.sizes.seconds);
    let mut values = small_values();
    load(&*engine, entries, &mut values, 0)?;
    engine.settle()?;
    let step = (entries / MOST_CHECKED).max(1);
    for id in (0..entries).step_by(usize::try_from(step)?) {
        read_entry(&*engine, id, &values)?;
    }
    let threads = |count: usize, pick: fn(u64, u64) -> Pick| {
        on_threads(count, |thread| read_for(&*engine, seconds, pick(entries, thread as u64), &values))
    };
    Ok(vec![
        Finding::rate("read-1", &threads(1, Pick::uniform)?),
        Finding::rate("read-2", &threads(2, Pick::uniform)?),
        Finding::rate("zipf-1", &threads(1, Pick::zipfian)?),
        Finding::rate("zipf-2", &threads(2, Pick::zipfian)?),
        Finding::rate("missing-1", &missing(&*engine, entries, seconds)?),
        Finding::rate("scan-100", &scan(&*engine, seconds)?),
        Finding::rate("read-tasks-64", &tasks::read(&engine, entries, seconds)?),
        Finding::rate("ycsb-b", &mixed::mix(&*engine, entries, seconds, 5)?),
        Finding::rate("ycsb-a", &mixed::mix(&*engine, entries, seconds, 50)?),
    ])
}

fn missing(engine: &dyn Engine, entries: u64, seconds: f64) -> Result<Measured> {
    on_threads(1, |_| {
        let mut pick = Pick::uniform(entries, 1);
        let mut until = Until::new(seconds);
        let mut lap = Lap::start(TIMED);
        while until.another() {
            let key = key(entries + pick.next());
            lap.begin();
            anyhow::ensure!(!engine.get(&key, &mut |_| Ok(()))?, "a key that was never written is there");
            lap.end();
        }
        Ok((until.count, lap.latencies))
    })
}

fn scan(engine: &dyn Engine, seconds: f64) -> Result<Measured> {
    on_threads(1, |_| {
        let mut random = Random(5);
        let mut until = Until::new(seconds);
        let mut lap = Lap::start(1);
        while until.another() {
            let mut from = key(random.next());
            // NOTE: keeps the start below the last hundred keys, so that every scan is a full one.
            from[0] &= 0x7F;
            let mut last = from;
            let seen = engine.scan(&from, SCAN, &mut |key, value| {
                anyhow::ensure!(last.as_slice() <= key, "a scan is out of order");
                anyhow::ensure!(value.len() == super::VALUE_BYTES, "a scan shows a short value");
                last.copy_from_slice(key);
                Ok(())
            })?;
            anyhow::ensure!(seen == SCAN, "a scan shows {seen} entries");
            lap.end();
        }
        Ok((until.count, lap.latencies))
    })
}
