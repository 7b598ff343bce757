//! A shard on the simulated file system, driven by hand: for the tests of the whole tree.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    BatchMark, Cut, Strategy, Tree, TreeContext, TreeOptions, TreeRecovery, TreeScan, TreeWriter, WriteOp,
    consistent_cut,
    manifest::{MANIFEST_NAME, read_state},
};
use crate::{
    codec::compress::Compression,
    entry::ValueKind,
    error::Result,
    ids::{SeqNo, ShardId},
    key::{KeyHash, KeyRange},
    storage::{Storage, sim::SimStorage},
    table::{BlockCache, FileCache, NoPace, Pace, ReadMode, TableOptions},
    waiting::block_on,
    wal::{FrameKind, WalOptions},
};

pub(super) const SEED: u64 = 77;

/// A small generator of everything random in a test; a test prints its seed.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n.max(1)
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }
}

/// Tiny memtables and tables, so that a few hundred operations reach every level.
pub(super) fn tiny(strategy: Strategy) -> TreeOptions {
    let table = TableOptions {
        block_bytes: 256,
        restart_interval: 4,
        filter_bits_per_key: 10,
        compression: Compression::Lz4,
    };
    TreeOptions {
        memtable_bytes: 2 << 10,
        table_bytes: 1 << 10,
        tables: [table; 3],
        strategy,
        l0_trigger: 2,
        tiered_trigger: 3,
        wal: WalOptions { segment_bytes: 16 << 10, compress_above: Some(100), idle_segments: 4 },
        hash_seed: SEED,
    }
}

pub(super) fn hash(key: &[u8]) -> KeyHash {
    KeyHash::of(key, SEED)
}

pub(super) fn shard_dir(shard: u32) -> PathBuf {
    PathBuf::from(format!("/data/shard-{shard:04}"))
}

pub(super) fn context(sim: &SimStorage) -> TreeContext {
    // The node makes its data directory durable before it opens a shard. Failures show below.
    drop(sim.create_dir_all(Path::new("/data")).and_then(|()| sim.sync_dir(Path::new("/"))));
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let files = Arc::new(FileCache::new(Arc::clone(&storage), 3));
    TreeContext::new(storage, Arc::new(BlockCache::new(16 << 10)), files)
}

/// Lets the file system refuse to remove a table that a durable manifest names, or to write to a finished one.
pub(super) fn guard(sim: &SimStorage) {
    sim.set_write_once(".sst");
    sim.set_needed(|durable, path| {
        let Some(dir) = path.parent().and_then(Path::parent) else { return false };
        if path.extension().is_none_or(|extension| extension != "sst") {
            return false;
        }
        let manifest = dir.join(MANIFEST_NAME);
        let shard = dir.to_str().and_then(|dir| dir.rsplit('-').next()?.parse().ok()).map(ShardId);
        let state = durable.read(&manifest).and_then(|bytes| read_state(&bytes, &manifest, shard?).ok());
        state.is_some_and(|state| state.tables.values().any(|table| table.path(dir) == path))
    });
}

/// One open shard, alone in its node or not.
pub(super) struct Shard {
    pub(super) context: TreeContext,
    pub(super) tree: Arc<Tree>,
    pub(super) writer: TreeWriter,
    /// The last sequence number handed out.
    pub(super) seqno: u64,
}

pub(super) fn open(sim: &SimStorage, options: &TreeOptions) -> Result<Shard> {
    open_in(&context(sim), options)
}

/// Opens shard 0 as the only one.
pub(super) fn open_in(context: &TreeContext, options: &TreeOptions) -> Result<Shard> {
    let mut shards = open_all(context, options, 1)?;
    Ok(shards.remove(0))
}

/// Opens all shards of a node as the node does.
pub(super) fn open_all(context: &TreeContext, options: &TreeOptions, shards: u32) -> Result<Vec<Shard>> {
    let mut recoveries = Vec::new();
    for shard in 0..shards {
        let dir = shard_dir(shard);
        recoveries.push(TreeRecovery::read(context.clone(), options.clone(), ShardId(shard), dir)?);
    }
    let logs: Vec<_> = recoveries.iter().map(TreeRecovery::shard_log).collect();
    let cuts: Vec<Cut> = consistent_cut(&logs);
    for recovery in &recoveries {
        recovery.sync_log()?;
    }
    let highest = recoveries.iter().map(TreeRecovery::highest_seqno).max().unwrap_or_default();
    let settled = recoveries.into_iter().zip(cuts).map(|(recovery, cut)| {
        let replay = recovery.replay(&cut);
        Ok((recovery.settle(cut, highest, 9)?, replay))
    });
    let mut opened = Vec::new();
    for (settled, replay) in settled.collect::<Result<Vec<_>>>()? {
        let (tree, writer, _) = settled.finish(replay.run())?;
        opened.push(Shard { context: context.clone(), tree, writer, seqno: highest.0 });
    }
    Ok(opened)
}

