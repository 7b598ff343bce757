//! The frame: one turn's data, or its part of a batch, as it lies in a segment file.
//!
//! ```text
//! offset size
//!  0     4    magic "DBXF"
//!  4     1    version, 1
//!  5     1    kind: 1 start, 2 data, 3 batch, 4 cancel
//!  6     2    flags: bit 0: the body is compressed with LZ4
//!  8     8    XXH3-64 over the header from byte 16 on and the stored body, seeded with bytes 0..8
//! 16     2    header length, 96; a reader passes over what a longer header adds
//! 18     2    zero
//! 20     4    shard
//! 24     4    stored body length
//! 28     4    body length before compression
//! 32     4    number of operations
//! 36     4    attempt: how many appends of this log failed before
//! 40     8    checksum of the frame before this one, in whichever segment that is; 0 for a log's first
//! 48     8    segment number
//! 56     8    the segment's incarnation
//! 64     8    offset of this frame in its file
//! 72    16    position (segment, offset) up to which the log was known to be synced; 0, 0 if none
//! 88     8    sequence number of the first operation; operation i has this plus i
//! 96          stored body, then zeroes up to a multiple of 8
//! ```
//! All numbers are little-endian. The bodies:
//!
//! ```text
//! start   where the log before this segment ends: segment u64 (0: nowhere), offset u64, checksum u64
//! data    operations (see `ops`)
//! batch   batch id u64, count of participants varint, participants u32 each, operations
//! cancel  batch id u64
//! ```

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{LogPosition, writer::Predecessor};
use crate::{
    codec::varint::{ByteReader, put_varint},
    ids::{BatchId, Incarnation, SegmentNumber, SeqNo, ShardId},
};

/// The length of a frame's header in bytes, as this version writes it.
pub(super) const FRAME_HEADER_BYTES: usize = 96;
/// Frames begin at multiples of this.
pub(super) const FRAME_ALIGN: usize = 8;
/// The length of a start frame in bytes.
pub(super) const START_FRAME_BYTES: usize = FRAME_HEADER_BYTES + 24;

pub(super) const FRAME_MAGIC: [u8; 4] = *b"DBXF";
const FRAME_VERSION: u8 = 1;
const FLAG_LZ4: u16 = 1;
/// What stands before the checksum and seeds it, and the checksum.
const PRELUDE_BYTES: usize = 16;
/// LZ4 never expands further than this, so a longer body is a lie about its length.
const LZ4_MAX_RATIO: u64 = 255;

const KIND_START: u8 = 1;
const KIND_DATA: u8 = 2;
const KIND_BATCH: u8 = 3;
const KIND_CANCEL: u8 = 4;

/// What a frame is, as the one who appends or replays it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Operations of this shard alone.
    Data,
    /// This shard's part of a batch over several shards.
    Batch {
        /// The batch.
        id: BatchId,
        /// Every shard that has a part, this one included.
        participants: Vec<ShardId>,
    },
    /// The batch failed in another shard: its frame in this log is void.
    Cancel {
        /// The batch.
        id: BatchId,
    },
}

impl FrameKind {
    pub(super) const fn byte(&self) -> u8 {
        match self {
            Self::Data => KIND_DATA,
            Self::Batch { .. } => KIND_BATCH,
            Self::Cancel { .. } => KIND_CANCEL,
        }
    }

    /// Appends what stands in the body before the operations.
    pub(super) fn put_prefix(&self, out: &mut Vec<u8>) {
        match self {
            Self::Data => {}
            Self::Batch { id, participants } => {
                out.extend_from_slice(&id.get().to_le_bytes());
                put_varint(out, participants.len() as u64);
                for shard in participants {
                    out.extend_from_slice(&shard.get().to_le_bytes());
                }
            }
            Self::Cancel { id } => out.extend_from_slice(&id.get().to_le_bytes()),
        }
    }

