//! What the Redis face is started with, as plain data. `settings/` makes it from the `[server]` section.

use std::{fmt, time::Duration};

/// A password: compared in constant time, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Wraps a password.
    pub fn new(password: impl AsRef<[u8]>) -> Self {
        Self(password.as_ref().into())
    }

    /// The password itself, for the comparison only.
    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the Redis face is started with. Every field has a default, see [`RespSettings::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RespSettings {
    /// The password that `AUTH` and `HELLO … AUTH` must name. Default: `None`, clients need none.
    pub password: Option<Secret>,
    /// How long the answer to a wrong password waits; doubled by each further failure in a row, up to
    /// sixteen times. Default: 100 ms.
    pub auth_failure_delay: Duration,
    /// The most connections at a time. Default: 10,000. Each may hold up to 32 KiB beside the memory cap.
    pub max_connections: usize,
    /// How long a connection may stay silent between two requests before it is closed. Zero: for ever.
    /// Default: 1 h, because clients keep pools of idle connections.
    pub idle_timeout: Duration,
    /// How long one request may take to arrive, counted from its first byte; how long a client may take none
    /// of the replies that wait for it; how long it may be silent before it has authenticated. Zero: for
    /// ever. Default: 60 s.
    pub request_timeout: Duration,
    /// The longest argument, and so (but for room for a key and the framing) the longest request, in bytes.
    /// Default: 64 MiB, the longest value.
    pub max_request_bytes: usize,
    /// The most arguments of one request. Default: 1,048,576.
    pub max_arguments: usize,
    /// The cap of all connections' buffers together, in bytes. Default: 256 MiB. At the cap, connections
    /// whose replies wait are not read from, and those that need more for a request are closed with an error.
    pub client_memory_bytes: usize,
    /// How many bytes of replies may wait for one client before no more of its requests are read or run.
    /// Default: 64 MiB. A client that sends a longer pipeline than this answers, and reads only then, is
    /// closed after `request_timeout`.
    pub output_bytes_max: usize,
    /// Whether `FLUSHALL` and `FLUSHDB` are allowed. Default: false.
    pub flushall_enabled: bool,
    /// How long connections may go on finishing what they have received once the server is told to stop.
    /// Default: 5 s.
    pub shutdown_grace: Duration,
    /// The Redis version that `HELLO` and `INFO` name, because clients choose features by it.
    /// Default: `7.2.0`.
    pub redis_version: String,
    /// The version of dbex that `INFO` names. Default: this package's.
    pub dbex_version: String,
}

impl Default for RespSettings {
    fn default() -> Self {
        Self {
            password: None,
            auth_failure_delay: Duration::from_millis(100),
            max_connections: 10_000,
            idle_timeout: Duration::from_hours(1),
            request_timeout: Duration::from_mins(1),
            max_request_bytes: 64 << 20,
            max_arguments: 1 << 20,
            client_memory_bytes: 256 << 20,
            output_bytes_max: 64 << 20,
            flushall_enabled: false,
            shutdown_grace: Duration::from_secs(5),
            redis_version: "7.2.0".to_owned(),
            dbex_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        let settings = RespSettings { password: Some(Secret::new("hunter2")), ..RespSettings::default() };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
