//! Clients of a node in a simulated world. Each has keys of its own, knows what they may hold, and takes no other answer:
//! what was acked is there, what was refused is not, and what is in doubt is one or the other, wholly.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dbex::{
    Durability, Error, ErrorKind, Pair, PutOptions, Result, Threads, WriteBatch, key::KeyRange,
    waiting::block_on,
};
use futures_util::StreamExt;
use parking_lot::Mutex;

use crate::{
    random::{Random, derive},
    sim_threads::SimThreads,
    sim_world::World,
};

const KEYS: usize = 500;
const MOST_BYTES: usize = 1500;
/// A flood's values are this large.
const FLOOD_BYTES: usize = 8000;
/// Whoever waits longer than this for an answer waits for ever. A scan reads each of its blocks behind what else the
/// device has to do.
const PATIENCE: Duration = Duration::from_mins(2);
const PATIENCE_OF_A_SCAN: Duration = Duration::from_mins(10);
/// How long who floods the node rests between two writes.
const HARDLY_A_REST: Duration = Duration::from_millis(5);

/// What all clients share.
#[derive(Default)]
pub(crate) struct Crowd {
    stop: AtomicBool,
    /// Whether there is more to write than the device bears.
    pub(crate) floods: AtomicBool,
    /// How often the weather has changed; while it is odd, nothing may fail.
    pub(crate) weather: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) in_doubt: AtomicU64,
    pub(crate) read: AtomicU64,
    /// The longest that anybody waited for an answer, scans left out.
    longest: Mutex<Duration>,
}

impl Crowd {
    pub(crate) fn longest_answer(&self) -> Duration {
        *self.longest.lock()
    }

    /// All that was asked.
    pub(crate) fn operations(&self) -> u64 {
        let counts = [&self.acked, &self.refused, &self.in_doubt, &self.read];
        counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Has all clients stop, and returns them.
    pub(crate) fn stop(&self, clients: Vec<Running>) -> Vec<Client> {
        self.stop.store(true, Ordering::Relaxed);
        let stopped = clients.into_iter().map(|Running { thread, client }| {
            assert!(thread.join(), "a client panicked");
            let client = client.lock().take();
            client.unwrap()
        });
        stopped.collect()
    }
}

/// A client at work.
pub(crate) struct Running {
    thread: Box<dyn dbex::Thread>,
    client: Arc<Mutex<Option<Client>>>,
}

/// See the module.
pub(crate) struct Client {
    number: usize,
    random: Random,
    world: Arc<World>,
    crowd: Arc<Crowd>,
    /// The writes that a key may show, by their numbers, and whether each is a delete.
    may_show: Vec<BTreeMap<u64, bool>>,
    writes: u64,
}

impl Client {
    pub(crate) fn new(number: usize, seed: u64, world: Arc<World>, crowd: Arc<Crowd>) -> Self {
        let random = Random::new(derive(seed, 1000 + number as u64));
        let may_show = vec![BTreeMap::from([(0, true)]); KEYS];
        Self { number, random, world, crowd, may_show, writes: 0 }
    }

    /// Starts it on a thread of its own, until it is told to stop.
    pub(crate) fn start(mut self) -> Running {
        let client = Arc::new(Mutex::new(None));
        let left = Arc::clone(&client);
        let body = move || {
            while !self.crowd.stop.load(Ordering::Relaxed) {
                // One in three has hardly a rest while there is a flood.
                if self.number.is_multiple_of(3) && self.crowd.floods.load(Ordering::Relaxed) {
                    self.put(Durability::Buffered, FLOOD_BYTES);
                    self.world.sleep(HARDLY_A_REST);
                } else {
                    self.act();
                    let ms = self.random.between(1, 400) as u64;
                    self.world.sleep(Duration::from_millis(ms));
                }
            }
            *left.lock() = Some(self);
        };
        Running { thread: SimThreads.spawn("client", Box::new(body)).unwrap(), client }
    }

    fn act(&mut self) {
        let durability = if self.random.permille(200) { Durability::Synced } else { Durability::Buffered };
        match self.random.below(200) {
            0..60 => {
                let key = self.random.below(KEYS);
                drop(self.read(key));
            }
            60 => drop(self.scan()),
            61..80 => self.write_batch(durability),
            80..100 => self.delete(),
            _ => self.put(durability, MOST_BYTES),
        }
    }

    fn put(&mut self, durability: Durability, most_bytes: usize) {
        let key = self.random.below(KEYS);
        let (write, value) = self.next_value(most_bytes);
        let options = PutOptions::new().durability(durability);
        let put = self.world.node().put_with(self.name(key), value, options);
        let done = self.answer(put);
        self.note_write(&[(key, false)], write, &done);
    }

    fn delete(&mut self) {
        let key = self.random.below(KEYS);
        self.writes += 1;
        let delete = self.world.node().delete(self.name(key));
        let done = self.answer(delete);
        self.note_write(&[(key, true)], self.writes, &done);
    }

    fn write_batch(&mut self, durability: Durability) {
        let (write, value) = self.next_value(MOST_BYTES);
        let keys: BTreeMap<usize, bool> =
            (0..4).map(|_| (self.random.below(KEYS), self.random.permille(300))).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let mut batch = WriteBatch::new();
        batch.durability(durability);
        for (key, deletes) in &keys {
            if *deletes {
                batch.delete(self.name(*key));
            } else {
                batch.put(self.name(*key), &value);
            }
        }
        let written = self.world.node().write(batch);
        let done = self.answer(written);
        self.note_write(&keys, write, &done);
        if done.is_err_and(|error| !is_refusal(&error)) {
            self.expect_all_or_nothing(&keys, write);
        }
    }

