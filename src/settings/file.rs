//! Reads small text files from outside the data directory: `shards.toml` and the password file. They may be
//! symbolic links, unlike anything below the data directory, so they do not go through `storage/`.

use std::{io, path::Path};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};

use crate::error::{Error, ErrorKind, Result};

/// More than any such file needs; a device or a wrong file is noticed before memory is filled.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Reads the file called `what` in errors.
///
/// # Errors
/// `Io` when it cannot be read, `Invalid` when it is no regular file, too large or not UTF-8.
pub(super) fn read_text(path: &Path, what: &str) -> Result<String> {
    let bytes = read_bytes(path, what)?;
    if bytes.starts_with(&[0xEF, 0xBB, 0xBF]) {
        return Err(invalid(path, "starts with a byte order mark: save it as UTF-8 without one"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + good.filter(|byte| **byte == b'\n').count();
        Error::with_source(
            ErrorKind::Invalid,
            format!("{}:{line}: the file is not UTF-8 text: save it as UTF-8", path.display()),
            error,
        )
    })
}

fn read_bytes(path: &Path, what: &str) -> Result<Vec<u8>> {
    let failed = |verb: &str, errno: Errno| Error::io(verb, path, io::Error::from(errno));
    // NONBLOCK: opening a named pipe must fail below, not wait for its other end.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| failed(&format!("open the {what}"), errno))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| failed("inspect", errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(invalid(path, "is a directory: name a file in it")),
        _ => return Err(invalid(path, "is not a regular file")),
    }
    let mut bytes = vec![];
    let mut chunk = vec![0; 16 << 10];
    loop {
        match rustix::io::read(&file, chunk.as_mut_slice()) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend(chunk.iter().take(n)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("read", errno)),
        }
        if bytes.len() > FILE_BYTES_MAX {
            return Err(invalid(path, "is larger than 1 MiB: this is not the right file"));
        }
    }
}

fn invalid(path: &Path, message: &str) -> Error {
    Error::invalid(format!("{} {message}", path.display()))
}

/// The machine's memory in bytes, where the system tells.
pub(super) fn physical_memory() -> Option<u64> {
    let text = read_text(Path::new("/proc/meminfo"), "memory information").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}
