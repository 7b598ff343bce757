//! Whole tables against a model, and against damage.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::{
    codec::compress::Compression,
    entry::{Cursor, Entry, ValueKind},
    error::{Error, ErrorKind, Result},
    ids::{FileNumber, SeqNo, ShardId},
    key::{KeyHash, MAX_KEY_BYTES, MAX_VALUE_BYTES},
    storage::{
        OpenMode, Storage,
        sim::{Errno, Fault, FaultRule, OpKind, SimStorage},
    },
};

const SEED: u64 = 77;
const ID: TableId = TableId { shard: ShardId(3), file: FileNumber(12) };

/// Entries by key and, newest first, sequence number.
type Model = BTreeMap<ModelKey, ModelValue>;
type ModelKey = (Vec<u8>, std::cmp::Reverse<u64>);
type ModelValue = (ValueKind, Option<u64>, Vec<u8>);

fn hash(key: &[u8]) -> KeyHash {
    KeyHash::of(key, SEED)
}

fn path() -> PathBuf {
    PathBuf::from("l0/0000000012.sst")
}

fn bytes_of(storage: &SimStorage) -> Vec<u8> {
    storage.read_file(path()).unwrap()
}

/// How many reads there were.
fn reads(storage: &SimStorage) -> u64 {
    let is_read = |kind| matches!(kind, OpKind::Read | OpKind::ReadNowait);
    storage.trace().iter().filter(|entry| is_read(entry.kind)).count() as u64
}

fn entry_of<'a>(((key, seqno), value): (&'a ModelKey, &'a ModelValue)) -> Entry<'a> {
    let (kind, expires_at_ms, value) = value;
    Entry { key, seqno: SeqNo(seqno.0), kind: *kind, expires_at_ms: *expires_at_ms, value }
}

fn write(
    storage: &SimStorage,
    path: &Path,
    id: TableId,
    options: TableOptions,
    model: &Model,
) -> TableSummary {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    storage.create_dir_all(path.parent().unwrap()).unwrap();
    let mut builder = TableBuilder::create(&storage, path, id, options, Arc::new(NoPace)).unwrap();
    for pair in model {
        let entry = entry_of(pair);
        builder.add(hash(entry.key), &entry).unwrap();
    }
    assert_eq!(builder.entries(), model.len() as u64);
    builder.finish().unwrap()
}

fn open(
    storage: &SimStorage,
    path: &Path,
    id: TableId,
    summary: &TableSummary,
    cache_bytes: u64,
) -> Arc<Table> {
    let files = Arc::new(FileCache::new(Arc::new(storage.clone()), 10));
    let cache = Arc::new(BlockCache::new(cache_bytes));
    Table::open(files, path.to_owned(), id, cache, &summary.into()).unwrap()
}

fn expected<'a>(model: &'a Model, key: &[u8], at: u64) -> Option<Entry<'a>> {
    let from = (key.to_vec(), std::cmp::Reverse(at));
    model.range(from..).next().map(entry_of).filter(|entry| entry.key == key)
}

fn check_get(table: &Table, model: &Model, key: &[u8], at: u64) {
    let found = table.get(hash(key), key, SeqNo(at), ReadMode::Blocking).unwrap();
    let wanted = expected(model, key, at).map_or(Lookup::Missing, |entry| {
        Lookup::Found(OwnedEntry {
            seqno: entry.seqno,
            kind: entry.kind,
            expires_at_ms: entry.expires_at_ms,
            value: Bytes::copy_from_slice(entry.value),
        })
    });
    assert_eq!(found, wanted, "{} at {at}", crate::key::EscapedKey(key));
}

