//! Runs a merge: walks the inputs in storage order, keeps what the rule keeps, and writes it to new tables.
//! A table ends only between two keys, so that the versions of one key never lie in two tables of a run.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{
    below::Below,
    deletes::MergeDeletes,
    rule::{Readers, Verdict, VersionFilter, Watermark},
};
use crate::{
    entry::{Entry, ValueKind},
    error::{Error, Result},
    ids::{FileNumber, Level, SeqNo, ShardId},
    key::KeyHash,
    range_delete::RangeDeletes,
    storage::Storage,
    table::{Pace, TableBuilder, TableId, TableOptions, TableSummary},
    tree::{
        block_cursor::BlockCursor,
        edit::{TableRecord, table_path},
        jobs::Fence,
    },
    waiting::yield_now,
};

/// What an entry takes beside its key and value, counted in bytes that take as long.
const ENTRY_BYTES: u64 = 64;
/// The same for a block that is taken over as it is.
const COPIED_BYTES: u64 = 4096;
/// A merge yields after about so much: no more than a few chunks that are paid for.
const STEP_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 512 << 10 };

/// Where the outputs of a merge go.
pub(in crate::tree) struct Target<'a> {
    pub(in crate::tree) storage: &'a Arc<dyn Storage>,
    pub(in crate::tree) shard: ShardId,
    pub(in crate::tree) shard_dir: PathBuf,
    pub(in crate::tree) level: Level,
    pub(in crate::tree) run: u64,
    pub(in crate::tree) options: TableOptions,
    /// The size at which the next table begins.
    pub(in crate::tree) table_bytes: u64,
    pub(in crate::tree) hash_seed: u64,
    pub(in crate::tree) pace: Arc<dyn Pace>,
    pub(in crate::tree) fence: Arc<Fence>,
    pub(in crate::tree) next_file: &'a (dyn Fn() -> FileNumber + Sync),
}

/// The new tables of a merge, not installed yet. Dropped before that, it removes their files.
#[derive(Debug)]
pub(in crate::tree) struct Merged {
    pub(in crate::tree) tables: Vec<TableRecord>,
    pub(in crate::tree) entries_read: u64,
    pub(in crate::tree) entries_written: u64,
    pub(in crate::tree) blocks_copied: u64,
    storage: Arc<dyn Storage>,
    shard_dir: PathBuf,
    keep: bool,
}

impl Merged {
    /// Nothing yet.
    pub(in crate::tree) fn new(storage: Arc<dyn Storage>, shard_dir: PathBuf) -> Self {
        let (tables, keep) = (Vec::new(), false);
        Self { tables, entries_read: 0, entries_written: 0, blocks_copied: 0, storage, shard_dir, keep }
    }

    /// The bytes of all new tables.
    pub(in crate::tree) fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.file_bytes).sum()
    }

    /// Leaves the files where they are: the manifest names them, or may do so after a crash.
    pub(in crate::tree) fn keep_files(&mut self) {
        self.keep = true;
    }

    /// The paths of the new tables.
    pub(in crate::tree) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.tables.iter().map(|table| table.path(&self.shard_dir))
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        if !self.keep {
            for path in self.paths() {
                // NOTE: a file that stays is found and removed when the shard is opened next.
                drop(self.storage.remove_file(&path));
            }
        }
    }
}

/// Merges everything that `cursor` walks, and these range deletes of the same sources, into new tables. Their content is
/// durable on return, their names are not. It yields every few milliseconds, and once more before the last table's filter
/// is made and its file synced, which is one step.
///
/// # Errors
/// What reading, writing or the pace fails with. No new file is left behind.
pub(in crate::tree) async fn merge_into_tables(
    cursor: impl BlockCursor,
    range_deletes: &RangeDeletes,
    readers: &Readers,
    below: &Below,
    target: &Target<'_>,
) -> Result<Merged> {
    let mut merge = Merge::start(cursor, range_deletes, readers, below, target)?;
    while merge.advance(STEP_BYTES)? {
        yield_now().await;
    }
    target.pace.begin_end();
    yield_now().await;
    merge.finish()
}

/// A merge under way.
struct Merge<'a, C> {
    cursor: C,
    filter: VersionFilter,
    watermark: Watermark,
    below: &'a Below,
    out: Outputs<'a>,
    /// The current one.
    key: Vec<u8>,
}

