//! A whole node in a model world: the real scheduler, budget, governor, throttle, pacers and accountant drive modelled
//! shards on modelled devices, in virtual time.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a model computes with what fits, and a test fails by panicking"
)]

mod claims;
mod device;
mod shard;

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use device::{Device, MIB};
use shard::{Shard, Work};

use super::{
    budget::{Budget, IoClass},
    governor::{GOVERNOR_TICK, Governor, Signals},
    meter::{FlushMeter, FlushSpent},
    scheduler::{Decision, decide, relief},
    slowdown::{SlowdownReason, WriteLimit},
    throttle::{NodeCounts, Throttle},
};
use crate::node::{
    accountant::{Accountant, Holding},
    env::Clock,
};

const CHUNK: u64 = 256 << 10;
/// What one worker moves in a second at the most, whatever the device.
const WORKER: f64 = 300.0 * MIB;
const SCHEDULE_TICK: Duration = Duration::from_millis(100);
const THROTTLE_TICK: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct ModelClock(AtomicU64);

impl Clock for ModelClock {
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
    fn wall_ms(&self) -> u64 {
        0
    }
    fn sleep(&self, _: Duration) {
        panic!("nothing sleeps in this world");
    }
}

/// What the foreground wants of a shard at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    /// Bytes of keys and values that writers would add in a second.
    write: f64,
    /// Whether somebody waits for a sync all the time.
    syncs: bool,
}

/// Of a shard among so many, so many seconds after the start.
type Load = fn(seconds: f64, shard: usize, shards: usize) -> Wish;

#[derive(Clone)]
struct Plan {
    device: Device,
    shards: usize,
    /// For all memtables, in bytes.
    memory: f64,
    flush_workers: usize,
    compaction_workers: usize,
    /// In bytes a second; `None`: auto.
    budget: Option<u64>,
    load: Load,
    seconds: usize,
    step: Duration,
    /// What each shard begins with.
    first_l0_tables: usize,
}

impl Plan {
    fn new(device: Device, load: Load) -> Self {
        Self {
            device,
            shards: 4,
            memory: 64.0 * MIB,
            flush_workers: 1,
            compaction_workers: 2,
            budget: None,
            load,
            seconds: 300,
            step: Duration::from_millis(2),
            first_l0_tables: 0,
        }
    }
}

struct Job {
    shard: usize,
    work: Work,
    /// Bytes that are not paid for, in all and of the chunk that is next.
    left: f64,
    chunk: u64,
    began: Duration,
    flush_paid_before: u64,
    /// Seconds that the chunk which was paid for still takes.
    busy: f64,
    waits_since: Option<Duration>,
}

/// What was seen in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    added: f64,
    /// By the first shard's writers.
    added_to_first: f64,
    paid: f64,
    /// NaN: unlimited.
    rate: f64,
    backlog: f64,
    worst_sync: f64,
    /// Seconds in which writers could not go on, whatever they had waited.
    full: f64,
}

struct World {
    plan: Plan,
    clock: Arc<ModelClock>,
    budget: Budget,
    governor: Option<Governor>,
    throttle: Throttle,
    flushes: FlushMeter,
    accountant: Accountant,
    shards: Vec<Shard>,
    jobs: Vec<Job>,
    credits: f64,
    noise: u64,
    syncs: (f64, u32),
    seconds: Vec<Second>,
    payments: Vec<(Duration, u64)>,
    rates: Vec<(Duration, Option<f64>)>,
    longest_job: Duration,
    /// What all compactions together took.
    work_seconds: f64,
    longest_flush_wait: Duration,
    slowed: Vec<bool>,
}

