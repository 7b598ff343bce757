//! A merge that takes over whole blocks against one that lays out every entry anew.

use std::{path::Path, sync::atomic::AtomicU64, sync::atomic::Ordering};

use proptest::prelude::*;

use super::*;
use crate::{
    codec::compress::Compression,
    entry::Cursor,
    storage::sim::SimStorage,
    table::{BlockCache, CursorSource, FileCache, NoPace, Table},
    tree::{
        merge::MergeCursor,
        test_cursor::{OwnedVersion, VecCursor, version},
    },
};

const SEED: u64 = 5;

/// A cursor whose blocks nobody gets to see.
struct Unblocked<C>(C);

impl<C: Cursor> Cursor for Unblocked<C> {
    fn seek_first(&mut self) -> Result<()> {
        self.0.seek_first()
    }
    fn seek_last(&mut self) -> Result<()> {
        self.0.seek_last()
    }
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.0.seek(key)
    }
    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.0.seek_before(key)
    }
    fn next(&mut self) -> Result<()> {
        self.0.next()
    }
    fn prev(&mut self) -> Result<()> {
        self.0.prev()
    }
    fn entry(&self) -> Option<Entry<'_>> {
        self.0.entry()
    }
}

impl<C: Cursor> BlockCursor for Unblocked<C> {}

fn readers(latest: SeqNo, now_ms: u64) -> Readers {
    Readers { positions: latest.into(), now_ms }
}

struct Bench {
    storage: Arc<dyn Storage>,
    options: TableOptions,
    files: AtomicU64,
}

impl Bench {
    fn new(compression: Compression) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(SimStorage::new(1));
        for level in [Level::L0, Level::L1, Level::L2] {
            storage.create_dir_all(&Path::new("/s").join(level.dir_name())).unwrap();
        }
        let options =
            TableOptions { block_bytes: 256, restart_interval: 3, filter_bits_per_key: 10, compression };
        Self { storage, options, files: AtomicU64::new(1) }
    }

    fn merge(&self, cursor: impl BlockCursor, readers: &Readers, level: Level) -> Merged {
        self.merge_in_steps(cursor, readers, level, u64::MAX).0
    }

    /// The same with pauses after so many bytes each. How many steps it was.
    fn merge_in_steps(
        &self,
        cursor: impl BlockCursor,
        readers: &Readers,
        level: Level,
        bytes: u64,
    ) -> (Merged, u32) {
        let target = Target {
            storage: &self.storage,
            shard: ShardId(0),
            shard_dir: "/s".into(),
            level,
            run: 1,
            options: self.options,
            table_bytes: 2 << 10,
            hash_seed: SEED,
            pace: Arc::new(NoPace),
            fence: Arc::default(),
            next_file: &|| FileNumber(self.files.fetch_add(1, Ordering::Relaxed)),
        };
        let none = RangeDeletes::default();
        let below = Below::default();
        let mut merge = Merge::start(cursor, &none, readers, &below, &target).unwrap();
        let mut steps = 1;
        while merge.advance(bytes).unwrap() {
            steps += 1;
        }
        let mut merged = merge.finish().unwrap();
        merged.keep_files();
        (merged, steps)
    }

    /// The tables of a merge, checked against themselves.
    fn open(&self, merged: &Merged) -> Vec<Arc<Table>> {
        let files = Arc::new(FileCache::new(Arc::clone(&self.storage), 10));
        let cache = Arc::new(BlockCache::new(0));
        let open = |record: &TableRecord| {
            let id = TableId { shard: ShardId(0), file: record.file };
            let (files, cache) = (Arc::clone(&files), Arc::clone(&cache));
            let expected = crate::table::TableExpectation {
                file_bytes: record.file_bytes,
                footer_checksum: record.footer_checksum,
            };
            let table = Table::open(files, record.path(Path::new("/s")), id, cache, &expected).unwrap();
            table.verify(SEED, Arc::new(NoPace)).unwrap();
            table
        };
        merged.tables.iter().map(open).collect()
    }

    /// One table of L0 for each list of versions, and the cursor that merges them.
    fn inputs(&self, sources: &[Vec<OwnedVersion>]) -> MergeCursor<crate::table::TableCursor> {
        let none = readers(SeqNo(0), 0);
        let cursors: Vec<_> = sources
            .iter()
            .flat_map(|source| {
                let merged = self.merge(Unblocked(VecCursor::new(source.clone())), &none, Level::L0);
                self.open(&merged)
            })
            .map(|table| table.cursor(CursorSource::Background(Arc::new(NoPace))))
            .collect();
        MergeCursor::new(cursors)
    }

    fn content(&self, merged: &Merged) -> Vec<OwnedVersion> {
        let mut all = Vec::new();
        for table in self.open(merged) {
            let mut cursor = table.cursor(CursorSource::Cached);
            cursor.seek_first().unwrap();
            while let Some(entry) = cursor.entry() {
                let value = (entry.kind == ValueKind::Put).then_some(entry.value);
                let mut found = version(entry.key, entry.seqno.0, value);
                found.expires = entry.expires_at_ms;
                all.push(found);
                cursor.next().unwrap();
            }
        }
        all
    }
}

