//! The one writer of a tree, owned by the shard's turn: stages operations, appends them to the log, applies them
//! to the memtable, and seals it.
//!
//! ```text
//!   begin_frame ─► stage… ─► end_frame ─► append ─► (sync) ─► apply     every turn ends with apply or abandon
//!                                     append_one ─► (sync) ─► apply_one  a small write alone in its turn
//! ```

use std::{collections::HashMap, sync::Arc};

use super::{
    lsm::Tree,
    view::{ReadView, SealedMemtable},
};
use crate::{
    entry::{Entry, ValueKind},
    error::Result,
    ids::SeqNo,
    key::KeyHash,
    memtable::{Memtable, MemtableOptions, MemtableWriter, memtable},
    wal::{FrameKind, GroupBuffer, LogPosition, OpSpan, WalWriter},
};

/// Up to so many bytes of key and value, a write alone in its turn is a small one: see [`TreeWriter::is_small`].
pub const SMALL_WRITE_BYTES: usize = 16 << 10;
/// What a frame's body holds beside a key and a value, at most.
const BODY_OVERHEAD_BYTES: usize = 32;
/// How much memory for frames is kept from one turn to the next, and for how many operations to be found by their keys.
const KEPT_GROUP_BYTES: usize = 1 << 20;
const KEPT_INDEX_ENTRIES: usize = 4 << 10;
/// What a memtable spends on an entry beside its key and value, roughly.
const ENTRY_OVERHEAD_BYTES: u64 = 40;
/// The mean entry that the first memtable's index is sized for.
const FIRST_MEAN_ENTRY_BYTES: u64 = 128;
/// The index is as large as if entries were at least this long; shorter ones seal the memtable early.
const LEAST_MEAN_ENTRY_BYTES: u64 = 48;
const LEAST_INDEX_SLOTS: u64 = 64;

/// One operation of a request.
#[derive(Clone, Copy, Debug)]
pub struct WriteOp<'a> {
    /// The hash of `key` under the node's seed.
    pub hash: KeyHash,
    /// The key, checked.
    pub key: &'a [u8],
    /// Put or delete.
    pub kind: ValueKind,
    /// The value, checked; empty for a delete.
    pub value: &'a [u8],
    /// When it expires, in milliseconds on the node's clock.
    pub expires_at_ms: Option<u64>,
}

impl<'a> WriteOp<'a> {
    /// Sets `key`, or removes it where there is no value. It never expires.
    #[inline]
    pub fn new(hash: KeyHash, key: &'a [u8], value: Option<&'a [u8]>) -> Self {
        let kind = if value.is_some() { ValueKind::Put } else { ValueKind::Delete };
        Self { hash, key, kind, value: value.unwrap_or_default(), expires_at_ms: None }
    }
}

struct Staged {
    hash: KeyHash,
    span: OpSpan,
    kind: ValueKind,
    expires_at_ms: Option<u64>,
    /// The number of a batch's operation; those of others follow each other from what the append is given.
    seqno: Option<SeqNo>,
}

/// Writes to one tree. There is one a tree, and whoever runs the shard's turn has it.
pub struct TreeWriter {
    tree: Arc<Tree>,
    memtable: MemtableWriter,
    wal: WalWriter,
    group: GroupBuffer,
    staged: Vec<Staged>,
    staged_bytes: usize,
    /// The number of the next operation staged, in a batch's frame.
    batch_seqno: Option<SeqNo>,
    /// Where the staged operations begin, once they are in the log.
    appended: Option<SeqNo>,
    /// The view of this turn: what it finds in memory, and what it knows of tables, belongs together.
    turn_view: Option<Arc<ReadView>>,
    /// The last staged operation of each key hash, filled up to `indexed` when somebody looks.
    index: HashMap<u64, usize>,
    indexed: usize,
    /// What the active memtable took when that was asked last; `None` after a seal.
    noted_bytes: Option<usize>,
}

impl TreeWriter {
    pub(super) fn new(tree: Arc<Tree>, memtable: MemtableWriter, wal: WalWriter) -> Self {
        Self {
            tree,
            memtable,
            wal,
            group: GroupBuffer::new(KEPT_GROUP_BYTES),
            staged: Vec::new(),
            staged_bytes: 0,
            batch_seqno: None,
            appended: None,
            turn_view: None,
            index: HashMap::new(),
            indexed: 0,
            noted_bytes: None,
        }
    }

    /// The tree that it writes to.
    pub const fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// The memtable that it writes to.
    pub fn active(&self) -> &Arc<Memtable> {
        self.memtable.memtable()
    }

    /// Whether the memory that the memtables take has changed since this was asked last: it does when a chunk is
    /// added, not at every write.
    #[inline]
    pub fn memory_has_changed(&mut self) -> bool {
        let now = Some(self.active().memory_bytes());
        std::mem::replace(&mut self.noted_bytes, now) != now
    }

