//! The segment files of one shard beside the one being written: spares prepared ahead, those still
//! needed, and those that a flush freed.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    WalOptions, WalSync,
    frame::Identity,
    segment::{Fill, Segment, create_segment, recycle_segment, segment_path, temp_path},
};
use crate::{
    error::{Error, Result},
    ids::{Incarnation, SegmentNumber, ShardId},
    storage::Storage,
    waiting::SlowMutex,
};

/// The next segment is prepared when the current one is filled by 1 / this.
const PREPARE_AT: u64 = 8;

/// Prepares, hands out, recycles and removes segment files.
#[derive(Debug)]
pub struct SegmentPool {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    shard: ShardId,
    options: WalOptions,
    incarnation_seed: u64,
    sync: Arc<WalSync>,
    /// Held while a spare is prepared: one is enough.
    preparing: SlowMutex<()>,
    /// Held while a segment is named. A failed sync of the directory may drop every new name, so there is only one.
    naming: SlowMutex<()>,
    /// Whether freed segments lost their names since the directory was synced.
    has_unsynced_names: AtomicBool,
    state: Mutex<PoolState>,
    /// How far the current segment is filled.
    filled_bytes: AtomicU64,
}

#[derive(Debug)]
struct PoolState {
    next_number: SegmentNumber,
    /// Ready to be written, lowest number first; all above the current segment's.
    spares: VecDeque<Segment>,
    /// Free to be recycled, lowest number first.
    freed: VecDeque<PathBuf>,
    /// Begun by the writer, or left by an earlier run: needed until the floor passes them.
    live: BTreeMap<SegmentNumber, LiveSegment>,
    /// To be removed.
    doomed: VecDeque<PathBuf>,
    current: SegmentNumber,
}

#[derive(Debug)]
struct LiveSegment {
    path: PathBuf,
    recyclable: bool,
}

/// What a pool starts with.
pub(super) struct PoolStart {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) shard: ShardId,
    pub(super) options: WalOptions,
    pub(super) incarnation_seed: u64,
    pub(super) sync: Arc<WalSync>,
    pub(super) next_number: SegmentNumber,
    pub(super) retained: Vec<SegmentNumber>,
}

impl SegmentPool {
    pub(super) fn new(start: PoolStart) -> Self {
        // NOTE: files of an earlier run are removed when they are free, never recycled: a sync of theirs may
        // have failed there.
        let retain =
            |number| (number, LiveSegment { path: segment_path(&start.dir, number), recyclable: false });
        let state = PoolState {
            next_number: start.next_number,
            spares: VecDeque::new(),
            freed: VecDeque::new(),
            live: start.retained.into_iter().map(retain).collect(),
            doomed: VecDeque::new(),
            current: SegmentNumber(0),
        };
        Self {
            storage: start.storage,
            dir: start.dir,
            shard: start.shard,
            options: start.options,
            incarnation_seed: start.incarnation_seed,
            sync: start.sync,
            preparing: SlowMutex::default(),
            naming: SlowMutex::default(),
            has_unsynced_names: AtomicBool::new(false),
            state: Mutex::new(state),
            filled_bytes: AtomicU64::new(0),
        }
    }

    /// Whether [`SegmentPool::prepare`] has something to do: no spare is ready and the current segment has
    /// begun to fill. A trimmed pool of a shard that is not written to wants nothing.
    pub fn wanted(&self) -> bool {
        self.filled_bytes.load(Ordering::Relaxed) >= self.options.segment_bytes / PREPARE_AT
            && self.state.lock().spares.is_empty()
    }

    /// Prepares one spare, from a freed file or a new one (filled with zeroes where syncs are waited for), and makes
    /// it durable. Called by a
    /// worker ahead of need. Does nothing when a spare is ready.
    ///
    /// # Errors
    /// `NoSpace` or `Io`. Nothing is lost: an append prepares its segment itself.
    pub fn prepare(&self) -> Result<()> {
        let _one_at_a_time = self.preparing.lock();
        if !self.state.lock().spares.is_empty() {
            return Ok(());
        }
        let fill = if self.sync.expects_syncs() { Fill::Zeroes } else { Fill::Reserve };
        let segment = self.make(fill)?;
        let mut state = self.state.lock();
        if segment.identity.segment > state.current {
            state.spares.push_back(segment);
            return Ok(());
        }
        // The writer could not wait and went on in a later segment; numbers only rise.
        state.doomed.push_back(segment.path);
        drop(state);
        self.remove_unneeded()
    }

