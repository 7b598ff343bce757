//! The memtable: 250,000 entries of 16 B keys and 100 B values, one thread. Hold it against a bare loop of an
//! append-only buffer and a hash table, which is measured beside it here (`bare_*`). Keys are made beforehand: a
//! key compared right after it was stored in parts would stall the processor, which no caller's key does.

use std::{hint::black_box, sync::Arc};

use dbex::{
    entry::{Cursor, Entry, ValueKind},
    ids::SeqNo,
    key::KeyHash,
    memtable::{Memtable, MemtableOptions, MemtableWriter, memtable},
};
use divan::{Bencher, counter::ItemsCount};
use xxhash_rust::xxh3::xxh3_128;

const ENTRIES: u64 = 250_000;
const VALUE: [u8; 100] = [7; 100];
/// At 250,000 keys about half of the slots are taken.
const SLOTS: usize = 524_288;
const OPTIONS: MemtableOptions = MemtableOptions { arena_bytes: 64 << 20, index_slots: SLOTS };

fn main() {
    divan::main();
}

fn key(i: u64) -> Key {
    xxh3_128(&i.to_le_bytes()).to_be_bytes()
}

type Key = [u8; 16];

fn keys(numbers: impl Iterator<Item = u64>) -> Vec<Key> {
    numbers.map(key).collect()
}

fn in_order() -> Vec<Key> {
    keys(0..ENTRIES)
}

fn shuffled() -> Vec<Key> {
    keys((0..ENTRIES).map(|i| i * 7919 % ENTRIES))
}

const fn put(key: &Key, seqno: u64) -> Entry<'_> {
    Entry { key, seqno: SeqNo(seqno), kind: ValueKind::Put, expires_at_ms: None, value: &VALUE }
}

fn fill(writer: &mut MemtableWriter, keys: &[Key], first: u64) {
    for (key, seqno) in keys.iter().zip(first..) {
        writer.insert(KeyHash::of(key, 0), &put(key, seqno));
    }
}

fn fill_in_batches(writer: &mut MemtableWriter, keys: &[Key]) {
    const AHEAD: usize = 8;
    let mut seqnos = 1..;
    for batch in keys.chunks(100) {
        let hashes: Vec<KeyHash> = batch.iter().map(|key| KeyHash::of(key, 0)).collect();
        let table = Arc::clone(writer.memtable());
        hashes.iter().take(AHEAD).for_each(|hash| table.prefetch(*hash));
        let mut ahead = hashes.iter().skip(AHEAD);
        for ((key, hash), seqno) in batch.iter().zip(&hashes).zip(&mut seqnos) {
            if let Some(hash) = ahead.next() {
                table.prefetch(*hash);
            }
            writer.insert(*hash, &put(key, seqno));
        }
    }
}

fn filled() -> (MemtableWriter, Arc<Memtable>) {
    let (mut writer, table) = memtable(OPTIONS);
    fill(&mut writer, &in_order(), 1);
    (writer, table)
}

#[divan::bench]
fn insert(bencher: Bencher<'_, '_>) {
    let keys = in_order();
    bencher.counter(ItemsCount::new(ENTRIES)).with_inputs(|| memtable(OPTIONS)).bench_local_values(
        |(mut writer, table)| {
            fill(&mut writer, &keys, 1);
            (writer, table)
        },
    );
}

#[divan::bench]
fn insert_batches_of_100(bencher: Bencher<'_, '_>) {
    let keys = in_order();
    bencher.counter(ItemsCount::new(ENTRIES)).with_inputs(|| memtable(OPTIONS)).bench_local_values(
        |(mut writer, table)| {
            fill_in_batches(&mut writer, &keys);
            (writer, table)
        },
    );
}

#[divan::bench]
fn overwrite(bencher: Bencher<'_, '_>) {
    let keys = shuffled();
    bencher.counter(ItemsCount::new(ENTRIES)).with_inputs(filled).bench_local_values(
        |(mut writer, table)| {
            fill(&mut writer, &keys, ENTRIES + 1);
            (writer, table)
        },
    );
}

fn get_all(bencher: Bencher<'_, '_>, keys: &[Key]) {
    let (_writer, table) = filled();
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        for key in keys {
            let found = table.get(KeyHash::of(key, 0), key, SeqNo::MAX);
            black_box(found.and_then(|entry| entry.value.first().copied()));
        }
    });
}

#[divan::bench]
fn get(bencher: Bencher<'_, '_>) {
    get_all(bencher, &shuffled());
}

#[divan::bench]
fn get_missing(bencher: Bencher<'_, '_>) {
    get_all(bencher, &keys(ENTRIES..2 * ENTRIES));
}

#[divan::bench]
fn sort(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .with_inputs(filled)
        .bench_local_values(|(writer, table)| (table.cursor(), writer));
}

#[divan::bench]
fn cursor_steps(bencher: Bencher<'_, '_>) {
    let (_writer, table) = filled();
    let mut cursor = table.cursor();
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        cursor.seek_first().expect("reads memory only");
        while let Some(entry) = cursor.entry() {
            black_box(entry.value.len());
            cursor.next().expect("reads memory only");
        }
    });
}

/// What the bare loop builds: keys and values one behind the other, and slots of (tag, offset).
struct Bare {
    arena: Vec<u8>,
    slots: Vec<(u32, u32)>,
}

const EMPTY: u32 = u32::MAX;

#[expect(clippy::cast_possible_truncation, reason = "the low bits are the slot, the high ones the tag")]
const fn slot_and_tag(hash: u64) -> (usize, u32) {
    (hash as usize & (SLOTS - 1), (hash >> 32) as u32)
}

#[expect(clippy::indexing_slicing, reason = "masked positions; the bare loop has no other checks")]
impl Bare {
    fn new() -> Self {
        Self { arena: Vec::with_capacity(64 << 20), slots: vec![(0, EMPTY); SLOTS] }
    }

    fn fill(mut self, keys: &[Key]) -> Self {
        for key in keys {
            let (mut slot, tag) = slot_and_tag(KeyHash::of(key, 0).mixed());
            let offset = u32::try_from(self.arena.len()).expect("64 MiB");
            self.arena.extend_from_slice(key);
            self.arena.extend_from_slice(&VALUE);
            while self.slots[slot].1 != EMPTY && self.slots[slot].0 != tag {
                slot = (slot + 1) & (SLOTS - 1);
            }
            self.slots[slot] = (tag, offset);
        }
        self
    }

    fn get(&self, key: &Key) -> Option<u8> {
        let (mut slot, tag) = slot_and_tag(KeyHash::of(key, 0).mixed());
        loop {
            let (found, offset) = self.slots[slot];
            if offset == EMPTY {
                return None;
            }
            let at = offset as usize;
            if found == tag && self.arena[at..at + 16] == *key {
                return Some(self.arena[at + 16]);
            }
            slot = (slot + 1) & (SLOTS - 1);
        }
    }
}

#[divan::bench]
fn bare_insert(bencher: Bencher<'_, '_>) {
    let keys = in_order();
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .with_inputs(Bare::new)
        .bench_local_values(|bare| bare.fill(&keys));
}

#[divan::bench]
fn bare_get(bencher: Bencher<'_, '_>) {
    let (bare, keys) = (Bare::new().fill(&in_order()), shuffled());
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        for key in &keys {
            black_box(bare.get(key));
        }
    });
}
