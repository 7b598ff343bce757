//! One behaviour of the tree each: what is dropped, what is refused, what a writer knows, who sees whose change.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Waker},
};

use super::{
    CompactionPlan, FullCompaction, Strategy, TreeOptions, WriteOp,
    compaction::ReadPositions,
    edit::TableRecord,
    manifest::MANIFEST_NAME,
    testing::{
        Rng, Shard, context, delete, drain, guard, hash, open, open_all, open_in, pace, put, shard_dir, tiny,
    },
};
use crate::{
    entry::ValueKind,
    error::{Error, ErrorKind, Result},
    ids::{Level, SeqNo},
    key::KeyRange,
    storage::sim::{Errno, Fault, FaultRule, OpKind, SimStorage, SyncLoss},
    table::{Pace, ReadMode},
    waiting::block_on,
    wal::FrameKind,
};

fn key(n: usize) -> Vec<u8> {
    format!("key-{n:03}").into_bytes()
}

fn filled(sim: &SimStorage, options: &TreeOptions, rounds: usize) -> Shard {
    guard(sim);
    let mut shard = open(sim, options).unwrap();
    for round in 0..rounds {
        for n in 0..30 {
            shard.put(&key(n), format!("{round}-{n}").as_bytes()).unwrap();
        }
        shard.flush().unwrap();
        shard.compact_due().unwrap();
    }
    shard
}

fn compact_fully(shard: &Shard, oldest_snapshot: u64, now_ms: u64) {
    let bound = shard.tree.full_bound();
    for _ in 0..1000 {
        match shard.tree.plan_full_compaction(&KeyRange::all(), bound, SeqNo(oldest_snapshot), now_ms) {
            FullCompaction::Nothing => return,
            FullCompaction::Busy => panic!("nothing runs"),
            FullCompaction::Plan(plan) => {
                let output = block_on(shard.tree.run_compaction(*plan, &pace())).unwrap();
                shard.tree.install_compaction(output).unwrap();
            }
        }
    }
    panic!("a full compaction never ends");
}

#[test]
fn what_is_deleted_everywhere_leaves_nothing() {
    for strategy in [Strategy::Leveled, Strategy::SizeTiered] {
        let sim = SimStorage::new(1);
        let mut shard = filled(&sim, &tiny(strategy), 8);
        for n in 0..30 {
            shard.delete(&key(n)).unwrap();
        }
        shard.flush().unwrap();
        compact_fully(&shard, shard.seqno, 0);
        assert_eq!((shard.live_files().len(), shard.table_files(&sim).len()), (0, 0), "{strategy:?}");
        assert!(shard.all().is_empty());
    }
}

#[test]
fn a_tree_is_at_rest_when_nothing_runs_and_nothing_could() {
    let sim = SimStorage::new(1);
    let mut shard = open(&sim, &tiny(Strategy::Leveled)).unwrap();
    let is_at_rest = |shard: &Shard| shard.tree.is_at_rest(SeqNo(shard.seqno), 0);
    assert!(is_at_rest(&shard));
    for round in 0..8 {
        shard.put(&key(round), b"value").unwrap();
        shard.writer.seal().unwrap();
        assert!(!is_at_rest(&shard), "a flush is due");
        assert_eq!(shard.tree.load(0).sealed_entries, 1);
        let plan = shard.tree.plan_flush(SeqNo(shard.seqno), 0, 0).unwrap();
        assert!(!is_at_rest(&shard), "a flush runs");
        drop(plan);
        shard.flush_sealed((shard.seqno, 0)).unwrap();
    }
    let next = shard.tree.next_table();
    assert!(!is_at_rest(&shard), "a compaction is due");
    assert_eq!(shard.tree.next_table(), next, "a look takes nothing");
    let plan = shard.tree.plan_compaction(SeqNo(shard.seqno), 0).unwrap();
    assert!(!is_at_rest(&shard), "a compaction runs");
    drop(plan);
    shard.compact_due().unwrap();
    assert!(is_at_rest(&shard));
}

#[test]
fn a_snapshot_keeps_what_it_needs_until_it_is_gone() {
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &tiny(Strategy::Leveled), 3);
    let snapshot = shard.seqno;
    for n in 0..30 {
        shard.delete(&key(n)).unwrap();
    }
    shard.writer.seal().unwrap();
    shard.flush_sealed((snapshot, 0)).unwrap();
    compact_fully(&shard, snapshot, 0);
    assert_eq!(shard.get(&key(7)), None);
    let old = shard.tree.get(hash(&key(7)), &key(7), SeqNo(snapshot), ReadMode::Blocking).unwrap();
    assert_eq!(super::testing::visible(old, 0).as_deref(), Some(&b"2-7"[..]));
    assert!(shard.tree.load(0).garbage_tables > 0);
    // Gone: the tombstones and what they hide are worth a compaction of their own.
    shard.compact_due().unwrap();
    assert_eq!(shard.live_files().len(), 0);
    assert_eq!(shard.tree.load(0).garbage_tables, 0);
}

