//! Following the chain of frames through the segments, and deciding where the log ends.
//!
//! Each segment's start frame names where the log before it ends. So the order is given from behind: the
//! segment that follows is the newest one that names this one, and this one counts exactly up to there. What a
//! recovery cut off stays cut off, because the segment that it begins is newer than all that it
//! discarded, and says where the log ended.
//!
//! ```text
//!   2 ───────► 3 ──────┐          3 tore at ✂ and 4 is lost with it: the recovery began 5,
//!              │  ✂ ╌╌╌╌► 4       whose start frame names ✂. From then on 3 ends there,
//!              └──────────► 5     and nothing leads to 4.
//! ```
//!
//! A chain that breaks before that place, or before a position that any frame or the manifest states as
//! synced, is told apart: a break behind every synced position is a tear and ends the log; one before is damage.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    FrameKind, LogPosition, Ops, WalOptions,
    frame::{Frame, FrameRead, read_frame},
    ops::check_ops,
    reader::{Image, Start},
    scan::{Evidence, scan_beside},
    segment::{SEGMENT_DATA_START, segment_path},
    writer::{NewLog, Predecessor},
};
use crate::{
    codec::{compress::Compression, varint::ByteReader},
    error::{Error, Result},
    ids::{SegmentNumber, SeqNo, ShardId},
    storage::{OpenMode, Storage},
};

/// A log as it was found at open.
#[derive(Debug)]
pub struct RecoveredLog {
    /// Every frame of the log, oldest first.
    pub frames: Vec<RecoveredFrame>,
    /// Where the log ends.
    pub end: LogPosition,
    /// What was cut off behind the end, if there are signs of anything.
    pub discarded: Option<Discarded>,
    /// Every segment file from the floor on, lowest first, whether frames of the log are in it or not.
    pub segments: Vec<SegmentNumber>,
    /// The highest number of any segment file, used or not.
    pub highest_segment: SegmentNumber,
    /// The highest sequence number in any intact frame, discarded ones included; 0 if there is none.
    pub highest_seqno: SeqNo,
    /// The highest position that the log says was synced. At or before the end.
    pub known_synced: LogPosition,
    /// Files and directories that are not the log's; left as they are.
    pub strangers: Vec<PathBuf>,
    replayed: Vec<PathBuf>,
    /// Segments without a frame but a start frame that the log does not need: spares, and those that
    /// interrupted recoveries began.
    idle: Vec<SegmentNumber>,
    place: RecoveryPlace,
}

/// Where a log was read, and what else was found there.
#[derive(Debug)]
pub(super) struct RecoveryPlace {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) shard: ShardId,
    pub(super) highest_segment: SegmentNumber,
    pub(super) leftovers: Vec<PathBuf>,
    pub(super) strangers: Vec<PathBuf>,
}

/// What a recovery cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discarded {
    /// Where the log ends.
    pub position: LogPosition,
    /// Intact frames behind that place, in all segments.
    pub frames: u64,
    /// The bytes up to the last of them, over all segments; a frame that is torn is not counted.
    pub bytes: u64,
    /// Why the log ends there.
    pub reason: &'static str,
}

/// One frame of a recovered log. Its content was checked when it was read.
#[derive(Clone, Debug)]
pub struct RecoveredFrame {
    /// What it is.
    pub kind: FrameKind,
    /// Where it begins.
    pub position: LogPosition,
    /// Where it ends.
    pub end: LogPosition,
    /// Its checksum.
    pub checksum: u64,
    /// The sequence number of its first operation.
    pub first_seqno: SeqNo,
    /// How many operations it has.
    pub op_count: u32,
    ops: Bytes,
}

impl RecoveredFrame {
    /// The operations, in order, with their sequence numbers.
    pub fn ops(&self) -> Ops<'_> {
        Ops::new(&self.ops, self.first_seqno)
    }

    /// The bytes that the operations take in memory.
    pub fn ops_bytes(&self) -> usize {
        self.ops.len()
    }
}

impl RecoveredLog {
    /// Where the log ends when its first `keep_frames` frames are kept; `None` when no frame is. A start frame
    /// is never named, so that a recovery does not depend on the segment that an interrupted one began.
    pub fn predecessor(&self, keep_frames: usize) -> Option<Predecessor> {
        let last = self.frames.get(..keep_frames).unwrap_or(&self.frames).last()?;
        Some(Predecessor { end: last.end, checksum: last.checksum })
    }

    /// The segment that the log goes on in.
    pub fn next_segment(&self) -> SegmentNumber {
        self.highest_segment.next()
    }

