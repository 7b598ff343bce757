//! The memtable: 250,000 entries of 16 B keys and 100 B values, one thread. Hold it against a bare loop of an
//! append-only buffer and a hash table, which is measured beside it here (`bare_*`).

use std::{hint::black_box, sync::Arc};

use dbex::{
    entry::{Cursor, Entry, ValueKind},
    ids::SeqNo,
    key::KeyHash,
    memtable::{Memtable, MemtableOptions, MemtableWriter, memtable},
};
use divan::{Bencher, counter::ItemsCount};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

const ENTRIES: u64 = 250_000;
const VALUE: [u8; 100] = [7; 100];
/// At 250,000 keys about half of the slots are taken.
const SLOTS: usize = 524_288;
const OPTIONS: MemtableOptions = MemtableOptions { arena_bytes: 64 << 20, index_slots: SLOTS };

fn main() {
    divan::main();
}

fn key(i: u64) -> [u8; 16] {
    xxh3_128(&i.to_le_bytes()).to_be_bytes()
}

fn shuffled() -> impl Iterator<Item = u64> {
    (0..ENTRIES).map(|i| i * 7919 % ENTRIES)
}

fn fill(writer: &mut MemtableWriter, keys: impl Iterator<Item = u64>, first: u64) {
    for (i, seqno) in keys.zip(first..) {
        let key = key(i);
        let entry = Entry {
            key: &key,
            seqno: SeqNo(seqno),
            kind: ValueKind::Put,
            expires_at_ms: None,
            value: &VALUE,
        };
        writer.insert(KeyHash::of(&key, 0), &entry);
    }
}

fn filled() -> (MemtableWriter, Arc<Memtable>) {
    let (mut writer, table) = memtable(OPTIONS);
    fill(&mut writer, 0..ENTRIES, 1);
    (writer, table)
}

#[divan::bench]
fn insert(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(ENTRIES)).with_inputs(|| memtable(OPTIONS)).bench_local_values(
        |(mut writer, table)| {
            fill(&mut writer, 0..ENTRIES, 1);
            (writer, table)
        },
    );
}

#[divan::bench]
fn overwrite(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(ENTRIES)).with_inputs(filled).bench_local_values(
        |(mut writer, table)| {
            fill(&mut writer, shuffled(), ENTRIES + 1);
            (writer, table)
        },
    );
}

#[divan::bench]
fn get(bencher: Bencher<'_, '_>) {
    let (_writer, table) = filled();
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        for i in shuffled() {
            let key = key(i);
            let found = table.get(KeyHash::of(&key, 0), &key, SeqNo::MAX);
            black_box(found.and_then(|entry| entry.value.first().copied()));
        }
    });
}

#[divan::bench]
fn get_missing(bencher: Bencher<'_, '_>) {
    let (_writer, table) = filled();
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        for i in ENTRIES..2 * ENTRIES {
            let key = key(i);
            black_box(table.get(KeyHash::of(&key, 0), &key, SeqNo::MAX).is_some());
        }
    });
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

    fn fill(mut self) -> Self {
        for i in 0..ENTRIES {
            let key = key(i);
            let (mut slot, tag) = slot_and_tag(xxh3_64(&key));
            let offset = u32::try_from(self.arena.len()).expect("64 MiB");
            self.arena.extend_from_slice(&key);
            self.arena.extend_from_slice(&VALUE);
            while self.slots[slot].1 != EMPTY && self.slots[slot].0 != tag {
                slot = (slot + 1) & (SLOTS - 1);
            }
            self.slots[slot] = (tag, offset);
        }
        self
    }

    fn get(&self, key: &[u8; 16]) -> Option<u8> {
        let (mut slot, tag) = slot_and_tag(xxh3_64(key));
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
    bencher.counter(ItemsCount::new(ENTRIES)).with_inputs(Bare::new).bench_local_values(Bare::fill);
}

#[divan::bench]
fn bare_get(bencher: Bencher<'_, '_>) {
    let bare = Bare::new().fill();
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        for i in shuffled() {
            black_box(bare.get(&key(i)));
        }
    });
}
