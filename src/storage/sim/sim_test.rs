//! The rules of the simulated file system, one by one. Where a rule allows several outcomes, a test runs
//! over many seeds, checks each image, and checks that every allowed outcome was seen.

use std::{collections::BTreeSet, io};

use super::*;
use crate::storage::{OpenMode, Storage, StorageFile, read_exact_at, write_all_at};

const SEEDS: u64 = 400;
const SECTOR: usize = content::SECTOR_BYTES;
const PAGE: usize = content::PAGE_BYTES;

fn create(sim: &SimStorage, path: &str) -> Arc<dyn StorageFile> {
    sim.open(Path::new(path), OpenMode::CreateNew).unwrap()
}

fn open(sim: &SimStorage, path: &str) -> Arc<dyn StorageFile> {
    sim.open(Path::new(path), OpenMode::ReadWrite).unwrap()
}

fn sync_dir(sim: &SimStorage, path: &str) {
    sim.sync_dir(Path::new(path)).unwrap();
}

fn names(sim: &SimStorage) -> BTreeSet<String> {
    sim.paths().iter().map(|path| path.to_str().unwrap().to_owned()).collect()
}

/// What is seen over many power losses of the same state.
fn images<T: Ord>(sim: &SimStorage, look: impl Fn(&SimStorage) -> T) -> BTreeSet<T> {
    (0..SEEDS).map(|seed| look(&sim.crash(seed))).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

// Rule 1

#[test]
fn live_bytes_are_seen_and_durable_ones_survive() {
    let sim = SimStorage::new(1);
    sim.create_dir_all(Path::new("/d")).unwrap();
    let file = create(&sim, "/d/f");
    write_all_at(&*file, b"durable", 0).unwrap();
    file.sync_data().unwrap();
    sync_dir(&sim, "/d");
    sync_dir(&sim, "/");
    write_all_at(&*file, b"live", 7).unwrap();
    create(&sim, "/d/g");
    assert_eq!(sim.read_file("/d/f").unwrap(), b"durablelive");
    assert_eq!(names(&sim), set(["/d/f", "/d/g"]));
    for seed in 0..SEEDS {
        let image = sim.crash(seed);
        assert!(image.read_file("/d/f").unwrap().starts_with(b"durable"), "seed {seed}");
    }
    assert_eq!(images(&sim, |image| names(image).len()), BTreeSet::from([1, 2]));
}

// Rule 2

#[test]
fn synced_content_without_a_synced_name_may_be_gone() {
    let sim = SimStorage::new(1);
    let file = create(&sim, "/f");
    write_all_at(&*file, b"content", 0).unwrap();
    file.sync_data().unwrap();
    let expected = BTreeSet::from([None, Some(b"content".to_vec())]);
    assert_eq!(images(&sim, |image| image.read_file("/f")), expected);

    let sim = sim.kill();
    sync_dir(&sim, "/");
    assert_eq!(images(&sim, |image| image.read_file("/f")), BTreeSet::from([Some(b"content".to_vec())]));
}

#[test]
fn a_synced_name_in_a_directory_whose_own_name_is_not_may_be_gone() {
    let sim = SimStorage::new(1);
    sim.create_dir_all(Path::new("/a/b")).unwrap();
    create(&sim, "/a/b/f");
    sync_dir(&sim, "/a/b");
    sync_dir(&sim, "/");
    assert_eq!(images(&sim, names), BTreeSet::from([set([]), set(["/a/b/f"])]));
}

// Rule 3

#[test]
fn a_rename_is_whole_or_absent_and_its_target_may_be_torn() {
    let sim = SimStorage::new(1);
    sim.write_file("/d/cur", b"old");
    let file = create(&sim, "/d/new");
    sync_dir(&sim, "/d");
    write_all_at(&*file, b"new", 0).unwrap();
    sim.rename(Path::new("/d/new"), Path::new("/d/cur")).unwrap();
    assert_eq!(sim.read_file("/d/cur").unwrap(), b"new");
    let mut torn = 0;
    for seed in 0..SEEDS {
        let image = sim.crash(seed);
        let cur = image.read_file("/d/cur").unwrap();
        if names(&image).contains("/d/new") {
            assert_eq!(cur, b"old", "seed {seed}: not renamed");
        } else {
            assert!(cur.len() <= 3 && cur != b"old", "seed {seed}: renamed");
            torn += u32::from(cur != b"new");
        }
    }
    assert!(torn > 0, "never torn");
    assert_eq!(images(&sim, names).len(), 2);

    let sim = sim.kill();
    open(&sim, "/d/cur").sync_data().unwrap();
    sync_dir(&sim, "/d");
    assert_eq!(images(&sim, |image| image.read_file("/d/cur").unwrap()), BTreeSet::from([b"new".to_vec()]));
    assert_eq!(images(&sim, names), BTreeSet::from([set(["/d/cur"])]));
}

#[test]
fn a_file_renamed_again_and_again_has_one_name_after_every_crash() {
    let sim = SimStorage::new(1);
    sim.write_file("/a/x", b"content");
    sim.create_dir_all(Path::new("/b")).unwrap();
    sync_dir(&sim, "/");
    for (from, to) in [("/a/x", "/a/y"), ("/a/y", "/b/x"), ("/b/x", "/b/z")] {
        sim.rename(Path::new(from), Path::new(to)).unwrap();
    }
    let found = images(&sim, names);
    assert_eq!(found, BTreeSet::from([set(["/a/x"]), set(["/a/y"]), set(["/b/x"]), set(["/b/z"])]));
    let sim = sim.kill();
    sync_dir(&sim, "/a");
    assert!(!images(&sim, names).contains(&set(["/a/x"])), "the first rename is synced");
    let sim = sim.kill();
    sync_dir(&sim, "/b");
    assert_eq!(images(&sim, names), BTreeSet::from([set(["/b/z"])]));
}

#[test]
fn a_sync_of_the_source_directory_does_not_persist_a_rename() {
    let sim = SimStorage::new(1);
    sim.write_file("/a/x", b"");
    sim.write_file("/b/y", b"");
    sim.rename(Path::new("/a/x"), Path::new("/b/x")).unwrap();
    sync_dir(&sim, "/a");
    assert_eq!(images(&sim, names), BTreeSet::from([set(["/a/x", "/b/y"]), set(["/b/x", "/b/y"])]));
}

// Rule 4

#[test]
fn a_removal_may_be_undone_until_the_directory_is_synced() {
    let sim = SimStorage::new(1);
    sim.write_file("/f", b"content");
    let file = open(&sim, "/f");
    sim.remove_file(Path::new("/f")).unwrap();
    let mut buf = [0; 7];
    read_exact_at(&*file, &mut buf, 0).unwrap();
    assert_eq!(&buf, b"content", "open files stay readable");
    assert_eq!(sim.open(Path::new("/f"), OpenMode::Read).unwrap_err().kind(), io::ErrorKind::NotFound);
    let expected = BTreeSet::from([None, Some(b"content".to_vec())]);
    assert_eq!(images(&sim, |image| image.read_file("/f")), expected);
    let sim = sim.kill();
    sync_dir(&sim, "/");
    assert_eq!(images(&sim, |image| image.read_file("/f")), BTreeSet::from([None]));
}

#[test]
fn a_name_used_anew_means_the_old_file_the_new_one_or_none() {
    let sim = SimStorage::new(1);
    sim.write_file("/f", b"old");
    sim.remove_file(Path::new("/f")).unwrap();
    let file = create(&sim, "/f");
    write_all_at(&*file, b"new", 0).unwrap();
    file.sync_data().unwrap();
    let expected = BTreeSet::from([None, Some(b"new".to_vec()), Some(b"old".to_vec())]);
    assert_eq!(images(&sim, |image| image.read_file("/f")), expected);
    let sim = sim.kill();
    sync_dir(&sim, "/");
    assert_eq!(images(&sim, |image| image.read_file("/f")), BTreeSet::from([Some(b"new".to_vec())]));
}

// Rule 5

#[test]
fn each_unsynced_sector_is_old_new_or_zero() {
    let sim = SimStorage::new(1);
    sim.write_file("/f", &vec![b'o'; 2 * PAGE]);
    write_all_at(&*open(&sim, "/f"), &vec![b'n'; 2 * PAGE], 0).unwrap();
    let (mut small, mut large) = (0, 0);
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let bytes = sim.crash(seed).read_file("/f").unwrap();
        assert_eq!(bytes.len(), 2 * PAGE);
        let sectors: Vec<u8> = bytes
            .chunks(SECTOR)
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}: half a sector");
                sector[0]
            })
            .collect();
        seen.extend(sectors.iter().copied());
        let is_torn_page = |page: &[u8]| page.iter().any(|sector| *sector != page[0]);
        if sectors.chunks(PAGE / SECTOR).any(is_torn_page) {
            small += 1;
        } else if sectors[0] != sectors[PAGE / SECTOR] {
            large += 1;
        }
    }
    assert_eq!(seen, BTreeSet::from([0, b'n', b'o']));
    assert!(small > 20 && large > 20, "torn within pages {small}, between pages {large}");
}

