//! The memtable against an ordered map, with one thread and with a writer beside readers; its accounting; sizes
//! at the edges of what is allowed.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use proptest::prelude::*;

use super::{Memtable, MemtableCursor, MemtableOptions, MemtableWriter, arena::ArenaWriter, memtable};
use crate::{
    entry::{Cursor, Entry, ValueKind},
    ids::SeqNo,
    key::{KeyHash, MAX_KEY_BYTES, MAX_VALUE_BYTES},
};

const SMALL: MemtableOptions = MemtableOptions { arena_bytes: 64 << 10, index_slots: 512 };

fn hash(key: &[u8]) -> KeyHash {
    KeyHash::of(key, 0)
}

fn entry<'a>(key: &'a [u8], seqno: u64, value: &'a [u8]) -> Entry<'a> {
    Entry { key, seqno: SeqNo(seqno), kind: ValueKind::Put, expires_at_ms: None, value }
}

fn insert(writer: &mut MemtableWriter, key: &[u8], seqno: u64, value: &[u8]) {
    writer.insert(hash(key), &entry(key, seqno, value));
}

/// An entry that owns its bytes, as the model holds it.
#[derive(Clone, Debug, PartialEq)]
struct Owned {
    kind: ValueKind,
    expires_at_ms: Option<u64>,
    value: Vec<u8>,
}

type Model = BTreeMap<(Vec<u8>, Reverse<u64>), Owned>;

fn as_entry<'a>(((key, Reverse(seqno)), owned): (&'a (Vec<u8>, Reverse<u64>), &'a Owned)) -> Entry<'a> {
    let Owned { kind, expires_at_ms, ref value } = *owned;
    Entry { key, seqno: SeqNo(*seqno), kind, expires_at_ms, value }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Vec<u8>, Owned),
    Get(Vec<u8>, u64),
    /// Makes a cursor and walks it: true is forward.
    Walk(Start, Vec<bool>),
}

#[derive(Clone, Debug)]
enum Start {
    First,
    Last,
    Seek(Vec<u8>),
    SeekBefore(Vec<u8>),
}

/// Few keys, so that they have versions and collide, and of the kinds that sorting has cases for: ends inside a
/// word, zero bytes, long common beginnings.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b'a'), Just(255)], 1..4);
    let prefix = prop_oneof![Just(0usize), Just(0), Just(6), Just(8), Just(16), Just(62), Just(70)];
    (prefix, tail).prop_map(|(prefix, tail)| [vec![b'p'; prefix], tail].concat())
}

fn owned() -> impl Strategy<Value = Owned> {
    let value = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 900..9000),
    ];
    (any::<bool>(), prop::option::of(any::<u64>()), value).prop_map(|(put, expires_at_ms, value)| {
        let kind = if put { ValueKind::Put } else { ValueKind::Delete };
        Owned { kind, expires_at_ms, value }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let start = prop_oneof![
        Just(Start::First),
        Just(Start::Last),
        key().prop_map(Start::Seek),
        key().prop_map(Start::SeekBefore)
    ];
    prop_oneof![
        12 => (key(), owned()).prop_map(|(key, owned)| Op::Insert(key, owned)),
        3 => (key(), 0..300u64).prop_map(|(key, at)| Op::Get(key, at)),
        1 => (start, prop::collection::vec(any::<bool>(), 0..60)).prop_map(|(start, steps)| Op::Walk(start, steps)),
    ]
}

fn model_get<'a>(model: &'a Model, key: &[u8], at: u64) -> Option<Entry<'a>> {
    let from = (key.to_vec(), Reverse(at));
    model.range(from..).next().map(as_entry).filter(|entry| entry.key == key)
}

fn check_walk(model: &Model, mut cursor: MemtableCursor, start: &Start, steps: &[bool]) {
    assert_eq!(cursor.entry(), None, "a new cursor stands nowhere");
    let all: Vec<Entry<'_>> = model.iter().map(as_entry).collect();
    let mut expected = match start {
        Start::First => cursor.seek_first().map(|()| Some(0)),
        Start::Last => cursor.seek_last().map(|()| all.len().checked_sub(1)),
        Start::Seek(key) => cursor.seek(key).map(|()| Some(all.partition_point(|e| e.key < &key[..]))),
        Start::SeekBefore(key) => {
            cursor.seek_before(key).map(|()| all.partition_point(|e| e.key < &key[..]).checked_sub(1))
        }
    }
    .unwrap()
    .filter(|at| *at < all.len());
    assert_eq!(cursor.entry(), expected.map(|at| all[at]));
    for forward in steps {
        if *forward {
            cursor.next().unwrap();
            expected = expected.map(|at| at + 1).filter(|at| *at < all.len());
        } else {
            cursor.prev().unwrap();
            expected = expected.and_then(|at| at.checked_sub(1));
        }
        assert_eq!(cursor.entry(), expected.map(|at| all[at]));
    }
}

