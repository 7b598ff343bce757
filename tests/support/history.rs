//! What one client has written and been told, and what of it a node may have lost after a power loss:
//! of each shard's writes a suffix that nobody was promised, and of a batch all or nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use dbex::key::{EscapedKey, KeyHash};

pub(crate) type Key = Vec<u8>;
pub(crate) type Value = Vec<u8>;
pub(crate) type State = BTreeMap<Key, Value>;
/// A put, or a delete (`None`).
pub(crate) type Op = (Key, Option<Value>);

/// The writes of one client, which waits for each ack before its next write and shares its keys with nobody.
#[derive(Clone)]
pub(crate) struct History {
    hash_seed: u64,
    /// What is there for ever: a power loss cannot take it.
    settled: State,
    /// The present state, with every write that was acked.
    live: State,
    shards: Vec<ShardLog>,
    /// For each write in several shards: the shards, and its place in each.
    batches: Vec<Vec<(usize, usize)>>,
}

#[derive(Clone, Default)]
struct ShardLog {
    /// What each write did in this shard, in the order in which they were sent.
    writes: Vec<Vec<Op>>,
    acked: usize,
    /// How many of the writes are promised to survive a power loss.
    promised: usize,
}

/// A write that was sent and not answered yet.
#[must_use]
pub(crate) struct Sent {
    ops: Vec<Op>,
    shards: Vec<usize>,
}

impl History {
    pub(crate) fn new(hash_seed: u64, shards: u32) -> Self {
        let shards = (0..shards).map(|_| ShardLog::default()).collect();
        Self { hash_seed, settled: State::new(), live: State::new(), shards, batches: vec![] }
    }

    fn shard(&self, key: &[u8]) -> usize {
        let count = u32::try_from(self.shards.len()).expect("there are few shards");
        usize::try_from(KeyHash::of(key, self.hash_seed).shard(count)).expect("it is below the count")
    }

    /// What a read must return now.
    pub(crate) fn live(&self) -> &State {
        &self.live
    }

    /// Notes a write before it is sent. Of several ops on one key the last counts.
    pub(crate) fn sent(&mut self, ops: Vec<Op>) -> Sent {
        let mut parts: BTreeMap<usize, Vec<Op>> = BTreeMap::new();
        for op in &ops {
            parts.entry(self.shard(&op.0)).or_default().push(op.clone());
        }
        let shards: Vec<_> = parts.keys().copied().collect();
        let places = parts.into_iter().map(|(shard, ops)| {
            let writes = &mut self.shards[shard].writes;
            writes.push(ops);
            (shard, writes.len() - 1)
        });
        let places: Vec<_> = places.collect();
        if places.len() > 1 {
            self.batches.push(places);
        }
        Sent { ops, shards }
    }

    /// The write was acked; `is_promised`: as `Synced`.
    pub(crate) fn acked(&mut self, sent: Sent, is_promised: bool) {
        for (key, value) in sent.ops {
            match value {
                Some(value) => self.live.insert(key, value),
                None => self.live.remove(&key),
            };
        }
        for shard in sent.shards {
            let log = &mut self.shards[shard];
            log.acked = log.writes.len();
            if is_promised {
                log.promised = log.acked;
            }
        }
    }

    /// A sync, a flush or a close returned: everything that was acked is promised.
    pub(crate) fn promised_all(&mut self) {
        self.shards.iter_mut().for_each(|log| log.promised = log.acked);
    }

    /// Checks what is there after a power loss, and goes on from it: it is settled now.
    ///
    /// # Errors
    /// What may not have happened.
    pub(crate) fn after_power_loss(&mut self, found: &State) -> Result<(), String> {
        let kept = self.largest_cut(found)?;
        for (shard, (kept, log)) in kept.iter().zip(&self.shards).enumerate() {
            if *kept < log.promised {
                let lost: Vec<_> = log.writes[*kept..log.promised].iter().map(|ops| show(ops)).collect();
                return Err(format!(
                    "shard {shard} kept {kept} of its writes, {} were promised, {} acked; lost: {}",
                    log.promised,
                    log.acked,
                    lost.join(", ")
                ));
            }
        }
        self.go_on_from(found);
        Ok(())
    }

