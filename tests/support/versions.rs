//! What a node should hold: every version of every key with the position of its write, so that it can be read as of any
//! position and time.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use dbex::{Change, Expiry, KeyRange, StepDone, TimeToLive};

use crate::{face::ScanOrder, shapes::scanned, wall::START_MS};

/// Where one reads: what was written up to a position, as of a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    at: u64,
    now_ms: u64,
}

/// What was written to a key: a value, or none.
#[derive(Clone, Debug)]
struct Version {
    at: u64,
    value: Option<Bytes>,
    expires_at_ms: Option<u64>,
}

/// The model of a node.
pub(crate) struct Versions {
    keys: BTreeMap<Bytes, Vec<Version>>,
    written: u64,
    now_ms: u64,
}

impl Versions {
    pub(crate) fn new() -> Self {
        Self { keys: BTreeMap::new(), written: 0, now_ms: START_MS }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now_ms += ms(time);
    }

    /// Where one reads who reads now.
    pub(crate) fn now(&self) -> Point {
        Point { at: self.written, now_ms: self.now_ms }
    }

    /// The value of a key, and when it expires.
    fn stored(&self, key: &[u8], point: Point) -> Option<(&Bytes, Option<u64>)> {
        visible(self.keys.get(key)?, point)
    }

    pub(crate) fn get(&self, key: &[u8], point: Point) -> Option<Bytes> {
        self.stored(key, point).map(|(value, _)| value.clone())
    }

    /// How long a key that is there stays.
    pub(crate) fn time_to_live(&self, key: &[u8]) -> Option<TimeToLive> {
        let (_, expires_at_ms) = self.stored(key, self.now())?;
        let left = |at| TimeToLive::Left(Duration::from_millis(at - self.now_ms));
        Some(expires_at_ms.map_or(TimeToLive::Forever, left))
    }

    pub(crate) fn scan(&self, order: &ScanOrder, point: Point) -> Vec<(Bytes, Bytes)> {
        let all = self.keys.iter().filter_map(|(key, versions)| Some((key, visible(versions, point)?.0)));
        let pairs = scanned(all, |pair| pair.0, order);
        pairs.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Writes a value, or none, at the next position.
    pub(crate) fn write(&mut self, key: &Bytes, value: Option<Bytes>, expiry: Expiry) {
        let expires_at_ms = match expiry {
            Expiry::Keep => self.stored(key, self.now()).and_then(|(_, expires_at_ms)| expires_at_ms),
            Expiry::In(ttl) => Some(self.now_ms + ms(ttl)),
            Expiry::At(at_ms) => Some(at_ms),
            _ => None,
        };
        self.written += 1;
        let version = Version { at: self.written, value, expires_at_ms };
        self.keys.entry(key.clone()).or_default().push(version);
    }

    /// Removes all keys in a range.
    pub(crate) fn delete_range(&mut self, range: &KeyRange) {
        self.written += 1;
        let version = Version { at: self.written, value: None, expires_at_ms: None };
        let keys = self.keys.iter_mut().filter(|(key, _)| range.contains(key));
        keys.for_each(|(_, versions)| versions.push(version.clone()));
    }

    /// Does what an update decides.
    pub(crate) fn change(&mut self, key: &Bytes, change: Change) -> StepDone {
        let previous = self.get(key, self.now());
        let (value, expiry) = match change {
            Change::Put(value) => (Some(value), Expiry::Keep),
            Change::PutUntil(value, expiry) => (Some(value), expiry),
            Change::Expire(expiry) if previous.is_some() => (previous.clone(), expiry),
            Change::Expire(_) => return StepDone::default(),
            Change::Delete => (None, Expiry::Never),
            Change::Keep => return StepDone { current: previous.clone(), previous, is_changed: false },
        };
        self.write(key, value.clone(), expiry);
        StepDone { previous, current: value, is_changed: true }
    }
}

fn visible(versions: &[Version], point: Point) -> Option<(&Bytes, Option<u64>)> {
    let version = versions.iter().rev().find(|version| version.at <= point.at)?;
    let is_there = version.expires_at_ms.is_none_or(|at| point.now_ms < at);
    let value = version.value.as_ref().filter(|_| is_there)?;
    Some((value, version.expires_at_ms))
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("a short time")
}
