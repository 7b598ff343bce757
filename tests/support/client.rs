//! A client of a node on a simulated disk: writes at random, compares what it reads with what it was told,
//! and keeps a history of what it may expect after a crash. It ends at the first error.

use dbex::{Durability, Error, KeyRange, PutOptions, Result, WriteBatch, blocking::Node};

use crate::{
    history::{History, Key, Op, Sent, State, Value, show_value},
    random::Random,
    sim_node::{HASH_SEED, SHARDS, read_all},
};

const KEYS: usize = 40;

/// One client. Its keys begin with its name, and nobody else writes them.
#[derive(Clone)]
pub(crate) struct Client {
    name: String,
    random: Random,
    history: History,
    next_value: usize,
    pub(crate) acked: usize,
}

impl Client {
    pub(crate) fn new(number: usize, seed: u64) -> Self {
        Self {
            name: format!("client{number}/"),
            random: Random::new(seed),
            history: History::new(HASH_SEED, SHARDS),
            next_value: 0,
            acked: 0,
        }
    }

    /// Does `steps` things at random.
    ///
    /// # Errors
    /// The first error of the node.
    pub(crate) fn run(&mut self, node: &Node, steps: usize) -> Result<()> {
        for _ in 0..steps {
            self.step(node)?;
        }
        Ok(())
    }

    fn step(&mut self, node: &Node) -> Result<()> {
        match self.random.below(1000) {
            0..480 => self.put(node),
            480..570 => self.delete(node),
            570..600 => self.delete_range(node),
            600..780 => self.batch(node),
            780..820 => self.update(node),
            820..930 => self.read(node),
            930..950 => {
                self.compare(&read_all(node, self.name.as_bytes())?);
                Ok(())
            }
            950..970 => self.settling(node.sync()),
            970..988 => self.settling(node.flush()),
            988..994 => self.settling(node.settle()),
            _ => self.settling(node.compact(KeyRange::all())),
        }
    }

    fn put(&mut self, node: &Node) -> Result<()> {
        let (key, value, durability) = (self.key(), self.value(), self.durability());
        let sent = self.history.sent(vec![(key.clone(), Some(value.clone()))]);
        let done = node.put_with(&key, &value, PutOptions::new().durability(durability));
        self.written(sent, done, durability)
    }

    fn delete(&mut self, node: &Node) -> Result<()> {
        let key = self.key();
        let sent = self.history.sent(vec![(key.clone(), None)]);
        self.written(sent, node.delete(&key), Durability::Buffered)
    }

    /// Removes the keys that begin as a key does, which are some of its own; and perhaps puts one of them anew.
    fn delete_range(&mut self, node: &Node) -> Result<()> {
        let (key, durability) = (self.key(), self.durability());
        let prefix = &key[..=self.name.len()];
        let live = self.history.live().keys().filter(|live| live.starts_with(prefix));
        let mut ops: Vec<Op> = live.map(|live| (live.clone(), None)).collect();
        let mut batch = WriteBatch::new();
        batch.durability(durability).delete_prefix(prefix);
        if self.random.permille(500) {
            let value = self.value();
            batch.put(&key, &value);
            ops.retain(|op| op.0 != key);
            ops.push((key, Some(value)));
        }
        if ops.is_empty() {
            return Ok(());
        }
        let sent = self.history.sent(ops);
        self.written(sent, node.write(batch), durability)
    }

    fn batch(&mut self, node: &Node) -> Result<()> {
        let mut ops: Vec<Op> = vec![];
        for _ in 0..self.random.between(2, 6) {
            let key = self.key();
            let value = if self.random.permille(700) { Some(self.value()) } else { None };
            ops.retain(|op| op.0 != key);
            ops.push((key, value));
        }
        let durability = self.durability();
        let mut batch = WriteBatch::new();
        batch.durability(durability);
        for (key, value) in &ops {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            };
        }
        let sent = self.history.sent(ops);
        self.written(sent, node.write(batch), durability)
    }

    fn update(&mut self, node: &Node) -> Result<()> {
        let (key, value) = (self.key(), self.value());
        let sent = self.history.sent(vec![(key.clone(), Some(value.clone()))]);
        let before = node.update(&key, move |_| Some(value))?;
        assert_eq!(
            before.as_deref(),
            self.history.live().get(&key).map(|value| &value[..]),
            "an update's base"
        );
        self.written(sent, Ok(()), Durability::Buffered)
    }

    fn read(&mut self, node: &Node) -> Result<()> {
        let key = self.key();
        let found = node.get(&key)?.map(|value| value.to_vec());
        let expected = self.history.live().get(&key);
        assert!(
            found.as_ref() == expected,
            "{} is {}, not {}",
            String::from_utf8_lossy(&key),
            show_value(found.as_ref()),
            show_value(expected)
        );
        Ok(())
    }

    fn compare(&self, found: &State) {
        let show = |state: &State| -> Vec<_> {
            state
                .iter()
                .map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), show_value(Some(value))))
                .collect()
        };
        assert_eq!(show(found), show(self.history.live()), "{} finds other keys than it wrote", self.name);
    }

    fn settling(&mut self, done: Result<()>) -> Result<()> {
        done?;
        self.history.promised_all();
        Ok(())
    }

    fn written(&mut self, sent: Sent, done: Result<()>, durability: Durability) -> Result<()> {
        done?;
        self.history.acked(sent, durability == Durability::Synced);
        self.acked += 1;
        Ok(())
    }

    fn key(&mut self) -> Key {
        format!("{}{}", self.name, self.random.below(KEYS)).into_bytes()
    }

    /// A value that no other write writes. Some are larger than a memtable's share or a segment.
    fn value(&mut self) -> Value {
        self.next_value += 1;
        let bytes = match self.random.below(1000) {
            0..5 => self.random.between(60_000, 90_000),
            5..15 => self.random.between(10_000, 30_000),
            15..400 => self.random.between(8, 60),
            _ => self.random.between(60, 2_000),
        };
        let mut value = format!("{:07}-", self.next_value).into_bytes();
        while value.len() < bytes {
            // Half of it compresses well, and half not at all.
            value.extend(self.random.next().to_le_bytes());
            value.extend(b"........");
        }
        value.truncate(bytes);
        value
    }

    fn durability(&mut self) -> Durability {
        if self.random.permille(350) { Durability::Synced } else { Durability::Buffered }
    }

    /// Checks what the node holds after a power loss; whatever it kept stays.
    ///
    /// # Errors
    /// What may not have happened.
    pub(crate) fn check_after_power_loss(&mut self, node: &Node) -> Result<(), String> {
        let found = self.find(node)?;
        self.history.after_power_loss(&found).map_err(|what| format!("{}: {what}", self.name))
    }

    /// Checks what the node holds after the process ended.
    ///
    /// # Errors
    /// What may not have happened.
    pub(crate) fn check_after_end_of_process(&mut self, node: &Node) -> Result<(), String> {
        let found = self.find(node)?;
        self.history.after_end_of_process(&found).map_err(|what| format!("{}: {what}", self.name))
    }

    /// What the node holds of this client's.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn find(&self, node: &Node) -> Result<State, String> {
        read_all(node, self.name.as_bytes()).map_err(|error| format!("{} cannot read: {error}", self.name))
    }

    pub(crate) fn sync(&mut self, node: &Node) -> Result<(), Error> {
        self.settling(node.sync())
    }
}