    /// Reads the kind and what [`FrameKind::put_prefix`] wrote.
    pub(super) fn read_prefix(kind: u8, reader: &mut ByteReader<'_>) -> Result<Self, &'static str> {
        const SHORT: &str = "a frame body that ends early";
        match kind {
            KIND_DATA => Ok(Self::Data),
            KIND_CANCEL => Ok(Self::Cancel { id: BatchId(reader.u64().ok_or(SHORT)?) }),
            KIND_BATCH => {
                let id = BatchId(reader.u64().ok_or(SHORT)?);
                let count = reader.varint_usize().ok_or(SHORT)?;
                // IMPORTANT: the count is bounded by the bytes that are really there before it sizes anything.
                let bytes = count.checked_mul(4).and_then(|n| reader.bytes(n)).ok_or(SHORT)?;
                let mut shards = ByteReader::new(bytes);
                let participants = std::iter::from_fn(|| shards.u32().map(ShardId)).collect();
                Ok(Self::Batch { id, participants })
            }
            _ => Err("a frame kind that this version does not know"),
        }
    }
}

/// What every frame of one life of a segment has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) shard: ShardId,
    pub(super) segment: SegmentNumber,
    pub(super) incarnation: Incarnation,
}

/// A frame's header, without what follows from the bytes around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHead {
    pub(super) kind: u8,
    pub(super) compressed: bool,
    pub(super) raw_bytes: u32,
    pub(super) ops: u32,
    pub(super) attempt: u32,
    pub(super) prev_checksum: u64,
    pub(super) identity: Identity,
    pub(super) offset: u64,
    pub(super) synced: LogPosition,
    pub(super) first_seqno: SeqNo,
}

impl FrameHead {
    /// Fills in the header in front of the stored body that `frame` ends with; returns the frame's checksum.
    pub(super) fn seal(&self, frame: &mut [u8]) -> u64 {
        let stored = u32::try_from(frame.len().saturating_sub(FRAME_HEADER_BYTES))
            .expect("the group checked that bodies are below 4 GiB");
        let mut put = Put(&mut *frame);
        put.bytes(FRAME_MAGIC);
        put.bytes([FRAME_VERSION, self.kind]);
        put.bytes(if self.compressed { FLAG_LZ4 } else { 0 }.to_le_bytes());
        put.bytes([0; 8]);
        put.bytes(96u16.to_le_bytes());
        put.bytes([0; 2]);
        put.bytes(self.identity.shard.get().to_le_bytes());
        put.bytes(stored.to_le_bytes());
        put.bytes(self.raw_bytes.to_le_bytes());
        put.bytes(self.ops.to_le_bytes());
        put.bytes(self.attempt.to_le_bytes());
        put.bytes(self.prev_checksum.to_le_bytes());
        put.bytes(self.identity.segment.get().to_le_bytes());
        put.bytes(self.identity.incarnation.get().to_le_bytes());
        put.bytes(self.offset.to_le_bytes());
        put.bytes(self.synced.segment.get().to_le_bytes());
        put.bytes(self.synced.offset.to_le_bytes());
        put.bytes(self.first_seqno.get().to_le_bytes());
        let checksum = frame_checksum(frame).expect("a frame has a header");
        if let Some((_, from_checksum)) = frame.split_at_mut_checked(8) {
            Put(from_checksum).bytes(checksum.to_le_bytes());
        }
        checksum
    }
}

/// The body of a start frame.
pub(super) fn start_body(predecessor: Option<Predecessor>) -> [u8; 24] {
    let mut body = [0; 24];
    if let Some(before) = predecessor {
        let mut put = Put(&mut body);
        put.bytes(before.end.segment.get().to_le_bytes());
        put.bytes(before.end.offset.to_le_bytes());
        put.bytes(before.checksum.to_le_bytes());
    }
    body
}

/// The header of the start frame that stands at `offset`, by which a segment names its predecessor.
pub(super) fn start_head(
    identity: Identity,
    offset: u64,
    predecessor: Option<Predecessor>,
    synced: LogPosition,
    attempt: u32,
) -> FrameHead {
    FrameHead {
        kind: KIND_START,
        compressed: false,
        raw_bytes: 24,
        ops: 0,
        attempt,
        prev_checksum: predecessor.map_or(0, |before| before.checksum),
        identity,
        offset,
        synced,
        first_seqno: SeqNo(0),
    }
}

/// Writes numbers one after the other.
struct Put<'a>(&'a mut [u8]);

