//! Appending to a log. A writer is owned by the shard's turn: one group, one `write`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    GroupBuffer, LogPosition, SegmentPool, WalOptions, WalSync,
    frame::START_FRAME_BYTES,
    group::{Placement, seal_start},
    pool::{PoolStart, grow},
    segment::{SEGMENT_DATA_START, Segment},
};
use crate::{
    error::{Error, Result},
    ids::{SegmentNumber, SeqNo, ShardId},
    storage::{Storage, write_all_at},
};

/// Where a log ends before a segment begins, and the checksum of the frame that ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// The end of the last frame.
    pub end: LogPosition,
    /// Its checksum.
    pub checksum: u64,
}

/// What [`create_log`] needs. Made by [`RecoveredLog::successor`](super::RecoveredLog::successor), which knows
/// what is on disk.
#[derive(Clone, Debug)]
pub struct NewLog {
    /// The file system.
    pub storage: Arc<dyn Storage>,
    /// The directory of the segments; created if absent.
    pub dir: PathBuf,
    /// The shard.
    pub shard: ShardId,
    /// How the log is laid out.
    pub options: WalOptions,
    /// The number of the first new segment: above every one that was ever seen.
    pub first_segment: SegmentNumber,
    /// Where the kept part of the recovered log ends; `None` when nothing is kept.
    pub predecessor: Option<Predecessor>,
    /// Up to where the recovered log says that it was synced. Nothing more: what recovery read may come from
    /// pages whose sync failed.
    pub known_synced: LogPosition,
    /// Segments on disk that are needed, or not told apart, until a floor passes them.
    pub retained: Vec<SegmentNumber>,
    /// Files of ours that nothing needs.
    pub leftovers: Vec<PathBuf>,
    /// Where the segments' incarnations come from.
    pub incarnation_seed: u64,
}

/// Appends groups to one shard's log.
#[derive(Debug)]
pub struct WalWriter {
    options: WalOptions,
    sync: Arc<WalSync>,
    pool: Arc<SegmentPool>,
    current: Segment,
    offset: u64,
    /// Whether the current segment's start frame is written.
    started: bool,
    /// Where the log ends before the current segment.
    predecessor: Option<Predecessor>,
    last_checksum: u64,
    /// No sequence number at or above this one was appended.
    next_seqno: SeqNo,
    /// How many appends failed. Each frame says it, so that no frame of a failed append is taken for the one
    /// that was written over it.
    attempt: u32,
    tail_is_dirty: bool,
}

/// Begins a log: writes the start frame of its first segment, which says where the recovered log ends, and
/// makes it durable. On return a cut is permanent: what was discarded can never come back.
///
/// IMPORTANT: until the recovered frames are flushed, and the manifest's floor has passed their segments,
/// nothing may be appended. Recovery may have read them from pages whose sync had failed.
///
/// # Errors
/// `NoSpace` or `Io`. The recovered log is untouched, and reading it again gives the same.
pub fn create_log(new: NewLog) -> Result<(WalWriter, Arc<WalSync>, Arc<SegmentPool>)> {
    let NewLog { storage, dir, shard, options, .. } = new;
    storage.create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
    if let Some(parent) = dir.parent() {
        storage.sync_dir(parent).map_err(|e| Error::io("sync", parent, e))?;
    }
    let start = LogPosition { segment: new.first_segment, offset: SEGMENT_DATA_START };
    let end = LogPosition { offset: start.offset + START_FRAME_BYTES as u64, ..start };
    let sync = Arc::new(WalSync::new(end));
    let pool = Arc::new(SegmentPool::new(PoolStart {
        storage,
        dir,
        shard,
        options: options.clone(),
        incarnation_seed: new.incarnation_seed,
        sync: Arc::clone(&sync),
        next_number: new.first_segment,
        retained: new.retained,
    }));
    let current = pool.take_first(end.offset)?;
    let mut frame = [0; START_FRAME_BYTES];
    let last_checksum = seal_start(
        &mut frame,
        &Placement {
            identity: current.identity,
            offset: start.offset,
            starts_segment: true,
            predecessor: new.predecessor,
            prev_checksum: 0,
            synced: new.known_synced,
            first_seqno: SeqNo(0),
            attempt: 0,
        },
    );
    let path = &current.path;
    write_all_at(&*current.file, &frame, start.offset).map_err(|e| Error::io("write", path, e))?;
    current.file.sync_data().map_err(|e| Error::io("sync", path, e))?;
    // NOTE: only now, when the cut is permanent, may what was cut off go. A file that stays does no harm.
    pool.doom(new.leftovers);
    let writer = WalWriter {
        options,
        sync: Arc::clone(&sync),
        pool: Arc::clone(&pool),
        current,
        offset: end.offset,
        started: true,
        predecessor: new.predecessor,
        last_checksum,
        next_seqno: SeqNo(1),
        attempt: 0,
        tail_is_dirty: false,
    };
    Ok((writer, sync, pool))
}

