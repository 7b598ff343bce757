//! What lies beside the chain. Behind the place where a log ends, and in segments that no chain reaches, intact
//! frames may still stand. They are never replayed, but what they say is true: up to where the log was
//! synced when they were written, and which sequence numbers were handed out.

use super::{
    LogPosition,
    frame::{FRAME_ALIGN, FRAME_MAGIC, Frame, FrameRead, Identity, read_frame},
};
use crate::ids::SeqNo;

/// What frames beside the chain, and in it, say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// The highest position that any frame states as synced.
    pub(super) synced: LogPosition,
    /// The highest sequence number in any frame.
    pub(super) highest_seqno: SeqNo,
}

impl Evidence {
    pub(super) fn add(&mut self, frame: &Frame<'_>) {
        self.synced = self.synced.max(frame.head.synced);
        self.highest_seqno = self.highest_seqno.max(frame.last_seqno().unwrap_or_default());
    }
}

/// What was found in a range that is not part of the chain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside {
    /// How many intact frames.
    pub(super) frames: u64,
    /// From the beginning of the range to the end of the last of them.
    pub(super) bytes: u64,
}

/// Looks for intact frames of this life of a segment from `from` to the end of its bytes.
pub(super) fn scan_beside(segment: &[u8], from: u64, identity: Identity, evidence: &mut Evidence) -> Beside {
    let mut found = Beside::default();
    let mut at = from.next_multiple_of(FRAME_ALIGN as u64);
    while let Some(candidate) = next_magic(segment, at) {
        at = candidate + FRAME_ALIGN as u64;
        if let FrameRead::Intact(frame) = read_frame(segment, candidate, identity) {
            evidence.add(&frame);
            found.frames += 1;
            found.bytes = frame.end - from;
            at = frame.end;
        }
    }
    found
}

/// The next aligned place at or behind `from` that begins with a frame's magic bytes.
fn next_magic(segment: &[u8], from: u64) -> Option<u64> {
    let rest = segment.get(usize::try_from(from).ok()?..)?;
    let skipped = rest.chunks_exact(FRAME_ALIGN).position(|chunk| chunk.starts_with(&FRAME_MAGIC))?;
    Some(from + (skipped * FRAME_ALIGN) as u64)
}
