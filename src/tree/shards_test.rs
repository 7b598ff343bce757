//! Batches across three shards under power losses: each stands in all of its shards or in none, whatever was
//! flushed, synced or cut, and through crashes of the recovery itself.

use super::{
    BatchMark, Strategy, TreeRecovery, consistent_cut,
    testing::{Rng, Shard, batch_frame, context, guard, open_all, put, shard_dir, tiny},
};
use crate::{
    error::Result,
    ids::{BatchId, ShardId},
    storage::sim::{CrashPoint, SimStorage},
    waiting::block_on,
    wal::FrameKind,
};

const SHARDS: u32 = 3;

struct Node {
    shards: Vec<Shard>,
    next_seqno: u64,
}

/// One write: its sequence number, the shards that it is in, and whether it is a batch that was cancelled.
struct Write {
    seqno: u64,
    shards: Vec<u32>,
    cancelled: bool,
}

impl Node {
    fn open(sim: &SimStorage) -> Result<Self> {
        let shards = open_all(&context(sim), &tiny(Strategy::Leveled), SHARDS)?;
        let next_seqno = shards[0].seqno + 1;
        Ok(Self { shards, next_seqno })
    }

    /// Writes under one key of its own, named by its sequence number, to each of `members`.
    fn write(&mut self, members: &[u32], log: &mut Vec<Write>) -> Result<()> {
        let seqno = self.next_seqno;
        self.next_seqno += 1;
        log.push(Write { seqno, shards: members.to_vec(), cancelled: false });
        let mark = BatchMark {
            id: BatchId(seqno),
            participants: members.iter().map(|shard| ShardId(*shard)).collect(),
            frame_index: 0,
        };
        let key = format!("{seqno:06}");
        for member in members {
            let shard = &mut self.shards[*member as usize];
            shard.seqno = seqno - 1;
            let kind = if members.len() > 1 { batch_frame(&mark) } else { FrameKind::Data };
            shard.write_frame(kind, &[put(key.as_bytes(), &[b'v'; 50], None)])?;
        }
        Ok(())
    }

    /// A batch whose last participant could not append: the others cancel it.
    fn write_cancelled(&mut self, members: &[u32], rng: &mut Rng, log: &mut Vec<Write>) -> Result<()> {
        let id = BatchId(self.next_seqno);
        let (_, reached) = members.split_last().unwrap();
        let all: Vec<ShardId> = members.iter().map(|shard| ShardId(*shard)).collect();
        log.push(Write { seqno: id.0, shards: members.to_vec(), cancelled: true });
        for member in reached {
            let shard = &mut self.shards[*member as usize];
            let writer = &mut shard.writer;
            writer.begin_frame(FrameKind::Batch { id, participants: all.clone() });
            writer.stage(&put(format!("{:06}", id.0).as_bytes(), b"cancelled", None));
            writer.end_frame();
            let appended = writer.append(crate::ids::SeqNo(id.0)).map(drop);
            writer.abandon();
            appended?;
        }
        self.next_seqno += 1;
        // The interval sync may come in between.
        for member in reached.iter().filter(|_| rng.below(2) == 0) {
            self.shards[*member as usize].tree.wal().sync()?;
        }
        for member in reached {
            let shard = &mut self.shards[*member as usize];
            shard.seqno = self.next_seqno;
            shard.write_frame(FrameKind::Cancel { id }, &[])?;
        }
        Ok(())
    }

    fn sync_all(&self) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.tree.wal().sync().map(drop))
    }

    fn sync_batches(&self) -> Result<()> {
        let unsynced = self.shards.iter().filter(|shard| shard.tree.wal().has_unsynced_batch());
        unsynced.into_iter().try_for_each(|shard| shard.tree.wal().sync().map(drop))
    }

    fn flush(&mut self, shard: usize) -> Result<()> {
        self.shards[shard].writer.seal()?;
        let tree = &self.shards[shard].tree;
        if let Some(plan) = tree.plan_flush(crate::ids::SeqNo(self.next_seqno), 0, 0) {
            let output = block_on(tree.run_flush(plan, &super::testing::pace()))?;
            tree.install_flush(output, &|| self.sync_batches())?;
        }
        Ok(())
    }

    fn holds(&self, shard: u32, seqno: u64) -> bool {
        self.shards[shard as usize].get(format!("{seqno:06}").as_bytes()).is_some()
    }
}

