//! The synchronization primitives of [`super::turn_gate`], by one name, so that the model checker can put
//! its own in their place.

pub(super) use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};
