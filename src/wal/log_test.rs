//! A log that is written, synced, rotated, recycled and read again gives back what was appended.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use proptest::prelude::*;

use super::{testing::*, *};
use crate::{
    error::ErrorKind,
    ids::{BatchId, SegmentNumber, SeqNo, ShardId},
    storage::{DiskStorage, Storage},
};

fn op() -> impl Strategy<Value = ModelOp> {
    let value = prop::option::weighted(0.8, prop::collection::vec(0u8..4, 0..200));
    (prop::collection::vec(any::<u8>(), 1..20), value, prop::option::of(any::<u64>()))
}

fn kind() -> impl Strategy<Value = FrameKind> {
    let shards = prop::collection::vec(any::<u32>().prop_map(ShardId), 0..4);
    prop_oneof![
        4 => Just(FrameKind::Data),
        1 => (any::<u64>(), shards)
            .prop_map(|(id, participants)| FrameKind::Batch { id: BatchId(id), participants }),
        1 => any::<u64>().prop_map(|id| FrameKind::Cancel { id: BatchId(id) }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(FrameKind, Vec<ModelOp>)>),
    Large(usize),
    /// An append that fails after this many bytes.
    Torn(usize, Vec<(FrameKind, Vec<ModelOp>)>),
    Rotate,
    Sync,
    Prepare,
    Trim,
    /// Release all but this many of the log's segments.
    Release(u64),
    Reopen,
}

fn frames() -> impl Strategy<Value = Vec<(FrameKind, Vec<ModelOp>)>> {
    prop::collection::vec((kind(), prop::collection::vec(op(), 0..6)), 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => frames().prop_map(Step::Append),
        1 => (6_000usize..20_000).prop_map(Step::Large),
        2 => (0usize..3_000, frames()).prop_map(|(kept, frames)| Step::Torn(kept, frames)),
        1 => Just(Step::Rotate),
        2 => Just(Step::Sync),
        2 => Just(Step::Prepare),
        1 => Just(Step::Trim),
        1 => (0u64..4).prop_map(Step::Release),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_appended_is_read_again(
        steps in prop::collection::vec(step(), 1..60),
        compress_above in prop::option::of(0usize..400),
    ) {
        let mem = MemStorage::default();
        let options = WalOptions { compress_above, ..options() };
        let mut log = TestLog::open(&mem.shared(), options.clone());
        let mut floor = 1;
        for step in steps {
            match step {
                Step::Append(frames) => drop(log.append(&frames).unwrap()),
                Step::Large(bytes) => {
                    let op = (b"large".to_vec(), Some(vec![7; bytes]), None);
                    log.append(&[(FrameKind::Data, vec![op])]).unwrap();
                }
                Step::Torn(kept, frames) => {
                    *mem.faults().tear_write.lock() = Some(kept);
                    let torn = log.append(&frames);
                    *mem.faults().tear_write.lock() = None;
                    prop_assert!(torn.is_err());
                }
                Step::Rotate => drop(log.writer.rotate().unwrap()),
                Step::Sync => prop_assert_eq!(log.sync.sync().unwrap(), log.sync.written()),
                Step::Prepare => log.pool.prepare().unwrap(),
                Step::Trim => log.pool.trim(0).unwrap(),
                Step::Release(keep) => {
                    floor = floor.max(log.writer.current_segment().get().saturating_sub(keep));
                    log.pool.release(SegmentNumber(floor)).unwrap();
                    log.appended.retain(|(_, end)| end.segment.get() >= floor);
                }
                Step::Reopen => {
                    let recovered = read(&mem.shared(), floor).unwrap();
                    prop_assert!(models_of(&recovered).starts_with(&log.models()));
                    log = TestLog::after(&recovered, log.appended.len(), options.clone(), 5).unwrap();
                }
            }
        }
        // A failed append may have left whole frames behind the last good one; nothing else may differ.
        let recovered = read(&mem.shared(), floor).unwrap();
        let models = models_of(&recovered);
        prop_assert!(models.starts_with(&log.models()), "read {models:?}\nappended {:?}", log.models());
        prop_assert!(recovered.highest_seqno < log.next);
    }
}

#[test]
fn one_group_is_one_write_also_when_it_begins_a_segment() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    for i in 0..200 {
        log.pool.prepare().unwrap();
        let before = mem.faults().writes.load(Ordering::Relaxed);
        let op = |n: i32| (format!("{i}.{n}").into_bytes(), Some(vec![1; 20]), None);
        log.append(&[(FrameKind::Data, vec![op(1), op(2)]), (FrameKind::Data, vec![op(3)])]).unwrap();
        assert_eq!(mem.faults().writes.load(Ordering::Relaxed), before + 1);
    }
    assert!(log.writer.current_segment().get() > 5, "it did rotate");
    assert_eq!(models_of(&read(&log.storage, 1).unwrap()), log.models());
}

#[test]
fn a_failed_append_leaves_nothing_before_or_behind_the_next_one() {
    // The failed group reaches the file whole; the one written over it is shorter, equal or longer.
    for len in [1, 20, 21, 40, 400] {
        let mem = MemStorage::default();
        let mut log = TestLog::open(&mem.shared(), options());
        log.put("before", "1").unwrap();
        *mem.faults().tear_write.lock() = Some(usize::MAX);
        let failed = |n: u8| (FrameKind::Data, vec![(vec![n; 20], Some(vec![n; 20]), None)]);
        assert_eq!(log.append(&[failed(1), failed(2), failed(3)]).unwrap_err().kind(), ErrorKind::Io);
        log.append(&[(FrameKind::Data, vec![(vec![9; 20], Some(vec![9; len]), None)])]).unwrap();
        let recovered = read(&log.storage, 1).unwrap();
        assert_eq!(models_of(&recovered), log.models(), "length {len}");
        assert!(recovered.highest_seqno >= SeqNo(4), "the failed group's numbers were handed out");
        log.put("behind", "1").unwrap();
        assert_eq!(models_of(&read(&log.storage, 1).unwrap()), log.models());
    }
}

#[test]
fn the_same_group_written_again_after_a_failure_is_told_from_the_failed_one() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    let mut group = GroupBuffer::new(1 << 20);
    for _ in 0..2 {
        group.push_op(crate::entry::ValueKind::Put, None, b"k", b"v");
        group.end_frame();
    }
    *mem.faults().tear_write.lock() = Some(usize::MAX);
    log.writer.append(&mut group, SeqNo(1)).unwrap_err();
    group.clear();
    group.push_op(crate::entry::ValueKind::Put, None, b"k", b"v");
    log.writer.append(&mut group, SeqNo(1)).unwrap();
    assert_eq!(
        read(&log.storage, 1).unwrap().frames.len(),
        1,
        "the second frame of the failed group is not the log's"
    );
}

