//! What settings must fulfil: the bounds of single fields (named in the `#[garde]` attributes of `sections.rs`)
//! and what must hold between fields and against the machine. Each message says what to do.

use std::{path::PathBuf, time::Duration};

use garde::Validate;

use super::{Settings, field::Field, value::size_text};
use crate::node::options::IoBudget;

/// A field that does not fit, and why.
pub(super) struct Problem {
    pub(super) field: &'static Field,
    pub(super) message: String,
}

/// All that does not fit, for a machine with so much memory (`None`: unknown, so not compared).
pub(super) fn problems(settings: &Settings, physical_memory: Option<u64>) -> Vec<Problem> {
    let mut problems: Vec<_> = settings
        .validate()
        .err()
        .into_iter()
        .flat_map(garde::Report::into_inner)
        .filter_map(|(path, error)| {
            let field = Field::of_member(&path.to_string())?;
            Some(Problem { field, message: error.message().to_owned() })
        })
        .collect();
    let mut fail = |path: &str, message: String| {
        problems.extend(Field::of_member(path).map(|field| Problem { field, message }));
    };
    if let Some(physical) = physical_memory {
        memory(settings, physical, &mut fail);
    }
    if settings.compaction.table_bytes < settings.compaction.block_bytes.saturating_mul(16) {
        fail(
            "compaction.table_bytes",
            format!(
                "a table must hold at least 16 blocks of compaction.block_bytes = {}: make tables larger or \
                 blocks smaller",
                size_text(settings.compaction.block_bytes)
            ),
        );
    }
    let server = &settings.server;
    if server.client_memory_bytes < server.max_request_bytes {
        fail(
            "server.client_memory_bytes",
            format!(
                "it must hold one request of server.max_request_bytes = {}: make this larger or that smaller",
                size_text(server.max_request_bytes)
            ),
        );
    }
    if server.password.is_some() && server.password_file.is_some() {
        fail("server.password_file", "DBEX_SERVER__PASSWORD is set too: remove one of the two".to_owned());
    }
    let open = !server.listen.ip().is_loopback();
    if open && server.password.is_none() && server.password_file.is_none() {
        fail(
            "server.listen",
            "an address that other machines can reach needs a password: set server.password_file or \
             DBEX_SERVER__PASSWORD, or listen on 127.0.0.1"
                .to_owned(),
        );
    }
    problems
}

fn memory(settings: &Settings, physical: u64, fail: &mut impl FnMut(&str, String)) {
    let memory = &settings.memory;
    let parts = [
        ("memory.memtable_bytes", memory.memtable_bytes),
        ("memory.block_cache_bytes", memory.block_cache_bytes),
        ("memory.filter_bytes_max", memory.filter_bytes_max),
        ("memory.queue_bytes", memory.queue_bytes),
        ("server.client_memory_bytes", settings.server.client_memory_bytes),
    ];
    let mebibytes = physical >> 20;
    let mut single = false;
    for (path, _) in parts.iter().filter(|(_, bytes)| *bytes > physical) {
        single = true;
        fail(path, format!("this machine has {mebibytes} MiB of memory: make it smaller"));
    }
    // The last two are bounds that are seldom reached; the first three fill up in normal use.
    let filled = parts.iter().take(3).fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    if !single && filled > physical {
        fail(
            "memory.block_cache_bytes",
            format!(
                "with memtable_bytes and filter_bytes_max it makes {} MiB, and this machine has {mebibytes} MiB \
                 of memory: make one of them smaller",
                filled >> 20
            ),
        );
    }
}

/// A size within bounds.
pub(super) fn size(min: u64, max: u64) -> impl FnOnce(&u64, &()) -> garde::Result {
    move |value, ()| match *value {
        bytes if bytes < min => fail(format!("it must be at least {}", size_text(min))),
        bytes if bytes > max => fail(format!("it must be at most {}", size_text(max))),
        _ => Ok(()),
    }
}

/// A count within bounds.
pub(super) fn between<T: Copy + TryInto<u64>>(min: u64, max: u64) -> impl FnOnce(&T, &()) -> garde::Result {
    move |value, ()| match (*value).try_into() {
        Ok(count) if (min..=max).contains(&count) => Ok(()),
        _ => fail(format!("it must be between {min} and {max}")),
    }
}

/// A time within bounds, in milliseconds.
pub(super) fn millis(min: u64, max: u64) -> impl FnOnce(&Duration, &()) -> garde::Result {
    move |value, ()| {
        let bounds = Duration::from_millis(min)..=Duration::from_millis(max);
        if bounds.contains(value) { Ok(()) } else { fail(format!("it must be between {min} and {max} ms")) }
    }
}

/// A budget that is not a forgotten unit.
pub(super) fn budget_rate() -> impl FnOnce(&IoBudget, &()) -> garde::Result {
    |value, ()| {
        match value {
        IoBudget::BytesPerSecond(rate) if *rate < 64 << 10 => fail(
            "it must be at least 64KiB/s; numbers without a unit are bytes per second, and \"unlimited\" turns the \
             budget off"
                .to_owned(),
        ),
        _ => Ok(()),
    }
    }
}

/// 0 or at least 16 open files.
pub(super) fn open_files() -> impl FnOnce(&usize, &()) -> garde::Result {
    |value, ()| match value {
        1..16 => fail("it must be 0 (half of the process's limit) or at least 16".to_owned()),
        _ => Ok(()),
    }
}

/// A number of threads; 0 chooses.
pub(super) fn workers() -> impl FnOnce(&usize, &()) -> garde::Result {
    |value, ()| match value {
        0..=256 => Ok(()),
        _ => fail("it must be 0 (chosen by the number of cores) to 256".to_owned()),
    }
}

/// A path that names something.
pub(super) fn named() -> impl FnOnce(&PathBuf, &()) -> garde::Result {
    |value, ()| if value.as_os_str().is_empty() { fail("expected a path".to_owned()) } else { Ok(()) }
}

fn fail(message: String) -> garde::Result {
    Err(garde::Error::new(message))
}
