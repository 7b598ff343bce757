//! `dbex config`: what is in force.

use std::{
    io::{self, Write as _},
    path::Path,
};

use super::{Failure, args::ConfigArgs, load};
use crate::{error::Error, settings::Settings};

/// Prints the effective settings, or the commented file with the defaults; then says what does not fit.
pub(super) fn print(args: &ConfigArgs) -> Result<(), Failure> {
    if args.template {
        return write(Settings::TEMPLATE);
    }
    let loaded = load(&args.settings)?;
    write(&loaded.to_toml())?;
    loaded.check().map(drop).map_err(Failure::settings)
}

/// Writes to stdout. A reader that has seen enough (`dbex config | head`) is no failure.
fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::run(Error::io("write to", Path::new("stdout"), error)))
        }
        _ => Ok(()),
    }
}