#[test]
fn leftovers_of_a_snapshot_go_from_tables_that_are_no_neighbours() {
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &tiny(Strategy::Leveled), 1);
    let mut rng = Rng::new(3);
    for n in 0..30 {
        let value: Vec<u8> = (0..25).flat_map(|_| rng.below(u64::MAX).to_le_bytes()).collect();
        shard.put(&key(n), &value).unwrap();
    }
    let snapshot = shard.seqno;
    shard.delete(&key(3)).unwrap();
    shard.delete(&key(25)).unwrap();
    shard.writer.seal().unwrap();
    while shard.flush_sealed((snapshot, 0)).unwrap() {}
    compact_fully(&shard, snapshot, 0);
    let expected = shard.all();
    assert_eq!(expected.len(), 28);
    let before = shard.live_files();
    assert_eq!(shard.tree.load(0).garbage_tables, 2, "of {before:?}");

    compact_fully(&shard, shard.seqno, 0);
    let after = shard.live_files();
    let untouched = after.iter().filter(|file| before.contains(file)).count();
    assert_eq!((shard.tree.load(0).garbage_tables, before.len() - untouched), (0, 2), "{before:?} {after:?}");
    assert!(untouched > 2);
    assert_eq!(shard.all(), expected);
}

#[test]
fn expired_entries_go_when_no_reader_is_before_their_time() {
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &tiny(Strategy::Leveled), 2);
    for n in 0..30 {
        shard.write(&[put(&key(n), b"short", Some(100))]).unwrap();
    }
    shard.flush().unwrap();
    compact_fully(&shard, shard.seqno, 99);
    assert_eq!(shard.get(&key(3)).as_deref(), Some(&b"short"[..]));
    compact_fully(&shard, shard.seqno, 100);
    assert_eq!(shard.live_files().len(), 0, "and what they hid does not come back");
}

#[test]
fn a_manifest_torn_or_flipped_at_any_byte_gives_the_right_state_or_none() {
    for seals_before_a_flush in [1, 2, 5] {
        for is_written_behind in [true, false] {
            damage_the_manifest(seals_before_a_flush, is_written_behind);
        }
    }
}

/// The last record is a flush's; then there is a log or not.
fn damage_the_manifest(seals: usize, is_written_behind: bool) {
    let options = tiny(Strategy::Leveled);
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &options, 3);
    for number in 0..seals {
        shard.put(&key(number), b"flushed last").unwrap();
        shard.writer.seal().unwrap();
    }
    shard.flush_sealed((shard.seqno, 0)).unwrap();
    if is_written_behind {
        shard.put(b"last", b"in the log").unwrap();
    }
    let mut expected = shard.all();
    drop(shard);
    // What was not synced may go with the power.
    let unsynced: Vec<_> = expected.extract_if(.., |(key, _)| key == b"last").collect();
    let is_right = |shard: &Shard| shard.all().iter().filter(|pair| !unsynced.contains(pair)).eq(&expected);
    check_damaged_manifests(&options, is_right, || sim.kill());
    for seed in 1..=12 {
        check_damaged_manifests(&options, is_right, || sim.crash(seed));
    }
}