impl Put<'_> {
    fn bytes<const N: usize>(&mut self, bytes: [u8; N]) {
        let (head, tail) = std::mem::take(&mut self.0)
            .split_first_chunk_mut::<N>()
            .expect("the caller made room for the header");
        *head = bytes;
        self.0 = tail;
    }
}

/// An intact frame in a segment's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) head: FrameHead,
    pub(super) checksum: u64,
    /// Where the frame ends: where the next one begins.
    pub(super) end: u64,
    /// Where the stored body begins in the file.
    pub(super) body_offset: usize,
    pub(super) stored: &'a [u8],
    /// What an intact frame says that this version cannot follow.
    pub(super) unknown: Option<&'static str>,
}

impl Frame<'_> {
    /// The predecessor that a start frame names, if it names one; otherwise what this is instead of a start frame.
    pub(super) fn predecessor(&self) -> Result<Option<Predecessor>, &'static str> {
        if let Some(unknown) = self.unknown {
            return Err(unknown);
        }
        let mut reader = ByteReader::new(self.stored);
        let fields = (self.head.kind, reader.u64(), reader.u64(), reader.u64(), reader.rest());
        let (KIND_START, Some(segment), Some(offset), Some(checksum), []) = fields else {
            return Err("another frame");
        };
        let end = LogPosition { segment: SegmentNumber(segment), offset };
        let before = (segment != 0).then_some(Predecessor { end, checksum });
        if before.map_or(0, |before| before.checksum) != self.head.prev_checksum {
            return Err("a start frame that contradicts itself");
        }
        if end.segment >= self.head.identity.segment {
            return Err("a start frame that follows a later segment");
        }
        Ok(before)
    }

    /// The last sequence number that the frame uses, if it has operations.
    pub(super) fn last_seqno(&self) -> Option<SeqNo> {
        let more = u64::from(self.head.ops.checked_sub(1)?);
        Some(SeqNo(self.head.first_seqno.get().saturating_add(more)))
    }
}

/// What stands at a place where a frame may begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum FrameRead<'a> {
    /// A whole frame of this life of the segment.
    Intact(Frame<'a>),
    /// Nothing that was ever a frame of this life of the segment at this offset.
    Absent,
    /// The beginning of one, but not all of it.
    Torn,
}

/// Reads the frame at `offset` of a segment's bytes.
pub(super) fn read_frame(segment: &[u8], offset: u64, identity: Identity) -> FrameRead<'_> {
    let Some(rest) = usize::try_from(offset).ok().and_then(|at| segment.get(at..)) else {
        return FrameRead::Absent;
    };
    let Some((head, stated, lengths)) = read_head(rest) else {
        return FrameRead::Absent;
    };
    if head.identity != identity || head.offset != offset {
        return FrameRead::Absent;
    }
    let Some((frame, body)) = lengths.split(rest) else {
        return FrameRead::Torn;
    };
    if frame_checksum(frame) != Some(stated) {
        return FrameRead::Torn;
    }
    let end = offset + frame.len().next_multiple_of(FRAME_ALIGN) as u64;
    let body_offset = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(lengths.header);
    let unknown = lengths.unknown(&head, body.len());
    FrameRead::Intact(Frame { head, checksum: stated, end, body_offset, stored: body, unknown })
}

/// The parts of a header that say how to read the rest.
#[derive(Clone, Copy)]
struct Lengths {
    header: usize,
    stored: usize,
    version: u8,
    flags: u16,
}

impl Lengths {
    /// The whole frame, and its stored body, at the start of `rest`.
    fn split<'a>(&self, rest: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        if self.header < FRAME_HEADER_BYTES {
            return None;
        }
        let frame = rest.get(..self.header.checked_add(self.stored)?)?;
        Some((frame, frame.get(self.header..)?))
    }

    /// What a frame with the right checksum says that this version cannot follow.
    fn unknown(&self, head: &FrameHead, stored: usize) -> Option<&'static str> {
        let (raw, stored) = (u64::from(head.raw_bytes), stored as u64);
        if self.version != FRAME_VERSION {
            Some("a frame of a newer version")
        } else if self.flags & !FLAG_LZ4 != 0 {
            Some("a frame flag that this version does not know")
        } else if !head.compressed && raw != stored || raw > stored.saturating_mul(LZ4_MAX_RATIO) {
            Some("a frame body of an impossible length")
        } else if head.first_seqno.get().saturating_add(u64::from(head.ops)) > SeqNo::MAX.get() {
            Some("a sequence number above the highest")
        } else {
            None
        }
    }
}