fn check_cursor(cursor: &mut TableCursor, model: &Model, probes: &[Vec<u8>]) {
    let all: Vec<_> = model.iter().map(entry_of).collect();
    assert_eq!(cursor.entry(), None, "a new cursor stands nowhere");
    cursor.seek_first().unwrap();
    for entry in &all {
        assert_eq!(cursor.entry().as_ref(), Some(entry));
        cursor.next().unwrap();
    }
    assert_eq!(cursor.entry(), None);
    for most in [1, 7, usize::MAX] {
        cursor.seek_first().unwrap();
        let mut shown = all.iter();
        while cursor.entry().is_some() {
            let mut taken = 0;
            let take = &mut |entry: &Entry<'_>| {
                if taken < most {
                    taken += 1;
                    assert_eq!(shown.next(), Some(entry));
                    return true;
                }
                false
            };
            cursor.walk(take).unwrap();
        }
        assert_eq!(shown.next(), None);
    }
    cursor.seek_last().unwrap();
    for entry in all.iter().rev() {
        assert_eq!(cursor.entry().as_ref(), Some(entry));
        cursor.prev().unwrap();
    }
    assert_eq!(cursor.entry(), None);
    for key in probes {
        let at = all.partition_point(|entry| entry.key < key.as_slice());
        cursor.seek(key).unwrap();
        assert_eq!(cursor.entry(), all.get(at).copied());
        if cursor.entry().is_some() {
            cursor.prev().unwrap();
            assert_eq!(cursor.entry(), at.checked_sub(1).map(|i| all[i]));
        }
        cursor.seek_before(key).unwrap();
        assert_eq!(cursor.entry(), at.checked_sub(1).map(|i| all[i]));
        if cursor.entry().is_some() {
            cursor.next().unwrap();
            assert_eq!(cursor.entry(), all.get(at).copied());
        }
    }
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[ab]{1,3}".prop_map(String::into_bytes),
        "some/long/shared/prefix/[a-d]{0,3}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 1..4),
        prop::collection::vec(Just(0xFFu8), 1..4),
    ]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![]),
        prop::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 0usize..3000).prop_map(|(byte, n)| vec![byte; n]),
    ]
}

fn models(max: usize) -> impl Strategy<Value = Model> {
    let one = (keys(), 1u64..60, any::<bool>(), prop::option::of(any::<u64>()), values());
    prop::collection::vec(one, 1..max).prop_map(|list| {
        let entries = list.into_iter().map(|(key, seqno, put, expires, value)| {
            let (kind, value) = if put { (ValueKind::Put, value) } else { (ValueKind::Delete, vec![]) };
            ((key, std::cmp::Reverse(seqno)), (kind, expires, value))
        });
        entries.collect()
    })
}

fn options() -> impl Strategy<Value = TableOptions> {
    let compression = prop_oneof![Just(Compression::None), Just(Compression::Lz4), Just(Compression::Zstd)];
    (
        prop_oneof![Just(64usize), Just(300), Just(4096)],
        1u8..20,
        compression,
        prop_oneof![Just(0u32), Just(10)],
    )
        .prop_map(|(block_bytes, restart_interval, compression, filter_bits_per_key)| TableOptions {
            block_bytes,
            restart_interval,
            compression,
            filter_bits_per_key,
        })
}

proptest! {
    #[test]
    fn tables_hold_what_was_added(
        model in models(150),
        options in options(),
        probes in prop::collection::vec(keys(), 1..20),
        cache_bytes in prop_oneof![Just(0u64), Just(20_000), Just(8 << 20)],
    ) {
        let storage = SimStorage::new(1);
        let summary = write(&storage, &path(), ID, options, &model);
        prop_assert_eq!(storage.syncs(), 1);
        prop_assert_eq!(summary.file_bytes, bytes_of(&storage).len() as u64);
        let table = open(&storage, &path(), ID, &summary, cache_bytes);
        prop_assert_eq!(&table.summary().unwrap(), &summary);
        check_summary(&summary, &model);
        for key in model.keys().map(|(key, _)| key).chain(&probes) {
            for at in [0, 1, 20, 40, SeqNo::MAX.0] {
                check_get(&table, &model, key, at);
            }
        }
        let probes: Vec<_> = probes.into_iter().chain(model.keys().map(|(key, _)| key.clone())).collect();
        check_cursor(&mut table.cursor(CursorSource::Cached), &model, &probes);
        check_cursor(&mut table.cursor(CursorSource::Background(Arc::new(NoPace))), &model, &probes);
        table.verify(SEED, Arc::new(NoPace)).unwrap();
    }
}

