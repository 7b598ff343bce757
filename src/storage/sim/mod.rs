//! A simulated file system in memory, with power losses and faults that come from a seed.
//!
//! ```text
//!   SimStorage ─► world    numbers, faults, traces and carries out each operation
//!     handle.rs    │  ├─► fault, trace, guard
//!                  └──► volume   directories and files ─► content   a file's pages, as seen and as durable
//!                                                      └► changes   directory changes not durable yet
//! ```
//! Content is durable after `sync_data`, names after `sync_dir`. A power loss takes of everything else
//! any part: sectors are old, new or zero, the length lies between, names are there or not. A sector
//! turns into zeroes only where none of its durable bytes were meant to stay, for disks write whole sectors.

mod changes;
mod content;
mod fault;
mod guard;
mod handle;
mod node;
mod rng;
mod step;
mod trace;
mod volume;
mod world;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

pub use content::SyncLoss;
pub use fault::{Errno, Fault, FaultRule, OpKind};
pub use guard::{DurableFiles, IsNeeded};
pub use trace::TraceEntry;
pub use world::CrashPoint;

use volume::Volume;
use world::World;

/// A simulated file system: one life of a machine, from its start to a crash. A clone is the same one.
///
/// Everything that happens follows from the seed and the sequence of operations.
#[derive(Clone)]
pub struct SimStorage {
    world: Arc<Mutex<World>>,
}

impl SimStorage {
    /// An empty file system.
    pub fn new(seed: u64) -> Self {
        Self::of(World::new(seed, Volume::new()))
    }

    fn of(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)) }
    }

    /// Cuts the power: returns a new file system with what the disk then holds. Every operation on this one
    /// fails from here on. The same state and seed give the same image; another call gives another image.
    ///
    /// # Panics
    /// If a rule of the guards was broken.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        self.assert_no_violations();
        let mut world = self.world.lock();
        world.is_dead = true;
        Self::of(world.restarted(seed, world.volume.power_loss(seed)))
    }

    /// Kills the process, not the machine: nothing is lost, and what was not durable is still not. Every
    /// operation on this one fails from here on; locks are free.
    ///
    /// # Panics
    /// If a rule of the guards was broken.
    #[must_use]
    pub fn kill(&self) -> Self {
        self.assert_no_violations();
        let mut world = self.world.lock();
        world.is_dead = true;
        Self::of(world.restarted(world.next_seed(), world.volume.processes_ended()))
    }

    /// Sets when the power goes. The operation that begins then is carried out wholly, in part or not at all;
    /// it and all later ones fail, and [`SimStorage::crash`] or [`SimStorage::kill`] gives what is left.
    pub fn set_crash_point(&self, at: CrashPoint) {
        self.world.lock().crash_point = Some(at);
    }

    /// Whether the machine is down.
    pub fn is_dead(&self) -> bool {
        self.world.lock().is_dead
    }

    /// How many operations began: the number of the next one.
    pub fn operations(&self) -> u64 {
        self.world.lock().counts.operations
    }

    /// How many operations began that can change something.
    pub fn changes(&self) -> u64 {
        self.world.lock().counts.changes
    }

    /// How many syncs of files and directories began.
    pub fn syncs(&self) -> u64 {
        self.world.lock().counts.syncs
    }

    /// How many bytes were written.
    pub fn bytes_written(&self) -> u64 {
        self.world.lock().counts.bytes_written
    }

    /// How many bytes were read.
    pub fn bytes_read(&self) -> u64 {
        self.world.lock().counts.bytes_read
    }

    /// The newest operations (some ten thousand), oldest first.
    pub fn trace(&self) -> Vec<TraceEntry> {
        self.world.lock().trace.entries()
    }

    /// A hash of all operations in order, with what they wrote and how they ended.
    pub fn trace_hash(&self) -> u64 {
        self.world.lock().trace.hash()
    }

    /// Adds a rule by which operations fail.
    pub fn fail(&self, rule: FaultRule) {
        self.world.lock().faults.add(rule);
    }

    /// Drops all rules: from here on nothing fails. What was lost stays lost.
    pub fn clear_faults(&self) {
        self.world.lock().faults.clear();
    }

    /// How many operations were hit by a rule.
    pub fn faults_fired(&self) -> u64 {
        self.world.lock().faults.fired()
    }

    /// Sets how many bytes all files together may hold. What does not fit is a short write, then `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world.lock().capacity = bytes;
    }

    /// The lengths of all files together, removed ones that are still open included.
    pub fn used_bytes(&self) -> u64 {
        self.world.lock().volume.used_bytes()
    }

    /// Sets how often, in 1,000, `read_at_nowait` finds all its bytes; otherwise it reads a part or would block.
    pub fn set_cached_permille(&self, permille: u32) {
        self.world.lock().cached_permille = permille;
    }

    /// Flips the bits of `xor` in one byte of a file, both as seen and as durable.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn corrupt(&self, path: impl AsRef<Path>, offset: u64, xor: u8) {
        let mut world = self.world.lock();
        let path = path.as_ref();
        let flipped = world.volume.lookup_file(path).and_then(|id| {
            world.volume.change(id, |content| {
                assert!(offset < content.len(), "{} ends before offset {offset}", path.display());
                content.flip(offset, xor);
            })
        });
        flipped.unwrap_or_else(|error| panic!("cannot corrupt {}: {error}", path.display()));
    }

    /// What a reader sees of a file; `None` if there is none. Not an operation.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let world = self.world.lock();
        let id = world.volume.lookup_file(path.as_ref()).ok()?;
        world.volume.file(id).ok().map(|file| file.content.bytes())
    }

    /// Puts a file in place, with missing directories, all of it durable. Not an operation.
    ///
    /// # Panics
    /// If a directory stands there.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = path.as_ref();
        let put = self.world.lock().volume.put_durable(path, bytes);
        put.unwrap_or_else(|error| panic!("cannot put {}: {error}", path.display()));
    }

    /// The files that are seen, sorted by path. Not an operation.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.world.lock().volume.paths()
    }

    /// A hash of the names and bytes of all files that are seen.
    pub fn content_hash(&self) -> u64 {
        self.world.lock().volume.content_hash()
    }

    /// From here on every path must lie below `root`; others are refused and count as violations.
    pub fn set_root(&self, root: impl Into<PathBuf>) {
        self.world.lock().guard.root = Some(root.into());
    }

    /// From here on a file whose name ends with `suffix` may be written only through the handle that
    /// created it; another write is refused and counts as a violation.
    pub fn set_write_once(&self, suffix: impl Into<String>) {
        self.world.lock().guard.write_once_suffix = Some(suffix.into());
    }

    /// From here on a file may be removed or renamed only if `is_needed` says no to it, judging by the
    /// durable state; otherwise that is refused and counts as a violation. `is_needed` must not use this storage.
    pub fn set_needed(&self, is_needed: impl Fn(&DurableFiles<'_>, &Path) -> bool + Send + Sync + 'static) {
        self.world.lock().guard.is_needed = Some(Arc::new(is_needed));
    }

    /// Which rules of [`SimStorage::set_root`], [`SimStorage::set_write_once`] and [`SimStorage::set_needed`] were
    /// broken.
    pub fn violations(&self) -> Vec<String> {
        self.world.lock().guard.violations().to_vec()
    }

    /// Asserts that no such rule was broken.
    ///
    /// # Panics
    /// If one was.
    pub fn assert_no_violations(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "the simulated file system was misused: {}", violations.join("; "));
    }
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.world.lock().counts;
        f.debug_struct("SimStorage").field("operations", &counts.operations).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "sim_test.rs"]
mod tests;