    /// Lets go of every segment below `floor`: the manifest says, durably, that recovery begins there. Freed
    /// files are kept for recycling up to a bound; the others are removed.
    ///
    /// No file has the name of a freed segment, durably, when this is done: if the manifest loses the record that
    /// states the floor, the floor before it is missed, and the log is not taken for one that ends early.
    ///
    /// # Errors
    /// `Io` when a file could not be renamed or removed, or the directory not be synced; the next call tries again.
    /// `Internal`, with nothing released, if `floor` lies behind the segment being written.
    pub fn release(&self, floor: SegmentNumber) -> Result<()> {
        let mut unnamed = Ok(());
        // IMPORTANT: the lowest goes first, as that is the one to be missed.
        for (number, segment) in self.let_go(floor)? {
            unnamed = unnamed.and(self.take_name(number, &segment));
        }
        unnamed = unnamed.and(self.sync_names());
        if unnamed.is_ok() {
            // IMPORTANT: only now. As long as a name may come back, what it names is part of each sync that is acked.
            self.sync.forget_below(floor);
        }
        let removed = self.remove_unneeded();
        unnamed.and(removed)
    }

    /// Lets go of every segment below `floor`, as [`SegmentPool::release`] does, but all files stay where they are for
    /// [`SegmentPool::remove_unneeded`]. The log up to the floor must be durable.
    ///
    /// # Errors
    /// `Internal`, with nothing freed, if `floor` lies behind the segment being written.
    pub fn free(&self, floor: SegmentNumber) -> Result<()> {
        let freed = self.let_go(floor)?;
        self.sync.forget_below(floor);
        self.state.lock().doomed.extend(freed.into_values().map(|segment| segment.path));
        Ok(())
    }

    /// The segments below `floor`, lowest first, which are not the log's any more.
    fn let_go(&self, floor: SegmentNumber) -> Result<BTreeMap<SegmentNumber, LiveSegment>> {
        let mut state = self.state.lock();
        if floor > state.current {
            return Err(Error::internal(format!(
                "segment {} is released while it is written",
                state.current
            )));
        }
        let needed = state.live.split_off(&floor);
        Ok(std::mem::replace(&mut state.live, needed))
    }

    /// Takes a freed segment's name away. The file is kept for recycling, or doomed.
    fn take_name(&self, number: SegmentNumber, segment: &LiveSegment) -> Result<()> {
        let nameless = temp_path(&self.dir, number);
        self.has_unsynced_names.store(true, Ordering::Release);
        let renamed = self.storage.rename(&segment.path, &nameless);
        let may_stay = segment.recyclable && renamed.is_ok() && !self.sync.is_poisoned();
        let mut state = self.state.lock();
        if may_stay && state.spares.len() + state.freed.len() < self.options.idle_segments {
            state.freed.push_back(nameless);
        } else {
            state.doomed.push_back(if renamed.is_ok() { nameless } else { segment.path.clone() });
        }
        drop(state);
        renamed.map_err(|error| Error::io("rename", &segment.path, error))
    }

    /// Makes it durable that names were taken away.
    fn sync_names(&self) -> Result<()> {
        if !self.has_unsynced_names.load(Ordering::Acquire) {
            return Ok(());
        }
        // NOTE: under the lock, because a failed sync may drop what is being named.
        let _nothing_is_named = self.naming.lock();
        self.storage.sync_dir(&self.dir).map_err(|error| Error::io("sync", &self.dir, error))?;
        self.has_unsynced_names.store(false, Ordering::Release);
        Ok(())
    }

    /// How many files wait for [`SegmentPool::remove_unneeded`].
    pub fn unneeded(&self) -> usize {
        self.state.lock().doomed.len()
    }

    /// Removes idle files until at most `keep` are left.
    ///
    /// # Errors
    /// `Io` when a file could not be removed; the next call tries again.
    pub fn trim(&self, keep: usize) -> Result<()> {
        let _no_preparation = self.preparing.lock();
        let mut state = self.state.lock();
        while state.spares.len() + state.freed.len() > keep {
            // NOTE: of the spares the highest goes first, so that the rest keeps its order.
            let path = state.freed.pop_front().or_else(|| state.spares.pop_back().map(|spare| spare.path));
            state.doomed.extend(path);
        }
        drop(state);
        self.remove_unneeded()
    }