fn check_summary(summary: &TableSummary, model: &Model) {
    let all: Vec<_> = model.iter().map(entry_of).collect();
    let count = |which: fn(&Entry<'_>) -> bool| all.iter().filter(|entry| which(entry)).count() as u64;
    assert_eq!(summary.entries, all.len() as u64);
    assert_eq!(summary.tombstones, count(|entry| entry.kind == ValueKind::Delete));
    assert_eq!(summary.expiring, count(|entry| entry.expires_at_ms.is_some()));
    assert_eq!((&summary.min_key[..], &summary.max_key[..]), (all[0].key, all[all.len() - 1].key));
    assert_eq!(Some(summary.min_seqno), all.iter().map(|entry| entry.seqno).min());
    assert_eq!(Some(summary.max_seqno), all.iter().map(|entry| entry.seqno).max());
    assert_eq!(
        summary.raw_bytes,
        all.iter().map(|entry| (entry.key.len() + entry.value.len()) as u64).sum::<u64>()
    );
}

/// `n` keys with a few versions each, some tombstones.
fn sample(n: u64) -> Model {
    let mut model = Model::new();
    for i in 0..n {
        let key = format!("key/{:06}", i * 3).into_bytes();
        for version in 0..=(i % 3) {
            let seqno = i * 4 + version + 1;
            let kind = if i % 7 == 0 { ValueKind::Delete } else { ValueKind::Put };
            let value =
                if kind == ValueKind::Put { format!("value {i} of {version}").into_bytes() } else { vec![] };
            model.insert((key.clone(), std::cmp::Reverse(seqno)), (kind, None, value));
        }
    }
    model
}

fn small_options(compression: Compression) -> TableOptions {
    TableOptions { block_bytes: 200, restart_interval: 4, compression, filter_bits_per_key: 10 }
}

/// Every answer of the table is right or `Corruption` that names the file and a place in it.
fn right_or_corruption(table: &Arc<Table>, model: &Model, file_len: usize, what: &str) -> bool {
    let mut noticed = false;
    let mut check = |error: Error| {
        let found = error.corruption_at().unwrap_or_else(|| panic!("{what}: {error}"));
        assert_eq!(found.path, path(), "{what}");
        assert!(found.offset <= file_len as u64, "{what}: {error}");
        noticed = true;
    };
    for (key, seqno) in model.keys() {
        match table.get(hash(key), key, SeqNo(seqno.0), ReadMode::Blocking) {
            Ok(Lookup::Found(found)) => {
                let wanted = expected(model, key, seqno.0).unwrap();
                assert_eq!(
                    (found.seqno, found.kind, &found.value[..]),
                    (wanted.seqno, wanted.kind, wanted.value),
                    "{what}"
                );
            }
            Ok(other) => panic!("{what}: {other:?} for a key that is there"),
            Err(error) => check(error),
        }
    }
    let absent = table.get(hash(b"key/x"), b"key/x", SeqNo::MAX, ReadMode::Blocking);
    assert!(absent.is_err() || absent.is_ok_and(|found| found == Lookup::Missing), "{what}");
    for source in [CursorSource::Cached, CursorSource::Background(Arc::new(NoPace))] {
        let mut cursor = table.cursor(source);
        let mut walked = 0;
        let mut step = cursor.seek_first();
        for entry in model.iter().map(entry_of) {
            if let Err(error) = step {
                assert_eq!(cursor.entry(), None, "{what}: after an error a cursor stands nowhere");
                check(error);
                break;
            }
            assert_eq!(cursor.entry(), Some(entry), "{what}");
            walked += 1;
            step = cursor.next();
        }
        assert!(walked <= model.len());
    }
    if let Err(error) = table.verify(SEED, Arc::new(NoPace)) {
        check(error);
    }
    noticed
}

#[test]
fn every_flipped_byte_is_noticed_and_never_a_wrong_answer() {
    for compression in [Compression::None, Compression::Lz4] {
        let (storage, model) = (SimStorage::new(1), sample(40));
        let summary = write(&storage, &path(), ID, small_options(compression), &model);
        let good = bytes_of(&storage);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            storage.write_file(path(), &bad);
            let table = open(&storage, &path(), ID, &summary, 1 << 20);
            assert!(
                right_or_corruption(&table, &model, good.len(), &format!("byte {at}")),
                "byte {at} unnoticed"
            );
        }
    }
}

