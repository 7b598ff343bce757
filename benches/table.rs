//! The parts of a point read, and the table's bulk paths: `cargo bench --bench table`.
//! Everything is in the page cache; keys of 16 bytes, values of 100, half compressible.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may panic")]

use std::{path::Path, sync::Arc};

use dbex::{
    codec::compress::Compression,
    entry::{Cursor, Entry, ValueKind},
    ids::{FileNumber, SeqNo, ShardId},
    key::KeyHash,
    storage::{DiskStorage, Storage},
    table::{
        BlockCache, CursorSource, FileCache, Lookup, NoPace, ReadMode, Table, TableBuilder, TableId,
        TableOptions,
    },
};
use divan::{Bencher, black_box, counter::ItemsCount};

const SEED: u64 = 1;
const KEYS: u32 = 1_000_000;
const ID: TableId = TableId { shard: ShardId(0), file: FileNumber(1) };

fn main() {
    divan::main();
}

fn key(i: u64) -> [u8; 16] {
    let high = KeyHash::of(&i.to_le_bytes(), 5).0;
    let low = KeyHash::of(&i.to_le_bytes(), 6).0;
    let mut key = [0; 16];
    key[..8].copy_from_slice(&high.to_be_bytes());
    key[8..].copy_from_slice(&low.to_be_bytes());
    key
}

fn value(i: u64) -> [u8; 100] {
    let mut value = [b'v'; 100];
    for (n, part) in value[..48].chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&KeyHash::of(&i.to_le_bytes(), 100 + n as u64).0.to_le_bytes());
    }
    value
}

fn sorted_keys() -> Vec<[u8; 16]> {
    let mut keys: Vec<_> = (0..u64::from(KEYS)).map(key).collect();
    keys.sort_unstable();
    keys
}

struct Fixture {
    _dir: tempfile::TempDir,
    table: Arc<Table>,
    cache: Arc<BlockCache>,
    keys: Vec<[u8; 16]>,
}

fn build(
    storage: &Arc<dyn Storage>,
    path: &Path,
    keys: &[[u8; 16]],
    compression: Compression,
) -> dbex::table::TableSummary {
    let options = TableOptions { compression, ..TableOptions::default() };
    let mut builder = TableBuilder::create(storage, path, ID, options, Arc::new(NoPace)).unwrap();
    for (i, key) in keys.iter().enumerate() {
        let value = value(i as u64);
        let entry = Entry {
            key,
            seqno: SeqNo(i as u64 + 1_000_000),
            kind: ValueKind::Put,
            expires_at_ms: None,
            value: &value,
        };
        builder.add(KeyHash::of(key, SEED), &entry).unwrap();
    }
    builder.finish().unwrap()
}

fn fixture(cache_bytes: u64) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::new());
    let (path, keys) = (dir.path().join("t.sst"), sorted_keys());
    let summary = build(&storage, &path, &keys, Compression::Lz4);
    let files = Arc::new(FileCache::new(storage, 100));
    let cache = Arc::new(BlockCache::new(cache_bytes));
    let table = Table::open(files, path, ID, Arc::clone(&cache), &(&summary).into()).unwrap();
    table.summary().unwrap();
    Fixture { _dir: dir, table, cache, keys }
}

/// Keys in an order that no cache foresees.
fn order(i: usize) -> usize {
    (i.wrapping_mul(7919) + 13) % (KEYS as usize)
}

fn gets(bencher: Bencher<'_, '_>, cache_bytes: u64, warm: bool, mode: ReadMode) {
    let fixture = fixture(cache_bytes);
    if warm {
        let mut cursor = fixture.table.cursor(CursorSource::Cached);
        cursor.seek_first().unwrap();
        while cursor.entry().is_some() {
            cursor.next().unwrap();
        }
    }
    let mut i = 0;
    bencher.counter(ItemsCount::new(1000u32)).bench_local(|| {
        for _ in 0..1000 {
            i += 1;
            let key = &fixture.keys[order(i)];
            let found = fixture.table.get(KeyHash::of(key, SEED), key, SeqNo::MAX, mode).unwrap();
            assert!(matches!(black_box(found), Lookup::Found(_)));
        }
    });
    eprintln!("{:?}", fixture.cache.stats());
}

#[divan::bench(sample_count = 500)]
fn get_cached(bencher: Bencher<'_, '_>) {
    gets(bencher, 512 << 20, true, ReadMode::NoWait);
}

#[divan::bench(sample_count = 100)]
fn get_from_page_cache(bencher: Bencher<'_, '_>) {
    gets(bencher, 0, false, ReadMode::Blocking);
}

#[divan::bench(sample_count = 500)]
fn get_absent(bencher: Bencher<'_, '_>) {
    let fixture = fixture(512 << 20);
    let mut i = u64::from(KEYS);
    bencher.counter(ItemsCount::new(1000u32)).bench_local(|| {
        for _ in 0..1000 {
            i += 1;
            let key = key(i);
            let found =
                fixture.table.get(KeyHash::of(&key, SEED), &key, SeqNo::MAX, ReadMode::Blocking).unwrap();
            assert_eq!(black_box(found), Lookup::Missing);
        }
    });
}

#[divan::bench(sample_count = 10)]
fn scan_background(bencher: Bencher<'_, '_>) {
    let fixture = fixture(0);
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| {
        let mut cursor = fixture.table.cursor(CursorSource::Background(Arc::new(NoPace)));
        cursor.seek_first().unwrap();
        while let Some(entry) = cursor.entry() {
            black_box(entry.value);
            cursor.next().unwrap();
        }
    });
}

#[divan::bench(sample_count = 200)]
fn seek_and_100_entries_cached(bencher: Bencher<'_, '_>) {
    let fixture = fixture(512 << 20);
    let mut cursor = fixture.table.cursor(CursorSource::Cached);
    cursor.seek_first().unwrap();
    while cursor.entry().is_some() {
        cursor.next().unwrap();
    }
    let mut i = 0;
    bencher.counter(ItemsCount::new(10u32)).bench_local(|| {
        for _ in 0..10 {
            i += 1;
            cursor.seek(&fixture.keys[order(i)]).unwrap();
            for _ in 0..100 {
                black_box(cursor.entry());
                cursor.next().unwrap();
            }
        }
    });
}

#[divan::bench(sample_count = 5, args = [Compression::None, Compression::Lz4, Compression::Zstd])]
fn build_table(bencher: Bencher<'_, '_>, compression: Compression) {
    let keys = sorted_keys();
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::new());
    bencher.counter(ItemsCount::new(KEYS)).with_inputs(|| tempfile::tempdir().unwrap()).bench_local_values(
        |dir| {
            let summary = build(&storage, &dir.path().join("t.sst"), &keys, compression);
            eprintln!("{} bytes for {} raw", summary.file_bytes, summary.raw_bytes);
            dir
        },
    );
}
