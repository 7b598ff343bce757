//! Every truncation and every flipped byte of a small log: the same frames, a cut suffix, or `Corruption`, and
//! that exactly when the break lies before a position known to be synced. Also recoveries in a row.

use std::path::PathBuf;

use proptest::prelude::*;

use super::{
    frame::{FRAME_HEADER_BYTES, FrameHead, FrameRead, read_frame},
    testing::*,
    *,
};
use crate::{
    error::{ErrorKind, Result},
    ids::{BatchId, SegmentNumber, SeqNo},
};

/// Three segments; synced in the middle of the second, and frames behind say so.
struct Sample {
    mem: MemStorage,
    models: Vec<ModelFrame>,
    /// Where each frame begins and ends.
    places: Vec<(LogPosition, LogPosition)>,
    /// The highest position that any frame states as synced.
    stated: LogPosition,
    end: LogPosition,
}

fn path(segment: u64) -> PathBuf {
    dir().join(format!("{segment:010}.wal"))
}

fn sample(stale: bool) -> Sample {
    let mem = MemStorage::default();
    let options = WalOptions { segment_bytes: 5 << 10, compress_above: Some(60), idle_segments: 4 };
    let mut log = TestLog::open(&mem.shared(), options);
    if stale {
        // The segments are recycled ones, full of frames of their earlier life.
        for i in 0..30 {
            log.put(&format!("stale {i}"), "some value of an earlier life").unwrap();
        }
        log.writer.rotate().unwrap();
        log.pool.release(log.writer.current_segment()).unwrap();
        log.appended.clear();
    }
    let first = log.writer.current_segment();
    let mut stated = LogPosition::default();
    for i in 0..3 {
        log.put(&format!("first {i}"), "x").unwrap();
    }
    log.writer.rotate().unwrap();
    let batch = FrameKind::Batch { id: BatchId(9), participants: vec![SHARD] };
    for i in 0..4 {
        let large = (format!("second {i}").into_bytes(), Some(vec![b'z'; 100]), Some(5));
        log.append(&[(batch.clone(), vec![large, (b"gone".to_vec(), None, None)])]).unwrap();
        if i == 1 {
            stated = log.sync.sync().unwrap();
        }
    }
    log.writer.rotate().unwrap();
    for i in 0..3 {
        log.put(&format!("third {i}"), "y").unwrap();
    }
    let recovered = read_log(&mem.shared(), dir(), SHARD, first, None).unwrap();
    assert_eq!((models_of(&recovered), recovered.discarded), (log.models(), None));
    assert_eq!(recovered.known_synced, stated);
    let places = recovered.frames.iter().map(|frame| (frame.position, frame.end)).collect();
    Sample { mem, models: log.models(), places, stated, end: recovered.end }
}

impl Sample {
    fn first(&self) -> SegmentNumber {
        self.places[0].0.segment
    }

    fn read(&self, mem: &MemStorage, manifest: Option<LogPosition>) -> Result<RecoveredLog> {
        read_log(&mem.shared(), dir(), SHARD, self.first(), manifest)
    }

    /// Checks the outcome for damage that begins at `at`.
    fn check(&self, mem: &MemStorage, at: LogPosition, what: &str) {
        let result = self.read(mem, None);
        // The frame that the damage lies in; the log is good up to its beginning.
        let hit = self.places.iter().position(|(_, end)| at < *end);
        match result {
            Ok(log) => {
                let models = models_of(&log);
                assert!(self.models.starts_with(&models), "{what} at {at}: wrong frames {models:?}");
                let kept_end = models.len().checked_sub(1).map(|last| self.places[last].1);
                assert!(
                    kept_end >= Some(self.stated),
                    "{what} at {at}: synced frames are gone without a word"
                );
                let cut = models.len() < self.models.len();
                assert!(!cut || hit.is_some_and(|hit| models.len() >= hit), "{what} at {at}: cut too early");
                self.check_cut_is_permanent(mem, &log, what, at);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corruption, "{what} at {at}: {error}");
                assert!(error.corruption_at().is_some());
                let header = at.offset < 4096;
                assert!(header || at < self.stated, "{what} at {at}: nothing synced was hit: {error}");
            }
        }
    }

    fn check_cut_is_permanent(&self, mem: &MemStorage, log: &RecoveredLog, what: &str, at: LogPosition) {
        let kept = models_of(log);
        let again = TestLog::after(log, kept.len(), options(), 11).unwrap();
        // The damage heals: what was cut off lies there whole, and still it does not come back.
        for path in self.mem.paths() {
            if mem.paths().contains(&path) {
                mem.write_file(&path, &self.mem.read_file(&path));
            }
        }
        let healed = self.read(mem, None).unwrap();
        assert_eq!(models_of(&healed), kept, "{what} at {at}: a cut came undone");
        drop(again);
    }
}

