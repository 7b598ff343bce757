//! Compares dbex with fjall, `RocksDB` and redb, side by side, under equal budgets and promises; see README.md.
//!
//! ```text
//!  main ─► orchestrate ─► one child process a group, engine and round ─► samples.jsonl ─► report
//!                              └► workloads ─► engines
//! ```

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock, and waits")]
#![expect(clippy::cast_precision_loss, reason = "figures are shown with three digits")]

mod data;
mod engines;
mod measure;
mod orchestrate;
mod report;
mod rows;
mod sample;
mod seconds;
mod steadiness;
mod workloads;
mod yardstick;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use engines::{Budgets, EngineKind};
use workloads::Sizes;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

/// What is compared, and how long.
#[derive(Args, Clone)]
struct Run {
    /// The engines, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "dbex,fjall,rocksdb,redb")]
    engine: Vec<EngineKind>,
    /// The groups of rows, separated by commas, or `all`: all but the sustained ones, which take minutes each.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    workload: Vec<String>,
    /// Times that each is measured, one engine after the other; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// A group is measured again, a few times at most, while the machine's host takes away more of the CPU time, in
    /// percent.
    #[arg(long, default_value_t = 5.0)]
    max_steal: f64,
    #[command(flatten)]
    sizes: SizeArgs,
    /// Where samples.jsonl, table.md and the charts go.
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    /// Where the engines put their data; by default the system's temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Args, Clone, Copy)]
struct SizeArgs {
    /// Entries of a data set.
    #[arg(long, default_value_t = 2_000_000)]
    entries: u64,
    /// Seconds of each measurement that is bounded by time; tails take four times as long, sustained ones 144 times.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Shards of dbex; 0 is its default.
    #[arg(long, default_value_t = 0)]
    shards: u32,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the table and the charts from the samples that are there.
    Report {
        #[arg(long, default_value = "target/compare")]
        out: PathBuf,
    },
    /// Draws the charts of a simulation of dbex's scheduling from the tables in a directory, which its tests write.
    Simulation {
        /// What `DBEX_SIMULATION_DIR` said.
        dir: PathBuf,
        #[arg(long, default_value = "target/compare")]
        out: PathBuf,
    },
    /// Measures one group for one engine and prints its samples; what the comparison starts.
    #[command(hide = true)]
    Measure {
        #[arg(long)]
        engine: EngineKind,
        #[arg(long)]
        group: String,
        #[arg(long)]
        round: u32,
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        sizes: SizeArgs,
    },
    /// Fills an engine and dies; what the reopen row starts.
    #[command(hide = true)]
    FillAndDie {
        #[arg(long)]
        engine: EngineKind,
        #[arg(long)]
        dir: PathBuf,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        None => orchestrate::compare(&cli.run),
        Some(Command::Report { out }) => report::write(&out),
        Some(Command::Simulation { dir, out }) => report::simulation::draw(&dir, &out),
        Some(Command::Measure { engine, group, round, dir, sizes }) => {
            let budgets = Budgets { shards: sizes.shards, ..Budgets::default() };
            let sizes = Sizes { entries: sizes.entries, seconds: sizes.seconds };
            let place = workloads::Place { engine, dir: &dir, budgets, sizes };
            orchestrate::measure(&group, round, &place)
        }
        Some(Command::FillAndDie { engine, dir }) => workloads::fill_and_die(engine, &dir),
    }
}
