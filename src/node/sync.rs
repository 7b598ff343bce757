//! The synchronization primitives of [`super::turn_gate`] and [`super::in_flight`], by one name, so that the model
//! checker can put its own in their place.

pub(super) use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};
