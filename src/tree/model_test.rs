//! The whole tree against a map of all versions: random writes, range deletes, reads, scans, snapshots, flushes,
//! compactions that overlap each other, expiries and re-openings, under both strategies and a change between them.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::{
    CompactionOutput, CompactionPlan, FlushOutput, FullCompaction, ReadView, Strategy, TreeOptions, WriteOp,
    compaction::{FullBound, ReadPositions},
    testing::{Rng, Shard, context, delete, drain, guard, hash, open_in, pace, put, tiny, visible},
};
use crate::{
    entry::ValueKind, ids::SeqNo, key::KeyRange, storage::sim::SimStorage, table::ReadMode, waiting::block_on,
};

type Version = (u64, Option<Vec<u8>>, Option<u64>);

/// Every version ever written.
#[derive(Default)]
struct Model {
    versions: BTreeMap<Vec<u8>, Vec<Version>>,
}

impl Model {
    fn get(&self, key: &[u8], at: u64, now: u64) -> Option<Vec<u8>> {
        let newest = self.versions.get(key)?.iter().rev().find(|(seqno, ..)| *seqno <= at)?;
        newest.1.clone().filter(|_| newest.2.is_none_or(|expires| expires > now))
    }

    fn scan(&self, range: &KeyRange, at: u64, now: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let keys = self.versions.keys().filter(|key| range.contains(key));
        keys.filter_map(|key| Some((key.clone(), self.get(key, at, now)?))).collect()
    }
}

struct Snapshot {
    at: u64,
    now: u64,
    view: Arc<ReadView>,
    /// Taken in a former life of the shard, whose view it has: a recovery does not know of it.
    is_old: bool,
}

struct Run {
    sim: SimStorage,
    options: TreeOptions,
    shard: Shard,
    model: Model,
    now: u64,
    snapshots: Vec<Snapshot>,
    flush: Option<FlushOutput>,
    compactions: Vec<CompactionOutput>,
    rng: Rng,
    checks: u64,
}

fn key(n: u64) -> Vec<u8> {
    format!("key-{n:03}").into_bytes()
}

impl Run {
    fn new(seed: u64, options: TreeOptions) -> Self {
        let sim = SimStorage::new(seed);
        guard(&sim);
        let shard = open_in(&context(&sim), &options).unwrap();
        Self {
            sim,
            options,
            shard,
            model: Model::default(),
            now: 0,
            snapshots: vec![],
            flush: None,
            compactions: vec![],
            rng: Rng::new(seed),
            checks: 0,
        }
    }

    fn readers(&self) -> (ReadPositions, u64) {
        let mut held: Vec<_> = self.snapshots.iter().map(|snapshot| SeqNo(snapshot.at)).collect();
        held.sort();
        let positions = ReadPositions::new(held, SeqNo(self.shard.seqno));
        (positions, self.snapshots.iter().map(|s| s.now).min().unwrap_or(self.now))
    }

    fn write(&mut self) {
        let ops = 1 + self.rng.below(4);
        let mut staged = vec![];
        for _ in 0..ops {
            let key = key(self.rng.below(120));
            let value = (self.rng.below(3) > 0).then(|| vec![b'v'; self.rng.index(60)]);
            let expires = (value.is_some() && self.rng.below(6) == 0).then(|| self.now + self.rng.below(30));
            staged.push((key, value, expires));
        }
        let first = self.shard.seqno + 1;
        let ops: Vec<_> = staged
            .iter()
            .map(|(key, value, expires)| match value {
                Some(value) => put(key, value, *expires),
                None => delete(key),
            })
            .collect();
        self.shard.write(&ops).unwrap();
        for (place, (key, value, expires)) in staged.into_iter().enumerate() {
            self.model.versions.entry(key).or_default().push((first + place as u64, value, expires));
        }
    }

    /// Deletes a range, and perhaps puts some of its keys before it or anew, in the same turn.
    fn delete_range(&mut self) {
        let (a, b) = (self.rng.below(125), self.rng.below(125));
        let (start, end) = match self.rng.below(8) {
            0 => (vec![], key(a)),
            1 => (key(a), vec![]),
            2 if self.rng.below(4) == 0 => (vec![], vec![]),
            _ => (key(a.min(b)), key(a.min(b) + 1 + a.max(b) % 7)),
        };
        let value = vec![b'w'; self.rng.index(60)];
        let keys: Vec<_> = (0..self.rng.below(3)).map(|_| key(self.rng.below(120))).collect();
        let place = self.rng.index(keys.len() + 1);
        let mut ops: Vec<_> = keys.iter().map(|key| put(key, &value, None)).collect();
        ops.insert(place, WriteOp::delete_range(&start, &end));
        let first = self.shard.seqno + 1;
        self.shard.write(&ops).unwrap();
        let covers = |key: &Vec<u8>| *key >= start && (end.is_empty() || *key < end);
        for (number, op) in (first..).zip(&ops) {
            if op.kind == ValueKind::RangeDelete {
                let deleted = self.model.versions.iter_mut().filter(|(key, _)| covers(key));
                deleted.for_each(|(_, versions)| versions.push((number, None, None)));
            } else {
                let versions = self.model.versions.entry(op.key.to_vec()).or_default();
                versions.push((number, Some(op.value.to_vec()), None));
            }
        }
    }

