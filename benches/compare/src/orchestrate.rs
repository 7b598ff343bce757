//! Runs every group for every engine in turn, a process each, so that no engine inherits another's memory, caches
//! or threads, and noise of the machine meets all of them.

use std::{
    fs::{self, File},
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    Run,
    engines::EngineKind,
    measure::Counters,
    report,
    rows::{GROUPS, Group, all_groups},
    sample::Sample,
    workloads::{self, Place},
};

/// So often a group is measured while the machine's host takes too much time.
const TRIES: u32 = 4;

/// Measures what was asked for and writes the report.
pub fn compare(run: &Run) -> Result<()> {
    fs::create_dir_all(&run.out).with_context(|| format!("cannot make {}", run.out.display()))?;
    let mut samples = File::options().create(true).append(true).open(run.out.join("samples.jsonl"))?;
    let groups = chosen_groups(&run.workload)?;
    for round in 0..run.rounds {
        for group in &groups {
            for &engine in &run.engine {
                eprintln!("round {} of {}: {} of {}", round + 1, run.rounds, group.name, engine.name());
                samples.write_all(&measure_undisturbed(run, group, engine, round)?)?;
            }
        }
    }
    drop(samples);
    report::write(&run.out)
}

fn chosen_groups(names: &[String]) -> Result<Vec<Group>> {
    if names.iter().any(|name| name == "all") {
        return Ok(GROUPS.to_vec());
    }
    let find = |name: &String| {
        let known = || all_groups().map(|group| group.name).collect::<Vec<_>>().join(", ");
        let found =
            all_groups().find(|group| group.name == name || group.rows.iter().any(|row| row.name == name));
        found.copied().with_context(|| format!("no workload is called {name}: there are {}", known()))
    };
    names.iter().map(find).collect()
}

/// The samples of a process that the machine's host took little time from: of the first such, or of the best of some.
fn measure_undisturbed(run: &Run, group: &Group, engine: EngineKind, round: u32) -> Result<Vec<u8>> {
    let mut best: Option<(f64, Vec<u8>)> = None;
    for _ in 0..TRIES {
        let output = measure_in_child(run, group, engine, round)?;
        let stolen = steal_percent(&output)?;
        if best.as_ref().is_none_or(|(least, _)| stolen < *least) {
            best = Some((stolen, output));
        }
        if stolen <= run.max_steal {
            break;
        }
        eprintln!("the host took {stolen:.0} % of the time from {} of {}", group.name, engine.name());
    }
    best.map(|(_, output)| output).context("nothing was measured")
}

/// What the host took from the process whose samples these are.
fn steal_percent(samples: &[u8]) -> Result<f64> {
    let first = samples.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let sample: Sample = serde_json::from_slice(first).context("a process without samples")?;
    Ok(sample.usage.steal_percent)
}

/// One process's samples, as it printed them.
fn measure_in_child(run: &Run, group: &Group, engine: EngineKind, round: u32) -> Result<Vec<u8>> {
    let home = match &run.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let output = Command::new(std::env::current_exe()?)
        .arg("measure")
        .args(["--engine", &engine.name().to_lowercase(), "--group", group.name])
        .args(["--round", &round.to_string()])
        .args(["--entries", &run.sizes.entries.to_string()])
        .args(["--seconds", &run.sizes.seconds.to_string()])
        .args(["--shards", &run.sizes.shards.to_string()])
        .arg("--dir")
        .arg(home.path())
        .stderr(Stdio::inherit())
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "{} of {} ended with {}",
        group.name,
        engine.name(),
        output.status
    );
    Ok(output.stdout)
}

/// What a child does: measures one group and prints a line a row.
pub fn measure(group: &str, round: u32, place: &Place<'_>) -> Result<()> {
    let counters = Counters::read()?;
    let findings = workloads::run(group, place).with_context(|| format!("no group is called {group}"))??;
    let usage = counters.usage()?;
    for finding in findings {
        let sample = Sample {
            row: finding.row.to_owned(),
            engine: place.engine,
            round,
            figure: finding.figure,
            operations: finding.operations,
            seconds: finding.seconds,
            latency: finding.latency,
            usage,
            series: finding.series,
        };
        println!("{}", serde_json::to_string(&sample)?);
    }
    Ok(())
}
