//! The consistent cut over all shards' recovered logs: which frames stand after a crash. Pure.
//!
//! A cross-shard batch stands only if every participant's frame of it stands. A participant whose tables
//! already hold its part, or that is damaged and refuses, is taken for standing. Where a batch does not
//! stand, the log is cut before its frame, which may fell later batches elsewhere, and so on until nothing
//! changes. A batch that was cancelled is skipped wherever it is found, and cuts nothing.

use std::collections::{HashMap, HashSet};

use crate::ids::{BatchId, SeqNo, ShardId};

/// A frame of a cross-shard batch in one shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchMark {
    /// The batch.
    pub id: BatchId,
    /// Every shard that has a part of it, this one included.
    pub participants: Vec<ShardId>,
    /// The place of the frame among the recovered frames.
    pub frame_index: usize,
}

/// What recovery found in one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardLog {
    /// How many frames its log holds.
    pub frames: usize,
    /// The frames that belong to cross-shard batches, in log order.
    pub batches: Vec<BatchMark>,
    /// The batches whose cancellation it knows of.
    pub cancelled: Vec<BatchId>,
    /// Every write of the shard up to here lies in its tables.
    pub flushed_seqno: SeqNo,
    /// Whether the shard is damaged and does not open.
    pub refused: bool,
}

impl ShardLog {
    /// A shard that does not open.
    pub fn refused() -> Self {
        Self { refused: true, ..Self::default() }
    }
}

/// What stands of one shard's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// The frames from here on are discarded.
    pub keep_frames: usize,
    /// Batches among the kept frames that are skipped.
    pub void: HashSet<BatchId>,
}

/// Finds the largest consistent state. `shards` is indexed by shard number, and so is the answer.
pub fn consistent_cut(shards: &[ShardLog]) -> Vec<Cut> {
    let cancelled: HashSet<BatchId> =
        shards.iter().flat_map(|shard| shard.cancelled.iter().copied()).collect();
    let frames: Vec<HashMap<BatchId, usize>> = shards
        .iter()
        .map(|shard| shard.batches.iter().map(|mark| (mark.id, mark.frame_index)).collect())
        .collect();
    let mut keep: Vec<usize> = shards.iter().map(|shard| shard.frames).collect();

    // What fell: (shard, where its log ended before). The batches in between have lost a frame.
    let mut fallen: Vec<(usize, usize)> = Vec::new();
    for (index, shard) in shards.iter().enumerate() {
        let first_alone = shard.batches.iter().find(|mark| {
            !cancelled.contains(&mark.id)
                && mark.participants.iter().any(|participant| !stands(shards, &frames, *participant, mark.id))
        });
        if let Some(mark) = first_alone {
            cut_before(&mut keep, &mut fallen, index, mark.frame_index);
        }
    }
    while let Some((index, end)) = fallen.pop() {
        let (Some(shard), Some(start)) = (shards.get(index), keep.get(index).copied()) else { continue };
        let lost = shard.batches.iter().filter(|mark| (start..end).contains(&mark.frame_index));
        for mark in lost.filter(|mark| !cancelled.contains(&mark.id) && shard.flushed_seqno.0 < mark.id.0) {
            for participant in &mark.participants {
                let place = usize::try_from(participant.0).unwrap_or(usize::MAX);
                if let Some(frame) = frames.get(place).and_then(|frames| frames.get(&mark.id)) {
                    cut_before(&mut keep, &mut fallen, place, *frame);
                }
            }
        }
    }
    shards.iter().zip(keep).map(|(shard, keep_frames)| cut_of(shard, keep_frames, &cancelled)).collect()
}

/// Whether `participant` has its part of the batch, in its log as it was found or in its tables.
fn stands(
    shards: &[ShardLog],
    frames: &[HashMap<BatchId, usize>],
    participant: ShardId,
    batch: BatchId,
) -> bool {
    let place = usize::try_from(participant.0).unwrap_or(usize::MAX);
    let (Some(shard), Some(frames)) = (shards.get(place), frames.get(place)) else {
        return true;
    };
    shard.refused || shard.flushed_seqno.0 >= batch.0 || frames.contains_key(&batch)
}

fn cut_before(keep: &mut [usize], fallen: &mut Vec<(usize, usize)>, shard: usize, frame: usize) {
    if let Some(end) = keep.get_mut(shard)
        && frame < *end
    {
        fallen.push((shard, *end));
        *end = frame;
    }
}

fn cut_of(shard: &ShardLog, keep_frames: usize, cancelled: &HashSet<BatchId>) -> Cut {
    let kept = shard.batches.iter().filter(|mark| mark.frame_index < keep_frames);
    Cut { keep_frames, void: kept.map(|mark| mark.id).filter(|id| cancelled.contains(id)).collect() }
}

#[cfg(test)]
#[path = "cut_test.rs"]
mod tests;
