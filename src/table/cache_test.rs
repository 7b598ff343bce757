//! The cache: its bound, what it keeps, and what becomes of dropped tables.

use proptest::prelude::*;

use super::*;
use crate::{
    entry::{Entry, ValueKind},
    ids::SeqNo,
    key::KeyHash,
    table::block_builder::BlockBuilder,
};

fn admit(slots: &Arc<BlockSlots>, number: usize, content: &[u8]) {
    let read = |block: &mut [u8]| {
        block.copy_from_slice(content);
        Ok(())
    };
    slots.admit(number, content.len(), read).unwrap();
}

fn content(value_bytes: usize) -> Vec<u8> {
    let mut builder = BlockBuilder::new(8);
    let value = vec![7; value_bytes];
    let entry =
        Entry { key: b"k", seqno: SeqNo(1), kind: ValueKind::Put, expires_at_ms: None, value: &value };
    assert!(builder.add(KeyHash::of(b"k", 0), &entry, true, 4096));
    builder.finish().to_vec()
}

fn read(slots: &Arc<BlockSlots>, number: usize) -> bool {
    let hit = slots.get(number).view().is_some();
    if !hit {
        slots.count(number, false);
        admit(slots, number, &content(4000));
    }
    hit
}

/// Misses each block twice in a row, so that it comes in.
fn bring_in(slots: &Arc<BlockSlots>, numbers: std::ops::Range<usize>) {
    for number in numbers {
        assert!(!read(slots, number));
        read(slots, number);
        assert!(slots.peek(number).is_some(), "block {number}");
    }
}

#[test]
fn the_capacity_is_a_bound_and_slots_count() {
    let cache = Arc::new(BlockCache::new(8 << 20));
    let slots = BlockSlots::new(&cache, 100_000);
    for number in 0..20_000 {
        assert!(!read(&slots, number));
    }
    let stats = cache.stats();
    assert!(stats.bytes > cache.capacity_bytes() * 9 / 10, "{stats:?}");
    assert_eq!((stats.hits, stats.misses, stats.pinned_bytes), (0, 20_000, 0));
    for number in (20_000..30_000).step_by(1000) {
        bring_in(&slots, number..number + 1000);
        assert!(cache.stats().bytes <= cache.capacity_bytes(), "{:?}", cache.stats());
    }
    let _more = BlockSlots::new(&cache, 200_000);
    assert!(cache.stats().bytes <= cache.capacity_bytes(), "{:?}", cache.stats());
    assert!((0..30_000).any(|number| slots.peek(number).is_some()));
}

#[test]
fn what_is_read_often_outlives_a_scan() {
    let cache = Arc::new(BlockCache::new(4 << 20));
    let slots = BlockSlots::new(&cache, 100_000);
    for _ in 0..3 {
        for number in 0..100 {
            read(&slots, number);
        }
    }
    for number in (1000..10_000).step_by(300) {
        bring_in(&slots, number..number + 300);
        (0..100).for_each(|hot| assert!(read(&slots, hot)));
    }
    for number in 10_000..50_000 {
        read(&slots, number);
    }
    let kept = (0..100).filter(|number| slots.get(*number).view().is_some()).count();
    assert!(kept > 90, "{kept} of 100 hot blocks");
}

#[test]
fn a_full_cache_takes_in_what_is_missed_again_soon() {
    let cache = Arc::new(BlockCache::new(4 << 20));
    let slots = BlockSlots::new(&cache, 100_000);
    for number in 0..2_000 {
        read(&slots, number);
    }
    for number in 10_000..10_100 {
        assert!(!read(&slots, number));
        assert!(!read(&slots, number), "missed once");
        assert!(read(&slots, number), "missed twice");
    }
    // Twice, but with ten times the cache between.
    let kept: usize = (0..2).map(|_| (20_000..30_000).filter(|number| read(&slots, *number)).count()).sum();
    assert_eq!(kept, 0);
    assert!((20_000..30_000).all(|number| slots.peek(number).is_none()));
    // Room that a dropped table leaves is taken without waiting.
    drop(slots);
    let slots = BlockSlots::new(&cache, 10);
    assert!(!read(&slots, 0) && read(&slots, 0));
}