fn check_all(model: &Model, table: &Memtable) {
    let len = model.len();
    check_walk(model, table.cursor(), &Start::First, &vec![true; len + 1]);
    check_walk(model, table.cursor(), &Start::Last, &vec![false; len + 1]);
    assert_eq!(table.entries(), len);
    let data: usize = model.iter().map(|((key, _), owned)| key.len() + owned.value.len()).sum();
    assert_eq!(table.data_bytes(), data as u64);
    let seqnos = || model.keys().map(|(_, Reverse(seqno))| SeqNo(*seqno));
    assert_eq!(table.seqno_range(), seqnos().min().zip(seqnos().max()));
}

proptest! {
    #[test]
    fn equals_an_ordered_map(
        ops in prop::collection::vec(op(), 0..300),
        one_hash in prop::bool::weighted(0.2),
    ) {
        let hash = |key: &[u8]| if one_hash { KeyHash(7) } else { hash(key) };
        let (mut writer, table) = memtable(SMALL);
        let mut model = Model::new();
        for (seqno, op) in (1..).zip(&ops) {
            match op {
                Op::Insert(key, owned) => {
                    let at = (key.clone(), Reverse(seqno));
                    writer.insert(hash(key), &as_entry((&at, owned)));
                    model.insert(at, owned.clone());
                }
                Op::Get(key, at) => {
                    prop_assert_eq!(table.get(hash(key), key, SeqNo(*at)), model_get(&model, key, *at));
                    let newest = table.get(hash(key), key, SeqNo::MAX);
                    prop_assert_eq!(newest, model_get(&model, key, u64::MAX));
                }
                Op::Walk(start, steps) => check_walk(&model, table.cursor(), start, steps),
            }
        }
        check_all(&model, &table);
    }
}

#[test]
fn an_old_version_of_a_hot_key_is_found() {
    let (mut writer, table) = memtable(MemtableOptions { arena_bytes: 1 << 20, index_slots: 64 });
    let seqno = |n: u64| 10 + 3 * n;
    for n in 0..3000 {
        insert(&mut writer, b"hot", seqno(n), &n.to_le_bytes());
    }
    let at = |at| table.get(hash(b"hot"), b"hot", SeqNo(at)).map(|entry| entry.seqno.get());
    assert_eq!(at(9), None);
    for n in 0..3000 {
        assert_eq!([at(seqno(n)), at(seqno(n) + 2)], [Some(seqno(n)); 2]);
    }
    assert_eq!(at(SeqNo::MAX.get()), Some(seqno(2999)));
}

#[test]
fn jumps_lead_as_far_back_as_their_rank_says() {
    const VERSIONS: u64 = 5000;
    let mut writer = ArenaWriter::new(8, 64 << 10);
    for n in 1..=VERSIONS {
        writer.insert(hash(b"k"), &entry(b"k", n, b""));
    }
    let (_, newest) = writer.arena().index.locate(hash(b"k").mixed(), b"k");
    let (mut record, mut highest) = (newest.unwrap(), 0);
    for n in (2..=VERSIONS).rev() {
        let (older, jump) = record.links().unwrap();
        assert_eq!([record.seqno().get(), older.seqno().get()], [n, n - 1]);
        assert_eq!(jump.seqno().get(), n - ((1 << record.rank()) - 1));
        highest = highest.max(record.rank());
        record = older;
    }
    assert!(record.links().is_none());
    assert_eq!(highest, 12, "the highest jump spans most of the versions");
}

#[test]
#[should_panic(expected = "ascending order")]
fn a_version_out_of_order_is_refused() {
    let (mut writer, _table) = memtable(SMALL);
    insert(&mut writer, b"k", 5, b"");
    insert(&mut writer, b"k", 5, b"");
}

