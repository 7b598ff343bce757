//! What the log's tests share: a log in the simulated file system, and operations to fill it with.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::*;
use crate::{
    entry::ValueKind,
    error::Result,
    ids::{BatchId, SegmentNumber, SeqNo, ShardId},
    storage::{DirEntry, FileKind, OpenMode, Storage, StorageFile, StorageLock},
};

pub(super) const SHARD: ShardId = ShardId(3);
pub(super) const SEGMENT_BYTES: u64 = 8 << 10;

pub(super) fn dir() -> &'static Path {
    Path::new("/data/shard-0003/wal")
}

/// Files in memory, with a few faults.
#[derive(Clone, Debug, Default)]
pub(super) struct MemStorage(Arc<MemState>);

#[derive(Debug, Default)]
struct MemState {
    files: Mutex<BTreeMap<PathBuf, Arc<MemFile>>>,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The next write stores this many bytes and fails.
    pub(super) tear_write: Mutex<Option<usize>>,
    /// The next sync fails.
    pub(super) fail_sync: Mutex<bool>,
    /// Called in the middle of each sync.
    pub(super) in_sync: Mutex<Option<Hook>>,
    /// How many bytes all files may take.
    pub(super) capacity: Mutex<Option<u64>>,
    pub(super) writes: AtomicU64,
    pub(super) syncs: AtomicU64,
}

pub(super) struct Hook(pub(super) Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hook")
    }
}

#[derive(Debug)]
struct MemFile {
    bytes: Mutex<Vec<u8>>,
    faults: Arc<Faults>,
}

impl MemStorage {
    pub(super) fn faults(&self) -> &Faults {
        &self.0.faults
    }

    pub(super) fn shared(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// An independent copy of every file.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::default();
        for (path, file) in self.0.files.lock().iter() {
            copy.write_file(path, &file.bytes.lock());
        }
        copy
    }

    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) {
        let file = MemFile { bytes: Mutex::new(bytes.to_vec()), faults: Arc::clone(&self.0.faults) };
        self.0.files.lock().insert(path.to_owned(), Arc::new(file));
    }

    pub(super) fn read_file(&self, path: &Path) -> Vec<u8> {
        self.0.files.lock()[path].bytes.lock().clone()
    }

    pub(super) fn remove(&self, path: &Path) {
        self.0.files.lock().remove(path).unwrap();
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.files.lock().keys().cloned().collect()
    }
}

