//! How a shard's background jobs of one kind fare: the last failure while it lasts, and how many there were, so
//! that whoever waits for a job can tell what failed while it waited from what failed before.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::Error;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct JobFailures {
    last: Mutex<Option<Error>>,
    count: AtomicU64,
}

impl JobFailures {
    /// A job has ended, with this error if it failed.
    pub(super) fn note(&self, error: Option<Error>) {
        let mut last = self.last.lock();
        self.count.fetch_add(u64::from(error.is_some()), Ordering::AcqRel);
        *last = error;
    }

    /// How many jobs have failed.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Why the last job failed, if it did.
    pub(super) fn last(&self) -> Option<Error> {
        self.last.lock().clone()
    }

    /// As [`last`](Self::last), but only if one failed since the count was `count`.
    pub(super) fn since(&self, count: u64) -> Option<Error> {
        let last = self.last.lock();
        if self.count() > count { last.clone() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_failure_is_told_from_a_new_one() {
        let failures = JobFailures::default();
        failures.note(Some(Error::internal("old")));
        let before = failures.count();
        assert!(failures.last().is_some() && failures.since(before).is_none());
        failures.note(Some(Error::internal("new")));
        assert!(failures.since(before).is_some_and(|error| error.to_string().contains("new")));
        failures.note(None);
        assert!(failures.last().is_none() && failures.since(before).is_none(), "a success ends it");
    }
}
