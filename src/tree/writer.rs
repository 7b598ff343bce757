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
    memtable_size::next_memtable,
    view::{ReadView, SealedMemtable},
};
use crate::{
    entry::{Entry, ValueKind},
    error::Result,
    ids::SeqNo,
    key::KeyHash,
    memtable::{Memtable, MemtableWriter, memtable},
    range_delete::is_before_end,
    wal::{FrameKind, GroupBuffer, LogPosition, OpSpan, WalWriter},
};

/// Up to so many bytes of key and value, a write alone in its turn is a small one: see [`TreeWriter::is_small`].
pub const SMALL_WRITE_BYTES: usize = 16 << 10;
/// What a frame's body holds beside a key and a value, at most.
const BODY_OVERHEAD_BYTES: usize = 32;
/// How much memory for frames is kept from one turn to the next, and for how many operations to be found by their keys.
const KEPT_GROUP_BYTES: usize = 1 << 20;
const KEPT_INDEX_ENTRIES: usize = 4 << 10;

/// One operation of a request.
#[derive(Clone, Copy, Debug)]
pub struct WriteOp<'a> {
    /// The hash of `key` under the node's seed.
    pub hash: KeyHash,
    /// The key, checked.
    pub key: &'a [u8],
    /// Put, delete or range delete: see [`ValueKind::RangeDelete`].
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

    /// Removes the keys from `start` on (empty: from the first on) and before `end` (empty: all behind it).
    pub fn delete_range(start: &'a [u8], end: &'a [u8]) -> Self {
        Self { hash: KeyHash(0), key: start, kind: ValueKind::RangeDelete, value: end, expires_at_ms: None }
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
    /// Where the range deletes are among the staged operations.
    range_deletes: Vec<usize>,
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
            range_deletes: Vec::new(),
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
        if op.kind == ValueKind::RangeDelete {
            self.range_deletes.push(self.staged.len());
        }
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
    pub fn newest_in_memory<'a>(&'a mut self, hash: KeyHash, key: &'a [u8]) -> Option<Entry<'a>> {
        self.load_turn_view();
        let staged = self.find_staged(hash, key);
        if self.is_range_deleted_behind(staged, key) {
            let (seqno, kind) = (SeqNo::MAX, ValueKind::Delete);
            return Some(Entry { key, seqno, kind, expires_at_ms: None, value: &[] });
        }
        if let Some(place) = staged {
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
            let mut range_deletes = Vec::with_capacity(self.range_deletes.len());
            for op in &self.staged {
                let number = op.seqno.unwrap_or(seqno);
                let entry = entry_of(&self.group, op, number);
                if op.kind == ValueKind::RangeDelete {
                    range_deletes.push(entry);
                } else {
                    self.memtable.insert(op.hash, &entry);
                }
                seqno = seqno.max(number.plus(1));
            }
            // IMPORTANT: behind the entries, as `Memtable::get` says: nobody is to find a key deleted that the same
            // batch sets anew.
            for entry in range_deletes {
                self.memtable.insert(KeyHash(0), &entry);
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
            flushed_bytes: view.flushed_bytes,
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
            if op.kind != ValueKind::RangeDelete {
                self.index.insert(op.hash.0, place);
            }
        }
        self.indexed = self.staged.len();
        let last = *self.index.get(&hash.0)?;
        let is_key = |op: &Staged| {
            op.hash == hash && op.kind != ValueKind::RangeDelete && self.group.key(&op.span) == key
        };
        // NOTE: another key may have the same hash; then the last one of this key stands before it.
        self.staged.get(..=last)?.iter().rposition(is_key)
    }

    /// Whether a range delete that is staged behind this place, or anywhere, covers a key.
    fn is_range_deleted_behind(&self, place: Option<usize>, key: &[u8]) -> bool {
        self.range_deletes.iter().rev().take_while(|delete| place.is_none_or(|place| **delete > place)).any(
            |delete| {
                let op = self.staged.get(*delete);
                op.is_some_and(|op| {
                    self.group.key(&op.span) <= key && is_before_end(key, self.group.value(&op.span))
                })
            },
        )
    }

    fn end_turn(&mut self) {
        self.turn_view = None;
        if self.group.is_empty() {
            return;
        }
        self.group.clear();
        self.staged.clear();
        self.staged_bytes = 0;
        self.range_deletes.clear();
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
