//! Blocks against a plain list of entries.

use proptest::prelude::*;

use super::*;
use crate::{
    entry::Entry,
    table::{block_builder::BlockBuilder, block_iter::BlockIter},
};

#[derive(Clone, Debug)]
struct Item {
    key: Vec<u8>,
    seqno: u64,
    value: Vec<u8>,
}

fn hash(key: &[u8]) -> KeyHash {
    KeyHash::of(key, 3)
}

fn build(items: &[Item], restart_interval: u8) -> Vec<u8> {
    let mut builder = BlockBuilder::new(restart_interval);
    let mut last: Option<&[u8]> = None;
    for item in items {
        let entry = Entry {
            key: &item.key,
            seqno: SeqNo(item.seqno),
            kind: ValueKind::Put,
            expires_at_ms: item.seqno.is_multiple_of(3).then_some(item.seqno),
            value: &item.value,
        };
        assert!(builder.add(hash(&item.key), &entry, last != Some(&item.key), usize::MAX));
        last = Some(&item.key);
    }
    builder.finish().to_vec()
}

fn items(max: usize) -> impl Strategy<Value = Vec<Item>> {
    let key = prop_oneof!["[ab]{1,4}", "prefix/[a-c]{0,3}"].prop_map(String::into_bytes);
    prop::collection::vec((key, 1u64..50, prop::collection::vec(any::<u8>(), 0..20)), 1..max).prop_map(
        |list| {
            let mut items: Vec<Item> =
                list.into_iter().map(|(key, seqno, value)| Item { key, seqno, value }).collect();
            items.sort_by(|a, b| a.key.cmp(&b.key).then(b.seqno.cmp(&a.seqno)));
            items.dedup_by(|a, b| a.key == b.key && a.seqno == b.seqno);
            items
        },
    )
}

fn check(items: &[Item], bytes: Vec<u8>, probes: &[Vec<u8>]) {
    let block = Block::read(Bytes::from(bytes)).unwrap();
    assert_eq!(block.view().entries(), items.len());
    let mut iter = BlockIter::new(block.clone(), block.view().place(0).unwrap()).unwrap();
    for (i, item) in items.iter().enumerate() {
        let entry = iter.entry();
        assert_eq!((entry.key, entry.seqno.0, entry.value), (&item.key[..], item.seqno, &item.value[..]));
        assert_eq!(iter.next().unwrap(), i + 1 < items.len());
    }
    for item in items.iter().rev().skip(1) {
        assert!(iter.prev().unwrap());
        assert_eq!((iter.entry().key, iter.entry().seqno.0), (&item.key[..], item.seqno));
    }
    assert!(!iter.prev().unwrap());
    for key in items.iter().map(|item| &item.key).chain(probes) {
        let found = block.view().lower_bound(key).unwrap();
        let number = items.partition_point(|item| item.key < *key);
        assert_eq!(found.map(|place| place.number), (number < items.len()).then_some(number));
        assert_eq!(found, found.map(|place| block.view().place(place.number).unwrap()));
        for at in [0, 7, 25, 100] {
            let expected = items.iter().find(|item| item.key == *key && item.seqno <= at);
            let runs_on = items.last().is_some_and(|last| last.key == *key);
            match block.view().lookup(hash(key), key, SeqNo(at)).unwrap() {
                BlockLookup::Found(raw) => {
                    let expected = expected.expect("nothing to be found");
                    assert_eq!((raw.seqno.0, raw.value), (expected.seqno, &expected.value[..]));
                    assert_eq!(block.share_value(raw.value), expected.value);
                }
                BlockLookup::Absent => assert!(expected.is_none() && !runs_on),
                BlockLookup::RunsOn => assert!(expected.is_none() && runs_on),
            }
        }
    }
}

proptest! {
    #[test]
    fn blocks_hold_what_was_added(
        items in items(60),
        restart_interval in 1u8..20,
        probes in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..6), 0..10),
    ) {
        check(&items, build(&items, restart_interval), &probes);
    }

    #[test]
    fn any_content_is_safe(bytes: Vec<u8>, key in "[ab]{1,4}", number in 0usize..300) {
        if let Ok(block) = Block::read(Bytes::from(bytes)) {
            let _ = block.view().entry_at(number);
            let _ = block.view().place(number % block.view().entries());
            let _ = block.view().lower_bound(key.as_bytes());
            let _ = block.view().lookup(hash(key.as_bytes()), key.as_bytes(), SeqNo::MAX);
        }
    }

    #[test]
    fn a_damaged_block_is_safe(items in items(20), at: prop::sample::Index, xor in 1u8..) {
        let mut bytes = build(&items, 4);
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        let Ok(block) = Block::read(Bytes::from(bytes)) else { return Ok(()) };
        for item in &items {
            let _ = block.view().lookup(hash(&item.key), &item.key, SeqNo(5));
            let _ = block.view().lower_bound(&item.key);
        }
        if let Ok(mut iter) = BlockIter::new(block, EntryPlace { number: 0, offset: 0 }) {
            while let Ok(true) = iter.next() {}
            while let Ok(true) = iter.prev() {}
        }
    }
}

#[test]
fn wide_and_narrow_offsets_find_the_same() {
    // The entries take 23 bytes and the value; the limit is at 65,534.
    for (value_bytes, wide) in [(65_511, false), (65_512, true)] {
        let items = [(b"a", value_bytes), (b"b", 0), (b"c", 0)].map(|(key, n)| Item {
            key: key.to_vec(),
            seqno: 1,
            value: vec![1; n],
        });
        let bytes = build(&items, 2);
        assert_eq!(Shape::parse(&bytes).unwrap().wide, wide);
        check(&items, bytes, &[b"bb".to_vec()]);
    }
    let many: Vec<Item> =
        (0..70_000).map(|i| Item { key: format!("{i:08}").into_bytes(), seqno: 9, value: vec![] }).collect();
    let block = Block::read(Bytes::from(build(&many, 16))).unwrap();
    for item in many.iter().step_by(97).chain(many.last()) {
        let found = block.view().lookup(hash(&item.key), &item.key, SeqNo(9)).unwrap();
        assert!(matches!(found, BlockLookup::Found(_)));
    }
}

#[test]
fn a_block_takes_as_much_as_it_was_given() {
    let (mut builder, mut added) = (BlockBuilder::new(8), 0u64);
    loop {
        let key = format!("user/{:020}", added * 7).into_bytes();
        let value = [5; 100];
        let entry = Entry {
            key: &key,
            seqno: SeqNo(1 << 40),
            kind: ValueKind::Put,
            expires_at_ms: None,
            value: &value,
        };
        if !builder.add(hash(&key), &entry, true, 4096) {
            break;
        }
        added += 1;
    }
    let len = builder.finish().len();
    assert!((3900..=4096).contains(&len), "{len}");
    assert!(builder.bytes().abs_diff(len) < 100, "{} for {len}", builder.bytes());
}

#[test]
fn small_values_are_copied_and_large_ones_shared() {
    let items = [(1, 10), (2, 4000)].map(|(k, n)| Item { key: vec![k], seqno: 1, value: vec![k; n] });
    let block = Block::read(Bytes::from(build(&items, 4))).unwrap();
    let Block::Read { content, .. } = &block else { unreachable!() };
    let within = |value: &Bytes| content.as_ptr_range().contains(&value.as_ptr());
    let value_of = |number| block.view().entry_at(block.view().place(number).unwrap().offset).unwrap().value;
    assert!(!within(&block.share_value(value_of(0))));
    assert!(within(&block.share_value(value_of(1))));
}