#[test]
fn what_was_missed_once_leaves_before_what_was_missed_twice() {
    let cache = Arc::new(BlockCache::new(4 << 20));
    let slots = BlockSlots::new(&cache, 100_000);
    for number in 0..2_000 {
        read(&slots, number);
    }
    let held =
        |numbers: std::ops::Range<usize>| numbers.filter(|number| slots.peek(*number).is_some()).count();
    let filled = held(0..2_000);
    bring_in(&slots, 10_000..10_000 + filled);
    assert_eq!(held(0..2_000), 0);
    assert!(held(10_000..20_000) > filled * 9 / 10);
}

#[test]
fn tables_that_come_and_go_do_not_move_the_clock() {
    let cache = Arc::new(BlockCache::new(4 << 20));
    let slots = BlockSlots::new(&cache, 100_000);
    for number in 0..30_000 {
        read(&slots, number);
    }
    let mut large = vec![];
    for number in 30_000..30_003 {
        assert!(!read(&slots, number));
        large.push(BlockSlots::new(&cache, 40_000));
        assert!(!read(&slots, number), "missed once");
        assert!(read(&slots, number), "missed twice");
    }
}

#[test]
fn a_dropped_table_leaves_nothing() {
    let cache = Arc::new(BlockCache::new(4 << 20));
    let kept = BlockSlots::new(&cache, 1000);
    for number in 0..100 {
        read(&kept, number);
    }
    let before = cache.stats().bytes;
    for _ in 0..50 {
        let slots = BlockSlots::new(&cache, 1000);
        for number in 0..500 {
            read(&slots, number);
        }
    }
    assert!(cache.stats().bytes <= before, "{:?}", cache.stats());
    let residents: usize = cache.shards.iter().map(|shard| shard.queues.lock().residents()).sum();
    assert!(residents < 1500, "{residents} residents of dropped tables");
}

#[test]
fn a_block_in_use_is_counted_as_pinned_when_it_has_left() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let slots = BlockSlots::new(&cache, 2000);
    read(&slots, 0);
    let content = slots.peek(0).unwrap();
    for number in (1..2000).flat_map(|number| [number, number]) {
        read(&slots, number);
    }
    assert!(slots.peek(0).is_none());
    assert_eq!(cache.stats().pinned_bytes, content.len());
    drop(content);
    assert_eq!(cache.stats().pinned_bytes, 0);
}

#[test]
fn large_blocks_bypass_and_no_capacity_caches_nothing() {
    for (capacity, value) in [(4 << 20, 300 << 10), (0, 1)] {
        let cache = Arc::new(BlockCache::new(capacity));
        let slots = BlockSlots::new(&cache, 1);
        admit(&slots, 0, &content(value));
        assert!(slots.get(0).view().is_none());
    }
}

#[test]
fn threads_may_read_and_drop_tables_at_once() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let cache = &cache;
            scope.spawn(move || {
                for _ in 0..20 {
                    let slots = BlockSlots::new(cache, 200);
                    for i in 0..400 {
                        read(&slots, (i * 7 + thread) % 200);
                    }
                }
            });
        }
    });
    let stats = cache.stats();
    assert_eq!((stats.bytes, stats.pinned_bytes), (0, 0), "{stats:?}");
}

proptest! {
    #[test]
    fn accounts_are_exact(steps in prop::collection::vec((0usize..3, 0usize..300, 1usize..9000), 1..400)) {
        let cache = Arc::new(BlockCache::new(400 << 10));
        let mut tables: Vec<_> = (0..3).map(|_| BlockSlots::new(&cache, 300)).collect();
        for (table, number, bytes) in steps {
            if bytes < 100 {
                tables[table] = BlockSlots::new(&cache, 300);
            } else if tables[table].get(number).view().is_none() {
                admit(&tables[table], number, &content(bytes));
            }
            let stats = cache.stats();
            prop_assert!(stats.bytes <= cache.capacity_bytes() && stats.pinned_bytes == 0, "{stats:?}");
        }
        drop(tables);
        prop_assert_eq!(cache.stats().bytes, 0);
    }
}