#[test]
fn synced_bytes_survive_in_a_sector_that_is_written_on() {
    let sim = SimStorage::new(1);
    sim.write_file("/f", &[b'o'; 700]);
    let file = open(&sim, "/f");
    write_all_at(&*file, &[b'n'; 5_000], 700).unwrap();
    for seed in 0..SEEDS {
        let bytes = sim.crash(seed).read_file("/f").unwrap();
        assert!(bytes.len() >= 700 && bytes[..700].iter().all(|&byte| byte == b'o'), "seed {seed}");
        assert!(bytes[700..].iter().all(|&byte| byte == b'n' || byte == 0), "seed {seed}");
    }
}

#[test]
fn the_length_lies_between_durable_and_live() {
    for (durable, live) in [(1_000, 9_000), (9_000, 1_000), (0, 600)] {
        let sim = SimStorage::new(1);
        sim.write_file("/f", &vec![b'o'; durable]);
        let file = open(&sim, "/f");
        if live < durable {
            file.truncate(live as u64).unwrap();
        } else {
            write_all_at(&*file, &vec![b'n'; live - durable], durable as u64).unwrap();
        }
        let lengths = images(&sim, |image| image.read_file("/f").unwrap().len());
        assert_eq!(lengths.first(), Some(&durable.min(live)));
        assert_eq!(lengths.last(), Some(&durable.max(live)));
        assert!(lengths.len() > 20, "{} lengths", lengths.len());
        let sim = sim.kill();
        open(&sim, "/f").sync_data().unwrap();
        assert_eq!(images(&sim, |image| image.read_file("/f").unwrap().len()), BTreeSet::from([live]));
    }
}

