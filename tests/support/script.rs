//! A script: operations on a node, which follow from a seed alone, each with the answer that a model gives.
//!
//! Another operation is a variant of [`Op`], an arm in [`Author::next`] that asks the model, and an arm where scripts
//! are carried out.

use std::time::Duration;

use bytes::Bytes;
use dbex::{Change, Durability, ErrorKind, Expiry, KeyRange, StepDone, TimeToLive};

use crate::{
    face::ScanOrder,
    random::Random,
    shapes,
    versions::{Point, Versions},
};

pub(crate) type Pairs = Vec<(Bytes, Bytes)>;

/// Something to do. Snapshots and scans that are held are named by their places.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put {
        key: Bytes,
        value: Bytes,
        ttl: Option<Duration>,
        durability: Option<Durability>,
    },
    PutBytes {
        key: Bytes,
        value: Bytes,
    },
    PutIfAbsent {
        key: Bytes,
        value: Bytes,
    },
    Delete {
        key: Bytes,
    },
    DeleteRange {
        range: KeyRange,
    },
    Get {
        key: Bytes,
    },
    TimeToLive {
        key: Bytes,
    },
    MultiGet {
        keys: Vec<Bytes>,
    },
    Batch {
        writes: Vec<BatchWrite>,
        conditions: Vec<(Bytes, Option<Bytes>)>,
        durability: Option<Durability>,
    },
    Update {
        key: Bytes,
        edit: Edit,
    },
    Increment {
        key: Bytes,
        by: i64,
    },
    CompareAndSet {
        key: Bytes,
        expected: Option<Bytes>,
        value: Option<Bytes>,
    },
    Steps {
        steps: Vec<StepOf>,
    },
    Snapshot,
    DropSnapshot {
        place: usize,
    },
    SnapshotGet {
        place: usize,
        key: Bytes,
    },
    SnapshotMultiGet {
        place: usize,
        keys: Vec<Bytes>,
    },
    SnapshotScan {
        place: usize,
        order: ScanOrder,
    },
    Scan {
        order: ScanOrder,
        first: usize,
        is_held: bool,
    },
    ScanOn {
        place: usize,
        count: usize,
    },
    PassTime {
        time: Duration,
    },
    Sync,
    Flush,
    Settle,
    Compact {
        range: KeyRange,
    },
    /// Closes and opens; after a settle it is known which files there are to be.
    Reopen {
        is_settled: bool,
    },
    /// Kills the process and opens.
    Kill,
}

/// A write of a batch.
#[derive(Clone, Debug)]
pub(crate) enum BatchWrite {
    Key { key: Bytes, value: Option<Bytes>, ttl: Option<Duration> },
    DeleteRange(KeyRange),
}

/// One of several steps.
#[derive(Clone, Debug)]
pub(crate) enum StepOf {
    Put { key: Bytes, value: Bytes, expiry: Expiry },
    Delete { key: Bytes },
    Update { key: Bytes, edit: Edit },
}

/// What an update makes of the value that it finds.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Append(Bytes),
    Replace(Option<Bytes>),
    ReplaceUntil(Bytes, Expiry),
    Expire(Expiry),
    Keep,
}

impl Edit {
    pub(crate) fn change(self, current: Option<&[u8]>) -> Change {
        match self {
            // Long values begin anew.
            Self::Append(tail) if current.is_none_or(|current| current.len() < 200) => {
                Change::Put([current.unwrap_or_default(), &tail].concat().into())
            }
            Self::Append(tail) => Change::Put(tail),
            Self::Replace(value) => value.into(),
            Self::ReplaceUntil(value, expiry) => Change::PutUntil(value, expiry),
            Self::Expire(expiry) => Change::Expire(expiry),
            Self::Keep => Change::Keep,
        }
    }
}

/// What an operation answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused(ErrorKind),
    Value(Option<Bytes>),
    Values(Vec<Option<Bytes>>),
    Number(i64),
    Truth(bool),
    Steps(Vec<StepDone>),
    Pairs(Pairs),
    Left(Option<TimeToLive>),
}

/// Writes a script, and knows what is held where.
pub(crate) struct Author {
    random: Random,
    keys: usize,
    /// How often the node is re-opened, in 10,000 operations; the rarer, the longer something is held.
    reopens: usize,
    model: Versions,
    snapshots: Vec<Point>,
    /// What the scans that are held have still to return.
    scans: Vec<Pairs>,
}