    /// Of a batch that is in doubt all is there or nothing.
    fn expect_all_or_nothing(&self, keys: &[(usize, bool)], write: u64) {
        let puts: Vec<_> =
            keys.iter().filter(|(_, deletes)| !deletes).map(|(key, _)| self.name(*key)).collect();
        let values = loop {
            match self.answer(self.world.node().multi_get(puts.clone())) {
                Ok(values) => break values,
                Err(_) => self.world.sleep(Duration::from_millis(100)),
            }
        };
        let is_there =
            |value: &Option<bytes::Bytes>| value.as_ref().is_some_and(|value| write_of(value) == write);
        let there = values.iter().filter(|value| is_there(value)).count();
        assert!([0, puts.len()].contains(&there), "{there} of {} parts of a batch are there", puts.len());
    }

    /// Reads a key.
    ///
    /// # Errors
    /// Why it could not be read.
    ///
    /// # Panics
    /// If it shows what it cannot hold.
    fn read(&mut self, key: usize) -> Result<()> {
        let get = self.world.node().get(self.name(key));
        let value = self.answer(get)?;
        self.see(key, value.as_deref());
        Ok(())
    }

    /// Reads all keys by a scan.
    fn scan(&mut self) -> Result<()> {
        let prefix = format!("client-{}-", self.number);
        let scan = self.world.node().scan(KeyRange::all()).prefix(prefix.as_bytes());
        let pairs = async {
            let pairs = scan.collect::<Vec<Result<Pair>>>().await;
            pairs.into_iter().collect::<Result<Vec<_>>>()
        };
        let (pairs, _) = self.answer_within(PATIENCE_OF_A_SCAN, pairs);
        let mut found: BTreeMap<_, _> = pairs?.into_iter().collect();
        for key in 0..KEYS {
            let value = found.remove(self.name(key).as_bytes());
            self.see(key, value.as_deref());
        }
        assert!(found.is_empty(), "keys that nobody has written: {found:?}");
        Ok(())
    }

    /// Reads all keys in calm weather: none may fail.
    pub(crate) fn read_all(&mut self) {
        (0..KEYS).for_each(|key| self.read(key).unwrap());
        self.scan().unwrap();
    }

    /// What a key shows is what it may show, and from now on nothing older.
    fn see(&mut self, key: usize, value: Option<&[u8]>) {
        let write = value.map(write_of);
        let may_show = &mut self.may_show[key];
        let oldest = match write {
            Some(write) => may_show.get(&write).is_some_and(|is_delete| !is_delete).then_some(write),
            None => may_show.iter().find(|(_, is_delete)| **is_delete).map(|(write, _)| *write),
        };
        let number = self.number;
        let oldest = oldest.unwrap_or_else(|| {
            panic!("key {key} of client {number} shows {write:?}, and may show {may_show:?}")
        });
        may_show.retain(|write, _| *write >= oldest);
        if let (Some(value), Some(write)) = (value, write) {
            assert!(value == value_of(number, write, value.len()), "a value that nobody has written");
        }
        self.crowd.read.fetch_add(1, Ordering::Relaxed);
    }

    fn note_write(&mut self, keys: &[(usize, bool)], write: u64, done: &Result<()>) {
        let counter = match done {
            Ok(()) => &self.crowd.acked,
            Err(error) if is_refusal(error) => &self.crowd.refused,
            Err(_) => &self.crowd.in_doubt,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        for (key, is_delete) in keys {
            let may_show = &mut self.may_show[*key];
            match done {
                Ok(()) => *may_show = BTreeMap::from([(write, *is_delete)]),
                Err(error) if is_refusal(error) => {}
                Err(_) => drop(may_show.insert(write, *is_delete)),
            }
        }
    }

    /// Waits for an answer, but not for ever; in calm weather it is no error.
    fn answer<T>(&self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        let (answer, took) = self.answer_within(PATIENCE, operation);
        let mut longest = self.crowd.longest.lock();
        *longest = took.max(*longest);
        answer
    }

    fn answer_within<T>(
        &self,
        patience: Duration,
        operation: impl Future<Output = Result<T>>,
    ) -> (Result<T>, Duration) {
        let (began, weather) = (self.world.now(), self.crowd.weather.load(Ordering::Relaxed));
        let answer = block_on(tokio::time::timeout(patience, operation));
        let (number, took) = (self.number, self.world.since(began));
        let answer = answer.ok().filter(|_| took <= patience);
        let answer = answer.unwrap_or_else(|| panic!("client {number} waits for ever: {took:?}"));
        let is_calm = weather % 2 == 1 && weather == self.crowd.weather.load(Ordering::Relaxed);
        if let Err(error) = &answer {
            let is_fair = matches!(error.kind(), ErrorKind::Busy | ErrorKind::Poisoned | ErrorKind::Internal);
            assert!(is_fair && !is_calm, "client {number} got an error, calm: {is_calm}: {error}");
        }
        (answer, took)
    }

    fn next_value(&mut self, most_bytes: usize) -> (u64, Vec<u8>) {
        self.writes += 1;
        (self.writes, value_of(self.number, self.writes, self.random.between(16, most_bytes)))
    }

    fn name(&self, key: usize) -> String {
        format!("client-{}-key-{key}", self.number)
    }
}

/// The value that a write puts.
fn value_of(client: usize, write: u64, len: usize) -> Vec<u8> {
    let mut value = write.to_be_bytes().to_vec();
    let mut random = Random::new(derive(write, client as u64));
    while value.len() < len {
        value.extend(random.next().to_be_bytes());
    }
    value.truncate(len);
    value
}

/// Which write a value comes from.
fn write_of(value: &[u8]) -> u64 {
    u64::from_be_bytes(value[..8].try_into().unwrap())
}

/// Nothing was written.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Busy | ErrorKind::Closed)
}