#[test]
fn a_file_cut_and_grown_again_reads_as_zeroes() {
    let sim = SimStorage::new(1);
    sim.write_file("/f", &[b'o'; 10_000]);
    let file = open(&sim, "/f");
    file.truncate(100).unwrap();
    file.allocate(10_000).unwrap();
    let expected = [vec![b'o'; 100], vec![0; 9_900]].concat();
    assert_eq!(sim.read_file("/f").unwrap(), expected);
    file.sync_data().unwrap();
    assert_eq!(images(&sim, |image| image.read_file("/f").unwrap()), BTreeSet::from([expected]));
}

#[test]
fn any_subset_of_directory_changes_survives() {
    let sim = SimStorage::new(1);
    sim.write_file("/r", b"");
    sim.write_file("/from", b"");
    create(&sim, "/c");
    sim.remove_file(Path::new("/r")).unwrap();
    sim.rename(Path::new("/from"), Path::new("/to")).unwrap();
    let found = images(&sim, names);
    assert_eq!(found.len(), 8, "{found:?}");
}

// Rule 6

#[test]
fn a_write_in_flight_is_full_partial_or_absent() {
    let mut lengths = BTreeSet::new();
    for seed in 0..200 {
        let sim = SimStorage::new(seed);
        let file = create(&sim, "/f");
        sim.set_crash_point(CrashPoint::AtOperation(2));
        write_all_at(&*file, b"0123456789", 0).unwrap();
        assert!(!sim.is_dead());
        assert!(file.write_at(b"abcdefghij", 10).is_err());
        assert!(sim.is_dead());
        assert!(file.sync_data().is_err() && sim.read_dir(Path::new("/")).is_err(), "everything fails now");
        let bytes = sim.kill().read_file("/f").unwrap();
        assert!(b"0123456789abcdefghij".starts_with(&bytes[..]), "seed {seed}");
        lengths.insert(bytes.len());
    }
    assert_eq!(lengths, (10..=20).collect());
}

