//! Who wants to know how long reads take that somebody waits for. A table reads no clock.

use std::fmt;

/// Told of each block that is read from a file for a lookup.
pub trait ReadTimer: Send + Sync + fmt::Debug {
    /// Runs the read, once.
    fn time(&self, read: &mut dyn FnMut());
}