/// Cuts the manifest of an image at every byte, and flips every one: it opens with a right state, or says what is
/// damaged.
fn check_damaged_manifests(
    options: &TreeOptions,
    is_right: impl Fn(&Shard) -> bool,
    image: impl Fn() -> SimStorage,
) {
    let path = shard_dir(0).join(MANIFEST_NAME);
    let bytes = image().read_file(&path).unwrap();
    assert!(is_right(&open(&image(), options).unwrap()), "undamaged");
    let (mut opened, mut refused) = (0, 0);
    let damaged = (0..bytes.len()).map(|cut| bytes[..cut].to_vec()).chain((0..bytes.len()).map(|flipped| {
        let mut bytes = bytes.clone();
        bytes[flipped] ^= 0x10;
        bytes
    }));
    for damaged in damaged {
        let sim = image();
        sim.write_file(&path, &damaged);
        match open(&sim, options) {
            Ok(shard) => {
                assert!(is_right(&shard), "{} of {} bytes: {:?}", damaged.len(), bytes.len(), shard.all());
                opened += 1;
            }
            Err(error) => {
                assert!(error.corruption_at().is_some(), "{error}");
                refused += 1;
            }
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(refused > bytes.len(), "{refused} of {}", 2 * bytes.len());
}

/// The names of a freed log may come back with a power loss, and the record that freed it rot: what was synced
/// meanwhile is still there, or the damage is named.
#[test]
fn what_is_synced_while_a_log_is_freed_needs_no_intact_manifest() {
    let options = tiny(Strategy::Leveled);
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..60 {
        let sim = SimStorage::new(seed);
        let mut shard = filled(&sim, &options, 1);
        shard.put(&key(1), b"flushed").unwrap();
        shard.writer.seal().unwrap();
        let manifest = shard_dir(0).join(MANIFEST_NAME);
        let before = sim.read_file(&manifest).unwrap().len();
        sim.fail(FaultRule::new(Fault::Sync(SyncLoss::NothingLost)).on(&[OpKind::SyncDir]).path("wal"));
        let plan = shard.tree.plan_flush(SeqNo(shard.seqno), 0, 0).unwrap();
        let output = block_on(shard.tree.run_flush(plan, &pace())).unwrap();
        let done = shard.tree.install_flush(output, &|| Ok(())).unwrap();
        assert!(done.release_error.is_some());
        shard.put(&key(2), b"synced").unwrap();
        shard.tree.wal().sync().unwrap();

        let image = sim.crash(seed);
        let bytes = image.read_file(&manifest).unwrap();
        assert!(bytes.len() > before);
        image.write_file(&manifest, &bytes[..before]);
        match open(&image, &options) {
            Ok(shard) => {
                assert_eq!(shard.get(&key(1)).as_deref(), Some(&b"flushed"[..]), "seed {seed}");
                assert_eq!(shard.get(&key(2)).as_deref(), Some(&b"synced"[..]), "seed {seed}");
                opened += 1;
            }
            Err(error) => {
                assert!(error.corruption_at().is_some(), "{error}");
                refused += 1;
            }
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}

#[test]
fn a_shard_with_a_lost_manifest_or_table_refuses_and_says_which() {
    let mut options = tiny(Strategy::Leveled);
    options.table_bytes = 256;
    let sim = SimStorage::new(1);
    let shard = filled(&sim, &options, 3);
    let tables = shard.live_files();
    assert!(tables.len() > 1, "there is one to lose and one to keep");
    let manifest = shard_dir(0).join(MANIFEST_NAME);
    drop(shard);
    for lost in [&manifest, &tables[0]] {
        let sim = sim.crash(0);
        sim.set_needed(|_, _| false);
        crate::storage::Storage::remove_file(&sim, lost).unwrap();
        let error = open(&sim, &options).map(drop).unwrap_err();
        assert_eq!(error.corruption_at().unwrap().path, *lost);
        let vanished = |path: &&std::path::PathBuf| sim.read_file(path).is_none();
        let vanished: Vec<_> = tables.iter().chain([&manifest]).filter(vanished).collect();
        assert_eq!(vanished, [lost], "nothing else is removed");
    }
}

#[test]
fn a_table_of_another_shard_never_gives_a_value() {
    let options = tiny(Strategy::Leveled);
    let sim = SimStorage::new(1);
    let mut shards = open_all(&context(&sim), &options, 2).unwrap();
    for shard in &mut shards {
        shard.put(b"key", b"value").unwrap();
        shard.flush().unwrap();
    }
    let (one, other) = (shards[0].live_files().remove(0), shards[1].live_files().remove(0));
    drop(shards);
    let sim = sim.kill();
    sim.write_file(&one, &sim.read_file(&other).unwrap());
    let shard = open(&sim, &options).unwrap();
    let error = shard.tree.get(hash(b"key"), b"key", SeqNo::MAX, ReadMode::Blocking).unwrap_err();
    assert_eq!(error.corruption_at().unwrap().path, one);
    assert_eq!(shard.tree.verify(&pace()).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn foreign_files_are_left_alone_and_reported() {
    let options = tiny(Strategy::Leveled);
    let sim = SimStorage::new(1);
    drop(filled(&sim, &options, 1));
    let sim = sim.kill();
    let foreign =
        ["notes.txt", "l0/12.sst", "l1/readme", "l2/0000000001.sst.bak"].map(|name| shard_dir(0).join(name));
    for path in &foreign {
        sim.write_file(path, b"mine");
    }
    let orphan = shard_dir(0).join("l0/0000000999.sst");
    sim.write_file(&orphan, b"left by an interrupted flush");
    let recovery =
        super::TreeRecovery::read(context(&sim), options.clone(), crate::ids::ShardId(0), shard_dir(0))
            .unwrap();
    let mut strangers = recovery.strangers().to_vec();
    strangers.sort();
    let mut expected = foreign.to_vec();
    expected.sort();
    assert_eq!(strangers, expected);
    let cut = super::consistent_cut(&[recovery.shard_log()]).remove(0);
    let replayed = recovery.replay(&cut).run();
    let (tree, _, summary) = recovery.settle(cut, SeqNo(100), 1).unwrap().finish(replayed).unwrap();
    assert_eq!((summary.removed_files, summary.strangers.len(), summary.writable), (1, 4, true));
    assert!(foreign.iter().all(|path| sim.read_file(path).is_some()) && sim.read_file(&orphan).is_none());
    assert!(tree.take_file_number().0 > 999, "its number is not used again");
}

#[test]
fn a_writer_knows_what_a_base_that_was_read_before_is_worth() {
    let sim = SimStorage::new(1);
    let mut shard = open(&sim, &tiny(Strategy::Leveled)).unwrap();
    let h = hash(b"k");
    shard.put(b"k", b"1").unwrap();
    let before = shard.tree.view();
    let found = shard.writer.newest_in_memory(h, b"k").unwrap();
    assert_eq!((found.value, found.seqno), (&b"1"[..], SeqNo(1)));
    shard.writer.abandon();
    shard.flush().unwrap();
    // The value is in a table now: a base read under the view from before says nothing any more.
    assert!(shard.writer.newest_in_memory(h, b"k").is_none());
    assert_ne!(shard.writer.flush_count(), before.flush_count());
    shard.writer.abandon();
    // What a turn has found stays true for it, whatever is installed meanwhile.
    shard.put(b"k", b"2").unwrap();
    shard.writer.seal().unwrap();
    assert_eq!(shard.writer.newest_in_memory(h, b"k").unwrap().value, b"2");
    let count = shard.writer.flush_count();
    assert!(shard.flush_sealed((shard.seqno, 0)).unwrap());
    assert_eq!(shard.writer.newest_in_memory(h, b"k").unwrap().value, b"2");
    assert_eq!(shard.writer.flush_count(), count);
    shard.writer.abandon();
    assert_ne!(shard.writer.flush_count(), count);
}

#[test]
fn staged_operations_are_found_first_and_the_last_of_a_key_wins() {
    let sim = SimStorage::new(1);
    let mut shard = open(&sim, &tiny(Strategy::Leveled)).unwrap();
    shard.put(b"a", b"old").unwrap();
    let writer = &mut shard.writer;
    writer.begin_frame(FrameKind::Data);
    writer.stage(&put(b"a", b"1", None));
    assert_eq!(writer.newest_in_memory(hash(b"a"), b"a").unwrap().value, b"1");
    writer.stage(&put(b"b", b"2", Some(7)));
    writer.stage(&delete(b"a"));
    writer.end_frame();
    let found = writer.newest_in_memory(hash(b"a"), b"a").unwrap();
    assert_eq!((found.kind, found.seqno), (ValueKind::Delete, SeqNo::MAX));
    assert_eq!(writer.newest_in_memory(hash(b"b"), b"b").unwrap().expires_at_ms, Some(7));
    // A key whose hash is taken for another's is told apart.
    assert!(writer.newest_in_memory(hash(b"a"), b"x").is_none());
    assert_eq!((writer.staged_ops(), writer.staged_bytes(), writer.is_empty()), (3, 5, false));
    writer.abandon();
    assert_eq!((writer.staged_ops(), writer.is_empty()), (0, true));
    assert_eq!(shard.get(b"a").as_deref(), Some(&b"old"[..]));
}

#[test]
fn a_staged_range_delete_hides_what_stands_before_it_from_the_rest_of_the_turn() {
    let sim = SimStorage::new(1);
    let mut shard = open(&sim, &tiny(Strategy::Leveled)).unwrap();
    shard.put(b"b", b"old").unwrap();
    let writer = &mut shard.writer;
    let mut newest = |ops: &[WriteOp<'_>], key: &[u8]| {
        writer.begin_frame(FrameKind::Data);
        for op in ops {
            writer.stage(op);
        }
        writer.end_frame();
        writer.newest_in_memory(hash(key), key).map(|entry| (entry.kind, entry.value.to_vec()))
    };
    let (gone, there) =
        (Some((ValueKind::Delete, vec![])), |value: &[u8]| Some((ValueKind::Put, value.to_vec())));
    assert_eq!(newest(&[put(b"c", b"1", None)], b"b"), there(b"old"));
    assert_eq!(newest(&[WriteOp::delete_range(b"b", b"d")], b"b"), gone, "a key of the memtable");
    assert_eq!(newest(&[], b"c"), gone, "a staged key");
    assert_eq!(newest(&[], b"ca"), gone, "a key that may be in tables");
    assert_eq!(newest(&[], b"d"), None, "the end is no part of the range");
    assert_eq!(newest(&[], b"a"), None);
    assert_eq!(newest(&[put(b"c", b"2", None), WriteOp::delete_range(b"d", b"")], b"c"), there(b"2"));
    assert_eq!(newest(&[], b"e"), gone, "of a range without an end");
    writer.abandon();
    assert_eq!(shard.get(b"b").as_deref(), Some(&b"old"[..]));
}

#[test]
fn nothing_is_visible_between_append_and_apply() {
    let sim = SimStorage::new(1);
    let mut shard = open(&sim, &tiny(Strategy::Leveled)).unwrap();
    shard.writer.begin_frame(FrameKind::Data);
    shard.writer.stage(&put(b"a", b"1", None));
    shard.writer.end_frame();
    shard.writer.append(SeqNo(1)).unwrap();
    shard.tree.wal().sync().unwrap();
    assert_eq!(shard.get(b"a"), None);
    shard.writer.apply();
    assert_eq!(shard.get(b"a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn an_item_larger_than_a_memtable_and_a_segment_is_written_when_it_is_alone() {
    let options = tiny(Strategy::Leveled);
    let sim = SimStorage::new(1);
    let mut shard = open(&sim, &options).unwrap();
    let big = vec![7; 100_000];
    shard.put(b"small", b"1").unwrap();
    shard.put(b"big", &big).unwrap();
    shard.put(b"small", b"2").unwrap();
    assert!(shard.tree.load(0).sealed_count >= 2);
    shard.flush().unwrap();
    shard.compact_due().unwrap();
    drop(shard);
    let shard = open(&sim.kill(), &options).unwrap();
    assert_eq!(shard.get(b"big"), Some(big));
    assert_eq!(shard.get(b"small").as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_flush_that_fails_can_be_planned_again() {
    let sim = SimStorage::new(1);
    guard(&sim);
    let mut shard = open(&sim, &tiny(Strategy::Leveled)).unwrap();
    shard.put(b"a", b"1").unwrap();
    shard.writer.seal().unwrap();
    let plan = shard.tree.plan_flush(SeqNo(9), 0, 0).unwrap();
    assert!(shard.tree.plan_flush(SeqNo(9), 0, 0).is_none(), "one at a time");
    assert!(shard.tree.load(0).flush_running && !shard.tree.load(0).flush_due);
    drop(plan);
    sim.fail(FaultRule::new(Fault::Fail(Errno::NOSPC)).on(&[OpKind::Write]).path(".sst"));
    let plan = shard.tree.plan_flush(SeqNo(9), 0, 0).unwrap();
    assert_eq!(
        block_on(shard.tree.run_flush(plan, &pace())).map(drop).unwrap_err().kind(),
        ErrorKind::NoSpace
    );
    sim.clear_faults();
    let plan = shard.tree.plan_flush(SeqNo(9), 0, 0).unwrap();
    let output = block_on(shard.tree.run_flush(plan, &pace())).unwrap();
    let refused = shard.tree.install_flush(output, &|| Err(Error::busy("another shard cannot sync")));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(shard.table_files(&sim).len(), 0, "what was not installed is gone");
    assert_eq!(shard.get(b"a").as_deref(), Some(&b"1"[..]));
    assert!(shard.flush_sealed((9, 0)).unwrap());
    assert_eq!(shard.tree.load(0).sealed_count, 0);
}

struct Stops(AtomicU64);

impl Pace for Stops {
    fn pay(&self, _bytes: u64) -> Result<()> {
        match self.0.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(Error::busy("withdrawn")),
            _ => Ok(()),
        }
    }
}

/// A compaction of all that the shard has in tables, which there is, and nothing holds.
fn full_plan(shard: &Shard) -> CompactionPlan {
    let (bound, at) = (shard.tree.full_bound(), SeqNo(shard.seqno));
    match shard.tree.plan_full_compaction(&KeyRange::all(), bound, at, 0) {
        FullCompaction::Plan(plan) => *plan,
        _ => panic!("there is work, and nothing holds its inputs"),
    }
}

#[test]
fn a_job_whose_pace_ends_leaves_nothing_behind() {
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &tiny(Strategy::Leveled), 1);
    for n in 0..30 {
        shard.put(&key(n), &[b'x'; 50]).unwrap();
    }
    shard.writer.seal().unwrap();
    shard.flush_sealed((shard.seqno, 0)).unwrap();
    let expected = shard.all();
    for payments in 0..100 {
        let plan = full_plan(&shard);
        let stops: Arc<dyn Pace> = Arc::new(Stops(AtomicU64::new(payments)));
        let Err(error) = block_on(shard.tree.run_compaction(plan, &stops)) else {
            assert!(payments > 2);
            return;
        };
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(shard.table_files(&sim), shard.live_files());
        assert_eq!(shard.all(), expected);
    }
    panic!("it never ends");
}

/// Counts the ends that it is told of.
#[derive(Default)]
struct Ends(AtomicU64);

impl Pace for Ends {
    fn pay(&self, _bytes: u64) -> Result<()> {
        Ok(())
    }

    fn begin_end(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many steps it takes, and how many of them come after the end was told of.
fn steps_of<T>(job: impl Future<Output = Result<T>>, ends: &Ends) -> (usize, usize) {
    let mut job = pin!(job);
    let mut context = Context::from_waker(Waker::noop());
    let (mut steps, mut of_end) = (1, 0);
    while job.as_mut().poll(&mut context).is_pending() {
        steps += 1;
        of_end += usize::try_from(ends.0.load(Ordering::Relaxed)).unwrap();
    }
    (steps, of_end)
}

#[test]
fn a_flush_and_a_compaction_tell_of_their_last_step() {
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &tiny(Strategy::Leveled), 1);
    for n in 0..30 {
        shard.put(&key(n), &[b'x'; 50]).unwrap();
    }
    shard.writer.seal().unwrap();
    let ends = Arc::new(Ends::default());
    let pace: Arc<dyn Pace> = Arc::<Ends>::clone(&ends);
    let plan = shard.tree.plan_flush(SeqNo(shard.seqno), 0, 0).unwrap();
    let (steps, of_end) = steps_of(shard.tree.run_flush(plan, &pace), &ends);
    assert!(steps > 4 && of_end == 1, "{steps} steps, of which {of_end}");
    shard.flush_sealed((shard.seqno, 0)).unwrap();
    let ends = Arc::new(Ends::default());
    let pace: Arc<dyn Pace> = Arc::<Ends>::clone(&ends);
    let plan = full_plan(&shard);
    let (steps, of_end) = steps_of(shard.tree.run_compaction(plan, &pace), &ends);
    assert!(steps > 3 && of_end == 1, "{steps} steps, of which {of_end}");
}

#[test]
fn a_compaction_that_is_given_up_between_two_steps_leaves_nothing() {
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &tiny(Strategy::Leveled), 1);
    for n in 0..30 {
        shard.put(&key(n), &[b'x'; 50]).unwrap();
    }
    shard.flush().unwrap();
    let expected = shard.all();
    let mut context = Context::from_waker(Waker::noop());
    for steps in 1..100 {
        let plan = full_plan(&shard);
        let pace = pace();
        let mut compaction = Box::pin(shard.tree.run_compaction(plan, &pace));
        let is_done = (0..steps).any(|_| compaction.as_mut().poll(&mut context).is_ready());
        drop(compaction);
        assert_eq!(shard.table_files(&sim), shard.live_files());
        assert_eq!(shard.all(), expected);
        if is_done {
            assert!(steps > 3, "it was done in {steps} steps");
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn a_former_life_changes_nothing_and_its_views_stay_readable() {
    let options = tiny(Strategy::Leveled);
    let sim = SimStorage::new(1);
    let mut old = filled(&sim, &options, 3);
    old.put(b"k", b"old").unwrap();
    old.writer.seal().unwrap();
    let plan = old.tree.plan_flush(SeqNo(old.seqno), 0, 0).unwrap();
    let flush = block_on(old.tree.run_flush(plan, &pace())).unwrap();
    let view = old.tree.view();
    old.tree.revoke();
    assert_eq!(old.put(b"k", b"late").unwrap_err().kind(), ErrorKind::Busy);
    let mut new = open_in(&old.context, &options).unwrap();
    assert_eq!(old.tree.install_flush(flush, &|| Ok(())).unwrap_err().kind(), ErrorKind::Busy);
    assert!(old.tree.plan_compaction(SeqNo(0), 0).is_none() && old.tree.prepare_segment().is_err());
    for n in 0..30 {
        new.delete(&key(n)).unwrap();
    }
    new.flush().unwrap();
    compact_fully(&new, new.seqno, 0);
    let scan = |view: &Arc<super::ReadView>| drain(view.scan(&KeyRange::all(), false, SeqNo::MAX, 0)).len();
    assert_eq!((scan(&view), new.all().len()), (31, 1));
    assert!(new.table_files(&sim).len() > new.live_files().len());
    drop((view, old));
    assert_eq!(
        new.table_files(&sim),
        new.live_files(),
        "the last reader of the former life took its files along"
    );
}

#[test]
fn seals_and_installs_from_two_threads_lose_none_of_each_others_changes() {
    let sim = SimStorage::new(1);
    let mut options = tiny(Strategy::Leveled);
    options.memtable_bytes = 1 << 10;
    let mut shard = open(&sim, &options).unwrap();
    let tree = Arc::clone(&shard.tree);
    let stop = AtomicBool::new(false);
    let gone = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let Some(plan) = tree.plan_flush(SeqNo(0), 0, 0) {
                    let output = block_on(tree.run_flush(plan, &pace())).unwrap();
                    tree.install_flush(output, &|| Ok(())).unwrap();
                }
                if let Some(plan) = tree.plan_compaction(SeqNo(0), 0) {
                    let output = block_on(tree.run_compaction(plan, &pace())).unwrap();
                    tree.install_compaction(output).unwrap();
                }
            }
        });
        // A reader sees every key at its newest or a newer value at any time.
        scope.spawn(|| {
            let mut rng = Rng::new(5);
            while !stop.load(Ordering::Relaxed) {
                let least = gone.load(Ordering::Acquire);
                let key = key(rng.index(40));
                let found = tree.get(hash(&key), &key, SeqNo::MAX, ReadMode::Blocking).unwrap();
                if least > 0 {
                    let value = super::testing::visible(found, 0).expect("a key that was there is there");
                    let round = u64::from_le_bytes(value[..8].try_into().unwrap());
                    assert!(round >= least, "{round} is older than {least}");
                }
            }
        });
        for round in 1..150u64 {
            for n in 0..40 {
                shard.put(&key(n), &[&round.to_le_bytes()[..], &[0; 30]].concat()).unwrap();
            }
            gone.store(round, Ordering::Release);
            while tree.load(0).sealed_count > 2 {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(tree.stats().flushes > 10);
    for (_, value) in shard.all() {
        assert_eq!(value[..8], 149u64.to_le_bytes());
    }
    assert_eq!(shard.all().len(), 40);
}

#[test]
fn parallel_compactions_do_not_get_into_each_others_way() {
    let sim = SimStorage::new(1);
    let mut options = tiny(Strategy::Leveled);
    options.table_bytes = 512;
    let mut shard = open(&sim, &options).unwrap();
    let mut rng = Rng::new(3);
    let (mut planned, mut most) = (vec![], 0);
    for _ in 0..400 {
        for _ in 0..10 {
            shard.put(&key(rng.index(400)), &[b'v'; 40]).unwrap();
        }
        shard.flush().unwrap();
        while let Some(plan) = shard.tree.plan_compaction(SeqNo(shard.seqno), 0) {
            planned.push(block_on(shard.tree.run_compaction(plan, &pace())).unwrap());
        }
        most = most.max(planned.len());
        if rng.below(3) == 0 && !planned.is_empty() {
            let output = planned.swap_remove(rng.index(planned.len()));
            shard.tree.install_compaction(output).unwrap();
        }
    }
    for output in planned {
        shard.tree.install_compaction(output).unwrap();
    }
    assert!(most > 1, "never more than one at a time");
    shard.tree.verify(&pace()).unwrap();
}

#[test]
fn a_view_that_is_made_beside_another_is_not_lost() {
    let sim = SimStorage::new(1);
    let shard = open(&sim, &tiny(Strategy::Leveled)).unwrap();
    let counted = |view: &super::ReadView| super::ReadView {
        active: Arc::clone(&view.active),
        sealed: view.sealed.clone(),
        version: Arc::clone(&view.version),
        flush_count: view.flush_count + 1,
        flushed_bytes: view.flushed_bytes,
    };
    let before = shard.tree.view().flush_count();
    std::thread::scope(|scope| {
        shard.tree.publish(|view| {
            let tree = &shard.tree;
            scope.spawn(move || tree.publish(counted));
            // Time enough for the other to publish, if it could.
            for _ in 0..1000 {
                std::thread::yield_now();
            }
            counted(view)
        });
    });
    assert_eq!(shard.tree.view().flush_count(), before + 2);
}

#[test]
fn what_everyone_sees_in_the_last_level_has_no_number_and_the_flushed_position_stays() {
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &tiny(Strategy::Leveled), 3);
    let flushed = shard.tree.stats().flushed_seqno;
    assert!(flushed.0 >= 90, "{flushed}");
    let expected = shard.all();
    let (range, bound) = (KeyRange::all(), shard.tree.full_bound());
    while let FullCompaction::Plan(plan) =
        shard.tree.plan_full_compaction(&range, bound, SeqNo(shard.seqno), 0)
    {
        let output = block_on(shard.tree.run_compaction(*plan, &pace())).unwrap();
        shard.tree.install_compaction(output).unwrap();
    }
    let view = shard.tree.view();
    let numbers: Vec<_> = view.version.tables().map(|t| (t.record().level, t.record().max_seqno)).collect();
    assert!(!numbers.is_empty() && numbers.iter().all(|n| *n == (Level::L2, SeqNo(0))), "{numbers:?}");
    assert_eq!(shard.tree.stats().flushed_seqno, flushed);
    shard.put(&key(1), b"newer").unwrap();
    let mut all = expected;
    all[1].1 = b"newer".to_vec();
    assert_eq!(shard.all(), all, "what is newer hides what has no number");
}

#[test]
fn an_open_scan_keeps_the_tables_of_its_range_and_no_others() {
    let sim = SimStorage::new(1);
    guard(&sim);
    let mut shard = open(&sim, &tiny(Strategy::Leveled)).unwrap();
    let mut write_all = |round: usize| {
        for n in 0..600 {
            let value = format!("{round}-{}", n * 7919 % 200).repeat(9);
            shard.put(&key(n), value.as_bytes()).unwrap();
        }
        shard.flush().unwrap();
        compact_fully(&shard, shard.seqno, 0);
        (shard.table_files(&sim), shard.tree.scan(&KeyRange::prefix("key-05"), false, SeqNo(shard.seqno), 0))
    };
    let (old, mut scan) = write_all(0);
    assert!(old.len() > 10, "{} tables", old.len());
    let first = scan.next_batch(1).unwrap();
    assert_eq!(first.pair(0).unwrap().0, key(50));
    let (both, _) = write_all(1);
    let kept = old.iter().filter(|file| both.contains(file)).count();
    assert!((1..=3).contains(&kept), "{kept} of {} old tables are kept for one range", old.len());
    let rest = drain(scan);
    assert_eq!(rest.len(), 9);
    assert!(rest.iter().all(|(_, value)| value.starts_with(b"0-")));
    assert_eq!(shard.table_files(&sim), shard.live_files());
}

#[test]
fn what_a_range_delete_hides_goes_and_it_with_it() {
    for strategy in [Strategy::Leveled, Strategy::SizeTiered] {
        let sim = SimStorage::new(1);
        let mut shard = filled(&sim, &tiny(strategy), 8);
        let (start, end) = (key(5), key(25));
        shard.write(&[WriteOp::delete_range(&start, &end)]).unwrap();
        let held = shard.seqno - 1;
        shard.put(&key(7), b"anew").unwrap();
        shard.flush().unwrap();
        // While somebody reads before it, all of it stays.
        let positions = || ReadPositions::new([SeqNo(held)], SeqNo(shard.seqno));
        for _ in 0..20 {
            let bound = shard.tree.full_bound();
            match shard.tree.plan_full_compaction(&KeyRange::all(), bound, positions(), 0) {
                FullCompaction::Plan(plan) => {
                    let output = block_on(shard.tree.run_compaction(*plan, &pace())).unwrap();
                    shard.tree.install_compaction(output).unwrap();
                }
                _ => break,
            }
        }
        let seen = |at: u64| drain(shard.tree.scan(&KeyRange::all(), true, SeqNo(at), 0)).len();
        assert_eq!((seen(held), seen(shard.seqno)), (30, 11), "{strategy:?}");
        compact_fully(&shard, shard.seqno, 0);
        let view = shard.tree.view();
        let records: Vec<_> = view.version().tables().map(|table| Arc::clone(table.record())).collect();
        let sum = |of: fn(&TableRecord) -> u64| records.iter().map(|record| of(record)).sum::<u64>();
        assert_eq!((sum(|table| table.entries), sum(|table| table.range_deletes)), (11, 0), "{strategy:?}");
        assert_eq!(seen(shard.seqno), 11);
        shard.tree.verify(&pace()).unwrap();
    }
}

#[test]
fn few_keys_deleted_by_many_range_deletes_leave_nothing_at_rest() {
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &tiny(Strategy::Leveled), 8);
    compact_fully(&shard, shard.seqno, 0);
    // None of them covers a whole table.
    for n in 0..29 {
        let (start, end) = (key(n), [&key(n)[..], b"~"].concat());
        shard.write(&[WriteOp::delete_range(&start, &end)]).unwrap();
    }
    shard.flush().unwrap();
    shard.compact_due().unwrap();
    assert_eq!(shard.all().len(), 1);
    let entries: u64 = shard.tree.stats().levels.iter().map(|level| level.entries).sum();
    assert_eq!(entries, 1, "what was deleted stays");
}

#[test]
fn who_reads_a_view_last_frees_nothing() {
    let sim = SimStorage::new(1);
    let mut shard = filled(&sim, &tiny(Strategy::Leveled), 2);
    let view = shard.tree.view();
    let (read, memtable) = (shard.live_files(), Arc::downgrade(&view.active));
    for round in 0..8 {
        (0..30).for_each(|n| shard.put(&key(n), format!("again {round}-{n}").as_bytes()).unwrap());
        shard.flush().unwrap();
        shard.compact_due().unwrap();
    }
    let is_there = |path: &std::path::PathBuf| sim.read_file(path).is_some();
    let live = shard.live_files();
    assert!(
        !read.iter().any(|path| live.contains(path)),
        "the tables that are read were compacted: {read:?}"
    );
    shard.tree.free_unread_views();
    assert!(!shard.tree.has_unread_views());
    drop(view);
    assert!(read.iter().all(is_there) && memtable.strong_count() > 0, "the reader has freed it");
    assert!(shard.tree.has_unread_views());
    shard.tree.free_unread_views();
    assert!(!read.iter().any(is_there) && memtable.strong_count() == 0);
    assert!(!shard.tree.has_unread_views());
}