impl WalWriter {
    /// Appends every frame of `group` with one `write`; operations of data frames get consecutive sequence numbers
    /// from `first` on, those of a batch frame from its id on. Returns the log's new end. On return the group has
    /// reached the operating system; it is durable after the next [`WalSync::sync`].
    ///
    /// A group that does not fit begins the next segment; one larger than a segment grows it.
    ///
    /// # Errors
    /// `Poisoned` and `Invalid`: nothing was written. `NoSpace` and `Io`: the outcome is unknown until the next
    /// append, which writes over whatever this one left. `Internal` if `first` is not above every sequence
    /// number appended before.
    pub fn append(&mut self, group: &mut GroupBuffer, first: SeqNo) -> Result<LogPosition> {
        let synced = self.sync.begin_append()?;
        let bytes = group.pack(self.options.compress_above)? as u64;
        if bytes == 0 {
            return Ok(self.sync.written());
        }
        let next_seqno = group.check_seqnos(first, self.next_seqno)?;
        self.make_room(bytes)?;
        let place = Placement {
            identity: self.current.identity,
            offset: self.offset,
            starts_segment: !self.started,
            predecessor: self.predecessor,
            prev_checksum: self.last_checksum,
            synced,
            first_seqno: first,
            attempt: self.attempt,
        };
        let (image, checksum) = group.seal(&place);
        if let Err(error) = write_all_at(&*self.current.file, image, self.offset) {
            // IMPORTANT: nothing moves. The next append writes at the same offset, with another attempt number
            // in its frames: if all of this group reached the file, its later frames still fail the chain.
            self.attempt = self.attempt.wrapping_add(1);
            self.tail_is_dirty = true;
            return Err(Error::io("write", &self.current.path, error));
        }
        self.offset += image.len() as u64;
        self.started = true;
        self.tail_is_dirty = false;
        self.last_checksum = checksum;
        self.next_seqno = next_seqno;
        let end = LogPosition { segment: self.current_segment(), offset: self.offset };
        self.sync.end_append(end, &self.current.file, &self.current.path, group.has_batch());
        self.pool.set_filled(self.offset - SEGMENT_DATA_START);
        Ok(end)
    }

    /// Begins a new segment for what comes next (the memtable was sealed). Returns its number: when the flush of
    /// what was sealed is in the manifest, the log is needed from there. Its file has its name, durably.
    ///
    /// # Errors
    /// `Poisoned`, or `NoSpace` and `Io` when no segment can be prepared; the log goes on in the current one.
    pub fn rotate(&mut self) -> Result<SegmentNumber> {
        self.sync.begin_append()?;
        if self.started {
            self.switch(0)?;
        }
        // IMPORTANT: a segment that was begun and not written stays the next one. An append to it that
        // failed may have left an intact start frame there, and the log before it must end where that says.
        Ok(self.current_segment())
    }

    /// Whether the last append failed in its `write`: what it left is written over by the next one.
    pub const fn tail_is_dirty(&self) -> bool {
        self.tail_is_dirty
    }

    /// The segment that the next append goes to, if it fits.
    pub const fn current_segment(&self) -> SegmentNumber {
        self.current.identity.segment
    }

    /// The log's shared sync state.
    pub const fn sync(&self) -> &Arc<WalSync> {
        &self.sync
    }

    /// The log's segment files.
    pub const fn pool(&self) -> &Arc<SegmentPool> {
        &self.pool
    }

    /// The file that is being written, for messages.
    pub fn path(&self) -> &Path {
        &self.current.path
    }

    /// Makes sure that `bytes` fit behind the offset.
    fn make_room(&mut self, bytes: u64) -> Result<()> {
        if self.started {
            if self.offset + bytes <= self.current.capacity {
                return Ok(());
            }
            return self.switch(bytes);
        }
        let capacity = self.current.capacity;
        grow(&mut self.current, self.offset + START_FRAME_BYTES as u64 + bytes)?;
        if self.current.capacity > capacity {
            self.pool.note_grown(self.current_segment());
        }
        Ok(())
    }

    /// Goes on in the next segment, which has room for `bytes`.
    fn switch(&mut self, bytes: u64) -> Result<()> {
        let next = self.pool.take(SEGMENT_DATA_START + START_FRAME_BYTES as u64 + bytes)?;
        let end = LogPosition { segment: self.current_segment(), offset: self.offset };
        self.predecessor = Some(Predecessor { end, checksum: self.last_checksum });
        self.current = next;
        self.offset = SEGMENT_DATA_START;
        self.started = false;
        Ok(())
    }
}
