//! The group buffer: the frames of one turn, built in memory so that one `write` appends them all.
//! Headers are filled in when the writer knows where the group goes.

use super::{
    LogPosition, OpSpan,
    frame::{
        FRAME_ALIGN, FRAME_HEADER_BYTES, FrameHead, FrameKind, Identity, START_FRAME_BYTES, start_body,
        start_head,
    },
    ops::put_op,
    writer::Predecessor,
};
use crate::{
    codec::compress::{Compression, Compressor},
    entry::ValueKind,
    error::{Error, Result},
    ids::{BatchId, SeqNo},
};

/// The frames of one turn. Reused: [`GroupBuffer::clear`] keeps the memory.
#[derive(Debug)]
pub struct GroupBuffer {
    /// Room for a start frame, then each frame as header, body and padding.
    raw: Vec<u8>,
    /// The same with compressed bodies; empty when no body is compressed.
    packed: Vec<u8>,
    frames: Vec<FrameSlot>,
    open: Option<OpenFrame>,
    compressor: Compressor,
    /// How much memory each of its buffers keeps when it is cleared.
    kept_bytes: usize,
}

#[derive(Debug)]
struct OpenFrame {
    kind: u8,
    batch: Option<BatchId>,
    cross_shard: bool,
    start: usize,
    ops: u32,
}

/// A finished frame: where it lies in `raw`, and what of it does not depend on where it is appended.
#[derive(Clone, Copy, Debug)]
struct FrameSlot {
    kind: u8,
    /// A batch's operations are numbered from its id on, in every participant alike.
    batch: Option<BatchId>,
    cross_shard: bool,
    ops: u32,
    raw_start: usize,
    raw_bytes: u32,
    compressed: bool,
    stored_bytes: usize,
}

impl FrameSlot {
    const fn frame_bytes(&self) -> usize {
        (FRAME_HEADER_BYTES + self.stored_bytes).next_multiple_of(FRAME_ALIGN)
    }

    /// The number of the frame's first operation, where `data` is the next for frames that are no batch's.
    fn first_seqno(&self, data: SeqNo) -> SeqNo {
        self.batch.map_or(data, |id| SeqNo(id.get()))
    }

    /// The next number for frames that are no batch's, behind this one.
    fn next_data_seqno(&self, data: SeqNo) -> SeqNo {
        let behind = self.first_seqno(data).plus(u64::from(self.ops));
        data.max(behind)
    }
}

/// Where a group goes, and what its headers say.
pub(super) struct Placement {
    pub(super) identity: Identity,
    pub(super) offset: u64,
    /// Whether the segment begins here, and so a start frame goes first.
    pub(super) starts_segment: bool,
    pub(super) predecessor: Option<Predecessor>,
    pub(super) prev_checksum: u64,
    pub(super) synced: LogPosition,
    pub(super) first_seqno: SeqNo,
    pub(super) attempt: u32,
}

impl GroupBuffer {
    /// An empty buffer that keeps so much memory, in each of its parts, from one group to the next.
    pub fn new(kept_bytes: usize) -> Self {
        let raw = vec![0; START_FRAME_BYTES];
        Self {
            raw,
            packed: Vec::new(),
            frames: Vec::new(),
            open: None,
            compressor: Compressor::new(Compression::Lz4),
            kept_bytes,
        }
    }

    /// Begins a frame. A frame that is still open ends first.
    #[expect(clippy::needless_pass_by_value, reason = "the caller has no use for it any more")]
    pub fn begin_frame(&mut self, kind: FrameKind) {
        self.end_frame();
        let start = self.raw.len();
        self.raw.resize(start + FRAME_HEADER_BYTES, 0);
        kind.put_prefix(&mut self.raw);
        let batch = match kind {
            FrameKind::Batch { id, .. } => Some(id),
            FrameKind::Data | FrameKind::Cancel { .. } => None,
        };
        // A cancel counts: a flush elsewhere may hide that a participant lacks the batch, and then only the cancel
        // tells. A batch with one participant has nobody to be consistent with.
        let cross_shard = match &kind {
            FrameKind::Data => false,
            FrameKind::Batch { participants, .. } => participants.len() > 1,
            FrameKind::Cancel { .. } => true,
        };
        self.open = Some(OpenFrame { kind: kind.byte(), batch, cross_shard, start, ops: 0 });
    }

