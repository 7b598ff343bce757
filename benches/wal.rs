//! The write-ahead log on a real disk: appends of one and of many operations, synced ones, and replay.
//! Keys have 16 bytes and values 100, as in the other benchmarks. The directory is the system's temporary one.

use std::{hint::black_box, sync::Arc};

use dbex::{
    entry::ValueKind,
    ids::{SegmentNumber, SeqNo, ShardId},
    storage::{DiskStorage, Storage},
    wal::{FrameKind, GroupBuffer, WalOptions, WalWriter, create_log, read_log},
};
use divan::{Bencher, counter::ItemsCount};

const SHARD: ShardId = ShardId(0);

fn main() {
    divan::main();
}

struct Log {
    dir: tempfile::TempDir,
    storage: Arc<dyn Storage>,
    writer: WalWriter,
    group: GroupBuffer,
    next: SeqNo,
    key: u64,
}

impl Log {
    fn new(compress_above: Option<usize>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let storage: Arc<dyn Storage> = Arc::new(DiskStorage::new());
        let options = WalOptions { segment_bytes: 16 << 20, compress_above, idle_segments: 2 };
        let wal = dir.path().join("wal");
        let recovered = read_log(&storage, &wal, SHARD, SegmentNumber(1), None).expect("an empty log");
        let (writer, _, _) = create_log(recovered.successor(0, options, 1)).expect("a new log");
        Self { dir, storage, writer, group: GroupBuffer::new(1 << 20), next: SeqNo(1), key: 0 }
    }

    /// One frame of `ops` puts.
    fn append(&mut self, ops: u64) {
        self.group.clear();
        self.group.begin_frame(FrameKind::Data);
        let mut value = [0x55; 100];
        for _ in 0..ops {
            self.key = self.key.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut key = [0; 16];
            for (chunk, byte) in key.chunks_exact_mut(8).zip([1, 2]) {
                chunk.copy_from_slice(&self.key.rotate_left(byte).to_le_bytes());
            }
            if let Some(half) = value.first_chunk_mut::<16>() {
                *half = key;
            }
            black_box(self.group.push_op(ValueKind::Put, None, &key, &value));
        }
        self.group.end_frame();
        let before = self.writer.current_segment();
        self.writer.append(&mut self.group, self.next).expect("an append");
        self.next = self.next.plus(ops);
        if self.writer.current_segment() != before {
            // As if every memtable was flushed at once: two files take turns.
            self.writer.pool().release(self.writer.current_segment()).expect("a release");
        }
    }
}

#[divan::bench(args = [1, 100])]
fn append(bencher: Bencher, ops: u64) {
    let mut log = Log::new(None);
    bencher.counter(ItemsCount::new(ops)).bench_local(|| log.append(ops));
}

#[divan::bench(args = [100])]
fn append_compressed(bencher: Bencher, ops: u64) {
    let mut log = Log::new(Some(1 << 10));
    bencher.counter(ItemsCount::new(ops)).bench_local(|| log.append(ops));
}

/// The part of an append that is not the system call.
#[divan::bench(args = [1, 100])]
fn build_group(bencher: Bencher, ops: u64) {
    let mut group = GroupBuffer::new(1 << 20);
    bencher.counter(ItemsCount::new(ops)).bench_local(|| {
        group.clear();
        for _ in 0..ops {
            black_box(group.push_op(ValueKind::Put, None, black_box(&[1; 16]), black_box(&[2; 100])));
        }
        group.end_frame();
    });
}

#[divan::bench(args = [1, 64])]
fn append_and_sync(bencher: Bencher, ops: u64) {
    let mut log = Log::new(None);
    bencher.counter(ItemsCount::new(ops)).bench_local(|| {
        log.append(ops);
        log.writer.sync().sync().expect("a sync");
    });
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn read_64_mib(bencher: Bencher) {
    let mut log = Log::new(None);
    // NOTE: small enough groups that the frames' own cost shows.
    for _ in 0..48_000 {
        log.group.clear();
        for _ in 0..10 {
            log.group.push_op(ValueKind::Put, None, &[1; 16], &[2; 100]);
        }
        log.writer.append(&mut log.group, log.next).expect("an append");
        log.next = log.next.plus(10);
    }
    let wal = log.dir.path().join("wal");
    bencher.bench_local(|| {
        let recovered = read_log(&log.storage, &wal, SHARD, SegmentNumber(1), None).expect("a log");
        let ops: usize = recovered.frames.iter().map(|frame| frame.ops().count()).sum();
        assert_eq!(ops, 480_000);
    });
}
