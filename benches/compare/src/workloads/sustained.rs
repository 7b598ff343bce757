//! Minutes at one rate: four fifths of what the engine itself can take, or a fifth more than that; keys spread evenly, or
//! nine of ten in one shard; gets beside the puts. What counts is every single second.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Result;

use super::{
    Place, load,
    paced::{GETS, Schedule, WRITERS, closed_loop},
    read_entry, small_values,
};
use crate::{
    data::{Pick, key},
    engines::Engine,
    measure::{Latencies, Measured, number_after, on_threads},
    rows::{LONG_GROUPS, Row},
    sample::Finding,
    seconds::{Kind, Second, SecondLog},
    steadiness::swing,
    yardstick::Yardstick,
};

/// How many times as long as a rate it is measured: ten minutes where that takes five seconds.
const LONGER: f64 = 120.0;
/// The part of that in which the engine's own maximum is found out before.
const MAXIMUM_PART: f64 = 0.2;

/// How often a second the machine's speed is looked at.
const LOOKS: u32 = 5;

/// The rate, as a part of the engine's own maximum, and where the keys are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    part_of_maximum: f64,
    is_hot: bool,
    /// The rate, the swing of ten seconds, p99.9 and worst put, p99 get.
    rows: &'static [Row],
}

impl Setup {
    /// That of a group of rows.
    pub(super) fn find(group: &str) -> Option<Self> {
        let rows = LONG_GROUPS.iter().find(|other| other.name == group)?.rows;
        let part_of_maximum = if group.ends_with("-120") { 1.2 } else { 0.8 };
        Some(Self { part_of_maximum, is_hot: group.contains("-hot"), rows })
    }
}

pub(super) fn sustained(place: &Place<'_>, setup: &Setup) -> Result<Vec<Finding>> {
    let engine = place.open()?;
    let entries = place.sizes.entries;
    load(&*engine, entries, &mut small_values(), 0)?;
    engine.settle()?;
    let pick = picker(&*engine, entries, setup.is_hot);
    let seconds = LONGER * place.sizes.seconds;
    let rate = setup.part_of_maximum * maximum(&*engine, &pick, MAXIMUM_PART * seconds)?;
    let (measured, series) = open_loop(&*engine, &pick, rate, seconds)?;
    engine.close()?;
    let (put, get) = (measured.puts.summary(), measured.gets.summary());
    let figures = [
        measured.operations as f64 / measured.seconds,
        swing(&series),
        put.map_or(0.0, |put| put.p999_us / 1_000.0),
        put.map_or(0.0, |put| put.max_us / 1_000.0),
        get.map_or(0.0, |get| get.p99_us / 1_000.0),
    ];
    let finding = |(row, figure): (&Row, f64)| Finding {
        row: row.name,
        figure,
        operations: measured.operations,
        seconds: measured.seconds,
        latency: put,
        series: Vec::new(),
    };
    let mut findings: Vec<Finding> = setup.rows.iter().zip(figures).map(finding).collect();
    if let Some(first) = findings.first_mut() {
        first.series = series;
    }
    Ok(findings)
}

/// How many puts a second the engine takes with the gets beside. The first half of the time does not count: nothing is
/// owed to the background yet.
fn maximum(engine: &dyn Engine, pick: &(dyn Fn(u64) -> Pick + Sync), seconds: f64) -> Result<f64> {
    let log = SecondLog::start(1);
    std::thread::scope(|scope| {
        let gets = scope.spawn(|| gets_beside(engine, pick, &log, seconds));
        closed_loop(engine, pick, seconds / 2.0)?;
        let steady = closed_loop(engine, pick, seconds / 2.0)?;
        gets.join().expect("a reader panicked")?;
        Ok(steady.operations as f64 / steady.seconds)
    })
}

fn gets_beside(
    engine: &dyn Engine,
    pick: &(dyn Fn(u64) -> Pick + Sync),
    log: &SecondLog,
    seconds: f64,
) -> Result<Measured> {
    on_threads(1, |_| {
        let (values, mut pick) = (small_values(), pick(WRITERS as u64));
        paced(log, Kind::Get, GETS, seconds, || read_entry(engine, pick.next(), &values))
    })
}