    /// Adds an operation to the open frame; without one, to a data frame of its own that stays open. A
    /// delete's value is left out. Key and value were checked by the caller.
    #[inline]
    pub fn push_op(
        &mut self,
        kind: ValueKind,
        expires_at_ms: Option<u64>,
        key: &[u8],
        value: &[u8],
    ) -> OpSpan {
        if self.open.is_none() {
            self.begin_frame(FrameKind::Data);
        }
        if let Some(open) = &mut self.open {
            open.ops += 1;
        }
        let value = if kind == ValueKind::Delete { &[] } else { value };
        put_op(&mut self.raw, kind, expires_at_ms, key, value)
    }

    /// Ends the open frame. Does nothing without one.
    pub fn end_frame(&mut self) {
        let Some(open) = self.open.take() else { return };
        let body_bytes = self.raw.len() - open.start - FRAME_HEADER_BYTES;
        self.raw.resize(self.raw.len().next_multiple_of(FRAME_ALIGN), 0);
        self.frames.push(FrameSlot {
            kind: open.kind,
            batch: open.batch,
            cross_shard: open.cross_shard,
            ops: open.ops,
            raw_start: open.start,
            // NOTE: a body too long for the field is refused by `pack`.
            raw_bytes: u32::try_from(body_bytes).unwrap_or(u32::MAX),
            compressed: false,
            stored_bytes: body_bytes,
        });
    }

    /// What the group holds so far, in bytes of the log before compression.
    pub const fn bytes(&self) -> usize {
        self.raw.len() - START_FRAME_BYTES
    }

    /// The number of operations in all frames.
    pub fn ops(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |open| u64::from(open.ops));
        self.frames.iter().map(|frame| u64::from(frame.ops)).sum::<u64>() + open
    }

    /// Whether there is no frame.
    pub const fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.open.is_none()
    }

    /// Forgets every frame and the memory that an unusually large group took; every [`OpSpan`] loses its meaning.
    pub fn clear(&mut self) {
        self.raw.truncate(START_FRAME_BYTES);
        self.packed.clear();
        self.raw.shrink_to(self.kept_bytes);
        self.packed.shrink_to(self.kept_bytes);
        self.compressor.shrink_to(self.kept_bytes);
        self.frames.clear();
        self.open = None;
    }

    /// The key of an operation pushed since the last [`GroupBuffer::clear`].
    #[inline]
    pub fn key(&self, span: &OpSpan) -> &[u8] {
        self.raw.get(span.key.clone()).unwrap_or_default()
    }

    /// The value of an operation pushed since the last [`GroupBuffer::clear`].
    #[inline]
    pub fn value(&self, span: &OpSpan) -> &[u8] {
        self.raw.get(span.value.clone()).unwrap_or_default()
    }

    /// The number behind the group's last operation, if the numbers of all operations ascend from `next` on.
    ///
    /// # Errors
    /// `Internal` if they do not.
    pub(super) fn check_seqnos(&self, first: SeqNo, mut next: SeqNo) -> Result<SeqNo> {
        let mut data = first;
        for frame in self.frames.iter().filter(|frame| frame.ops > 0) {
            let begin = frame.first_seqno(data);
            if begin < next {
                return Err(Error::internal(format!(
                    "sequence number {begin} is appended when {next} is the next"
                )));
            }
            data = frame.next_data_seqno(data);
            next = match begin.get().checked_add(u64::from(frame.ops)) {
                Some(next) if next <= SeqNo::MAX.get() => SeqNo(next),
                _ => return Err(Error::internal("the node has run out of sequence numbers")),
            };
        }
        Ok(next)
    }

    /// Whether a frame of a cross-shard batch is in the group.
    pub(super) fn has_batch(&self) -> bool {
        self.frames.iter().any(|frame| frame.cross_shard)
    }

    /// Ends the open frame and compresses what is long enough; returns the group's length in the log,
    /// without a start frame.
    pub(super) fn pack(&mut self, compress_above: Option<usize>) -> Result<usize> {
        self.end_frame();
        self.packed.clear();
        for frame in &mut self.frames {
            if frame.raw_bytes == u32::MAX {
                return Err(Error::invalid("a request has 4 GiB or more; a request has less"));
            }
            frame.compressed = false;
            frame.stored_bytes = frame.raw_bytes as usize;
        }
        let above = compress_above.unwrap_or(usize::MAX);
        if self.frames.iter().any(|frame| frame.stored_bytes > above) {
            self.compress(above)?;
        }
        Ok(self.frames.iter().map(FrameSlot::frame_bytes).sum())
    }

    fn compress(&mut self, above: usize) -> Result<()> {
        self.packed.resize(START_FRAME_BYTES, 0);
        for frame in &mut self.frames {
            let start = frame.raw_start + FRAME_HEADER_BYTES;
            let body = self.raw.get(start..start + frame.stored_bytes).unwrap_or_default();
            let (used, stored) =
                if body.len() > above { self.compressor.compress(body)? } else { (Compression::None, body) };
            frame.compressed = used != Compression::None;
            frame.stored_bytes = stored.len();
            self.packed.resize(self.packed.len() + FRAME_HEADER_BYTES, 0);
            self.packed.extend_from_slice(stored);
            self.packed.resize(self.packed.len().next_multiple_of(FRAME_ALIGN), 0);
        }
        if self.frames.iter().all(|frame| !frame.compressed) {
            self.packed.clear();
        }
        Ok(())
    }

    /// Fills in every header of a packed group; returns the bytes to write at the placement's offset and
    /// the last frame's checksum.
    pub(super) fn seal(&mut self, place: &Placement) -> (&[u8], u64) {
        let image = if self.packed.is_empty() { &mut self.raw } else { &mut self.packed };
        let mut prev_checksum = place.prev_checksum;
        let mut offset = place.offset;
        let (start, mut rest) = image.split_at_mut(START_FRAME_BYTES);
        if place.starts_segment {
            prev_checksum = seal_start(start, place);
            offset += START_FRAME_BYTES as u64;
        }
        let mut first_seqno = place.first_seqno;
        for slot in &self.frames {
            let (frame, behind) = std::mem::take(&mut rest).split_at_mut(slot.frame_bytes());
            let (frame, _padding) = frame.split_at_mut(FRAME_HEADER_BYTES + slot.stored_bytes);
            let head = FrameHead {
                kind: slot.kind,
                compressed: slot.compressed,
                raw_bytes: slot.raw_bytes,
                ops: slot.ops,
                attempt: place.attempt,
                prev_checksum,
                identity: place.identity,
                offset,
                synced: place.synced,
                first_seqno: slot.first_seqno(first_seqno),
            };
            prev_checksum = head.seal(frame);
            offset += slot.frame_bytes() as u64;
            first_seqno = slot.next_data_seqno(first_seqno);
            rest = behind;
        }
        let from = if place.starts_segment { 0 } else { START_FRAME_BYTES };
        (image.get(from..).unwrap_or_default(), prev_checksum)
    }
}