pub(super) fn put<'a>(key: &'a [u8], value: &'a [u8], expires_at_ms: Option<u64>) -> WriteOp<'a> {
    WriteOp { hash: hash(key), key, kind: ValueKind::Put, value, expires_at_ms }
}

pub(super) fn delete(key: &[u8]) -> WriteOp<'_> {
    WriteOp { hash: hash(key), key, kind: ValueKind::Delete, value: &[], expires_at_ms: None }
}

pub(super) fn pace() -> Arc<dyn Pace> {
    Arc::new(NoPace)
}

impl Shard {
    /// One turn with one frame.
    pub(super) fn write(&mut self, ops: &[WriteOp<'_>]) -> Result<()> {
        self.write_frame(FrameKind::Data, ops)
    }

    pub(super) fn write_frame(&mut self, kind: FrameKind, ops: &[WriteOp<'_>]) -> Result<()> {
        self.writer.begin_frame(kind);
        for op in ops {
            self.writer.stage(op);
        }
        self.writer.end_frame();
        let first = SeqNo(self.seqno + 1);
        self.seqno += ops.len() as u64;
        match self.writer.append(first) {
            Ok(_) => {
                self.writer.apply();
                Ok(())
            }
            Err(error) => {
                self.writer.abandon();
                Err(error)
            }
        }
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.write(&[put(key, value, None)])
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.write(&[delete(key)])
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let found = self.tree.get(hash(key), key, SeqNo::MAX, ReadMode::Blocking).unwrap();
        visible(found, 0)
    }

    pub(super) fn all(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        drain(self.tree.scan(&KeyRange::all(), false, SeqNo::MAX, 0))
    }

    /// Flushes what is sealed. Whether there was anything.
    pub(super) fn flush_sealed(&self, watermark: (u64, u64)) -> Result<bool> {
        let Some(plan) = self.tree.plan_flush(SeqNo(watermark.0), watermark.1, watermark.1) else {
            return Ok(false);
        };
        let output = block_on(self.tree.run_flush(plan, &pace()))?;
        self.tree.install_flush(output, &|| Ok(()))?;
        Ok(true)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.writer.seal()?;
        self.flush_sealed((self.seqno, 0)).map(drop)
    }

    /// Runs one compaction that is due. Whether there was one.
    pub(super) fn compact_once(&self, watermark: (u64, u64)) -> Result<bool> {
        let Some(plan) = self.tree.plan_compaction(SeqNo(watermark.0), watermark.1) else { return Ok(false) };
        let output = block_on(self.tree.run_compaction(plan, &pace()))?;
        self.tree.install_compaction(output)?;
        Ok(true)
    }

    pub(super) fn compact_due(&self) -> Result<()> {
        for _ in 0..10_000 {
            if !self.compact_once((self.seqno, 0))? {
                return Ok(());
            }
        }
        panic!("compaction never settles");
    }

    /// The table files of this shard on disk.
    pub(super) fn table_files(&self, sim: &SimStorage) -> Vec<PathBuf> {
        let ours = |path: &PathBuf| {
            path.starts_with(self.tree.dir()) && path.extension().is_some_and(|e| e == "sst")
        };
        let mut files: Vec<_> = sim.paths().into_iter().filter(ours).collect();
        files.sort();
        files
    }

    /// The table files that the current version is made of.
    pub(super) fn live_files(&self) -> Vec<PathBuf> {
        let view = self.tree.view();
        let mut files: Vec<_> = view.version().tables().map(|t| t.record().path(self.tree.dir())).collect();
        files.sort();
        files
    }
}

/// The value that a reader at `now_ms` sees in what a lookup found.
pub(super) fn visible(found: crate::table::Lookup, now_ms: u64) -> Option<Vec<u8>> {
    match found {
        crate::table::Lookup::Found(entry) => {
            super::is_visible(entry.kind, entry.expires_at_ms, now_ms).then(|| entry.value.to_vec())
        }
        crate::table::Lookup::Missing => None,
        crate::table::Lookup::WouldBlock => panic!("a read that may wait"),
    }
}

/// A batch frame's kind.
pub(super) fn batch_frame(mark: &BatchMark) -> FrameKind {
    FrameKind::Batch { id: mark.id, participants: mark.participants.clone() }
}

/// What is left of a scan.
pub(super) fn drain(mut scan: TreeScan) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = vec![];
    loop {
        let batch = scan.next_batch(7).unwrap();
        let pairs = (0..batch.len()).map(|number| batch.pair(number).unwrap());
        all.extend(pairs.map(|(key, value)| (key.to_vec(), value.to_vec())));
        if batch.is_empty() {
            return all;
        }
    }
}