#[test]
fn every_truncation_and_bytes_behind_the_end_are_noticed() {
    let (storage, model) = (SimStorage::new(1), sample(20));
    let summary = write(&storage, &path(), ID, small_options(Compression::Lz4), &model);
    let good = bytes_of(&storage);
    for n in 0..good.len() {
        storage.write_file(path(), &good[..n]);
        let table = open(&storage, &path(), ID, &summary, 1 << 20);
        assert!(right_or_corruption(&table, &model, good.len(), &format!("cut at {n}")));
    }
    storage.write_file(path(), &[&good[..], b"x"].concat());
    let table = open(&storage, &path(), ID, &summary, 1 << 20);
    assert!(table.summary().unwrap_err().corruption_at().is_some());
    // A file that is cut while the table is in use.
    storage.write_file(path(), &good);
    let table = open(&storage, &path(), ID, &summary, 0);
    table.summary().unwrap();
    storage.open(&path(), OpenMode::ReadWrite).unwrap().truncate(10).unwrap();
    assert!(right_or_corruption(&table, &model, good.len(), "cut in use"));
}

#[test]
fn swapped_blocks_and_swapped_tables_are_noticed() {
    let (storage, model) = (SimStorage::new(1), uniform_model(100));
    let options = small_options(Compression::None);
    let summary = write(&storage, &path(), ID, options, &model);
    let good = bytes_of(&storage);
    let table = open(&storage, &path(), ID, &summary, 0);
    let loaded = table.load().unwrap();
    let extents: Vec<_> = (0..loaded.metadata.index.blocks())
        .map(|i| loaded.metadata.index.extent(i).unwrap())
        .map(|(offset, len)| usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap())
        .collect();
    let mut swapped = 0;
    for a in &extents {
        for b in extents.iter().filter(|b| b.start > a.start && b.len() == a.len()) {
            let mut bad = good.clone();
            bad[a.clone()].copy_from_slice(&good[b.clone()]);
            bad[b.clone()].copy_from_slice(&good[a.clone()]);
            storage.write_file(path(), &bad);
            let table = open(&storage, &path(), ID, &summary, 0);
            assert!(right_or_corruption(&table, &model, good.len(), "swapped blocks"));
            swapped += 1;
        }
    }
    assert!(swapped > 10, "too few blocks of one length to swap");
    // The same content as another table of the shard, and as the same table of another shard.
    for other in [TableId { file: FileNumber(13), ..ID }, TableId { shard: ShardId(4), ..ID }] {
        let (storage, other_path) = (SimStorage::new(1), PathBuf::from("other"));
        let other_summary = write(&storage, &other_path, other, options, &model);
        storage.write_file(path(), &storage.read_file(&other_path).unwrap());
        for expected in [&summary, &other_summary] {
            let table = open(&storage, &path(), ID, expected, 0);
            assert!(table.summary().unwrap_err().corruption_at().is_some());
        }
        // A block of the other table in this one's place.
        let mut bad = good.clone();
        bad[extents[1].clone()].copy_from_slice(&storage.read_file(&other_path).unwrap()[extents[1].clone()]);
        storage.write_file(path(), &bad);
        let table = open(&storage, &path(), ID, &summary, 0);
        assert!(right_or_corruption(&table, &model, good.len(), "a block of another table"));
    }
    // An older file under the same name, of the same length.
    let mut older = model.clone();
    for (_, _, value) in older.values_mut() {
        value.fill(1);
    }
    let (storage, other) = (SimStorage::new(1), write(&SimStorage::new(1), &path(), ID, options, &older));
    write(&storage, &path(), ID, options, &model);
    assert_eq!(other.file_bytes, summary.file_bytes);
    let table = open(&storage, &path(), ID, &other, 0);
    assert!(table.summary().unwrap_err().corruption_at().is_some());
}