/// Fills in the start frame of a segment; returns its checksum.
pub(super) fn seal_start(frame: &mut [u8], place: &Placement) -> u64 {
    let (_, body) = frame.split_at_mut(FRAME_HEADER_BYTES);
    body.copy_from_slice(&start_body(place.predecessor));
    start_head(place.identity, place.offset, place.predecessor, place.synced, place.attempt).seal(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_name_what_was_pushed_until_clear() {
        let mut group = GroupBuffer::new(1 << 20);
        assert!(group.is_empty());
        group.begin_frame(FrameKind::Data);
        let put = group.push_op(ValueKind::Put, Some(9), b"key", b"value");
        let delete = group.push_op(ValueKind::Delete, None, b"gone", b"ignored");
        group.end_frame();
        assert_eq!((group.key(&put), group.value(&put)), (&b"key"[..], &b"value"[..]));
        assert_eq!((group.key(&delete), group.value(&delete)), (&b"gone"[..], &b""[..]));
        assert_eq!(group.ops(), 2);
        assert_eq!(group.bytes() % FRAME_ALIGN, 0);
        group.clear();
        assert!(group.is_empty());
        assert_eq!((group.bytes(), group.ops()), (0, 0));
    }

    #[test]
    fn a_huge_group_does_not_keep_its_memory() {
        let mut group = GroupBuffer::new(1 << 20);
        group.push_op(ValueKind::Put, None, b"key", &vec![0; 8 << 20]);
        group.pack(Some(100)).unwrap();
        group.clear();
        assert!(group.raw.capacity() + group.packed.capacity() + group.compressor.kept_bytes() <= 3 << 20);
    }
}