#[test]
fn a_sync_in_flight_persists_all_a_part_or_nothing() {
    let mut counts = BTreeSet::new();
    for seed in 0..200 {
        let sim = SimStorage::new(seed);
        sim.write_file("/f", &vec![b'o'; 3 * PAGE]);
        let file = open(&sim, "/f");
        sim.set_crash_point(CrashPoint::AtSync(1));
        sync_dir(&sim, "/");
        write_all_at(&*file, &vec![b'n'; 3 * PAGE], 0).unwrap();
        assert!(file.sync_data().is_err() && sim.is_dead());
        assert_eq!(sim.kill().read_file("/f").unwrap(), vec![b'n'; 3 * PAGE], "still in the page cache");
        let durable = sim.world.lock().volume.durable_file(Path::new("/f")).unwrap();
        counts.insert(durable.chunks(PAGE).filter(|page| page[0] == b'n').count());
    }
    assert_eq!(counts, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn a_change_of_names_in_flight_is_there_or_not() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let sim = SimStorage::new(seed);
        sim.write_file("/f", b"");
        sim.set_crash_point(CrashPoint::AtChange(0));
        open(&sim, "/f").len().unwrap();
        assert!(sim.rename(Path::new("/f"), Path::new("/g")).is_err());
        seen.insert(names(&sim.kill()));
    }
    assert_eq!(seen, BTreeSet::from([set(["/f"]), set(["/g"])]));
}

#[test]
fn a_kill_loses_nothing_and_makes_nothing_durable() {
    let sim = SimStorage::new(1);
    let file = create(&sim, "/f");
    let removed = create(&sim, "/g");
    sim.remove_file(Path::new("/g")).unwrap();
    write_all_at(&*file, b"content", 0).unwrap();
    let _lock = sim.try_lock(Path::new("/LOCK")).unwrap();
    let killed = sim.kill();
    assert!(file.len().is_err() && removed.len().is_err(), "the old process is gone");
    assert_eq!(killed.read_file("/f").unwrap(), b"content");
    assert_eq!(names(&killed), set(["/LOCK", "/f"]));
    let _again = killed.try_lock(Path::new("/LOCK")).unwrap();
    assert_eq!(killed.operations(), 1, "counted anew");
    assert!(images(&killed, |image| image.read_file("/f")).contains(&None));
}

// Rule 7

/// A file "/f" with a durable page of `o` and a page of `n` in its place whose sync failed.
fn failed_sync(loss: SyncLoss) -> (SimStorage, Arc<dyn StorageFile>) {
    let sim = SimStorage::new(1);
    sim.write_file("/f", &[b'o'; PAGE]);
    let file = open(&sim, "/f");
    write_all_at(&*file, &[b'n'; PAGE], 0).unwrap();
    sim.fail(FaultRule::new(Fault::Sync(loss)).on(&[OpKind::Sync]).nth(0));
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    (sim, file)
}

#[test]
fn pages_marked_clean_are_seen_but_never_reach_the_disk_by_another_sync() {
    let (sim, file) = failed_sync(SyncLoss::PagesMarkedClean);
    assert_eq!(sim.read_file("/f").unwrap(), [b'n'; PAGE]);
    file.sync_data().unwrap();
    let old = BTreeSet::from([vec![b'o'; PAGE]]);
    assert_eq!(images(&sim, |image| image.read_file("/f").unwrap()), old);

    let (sim, file) = failed_sync(SyncLoss::PagesMarkedClean);
    write_all_at(&*file, b"x", 5).unwrap();
    file.sync_data().unwrap();
    let page = sim.crash(0).read_file("/f").unwrap();
    assert_eq!((page[0], page[5]), (b'n', b'x'), "a page written to again reaches the disk whole");

    let sim = SimStorage::new(1);
    sim.write_file("/f", b"");
    let file = open(&sim, "/f");
    file.write_at(b"grown", 0).unwrap();
    sim.fail(FaultRule::new(Fault::Sync(SyncLoss::PagesMarkedClean)));
    assert!(file.sync_data().is_err());
    sim.clear_faults();
    file.sync_data().unwrap();
    assert_eq!(images(&sim, |image| image.read_file("/f").unwrap()), BTreeSet::from([vec![]]));
}

#[test]
fn dropped_pages_show_the_durable_bytes_again() {
    let (sim, file) = failed_sync(SyncLoss::PagesDropped);
    assert_eq!(sim.read_file("/f").unwrap(), [b'o'; PAGE]);
    file.sync_data().unwrap();
    let old = BTreeSet::from([vec![b'o'; PAGE]]);
    assert_eq!(images(&sim, |image| image.read_file("/f").unwrap()), old);
}

