//! Manifests torn and flipped at every byte, of another shard, of a newer version; failing appends and syncs.

use super::*;
use crate::{
    ids::Level,
    storage::sim::{CrashPoint, Errno, Fault, FaultRule, OpKind, SimStorage, SyncLoss},
    tree::edit::tests::record,
};

const SHARD: ShardId = ShardId(3);

fn dir() -> &'static Path {
    Path::new("data/shard-0003")
}

fn path() -> PathBuf {
    dir().join(MANIFEST_NAME)
}

fn adding(file: u64) -> VersionEdit {
    VersionEdit {
        added: vec![record(Level::L0, file, "a", "b")],
        flushed_seqno: Some(SeqNo(file)),
        ..VersionEdit::default()
    }
}

fn new_manifest(sim: &SimStorage) -> Manifest {
    sim.create_dir_all(dir()).unwrap();
    sim.sync_dir(Path::new("data")).unwrap();
    sim.sync_dir(Path::new("")).ok();
    let state = ManifestState { wal_floor: SegmentNumber(1), ..ManifestState::default() };
    Manifest::create(Arc::new(sim.clone()), dir(), SHARD, state).unwrap()
}

fn read(sim: &SimStorage) -> Result<ManifestState> {
    Manifest::read(sim, dir(), SHARD).map(|state| state.expect("a manifest"))
}

/// A manifest of a state and three edits: its bytes, where each record ends, and the state there.
fn written() -> (SimStorage, Vec<u8>, Vec<(usize, ManifestState)>) {
    let sim = SimStorage::new(1);
    let mut manifest = new_manifest(&sim);
    let mut ends = vec![];
    let mut end = |manifest: &Manifest| {
        ends.push((sim.read_file(path()).unwrap().len(), manifest.state().clone()));
    };
    end(&manifest);
    for file in 1..=3 {
        manifest.commit(&adding(file)).unwrap();
        end(&manifest);
    }
    let bytes = sim.read_file(path()).unwrap();
    (sim, bytes, ends)
}

#[test]
fn no_cut_takes_the_first_floor_away() {
    let sim = SimStorage::new(1);
    let mut manifest = new_manifest(&sim);
    manifest = Manifest::create(manifest.storage, dir(), SHARD, ManifestState::default()).unwrap();
    let floor = VersionEdit { wal_floor: Some(SegmentNumber(1)), ..VersionEdit::default() };
    manifest.commit(&floor).unwrap();
    manifest.commit(&adding(1)).unwrap();
    let bytes = sim.read_file(path()).unwrap();
    let mut opened = 0;
    for cut in 0..bytes.len() {
        sim.write_file(path(), &bytes[..cut]);
        if let Ok(state) = read(&sim) {
            assert_eq!(state.wal_floor, SegmentNumber(1), "cut at {cut}");
            opened += 1;
        }
    }
    assert!(opened > 0);
}

#[test]
fn what_is_committed_is_read() {
    let (sim, _, ends) = written();
    assert_eq!(read(&sim).unwrap(), ends[3].1);
    assert_eq!(ends[3].1.tables.len(), 3);
    assert_eq!(Manifest::read(&sim, Path::new("data/other"), SHARD).unwrap(), None);
}

#[test]
fn a_manifest_torn_at_any_byte_is_cut_behind_its_last_whole_record() {
    let (sim, bytes, ends) = written();
    for cut in 0..=bytes.len() {
        sim.write_file(path(), &bytes[..cut]);
        let whole = ends.iter().rev().find(|(end, _)| *end <= cut);
        match whole {
            Some((_, state)) => assert_eq!(&read(&sim).unwrap(), state, "cut at {cut}"),
            None => assert!(read(&sim).unwrap_err().corruption_at().is_some(), "cut at {cut}"),
        }
    }
}

#[test]
fn a_flipped_byte_is_corruption_unless_it_may_be_a_tear_of_the_last_record() {
    let (sim, bytes, ends) = written();
    for flipped in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[flipped] ^= 0x41;
        sim.write_file(path(), &bad);
        if flipped < ends[2].0 {
            let error = read(&sim).unwrap_err();
            let at = error.corruption_at().unwrap_or_else(|| panic!("{flipped}: {error}"));
            assert_eq!(at.path, path());
            assert!(at.offset <= flipped as u64);
        } else {
            assert_eq!(read(&sim).unwrap(), ends[2].1, "{flipped}");
        }
    }
}

#[test]
fn another_shards_manifest_and_a_misplaced_record_are_corruption() {
    let (sim, bytes, ends) = written();
    assert_eq!(
        Manifest::read(&sim, dir(), ShardId(4)).unwrap_err().kind(),
        ErrorKind::Corruption,
        "another shard's"
    );
    let (first, second, third) = (ends[0].0, ends[1].0, ends[2].0);
    let swapped = [&bytes[..first], &bytes[second..third], &bytes[first..second], &bytes[third..]].concat();
    sim.write_file(path(), &swapped);
    assert_eq!(read(&sim).unwrap_err().kind(), ErrorKind::Corruption, "the last record is still intact");
}