fn read_head(bytes: &[u8]) -> Option<(FrameHead, u64, Lengths)> {
    let mut reader = ByteReader::new(bytes);
    if reader.bytes(4)? != &FRAME_MAGIC[..] {
        return None;
    }
    let (version, kind, flags, stated) = (reader.byte()?, reader.byte()?, reader.u16()?, reader.u64()?);
    let (header, _zero, shard) = (reader.u16()?, reader.u16()?, ShardId(reader.u32()?));
    let (stored, raw_bytes, ops, attempt) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let prev_checksum = reader.u64()?;
    let segment = SegmentNumber(reader.u64()?);
    let incarnation = Incarnation(reader.u64()?);
    let offset = reader.u64()?;
    let synced = LogPosition { segment: SegmentNumber(reader.u64()?), offset: reader.u64()? };
    let first_seqno = SeqNo(reader.u64()?);
    let identity = Identity { shard, segment, incarnation };
    let compressed = flags & FLAG_LZ4 != 0;
    let head = FrameHead {
        kind,
        compressed,
        raw_bytes,
        ops,
        attempt,
        prev_checksum,
        identity,
        offset,
        synced,
        first_seqno,
    };
    let stored = usize::try_from(stored).ok()?;
    Some((head, stated, Lengths { header: usize::from(header), stored, version, flags }))
}

fn frame_checksum(frame: &[u8]) -> Option<u64> {
    let seed = ByteReader::new(frame).u64()?;
    Some(xxh3_64_with_seed(frame.get(PRELUDE_BYTES..)?, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity =
        Identity { shard: ShardId(3), segment: SegmentNumber(7), incarnation: Incarnation(0xABCD) };

    fn start_at(offset: u64) -> Vec<u8> {
        let end = LogPosition { segment: SegmentNumber(6), offset: 4096 };
        let before = Some(Predecessor { end, checksum: 99 });
        let mut file = vec![0; usize::try_from(offset).unwrap() + FRAME_HEADER_BYTES];
        file.extend_from_slice(&start_body(before));
        let frame = &mut file[usize::try_from(offset).unwrap()..];
        start_head(IDENTITY, offset, before, end, 2).seal(frame);
        file
    }

    #[test]
    fn a_frame_round_trips_and_no_flipped_bit_or_cut_passes() {
        let file = start_at(64);
        let FrameRead::Intact(frame) = read_frame(&file, 64, IDENTITY) else { panic!("not intact") };
        assert_eq!(frame.end, 64 + START_FRAME_BYTES as u64);
        assert_eq!(frame.predecessor().unwrap().unwrap().checksum, 99);
        assert_eq!((frame.head.attempt, frame.unknown), (2, None));
        for bit in 0..START_FRAME_BYTES * 8 {
            let mut bad = file.clone();
            bad[64 + bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(read_frame(&bad, 64, IDENTITY), FrameRead::Intact(_)), "bit {bit}");
        }
        for len in 0..file.len() {
            assert!(!matches!(read_frame(&file[..len], 64, IDENTITY), FrameRead::Intact(_)), "cut {len}");
        }
    }

    #[test]
    fn a_frame_of_another_life_or_place_is_absent() {
        let file = start_at(64);
        for other in [
            Identity { shard: ShardId(4), ..IDENTITY },
            Identity { segment: SegmentNumber(8), ..IDENTITY },
            Identity { incarnation: Incarnation(1), ..IDENTITY },
        ] {
            assert!(matches!(read_frame(&file, 64, other), FrameRead::Absent));
        }
        let moved = [&[0; 8][..], &file].concat();
        assert!(matches!(read_frame(&moved, 72, IDENTITY), FrameRead::Absent), "at another offset");
    }

    #[test]
    fn a_count_of_participants_is_not_believed() {
        let mut body = 5u64.to_le_bytes().to_vec();
        put_varint(&mut body, u64::MAX / 2);
        assert!(FrameKind::read_prefix(KIND_BATCH, &mut ByteReader::new(&body)).is_err());
    }
}
