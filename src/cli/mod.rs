//! The command line of `dbex`. Results go to stdout, the log and errors to stderr. Exit status: 0 done, 1
//! failed, 2 the command line or the settings do not fit, 130 told twice to stop.
//!
//! ```text
//!   args.rs ──► mod.rs ──► serve.rs      a node with its Redis server, until SIGINT or SIGTERM
//!                  └─────► effective.rs  what is in force, and where it comes from
//! ```

mod args;
mod effective;
mod log;
mod serve;
mod signals;

use std::{env, io::Write as _, process::ExitCode};

use clap::Parser as _;

use crate::{error::Error, settings::Loaded};
use args::{Args, Command, SettingsArgs};

/// A failure with its exit status.
struct Failure {
    status: u8,
    error: Error,
}

impl Failure {
    /// The settings do not fit.
    fn settings(error: Error) -> Self {
        Self { status: 2, error }
    }

    /// Something failed on the way.
    fn run(error: Error) -> Self {
        Self { status: 1, error }
    }
}

/// Runs the command that the process's arguments name, and reports failures on stderr.
pub fn main() -> ExitCode {
    // Usage errors, --help and --version end the process here, with status 2 or 0.
    let args = Args::parse();
    let done = match args.command.unwrap_or_else(Command::serve) {
        Command::Serve(args) => load(&args).and_then(serve::serve),
        Command::Config(args) => effective::print(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { status, error }) => {
            for line in error.to_string().lines() {
                // Nobody is left to tell when stderr is closed.
                let _ = writeln!(std::io::stderr(), "error: {line}");
            }
            ExitCode::from(status)
        }
    }
}

/// The settings that a command's arguments ask for, not yet checked.
fn load(args: &SettingsArgs) -> Result<Loaded, Failure> {
    let read = || {
        let mut loaded = Loaded::read(args.config.as_deref(), env::vars_os())?;
        if let Some(listen) = &args.listen {
            loaded.set("server", "listen", listen, "--listen")?;
        }
        if let Some(data_dir) = &args.data_dir {
            loaded.set("node", "data_dir", data_dir, "--data-dir")?;
        }
        Ok(loaded)
    };
    read().map_err(Failure::settings)
}