#[test]
fn versions_of_one_key_may_fill_many_blocks() {
    let mut model = Model::new();
    for (key, versions) in [("a", 3), ("b", 500), ("ba", 1), ("c", 40)] {
        for seqno in 1..=versions {
            let value = format!("{key} {seqno}").into_bytes();
            model.insert((key.into(), std::cmp::Reverse(seqno)), (ValueKind::Put, None, value));
        }
    }
    let storage = SimStorage::new(1);
    let summary = write(&storage, &path(), ID, small_options(Compression::None), &model);
    assert!(summary.blocks > 40 && summary.keys == 4, "{summary:?}");
    let table = open(&storage, &path(), ID, &summary, 1 << 20);
    for key in ["a", "b", "ba", "bb", "c"] {
        (0..510).for_each(|at| check_get(&table, &model, key.as_bytes(), at));
    }
    let probes: Vec<Vec<u8>> = ["a", "b", "ba", "bb", "c", "d"].map(Into::into).into();
    check_cursor(&mut table.cursor(CursorSource::Cached), &model, &probes);
    table.verify(SEED, Arc::new(NoPace)).unwrap();
}

#[test]
fn the_largest_key_and_value_fit() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let mut model = Model::new();
        let put = |n: usize| (ValueKind::Put, None, vec![9; n]);
        model.insert((b"a".to_vec(), std::cmp::Reverse(1)), put(10));
        model.insert((vec![b'b'; MAX_KEY_BYTES], std::cmp::Reverse(2)), put(MAX_VALUE_BYTES));
        model.insert((vec![b'b'; MAX_KEY_BYTES - 1], std::cmp::Reverse(3)), put(0));
        model.insert((b"c".to_vec(), std::cmp::Reverse(4)), put(10));
        let storage = SimStorage::new(1);
        let options = TableOptions { compression, ..Default::default() };
        let summary = write(&storage, &path(), ID, options, &model);
        let table = open(&storage, &path(), ID, &summary, 8 << 20);
        for (key, seqno) in model.keys() {
            check_get(&table, &model, key, seqno.0);
        }
        for source in [CursorSource::Cached, CursorSource::Background(Arc::new(NoPace))] {
            check_cursor(&mut table.cursor(source), &model, &[b"b".to_vec()]);
        }
        table.verify(SEED, Arc::new(NoPace)).unwrap();
    }
}

#[test]
fn a_read_that_must_not_wait_never_does() {
    let (storage, model) = (SimStorage::new(1), sample(30));
    let summary = write(&storage, &path(), ID, TableOptions::default(), &model);
    let table = open(&storage, &path(), ID, &summary, 1 << 20);
    let key = b"key/000003";
    let get = |mode| table.get(hash(key), key, SeqNo::MAX, mode).unwrap();
    let before = reads(&storage);
    assert_eq!(get(ReadMode::NoWait), Lookup::WouldBlock, "the metadata is not loaded");
    assert_eq!((reads(&storage), table.metadata_bytes()), (before, 0));
    table.summary().unwrap();
    assert!(table.metadata_bytes() > 0);
    storage.set_cached_permille(0);
    assert_eq!(get(ReadMode::NoWait), Lookup::WouldBlock, "the block is not in memory");
    storage.set_cached_permille(1000);
    assert!(matches!(get(ReadMode::NoWait), Lookup::Found(_)));
    storage.set_cached_permille(0);
    assert!(matches!(get(ReadMode::NoWait), Lookup::Found(_)), "the block is cached");
    let absent = table.get(hash(b"zzz"), b"zzz", SeqNo::MAX, ReadMode::NoWait).unwrap();
    assert_eq!(absent, Lookup::Missing);
}

#[test]
fn opening_reads_nothing_and_blocks_are_read_once() {
    let (storage, model) = (SimStorage::new(1), sample(30));
    let summary = write(&storage, &path(), ID, TableOptions::default(), &model);
    let table = open(&storage, &path(), ID, &summary, 1 << 20);
    assert_eq!(reads(&storage), 0);
    for _ in 0..3 {
        for (key, seqno) in model.keys() {
            check_get(&table, &model, key, seqno.0);
        }
    }
    assert_eq!(reads(&storage), 2 + summary.blocks, "the footer, the parts, each block");
}

