//! Byte-counted admission: what waits to be written has a permit for its bytes before it is queued, so
//! that the memory of all queues stays under its cap. actix mailboxes do not bound anything in practice.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// A bounded number of bytes that may wait at one place.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    bytes: Arc<Semaphore>,
    capacity: u32,
}

/// The right to have some bytes waiting; given back on drop.
#[derive(Debug)]
pub struct Permit {
    held: OwnedSemaphorePermit,
}

impl Permit {
    /// How many bytes the permit stands for.
    pub fn bytes(&self) -> usize {
        self.held.num_permits()
    }
}

impl Admission {
    /// A place where at most `capacity` bytes wait, or one larger item alone.
    pub(super) fn new(capacity: u64) -> Self {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX).max(1);
        let permits = usize::try_from(capacity).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { bytes: Arc::new(Semaphore::new(permits)), capacity }
    }

    /// Waits, in the order of asking, until `bytes` more may wait. An item above the capacity waits until it is alone.
    ///
    /// # Errors
    /// `Busy` if it may not wait and too much does already; `Closed` after [`Admission::close`].
    pub(super) async fn acquire(&self, bytes: usize, may_wait: bool) -> Result<Permit> {
        if !may_wait {
            return self.try_acquire(bytes);
        }
        let held = Arc::clone(&self.bytes).acquire_many_owned(self.clamp(bytes)).await;
        held.map(|held| Permit { held }).map_err(|_| Error::closed())
    }

    /// Takes a permit if one is free.
    ///
    /// # Errors
    /// `Busy` when too many bytes wait; `Closed` after [`Admission::close`].
    pub(super) fn try_acquire(&self, bytes: usize) -> Result<Permit> {
        match Arc::clone(&self.bytes).try_acquire_many_owned(self.clamp(bytes)) {
            Ok(held) => Ok(Permit { held }),
            Err(tokio::sync::TryAcquireError::NoPermits) => {
                Err(Error::busy("too many bytes wait to be written: wait with `admit`, or try again later"))
            }
            Err(tokio::sync::TryAcquireError::Closed) => Err(Error::closed()),
        }
    }

    /// How many bytes wait now.
    pub(super) fn waiting_bytes(&self) -> u64 {
        u64::from(self.capacity).saturating_sub(self.bytes.available_permits() as u64)
    }

    /// Turns away everyone who waits or comes.
    pub(super) fn close(&self) {
        self.bytes.close();
    }

    fn clamp(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_full_place_is_busy_and_a_dropped_permit_makes_room() {
        let admission = Admission::new(100);
        let first = admission.try_acquire(60).unwrap();
        assert_eq!(admission.try_acquire(60).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(admission.waiting_bytes(), 60);
        drop(first);
        assert!(admission.try_acquire(60).is_ok());
    }

    #[test]
    fn an_item_above_the_capacity_waits_until_it_is_alone() {
        let admission = Admission::new(100);
        let small = admission.try_acquire(1).unwrap();
        assert!(admission.try_acquire(1_000).is_err());
        drop(small);
        assert_eq!(admission.try_acquire(1_000).unwrap().bytes(), 100);
    }

    #[test]
    fn a_closed_place_turns_waiters_away() {
        let admission = Admission::new(10);
        let held = admission.try_acquire(10).unwrap();
        let waiting = admission.acquire(1, true);
        admission.close();
        assert_eq!(pollster::block_on(waiting).unwrap_err().kind(), ErrorKind::Closed);
        drop(held);
    }
}
