//! Async tasks on a runtime of two threads: dbex through its async face, the peers called directly where they
//! do not wait for the disk, and through `spawn_blocking` where they do.

use std::{future::Future, sync::Arc, time::Instant};

use anyhow::Result;
use dbex::{Durability, PutOptions};
use tokio::runtime::Runtime;

use super::{Place, Until, read_entry, small_values};
use crate::{
    data::{Pick, Values, key},
    engines::Engine,
    measure::{Lap, Latencies, Measured},
    sample::Finding,
};

const TASKS: u64 = 64;
/// Entries that a task of the synced rows goes over.
const SPAN: u64 = 1 << 16;

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Runs so many tasks to their end.
fn on_tasks<F>(runtime: &Runtime, count: u64, task: impl Fn(u64) -> F) -> Result<Measured>
where
    F: Future<Output = Result<(u64, Latencies)>> + Send + 'static,
{
    let started = Instant::now();
    let tasks: Vec<_> = (0..count).map(|number| runtime.spawn(task(number))).collect();
    let mut measured = Measured::default();
    for task in tasks {
        let (operations, latencies) = runtime.block_on(task)??;
        measured.operations += operations;
        measured.latencies.merge(&latencies);
    }
    measured.seconds = started.elapsed().as_secs_f64();
    Ok(measured)
}

pub(super) fn fill(place: &Place<'_>) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let runtime = runtime()?;
    let share = place.sizes.entries / TASKS;
    let values = small_values();
    let filled = on_tasks(&runtime, TASKS, |task| {
        fill_share(Arc::clone(&engine), task * share, share, values.clone())
    })?;
    let mut pick = Pick::uniform(share * TASKS, 99);
    (0..10_000).try_for_each(|_| read_entry(&*engine, pick.next(), &values))?;
    engine.close()?;
    Ok(vec![Finding::rate("fill-tasks-64", &filled)])
}

async fn fill_share(
    engine: Arc<dyn Engine>,
    first: u64,
    share: u64,
    mut values: Values,
) -> Result<(u64, Latencies)> {
    let tasks = engine.tasks();
    let mut lap = Lap::start(1);
    for id in first..first + share {
        match &tasks {
            Some(node) => node.put(key(id), values.make(id, 0)).await?,
            None => engine.put(&key(id), values.make(id, 0))?,
        }
        lap.end();
    }
    Ok((share, lap.latencies))
}

/// Reads of entries that are there.
pub(super) fn read(engine: &Arc<dyn Engine>, entries: u64, seconds: f64) -> Result<Measured> {
    let values = small_values();
    on_tasks(&runtime()?, TASKS, |task| {
        read_for(Arc::clone(engine), seconds, Pick::uniform(entries, task), values.clone())
    })
}

async fn read_for(
    engine: Arc<dyn Engine>,
    seconds: f64,
    mut pick: Pick,
    values: Values,
) -> Result<(u64, Latencies)> {
    let tasks = engine.tasks();
    // NOTE: a task that never waits keeps its thread, so the time of the 64 is that of 2 after each other.
    let mut until = Until::new(seconds * 2.0 / TASKS as f64);
    while until.another() {
        let id = pick.next();
        match &tasks {
            Some(node) => {
                let found = node.get(key(id)).await?;
                let value = found.ok_or_else(|| anyhow::anyhow!("entry {id} is missing"))?;
                values.check(id, &value)?;
            }
            None => read_entry(&*engine, id, &values)?,
        }
    }
    Ok((until.count, Latencies::default()))
}

pub(super) fn synced(place: &Place<'_>) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let runtime = runtime()?;
    let values = small_values();
    let mut findings = Vec::new();
    for (row, tasks) in [("synced-tasks-64", 64), ("synced-tasks-256", 256)] {
        let measured = on_tasks(&runtime, tasks, |task| {
            synced_puts(Arc::clone(&engine), task, place.sizes.seconds, values.clone())
        })?;
        findings.push(Finding::rate(row, &measured));
    }
    engine.close()?;
    Ok(findings)
}

async fn synced_puts(
    engine: Arc<dyn Engine>,
    task: u64,
    seconds: f64,
    mut values: Values,
) -> Result<(u64, Latencies)> {
    let node = engine.tasks();
    let until = Until::new(seconds);
    let mut lap = Lap::start(1);
    let mut done = 0;
    while until.now() {
        let id = task * SPAN + done % SPAN;
        if let Some(node) = &node {
            let synced = PutOptions::new().durability(Durability::Synced);
            node.put_with(key(id), values.make(id, 0), synced).await?;
        } else {
            let (engine, value) = (Arc::clone(&engine), values.make(id, 0).to_vec());
            tokio::task::spawn_blocking(move || engine.put_synced(&key(id), &value)).await??;
        }
        lap.end();
        done += 1;
    }
    Ok((done, lap.latencies))
}