impl World {
    fn new(plan: Plan) -> Self {
        let clock = Arc::new(ModelClock::default());
        Self {
            budget: Budget::new(plan.budget, clock.clone()),
            governor: plan.budget.is_none().then(Governor::new),
            throttle: Throttle::new(plan.shards),
            flushes: FlushMeter::default(),
            accountant: Accountant::new(plan.memory as u64, plan.shards),
            shards: (0..plan.shards).map(|_| Shard::new(&plan)).collect(),
            jobs: Vec::new(),
            credits: plan.device.credits,
            noise: 1,
            syncs: (0.0, 0),
            seconds: vec![Second::default(); plan.seconds],
            payments: Vec::new(),
            rates: Vec::new(),
            longest_job: Duration::ZERO,
            work_seconds: 0.0,
            longest_flush_wait: Duration::ZERO,
            slowed: vec![false; plan.shards],
            clock,
            plan,
        }
    }

    fn run(plan: Plan) -> Self {
        let mut world = Self::new(plan);
        let step = world.plan.step;
        let is_due = |now: Duration, every: Duration| now.as_nanos() % every.as_nanos() < step.as_nanos();
        let mut now = Duration::ZERO;
        while now.as_secs() < world.plan.seconds as u64 {
            world.clock.0.store(now.as_nanos() as u64, Ordering::Relaxed);
            if is_due(now, THROTTLE_TICK) {
                world.throttle(now);
            }
            if is_due(now, GOVERNOR_TICK) {
                world.govern(now);
            }
            world.write(now);
            if world.work(now) || is_due(now, SCHEDULE_TICK) {
                world.schedule(now);
            }
            now += step;
        }
        world
    }

    fn second(&mut self, now: Duration) -> &mut Second {
        &mut self.seconds[now.as_secs() as usize]
    }

    fn write(&mut self, now: Duration) {
        let step = self.plan.step.as_secs_f64();
        let (shards, load) = (self.plan.shards, self.plan.load);
        for index in 0..shards {
            let wish = load(now.as_secs_f64(), index, shards);
            if wish.syncs && index == 0 {
                self.sync(now);
            }
            if wish.write <= 0.0 {
                continue;
            }
            let is_full = self.accountant.full();
            let added = if is_full { 0.0 } else { add(&mut self.shards[index], wish.write * step, now) };
            self.note_memory(index, now);
            let second = self.second(now);
            second.added += added;
            second.added_to_first += if index == 0 { added } else { 0.0 };
            second.full += if is_full { step / shards as f64 } else { 0.0 };
        }
    }

    fn note_memory(&mut self, index: usize, now: Duration) {
        let holding = |shard: &Shard| Holding {
            active: shard.active as u64,
            sealed: shard.sealed as u64,
            takes_writes: true,
            is_empty: shard.active < 1.0,
        };
        let asked = self.accountant.note(index, || holding(&self.shards[index]));
        if let Some(seals) = asked.filter(|seals| self.accountant.take_seal_request(*seals)) {
            let shard = &mut self.shards[seals];
            shard.sealed += std::mem::take(&mut shard.active);
            self.accountant.note(seals, || holding(&self.shards[seals]));
            self.schedule(now);
        }
    }

    /// One small access of the foreground: behind the chunks that the device has before it.
    fn sync(&mut self, now: Duration) {
        self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let noise = 0.8 + 0.4 * ((self.noise >> 40) as f64 / (1u64 << 24) as f64);
        let queued = self.jobs.iter().filter(|job| job.busy > 0.0).count() as f64 * CHUNK as f64;
        let took = noise * (self.plan.device.access_seconds + queued / self.bandwidth());
        self.syncs = (self.syncs.0 + took, self.syncs.1 + 1);
        let second = self.second(now);
        second.worst_sync = second.worst_sync.max(took);
    }

    fn bandwidth(&self) -> f64 {
        if self.credits > 0.0 { self.plan.device.bytes_per_second } else { self.plan.device.baseline }
    }

