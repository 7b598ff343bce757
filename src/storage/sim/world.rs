//! One life of a simulated machine: its volume, and what happens to each operation on it.
//!
//! ```text
//!   number it ─► crash point? ─► fault? ─► carry it out, wholly or in part ─► trace it
//! ```
//! Every random choice of an operation comes from the seed and the operation's number alone.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use rustix::io::Errno;

use super::{
    changes::NodeId,
    content::{PAGE_BYTES, data_hash},
    fault::{Fault, Faults, OpKind},
    guard::Guard,
    rng::Rng,
    step::{InFlight, Op, Opened, Outcome, Step, Verdict},
    trace::{Trace, TraceEntry},
    volume::Volume,
};
use crate::storage::{DirEntry, OpenMode};

/// How often a read that must not wait finds its bytes in the page cache, in 1,000, unless a test says otherwise.
const CACHED_PERMILLE: u32 = 750;

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// At the beginning of the operation with this number.
    AtOperation(u64),
    /// At the beginning of the n-th operation that can change something, counted from 0.
    AtChange(u64),
    /// At the beginning of the n-th sync of a file or directory, counted from 0.
    AtSync(u64),
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) operations: u64,
    pub(super) changes: u64,
    pub(super) syncs: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
}

/// Who holds a lock.
#[derive(Debug)]
enum Holders {
    One,
    Sharers(usize),
}

#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    pub(super) volume: Volume,
    pub(super) guard: Guard,
    pub(super) faults: Faults,
    pub(super) trace: Trace,
    pub(super) crash_point: Option<CrashPoint>,
    pub(super) is_dead: bool,
    pub(super) counts: Counts,
    pub(super) capacity: Option<u64>,
    pub(super) cached_permille: u32,
    locked: BTreeMap<NodeId, Holders>,
}

pub(super) fn machine_is_down() -> io::Error {
    io::Error::other("the simulated machine is down")
}

impl World {
    pub(super) fn new(seed: u64, volume: Volume) -> Self {
        Self {
            seed,
            volume,
            guard: Guard::default(),
            faults: Faults::default(),
            trace: Trace::default(),
            crash_point: None,
            is_dead: false,
            counts: Counts::default(),
            capacity: None,
            cached_permille: CACHED_PERMILLE,
            locked: BTreeMap::new(),
        }
    }

    /// The machine after a restart with that volume: the same settings, no faults, nothing counted yet.
    pub(super) fn restarted(&self, seed: u64, volume: Volume) -> Self {
        Self {
            guard: self.guard.renewed(),
            capacity: self.capacity,
            cached_permille: self.cached_permille,
            ..Self::new(seed, volume)
        }
    }

    /// The seed of the life after this one.
    pub(super) fn next_seed(&self) -> u64 {
        Rng::new(self.seed, u64::MAX).next()
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.run(Op::new(OpKind::CreateDir, path), |world, mut step| {
            if step.is_done()? { world.volume.create_dir_all(path) } else { Ok(()) }
        })
    }

    pub(super) fn read_dir(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.run(Op::new(OpKind::ReadDir, path), |world, mut step| {
            step.is_done()?;
            let mut entries = world.volume.list(path)?;
            // The order means nothing, so it is another one each time.
            for i in (1..entries.len()).rev() {
                entries.swap(i, step.rng.up_to(i));
            }
            Ok(entries)
        })
    }

    pub(super) fn open(&mut self, path: &Arc<Path>, mode: OpenMode) -> io::Result<Opened> {
        let kind = if mode == OpenMode::CreateNew { OpKind::Create } else { OpKind::Open };
        self.run(Op::new(kind, Arc::clone(path)), |world, mut step| {
            if !step.is_done()? {
                return Err(machine_is_down());
            }
            let id = match mode {
                OpenMode::CreateNew => world.volume.create_file(path)?,
                OpenMode::Read | OpenMode::ReadWrite => world.volume.lookup_file(path)?,
            };
            world.volume.opened(id)?;
            Ok(Opened(id))
        })
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let op = Op { to: Some(to.into()), ..Op::new(OpKind::Rename, from) };
        self.run(op, |world, mut step| {
            world.guard.check_removal(&world.volume, from)?;
            if step.is_done()? { world.volume.rename(from, to) } else { Ok(()) }
        })
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.run(Op::new(OpKind::Remove, path), |world, mut step| {
            world.guard.check_removal(&world.volume, path)?;
            if step.is_done()? { world.volume.remove_file(path) } else { Ok(()) }
        })
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        self.run(Op::new(OpKind::SyncDir, path), |world, mut step| {
            let dir = world.volume.lookup(path)?;
            match step.verdict {
                Verdict::Run | Verdict::Crash(InFlight::Full) => world.volume.sync_dir(dir, || true),
                Verdict::Crash(InFlight::Partial) => world.volume.sync_dir(dir, || step.rng.coin()),
                Verdict::Crash(InFlight::Absent) => Ok(()),
                Verdict::Fault(fault) => {
                    match fault {
                        Fault::Partial(_) => world.volume.sync_dir(dir, || step.rng.coin())?,
                        Fault::Sync(loss) => world.volume.fail_dir_sync(dir, loss),
                        _ => {}
                    }
                    Err(fault.error())
                }
            }
        })
    }