impl<'a, C: BlockCursor> Merge<'a, C> {
    /// Begins what [`merge_into_tables`] does.
    ///
    /// # Errors
    /// What reading or the pace fails with.
    fn start(
        mut cursor: C,
        range_deletes: &RangeDeletes,
        readers: &Readers,
        below: &'a Below,
        target: &'a Target<'a>,
    ) -> Result<Self> {
        let deletes = deletes_of_merge(&mut cursor, range_deletes, readers, below)?;
        cursor.seek_first()?;
        let merged = Merged::new(Arc::clone(target.storage), target.shard_dir.clone());
        Ok(Self {
            cursor,
            filter: VersionFilter::new(readers.clone()),
            watermark: readers.watermark(),
            below,
            out: Outputs { target, below, deletes, open: None, merged, hash: KeyHash(0) },
            key: Vec::new(),
        })
    }

    /// Takes entries of about so many bytes more. Whether there are others.
    ///
    /// # Errors
    /// As [`merge_into_tables`].
    fn advance(&mut self, bytes: u64) -> Result<bool> {
        let Self { cursor, filter, watermark, below, out, key } = self;
        let mut taken = 0;
        while let Some(entry) = cursor.entry() {
            if taken >= bytes {
                return Ok(true);
            }
            taken += ENTRY_BYTES + (entry.key.len() + entry.value.len()) as u64;
            if entry.key != *key {
                out.end_key(key, filter.end_key(|| below.may_hold(key)), entry.key)?;
                key.clear();
                if let Some((last, seqno)) = out.copy_block(cursor, entry.key, *watermark)? {
                    taken += COPIED_BYTES;
                    // Older versions of the block's last key may begin the next one.
                    key.extend_from_slice(last);
                    out.hash = KeyHash::of(key, out.target.hash_seed);
                    filter.admit(seqno, ValueKind::Put, None, None);
                    cursor.skip_block()?;
                    continue;
                }
                key.extend_from_slice(entry.key);
                out.hash = KeyHash::of(key, out.target.hash_seed);
            }
            out.merged.entries_read += 1;
            let deletes = out.deletes.covering(key);
            if let Verdict::Keep { tombstone } =
                filter.admit(entry.seqno, entry.kind, entry.expires_at_ms, deletes)
            {
                out.add_tombstone(key, tombstone)?;
                let seqno = kept_seqno(entry.seqno, *watermark, out.target.level);
                out.add(&Entry { seqno, ..entry })?;
            }
            cursor.next()?;
        }
        Ok(false)
    }

    /// Ends it, when there are no more entries.
    ///
    /// # Errors
    /// As [`merge_into_tables`].
    fn finish(self) -> Result<Merged> {
        let Self { mut filter, below, mut out, key, .. } = self;
        out.add_tombstone(&key, filter.end_key(|| below.may_hold(&key)))?;
        while let Some(border) = out.deletes.border(out.target.table_bytes) {
            out.finish_table(Some(&border))?;
        }
        out.finish_table(None)?;
        Ok(out.merged)
    }
}

/// What the merge does with the range deletes, if there are any.
fn deletes_of_merge(
    cursor: &mut impl BlockCursor,
    range_deletes: &RangeDeletes,
    readers: &Readers,
    below: &Below,
) -> Result<MergeDeletes> {
    if range_deletes.is_empty() {
        return Ok(MergeDeletes::default());
    }
    cursor.seek_last()?;
    let last = cursor.entry().map(|entry| [entry.key, &[0]].concat());
    cursor.seek_first()?;
    let first = cursor.entry().map(|entry| Bytes::copy_from_slice(entry.key));
    let own = first.zip(last.map(Bytes::from));
    Ok(MergeDeletes::new(range_deletes, &readers.positions, below, own))
}

/// What everyone sees, and has nothing older below it, needs no number to be told from others: 0 takes a byte.
fn kept_seqno(seqno: SeqNo, watermark: Watermark, level: Level) -> SeqNo {
    if level == Level::L2 && seqno <= watermark.oldest_snapshot { SeqNo(0) } else { seqno }
}

struct Outputs<'a> {
    target: &'a Target<'a>,
    below: &'a Below,
    deletes: MergeDeletes,
    open: Option<(FileNumber, TableBuilder)>,
    merged: Merged,
    /// The hash of the current key.
    hash: KeyHash,
}