#[test]
fn every_flipped_byte() {
    let mut checked = 0;
    for stale in [false, true] {
        let sample = sample(stale);
        for segment in sample.first().get()..=sample.end.segment.get() {
            let file = sample.mem.read_file(&path(segment));
            for offset in (0..60).chain(4090..file.len()) {
                let mem = sample.mem.copy();
                let mut bad = file.clone();
                bad[offset] ^= 1 << (offset % 8);
                mem.write_file(&path(segment), &bad);
                let at = LogPosition { segment: SegmentNumber(segment), offset: offset as u64 };
                sample.check(&mem, at, "flip");
                checked += 1;
            }
        }
    }
    assert!(checked > 5_000, "{checked}");
}

#[test]
fn every_truncation() {
    for stale in [false, true] {
        let sample = sample(stale);
        for segment in sample.first().get()..=sample.end.segment.get() {
            let file = sample.mem.read_file(&path(segment));
            for len in (0..60).chain(4090..file.len()) {
                let mem = sample.mem.copy();
                mem.write_file(&path(segment), &file[..len]);
                let at = LogPosition { segment: SegmentNumber(segment), offset: len as u64 };
                sample.check(&mem, at, "truncation");
            }
        }
    }
}

#[test]
fn damage_in_every_frame_is_corruption_exactly_before_the_synced_position() {
    let sample = sample(false);
    for (i, (begin, end)) in sample.places.iter().enumerate() {
        for manifest in [None, Some(sample.end), Some(sample.places[5].1)] {
            let mem = sample.mem.copy();
            let mut file = mem.read_file(&path(begin.segment.get()));
            file[usize::try_from(end.offset).unwrap() - 20] ^= 0x10;
            mem.write_file(&path(begin.segment.get()), &file);
            let known = sample.stated.max(manifest.unwrap_or_default());
            match sample.read(&mem, manifest) {
                Ok(log) => {
                    assert!(*begin >= known, "frame {i}, {manifest:?}");
                    assert_eq!(log.frames.len(), i);
                    let discarded = log.discarded.unwrap();
                    assert_eq!(discarded.position, log.end);
                    assert!(discarded.frames >= (sample.models.len() - i - 1) as u64);
                }
                Err(error) => {
                    assert!(*begin < known, "frame {i}, {manifest:?}: {error}");
                    let found = error.corruption_at().unwrap();
                    assert_eq!((&found.path, found.offset), (&path(begin.segment.get()), begin.offset));
                }
            }
        }
    }
}

#[test]
fn a_missing_or_foreign_segment_is_corruption() {
    let sample = sample(false);
    let (first, last) = (sample.first().get(), sample.end.segment.get());
    for gone in first..last {
        let mem = sample.mem.copy();
        mem.remove(&path(gone));
        let error = sample.read(&mem, None).unwrap_err();
        assert_eq!(error.corruption_at().unwrap().path, path(gone), "{error}");
    }
    let mem = sample.mem.copy();
    mem.write_file(&path(last + 1), &mem.read_file(&path(last)));
    assert!(sample.read(&mem, None).unwrap_err().to_string().contains("expected segment"));
    let other = crate::ids::ShardId(4);
    let error = read_log(&sample.mem.shared(), dir(), other, sample.first(), None).unwrap_err();
    assert!(error.to_string().contains("expected shard 0004, found shard 0003"), "{error}");
}