    pub(super) fn try_lock(&mut self, path: &Path) -> io::Result<Opened> {
        self.run(Op::new(OpKind::Lock, path), |world, mut step| {
            if !step.is_done()? {
                return Err(machine_is_down());
            }
            let id = match world.volume.lookup_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => world.volume.create_file(path)?,
                found => found?,
            };
            if world.locked.contains_key(&id) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            world.volume.opened(id)?;
            world.locked.insert(id, Holders::One);
            Ok(Opened(id))
        })
    }

    pub(super) fn try_lock_shared(&mut self, path: &Path) -> io::Result<Opened> {
        self.run(Op::new(OpKind::LockShared, path), |world, mut step| {
            if !step.is_done()? {
                return Err(machine_is_down());
            }
            let id = world.volume.lookup_file(path)?;
            let sharers = match world.locked.get(&id) {
                Some(Holders::One) => return Err(io::ErrorKind::WouldBlock.into()),
                Some(Holders::Sharers(sharers)) => sharers + 1,
                None => 1,
            };
            world.volume.opened(id)?;
            world.locked.insert(id, Holders::Sharers(sharers));
            Ok(Opened(id))
        })
    }

    pub(super) fn unlock(&mut self, id: NodeId) {
        match self.locked.get_mut(&id) {
            Some(Holders::Sharers(sharers)) if *sharers > 1 => *sharers -= 1,
            _ => drop(self.locked.remove(&id)),
        }
        self.volume.closed(id, false);
    }

    pub(super) fn read(&mut self, op: Op, id: NodeId, buf: &mut [u8]) -> io::Result<usize> {
        let (kind, offset) = (op.kind, op.offset);
        self.run(op, |world, mut step| {
            let is_hit = kind == OpKind::Read || step.rng.permille(world.cached_permille);
            let wanted = match step.verdict {
                Verdict::Run if is_hit => buf.len(),
                Verdict::Run if step.rng.coin() => return Err(io::ErrorKind::WouldBlock.into()),
                // Only the first of the pages is in the cache, or none.
                Verdict::Run => step.rng.up_to(buf.len() / PAGE_BYTES) * PAGE_BYTES,
                Verdict::Fault(Fault::Short) => step.part(buf.len()),
                Verdict::Fault(Fault::FlipOnce | Fault::FlipForever) => buf.len(),
                Verdict::Fault(fault) => return Err(fault.error()),
                Verdict::Crash(_) => 0,
            };
            let (wanted, _) = buf.split_at_mut(wanted.min(buf.len()));
            let read = world.volume.file(id)?.content.read(wanted, offset);
            if let Verdict::Fault(fault @ (Fault::FlipOnce | Fault::FlipForever)) = step.verdict
                && read > 0
            {
                let (at, xor) = (step.rng.up_to(read - 1), 1 << step.rng.between(0, 7));
                wanted.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= xor);
                if fault == Fault::FlipForever {
                    world.volume.change(id, |content| content.flip(offset + at as u64, xor))?;
                }
            }
            world.counts.bytes_read += read as u64;
            Ok(read)
        })
    }

    pub(super) fn write(&mut self, op: Op, id: NodeId, buf: &[u8]) -> io::Result<usize> {
        let (path, offset) = (Arc::clone(&op.path), op.offset);
        let end = offset.checked_add(buf.len() as u64).ok_or(Errno::FBIG)?;
        self.run(Op { data: data_hash(buf), ..op }, |world, mut step| {
            world.check_write(&path, id)?;
            let room = world.room(id, end, buf.len())?;
            let (bytes, error) = match step.verdict {
                Verdict::Run | Verdict::Crash(InFlight::Full) => (buf.len(), None),
                Verdict::Fault(Fault::Short) => (step.part(buf.len()), None),
                Verdict::Fault(Fault::Partial(errno)) => (step.rng.up_to(buf.len()), Some(errno.into())),
                Verdict::Fault(fault) => (0, Some(fault.error())),
                Verdict::Crash(InFlight::Partial) => (step.rng.up_to(buf.len()), None),
                Verdict::Crash(InFlight::Absent) => (0, None),
            };
            let (written, _) = buf.split_at(bytes.min(room));
            if !written.is_empty() {
                world.volume.change(id, |content| content.write(written, offset))?;
                world.counts.bytes_written += written.len() as u64;
            }
            match error {
                Some(error) => Err(error),
                None if written.is_empty() && !buf.is_empty() => Err(Errno::NOSPC.into()),
                None => Ok(written.len()),
            }
        })
    }

    /// Syncs a file: the bytes that the operation names, or all if it names none.
    pub(super) fn sync(&mut self, op: Op, id: NodeId) -> io::Result<()> {
        let (offset, bytes) = (op.offset, op.bytes);
        self.run(op, |world, mut step| {
            let rng = &mut step.rng;
            match step.verdict {
                Verdict::Run | Verdict::Crash(InFlight::Full) => world.volume.change(id, |content| {
                    if bytes > 0 { content.sync_range(offset, bytes) } else { content.sync() }
                }),
                Verdict::Crash(InFlight::Partial) => {
                    world.volume.change(id, |content| content.sync_in_part(rng))
                }
                Verdict::Crash(InFlight::Absent) => Ok(()),
                Verdict::Fault(fault) => {
                    world.volume.change(id, |content| match fault {
                        Fault::Partial(_) => content.sync_in_part(rng),
                        Fault::Sync(loss) => content.fail_sync(loss),
                        _ => {}
                    })?;
                    Err(fault.error())
                }
            }
        })
    }

    pub(super) fn len(&mut self, op: Op, id: NodeId) -> io::Result<u64> {
        self.run(op, |world, mut step| {
            step.is_done()?;
            world.volume.file(id).map(|file| file.content.len())
        })
    }

    pub(super) fn allocate(&mut self, op: Op, id: NodeId) -> io::Result<()> {
        let (path, len) = (Arc::clone(&op.path), op.bytes);
        self.run(op, |world, mut step| {
            world.check_write(&path, id)?;
            let before = world.volume.file(id)?.content.len();
            let wanted = len.saturating_sub(before);
            if world.free_bytes().is_some_and(|free| free < wanted) {
                return Err(Errno::NOSPC.into());
            }
            let done = match step.verdict {
                Verdict::Run | Verdict::Crash(InFlight::Full) => wanted,
                Verdict::Crash(InFlight::Partial) => step.rng.between(0, wanted),
                Verdict::Crash(InFlight::Absent) => 0,
                Verdict::Fault(fault) => return Err(fault.error()),
            };
            world.volume.change(id, |content| content.set_len(before + done))
        })
    }

    pub(super) fn truncate(&mut self, op: Op, id: NodeId) -> io::Result<()> {
        let (path, len) = (Arc::clone(&op.path), op.bytes);
        self.run(op, |world, mut step| {
            world.check_write(&path, id)?;
            if !step.is_done()? {
                return Ok(());
            }
            world.volume.change(id, |content| content.set_len(len))
        })
    }

    fn check_write(&mut self, path: &Path, id: NodeId) -> io::Result<()> {
        let is_finished = self.volume.file(id)?.is_finished;
        self.guard.check_write(path, is_finished)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.volume.used_bytes()))
    }

    /// How many of the `bytes` of a write that ends at `end` the disk has room for.
    fn room(&self, id: NodeId, end: u64, bytes: usize) -> io::Result<usize> {
        let Some(free) = self.free_bytes() else { return Ok(bytes) };
        let last = self.volume.file(id)?.content.len() + free;
        let missing = usize::try_from(end.saturating_sub(last)).unwrap_or(usize::MAX);
        Ok(bytes.saturating_sub(missing))
    }

    /// Carries an operation out from number to trace.
    fn run<T: Outcome>(
        &mut self,
        op: Op,
        body: impl FnOnce(&mut Self, Step) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.is_dead {
            return Err(machine_is_down());
        }
        let number = self.counts.operations;
        let step = self.begin(&op, number);
        let mut allowed = self.guard.check_root(&op.path);
        if let Some(to) = &op.to {
            allowed = allowed.and_then(|()| self.guard.check_root(to));
        }
        let mut result = allowed.and_then(|()| body(self, step));
        if self.is_dead {
            result = Err(machine_is_down());
        }
        let outcome = result.as_ref().map(Outcome::bytes).map_err(io::Error::kind);
        let Op { kind, path, to, offset, bytes, data } = op;
        self.trace.record(TraceEntry { number, kind, path, to, offset, bytes, outcome }, data);
        result
    }

    fn begin(&mut self, op: &Op, number: u64) -> Step {
        let mut rng = Rng::new(self.seed, number);
        let is_crash = match self.crash_point {
            None => false,
            Some(CrashPoint::AtOperation(n)) => number == n,
            Some(CrashPoint::AtChange(n)) => op.kind.is_change() && self.counts.changes == n,
            Some(CrashPoint::AtSync(n)) => op.kind.is_sync() && self.counts.syncs == n,
        };
        self.counts.operations += 1;
        self.counts.changes += u64::from(op.kind.is_change());
        self.counts.syncs += u64::from(op.kind.is_sync());
        let fault = self.faults.pick(op.kind, &op.path, number);
        let verdict = if is_crash {
            self.is_dead = true;
            Verdict::Crash(match rng.between(0, 2) {
                0 => InFlight::Absent,
                1 => InFlight::Partial,
                _ => InFlight::Full,
            })
        } else {
            fault.map_or(Verdict::Run, Verdict::Fault)
        };
        Step { verdict, rng }
    }
}