/// Counts what was paid, and refuses after a while.
struct Meter {
    paid: Mutex<Vec<u64>>,
    payments: usize,
}

impl Pace for Meter {
    fn pay(&self, bytes: u64) -> Result<()> {
        let mut paid = self.paid.lock();
        if paid.len() == self.payments {
            return Err(Error::busy("revoked"));
        }
        paid.push(bytes);
        Ok(())
    }
}

/// Entries that all have the same length.
fn uniform_model(n: u64) -> Model {
    let put = |i: u64| (ValueKind::Put, None, hash(&i.to_le_bytes()).0.to_le_bytes().repeat(13));
    (0..n).map(|i| ((format!("{i:09}").into_bytes(), std::cmp::Reverse(i + 1)), put(i))).collect()
}

#[test]
fn background_work_pays_for_every_byte_in_large_chunks_and_leaves_the_cache_alone() {
    let (storage, model) = (SimStorage::new(1), uniform_model(10_000));
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    shared.create_dir_all(path().parent().unwrap()).unwrap();
    let meter = || Arc::new(Meter { paid: Mutex::default(), payments: usize::MAX });
    let writing = meter();
    let options = TableOptions { compression: Compression::None, ..Default::default() };
    let mut builder = TableBuilder::create(&shared, &path(), ID, options, writing.clone()).unwrap();
    for entry in model.iter().map(entry_of) {
        builder.add(hash(entry.key), &entry).unwrap();
    }
    let before = builder.file_bytes();
    let summary = builder.finish().unwrap();
    assert!(before < summary.file_bytes && before > summary.file_bytes * 9 / 10);
    assert_eq!(writing.paid.lock().iter().sum::<u64>(), summary.file_bytes);
    assert!(writing.paid.lock().len() < 10);

    let cache = Arc::new(BlockCache::new(8 << 20));
    let files = Arc::new(FileCache::new(shared, 10));
    let table = Table::open(files, path(), ID, Arc::clone(&cache), &(&summary).into()).unwrap();
    for forward in [true, false] {
        let (reading, read_before) = (meter(), storage.bytes_read());
        let mut cursor = table.cursor(CursorSource::Background(reading.clone()));
        let mut seen = 0;
        if forward {
            cursor.seek_first().unwrap();
        } else {
            cursor.seek_last().unwrap();
        }
        while cursor.entry().is_some() {
            seen += 1;
            if forward { cursor.next().unwrap() } else { cursor.prev().unwrap() }
        }
        assert_eq!(seen, model.len());
        let paid = reading.paid.lock();
        assert_eq!(paid.iter().sum::<u64>(), storage.bytes_read() - read_before, "{paid:?}");
        assert!(paid.len() < 10, "{paid:?}");
        assert!(paid.iter().all(|bytes| *bytes <= 256 << 10));
    }
    assert_eq!((cache.stats().hits, cache.stats().misses), (0, 0));
}

#[test]
fn withdrawn_permission_stops_background_work() {
    let (storage, model) = (SimStorage::new(1), uniform_model(10_000));
    let options = TableOptions { compression: Compression::None, ..Default::default() };
    let summary = write(&storage, &path(), ID, options, &model);
    let table = open(&storage, &path(), ID, &summary, 0);
    let meter = |payments| Arc::new(Meter { paid: Mutex::default(), payments });
    // The footer, the metadata and one chunk.
    let mut cursor = table.cursor(CursorSource::Background(meter(3)));
    cursor.seek_first().unwrap();
    let error = loop {
        if let Err(error) = cursor.next() {
            break error;
        }
        assert!(cursor.entry().is_some());
    };
    assert_eq!((error.kind(), cursor.entry()), (ErrorKind::Busy, None));
    assert_eq!(table.verify(SEED, meter(1)).unwrap_err().kind(), ErrorKind::Busy);

    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let other = PathBuf::from("other");
    let mut builder = TableBuilder::create(&shared, &other, ID, options, meter(1)).unwrap();
    let result = model.iter().map(entry_of).try_for_each(|entry| builder.add(hash(entry.key), &entry));
    assert!(storage.read_file(&other).is_some());
    assert_eq!(result.and_then(|()| builder.finish().map(drop)).unwrap_err().kind(), ErrorKind::Busy);
    assert!(storage.read_file(&other).is_none(), "an unfinished table leaves no file");
}