    fn check_get(&mut self, view: &Arc<ReadView>, at: u64, now: u64) {
        let key = key(self.rng.below(125));
        let mode = if self.rng.below(2) == 0 { ReadMode::NoWait } else { ReadMode::Blocking };
        let mut found = view.get(hash(&key), &key, SeqNo(at), mode).unwrap();
        if found == crate::table::Lookup::WouldBlock {
            found = view.get(hash(&key), &key, SeqNo(at), ReadMode::Blocking).unwrap();
        }
        assert_eq!(visible(found, now), self.model.get(&key, at, now), "get at {at}");
        self.checks += 1;
    }

    fn check_scan(&mut self, view: &Arc<ReadView>, at: u64, now: u64) {
        let mut bound = || match self.rng.below(3) {
            0 => Bound::Unbounded,
            1 => Bound::Included(key(self.rng.below(125))),
            _ => Bound::Excluded(key(self.rng.below(125))),
        };
        let range = KeyRange::from((bound(), bound()));
        let reverse = self.rng.below(2) == 0;
        let mut found = drain(view.scan(&range, reverse, SeqNo(at), now));
        if reverse {
            found.reverse();
        }
        let expected = self.model.scan(&range, at, now);
        let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        let wrong = wrong.map(|place| (&found[place], &expected[place]));
        let counts = (found.len(), expected.len());
        assert!(found == expected, "scan of {range:?} at {at}, reverse {reverse}: {counts:?}, {wrong:?}");
        self.checks += 1;
    }

    fn check(&mut self, scan: bool) {
        let (view, at, now) = match self.snapshots.len() {
            n if n > 0 && self.rng.below(2) == 0 => {
                let place = self.rng.index(n);
                let Snapshot { at, now, view, is_old } = &self.snapshots[place];
                // A snapshot reads through its own view, and through any later one.
                let view =
                    if *is_old || self.rng.below(2) == 0 { Arc::clone(view) } else { self.shard.tree.view() };
                (view, *at, *now)
            }
            _ => (self.shard.tree.view(), SeqNo::MAX.0, self.now),
        };
        if scan { self.check_scan(&view, at, now) } else { self.check_get(&view, at, now) }
    }

    fn plan_compaction(&mut self) -> Option<CompactionPlan> {
        let (at, now) = self.readers();
        if self.rng.below(6) > 0 {
            return self.shard.tree.plan_compaction(at, now);
        }
        let (a, b) = (self.rng.below(120), self.rng.below(120));
        let range = KeyRange::from(key(a.min(b))..=key(a.max(b)));
        match self.shard.tree.plan_full_compaction(&range, FullBound::NONE, at, now) {
            FullCompaction::Plan(plan) => Some(*plan),
            FullCompaction::Busy | FullCompaction::Nothing => None,
        }
    }