    /// Lets the jobs do what they can in a step. Whether one ended.
    fn work(&mut self, now: Duration) -> bool {
        let step = self.plan.step.as_secs_f64();
        let busy = self.jobs.iter().filter(|job| job.busy > 0.0).count().max(1) as f64;
        let takes = (CHUNK as f64 * busy / self.bandwidth()).max(CHUNK as f64 / WORKER);
        let (mut ended, mut paid) = (vec![], 0.0);
        for number in 0..self.jobs.len() {
            let mut time = step;
            while time > 0.0 {
                let job = &mut self.jobs[number];
                let part = time.min(job.busy);
                job.busy -= part;
                time -= part;
                if job.busy > 0.0 {
                    break;
                }
                if job.left <= 0.0 && job.chunk == 0 {
                    ended.push(number);
                    break;
                }
                if !self.pay(number, now, takes, &mut paid) {
                    break;
                }
            }
        }
        self.second(now).paid += paid;
        let spent = paid - self.plan.device.baseline * step;
        self.credits = (self.credits - spent).clamp(0.0, self.plan.device.credits);
        for number in ended.iter().rev() {
            let job = self.jobs.swap_remove(*number);
            self.end(now, &job);
        }
        !ended.is_empty()
    }

    /// Pays for a piece of a job's next chunk. Whether it could.
    fn pay(&mut self, number: usize, now: Duration, takes: f64, all: &mut f64) -> bool {
        let job = &mut self.jobs[number];
        if job.chunk == 0 {
            job.chunk = CHUNK.min(job.left.ceil() as u64).max(1);
            job.left -= job.chunk as f64;
        }
        let standing = self.shards[job.shard].standing(job.work.class());
        let Ok(paid) = self.budget.try_pay(standing, job.chunk, now) else {
            job.waits_since.get_or_insert(now);
            return false;
        };
        if job.work.class() == IoClass::Flush {
            let waited = now.saturating_sub(job.waits_since.unwrap_or(now));
            self.longest_flush_wait = self.longest_flush_wait.max(waited);
        }
        job.waits_since = None;
        job.chunk -= paid;
        if job.chunk == 0 {
            job.busy = takes;
        }
        *all += paid as f64;
        self.payments.push((now, paid));
        true
    }

    fn end(&mut self, now: Duration, job: &Job) {
        let took = now.saturating_sub(job.began);
        let shard = &mut self.shards[job.shard];
        shard.end(job.work);
        if let Work::Flush { input } = job.work {
            let paid = shard.standing(IoClass::Flush).paid() - job.flush_paid_before;
            self.flushes.note(input as u64, paid, &FlushSpent::hurried(took));
        } else {
            self.longest_job = self.longest_job.max(took);
            self.work_seconds += took.as_secs_f64();
        }
        self.note_memory(job.shard, now);
    }

    fn schedule(&mut self, now: Duration) {
        let shards = self.shards.iter_mut().enumerate();
        let loads: Vec<_> = shards.map(|(index, shard)| shard.load(index, now)).collect();
        for (shard, load) in self.shards.iter().zip(&loads) {
            shard.standing(IoClass::Compaction).set_urgency(relief(load));
        }
        for decision in decide(now, &loads) {
            let flushing = self.jobs.iter().filter(|job| job.work.class() == IoClass::Flush).count();
            let compacting = self.jobs.len() - flushing;
            let (index, work) = match decision {
                Decision::Flush(index) if flushing < self.plan.flush_workers => {
                    (index, Some(Work::Flush { input: self.shards[index].sealed }))
                }
                Decision::Compact(index) if compacting < self.plan.compaction_workers => {
                    (index, self.shards[index].next_compaction())
                }
                Decision::Flush(_) | Decision::Compact(_) => continue,
            };
            let Some(work) = work else { continue };
            let shard = &mut self.shards[index];
            shard.begin(work, now);
            self.jobs.push(Job {
                shard: index,
                work,
                left: work.io(),
                chunk: 0,
                began: now,
                flush_paid_before: shard.standing(IoClass::Flush).paid(),
                busy: 0.0,
                waits_since: None,
            });
        }
    }

