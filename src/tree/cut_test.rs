//! The cut against cases worked out by hand, and against an oracle that tries every possible cut.

use super::*;
use proptest::prelude::*;

fn mark(id: u64, participants: &[u32], frame_index: usize) -> BatchMark {
    BatchMark {
        id: BatchId(id),
        participants: participants.iter().map(|n| ShardId(*n)).collect(),
        frame_index,
    }
}

fn log(frames: usize, batches: Vec<BatchMark>) -> ShardLog {
    ShardLog { frames, batches, ..ShardLog::default() }
}

fn kept(cuts: &[Cut]) -> Vec<usize> {
    cuts.iter().map(|cut| cut.keep_frames).collect()
}

#[test]
fn logs_without_batches_stand_whole() {
    assert_eq!(kept(&consistent_cut(&[log(3, vec![]), log(0, vec![])])), [3, 0]);
    assert!(consistent_cut(&[]).is_empty());
}

#[test]
fn a_batch_that_one_participant_lost_is_cut_in_the_other() {
    let shards = [log(5, vec![mark(10, &[0, 1], 2)]), log(4, vec![])];
    assert_eq!(kept(&consistent_cut(&shards)), [2, 4]);
}

#[test]
fn a_cut_fells_later_batches_in_other_shards() {
    // 0 lost batch 10, so 1 is cut before it and loses 20, so 2 is cut before 20 and loses 30 of 0.
    let shards = [
        log(3, vec![mark(30, &[0, 2], 1)]),
        log(3, vec![mark(10, &[0, 1], 0), mark(20, &[1, 2], 1)]),
        log(3, vec![mark(20, &[1, 2], 0), mark(30, &[0, 2], 2)]),
    ];
    assert_eq!(kept(&consistent_cut(&shards)), [1, 0, 0]);
}

#[test]
fn a_batch_in_the_other_shards_tables_stands() {
    let shards =
        [log(5, vec![mark(10, &[0, 1], 2)]), ShardLog { flushed_seqno: SeqNo(10), ..log(0, vec![]) }];
    assert_eq!(kept(&consistent_cut(&shards)), [5, 0]);
}

#[test]
fn a_participant_that_refuses_is_taken_for_standing() {
    let shards = [log(5, vec![mark(10, &[0, 1], 2)]), ShardLog::refused()];
    assert_eq!(kept(&consistent_cut(&shards)), [5, 0]);
}

#[test]
fn a_cancelled_batch_is_skipped_and_cuts_nothing() {
    let shards = [
        log(5, vec![mark(10, &[0, 1, 2], 2)]),
        log(5, vec![mark(10, &[0, 1, 2], 3)]),
        ShardLog { cancelled: vec![BatchId(10)], ..log(4, vec![]) },
    ];
    let cuts = consistent_cut(&shards);
    assert_eq!(kept(&cuts), [5, 5, 4]);
    assert!(
        cuts[0].void.contains(&BatchId(10)) && cuts[1].void.contains(&BatchId(10)) && cuts[2].void.is_empty()
    );
}

#[test]
fn a_long_chain_of_batches_is_cut_in_linear_time() {
    // Each shard lost the other's next batch only at the very end; the cut runs back through all of them.
    let n = 100_000usize;
    let zero = (0..n).map(|i| mark(2 + 2 * i as u64, &[0, 1], i + 1)).collect::<Vec<_>>();
    let mut one = (0..n).map(|i| mark(2 + 2 * i as u64, &[0, 1], n - i)).collect::<Vec<_>>();
    one.insert(0, mark(1, &[0, 1], 0));
    assert_eq!(kept(&consistent_cut(&[log(n + 1, zero), log(n + 1, one)])), [1, 0]);
}

/// Whether `keep` is a state that may stand, by the definition.
fn is_consistent(shards: &[ShardLog], keep: &[usize]) -> bool {
    let cancelled: Vec<BatchId> = shards.iter().flat_map(|s| s.cancelled.clone()).collect();
    shards.iter().zip(keep).all(|(shard, kept)| {
        shard.batches.iter().filter(|m| m.frame_index < *kept && !cancelled.contains(&m.id)).all(|m| {
            m.participants.iter().all(|p| {
                let other = &shards[p.0 as usize];
                other.refused
                    || other.flushed_seqno.0 >= m.id.0
                    || other.batches.iter().any(|o| o.id == m.id && o.frame_index < keep[p.0 as usize])
            })
        })
    })
}

/// The greatest consistent state, by trying all of them. (The union of two consistent states is
/// consistent, so the greatest in each place is one state.)
fn oracle(shards: &[ShardLog]) -> Vec<usize> {
    let mut best = vec![0; shards.len()];
    let mut keep = vec![0; shards.len()];
    loop {
        if is_consistent(shards, &keep) {
            for (best, keep) in best.iter_mut().zip(&keep) {
                *best = (*best).max(*keep);
            }
        }
        let Some(place) = (0..keep.len()).find(|i| keep[*i] < shards[*i].frames) else {
            return best;
        };
        keep[place] += 1;
        keep[..place].fill(0);
    }
}

/// Shards with a shared history of batches; each then loses a suffix, may have flushed a prefix, and so on.
fn histories() -> impl Strategy<Value = Vec<ShardLog>> {
    let step = (1u8..8, any::<bool>());
    let steps = proptest::collection::vec(step, 0..9);
    let fate = (0usize..7, 0u64..12, 0u8..12, proptest::collection::vec(1u64..12, 0..2));
    (steps, proptest::collection::vec(fate, 3)).prop_map(|(steps, fates)| {
        let mut shards = vec![ShardLog::default(); 3];
        for (i, (mask, alone)) in steps.iter().enumerate() {
            let members: Vec<u32> = (0..3).filter(|s| mask & (1 << s) != 0).collect();
            for member in &members {
                let shard = &mut shards[*member as usize];
                if members.len() > 1 && !alone {
                    shard.batches.push(mark(i as u64 + 1, &members, shard.frames));
                }
                shard.frames += 1;
            }
        }
        for (shard, (lost, flushed, refused, cancelled)) in shards.iter_mut().zip(fates) {
            shard.frames = shard.frames.saturating_sub(lost);
            let frames = shard.frames;
            shard.batches.retain(|m| m.frame_index < frames);
            if flushed > 8 {
                shard.flushed_seqno = SeqNo(flushed - 8);
            }
            if refused == 0 {
                *shard = ShardLog::refused();
            }
            if flushed < 3 {
                shard.cancelled = cancelled.into_iter().map(BatchId).collect();
            }
        }
        shards
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
    #[test]
    fn the_cut_is_the_greatest_consistent_state(shards in histories()) {
        let cuts = consistent_cut(&shards);
        prop_assert_eq!(kept(&cuts), oracle(&shards), "{:?}", shards);
        for (cut, shard) in cuts.iter().zip(&shards) {
            for mark in &shard.batches {
                let cancelled = shards.iter().any(|s| s.cancelled.contains(&mark.id));
                let void = cancelled && mark.frame_index < cut.keep_frames;
                prop_assert_eq!(cut.void.contains(&mark.id), void);
            }
        }
    }
}