    fn background(&mut self) {
        let tree = Arc::clone(&self.shard.tree);
        match self.rng.below(8) {
            0 => self.shard.writer.seal().unwrap(),
            1 if self.flush.is_none() => {
                let (at, now) = self.readers();
                self.flush = tree
                    .plan_flush(at, now, now)
                    .map(|plan| block_on(tree.run_flush(plan, &pace())).unwrap());
            }
            2 => {
                if let Some(output) = self.flush.take() {
                    tree.install_flush(output, &|| Ok(())).unwrap();
                }
            }
            3 | 4 => {
                if let Some(plan) = self.plan_compaction() {
                    self.compactions.push(block_on(tree.run_compaction(plan, &pace())).unwrap());
                }
            }
            5 | 6 if !self.compactions.is_empty() => {
                let place = self.rng.index(self.compactions.len());
                tree.install_compaction(self.compactions.swap_remove(place)).unwrap();
            }
            7 if self.rng.below(8) == 0 => {
                // Given up: what was written goes, what was taken is free again.
                self.flush = None;
                self.compactions.clear();
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..40 => self.write(),
            40..45 => self.delete_range(),
            45..65 => self.background(),
            65..80 => self.check(false),
            80..90 => self.check(true),
            90..94 => self.now += self.rng.below(5),
            94..96 if self.snapshots.len() < 4 => {
                let (at, now, view) = (self.shard.seqno, self.now, self.shard.tree.view());
                self.snapshots.push(Snapshot { at, now, view, is_old: false });
            }
            96..98 if !self.snapshots.is_empty() => {
                let place = self.rng.index(self.snapshots.len());
                self.snapshots.swap_remove(place);
            }
            98 => self.check_no_leaks(),
            99 if self.rng.below(4) == 0 => self.reopen(),
            _ => {}
        }
    }

    fn check_no_leaks(&mut self) {
        self.snapshots.clear();
        self.flush = None;
        self.compactions.clear();
        // What was read until now.
        self.shard.tree.free_unread_views();
        assert_eq!(self.shard.table_files(&self.sim), self.shard.live_files());
    }

    /// Ends the process, or only the shard's life in it, and opens it again.
    fn reopen(&mut self) {
        let (options, seqno) = (self.options.clone(), self.shard.seqno);
        if self.rng.below(2) == 0 {
            self.check_no_leaks();
            self.sim = self.sim.kill();
            guard(&self.sim);
            self.shard = open_in(&context(&self.sim), &options).unwrap();
        } else {
            // Jobs of the former life are still under way, and its snapshots are still read.
            self.shard.tree.revoke();
            self.snapshots.iter_mut().for_each(|snapshot| snapshot.is_old = true);
            let context = self.shard.context.clone();
            let old = std::mem::replace(&mut self.shard, open_in(&context, &options).unwrap());
            if let Some(output) = self.flush.take() {
                assert!(old.tree.install_flush(output, &|| Ok(())).is_err());
            }
            for output in self.compactions.drain(..) {
                assert!(old.tree.install_compaction(output).is_err());
            }
        }
        assert!(self.shard.seqno >= seqno, "a sequence number is handed out again");
    }
}

fn run(seed: u64, steps: u64, options: TreeOptions) -> (u64, [u64; 4]) {
    let mut run = Run::new(seed, options);
    for step in 0..steps {
        if step == steps / 2 && seed % 4 == 3 {
            run.check_no_leaks();
            let tiered = run.options.strategy == Strategy::SizeTiered;
            run.options.strategy = if tiered { Strategy::Leveled } else { Strategy::SizeTiered };
            run.reopen();
        }
        run.step();
    }
    run.shard.tree.verify(&pace()).unwrap();
    let stats = run.shard.tree.stats();
    run.snapshots.clear();
    run.shard.compact_due().unwrap();
    let (view, now) = (run.shard.tree.view(), run.now);
    for _ in 0..20 {
        run.check_scan(&view, SeqNo::MAX.0, now);
    }
    drop(view);
    run.check_no_leaks();
    run.sim.assert_no_violations();
    let Run { sim, shard, model, .. } = run;
    let live = shard.live_files();
    drop(shard);
    let left: Vec<_> =
        sim.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == "sst")).collect();
    assert_eq!(left.len(), live.len(), "files leak at close");
    drop(model);
    (run.checks, [stats.flushes, stats.compactions, stats.moves, stats.blocks_copied])
}

fn run_seeds(seeds: std::ops::Range<u64>, steps: u64, options: &TreeOptions) {
    let mut total = (0, [0; 4]);
    for seed in seeds.clone() {
        let result = std::panic::catch_unwind(|| run(seed, steps, options.clone()));
        let (checks, work) = result.unwrap_or_else(|_| panic!("seed {seed} of {steps} steps failed"));
        total.0 += checks;
        total.1.iter_mut().zip(work).for_each(|(sum, n)| *sum += n);
    }
    let (checks, [flushes, compactions, moves, copied]) = total;
    println!(
        "{seeds:?}: {checks} checks, {flushes} flushes, {compactions} compactions, {moves} moves, {copied} blocks copied"
    );
    assert!(flushes > 0 && compactions > 0 && copied > 0);
}

#[test]
fn the_leveled_tree_equals_the_model() {
    run_seeds(0..60, 1500, &tiny(Strategy::Leveled));
}

#[test]
fn the_size_tiered_tree_equals_the_model() {
    run_seeds(100..160, 1500, &tiny(Strategy::SizeTiered));
}

#[test]
fn larger_memtables_and_no_filters_equal_the_model() {
    let mut options = tiny(Strategy::Leveled);
    options.memtable_bytes = 16 << 10;
    options.table_bytes = 4 << 10;
    for table in &mut options.tables {
        table.filter_bits_per_key = 0;
    }
    run_seeds(200..215, 3000, &options);
}