impl Outputs<'_> {
    fn add(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.merged.entries_written += 1;
        let hash = self.hash;
        self.table()?.add(hash, entry)
    }

    /// The open table.
    fn table(&mut self) -> Result<&mut TableBuilder> {
        if self.open.is_none() {
            self.open = Some(create_table(self.target)?);
        }
        let open = self.open.as_mut().map(|(_, builder)| builder);
        open.ok_or_else(|| Error::internal("a table that was just opened is not there"))
    }

    /// Takes over the block whose first entry the cursor stands on, if nothing in it would change. Returns its last
    /// key and that entry's number.
    fn copy_block(
        &mut self,
        cursor: &impl BlockCursor,
        first: &[u8],
        watermark: Watermark,
    ) -> Result<Option<(&[u8], SeqNo)>> {
        let takes_block = self.open.as_ref().is_none_or(|(_, builder)| builder.takes_block());
        let Some(bound) = cursor.block_bound().filter(|_| takes_block) else { return Ok(None) };
        if self.deletes.touches(first, bound) {
            return Ok(None);
        }
        let Some(block) = cursor.whole_block() else { return Ok(None) };
        let keeps = |seqno| kept_seqno(seqno, watermark, self.target.level) == seqno;
        if !block.suits(&self.target.options, keeps)? {
            return Ok(None);
        }
        self.merged.entries_read += block.entries();
        self.merged.entries_written += block.entries();
        self.merged.blocks_copied += 1;
        let seed = self.target.hash_seed;
        let table = self.table()?;
        table.add_block(&block, |key| KeyHash::of(key, seed))?;
        Ok(Some(table.last()))
    }

    fn add_tombstone(&mut self, key: &[u8], seqno: Option<SeqNo>) -> Result<()> {
        match seqno {
            Some(seqno) => {
                self.add(&Entry { key, seqno, kind: ValueKind::Delete, expires_at_ms: None, value: &[] })
            }
            None => Ok(()),
        }
    }

    /// Writes the key's last tombstone, and ends the table if it is long enough; `next` is the key that follows.
    fn end_key(&mut self, key: &[u8], tombstone: Option<SeqNo>, next: &[u8]) -> Result<()> {
        self.add_tombstone(key, tombstone)?;
        match &self.open {
            Some((_, builder))
                if builder.file_bytes() + self.deletes.bytes_before(next) >= self.target.table_bytes =>
            {
                self.finish_table(Some(next))
            }
            _ => Ok(()),
        }
    }

    /// Ends the open table before the key `next`. Range deletes behind all entries go into a table of their own if
    /// none is open.
    fn finish_table(&mut self, next: Option<&[u8]>) -> Result<()> {
        let deletes = self.deletes.take_before(next);
        if self.open.is_none() && deletes.is_empty() {
            return Ok(());
        }
        self.table()?;
        if let Some((file, mut builder)) = self.open.take() {
            let hidden_bytes = if deletes.is_empty() { 0 } else { self.below.hidden_bytes(&deletes) };
            builder.set_range_deletes(deletes);
            let summary = builder.finish()?;
            self.merged.tables.push(TableRecord { hidden_bytes, ..record_of(self.target, file, summary) });
        }
        Ok(())
    }
}

fn create_table(target: &Target<'_>) -> Result<(FileNumber, TableBuilder)> {
    target.fence.pass(|| {
        let file = (target.next_file)();
        let path = table_path(&target.shard_dir, target.level, file);
        let id = TableId { shard: target.shard, file };
        let pace = Arc::clone(&target.pace);
        Ok((file, TableBuilder::create(target.storage, &path, id, target.options, pace)?))
    })
}

fn record_of(target: &Target<'_>, file: FileNumber, summary: TableSummary) -> TableRecord {
    TableRecord {
        level: target.level,
        dir: target.level,
        file,
        run: target.run,
        file_bytes: summary.file_bytes,
        entries: summary.entries,
        superseded: summary.entries.saturating_sub(summary.keys),
        tombstones: summary.tombstones,
        range_deletes: summary.range_deletes,
        hidden_bytes: 0,
        expiring: summary.expiring,
        expiry_parts: summary.expiry_parts,
        raw_bytes: summary.raw_bytes,
        min_seqno: summary.min_seqno,
        max_seqno: summary.max_seqno,
        footer_checksum: summary.footer_checksum,
        min_key: summary.min_key,
        max_key: summary.max_key,
        max_is_excluded: summary.max_is_excluded,
    }
}

#[cfg(test)]
#[path = "run_test.rs"]
mod tests;