#[test]
fn one_item_beyond_the_options_is_taken() {
    let (mut writer, table) = memtable(MemtableOptions { arena_bytes: 4096, index_slots: 10 });
    assert!(writer.has_room(usize::MAX, usize::MAX), "anything, while it is empty");
    let empty_bytes = table.memory_bytes();
    for n in 0..20_000u64 {
        insert(&mut writer, &n.to_be_bytes(), n + 1, b"v");
    }
    assert!(!writer.has_room(1, 1));
    assert!(table.fill_permille() > 1_000_000);
    for n in 0..20_000u64 {
        let key = n.to_be_bytes();
        assert_eq!(table.get(hash(&key), &key, SeqNo::MAX), Some(entry(&key, n + 1, b"v")));
    }
    assert_eq!(table.get(hash(b"no"), b"no", SeqNo::MAX), None);
    // Indexes of 10, 20, 40, … slots, until 20,000 keys are 7/8 of the sum at most.
    let slots = 10 * ((1 << 11) - 1);
    assert!(table.memory_bytes() > empty_bytes + slots * 8, "the added indexes are counted");
}

#[test]
fn room_is_by_keys_and_by_bytes() {
    let (mut writer, table) = memtable(MemtableOptions { arena_bytes: 10_000, index_slots: 100 });
    insert(&mut writer, b"k", 1, b"");
    assert!(writer.has_room(69, 69) && !writer.has_room(70, 70));
    assert!(writer.has_room(1, 9_900) && !writer.has_room(1, 10_000));
    assert_eq!(table.fill_permille(), 14);
    insert(&mut writer, b"k", 2, &[0; 9_900]);
    assert!(!writer.has_room(1, 8));
    assert_eq!(table.fill_permille(), 14, "a version takes no slot");
}

#[test]
fn sizes_at_the_edges() {
    let (mut writer, table) = memtable(MemtableOptions { arena_bytes: 8 << 20, index_slots: 1000 });
    let long_key = vec![7; MAX_KEY_BYTES];
    let huge = vec![9; MAX_VALUE_BYTES];
    let before = table.memory_bytes();
    insert(&mut writer, b"a", 1, b"");
    insert(&mut writer, &long_key, 2, &huge);
    insert(&mut writer, &long_key, 3, b"");
    let mut like_it = long_key.clone();
    like_it[MAX_KEY_BYTES - 1] = 8;
    insert(&mut writer, &like_it, 4, b"x");
    insert(&mut writer, b"b", 5, b"small again");
    let taken = table.memory_bytes() - before;
    assert!(
        (MAX_VALUE_BYTES..MAX_VALUE_BYTES + (1 << 20)).contains(&taken),
        "the huge one has a chunk of its size"
    );

    assert_eq!(table.get(hash(&long_key), &long_key, SeqNo(2)), Some(entry(&long_key, 2, &huge)));
    assert_eq!(table.get(hash(&long_key), &long_key, SeqNo(3)), Some(entry(&long_key, 3, b"")));
    let mut cursor = table.cursor();
    cursor.seek_first().unwrap();
    for seqno in [3, 2, 4, 1, 5] {
        assert_eq!(cursor.entry().map(|entry| entry.seqno), Some(SeqNo(seqno)));
        cursor.next().unwrap();
    }
    assert_eq!(cursor.entry(), None);
}

#[test]
fn memory_is_counted_to_the_byte() {
    const ITEM: usize = 16;
    const CHUNK: usize = 64 << 10;
    const CHUNK_HEAD: usize = 16;
    let (mut writer, table) = memtable(MemtableOptions { arena_bytes: 1 << 20, index_slots: 1000 });
    let index = 8 * 1000;
    assert_eq!(table.memory_bytes(), index, "no chunk before the first entry");
    insert(&mut writer, b"a", 1, b"1");
    assert_eq!(table.memory_bytes(), index + CHUNK);
    insert(&mut writer, b"b", 2, &vec![0; 70_000]);
    let chunks = CHUNK + CHUNK_HEAD + (16 + 1 + 70_000usize).next_multiple_of(8);
    assert_eq!(table.memory_bytes(), index + chunks);

    assert_eq!(table.unsorted_entries(), 2);
    let first = table.cursor();
    assert_eq!(table.unsorted_entries(), 0);
    assert_eq!(table.memory_bytes(), index + chunks + 2 * ITEM);
    insert(&mut writer, b"c", 3, b"");
    assert_eq!(table.unsorted_entries(), 3, "one to sort, and a run of two to merge it with");
    let second = table.cursor();
    assert_eq!(table.memory_bytes(), index + chunks + 5 * ITEM, "the old cursor holds the old run");
    drop(first);
    assert_eq!(table.memory_bytes(), index + chunks + 3 * ITEM);
    drop(second);
    assert_eq!(table.memory_bytes(), index + chunks + 3 * ITEM, "the run is kept");
}