#[test]
fn a_failed_sync_that_lost_nothing_can_be_repeated() {
    let (sim, file) = failed_sync(SyncLoss::NothingLost);
    assert_eq!(sim.read_file("/f").unwrap(), [b'n'; PAGE]);
    assert_eq!(images(&sim, |image| image.read_file("/f").unwrap()[0]), BTreeSet::from([0, b'n', b'o']));
    drop(file);
    let sim = sim.kill();
    open(&sim, "/f").sync_data().unwrap();
    let new = BTreeSet::from([vec![b'n'; PAGE]]);
    assert_eq!(images(&sim, |image| image.read_file("/f").unwrap()), new);
}

#[test]
fn a_directory_whose_sync_failed_keeps_its_changes_from_the_disk() {
    let sim = SimStorage::new(1);
    create(&sim, "/f");
    sim.fail(FaultRule::new(Fault::Sync(SyncLoss::PagesMarkedClean)).on(&[OpKind::SyncDir]).nth(0));
    assert!(sim.sync_dir(Path::new("/")).is_err());
    sync_dir(&sim, "/");
    assert_eq!(names(&sim), set(["/f"]));
    assert_eq!(images(&sim, names), BTreeSet::from([set([])]));
}

// Rule 8

#[test]
fn writes_fail_short_or_in_part() {
    let errno = |result: io::Result<usize>| result.unwrap_err().raw_os_error().unwrap();
    let sim = SimStorage::new(7);
    let file = create(&sim, "/f");
    sim.fail(FaultRule::new(Fault::Fail(Errno::IO)).on(&[OpKind::Write]).nth(0));
    sim.fail(FaultRule::new(Fault::Fail(Errno::INTR)).on(&[OpKind::Write]).nth(1));
    sim.fail(FaultRule::new(Fault::Short).on(&[OpKind::Write]).nth(2));
    assert_eq!(errno(file.write_at(b"0123456789", 0)), Errno::IO.raw_os_error());
    assert_eq!(errno(file.write_at(b"0123456789", 0)), Errno::INTR.raw_os_error());
    assert_eq!(file.len().unwrap(), 0);
    let n = file.write_at(b"0123456789", 0).unwrap();
    assert!((1..10).contains(&n), "{n}");
    assert_eq!(file.len().unwrap(), n as u64);
    assert_eq!(sim.faults_fired(), 3);

    let mut left = BTreeSet::new();
    for seed in 0..200 {
        let sim = SimStorage::new(seed);
        let file = create(&sim, "/f");
        sim.fail(FaultRule::new(Fault::Partial(Errno::NOSPC)).path("f"));
        let error = file.write_at(b"0123456789", 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let bytes = sim.read_file("/f").unwrap();
        assert!(b"0123456789".starts_with(&bytes[..]));
        left.insert(bytes.len());
    }
    assert_eq!(left, (0..=10).collect());
}

#[test]
fn a_full_disk_takes_what_fits_then_nothing_until_there_is_space() {
    let sim = SimStorage::new(1);
    sim.write_file("/a", &[1; 60]);
    sim.set_capacity(Some(100));
    let file = create(&sim, "/b");
    assert_eq!(file.write_at(&[2; 50], 0).unwrap(), 40);
    assert_eq!(file.write_at(&[2; 10], 40).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.allocate(41).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.write_at(&[3; 40], 0).unwrap(), 40, "in place it needs no space");
    assert_eq!(sim.used_bytes(), 100);
    let open_handle = open(&sim, "/a");
    sim.remove_file(Path::new("/a")).unwrap();
    assert_eq!(sim.used_bytes(), 100, "still open");
    drop(open_handle);
    assert_eq!(sim.used_bytes(), 40);
    file.allocate(100).unwrap();
    let replaced = create(&sim, "/c");
    assert!(replaced.write_at(b"x", 0).is_err());
    drop(file);
    sim.rename(Path::new("/c"), Path::new("/b")).unwrap();
    assert_eq!(sim.used_bytes(), 0, "the replaced file is gone");
    assert_eq!(replaced.write_at(b"x", 0).unwrap(), 1);
}

#[test]
fn names_and_locks_fail_with_the_errors_of_a_real_system() {
    for errno in [Errno::MFILE, Errno::ROFS, Errno::ACCESS] {
        let sim = SimStorage::new(1);
        sim.write_file("/f", b"content");
        let before = sim.content_hash();
        let path = Path::new("/f");
        let file = open(&sim, "/f");
        sim.fail(FaultRule::new(Fault::Fail(errno)));
        let failures = [
            sim.open(path, OpenMode::Read).err(),
            sim.open(Path::new("/g"), OpenMode::CreateNew).err(),
            sim.rename(path, Path::new("/g")).err(),
            sim.remove_file(path).err(),
            sim.create_dir_all(Path::new("/d")).err(),
            sim.read_dir(Path::new("/")).err(),
            sim.sync_dir(Path::new("/")).err(),
            sim.try_lock(path).err(),
            file.len().err(),
            file.truncate(0).err(),
            file.allocate(100).err(),
        ];
        for failure in failures {
            assert_eq!(failure.unwrap().raw_os_error(), Some(errno.raw_os_error()));
        }
        assert_eq!(sim.content_hash(), before, "nothing was done");
        sim.clear_faults();
        sim.try_lock(path).unwrap();
    }
}

#[test]
fn reads_fail_short_or_flipped() {
    let sim = SimStorage::new(3);
    let data: Vec<u8> = (0..=255).collect();
    sim.write_file("/f", &data);
    let file = open(&sim, "/f");
    let read = || {
        let mut buf = [0; 256];
        file.read_at(&mut buf, 0).map(|n| buf[..n].to_vec())
    };
    let flipped_bits =
        |bytes: &[u8]| -> u32 { bytes.iter().zip(&data).map(|(a, b)| (a ^ b).count_ones()).sum() };
    for (nth, fault) in [Fault::Fail(Errno::IO), Fault::Short, Fault::FlipOnce].into_iter().enumerate() {
        sim.fail(FaultRule::new(fault).on(&[OpKind::Read]).nth(nth as u64));
    }
    assert!(read().is_err());
    let short = read().unwrap();
    assert!(!short.is_empty() && short.len() < 256 && data.starts_with(&short));
    assert_eq!(flipped_bits(&read().unwrap()), 1);
    assert_eq!(read().unwrap(), data, "the flip has passed");

    sim.fail(FaultRule::new(Fault::FlipForever).on(&[OpKind::Read]).nth(0));
    let flipped = read().unwrap();
    assert_eq!(flipped_bits(&flipped), 1);
    assert_eq!(read().unwrap(), flipped, "the flip stays");
    assert_eq!(sim.crash(0).read_file("/f").unwrap(), flipped);
}

#[test]
fn a_read_that_must_not_wait_is_whole_short_or_refused_but_never_wrong() {
    let sim = SimStorage::new(1);
    let data: Vec<u8> = (0..3 * PAGE).map(|i| u8::try_from(i % 251).unwrap()).collect();
    sim.write_file("/f", &data);
    let file = open(&sim, "/f");
    let mut seen = BTreeSet::new();
    for _ in 0..300 {
        let mut buf = vec![0; 2 * PAGE];
        seen.insert(match file.read_at_nowait(&mut buf, 100) {
            Ok(n) => {
                assert_eq!(buf[..n], data[100..100 + n]);
                n.to_string()
            }
            Err(error) => error.kind().to_string(),
        });
    }
    let whole = (2 * PAGE).to_string();
    let expected = ["0".to_owned(), PAGE.to_string(), whole.clone(), io::ErrorKind::WouldBlock.to_string()];
    assert_eq!(seen, expected.into());
    for (permille, is_cached) in [(1_000, true), (0, false)] {
        sim.set_cached_permille(permille);
        let read = file.read_at_nowait(&mut [0; 100], 0);
        assert_eq!(matches!(read, Ok(100)), is_cached);
    }
}

#[test]
fn a_lock_is_held_once_and_released_on_drop_and_by_a_crash() {
    let sim = SimStorage::new(1);
    let path = Path::new("/LOCK");
    let held = sim.try_lock(path).unwrap();
    assert_eq!(sim.try_lock(path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let _other = sim.try_lock(Path::new("/OTHER")).unwrap();
    drop(held);
    let _held = sim.try_lock(path).unwrap();
    let after = sim.crash(1);
    let _again = after.try_lock(path).unwrap();
    assert!(after.try_lock(path).is_err());
}

#[test]
fn a_shared_lock_is_shared_by_many_and_changes_nothing() {
    let sim = SimStorage::new(1);
    let path = Path::new("/LOCK");
    assert_eq!(sim.try_lock_shared(path).unwrap_err().kind(), io::ErrorKind::NotFound);
    let alone = sim.try_lock(path).unwrap();
    assert_eq!(sim.try_lock_shared(path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(alone);
    let changes = sim.changes();
    let (first, second) = (sim.try_lock_shared(path).unwrap(), sim.try_lock_shared(path).unwrap());
    drop(first);
    assert_eq!(sim.changes(), changes);
    assert_eq!(sim.try_lock(path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let third = sim.try_lock_shared(path).unwrap();
    drop((second, third));
    let _alone = sim.try_lock(path).unwrap();
    sim.fail(FaultRule::new(Fault::Fail(Errno::IO)));
    assert_eq!(sim.try_lock_shared(path).unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
}

#[test]
fn threads_share_a_file_system() {
    let sim = SimStorage::new(1);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let sim = sim.clone();
            scope.spawn(move || {
                let file = create(&sim, &format!("/{thread}"));
                for i in 0..200 {
                    write_all_at(&*file, &[thread; 100], i * 100).unwrap();
                    file.sync_data().unwrap();
                }
                sync_dir(&sim, "/");
            });
        }
    });
    assert_eq!((sim.operations(), sim.syncs()), (4 * 402, 4 * 201));
    let image = sim.crash(1);
    for thread in 0..4_u8 {
        assert_eq!(image.read_file(format!("/{thread}")).unwrap(), vec![thread; 20_000]);
    }
}

// Rule 9

/// A few operations of every kind.
fn script(sim: &SimStorage) -> io::Result<()> {
    let path = |name: &str| Path::new("/d").join(name);
    sim.create_dir_all(Path::new("/d"))?;
    let _lock = sim.try_lock(&path("LOCK"))?;
    let file = sim.open(&path("new"), OpenMode::CreateNew)?;
    file.allocate(10_000)?;
    write_all_at(&*file, &[7; 9_000], 500)?;
    file.truncate(9_800)?;
    file.sync_data()?;
    sim.rename(&path("new"), &path("cur"))?;
    sim.sync_dir(Path::new("/d"))?;
    sim.sync_dir(Path::new("/"))?;
    let mut buf = [0; 100];
    let _ = sim.open(&path("cur"), OpenMode::Read)?.read_at_nowait(&mut buf, 0);
    file.read_at(&mut buf, 450)?;
    sim.open(&path("cur"), OpenMode::ReadWrite)?.write_at(&[8; 5_000], 3)?;
    file.len()?;
    sim.read_dir(Path::new("/d"))?;
    sim.remove_file(&path("cur"))
}

#[test]
fn every_operation_is_numbered_traced_and_a_crash_and_fault_point() {
    let sim = SimStorage::new(5);
    script(&sim).unwrap();
    let (operations, changes, syncs) = (sim.operations(), sim.changes(), sim.syncs());
    let trace = sim.trace();
    assert!(trace.iter().map(|entry| entry.number).eq(0..operations));
    assert_eq!((operations, changes, syncs), (18, 12, 3));
    assert_eq!(trace[4].to_string(), "4 Write /d/new 500+9000: 9000");
    for number in 0..operations {
        let sim = SimStorage::new(5);
        sim.fail(FaultRule::new(Fault::Fail(Errno::IO)).at_operation(number));
        let is_tolerated = trace[usize::try_from(number).unwrap()].kind == OpKind::ReadNowait;
        assert_eq!(script(&sim).is_ok(), is_tolerated, "operation {number}");
        assert_eq!(sim.faults_fired(), 1);
        if !is_tolerated {
            assert_eq!(sim.operations(), number + 1);
            assert_eq!(sim.trace().last().unwrap().outcome, Err(io::Error::from(Errno::IO).kind()));
        }
    }
    let points = (0..operations).map(CrashPoint::AtOperation);
    let points = points.chain((0..changes).map(CrashPoint::AtChange));
    for point in points.chain((0..syncs).map(CrashPoint::AtSync)) {
        let sim = SimStorage::new(5);
        sim.set_crash_point(point);
        assert!(script(&sim).is_err() && sim.is_dead(), "{point:?}");
        let _ = sim.crash(1);
    }
}

#[test]
fn faults_can_go_on_from_an_operation() {
    let sim = SimStorage::new(1);
    let file = create(&sim, "/f");
    sim.fail(FaultRule::new(Fault::Fail(Errno::IO)).from_operation(2));
    file.write_at(b"x", 0).unwrap();
    for _ in 0..3 {
        assert!(file.write_at(b"x", 0).is_err());
    }
    sim.clear_faults();
    sim.fail(FaultRule::new(Fault::Fail(Errno::IO)).on(&[OpKind::Len]).from_nth(1));
    file.len().unwrap();
    file.write_at(b"x", 0).unwrap();
    assert!(file.len().is_err() && file.len().is_err());
}

#[test]
fn the_same_seed_gives_the_same_trace_and_image() {
    let run = |seed: u64, image: u64| {
        let sim = SimStorage::new(seed);
        sim.fail(FaultRule::new(Fault::Short).on(&[OpKind::Write]).nth(0));
        sim.set_crash_point(CrashPoint::AtOperation(15));
        let _ = script(&sim);
        (sim.trace_hash(), sim.crash(image).content_hash())
    };
    let mut all = BTreeSet::new();
    for seed in 0..50 {
        for image in 0..4 {
            let first = run(seed, image);
            assert_eq!(first, run(seed, image), "seed {seed}, image {image}");
            all.insert(first);
        }
    }
    assert!(all.len() > 50, "only {} outcomes", all.len());
    let written = |bytes: &[u8]| {
        let sim = SimStorage::new(1);
        create(&sim, "/f").write_at(bytes, 0).unwrap();
        sim.trace_hash()
    };
    assert_ne!(written(b"a"), written(b"b"), "the trace covers what is written");
}

// Rule 10

#[test]
fn a_path_outside_the_root_is_refused_and_remembered() {
    let sim = SimStorage::new(1);
    sim.set_root("/data");
    sim.create_dir_all(Path::new("/data/x")).unwrap();
    assert!(sim.create_dir_all(Path::new("/data/../etc")).is_err());
    sim.assert_no_violations();
    assert!(sim.create_dir_all(Path::new("/etc")).is_err());
    create(&sim, "/data/f");
    assert!(sim.rename(Path::new("/data/f"), Path::new("/f")).is_err());
    assert_eq!(sim.violations().len(), 2);
    assert_eq!(names(&sim), set(["/data/f"]));
}

#[test]
fn a_finished_table_is_not_written_to() {
    let sim = SimStorage::new(1);
    sim.set_write_once(".sst");
    for name in ["/1.sst", "/1.wal"] {
        let file = create(&sim, name);
        file.write_at(b"content", 0).unwrap();
        file.sync_data().unwrap();
        file.write_at(b"more", 7).unwrap();
    }
    open(&sim, "/1.wal").write_at(b"x", 0).unwrap();
    sim.assert_no_violations();
    let table = open(&sim, "/1.sst");
    assert!(table.write_at(b"x", 0).is_err() && table.truncate(0).is_err() && table.allocate(99).is_err());
    assert_eq!(sim.read_file("/1.sst").unwrap(), b"contentmore");
    assert_eq!(sim.violations().len(), 3);
}

#[test]
fn a_file_that_the_durable_manifest_names_is_not_removed() {
    let sim = SimStorage::new(1);
    sim.set_needed(|durable, path| {
        durable.read(Path::new("/M")).is_some_and(|manifest| manifest == path.to_str().unwrap().as_bytes())
    });
    sim.write_file("/M", b"/1");
    sim.write_file("/1", b"");
    let manifest = open(&sim, "/M");
    manifest.write_at(b"/2", 0).unwrap();
    assert!(sim.remove_file(Path::new("/1")).is_err(), "the edit is not durable yet");
    assert!(sim.rename(Path::new("/1"), Path::new("/3")).is_err());
    assert_eq!(sim.violations().len(), 2);
    manifest.sync_data().unwrap();
    sim.remove_file(Path::new("/1")).unwrap();
}

#[test]
#[should_panic(expected = "/1.sst was finished and is written to again")]
fn a_crash_of_a_misused_file_system_panics() {
    let sim = SimStorage::new(1);
    sim.set_write_once(".sst");
    create(&sim, "/1.sst");
    let _ = open(&sim, "/1.sst").write_at(b"x", 0);
    let _ = sim.crash(0);
}