#[test]
fn unknown_records_are_refused_unless_they_may_be_skipped() {
    let (sim, bytes, ends) = written();
    for (skippable, version) in [(false, VERSION), (false, 9), (true, VERSION)] {
        let mut newer = bytes.clone();
        let head =
            RecordHead { magic: MAGIC, kind: if version == 9 { KIND_EDIT } else { 77 }, version, skippable };
        put_record(&mut newer, head, seed(SHARD, bytes.len() as u64), b"from the future");
        sim.write_file(path(), &newer);
        match read(&sim) {
            Ok(state) => assert!(skippable && state == ends[3].1),
            Err(error) => assert!(!skippable && error.kind() == ErrorKind::Invalid, "{error}"),
        }
    }
}

#[test]
fn an_edit_that_does_not_fit_is_refused_and_changes_nothing() {
    let sim = SimStorage::new(1);
    let mut manifest = new_manifest(&sim);
    manifest.commit(&adding(1)).unwrap();
    let twice = manifest.commit(&adding(1)).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Internal);
    let gone = VersionEdit { removed: vec![FileNumber(9)], ..VersionEdit::default() };
    assert_eq!(manifest.commit(&gone).unwrap_err().kind(), ErrorKind::Internal);
    assert!(!manifest.may_bring_back());
    manifest.commit(&adding(2)).unwrap();
    assert_eq!(&read(&sim).unwrap(), manifest.state());
}

#[test]
fn nothing_is_appended_behind_a_record_that_may_be_torn() {
    for fault in [Fault::Fail(Errno::NOSPC), Fault::Partial(Errno::NOSPC), Fault::Partial(Errno::IO)] {
        let sim = SimStorage::new(7);
        let mut manifest = new_manifest(&sim);
        manifest.commit(&adding(1)).unwrap();
        sim.fail(FaultRule::new(fault).on(&[OpKind::Write]).path("MANIFEST").nth(0));
        assert!(manifest.commit(&adding(2)).is_err());
        assert!(manifest.may_bring_back());
        manifest.commit(&adding(3)).unwrap();
        assert_eq!(manifest.end, manifest.first_record_bytes, "it was written anew");
        manifest.commit(&adding(4)).unwrap();
        let files: Vec<_> = read(&sim).unwrap().tables.keys().map(|file| file.0).collect();
        assert_eq!(files, [1, 3, 4], "{fault:?}");
        assert_eq!(&read(&sim.crash(1)).unwrap(), manifest.state());
    }
}

#[test]
fn a_failed_sync_poisons_it() {
    for loss in [SyncLoss::PagesMarkedClean, SyncLoss::PagesDropped, SyncLoss::NothingLost] {
        let sim = SimStorage::new(7);
        let mut manifest = new_manifest(&sim);
        manifest.commit(&adding(1)).unwrap();
        sim.fail(FaultRule::new(Fault::Sync(loss)).on(&[OpKind::Sync]).path("MANIFEST").nth(0));
        assert_eq!(manifest.commit(&adding(2)).unwrap_err().kind(), ErrorKind::Poisoned);
        let syncs = sim.syncs();
        assert_eq!(manifest.commit(&adding(3)).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(sim.syncs(), syncs, "it is not tried again");
        let files = read(&sim.crash(3)).unwrap().tables.len();
        assert!((1..=2).contains(&files), "{loss:?}");
    }
}

#[test]
fn it_is_rewritten_when_its_edits_outgrow_it_and_survives_a_crash_at_every_step_of_that() {
    let edit = |file: u64| VersionEdit {
        removed: if file > 1 { vec![FileNumber(file - 1)] } else { vec![] },
        ..adding(file)
    };
    let sim = SimStorage::new(5);
    let mut manifest = new_manifest(&sim);
    let mut file = 0;
    while manifest.end <= REWRITE_ABOVE_BYTES {
        file += 1;
        manifest.commit(&edit(file)).unwrap();
    }
    let before = sim.changes();
    manifest.commit(&edit(file + 1)).unwrap();
    let steps = sim.changes() - before;
    assert!(sim.read_file(path()).unwrap().len() < 4096, "it is short again");
    assert_eq!(&read(&sim).unwrap(), manifest.state());
    assert!(steps > 3);
    for step in 0..steps {
        let sim = SimStorage::new(step);
        let mut manifest = new_manifest(&sim);
        for file in 1..=file {
            manifest.commit(&edit(file)).unwrap();
        }
        let old = manifest.state().clone();
        sim.set_crash_point(CrashPoint::AtChange(sim.changes() + step));
        assert!(manifest.commit(&edit(file + 1)).is_err());
        for seed in 0..4 {
            let found = read(&sim.crash(seed)).unwrap();
            let newest = found.tables.keys().next().unwrap().0;
            assert!(found == old || newest == file + 1, "step {step} seed {seed}");
        }
    }
}