    /// The number of spares that are ready.
    pub fn spares(&self) -> usize {
        self.state.lock().spares.len()
    }

    /// A segment with room for `bytes` in all: a spare, or one made now.
    pub(super) fn take(&self, bytes: u64) -> Result<Segment> {
        self.take_filled(bytes, Fill::Reserve)
    }

    /// The segment that a log begins with: nobody waits for a write yet, so it is filled with zeroes.
    pub(super) fn take_first(&self, bytes: u64) -> Result<Segment> {
        self.take_filled(bytes, Fill::Zeroes)
    }

    fn take_filled(&self, bytes: u64, fill: Fill) -> Result<Segment> {
        // NOTE: no waiting for a worker that prepares one right now: that may take as long as filling a file.
        let ready = self.state.lock().spares.pop_front();
        let segment = match ready {
            Some(spare) => spare,
            None => self.make(fill)?,
        };
        self.hand_out(segment, bytes)
    }

    /// The current segment was grown: it is not recycled, or every segment would come to be so long.
    pub(super) fn note_grown(&self, segment: SegmentNumber) {
        if let Some(live) = self.state.lock().live.get_mut(&segment) {
            live.recyclable = false;
        }
    }

    /// How far the current segment is filled, for [`SegmentPool::wanted`].
    pub(super) fn set_filled(&self, bytes: u64) {
        self.filled_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Leaves files that nothing needs to [`SegmentPool::remove_unneeded`].
    pub(super) fn doom(&self, paths: Vec<PathBuf>) {
        self.state.lock().doomed.extend(paths);
    }

    fn hand_out(&self, mut segment: Segment, bytes: u64) -> Result<Segment> {
        if let Err(error) = grow(&mut segment, bytes) {
            self.state.lock().spares.push_front(segment);
            return Err(error);
        }
        let recyclable = segment.capacity == self.options.segment_bytes;
        let live = LiveSegment { path: segment.path.clone(), recyclable };
        let mut state = self.state.lock();
        state.live.insert(segment.identity.segment, live);
        state.current = segment.identity.segment;
        while let Some(late) =
            state.spares.pop_front_if(|spare| spare.identity.segment < segment.identity.segment)
        {
            state.doomed.push_back(late.path);
        }
        drop(state);
        self.set_filled(0);
        Ok(segment)
    }

    fn make(&self, fill: Fill) -> Result<Segment> {
        let mut state = self.state.lock();
        let number = state.next_number;
        state.next_number = number.next();
        let freed = state.freed.pop_front();
        drop(state);
        let incarnation = Incarnation(mix(self.incarnation_seed ^ mix(number.get())));
        let identity = Identity { shard: self.shard, segment: number, incarnation };
        let (storage, capacity) = (&*self.storage, self.options.segment_bytes);
        match freed {
            Some(path) => recycle_segment(storage, &self.dir, &path, identity, capacity, fill, &self.naming),
            None => create_segment(storage, &self.dir, identity, capacity, fill, &self.naming),
        }
    }

    /// Removes the files that nothing needs.
    ///
    /// # Errors
    /// `Io` when a file could not be removed; the next call tries again.
    pub fn remove_unneeded(&self) -> Result<()> {
        let mut result = Ok(());
        for _ in 0..self.unneeded() {
            result = result.and(self.remove_one());
        }
        result
    }

    /// Removes one of them: tens of milliseconds, if it is large.
    ///
    /// # Errors
    /// `Io` when it could not be removed; it is tried again after the others.
    pub fn remove_one(&self) -> Result<()> {
        let Some(path) = self.state.lock().doomed.pop_front() else { return Ok(()) };
        match self.storage.remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                let error = Error::io("remove", &path, error);
                self.state.lock().doomed.push_back(path);
                Err(error)
            }
        }
    }
}

/// Makes room for `bytes` in a segment that has not begun.
pub(super) fn grow(segment: &mut Segment, bytes: u64) -> Result<()> {
    if bytes > segment.capacity {
        let capacity = bytes.next_multiple_of(4096);
        segment.file.allocate(capacity).map_err(|e| Error::io("reserve space for", &segment.path, e))?;
        segment.capacity = capacity;
    }
    Ok(())
}

/// The finalizer of `SplitMix64`: every bit of the result depends on every bit of `value`.
const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