#[test]
fn an_append_that_fails_in_a_new_segment_does_not_send_the_next_one_back() {
    for rotate in [false, true] {
        let mem = MemStorage::default();
        let mut log = TestLog::open(&mem.shared(), options());
        log.put("before", "1").unwrap();
        // With a spare at hand, the write that fails is that of the frames.
        log.pool.prepare().unwrap();
        *mem.faults().tear_write.lock() = Some(usize::MAX);
        let large = (b"large".to_vec(), Some(vec![7; 10_000]), None);
        log.append(&[(FrameKind::Data, vec![large])]).unwrap_err();
        if rotate {
            assert_eq!(log.writer.rotate().unwrap(), SegmentNumber(2), "it stays the next one");
        }
        // This would fit the old segment, but an intact start frame says already where that one ends.
        log.put("acked", "1").unwrap();
        assert_eq!(models_of(&read(&log.storage, 1).unwrap()), log.models());
    }
}

#[test]
fn a_full_disk_refuses_and_then_goes_on() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    *mem.faults().capacity.lock() = Some(100);
    let mut refused = 0;
    for i in 0..100 {
        refused += u32::from(log.put(&format!("key {i}"), "some value").is_err_and(|e| {
            assert_eq!(e.kind(), ErrorKind::NoSpace);
            true
        }));
    }
    assert!(refused > 0 && refused < 100);
    assert_eq!(log.writer.rotate().unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(mem.paths().len(), 1, "a failed preparation leaves nothing");
    *mem.faults().capacity.lock() = None;
    log.put("again", "1").unwrap();
    assert_eq!(models_of(&read(&log.storage, 1).unwrap()), log.models());
}