    /// What [`create_log`](super::create_log) needs to go on after the first `keep_frames` frames of this log.
    /// Incarnations come from `incarnation_seed`, which should be random.
    pub fn successor(&self, keep_frames: usize, options: WalOptions, incarnation_seed: u64) -> NewLog {
        let is_idle = |number: &SegmentNumber| self.idle.contains(number);
        let idle = self.idle.iter().map(|number| segment_path(&self.place.dir, *number));
        NewLog {
            storage: Arc::clone(&self.place.storage),
            dir: self.place.dir.clone(),
            shard: self.place.shard,
            options,
            first_segment: self.next_segment(),
            predecessor: self.predecessor(keep_frames),
            known_synced: self.known_synced,
            retained: self.segments.iter().copied().filter(|number| !is_idle(number)).collect(),
            leftovers: self.place.leftovers.iter().cloned().chain(idle).collect(),
            incarnation_seed,
        }
    }

    /// Syncs every segment that has frames of the log. After a process was killed its last frames may be in the
    /// page cache alone.
    ///
    /// # Errors
    /// `Io`. Nothing in the log counts as durable then, whatever a second call says.
    pub fn sync(&self) -> Result<()> {
        for path in &self.replayed {
            let file = self.place.storage.open(path, OpenMode::ReadWrite);
            let file = file.map_err(|error| Error::io("open", path, error))?;
            file.sync_data().map_err(|error| Error::io("sync", path, error))?;
        }
        Ok(())
    }
}

/// Follows the chain through `images`, which are in the order of their numbers.
pub(super) fn replay(
    images: &[Image],
    floor: SegmentNumber,
    manifest_synced: LogPosition,
    mut place: RecoveryPlace,
) -> Result<RecoveredLog> {
    let mut walk = Walk::new(images, floor);
    walk.follow()?;
    let Walk { frames, end, stop, reached, mut evidence, .. } = walk;
    evidence.synced = evidence.synced.max(manifest_synced);

    let mut beside = (0, 0);
    let mut idle = Vec::new();
    let last_used = frames.last().map_or(SegmentNumber(0), |frame| frame.position.segment);
    for image in images {
        let Ok(identity) = image.header else { continue };
        let from = reached.get(&image.number).copied().unwrap_or(SEGMENT_DATA_START);
        let found = scan_beside(&image.bytes, from, identity, &mut evidence);
        let (in_chain, has_start) = (reached.contains_key(&image.number), image.start.is_some());
        let is_empty = found.frames <= u64::from(!in_chain && has_start);
        // NOTE: the floor's own segment stays, empty or not, until the floor passes it: its absence is a sign.
        if is_empty && (!in_chain || image.number > last_used) && image.number != floor {
            idle.push(image.number);
        }
        if image.number >= end.segment {
            beside = (beside.0 + found.frames, beside.1 + found.bytes);
        }
    }
    check_files(images, floor, end, &place.dir)?;
    if evidence.synced > end {
        return Err(damage(images, end, evidence.synced, stop, &place.dir));
    }
    let (frames_beside, bytes) = beside;
    let reason = stop.or((frames_beside > 0).then_some("no frame where the next one should begin"));
    Ok(RecoveredLog {
        discarded: reason.map(|reason| Discarded { position: end, frames: frames_beside, bytes, reason }),
        frames,
        end,
        segments: images.iter().map(|image| image.number).collect(),
        highest_segment: place.highest_segment,
        highest_seqno: evidence.highest_seqno,
        known_synced: evidence.synced,
        strangers: std::mem::take(&mut place.strangers),
        idle,
        replayed: images.iter().filter(|i| reached.contains_key(&i.number)).map(|i| i.path.clone()).collect(),
        place,
    })
}

/// Why the chain ends, when it is not simply that nothing more was written.
type Stop = Option<&'static str>;

struct Walk<'a> {
    images: &'a [Image],
    floor: SegmentNumber,
    frames: Vec<RecoveredFrame>,
    end: LogPosition,
    stop: Stop,
    /// How far each segment of the chain was replayed.
    reached: BTreeMap<SegmentNumber, u64>,
    evidence: Evidence,
    last_seqno: SeqNo,
}

impl<'a> Walk<'a> {
    fn new(images: &'a [Image], floor: SegmentNumber) -> Self {
        Self {
            images,
            floor,
            frames: Vec::new(),
            end: LogPosition { segment: floor, offset: 0 },
            stop: None,
            reached: BTreeMap::new(),
            evidence: Evidence::default(),
            last_seqno: SeqNo(0),
        }
    }

    fn follow(&mut self) -> Result<()> {
        let begins = |start: &Start| start.predecessor.is_none_or(|before| before.end.segment < self.floor);
        let mut next = self.newest(begins);
        while let Some((image, start)) = next {
            let follows = |start: &Start| start.predecessor.is_some_and(|b| b.end.segment == image.number);
            let follower = self.newest(follows);
            let until = follower.and_then(|(_, start)| start.predecessor);
            let whole = self.segment(image, start, until)?;
            next = follower.filter(|_| whole);
        }
        Ok(())
    }