    /// Checks what is there after the process was killed, or closed, and goes on from it: every ack counts.
    ///
    /// # Errors
    /// What may not have happened.
    pub(crate) fn after_end_of_process(&mut self, found: &State) -> Result<(), String> {
        self.promised_all();
        self.after_power_loss(found)
    }

    fn go_on_from(&mut self, found: &State) {
        self.settled.clone_from(found);
        self.live.clone_from(found);
        self.shards.fill(ShardLog::default());
        self.batches.clear();
    }

    /// How many writes of each shard make up what was found, with each batch wholly in or out; the largest such counts.
    fn largest_cut(&self, found: &State) -> Result<Vec<usize>, String> {
        let fitting: Vec<_> =
            (0..self.shards.len()).map(|shard| self.fitting_prefixes(shard, found)).collect();
        let mut kept = Vec::with_capacity(fitting.len());
        for (shard, fits) in fitting.iter().enumerate() {
            kept.push(*fits.last().ok_or_else(|| self.why_nothing_fits(shard, found))?);
        }
        loop {
            let is_in = |kept: &[usize], (shard, place): (usize, usize)| kept[shard] > place;
            let half = self.batches.iter().find(|places| {
                let parts = places.iter().filter(|place| is_in(&kept, **place)).count();
                parts > 0 && parts < places.len()
            });
            let Some(half) = half else { return Ok(kept) };
            for (shard, place) in half {
                if kept[*shard] <= *place {
                    continue;
                }
                let shorter = fitting[*shard].iter().rev().find(|count| **count <= *place);
                kept[*shard] = *shorter.ok_or_else(|| {
                    let parts: Vec<_> =
                        half.iter().map(|(shard, place)| show(&self.shards[*shard].writes[*place])).collect();
                    format!("half a batch is there: shards and places {half:?}, {}", parts.join(" | "))
                })?;
            }
        }
    }

