//! Replaying what stands of a recovered log into memtables.

use std::{collections::VecDeque, sync::Arc};

use super::{
    cut::Cut,
    memtable_size::next_memtable,
    options::TreeOptions,
    version::Version,
    view::{ReadView, SealedMemtable},
};
use crate::{
    entry::Entry,
    ids::{SegmentNumber, SeqNo},
    key::KeyHash,
    memtable::{Memtable, MemtableWriter, memtable},
    wal::{FrameKind, RecoveredFrame, RecoveredLog},
};

/// The replay of one shard's log: work for a processor, while the same log is made durable.
pub struct Replay {
    pub(super) log: Arc<RecoveredLog>,
    pub(super) cut: Cut,
    /// Tables hold everything up to here.
    pub(super) flushed_seqno: SeqNo,
    pub(super) options: TreeOptions,
    /// All of the log before this segment goes when what was replayed is flushed.
    pub(super) next_segment: SegmentNumber,
}

/// The recovered writes, sealed, and an empty memtable for what comes.
pub struct Replayed {
    pub(super) memtable: MemtableWriter,
    pub(super) active: Arc<Memtable>,
    /// Newest first.
    pub(super) sealed: Vec<Arc<SealedMemtable>>,
    pub(super) frames: u64,
    pub(super) entries: u64,
}

impl Replayed {
    /// What a reader sees of it and of the tables, for ever: nothing is written behind it.
    pub(super) fn into_view(mut self, version: Arc<Version>) -> ReadView {
        // NOTE: the empty memtable goes, whose index would be as large as a full one's.
        let active =
            if self.sealed.is_empty() { self.active } else { Arc::clone(&self.sealed.remove(0).memtable) };
        ReadView { active, sealed: self.sealed, version, flush_count: 0, flushed_bytes: 0 }
    }
}

/// So many entries ahead of the one that is inserted, the index's cache line is asked for.
const PREFETCH_AHEAD: usize = 8;

fn ahead_bytes(ahead: &VecDeque<(KeyHash, Entry<'_>)>) -> usize {
    ahead.iter().map(|(_, entry)| entry.key.len() + entry.value.len()).sum()
}

impl Replay {
    /// Replays the frames that the cut keeps, without void batches and what tables hold already.
    pub fn run(self) -> Replayed {
        let Self { log, cut, flushed_seqno, options, next_segment } = self;
        let seal = |memtable: Arc<Memtable>| Arc::new(SealedMemtable { memtable, next_segment });
        let (mut memtable_writer, mut active) = memtable(next_memtable(options.memtable_bytes, None, 0));
        let (mut sealed, mut frames, mut entries) = (Vec::new(), 0, 0);
        // Entries whose places in the index are on their way.
        let mut ahead: VecDeque<(KeyHash, Entry<'_>)> = VecDeque::with_capacity(PREFETCH_AHEAD);
        let is_void = |frame: &RecoveredFrame| match &frame.kind {
            FrameKind::Batch { id, .. } => cut.void.contains(id),
            FrameKind::Data | FrameKind::Cancel { .. } => false,
        };
        for frame in log.frames.iter().take(cut.keep_frames).filter(|frame| !is_void(frame)) {
            let ops = usize::try_from(frame.op_count).unwrap_or(usize::MAX);
            if active.is_empty() {
                // NOTE: an empty memtable has room for anything, but what waits here is about to be in it.
                ahead.drain(..).for_each(|(hash, entry)| memtable_writer.insert(hash, &entry));
            }
            if !memtable_writer.has_room(ops + ahead.len(), frame.ops_bytes() + ahead_bytes(&ahead)) {
                ahead.drain(..).for_each(|(hash, entry)| memtable_writer.insert(hash, &entry));
                sealed.push(seal(Arc::clone(&active)));
                (memtable_writer, active) =
                    memtable(next_memtable(options.memtable_bytes, Some(&active), ops));
            }
            frames += 1;
            for entry in frame.ops().filter(|entry| entry.seqno > flushed_seqno) {
                let hash = KeyHash::of(entry.key, options.hash_seed);
                active.prefetch(hash);
                if ahead.len() == PREFETCH_AHEAD
                    && let Some((hash, entry)) = ahead.pop_front()
                {
                    memtable_writer.insert(hash, &entry);
                }
                ahead.push_back((hash, entry));
                entries += 1;
            }
        }
        ahead.drain(..).for_each(|(hash, entry)| memtable_writer.insert(hash, &entry));
        if !active.is_empty() {
            sealed.push(seal(Arc::clone(&active)));
            (memtable_writer, active) = memtable(next_memtable(options.memtable_bytes, Some(&active), 0));
        }
        sealed.reverse();
        Replayed { memtable: memtable_writer, active, sealed, frames, entries }
    }
}