    /// Begins a frame: one request, or this shard's part of a batch.
    pub fn begin_frame(&mut self, kind: FrameKind) {
        self.batch_seqno = match kind {
            FrameKind::Batch { id, .. } => Some(SeqNo(id.get())),
            FrameKind::Data | FrameKind::Cancel { .. } => None,
        };
        self.group.begin_frame(kind);
    }

    /// Adds an operation to the frame. Nothing is visible before [`TreeWriter::apply`].
    #[inline]
    pub fn stage(&mut self, op: &WriteOp<'_>) {
        self.memtable.prefetch(op.hash);
        let span = self.group.push_op(op.kind, op.expires_at_ms, op.key, op.value);
        self.staged_bytes += span.key.len() + span.value.len();
        let seqno = self.batch_seqno;
        self.batch_seqno = seqno.map(|seqno| seqno.plus(1));
        self.staged.push(Staged {
            hash: op.hash,
            span,
            kind: op.kind,
            expires_at_ms: op.expires_at_ms,
            seqno,
        });
    }

    /// Ends the frame.
    pub fn end_frame(&mut self) {
        self.group.end_frame();
    }

    /// How many operations are staged: how many sequence numbers [`TreeWriter::append`] takes.
    pub const fn staged_ops(&self) -> u64 {
        self.staged.len() as u64
    }

    /// The bytes of their keys and values.
    pub const fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    /// Whether no frame is staged.
    pub const fn is_empty(&self) -> bool {
        self.group.is_empty()
    }