    fn throttle(&mut self, now: Duration) {
        let counts: Vec<_> = self.shards.iter().map(Shard::counts).collect();
        let (active, sealed) = self.accountant.totals();
        let node = NodeCounts {
            limit: self.plan.memory as u64,
            used: active + sealed,
            sealed,
            budget: self.budget.rate(),
            flushes_at_once: self.plan.flush_workers,
            flushes: &self.flushes,
        };
        let limits = self.throttle.limits(now, &node, &counts);
        for ((shard, limit), slowed) in self.shards.iter().zip(limits).zip(&mut self.slowed) {
            *slowed |= limit.is_some();
            shard.pacer.allow(limit, now);
        }
        let worst = counts.iter().map(|counts| counts.backlog).fold(0.0, f64::max);
        let second = self.second(now);
        second.backlog = second.backlog.max(worst);
    }

    fn govern(&mut self, now: Duration) {
        let Some(governor) = &mut self.governor else { return };
        let (sum, count) = std::mem::take(&mut self.syncs);
        let signals = Signals {
            sync: (count > 0).then(|| Duration::from_secs_f64(sum / f64::from(count))),
            read: None,
            paid: self.budget.paid(IoClass::Flush) + self.budget.paid(IoClass::Compaction),
            was_held_back: self.budget.take_has_held_back(),
            backlog: self.shards.iter().map(Shard::backlog).fold(0.0, f64::max),
            written: self.throttle.written_per_second(),
            memory_is_short: self.shards.iter().any(|shard| for_memory(shard.pacer.limit())),
        };
        let allowance = governor.tick(now, &signals);
        self.budget.set_rate(allowance.bytes_per_second());
        self.budget.pause_compaction(allowance.compaction_pauses);
        self.rates.push((now, allowance.rate));
        self.second(now).rate = allowance.rate.unwrap_or(f64::NAN);
    }

    /// The mean of what was added in a second, from a second on, and how far the mean of any ten is from it.
    fn swing(&self, from: usize) -> (f64, f64) {
        let added: Vec<_> = self.seconds[from..].iter().map(|second| second.added).collect();
        let mean = added.iter().sum::<f64>() / added.len() as f64;
        let far = |ten: &[f64]| (ten.iter().sum::<f64>() / 10.0 / mean - 1.0).abs();
        (mean, added.windows(10).map(far).fold(0.0, f64::max))
    }

    fn full_seconds(&self) -> f64 {
        self.seconds.iter().map(|second| second.full).sum()
    }

    fn longest_due(&self) -> Duration {
        self.shards.iter().map(|shard| shard.longest_due).max().unwrap_or_default()
    }

    /// Keeps what was seen as a table, where one asks for that: `DBEX_SIMULATION_DIR` says where. The comparison draws it.
    fn keep(&self, name: &str) {
        let Some(dir) = std::env::var_os("DBEX_SIMULATION_DIR") else { return };
        let mut table = String::from("second,added,background,rate,backlog,worst_sync_us\n");
        for (at, second) in self.seconds.iter().enumerate() {
            let rate = if second.rate.is_nan() { String::new() } else { (second.rate / MIB).to_string() };
            let Second { added, paid, backlog, worst_sync, .. } = second;
            let (added, paid, sync) = (added / MIB, paid / MIB, worst_sync * 1e6);
            writeln!(table, "{at},{added},{paid},{rate},{backlog},{sync}").expect("a string takes it");
        }
        let file = std::path::Path::new(&dir).join(format!("{name}-{}.csv", self.plan.device.name));
        std::fs::write(file, table).expect("the directory takes files");
    }
}

fn for_memory(limit: Option<WriteLimit>) -> bool {
    limit.is_some_and(|limit| limit.reason == SlowdownReason::Memory)
}

/// Adds what the writers of a shard may of what they want in a step.
fn add(shard: &mut Shard, wanted: f64, now: Duration) -> f64 {
    // Writers that wait do not want more the longer they wait.
    shard.wishes = (shard.wishes + wanted).min(wanted * 4.0);
    let piece = (wanted / 4.0).max(116.0);
    let mut added = 0.0;
    while shard.wishes >= piece && shard.blocked_until <= now {
        shard.blocked_until = now + shard.pacer.place(piece as usize, now);
        shard.wishes -= piece;
        added += piece;
    }
    shard.active += added;
    shard.written += added;
    added
}
