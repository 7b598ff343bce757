//! Making a log durable: one sync at a time, shared by everybody who waits for one. A sync that fails
//! poisons the log at once and for ever.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::LogPosition;
use crate::{
    error::{Error, ErrorKind, Result},
    ids::SegmentNumber,
    storage::StorageFile,
    waiting::block_on,
};

/// What is written and what is durable in one shard's log; shared by its turn, its workers and other shards.
#[derive(Debug)]
pub struct WalSync {
    state: Mutex<SyncState>,
    /// Whether the state has a poison, for those who ask at every write.
    poisoned: AtomicBool,
    /// Whether a writer has waited for a sync; see [`WalSync::expect_syncs`].
    expected: AtomicBool,
    /// A sync ended, well or not.
    ended: Notify,
}

#[derive(Debug)]
struct SyncState {
    written: LogPosition,
    synced: LogPosition,
    /// The end of the last frame of a cross-shard batch.
    last_batch: LogPosition,
    /// Segments with bytes that are not known to be durable, oldest first.
    unsynced: Vec<UnsyncedSegment>,
    /// Whether somebody syncs right now.
    syncing: bool,
    poisoned: Option<Error>,
}

#[derive(Clone, Debug)]
struct UnsyncedSegment {
    number: SegmentNumber,
    file: Arc<dyn StorageFile>,
    path: PathBuf,
}

impl WalSync {
    /// The state of a log that is durable up to `at`.
    pub(super) fn new(at: LogPosition) -> Self {
        let state = SyncState {
            written: at,
            synced: at,
            last_batch: LogPosition::default(),
            unsynced: Vec::new(),
            syncing: false,
            poisoned: None,
        };
        Self {
            state: Mutex::new(state),
            poisoned: AtomicBool::new(false),
            expected: AtomicBool::new(false),
            ended: Notify::new(),
        }
    }

    /// Makes everything that was written before the call durable, segments before the current one first, and
    /// returns the position up to which the log is durable. Waits for the device. Callers that come while a
    /// sync runs share the next one, because what they wrote may have come after it began.
    ///
    /// # Errors
    /// `Poisoned` when this or any earlier sync of the log failed. It is never tried again: the shard has to
    /// be re-opened.
    pub fn sync(&self) -> Result<LogPosition> {
        let mut state = self.state.lock();
        state.check()?;
        let target = state.written;
        loop {
            if state.synced >= target {
                return Ok(state.synced);
            }
            state.check()?;
            if state.syncing {
                // NOTE: asked for under the lock, so that it has not ended meanwhile.
                let ended = self.ended.notified();
                drop(state);
                block_on(ended);
                state = self.state.lock();
                continue;
            }
            // IMPORTANT: the goal is fixed before the device is asked. A frame written from here on may miss it.
            let goal = state.written;
            let segments = state.unsynced.clone();
            state.syncing = true;
            drop(state);
            let mut turn = SyncTurn { sync: self, outcome: None };
            turn.outcome = Some(sync_segments(&segments).map(|()| goal));
            drop(turn);
            state = self.state.lock();
        }
    }

    /// Writers wait for syncs of this log: from now on its segments are prepared so that a sync changes no metadata,
    /// which costs writing each of them once.
    pub fn expect_syncs(&self) {
        if !self.expected.load(Ordering::Relaxed) {
            self.expected.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn expects_syncs(&self) -> bool {
        self.expected.load(Ordering::Relaxed)
    }

    /// The end of what was written: every frame before it has reached the operating system.
    pub fn written(&self) -> LogPosition {
        self.state.lock().written
    }

    /// The end of what is known to be on stable storage.
    pub fn synced(&self) -> LogPosition {
        self.state.lock().synced
    }

    /// Whether a frame of a cross-shard batch lies behind the synced position.
    pub fn has_unsynced_batch(&self) -> bool {
        let state = self.state.lock();
        state.last_batch > state.synced
    }

    /// Whether a sync failed, or [`WalSync::poison`] was called.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Refuses every append and sync from now on, because of `cause`. A first cause stays.
    pub fn poison(&self, cause: &Error) {
        self.set_poison(&mut self.state.lock(), cause);
        self.ended.notify_waiters();
    }

    fn set_poison(&self, state: &mut SyncState, cause: &Error) {
        state.poison(cause);
        self.poisoned.store(true, Ordering::Release);
    }

    /// The synced position, for a frame that is about to be written.
    pub(super) fn begin_append(&self) -> Result<LogPosition> {
        let state = self.state.lock();
        state.check()?;
        Ok(state.synced)
    }

    /// A group was written whole, up to `end`.
    pub(super) fn end_append(
        &self,
        end: LogPosition,
        file: &Arc<dyn StorageFile>,
        path: &Path,
        has_batch: bool,
    ) {
        let mut state = self.state.lock();
        state.written = end;
        if has_batch {
            state.last_batch = end;
        }
        if state.unsynced.last().is_none_or(|last| last.number != end.segment) {
            let segment =
                UnsyncedSegment { number: end.segment, file: Arc::clone(file), path: path.to_owned() };
            state.unsynced.push(segment);
        }
    }

    /// Segments below `floor` are of no use any more: nobody needs them durable.
    pub(super) fn forget_below(&self, floor: SegmentNumber) {
        self.state.lock().unsynced.retain(|segment| segment.number >= floor);
    }
}

impl SyncState {
    fn check(&self) -> Result<()> {
        self.poisoned.as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn poison(&mut self, cause: &Error) {
        if self.poisoned.is_none() {
            let message = "the shard's log is poisoned and must be re-opened";
            self.poisoned = Some(Error::with_source(ErrorKind::Poisoned, message, cause.clone()));
        }
    }
}

/// The right to sync. Dropped without an outcome (a panic), it poisons the log.
struct SyncTurn<'a> {
    sync: &'a WalSync,
    outcome: Option<Result<LogPosition>>,
}

impl Drop for SyncTurn<'_> {
    fn drop(&mut self) {
        let mut state = self.sync.state.lock();
        state.syncing = false;
        match self.outcome.take() {
            Some(Ok(goal)) => {
                state.synced = state.synced.max(goal);
                let all = state.written == goal;
                let keeps = |number| number > goal.segment || number == goal.segment && !all;
                state.unsynced.retain(|segment| keeps(segment.number));
            }
            Some(Err(error)) => self.sync.set_poison(&mut state, &error),
            None => self.sync.set_poison(&mut state, &Error::internal("a sync panicked")),
        }
        self.sync.ended.notify_waiters();
    }
}

/// IMPORTANT: oldest first. A frame must not be durable, and acked, while one before it may be lost.
fn sync_segments(segments: &[UnsyncedSegment]) -> Result<()> {
    for segment in segments {
        segment.file.sync_data().map_err(|error| Error::io("sync", &segment.path, error))?;
    }
    Ok(())
}
