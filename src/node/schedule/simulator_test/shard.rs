//! A modelled shard: its memtables and levels as bytes, and the leveled strategy's jobs.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::super::{
    budget::{IoClass, Standing},
    pacer::Pacer,
    scheduler::ShardLoad,
    throttle::{FlushProgress, ShardCounts},
};
use super::{Plan, device::MIB};

/// What a table takes of a byte of keys and values.
pub(super) const PACKED: f64 = 0.6;
const L0_TRIGGER: usize = 4;
/// So many times the trigger is the most that is healthy in L0, and so many times its target in L1.
const HEALTHY_TIMES: f64 = 5.0;
const L0_AT_ONCE: usize = 16;
const TABLE_BYTES: f64 = 32.0 * MIB;
/// The data set of all shards: overwritten all the time, it does not grow beyond this.
const DATA_BYTES: f64 = 4096.0 * MIB;

/// What a job does to its shard, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Flush {
        input: f64,
    },
    /// Tables of L0 into L1, all of which is rewritten.
    Merge {
        tables: usize,
        io: f64,
    },
    /// A table of L1 into L2.
    Down {
        bytes: f64,
        io: f64,
    },
}

impl Work {
    pub(super) const fn class(self) -> IoClass {
        if matches!(self, Self::Flush { .. }) { IoClass::Flush } else { IoClass::Compaction }
    }

    /// What it reads and writes.
    pub(super) fn io(self) -> f64 {
        match self {
            Self::Flush { input } => input * PACKED,
            Self::Merge { io, .. } | Self::Down { io, .. } => io,
        }
    }
}

pub(super) struct Shard {
    /// How many there are, and what their memtables may take together.
    shards: f64,
    memory: f64,
    pub(super) active: f64,
    pub(super) sealed: f64,
    pub(super) written: f64,
    flushed: f64,
    l0: VecDeque<f64>,
    l1: f64,
    l2: f64,
    taken: [f64; 2],
    cost: [f64; 2],
    /// The flush that runs: what it reads, and what was paid for those before it.
    pub(super) flush: Option<(f64, u64)>,
    pub(super) compactions: usize,
    due_since: Option<Duration>,
    pub(super) longest_due: Duration,
    pub(super) standings: [Arc<Standing>; 2],
    pub(super) pacer: Pacer,
    pub(super) wishes: f64,
    pub(super) blocked_until: Duration,
}

impl Shard {
    pub(super) fn new(plan: &Plan) -> Self {
        let table = plan.memory * PACKED / plan.shards as f64;
        Self {
            shards: plan.shards as f64,
            memory: plan.memory,
            active: 0.0,
            sealed: 0.0,
            written: 0.0,
            flushed: 0.0,
            l0: vec![table; plan.first_l0_tables].into(),
            l1: 0.0,
            l2: 0.0,
            taken: [0.0; 2],
            cost: [0.0; 2],
            flush: None,
            compactions: 0,
            due_since: None,
            longest_due: Duration::ZERO,
            standings: [IoClass::Flush, IoClass::Compaction].map(|class| Arc::new(Standing::new(class))),
            pacer: Pacer::default(),
            wishes: 0.0,
            blocked_until: Duration::ZERO,
        }
    }

    pub(super) fn standing(&self, class: IoClass) -> &Arc<Standing> {
        &self.standings[usize::from(class == IoClass::Compaction)]
    }

    fn l1_target(&self) -> f64 {
        let l0 = L0_TRIGGER as f64 * self.memory * PACKED / self.shards;
        (l0 * self.l2).sqrt().max(l0)
    }

    fn scores(&self) -> [f64; 2] {
        let bytes: f64 = self.l0.iter().sum();
        let due = if bytes < 1.5 * self.l1 { 3 * L0_TRIGGER } else { L0_TRIGGER };
        [self.l0.len() as f64 / due as f64, self.l1 / self.l1_target()]
    }

    pub(super) fn backlog(&self) -> f64 {
        let l0 = self.l0.len() as f64 / L0_TRIGGER as f64;
        l0.max(self.l1 / self.l1_target()) / HEALTHY_TIMES
    }

    pub(super) fn next_compaction(&self) -> Option<Work> {
        let [l0, l1] = self.scores();
        if self.compactions > 0 || l0.max(l1) < 1.0 {
            return None;
        }
        if l1 >= 1.0 {
            let bytes = TABLE_BYTES.min(self.l1);
            return Some(Work::Down { bytes, io: 2.0 * bytes * (1.0 + self.l2 / self.l1) });
        }
        let tables = self.l0.len().min(L0_AT_ONCE);
        let bytes = self.l0.iter().take(tables).sum::<f64>() + self.l1;
        Some(Work::Merge { tables, io: 2.0 * bytes })
    }

    pub(super) fn begin(&mut self, work: Work, now: Duration) {
        match work {
            Work::Flush { input } => self.flush = Some((input, self.standing(IoClass::Flush).paid())),
            Work::Merge { .. } | Work::Down { .. } => {
                self.compactions += 1;
                self.due_since = Some(now);
            }
        }
    }

    pub(super) fn end(&mut self, work: Work) {
        match work {
            Work::Flush { input } => {
                self.flush = None;
                self.sealed = (self.sealed - input).max(0.0);
                self.flushed += input;
                self.l0.push_back(input * PACKED);
            }
            Work::Merge { tables, io } => {
                self.compactions -= 1;
                let taken = self.l0.drain(..tables).sum::<f64>();
                self.l1 += taken;
                self.note_cost(0, taken, io);
            }
            Work::Down { bytes, io } => {
                self.compactions -= 1;
                self.l1 -= bytes;
                self.l2 = (self.l2 + bytes).min(DATA_BYTES / self.shards);
                self.note_cost(1, bytes, io);
            }
        }
    }

    pub(super) fn has_compacted(&self) -> bool {
        self.taken[0] > 0.0
    }

    fn note_cost(&mut self, level: usize, taken: f64, io: f64) {
        self.taken[level] += taken;
        self.cost[level] += io;
    }

    pub(super) fn load(&mut self, shard: usize, now: Duration) -> ShardLoad {
        let next = self.next_compaction();
        self.due_since = next.map(|_| self.due_since.unwrap_or(now));
        let waited = self.due_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        self.longest_due = self.longest_due.max(waited);
        ShardLoad {
            shard,
            sealed_bytes: self.sealed as u64,
            flush_running: self.flush.is_some(),
            compaction_score: self.scores().into_iter().fold(0.0, f64::max),
            compaction_bytes: next.map_or(0, |work| work.io() as u64 / 2),
            compactions_running: self.compactions,
            waited,
            ..ShardLoad::default()
        }
    }

    pub(super) fn counts(&self) -> ShardCounts {
        let paid = |class| self.standing(class).paid();
        ShardCounts {
            written: self.written as u64,
            flushed: self.flushed as u64,
            tables_flushed: (self.flushed * PACKED) as u64,
            flush_paid: paid(IoClass::Flush),
            compacted: paid(IoClass::Compaction),
            taken: self.taken.map(|bytes| bytes as u64),
            cost: self.cost.map(|bytes| bytes as u64),
            backlog: self.backlog(),
            sealed: self.sealed as u64,
            flush: self.flush.map(|(input, before)| FlushProgress {
                input: input as u64,
                memory: input as u64,
                paid: paid(IoClass::Flush) - before,
            }),
            is_held_back: self.pacer.take_has_held_back(),
        }
    }
}
