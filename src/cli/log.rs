//! The log: tracing events, written to stderr.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    error::{Error, ErrorKind, Result},
    settings::{LogFormat, LogLevel, LogSection},
};

/// Sends the process's events to stderr, as the settings say. `RUST_LOG` wins over the level.
///
/// # Errors
/// `Invalid` when `RUST_LOG` is malformed.
pub(super) fn start(settings: &LogSection) -> Result<()> {
    let filter = match env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::try_new(&directives).map_err(|error| {
            Error::with_source(ErrorKind::Invalid, "the variable RUST_LOG is malformed", error)
        })?,
        _ => EnvFilter::new(level(settings.level)),
    };
    let lines = fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match settings.format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init(),
        LogFormat::Auto => registry.with(lines.with_ansi(colours())).try_init(),
    };
    started.map_err(|error| Error::with_source(ErrorKind::Internal, "the log cannot be started", error))
}

const fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

/// On a terminal, unless its owner does not want any (<https://no-color.org>).
fn colours() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
