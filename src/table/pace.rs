//! How background reading and writing asks for its share of the I/O budget.

use crate::error::Result;

/// Asked before each chunk that is read or written in the background, and told what comes.
pub trait Pace: Send + Sync {
    /// Pays for `bytes`; may wait until they are affordable.
    ///
    /// # Errors
    /// The job's permission was withdrawn: stop.
    fn pay(&self, bytes: u64) -> Result<()>;

    /// What the job does when it yields next is its end: one step, which may take long, and for which others wait.
    fn begin_end(&self) {}
}

/// No budget: never waits, never stops.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPace;

impl Pace for NoPace {
    fn pay(&self, _bytes: u64) -> Result<()> {
        Ok(())
    }
}