/// Versions of neighbouring keys: where they begin, how many keys, and of some the number of versions or a special
/// kind.
type Stretch = (u16, u16, Vec<(u16, u8)>);

fn versions_of(stretches: &[Stretch], seqno: &mut u64) -> Vec<OwnedVersion> {
    let mut all = std::collections::BTreeMap::new();
    for (start, len, special) in stretches {
        for n in *start..start + len {
            let kind = special.iter().find(|(at, _)| at % len == n - start).map_or(0, |(_, kind)| *kind);
            let key = format!("key-{n:05}");
            let versions = all.entry(n).or_insert_with(Vec::new);
            for _ in 0..if kind == 1 { 4 } else { 1 } {
                *seqno += 1;
                let value = format!("{key}/{seqno}/{key}/{key}");
                let mut version = version(key.as_bytes(), *seqno, (kind != 2).then_some(value.as_bytes()));
                version.expires = (kind == 3).then_some(*seqno % 10);
                versions.push(version);
            }
        }
    }
    all.into_values().flatten().collect()
}

fn check(sources: &[Vec<Stretch>], compression: Compression, readers: &Readers, level: Level) -> u64 {
    let bench = Bench::new(compression);
    let mut seqno = 0;
    let sources: Vec<_> = sources
        .iter()
        .map(|stretches| versions_of(stretches, &mut seqno))
        .filter(|s| !s.is_empty())
        .collect();
    let anew = bench.merge(Unblocked(bench.inputs(&sources)), readers, level);
    assert_eq!(anew.blocks_copied, 0);
    let copied = bench.merge(bench.inputs(&sources), readers, level);
    assert_eq!(bench.content(&copied), bench.content(&anew));
    assert_eq!((copied.entries_read, copied.entries_written), (anew.entries_read, anew.entries_written));
    for bytes in [1, 200, 5_000] {
        let (stepped, steps) = bench.merge_in_steps(bench.inputs(&sources), readers, level, bytes);
        assert_eq!(bench.content(&stepped), bench.content(&copied));
        let counts = |merged: &Merged| (merged.entries_read, merged.entries_written, merged.blocks_copied);
        assert_eq!(counts(&stepped), counts(&copied));
        let most = copied.entries_read * (ENTRY_BYTES + COPIED_BYTES) / bytes + 1;
        assert!(u64::from(steps) <= most && (bytes > 1 || u64::from(steps) >= copied.blocks_copied));
    }
    let largest = copied.tables.iter().map(|table| table.file_bytes).max().unwrap_or(0);
    assert!(largest < 6 << 10, "a table of {largest} bytes");
    copied.blocks_copied
}

fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
    let special = proptest::collection::vec((0u16..200, 1u8..4), 0..4);
    proptest::collection::vec((0u16..600, 1u16..80, special), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn copied_blocks_change_nothing(
        sources in proptest::collection::vec(stretches(), 1..5),
        is_compressed in any::<bool>(),
        oldest in 0u64..1000,
        now_ms in 0u64..10,
        is_last in any::<bool>(),
    ) {
        let compression = if is_compressed { Compression::Lz4 } else { Compression::None };
        let readers = readers(SeqNo(oldest), now_ms);
        check(&sources, compression, &readers, if is_last { Level::L2 } else { Level::L1 });
    }
}

#[test]
fn what_overlaps_nothing_is_copied_but_for_what_changes() {
    let all = &readers(SeqNo::MAX, 0);
    let apart = [vec![(0, 100, vec![])], vec![(200, 100, vec![])]];
    let copied = check(&apart, Compression::Lz4, all, Level::L1);
    assert!(copied > 25, "{copied} blocks");
    assert_eq!(check(&apart, Compression::Lz4, all, Level::L2), 0, "their sequence numbers go");
    let twice = [vec![(0, 100, vec![])], vec![(0, 100, vec![])]];
    assert_eq!(check(&twice, Compression::Lz4, all, Level::L1), 0, "half of the versions go");
    let deleted: Vec<_> = (0..100).map(|n| (n, 2)).collect();
    assert_eq!(check(&[vec![(0, 100, deleted)]], Compression::Lz4, all, Level::L1), 0, "tombstones go");
}