#[test]
fn entries_out_of_order_and_empty_tables_are_refused() {
    let shared: Arc<dyn Storage> = Arc::new(SimStorage::new(1));
    let create = |path: &str| {
        TableBuilder::create(&shared, Path::new(path), ID, TableOptions::default(), Arc::new(NoPace)).unwrap()
    };
    let entry = |key: &'static str, seqno| Entry {
        key: key.as_bytes(),
        seqno: SeqNo(seqno),
        kind: ValueKind::Put,
        expires_at_ms: None,
        value: b"",
    };
    for (i, bad) in [entry("a", 9), entry("b", 5), entry("b", 6)].iter().enumerate() {
        let mut builder = create(&i.to_string());
        builder.add(hash(b"b"), &entry("b", 5)).unwrap();
        assert_eq!(builder.add(hash(bad.key), bad).unwrap_err().kind(), ErrorKind::Internal);
    }
    let mut builder = create("keys");
    assert_eq!(builder.add(hash(b""), &entry("", 1)).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(create("empty").finish().unwrap_err().kind(), ErrorKind::Internal);
    create("abandoned").abandon();
    assert!(shared.open(Path::new("abandoned"), OpenMode::Read).is_err());
    let taken = create("taken");
    let again =
        TableBuilder::create(&shared, Path::new("taken"), ID, TableOptions::default(), Arc::new(NoPace));
    assert_eq!(again.err().unwrap().kind(), ErrorKind::Io);
    drop(taken);
}

#[test]
fn a_filter_answers_for_absent_keys_without_reading_blocks() {
    let (storage, model) = (SimStorage::new(1), uniform_model(10_000));
    let summary = write(&storage, &path(), ID, TableOptions::default(), &model);
    let table = open(&storage, &path(), ID, &summary, 0);
    table.summary().unwrap();
    let before = reads(&storage);
    for i in 0..1000 {
        check_get(&table, &model, format!("{i:09}x").as_bytes(), SeqNo::MAX.0);
    }
    let read = reads(&storage) - before;
    assert!(read < 30, "{read} block reads for 1000 absent keys");
}

#[test]
fn a_table_that_is_used_by_many_threads_is_loaded_once() {
    let (storage, model) = (SimStorage::new(1), sample(200));
    let summary = write(&storage, &path(), ID, small_options(Compression::Lz4), &model);
    let table = open(&storage, &path(), ID, &summary, 40_000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (key, seqno) in model.keys() {
                    check_get(&table, &model, key, seqno.0);
                }
                let all: Vec<_> = model.iter().map(entry_of).collect();
                let mut cursor = table.cursor(CursorSource::Cached);
                cursor.seek_first().unwrap();
                for entry in &all {
                    assert_eq!(cursor.entry().as_ref(), Some(entry));
                    cursor.next().unwrap();
                }
            });
        }
    });
}

type Break = fn(&SimStorage);