fn members(rng: &mut Rng) -> Vec<u32> {
    loop {
        let mask = rng.below(8);
        let members: Vec<u32> = (0..SHARDS).filter(|shard| mask & (1 << shard) != 0).collect();
        if !members.is_empty() {
            return members;
        }
    }
}

/// Runs until the crash. Returns how many of the writes were known durable.
fn run(node: &mut Node, rng: &mut Rng, log: &mut Vec<Write>, steps: u64) -> usize {
    let mut durable = log.len();
    for _ in 0..steps {
        let members = members(rng);
        let done = match rng.below(20) {
            0..11 | 13 => node.write(&members, log),
            11 | 12 if members.len() > 1 => node.write_cancelled(&members, rng, log),
            14 | 15 => node.flush(members[0] as usize),
            16 => node.sync_all(),
            17 => node.shards[members[0] as usize].tree.wal().sync().map(drop),
            18 => node.shards[members[0] as usize].compact_due(),
            _ => Ok(()),
        };
        if done.is_err() {
            return durable;
        }
        if node.shards.iter().all(|shard| shard.tree.wal().synced() == shard.tree.wal().written()) {
            durable = log.len();
        }
    }
    durable
}

fn check(node: &Node, log: &[Write], durable: usize, label: &str) {
    let mut missing = [false; SHARDS as usize];
    for (place, write) in log.iter().enumerate() {
        let held: Vec<bool> = write.shards.iter().map(|shard| node.holds(*shard, write.seqno)).collect();
        let all = held.iter().all(|held| *held);
        assert!(
            all || held.iter().all(|held| !held),
            "{label}: half of batch {} stands: {held:?}",
            write.seqno
        );
        if write.cancelled {
            assert!(!all, "{label}: cancelled batch {} stands", write.seqno);
            continue;
        }
        assert!(all || place >= durable, "{label}: durable write {} is gone", write.seqno);
        for shard in &write.shards {
            let gone = &mut missing[*shard as usize];
            assert!(!(*gone && all), "{label}: shard {shard} has a hole before {}", write.seqno);
            *gone |= !all;
        }
    }
}

#[test]
fn batches_stand_wholly_or_not_at_all() {
    let (mut crashes, mut batches, mut lost) = (0, 0, 0);
    for seed in 0..600 {
        let mut rng = Rng::new(seed + 1);
        let mut sim = SimStorage::new(seed);
        guard(&sim);
        let mut log = vec![];
        let mut node = Node::open(&sim).unwrap();
        for life in 0..3 {
            sim.set_crash_point(CrashPoint::AtChange(sim.changes() + rng.below(150)));
            let durable = run(&mut node, &mut rng, &mut log, 60);
            drop(node);
            sim = sim.crash(seed + life);
            // Now and then the recovery crashes as well.
            for _ in 0..rng.below(3) {
                sim.set_crash_point(CrashPoint::AtChange(rng.below(40)));
                drop(Node::open(&sim));
                sim = sim.crash(rng.below(1000));
            }
            guard(&sim);
            let label = format!("seed {seed}, life {life}");
            node = Node::open(&sim).unwrap_or_else(|error| panic!("{label}: {error}"));
            check(&node, &log, durable, &label);
            let held = log.iter().filter(|write| node.holds(write.shards[0], write.seqno));
            let highest = held.map(|write| write.seqno).max().unwrap_or(0);
            assert!(highest < node.next_seqno, "{label}: a number is handed out again");
            batches += log.iter().filter(|write| write.shards.len() > 1).count();
            let before = log.len();
            log.retain(|write| node.holds(write.shards[0], write.seqno));
            lost += before - log.len();
            crashes += 1;
        }
    }
    println!("{crashes} crashes, {batches} batches checked, {lost} unsynced or cancelled writes gone");
    assert!(lost > 100);
}