    fn newest(&self, is: impl Fn(&Start) -> bool) -> Option<(&'a Image, Start)> {
        self.images.iter().rev().find_map(|image| Some((image, image.start.filter(|start| is(start))?)))
    }

    /// Replays one segment; `true` when it holds everything up to `until`.
    fn segment(&mut self, image: &Image, start: Start, until: Option<Predecessor>) -> Result<bool> {
        let Ok(identity) = image.header else { return Ok(false) };
        if let FrameRead::Intact(frame) = read_frame(&image.bytes, SEGMENT_DATA_START, identity) {
            self.evidence.add(&frame);
        }
        let (mut at, mut checksum) = (start.end, start.checksum);
        let whole = loop {
            if let Some(until) = until.filter(|until| until.end.offset <= at) {
                let same = until.end.offset == at && until.checksum == checksum;
                self.stop = (!same).then_some("another frame than the next segment follows");
                break same;
            }
            let frame = match read_frame(&image.bytes, at, identity) {
                FrameRead::Intact(frame) => frame,
                FrameRead::Torn => {
                    self.stop = Some("a frame that is not whole");
                    break false;
                }
                FrameRead::Absent => {
                    self.stop = until.map(|_| "no frame, where the next segment says that one is");
                    break false;
                }
            };
            if frame.head.prev_checksum != checksum {
                self.stop = Some("a frame that does not follow the one before it");
                break false;
            }
            self.evidence.add(&frame);
            self.push(image, &frame)?;
            (at, checksum) = (frame.end, frame.checksum);
        };
        self.end = LogPosition { segment: image.number, offset: at };
        self.reached.insert(image.number, at);
        Ok(whole)
    }

    /// Takes an intact frame of the chain. Its checksum is right, so whatever is wrong inside is no tear.
    fn push(&mut self, image: &Image, frame: &Frame<'_>) -> Result<()> {
        let offset = frame.head.offset;
        let bad = |found: &str| Error::corruption(&image.path, offset, "a valid frame", found);
        if let Some(unknown) = frame.unknown {
            return Err(bad(unknown));
        }
        let body = if frame.head.compressed {
            let raw_bytes = usize::try_from(frame.head.raw_bytes).map_err(|_| bad("a body above memory"))?;
            Bytes::from(Compression::Lz4.decompress(frame.stored, raw_bytes).map_err(bad)?)
        } else {
            image.bytes.slice(frame.body_offset..frame.body_offset + frame.stored.len())
        };
        let mut reader = ByteReader::new(&body);
        let kind = FrameKind::read_prefix(frame.head.kind, &mut reader).map_err(bad)?;
        check_ops(reader.rest(), frame.head.ops).map_err(bad)?;
        let ops = body.slice(body.len() - reader.rest().len()..);
        if let Some(last) = frame.last_seqno() {
            if frame.head.first_seqno <= self.last_seqno {
                return Err(bad("sequence numbers that were used before"));
            }
            self.last_seqno = last;
        }
        self.frames.push(RecoveredFrame {
            kind,
            position: LogPosition { segment: image.number, offset },
            end: LogPosition { segment: image.number, offset: frame.end },
            checksum: frame.checksum,
            first_seqno: frame.head.first_seqno,
            op_count: frame.head.ops,
            ops,
        });
        Ok(())
    }
}

/// Checks what no crash can undo: the files behind the log's end were durable, header and name, before
/// anything was written to them.
fn check_files(images: &[Image], floor: SegmentNumber, end: LogPosition, dir: &Path) -> Result<()> {
    for image in images {
        if (LogPosition { segment: image.number, offset: 0 }) < end {
            continue;
        }
        if let Err((expected, found)) = &image.header {
            return Err(Error::corruption(&image.path, 0, expected, found));
        }
        let Some(before) = image.start.and_then(|start| start.predecessor) else { continue };
        let missing = before.end.segment;
        if missing >= floor && !images.iter().any(|other| other.number == missing) {
            let expected = format!("the segment that {} follows", image.number);
            return Err(Error::corruption(&segment_path(dir, missing), 0, expected, "no file"));
        }
    }
    Ok(())
}

/// The error for a chain that breaks before a synced position.
fn damage(images: &[Image], end: LogPosition, synced: LogPosition, stop: Stop, dir: &Path) -> Error {
    let expected = format!("frames up to {synced}, which was synced");
    let between = |image: &&Image| image.number > end.segment && image.number <= synced.segment;
    // Where this segment ends as if nothing more was written, it is the beginning of the next that is gone.
    match images.iter().find(between) {
        Some(next) if stop.is_none() => {
            Error::corruption(&next.path, SEGMENT_DATA_START, expected, "no start frame")
        }
        _ => {
            let path = segment_path(dir, end.segment);
            Error::corruption(&path, end.offset, expected, stop.unwrap_or("no frame"))
        }
    }
}
