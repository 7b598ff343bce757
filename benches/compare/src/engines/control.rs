//! No engine: what a put costs the machine alone, for the tails and for how steady a rate can be.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::Result;

use super::{Engine, ShowPair, ShowValue};
use crate::data::{KEY_BYTES, Key, control_hash, mix};

/// After so many bytes the log begins anew, as engines use their logs again: minutes of puts would fill the disk.
const LOG_BYTES: u64 = 64 << 20;

/// Words of eight bytes, 128 MiB: twice what an engine has for its memtables.
const WORDS: usize = 16 << 20;
/// So many words a put looks at one after the other, as in an index: a put then takes a few microseconds.
const STEPS: usize = 24;

/// Hashes keys and logs puts, one `write` each; has nothing to read.
pub(super) struct Control {
    log: File,
    written: AtomicU64,
    memory: Option<Memory>,
}

impl Control {
    /// `has_memory`: a put looks around in memory, too, and leaves its bytes there, as an engine's does.
    pub(super) fn open(dir: &Path, has_memory: bool) -> Result<Self> {
        let log = File::options().create(true).truncate(true).write(true).open(dir.join("control.log"))?;
        Ok(Self { log, written: AtomicU64::new(0), memory: has_memory.then(Memory::new) })
    }
}

/// What is far from the processor.
struct Memory(Vec<AtomicU64>);

impl Memory {
    fn new() -> Self {
        Self((0..WORDS as u64).map(|place| AtomicU64::new(mix(place))).collect())
    }

    /// Goes from word to word, each found by the one before, and writes at the last.
    fn insert(&self, hash: u64, frame: &[u8]) {
        #[expect(clippy::cast_possible_truncation, reason = "less than a usize")]
        let place = |at: u64| (at % WORDS as u64) as usize;
        let last = (0..STEPS).fold(hash, |at, _| mix(at ^ self.0[place(at)].load(Ordering::Relaxed)));
        for (word, to) in frame.chunks_exact(8).zip(self.0[place(last)..].iter()) {
            to.store(word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), Ordering::Relaxed);
        }
    }
}

impl Engine for Control {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        let hash = control_hash(key);
        let mut frame = Vec::with_capacity(8 + KEY_BYTES + value.len());
        frame.extend_from_slice(&hash.to_le_bytes());
        frame.extend_from_slice(key);
        frame.extend_from_slice(value);
        if let Some(memory) = &self.memory {
            memory.insert(hash, &frame);
        }
        let before = self.written.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Ok(self.log.write_all_at(&frame, before % LOG_BYTES)?)
    }

    fn put_synced(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.put(key, value)?;
        Ok(self.log.sync_data()?)
    }

    fn write_batch(&self, entries: &[(Key, Vec<u8>)]) -> Result<()> {
        entries.iter().try_for_each(|(key, value)| self.put(key, value))
    }

    fn get(&self, key: &Key, _show: ShowValue<'_>) -> Result<bool> {
        std::hint::black_box(control_hash(key));
        Ok(true)
    }

    fn scan(&self, from: &Key, count: usize, _: ShowPair<'_>) -> Result<usize> {
        std::hint::black_box(control_hash(from));
        Ok(count)
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }
}