    /// The newest version of a key in memory: what this turn has staged (at [`SeqNo::MAX`]), else what the
    /// memtables hold. Tombstones and expired entries are found as they are.
    ///
    /// What was read from tables under a view is still the truth if this finds nothing, and
    /// [`TreeWriter::flush_count`] is that view's.
    pub fn newest_in_memory(&mut self, hash: KeyHash, key: &[u8]) -> Option<Entry<'_>> {
        self.load_turn_view();
        if let Some(place) = self.find_staged(hash, key) {
            let op = self.staged.get(place)?;
            return Some(Entry { seqno: SeqNo::MAX, ..entry_of(&self.group, op, SeqNo::MAX) });
        }
        self.turn_view.as_ref()?.get_in_memory(hash, key, SeqNo::MAX)
    }

    /// How many flushes the view of this turn has seen; see [`ReadView::flush_count`].
    pub fn flush_count(&mut self) -> u64 {
        self.load_turn_view();
        self.turn_view.as_ref().map_or(0, |view| view.flush_count)
    }

    /// Appends what is staged to the log with one `write`; the operations get the sequence numbers from `first` on,
    /// those of a batch the ones from its id on. Seals the active memtable first if they do not fit. On return they
    /// have reached the operating system.
    ///
    /// # Errors
    /// `Busy` when the shard's life has ended, `Poisoned` after a failed sync, `Invalid`: nothing was written.
    /// `NoSpace`, `Io`: the outcome is unknown. Then [`TreeWriter::abandon`] what is staged.
    pub fn append(&mut self, first: SeqNo) -> Result<LogPosition> {
        self.tree.writable()?;
        if !self.memtable.has_room(self.staged.len(), self.staged_bytes) {
            self.seal()?;
        }
        let end = self.wal.append(&mut self.group, first)?;
        self.appended = Some(first);
        Ok(end)
    }

    /// Whether an operation may be appended alone from a caller's memory: it does not grow that, and is not compressed.
    pub fn is_small(&self, op: &WriteOp<'_>) -> bool {
        let bytes = op.key.len() + op.value.len();
        let compress_above = self.tree.options.wal.compress_above.unwrap_or(usize::MAX);
        bytes <= SMALL_WRITE_BYTES && bytes + BODY_OVERHEAD_BYTES <= compress_above
    }

    /// As [`TreeWriter::append`], of this small operation alone, of which nothing is staged: its frame is built in
    /// `frame`, the caller's own memory. Follow it with [`TreeWriter::apply_one`], or [`TreeWriter::abandon`].
    ///
    /// # Errors
    /// As [`TreeWriter::append`].
    pub fn append_one(
        &mut self,
        op: &WriteOp<'_>,
        frame: &mut GroupBuffer,
        seqno: SeqNo,
    ) -> Result<LogPosition> {
        self.tree.writable()?;
        if !self.memtable.has_room(1, op.key.len() + op.value.len()) {
            self.seal()?;
        }
        // The line arrives while the log is written.
        self.memtable.prefetch(op.hash);
        frame.clear();
        frame.begin_frame(FrameKind::Data);
        frame.push_op(op.kind, op.expires_at_ms, op.key, op.value);
        let end = self.wal.append(frame, seqno)?;
        self.appended = Some(seqno);
        Ok(end)
    }

    /// Makes the operation visible that was appended alone.
    pub fn apply_one(&mut self, op: &WriteOp<'_>) {
        if let Some(seqno) = self.appended.take() {
            let &WriteOp { key, kind, value, expires_at_ms, .. } = op;
            self.memtable.insert(op.hash, &Entry { key, seqno, kind, expires_at_ms, value });
        }
    }

    /// Whether the last append failed in its `write`, and may have left whole frames until the next one.
    pub const fn log_tail_is_dirty(&self) -> bool {
        self.wal.tail_is_dirty()
    }

    /// Makes what was appended visible, all of it at once to readers that load a view later, and ends the turn.
    pub fn apply(&mut self) {
        if let Some(first) = self.appended.take() {
            let mut seqno = first;
            for op in &self.staged {
                let number = op.seqno.unwrap_or(seqno);
                self.memtable.insert(op.hash, &entry_of(&self.group, op, number));
                seqno = seqno.max(number.plus(1));
            }
        }
        self.end_turn();
    }

    /// Forgets what is staged and ends the turn.
    pub fn abandon(&mut self) {
        self.appended = None;
        self.end_turn();
    }

    /// Seals the active memtable for its flush: what comes next goes to a new memtable and a new log segment.
    /// Does nothing if it is empty.
    ///
    /// # Errors
    /// `Poisoned`, or `NoSpace` and `Io` when no segment can be prepared: it stays active.
    pub fn seal(&mut self) -> Result<()> {
        if self.active().is_empty() {
            return Ok(());
        }
        self.tree.writable()?;
        let next_segment = self.wal.rotate()?;
        let options = next_memtable(self.tree.options.memtable_bytes, Some(self.active()), self.staged.len());
        let (writer, active) = memtable(options);
        let sealed = std::mem::replace(&mut self.memtable, writer);
        self.noted_bytes = None;
        let sealed = Arc::new(SealedMemtable { memtable: Arc::clone(sealed.memtable()), next_segment });
        tracing::debug!(
            shard = self.tree.shard().get(),
            entries = sealed.memtable.entries(),
            bytes = sealed.memtable.data_bytes(),
            "sealed a memtable"
        );
        self.tree.publish(|view| ReadView {
            active,
            sealed: std::iter::once(sealed).chain(view.sealed.iter().cloned()).collect(),
            version: Arc::clone(&view.version),
            flush_count: view.flush_count,
        });
        Ok(())
    }

    fn load_turn_view(&mut self) {
        // NOTE: only this turn adds to memory, so any view of the turn has all that is in memory; and what it
        // lacks there, its flush count says, lies in its tables.
        if self.turn_view.is_none() {
            self.turn_view = Some(self.tree.view());
        }
    }

    fn find_staged(&mut self, hash: KeyHash, key: &[u8]) -> Option<usize> {
        for (place, op) in self.staged.iter().enumerate().skip(self.indexed) {
            self.index.insert(op.hash.0, place);
        }
        self.indexed = self.staged.len();
        let last = *self.index.get(&hash.0)?;
        let is_key = |op: &Staged| op.hash == hash && self.group.key(&op.span) == key;
        // NOTE: another key may have the same hash; then the last one of this key stands before it.
        self.staged.get(..=last)?.iter().rposition(is_key)
    }

    fn end_turn(&mut self) {
        self.turn_view = None;
        if self.group.is_empty() {
            return;
        }
        self.group.clear();
        self.staged.clear();
        self.staged_bytes = 0;
        self.index.clear();
        self.index.shrink_to(KEPT_INDEX_ENTRIES);
        self.indexed = 0;
    }
}

fn entry_of<'a>(group: &'a GroupBuffer, op: &Staged, seqno: SeqNo) -> Entry<'a> {
    Entry {
        key: group.key(&op.span),
        seqno,
        kind: op.kind,
        expires_at_ms: op.expires_at_ms,
        value: group.value(&op.span),
    }
}

/// Sizes the next memtable: its index by the mean entry of the one before, and for `ops` at least.
pub(super) fn next_memtable(arena_bytes: u64, before: Option<&Arc<Memtable>>, ops: usize) -> MemtableOptions {
    let mean = before.and_then(|memtable| {
        let data = memtable.data_bytes().checked_div(memtable.entries() as u64)?;
        Some(data.saturating_add(ENTRY_OVERHEAD_BYTES))
    });
    let mean = mean.unwrap_or(FIRST_MEAN_ENTRY_BYTES).max(LEAST_MEAN_ENTRY_BYTES);
    let keys = (arena_bytes / mean).max(ops as u64);
    // A tenth more than fit at 70 % full, so that entries a little shorter do not seal early.
    let slots = keys.saturating_mul(11) / 7;
    MemtableOptions {
        arena_bytes: usize::try_from(arena_bytes).unwrap_or(usize::MAX),
        index_slots: usize::try_from(slots.max(LEAST_INDEX_SLOTS)).unwrap_or(usize::MAX),
    }
}