#[test]
fn a_full_disk_and_a_failed_sync_leave_no_file() {
    let model = uniform_model(10_000);
    let faults: [(Break, ErrorKind); 3] = [
        (|storage| storage.set_capacity(Some(300 << 10)), ErrorKind::NoSpace),
        (|storage| storage.fail(FaultRule::new(Fault::Fail(Errno::IO)).on(&[OpKind::Sync])), ErrorKind::Io),
        (
            |storage| storage.fail(FaultRule::new(Fault::Partial(Errno::IO)).on(&[OpKind::Write])),
            ErrorKind::Io,
        ),
    ];
    for (fault, kind) in faults {
        let storage = SimStorage::new(1);
        fault(&storage);
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        let options = TableOptions { compression: Compression::None, ..Default::default() };
        let mut builder =
            TableBuilder::create(&shared, Path::new("t"), ID, options, Arc::new(NoPace)).unwrap();
        let added = model.iter().map(entry_of).try_for_each(|entry| builder.add(hash(entry.key), &entry));
        let error = match added {
            Ok(()) => builder.finish().unwrap_err(),
            Err(error) => {
                builder.abandon();
                error
            }
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(storage.paths().is_empty());
    }
}

#[test]
fn a_read_error_is_no_corruption_and_passes() {
    let (storage, model) = (SimStorage::new(1), sample(30));
    let summary = write(&storage, &path(), ID, TableOptions::default(), &model);
    let table = open(&storage, &path(), ID, &summary, 0);
    let key = b"key/000003";
    for loaded in [false, true] {
        storage.fail(FaultRule::new(Fault::Fail(Errno::IO)).on(&[OpKind::Read]));
        let error = table.get(hash(key), key, SeqNo::MAX, ReadMode::Blocking).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "loaded: {loaded}");
        storage.clear_faults();
        check_get(&table, &model, key, SeqNo::MAX.0);
    }
}

#[test]
fn filters_and_indexes_stay_under_their_bound_and_come_back() {
    let (storage, model) = (SimStorage::new(1), uniform_model(3_000));
    let path = |n: u64| PathBuf::from(format!("/tables/{n}.sst"));
    let id = |n: u64| TableId { shard: ShardId(0), file: FileNumber(n) };
    let build = |n| write(&storage, &path(n), id(n), TableOptions::default(), &model);
    let summaries: Vec<_> = (1..=20).map(build).collect();
    let files = Arc::new(FileCache::new(Arc::new(storage.clone()), 10));
    let open = |cache: &Arc<BlockCache>| -> Vec<_> {
        let open = |(n, summary): (u64, &TableSummary)| {
            Table::open(Arc::clone(&files), path(n), id(n), Arc::clone(cache), &summary.into()).unwrap()
        };
        (1..).zip(&summaries).map(open).collect()
    };
    let one = {
        let cache = Arc::new(BlockCache::new(1 << 20));
        open(&cache)[0].summary().unwrap();
        cache.stats().metadata_bytes
    };
    assert_eq!(one, 0, "what a table that is gone held is given back");
    let roomy = Arc::new(BlockCache::new(1 << 20));
    let tables = open(&roomy);
    for table in &tables {
        table.summary().unwrap();
    }
    let all = roomy.stats().metadata_bytes;
    assert_eq!(all, tables.iter().map(|table| table.metadata_bytes()).sum::<u64>());

    let tight = Arc::new(BlockCache::with_metadata(1 << 20, all / 4));
    let tables = open(&tight);
    let keys: Vec<_> = model.keys().map(|(key, _)| key.clone()).collect();
    let mut loaded_before = 0;
    for round in 0..3_000 {
        // Half of the reads go to one table, which is kept.
        let table = &tables[if round % 2 == 0 { 0 } else { round / 2 % tables.len() }];
        loaded_before += usize::from(round > 100 && round % 2 == 0 && tables[0].metadata_bytes() > 0);
        check_get(table, &model, &keys[round % keys.len()], u64::MAX);
        let used = tight.stats().metadata_bytes;
        assert!(used <= all / 4 + all / 20 && used > 0, "{used} of {all}");
    }
    assert!(loaded_before > 1_400, "the table that is used most is not kept: {loaded_before}");
    let cold = tables.iter().find(|table| table.metadata_bytes() == 0).unwrap();
    let key = &keys[0];
    assert_eq!(cold.get(hash(key), key, SeqNo::MAX, ReadMode::NoWait).unwrap(), Lookup::WouldBlock);
    // A scan keeps what it uses, and the other way round.
    let mut cursor = cold.cursor(CursorSource::Cached);
    cursor.seek_first().unwrap();
    for table in &tables {
        table.summary().unwrap();
    }
    check_cursor(&mut cold.cursor(CursorSource::Cached), &model, &keys[..3]);
    cursor.next().unwrap();
    assert_eq!(cursor.entry(), model.iter().nth(1).map(entry_of));
}
