//! Whether an incarnation of a shard takes writes, and if not, why, and what brings the shard back.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// What an incarnation that takes no writes waits for; the graver, the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sickness {
    /// A turn panicked. All that it was told has reached its log: it is re-opened at once, without being asked.
    Panicked,
    /// Its re-opening failed. It is tried again after a while, without being asked.
    NotReopened,
    /// It panicked too often: it is re-opened when somebody asks.
    KeepsPanicking,
    /// What its log is worth is decided over all logs: it is re-opened with all others, when somebody asks.
    LogInDoubt,
    /// Its re-opening is under way.
    Reopening,
    /// The node closes.
    Closing,
}

/// The health of one incarnation.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Read by every write, so that those of a shard that is well take no lock.
    is_sick: AtomicBool,
    state: Mutex<Option<(Sickness, Error)>>,
}

impl Health {
    /// Whether it takes writes.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_well() {
            return Ok(());
        }
        self.state.lock().as_ref().map_or(Ok(()), |(_, error)| Err(error.clone()))
    }

    /// Whether it takes writes.
    pub(super) fn is_well(&self) -> bool {
        !self.is_sick.load(Ordering::Acquire)
    }

    /// What it waits for, and why; `None`: it is well.
    pub(super) fn sickness(&self) -> Option<(Sickness, Error)> {
        self.state.lock().clone()
    }

    /// It takes no more writes, for this reason, unless it is as sick already. Whether that is so.
    pub(super) fn fail(&self, sickness: Sickness, error: Error) -> bool {
        let mut state = self.state.lock();
        let is_news = state.as_ref().is_none_or(|(known, _)| *known < sickness);
        if is_news {
            *state = Some((sickness, error));
            self.is_sick.store(true, Ordering::Release);
        }
        is_news
    }

    /// Passes from one state, or from any, to another that need not be graver. Whether it was in that state.
    pub(super) fn pass(&self, from: Option<Sickness>, to: Sickness, error: Error) -> bool {
        let mut state = self.state.lock();
        let passes = from.is_none() || state.as_ref().map(|(known, _)| *known) == from;
        if passes {
            *state = Some((to, error));
            self.is_sick.store(true, Ordering::Release);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graver_sickness_stays_until_a_reopening_decides() {
        let health = Health::default();
        assert!(health.check().is_ok());
        assert!(health.fail(Sickness::Panicked, Error::busy("panicked")));
        assert!(health.fail(Sickness::LogInDoubt, Error::internal("in doubt")));
        assert!(!health.fail(Sickness::Panicked, Error::busy("late")), "the first reason stays");
        assert!(!health.fail(Sickness::LogInDoubt, Error::busy("late")));
        assert!(!health.pass(Some(Sickness::Panicked), Sickness::KeepsPanicking, Error::busy("stale")));
        assert_eq!(health.check().unwrap_err().to_string(), "in doubt");
        assert!(health.pass(None, Sickness::Reopening, Error::busy("again")));
        assert!(health.pass(Some(Sickness::Reopening), Sickness::NotReopened, Error::internal("failed")));
        assert_eq!(health.sickness().unwrap().0, Sickness::NotReopened);
    }
}