    /// How many of a shard's writes, from the first on, lead to what was found; all counts that do.
    fn fitting_prefixes(&self, shard: usize, found: &State) -> Vec<usize> {
        let of_shard = |state: &State| -> State {
            let own = state.iter().filter(|(key, _)| self.shard(key) == shard);
            own.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let (mut state, found) = (of_shard(&self.settled), of_shard(found));
        let keys: BTreeSet<_> = state.keys().chain(found.keys()).cloned().collect();
        let mut differing: BTreeSet<_> =
            keys.into_iter().filter(|key| state.get(key) != found.get(key)).collect();
        let mut fitting = vec![];
        for count in 0..=self.shards[shard].writes.len() {
            if count > 0 {
                for (key, value) in &self.shards[shard].writes[count - 1] {
                    match value {
                        Some(value) => state.insert(key.clone(), value.clone()),
                        None => state.remove(key),
                    };
                    if state.get(key) == found.get(key) {
                        differing.remove(key);
                    } else {
                        differing.insert(key.clone());
                    }
                }
            }
            if differing.is_empty() {
                fitting.push(count);
            }
        }
        fitting
    }

    /// A word about the first keys that no prefix explains, for a failing test.
    fn why_nothing_fits(&self, shard: usize, found: &State) -> String {
        let log = &self.shards[shard];
        let mut text = format!(
            "what is in shard {shard} is no prefix of its {} writes ({} acked, {} promised); each key's writes, and what was found:",
            log.writes.len(),
            log.acked,
            log.promised
        );
        let keys: BTreeSet<_> = self
            .settled
            .keys()
            .chain(found.keys())
            .chain(log.writes.iter().flatten().map(|(key, _)| key))
            .collect();
        for key in keys.into_iter().filter(|key| self.shard(key) == shard) {
            let writes = log.writes.iter().enumerate().flat_map(|(place, ops)| {
                ops.iter()
                    .filter(|op| op.0 == *key)
                    .map(move |(_, value)| format!("{place}:{}", show_value(value.as_ref())))
            });
            let writes: Vec<_> = writes.collect();
            let settled = show_value(self.settled.get(key));
            let (writes, found) = (writes.join(" "), show_value(found.get(key)));
            let _ = write!(text, "\n  {} was {settled}; {writes}; found {found}", EscapedKey(key));
        }
        text
    }
}

fn show(ops: &[Op]) -> String {
    let ops: Vec<_> = ops
        .iter()
        .map(|(key, value)| format!("{}={}", EscapedKey(key), show_value(value.as_ref())))
        .collect();
    format!("[{}]", ops.join(" "))
}

/// The part of a value that tells it from others.
pub(crate) fn show_value(value: Option<&Value>) -> String {
    value.map_or("none".to_owned(), |value| {
        let head: String = value.iter().take(12).map(|byte| char::from(*byte)).collect();
        format!("{head:?}({})", value.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two shards and a key in each.
    fn two_shards() -> (History, Key, Key) {
        let history = History::new(7, 2);
        let key =
            |shard| (0_u32..1_000_000).map(|i| i.to_string().into_bytes()).find(|key| history.shard(key) == shard);
        let (left, right) = (key(0).expect("a key"), key(1).expect("a key"));
        (history, left, right)
    }

    fn put(key: &Key, value: &str) -> Op {
        (key.clone(), Some(value.as_bytes().to_vec()))
    }

    fn state(pairs: &[(&Key, &str)]) -> State {
        pairs.iter().map(|(key, value)| ((*key).clone(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_suffix_of_a_shard_may_be_lost_but_no_promise_and_no_hole() {
        let write = |found: &dyn Fn(&Key, &Key) -> State| {
            let (mut history, left, _) = two_shards();
            let other = (0_u32..1_000_000)
                .map(|i| format!("x{i}").into_bytes())
                .find(|key| history.shard(key) == 0)
                .expect("a key");
            for (op, is_promised) in
                [(put(&left, "1"), true), (put(&other, "2"), false), (put(&left, "3"), false)]
            {
                let sent = history.sent(vec![op]);
                history.acked(sent, is_promised);
            }
            let _in_flight = history.sent(vec![put(&other, "4")]);
            history.after_power_loss(&found(&left, &other))
        };
        assert_eq!(write(&|left, other| state(&[(left, "3"), (other, "4")])), Ok(()));
        assert_eq!(write(&|left, other| state(&[(left, "3"), (other, "2")])), Ok(()));
        assert_eq!(write(&|left, other| state(&[(left, "1"), (other, "2")])), Ok(()));
        assert_eq!(write(&|left, _| state(&[(left, "1")])), Ok(()));
        assert!(write(&|_, _| State::new()).unwrap_err().contains("kept 0 of its writes"));
        assert!(write(&|left, _| state(&[(left, "3")])).unwrap_err().contains("no prefix"), "a hole");
        assert!(write(&|left, _| state(&[(left, "2")])).unwrap_err().contains("no prefix"), "a wrong value");
    }

    #[test]
    fn a_batch_is_whole_or_absent_and_takes_what_is_promised_behind_it_along() {
        let write = |is_promised, found: &dyn Fn(&Key, &Key) -> State| {
            let (mut history, left, right) = two_shards();
            let sent = history.sent(vec![put(&left, "1"), put(&right, "1")]);
            history.acked(sent, false);
            let sent = history.sent(vec![put(&left, "2")]);
            history.acked(sent, is_promised);
            history.after_power_loss(&found(&left, &right))
        };
        assert_eq!(write(false, &|_, _| State::new()), Ok(()));
        assert_eq!(write(false, &|left, right| state(&[(left, "1"), (right, "1")])), Ok(()));
        assert_eq!(write(true, &|left, right| state(&[(left, "2"), (right, "1")])), Ok(()));
        assert!(write(false, &|left, _| state(&[(left, "1")])).unwrap_err().contains("half a batch"));
        assert!(write(false, &|_, right| state(&[(right, "1")])).unwrap_err().contains("half a batch"));
        assert!(write(true, &|left, _| state(&[(left, "2")])).unwrap_err().contains("half a batch"));
        assert!(write(true, &|_, _| State::new()).unwrap_err().contains("kept 0"));
    }

    #[test]
    fn a_killed_process_loses_no_ack() {
        let (mut history, left, _) = two_shards();
        let sent = history.sent(vec![put(&left, "1")]);
        history.acked(sent, false);
        let sent = history.sent(vec![(left.clone(), None)]);
        history.acked(sent, false);
        assert!(history.after_end_of_process(&state(&[(&left, "1")])).is_err());
        assert_eq!(history.after_end_of_process(&State::new()), Ok(()));
    }
}