#[test]
fn frames_of_another_file_do_not_pass() {
    let sample = sample(false);
    let (first, last) = (sample.first().get(), sample.end.segment.get());
    let mem = sample.mem.copy();
    let donor = mem.read_file(&path(first));
    let mut file = mem.read_file(&path(last));
    file[4096..].copy_from_slice(&donor[4096..]);
    mem.write_file(&path(last), &file);
    let log = sample.read(&mem, None).unwrap();
    assert_eq!(models_of(&log), sample.models[..7], "the log ends before the swapped segment");
}

#[test]
fn leftovers_go_and_strangers_stay() {
    let mem = MemStorage::default();
    let mut log = TestLog::open(&mem.shared(), options());
    log.put("a", "1").unwrap();
    log.pool.prepare().unwrap();
    let (temp, stranger) = (dir().join("0000000007.wal.new"), dir().join("notes.txt"));
    mem.write_file(&temp, b"half");
    mem.write_file(&stranger, b"mine");
    let recovered = read(&log.storage, 1).unwrap();
    assert_eq!(recovered.highest_segment, SegmentNumber(7));
    assert_eq!(recovered.strangers, std::slice::from_ref(&stranger));
    let log = TestLog::after(&recovered, 1, options(), 3).unwrap();
    assert_eq!(log.writer.current_segment(), SegmentNumber(8));
    assert!(log.pool.unneeded() > 0 && mem.paths().contains(&temp), "opening does not wait for it");
    log.pool.remove_unneeded().unwrap();
    assert_eq!(mem.paths(), [path(1), path(8), stranger]);
    assert_eq!(log.pool.unneeded(), 0);
    log.pool.release(SegmentNumber(8)).unwrap();
    assert!(!mem.paths().contains(&path(1)), "a recovered segment is removed, not recycled");
}

#[test]
fn recoveries_in_a_row_cut_deeper_but_never_shallower() {
    let sample = sample(false);
    let mem = sample.mem.copy();
    let mut kept = sample.models.len();
    // Each recovery keeps less, as when other shards lost parts of batches; frames stay whole on disk.
    for keep in [8, 8, 6, 3, 3, 1, 0, 0] {
        let log = sample.read(&mem, None).unwrap();
        assert_eq!(models_of(&log), sample.models[..kept], "what the recovery before kept");
        drop(TestLog::after(&log, keep, options(), 21).unwrap());
        kept = keep;
    }
    let log = sample.read(&mem, None).unwrap();
    assert!(log.frames.is_empty());
    assert_eq!(log.highest_seqno, sample.models.last().unwrap().first_seqno, "discarded frames count");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whoever can make the checksum right can still not make it panic or take memory by a length it claims.
    #[test]
    fn a_right_checksum_around_any_content_is_safe(
        kind in 0u8..6,
        compressed: bool,
        raw_bytes in prop_oneof![0u32..64, any::<u32>()],
        ops in prop_oneof![0u32..3, any::<u32>()],
        first_seqno in prop_oneof![1u64..9, any::<u64>()],
        body in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..64),
    ) {
        let mem = MemStorage::default();
        let log = TestLog::open(&mem.shared(), options());
        let mut file = mem.read_file(&path(1));
        let begin = usize::try_from(log.sync.written().offset).unwrap();
        let FrameRead::Intact(start) = read_frame_of(&file) else { panic!("a start frame") };
        let head = FrameHead {
            kind,
            compressed,
            raw_bytes,
            ops,
            offset: begin as u64,
            prev_checksum: start.checksum,
            first_seqno: SeqNo(first_seqno),
            ..start.head
        };
        let frame = &mut file[begin..begin + FRAME_HEADER_BYTES + body.len()];
        frame[FRAME_HEADER_BYTES..].copy_from_slice(&body);
        head.seal(frame);
        mem.write_file(&path(1), &file);
        match read(&mem.shared(), 1) {
            Ok(log) => prop_assert_eq!(models_of(&log).len(), 1),
            Err(error) => prop_assert_eq!(error.corruption_at().unwrap().offset, begin as u64),
        }
    }
}

fn read_frame_of(file: &[u8]) -> FrameRead<'_> {
    let header = super::segment::decode_header(file, &path(1), SHARD, SegmentNumber(1));
    read_frame(file, 4096, header.unwrap().unwrap())
}