#[test]
fn runs_stay_few() {
    let (mut writer, table) = memtable(MemtableOptions { arena_bytes: 1 << 20, index_slots: 10_000 });
    let mut merged = 0;
    for n in 1..=4096u64 {
        insert(&mut writer, &n.wrapping_mul(0x9E37_79B9).to_be_bytes(), n, b"");
        merged += table.unsorted_entries();
        let cursor = table.cursor();
        assert!(cursor.runs() <= 13, "{} runs at {n} entries", cursor.runs());
    }
    assert!(merged <= 4096 * 13, "each entry is merged into a longer run a few times only: {merged}");
}

#[test]
fn a_cursor_outlives_its_memtable_and_does_not_change() {
    let (mut writer, table) = memtable(SMALL);
    insert(&mut writer, b"k", 1, b"v");
    let mut cursor = table.cursor();
    insert(&mut writer, b"a", 2, b"later");
    drop((writer, table));
    cursor.seek_first().unwrap();
    assert_eq!(cursor.entry(), Some(entry(b"k", 1, b"v")));
    cursor.next().unwrap();
    assert_eq!(cursor.entry(), None);
}

/// Entry `n` of the threaded tests: 500 keys with many versions each, values that tell the entry, a few huge.
fn numbered(n: u64) -> ([u8; 12], Vec<u8>) {
    let mut key = *b"user0000____";
    key[8..].copy_from_slice(&u32::try_from(n.wrapping_mul(7919) % 500).unwrap().to_be_bytes());
    let len = if n.is_multiple_of(97) { 5000 } else { n % 60 };
    (key, n.to_le_bytes().into_iter().cycle().take(8 + usize::try_from(len).unwrap()).collect())
}

fn check_picture(table: &Memtable) {
    let complete = table.entries();
    let mut cursor = table.cursor();
    let mut seqnos = Vec::new();
    let mut previous: Option<([u8; 12], u64)> = None;
    cursor.seek_first().unwrap();
    while let Some(found) = cursor.entry() {
        let n = found.seqno.get();
        let (key, value) = numbered(n);
        assert_eq!(found, entry(&key, n, &value));
        assert!(previous.is_none_or(|(k, s)| (k, Reverse(s)) < (key, Reverse(n))));
        previous = Some((key, n));
        seqnos.push(n);
        cursor.next().unwrap();
    }
    let (mut back, mut seen) = (seqnos.clone(), 0);
    cursor.seek_last().unwrap();
    while let Some(found) = cursor.entry() {
        assert_eq!(Some(found.seqno.get()), back.pop());
        seen += 1;
        cursor.prev().unwrap();
    }
    assert_eq!(seen, seqnos.len());
    seqnos.sort_unstable();
    assert!(seqnos.len() >= complete);
    assert!(seqnos.iter().copied().eq(1..=seqnos.len() as u64), "the first entries, without a gap");
}

#[test]
fn readers_see_complete_entries_while_the_writer_goes_on() {
    const ENTRIES: u64 = 30_000;
    let (mut writer, table) = memtable(MemtableOptions { arena_bytes: 1 << 20, index_slots: 300 });
    let done = Arc::new(AtomicBool::new(false));
    let cursors = thread::spawn({
        let (table, done) = (Arc::clone(&table), Arc::clone(&done));
        move || {
            while !done.load(Ordering::Acquire) {
                check_picture(&table);
            }
        }
    });
    let gets = thread::spawn({
        let (table, done) = (Arc::clone(&table), Arc::clone(&done));
        move || {
            let mut turn = 0u64;
            while !done.load(Ordering::Acquire) {
                turn += 1;
                let (key, _) = numbered(turn % 500);
                let complete = table.entries() as u64;
                let newest = table.get(hash(&key), &key, SeqNo::MAX).map_or(0, |entry| entry.seqno.get());
                let expected = (1..=complete).rev().find(|n| numbered(*n).0 == key);
                assert!(newest >= expected.unwrap_or(0), "{newest} {expected:?}");
                let old = SeqNo(newest / 2);
                if let Some(found) = table.get(hash(&key), &key, old) {
                    assert_eq!(found, entry(&key, found.seqno.get(), &numbered(found.seqno.get()).1));
                    assert!(found.seqno <= old);
                }
            }
        }
    });
    for n in 1..=ENTRIES {
        let (key, value) = numbered(n);
        insert(&mut writer, &key, n, &value);
    }
    done.store(true, Ordering::Release);
    cursors.join().unwrap();
    gets.join().unwrap();
    check_picture(&table);
}