#[test]
fn a_failed_sync_poisons_for_ever() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    log.put("a", "1").unwrap();
    let good = log.sync.sync().unwrap();
    log.put("b", "1").unwrap();
    *mem.faults().fail_sync.lock() = true;
    assert_eq!(log.sync.sync().unwrap_err().kind(), ErrorKind::Poisoned);
    let syncs = mem.faults().syncs.load(Ordering::Relaxed);
    assert!(log.sync.is_poisoned());
    assert_eq!(log.sync.sync().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(log.put("c", "1").unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(log.writer.rotate().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(log.sync.synced(), good);
    assert_eq!(mem.faults().syncs.load(Ordering::Relaxed), syncs, "it is never tried again");
}

#[test]
fn what_is_written_while_a_sync_runs_needs_another_one() {
    let mem = MemStorage::default();
    let log = Arc::new(parking_lot::Mutex::new(TestLog::open(&mem.shared(), options())));
    let sync = Arc::clone(&log.lock().sync);
    let before = log.lock().put("before", "1").unwrap();
    let inside = Arc::clone(&log);
    let once = std::sync::Once::new();
    *mem.faults().in_sync.lock() = Some(Hook(Arc::new(move || {
        once.call_once(|| assert!(inside.lock().put("while", "1").is_ok()));
    })));
    assert_eq!(sync.sync().unwrap(), before);
    assert!(sync.written() > before);
    let syncs = mem.faults().syncs.load(Ordering::Relaxed);
    assert_eq!(sync.sync().unwrap(), sync.written());
    assert_eq!(mem.faults().syncs.load(Ordering::Relaxed), syncs + 1);
    sync.sync().unwrap();
    assert_eq!(mem.faults().syncs.load(Ordering::Relaxed), syncs + 1, "nothing to do, nothing done");
}

#[test]
fn a_sync_covers_every_unsynced_segment_oldest_first() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    log.put("a", "1").unwrap();
    assert_eq!(log.writer.rotate().unwrap(), SegmentNumber(2));
    log.put("b", "1").unwrap();
    log.writer.rotate().unwrap();
    log.put("c", "1").unwrap();
    let syncs = mem.faults().syncs.load(Ordering::Relaxed);
    log.sync.sync().unwrap();
    assert_eq!(mem.faults().syncs.load(Ordering::Relaxed), syncs + 3);
    log.put("d", "1").unwrap();
    log.sync.sync().unwrap();
    assert_eq!(mem.faults().syncs.load(Ordering::Relaxed), syncs + 4);
}

#[test]
fn nobody_who_joined_a_failing_sync_gets_ok() {
    for seed in 0..50 {
        let mem = MemStorage::default();
        let mut log = TestLog::open(&mem.shared(), options());
        log.put("a", "1").unwrap();
        *mem.faults().fail_sync.lock() = true;
        let sync = &log.sync;
        let results = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| sync.sync())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(
            results.iter().all(|r| r.as_ref().is_err_and(|e| e.kind() == ErrorKind::Poisoned)),
            "{seed}: {results:?}"
        );
    }
}

#[test]
fn a_sync_that_panics_poisons_and_leaves_nobody_waiting() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    log.put("a", "1").unwrap();
    *mem.faults().in_sync.lock() = Some(Hook(Arc::new(|| panic!("injected"))));
    let sync = Arc::clone(&log.sync);
    std::thread::spawn(move || sync.sync()).join().unwrap_err();
    assert_eq!(log.sync.sync().unwrap_err().kind(), ErrorKind::Poisoned);
}

#[test]
fn a_batch_is_unsynced_until_a_sync_passes_it() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    log.put("a", "1").unwrap();
    assert!(!log.sync.has_unsynced_batch());
    let batch = FrameKind::Batch { id: BatchId(2), participants: vec![SHARD, ShardId(4)] };
    log.append(&[(batch, vec![(b"k".to_vec(), None, None)])]).unwrap();
    log.put("b", "1").unwrap();
    assert!(log.sync.has_unsynced_batch());
    log.sync.sync().unwrap();
    assert!(!log.sync.has_unsynced_batch());
}

