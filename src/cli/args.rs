//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// An embeddable, multi-core key-value storage node.
#[derive(Debug, Parser)]
#[command(name = "dbex", version, about, after_help = AFTER_HELP)]
pub(super) struct Args {
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

const AFTER_HELP: &str = "Without a command: `dbex serve` with the built-in settings. Environment variables \
    DBEX_SECTION__FIELD override single settings, RUST_LOG the log's level.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Open a node and serve the Redis protocol until told to stop (SIGINT or SIGTERM).
    Serve(SettingsArgs),
    /// Print the settings in force as a shards.toml, each with where it comes from.
    Config(ConfigArgs),
}

impl Command {
    /// What happens when no command is given.
    pub(super) fn serve() -> Self {
        Self::Serve(SettingsArgs::default())
    }
}

/// Where the settings come from.
#[derive(ClapArgs, Debug, Default)]
pub(super) struct SettingsArgs {
    /// The settings file; the built-in defaults if none is named.
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The address and port to serve on, instead of `[server] listen`.
    #[arg(short, long, value_name = "ADDR")]
    pub(super) listen: Option<String>,
    /// The data directory, instead of `[node] data_dir`.
    #[arg(short, long, value_name = "DIR")]
    pub(super) data_dir: Option<String>,
}

#[derive(ClapArgs, Debug)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
    /// Print the commented shards.toml with every default instead.
    #[arg(long, conflicts_with_all = ["config", "listen", "data_dir"])]
    pub(super) template: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_command_means_serve() {
        let args = Args::parse_from(["dbex"]);
        assert!(matches!(args.command.unwrap_or_else(Command::serve), Command::Serve(_)));
    }
}
