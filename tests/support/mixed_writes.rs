//! Writes of every kind at random: puts, deletes, batches over shards, values that expire, flushes between them.

use std::time::Duration;

use dbex::{Durability, NodeOptions, PutOptions, Result, WriteBatch, blocking::Node};

use crate::{random::Random, wall::Wall};

const KEYS: usize = 150;
/// How long the longest of them stays.
pub(crate) const LONGEST_TTL_MS: usize = 20_000;

/// Every key that may be there, and one that is not.
pub(crate) fn keys() -> Vec<String> {
    (0..=KEYS).map(key).collect()
}

fn key(number: usize) -> String {
    format!("key-{number:03}")
}

/// Small sizes, so that little data makes a node flush and compact.
pub(crate) fn options(data_dir: impl Into<std::path::PathBuf>, shards: u32) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.data_dir = data_dir.into();
    options.shards = shards;
    options.memtable_bytes = 128 << 10;
    options.block_cache_bytes = 64 << 10;
    options.table_bytes = 8 << 10;
    options.block_bytes = 1 << 10;
    options.sync_interval = Duration::from_hours(1);
    options
}

/// Does `steps` things at random, with time passing.
///
/// # Errors
/// The first error of the node.
pub(crate) fn write(node: &Node, random: &mut Random, wall: &Wall, steps: usize) -> Result<()> {
    for _ in 0..steps {
        wall.pass(Duration::from_millis(random.next() % 200));
        match random.below(1000) {
            0..350 => {
                let durability = if random.permille(100) { Durability::Synced } else { Durability::Buffered };
                node.put_with(a_key(random), value(random), put(random).durability(durability))?;
            }
            350..450 => node.delete(a_key(random))?,
            450..970 => node.write(batch(random))?,
            970..980 => node.sync()?,
            980..994 => node.flush()?,
            _ => node.compact(..)?,
        }
    }
    Ok(())
}

fn a_key(random: &mut Random) -> String {
    key(random.below(KEYS))
}

fn value(random: &mut Random) -> Vec<u8> {
    let bytes = if random.permille(20) { random.between(5_000, 20_000) } else { random.between(0, 600) };
    (0..bytes.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(bytes).collect()
}

fn put(random: &mut Random) -> PutOptions {
    if random.permille(250) { PutOptions::new().ttl(ttl(random)) } else { PutOptions::new() }
}

fn ttl(random: &mut Random) -> Duration {
    Duration::from_millis(random.between(1, LONGEST_TTL_MS) as u64)
}

/// A batch over several shards, most likely; few of them are durable before somebody asks.
pub(crate) fn batch(random: &mut Random) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..random.between(2, 6) {
        let key = a_key(random);
        match random.below(10) {
            0..2 => batch.delete(key),
            2..4 => {
                let (value, ttl) = (value(random), ttl(random));
                batch.put_with_ttl(key, value, ttl)
            }
            _ => {
                let value = value(random);
                batch.put(key, value)
            }
        };
    }
    batch.durability(if random.permille(50) { Durability::Synced } else { Durability::Buffered });
    batch
}