#[test]
fn freed_segments_are_recycled_and_their_old_frames_stay_dead() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    for round in 0..40 {
        for i in 0..10 {
            log.put(&format!("{round}.{i}"), "the same length each time").unwrap();
        }
        let next = log.writer.rotate().unwrap();
        log.pool.release(next).unwrap();
        log.pool.prepare().unwrap();
        log.appended.clear();
        log.put("one", "1").unwrap();
        let recovered = read(&log.storage, next.get()).unwrap();
        assert_eq!(models_of(&recovered), log.models(), "round {round}");
        assert_eq!(recovered.discarded, None);
        assert!(mem.paths().len() <= 3, "{:?}", mem.paths());
    }
    let header_writes_and_groups = mem.faults().writes.load(Ordering::Relaxed);
    assert!(header_writes_and_groups < 40 * 12 + 20, "recycling fills nothing with zeroes again");
}

#[test]
fn release_and_trim_remove_files() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    for _ in 0..8 {
        log.put("a", "1").unwrap();
        log.writer.rotate().unwrap();
    }
    assert_eq!(log.pool.release(SegmentNumber(10)).unwrap_err().kind(), ErrorKind::Internal);
    log.pool.release(SegmentNumber(9)).unwrap();
    assert_eq!(mem.paths().len(), 5, "the current one and four to recycle");
    log.pool.prepare().unwrap();
    assert_eq!((log.pool.spares(), mem.paths().len()), (1, 5));
    log.pool.trim(0).unwrap();
    assert_eq!(mem.paths().len(), 1);
    assert!(!log.pool.wanted(), "an idle shard wants nothing");
    while !log.pool.wanted() {
        log.put("a", "1").unwrap();
    }
}

#[test]
fn a_spare_that_gets_ready_too_late_is_not_used() {
    let mem = MemStorage::default();
    let log = Arc::new(parking_lot::Mutex::new(TestLog::open(&mem.shared(), options())));
    let pool = Arc::clone(&log.lock().pool);
    log.lock().put("a", "1").unwrap();
    let (inside, once) = (Arc::clone(&log), AtomicBool::new(true));
    // The writer needs a segment while a worker syncs the one that it prepares.
    *mem.faults().in_sync.lock() = Some(Hook(Arc::new(move || {
        if once.swap(false, Ordering::Relaxed) {
            assert_eq!(inside.lock().writer.rotate().unwrap(), SegmentNumber(3));
        }
    })));
    pool.prepare().unwrap();
    assert_eq!(pool.spares(), 0, "segment 2 got ready when the writer had gone on in 3");
    let mut log = log.lock();
    log.put("b", "1").unwrap();
    log.writer.rotate().unwrap();
    log.put("c", "1").unwrap();
    assert_eq!(log.writer.current_segment(), SegmentNumber(4));
    assert_eq!(mem.paths().len(), 3);
    assert_eq!(models_of(&read(&log.storage, 1).unwrap()), log.models());
}

#[test]
fn sequence_numbers_only_rise() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    log.put("a", "1").unwrap();
    log.next = SeqNo(1);
    assert_eq!(log.put("b", "1").unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn a_log_on_the_disk_is_read_again() {
    let temp = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::new());
    let wal = temp.path().join("wal");
    let mut appended = vec![];
    let mut next = SeqNo(1);
    for run in 0..3 {
        let recovered = read_log(&storage, &wal, SHARD, SegmentNumber(1), None).unwrap();
        assert_eq!((models_of(&recovered), &recovered.discarded), (appended.clone(), &None), "run {run}");
        recovered.sync().unwrap();
        let mut log = TestLog::after(&recovered, recovered.frames.len(), options(), run).unwrap();
        log.next = next;
        for i in 0..100 {
            log.put(&format!("key {run} {i}"), "a value of some length, for many segments").unwrap();
            if i % 10 == 0 {
                log.sync.sync().unwrap();
                log.pool.prepare().unwrap();
            }
        }
        (appended, next) = (log.models(), log.next);
    }
}