/// What all threads did together.
struct Sustained {
    operations: u64,
    seconds: f64,
    puts: Latencies,
    gets: Latencies,
}

fn open_loop(
    engine: &dyn Engine,
    pick: &(dyn Fn(u64) -> Pick + Sync),
    puts_per_second: f64,
    seconds: f64,
) -> Result<(Sustained, Vec<Second>)> {
    let log = SecondLog::start(WRITERS + 1);
    let over = AtomicBool::new(false);
    let (puts, gets, watched) = std::thread::scope(|scope| {
        let watched = scope.spawn(|| watch(engine, &log, &over));
        let gets = scope.spawn(|| gets_beside(engine, pick, &log, seconds));
        let puts = on_threads(WRITERS, |writer| {
            let (mut values, mut pick) = (small_values(), pick(writer as u64));
            paced(&log, Kind::Put, puts_per_second / WRITERS as f64, seconds, || {
                let id = pick.next();
                engine.put(&key(id), values.make(id, 1))
            })
        });
        let gets = gets.join().expect("a reader panicked");
        over.store(true, Ordering::Release);
        (puts, gets, watched.join().expect("the watcher panicked"))
    });
    let (puts, gets, watched) = (puts?, gets?, watched?);
    let mut series = log.into_seconds();
    for (second, background) in series.iter_mut().zip(watched) {
        *second = Second {
            debt_bytes: background.debt_bytes,
            background_bytes: background.background_bytes,
            written_bytes: background.written_bytes,
            yardstick_us: background.yardstick_us,
            ..*second
        };
    }
    let all = Sustained {
        operations: puts.operations,
        seconds: puts.seconds,
        puts: puts.latencies,
        gets: gets.latencies,
    };
    Ok((all, series))
}

/// One thread's operations, each due at its time, until the time is over, though some may not have had their turn.
fn paced(
    log: &SecondLog,
    kind: Kind,
    per_second: f64,
    seconds: f64,
    mut operation: impl FnMut() -> Result<()>,
) -> Result<(u64, Latencies)> {
    let (schedule, mut part) = (Schedule::new(per_second), log.part());
    let mut latencies = Latencies::default();
    let mut count = 0;
    while log.elapsed().as_secs_f64() < seconds {
        let due = schedule.wait_for(count);
        operation()?;
        latencies.record(due.elapsed());
        part.record(kind, due);
        count += 1;
    }
    Ok((count, latencies))
}

/// Asks the engine once a second what its background work is up to, and how fast the machine is.
fn watch(engine: &dyn Engine, log: &SecondLog, over: &AtomicBool) -> Result<Vec<Second>> {
    let reading = || -> Result<_> { Ok((engine.background(), number_after("/proc/self/io", "wchar:")?)) };
    let mut seconds = Vec::new();
    let (mut before, mut written_before) = reading()?;
    let yardstick = Yardstick::new();
    while !over.load(Ordering::Acquire) {
        let begins = Duration::from_secs(seconds.len() as u64);
        let looks = (1..=LOOKS).map(|look| {
            std::thread::sleep(
                (begins + Duration::from_secs(1) * look / LOOKS).saturating_sub(log.elapsed()),
            );
            yardstick.measure(seconds.len() as u64 * u64::from(LOOKS) + u64::from(look))
        });
        let yardstick_us = Some(looks.sum::<f64>() / f64::from(LOOKS));
        let (now, written) = reading()?;
        let background_bytes = now.bytes.zip(before.bytes).map(|(now, before)| now - before);
        seconds.push(Second {
            debt_bytes: now.debt_bytes,
            background_bytes,
            written_bytes: written - written_before,
            yardstick_us,
            ..Second::default()
        });
        (before, written_before) = (now, written);
    }
    Ok(seconds)
}

/// How a thread, by its number, chooses entries.
fn picker(engine: &dyn Engine, entries: u64, is_hot: bool) -> Box<dyn Fn(u64) -> Pick + Sync> {
    if !is_hot {
        return Box::new(move |thread| Pick::uniform(entries, thread));
    }
    let (hot, cold) = (0..entries).partition(|id| engine.is_hot(&key(*id)));
    let ids = (std::sync::Arc::new(hot), std::sync::Arc::new(cold));
    Box::new(move |thread| Pick::hot(ids.clone(), thread))
}