const MOST_SNAPSHOTS: usize = 5;
const MOST_SCANS: usize = 4;

impl Author {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let keys = *random.pick(&[12, 60, 200, 600]);
        let reopens = *random.pick(&[0, 10, 60]);
        Self { random, keys, reopens, model: Versions::new(), snapshots: vec![], scans: vec![] }
    }

    fn key(&mut self) -> Bytes {
        shapes::key(&mut self.random, self.keys).into()
    }

    fn keys(&mut self, below: usize) -> Vec<Bytes> {
        (0..self.random.below(below)).map(|_| self.key()).collect()
    }

    fn value(&mut self) -> Bytes {
        shapes::value(&mut self.random).into()
    }

    fn ttl(&mut self) -> Duration {
        Duration::from_millis(*self.random.pick(&[1, 50, 1_000, 20_000, 3_600_000]))
    }

    fn some_ttl(&mut self) -> Option<Duration> {
        self.random.permille(250).then(|| self.ttl())
    }

    fn durability(&mut self) -> Option<Durability> {
        self.random.permille(100).then_some(Durability::Synced)
    }

    fn now(&self, key: &[u8]) -> Option<Bytes> {
        self.model.get(key, self.model.now())
    }

    /// The next operation, and its answer.
    pub(crate) fn next(&mut self) -> (Op, Answer) {
        if self.random.below(10_000) < self.reopens {
            return self.reopen();
        }
        match self.random.below(9_940) {
            0..2600 => self.put(),
            2600..2750 => {
                let range = self.range_to_delete();
                self.model.delete_range(&range);
                (Op::DeleteRange { range }, Answer::Done)
            }
            2750..3500 => {
                let key = self.key();
                self.model.write(&key, None, Expiry::Never);
                (Op::Delete { key }, Answer::Done)
            }
            3500..4400 => {
                let key = self.key();
                let value = self.now(&key);
                (Op::Get { key }, Answer::Value(value))
            }
            4400..4700 => {
                let key = self.key();
                let left = self.model.time_to_live(&key);
                (Op::TimeToLive { key }, Answer::Left(left))
            }
            4700..4900 => {
                let keys = self.keys(30);
                let values = keys.iter().map(|key| self.now(key)).collect();
                (Op::MultiGet { keys }, Answer::Values(values))
            }
            4900..5700 => self.batch(),
            5700..6200 => self.update(),
            6200..6500 => self.increment(),
            6500..6900 => self.compare(),
            6900..7200 => self.steps(),
            7200..7500 => self.snapshot(),
            7500..8300 => self.read_snapshot(),
            8300..8750 => self.scan(),
            8750..9150 => self.scan_on(),
            9150..9500 => {
                let time = Duration::from_millis(*self.random.pick(&[1, 49, 950, 10_000]));
                self.model.pass(time);
                (Op::PassTime { time }, Answer::Done)
            }
            9500..9550 => (Op::Sync, Answer::Done),
            9550..9720 => (Op::Flush, Answer::Done),
            9720..9790 => (Op::Settle, Answer::Done),
            _ => (Op::Compact { range: shapes::range(&mut self.random, self.keys) }, Answer::Done),
        }
    }

    /// What is held at the end is read to its end, and everything once more.
    pub(crate) fn end(&mut self) -> Vec<(Op, Answer)> {
        let all = ScanOrder { range: KeyRange::all(), prefix: None, reverse: false, limit: None };
        let mut ops = vec![];
        for (place, point) in self.snapshots.iter().enumerate() {
            let pairs = self.model.scan(&all, *point);
            ops.push((Op::SnapshotScan { place, order: all.clone() }, Answer::Pairs(pairs)));
        }
        for (place, rest) in std::mem::take(&mut self.scans).into_iter().enumerate().rev() {
            ops.push((Op::ScanOn { place, count: usize::MAX }, Answer::Pairs(rest)));
        }
        let pairs = self.model.scan(&all, self.model.now());
        for (key, value) in &pairs {
            ops.push((Op::Get { key: key.clone() }, Answer::Value(Some(value.clone()))));
        }
        ops.push((Op::Scan { order: all, first: usize::MAX, is_held: false }, Answer::Pairs(pairs)));
        ops.push((Op::Reopen { is_settled: true }, Answer::Done));
        ops
    }

    fn put(&mut self) -> (Op, Answer) {
        let (key, value) = (self.key(), self.value());
        match self.random.below(10) {
            0 => {
                self.model.write(&key, Some(value.clone()), Expiry::Never);
                (Op::PutBytes { key, value }, Answer::Done)
            }
            1 if self.now(&key).is_some() => {
                (Op::PutIfAbsent { key, value }, Answer::Refused(ErrorKind::Conflict))
            }
            1 => {
                self.model.write(&key, Some(value.clone()), Expiry::Never);
                (Op::PutIfAbsent { key, value }, Answer::Done)
            }
            _ => {
                let (ttl, durability) = (self.some_ttl(), self.durability());
                self.model.write(&key, Some(value.clone()), ttl.map_or(Expiry::Never, Expiry::In));
                (Op::Put { key, value, ttl, durability }, Answer::Done)
            }
        }
    }

    fn batch(&mut self) -> (Op, Answer) {
        let conditions = if self.random.permille(400) { self.conditions() } else { vec![] };
        let holds = conditions.iter().all(|(key, value)| self.now(key) == *value);
        let mut writes = vec![];
        for _ in 0..self.random.below(20) {
            if self.random.permille(60) {
                let range = self.range_to_delete();
                if holds {
                    self.model.delete_range(&range);
                }
                writes.push(BatchWrite::DeleteRange(range));
                continue;
            }
            let (key, ttl) = (self.key(), self.some_ttl());
            let value = self.random.permille(700).then(|| self.value());
            if holds {
                let expiry = ttl.filter(|_| value.is_some()).map_or(Expiry::Never, Expiry::In);
                self.model.write(&key, value.clone(), expiry);
            }
            writes.push(BatchWrite::Key { key, value, ttl });
        }
        let answer = if holds { Answer::Done } else { Answer::Refused(ErrorKind::Conflict) };
        (Op::Batch { writes, conditions, durability: self.durability() }, answer)
    }

    /// Mostly a few keys, now and then many.
    fn range_to_delete(&mut self) -> KeyRange {
        if self.random.permille(150) {
            return shapes::range(&mut self.random, self.keys);
        }
        let key = self.key();
        let len = self.random.between(key.len().saturating_sub(2).max(1), key.len());
        KeyRange::prefix(&key[..len])
    }

    /// What some keys have, as conditions; now and then one of them does not hold.
    fn conditions(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        let mut conditions = vec![];
        for _ in 0..self.random.between(1, 4) {
            let key = self.key();
            let value = self.now(&key);
            let value = match self.random.below(10) {
                0 => None,
                1 => Some(self.value()),
                _ => value,
            };
            conditions.push((key, value));
        }
        conditions
    }

    fn edit(&mut self) -> Edit {
        match self.random.below(10) {
            0..5 => Edit::Append(self.random.next().to_string().into()),
            5..7 => {
                let is_put = self.random.permille(700);
                Edit::Replace(is_put.then(|| self.value()))
            }
            7 => Edit::ReplaceUntil(self.value(), Expiry::In(self.ttl())),
            8 => Edit::Expire(if self.random.permille(500) { Expiry::In(self.ttl()) } else { Expiry::Never }),
            _ => Edit::Keep,
        }
    }

    fn edited(&mut self, key: &Bytes, edit: &Edit) -> StepDone {
        let change = edit.clone().change(self.now(key).as_deref());
        self.model.change(key, change)
    }

    fn update(&mut self) -> (Op, Answer) {
        let (key, edit) = (self.key(), self.edit());
        let done = self.edited(&key, &edit);
        (Op::Update { key, edit }, Answer::Value(done.previous))
    }

    fn increment(&mut self) -> (Op, Answer) {
        let (key, by) = (self.key(), *self.random.pick(&[1, -1, 1000, i64::MAX]));
        let before = self.now(&key).map_or(Some(0), |value| std::str::from_utf8(&value).ok()?.parse().ok());
        let sum = before.and_then(|before: i64| before.checked_add(by));
        if let Some(sum) = sum {
            self.model.write(&key, Some(sum.to_string().into()), Expiry::Keep);
        }
        (Op::Increment { key, by }, sum.map_or(Answer::Refused(ErrorKind::Invalid), Answer::Number))
    }

    fn compare(&mut self) -> (Op, Answer) {
        let key = self.key();
        let current = self.now(&key);
        let expected = match self.random.below(4) {
            0 => None,
            1 => Some("surely another".into()),
            _ => current.clone(),
        };
        let is_put = self.random.permille(700);
        let value = is_put.then(|| self.value());
        let fits = expected == current;
        if fits {
            self.model.change(&key, value.clone().into());
        }
        (Op::CompareAndSet { key, expected, value }, Answer::Truth(fits))
    }

    /// Several writes at once, often more than one of a key.
    fn steps(&mut self) -> (Op, Answer) {
        let (mut steps, mut done) = (vec![], vec![]);
        let among = (0..self.random.between(1, 4)).map(|_| self.key()).collect::<Vec<_>>();
        for _ in 0..self.random.between(1, 10) {
            let key = self.random.pick(&among).clone();
            let written = StepDone { is_changed: true, ..StepDone::default() };
            let step = match self.random.below(4) {
                0 => {
                    self.model.write(&key, None, Expiry::Never);
                    done.push(written);
                    StepOf::Delete { key }
                }
                1 => {
                    let (value, expiry) = (self.value(), self.some_ttl().map_or(Expiry::Never, Expiry::In));
                    self.model.write(&key, Some(value.clone()), expiry);
                    done.push(written);
                    StepOf::Put { key, value, expiry }
                }
                _ => {
                    let edit = self.edit();
                    done.push(self.edited(&key, &edit));
                    StepOf::Update { key, edit }
                }
            };
            steps.push(step);
        }
        (Op::Steps { steps }, Answer::Steps(done))
    }

    fn snapshot(&mut self) -> (Op, Answer) {
        if self.snapshots.len() < MOST_SNAPSHOTS {
            self.snapshots.push(self.model.now());
            return (Op::Snapshot, Answer::Done);
        }
        let place = self.random.below(self.snapshots.len());
        self.snapshots.swap_remove(place);
        (Op::DropSnapshot { place }, Answer::Done)
    }

    fn read_snapshot(&mut self) -> (Op, Answer) {
        if self.snapshots.is_empty() {
            return self.snapshot();
        }
        let place = self.random.below(self.snapshots.len());
        let point = self.snapshots[place];
        match self.random.below(10) {
            0..5 => {
                let key = self.key();
                let value = self.model.get(&key, point);
                (Op::SnapshotGet { place, key }, Answer::Value(value))
            }
            5..7 => {
                let keys = self.keys(30);
                let values = keys.iter().map(|key| self.model.get(key, point)).collect();
                (Op::SnapshotMultiGet { place, keys }, Answer::Values(values))
            }
            _ => {
                let order = shapes::order(&mut self.random, self.keys);
                let pairs = self.model.scan(&order, point);
                (Op::SnapshotScan { place, order }, Answer::Pairs(pairs))
            }
        }
    }

    fn scan(&mut self) -> (Op, Answer) {
        let order = shapes::order(&mut self.random, self.keys);
        let mut pairs = self.model.scan(&order, self.model.now());
        let first = self.random.between(1, 40);
        let rest = pairs.split_off(first.min(pairs.len()));
        let is_held = self.scans.len() < MOST_SCANS;
        if is_held {
            self.scans.push(rest);
        }
        (Op::Scan { order, first, is_held }, Answer::Pairs(pairs))
    }

    fn scan_on(&mut self) -> (Op, Answer) {
        if self.scans.is_empty() {
            return self.scan();
        }
        let place = self.random.below(self.scans.len());
        let count = *self.random.pick(&[1, 10, usize::MAX]);
        let mut pairs = std::mem::take(&mut self.scans[place]);
        let rest = pairs.split_off(count.min(pairs.len()));
        // One that returns fewer than it is asked for is at its end, and let go.
        if pairs.len() < count {
            self.scans.swap_remove(place);
        } else {
            self.scans[place] = rest;
        }
        (Op::ScanOn { place, count }, Answer::Pairs(pairs))
    }

    /// Nothing that is held outlives its node.
    fn reopen(&mut self) -> (Op, Answer) {
        self.snapshots.clear();
        self.scans.clear();
        let op = match self.random.below(3) {
            0 => Op::Kill,
            1 => Op::Reopen { is_settled: false },
            _ => Op::Reopen { is_settled: true },
        };
        (op, Answer::Done)
    }
}