fn append_batch(node: &mut Node, members: &[u32], appended: &[u32]) -> BatchId {
    let id = BatchId(node.next_seqno);
    node.next_seqno += 1;
    for member in appended {
        let shard = &mut node.shards[*member as usize];
        let participants = members.iter().map(|shard| ShardId(*shard)).collect();
        shard.seqno = id.0 - 1;
        let key = format!("{:06}", id.0);
        shard
            .write_frame(FrameKind::Batch { id, participants }, &[put(key.as_bytes(), b"part", None)])
            .unwrap();
    }
    id
}

/// The frame of a batch that shard 2 could not append is in shards 0 and 1; the process ends when only shard 0 has
/// cancelled it. A recovery that is interrupted when shards 0 and 2 have flushed must not let it stand in 1.
#[test]
fn a_cancellation_is_remembered_until_every_shard_has_finished() {
    let sim = SimStorage::new(1);
    let mut node = Node::open(&sim).unwrap();
    let id = append_batch(&mut node, &[0, 1, 2], &[0, 1]);
    node.shards[0].write_frame(FrameKind::Cancel { id }, &[]).unwrap();
    let mut log = vec![];
    node.write(&[0], &mut log).unwrap();
    node.write(&[2], &mut log).unwrap();
    node.sync_all().unwrap();
    drop(node);
    let sim = sim.kill();
    let read = |shard| {
        let (context, options) = (context(&sim), tiny(Strategy::Leveled));
        TreeRecovery::read(context, options, ShardId(shard), shard_dir(shard)).unwrap()
    };
    let recoveries: Vec<_> = (0..SHARDS).map(read).collect();
    let logs: Vec<_> = recoveries.iter().map(TreeRecovery::shard_log).collect();
    let cuts = consistent_cut(&logs);
    assert!(cuts[1].void.contains(&id));
    let settle = |(recovery, cut): (TreeRecovery, _)| {
        let replayed = recovery.replay(&cut).run();
        (recovery.settle(cut, crate::ids::SeqNo(100), 1).unwrap(), replayed)
    };
    let mut settled: Vec<_> = recoveries.into_iter().zip(cuts).map(settle).collect();
    settled.remove(1);
    for (recovery, replayed) in settled {
        let (tree, ..) = recovery.finish(replayed).unwrap();
        assert!(tree.stats().flushed_seqno.0 > id.0);
    }
    let node = Node::open(&sim.kill()).unwrap();
    assert!(!node.holds(1, id.0), "half of the cancelled batch stands");
    assert!(node.holds(0, log[0].seqno) && node.holds(2, log[1].seqno));
}

/// A flush states how far the log was synced; a batch before that place may still fall, because another shard
/// was not synced. The log then ends before what the manifest states.
#[test]
fn a_log_may_be_cut_before_what_the_manifest_states_as_synced() {
    let mut cut = 0;
    for seed in 0..20 {
        for step in 0..40 {
            let sim = SimStorage::new(seed);
            let mut node = Node::open(&sim).unwrap();
            let mut log = vec![];
            node.write(&[0], &mut log).unwrap();
            node.shards[0].writer.seal().unwrap();
            let plan = node.shards[0].tree.plan_flush(crate::ids::SeqNo(9), 0, 0).unwrap();
            let output = block_on(node.shards[0].tree.run_flush(plan, &super::testing::pace())).unwrap();
            // Written when the flush had synced all shards, and then synced in shard 0 alone.
            node.write(&[0], &mut log).unwrap();
            node.write(&[0, 1], &mut log).unwrap();
            node.shards[0].tree.wal().sync().unwrap();
            node.shards[0].tree.install_flush(output, &|| Ok(())).unwrap();
            drop(node);
            let sim = sim.crash(seed);
            sim.set_crash_point(CrashPoint::AtChange(step));
            let finished = Node::open(&sim).is_ok();
            let node =
                Node::open(&sim.crash(seed)).unwrap_or_else(|error| panic!("seed {seed}, {step}: {error}"));
            assert!(node.holds(0, log[0].seqno) && node.holds(0, log[1].seqno));
            assert_eq!(node.holds(0, log[2].seqno), node.holds(1, log[2].seqno));
            cut += usize::from(!node.holds(0, log[2].seqno));
            if finished {
                break;
            }
        }
    }
    assert!(cut > 50, "{cut}");
}