impl Storage for MemStorage {
    fn identity(&self, path: &Path) -> (usize, PathBuf) {
        (std::ptr::from_ref(self).addr(), path.to_owned())
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let files = self.0.files.lock();
        let inside = files.keys().filter(|file| file.parent() == Some(path));
        let name = |file: &PathBuf| file.file_name().map(OsString::from).unwrap();
        Ok(inside.map(|file| DirEntry { name: name(file), kind: FileKind::File }).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let exists = self.0.files.lock().contains_key(path);
        match mode {
            OpenMode::CreateNew if exists => return Err(io::ErrorKind::AlreadyExists.into()),
            OpenMode::CreateNew => self.write_file(path, &[]),
            _ if !exists => return Err(io::ErrorKind::NotFound.into()),
            _ => {}
        }
        let file: Arc<dyn StorageFile> = self.0.files.lock()[path].clone();
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.files.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.files.lock().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self, _: &Path) -> io::Result<Box<dyn StorageLock>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn try_lock_shared(&self, _: &Path) -> io::Result<Box<dyn StorageLock>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl StorageFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.lock();
        let rest = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn read_at_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.faults.writes.fetch_add(1, Ordering::Relaxed);
        let torn = self.faults.tear_write.lock().take();
        let buf = &buf[..torn.unwrap_or(buf.len()).min(buf.len())];
        let (start, mut bytes) = (usize::try_from(offset).unwrap(), self.bytes.lock());
        if bytes.len() < start + buf.len() {
            bytes.resize(start + buf.len(), 0);
        }
        bytes[start..start + buf.len()].copy_from_slice(buf);
        if torn.is_some() { Err(io::Error::other("injected")) } else { Ok(buf.len()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.syncs.fetch_add(1, Ordering::Relaxed);
        let hook = self.faults.in_sync.lock().as_ref().map(|hook| Arc::clone(&hook.0));
        if let Some(hook) = hook {
            hook();
        }
        if std::mem::take(&mut *self.faults.fail_sync.lock()) {
            Err(io::Error::other("injected"))
        } else {
            Ok(())
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.faults.capacity.lock().is_some_and(|capacity| len > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (len, mut bytes) = (usize::try_from(len).unwrap(), self.bytes.lock());
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().truncate(usize::try_from(len).unwrap());
        Ok(())
    }
}

/// An operation of a model: key, value (`None`: a delete), expiry.
pub(super) type ModelOp = (Vec<u8>, Option<Vec<u8>>, Option<u64>);

/// A frame as a model keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelFrame {
    pub(super) kind: FrameKind,
    pub(super) first_seqno: SeqNo,
    pub(super) ops: Vec<ModelOp>,
}

pub(super) fn model_of(frame: &RecoveredFrame) -> ModelFrame {
    let ops = frame.ops().enumerate().map(|(i, entry)| {
        assert_eq!(entry.seqno, frame.first_seqno.plus(i as u64));
        let value = (entry.kind == ValueKind::Put).then(|| entry.value.to_vec());
        (entry.key.to_vec(), value, entry.expires_at_ms)
    });
    let ops: Vec<_> = ops.collect();
    assert_eq!(ops.len(), frame.op_count as usize);
    ModelFrame { kind: frame.kind.clone(), first_seqno: frame.first_seqno, ops }
}

pub(super) fn models_of(log: &RecoveredLog) -> Vec<ModelFrame> {
    log.frames.iter().map(model_of).collect()
}

/// A log under test, with its own counter of sequence numbers.
pub(super) struct TestLog {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) writer: WalWriter,
    pub(super) sync: Arc<WalSync>,
    pub(super) pool: Arc<SegmentPool>,
    pub(super) group: GroupBuffer,
    pub(super) next: SeqNo,
    /// What was appended, and where each frame's group ends.
    pub(super) appended: Vec<(ModelFrame, LogPosition)>,
}

pub(super) fn options() -> WalOptions {
    WalOptions { segment_bytes: SEGMENT_BYTES, compress_above: None, idle_segments: 4 }
}

pub(super) fn read(storage: &Arc<dyn Storage>, floor: u64) -> Result<RecoveredLog> {
    read_log(storage, dir(), SHARD, SegmentNumber(floor), None)
}

impl TestLog {
    /// A new log in an empty directory, or after all of what is there.
    pub(super) fn open(storage: &Arc<dyn Storage>, options: WalOptions) -> Self {
        let recovered = read(storage, 1).unwrap();
        let keep = recovered.frames.len();
        Self::after(&recovered, keep, options, 77).unwrap()
    }

    pub(super) fn after(
        recovered: &RecoveredLog,
        keep: usize,
        options: WalOptions,
        seed: u64,
    ) -> Result<Self> {
        let new = recovered.successor(keep, options, seed);
        let storage = Arc::clone(&new.storage);
        let (writer, sync, pool) = create_log(new)?;
        let kept = recovered.frames.iter().take(keep).map(|frame| (model_of(frame), frame.end));
        let next = recovered.highest_seqno.plus(1);
        let appended = kept.collect();
        Ok(Self { storage, writer, sync, pool, group: GroupBuffer::new(1 << 20), next, appended })
    }

    /// What the log would hold of this group if it were appended now.
    pub(super) fn models_of_group(&self, frames: &[(FrameKind, Vec<ModelOp>)]) -> Vec<ModelFrame> {
        let mut next = self.next;
        let model = |(kind, ops): &(FrameKind, Vec<ModelOp>)| {
            let first_seqno = next;
            next = next.plus(ops.len() as u64);
            ModelFrame { kind: kind.clone(), first_seqno, ops: ops.clone() }
        };
        self.numbered(frames).iter().map(model).collect()
    }

    /// Appends a group of frames; the model takes it only when that works.
    ///
    /// A batch gets the next number as its id, whatever id it came with: its operations are numbered from there.
    pub(super) fn append(&mut self, frames: &[(FrameKind, Vec<ModelOp>)]) -> Result<LogPosition> {
        self.append_as_they_are(&self.numbered(frames))
    }

    fn numbered(&self, frames: &[(FrameKind, Vec<ModelOp>)]) -> Vec<(FrameKind, Vec<ModelOp>)> {
        let mut next = self.next.get();
        let mut frames = frames.to_vec();
        for (kind, ops) in &mut frames {
            if let FrameKind::Batch { id, .. } = kind {
                *id = BatchId(next);
            }
            next += ops.len() as u64;
        }
        frames
    }

    fn append_as_they_are(&mut self, frames: &[(FrameKind, Vec<ModelOp>)]) -> Result<LogPosition> {
        let models = self.models_of_group(frames);
        self.group.clear();
        for (kind, ops) in frames {
            self.group.begin_frame(kind.clone());
            for (key, value, expires) in ops {
                let op = if value.is_some() { ValueKind::Put } else { ValueKind::Delete };
                let span = self.group.push_op(op, *expires, key, value.as_deref().unwrap_or_default());
                assert_eq!(self.group.key(&span), key);
            }
        }
        let first = self.next;
        self.next = first.plus(self.group.ops());
        let end = self.writer.append(&mut self.group, first)?;
        self.appended.extend(models.into_iter().map(|model| (model, end)));
        Ok(end)
    }

    /// Appends one data frame with one put.
    pub(super) fn put(&mut self, key: &str, value: &str) -> Result<LogPosition> {
        self.append(&[(FrameKind::Data, vec![(key.into(), Some(value.into()), None)])])
    }

    pub(super) fn models(&self) -> Vec<ModelFrame> {
        self.appended.iter().map(|(model, _)| model.clone()).collect()
    }
}
