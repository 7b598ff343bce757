//! Opening a node: the directory is locked and inspected, every shard is read, the logs are cut to one
//! consistent picture, every shard is recovered, and only then do the actors and workers start.

use std::{collections::HashSet, path::Path, sync::Arc};

use actix::{Addr, Context};

use super::{
    coordinator::Coordinator,
    directory_lock::DirectoryLock,
    env::{Env, Priority, Thread},
    foreground::Foreground,
    node_core::{NodeCore, Parts, Pools, ShardSlot, ShardState},
    node_file::{self, Directory, NodeRecord},
    options::{CompactionStrategy, MAX_SHARDS, NodeOptions},
    parallel::cores,
    recover::{RecoveredShard, ShardSource, recover, refused},
    schedule::Budget,
    shard_core::ShardCore,
    stepped_workers::{Names, SteppedWorkers},
    workers::WorkerPool,
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::SeqNo,
    storage::Storage,
    table::{BlockCache, FileCache, TableOptions},
    tree::{Strategy, TreeContext, TreeOptions},
    waiting,
    wal::WalOptions,
};

/// A log's segments are no larger: an open makes one, filled with zeroes, and reads the spare ones.
const MAX_SEGMENT_BYTES: u64 = 8 << 20;
/// A log keeps no more segments that were freed, or are prepared ahead of need.
const MAX_IDLE_SEGMENTS: u64 = 4;
/// How many threads sync logs.
const SYNC_WORKERS: usize = 2;
/// How many reads, and how many other jobs, may wait for a worker.
pub(super) const WAITING_READS: usize = 1024;
const WAITING_JOBS: usize = 64;
/// How many batches may wait for the batch lane.
const WAITING_BATCHES: usize = 4096;
/// Sequence numbers that are skipped at each open: more than can have been handed out and left no trace on
/// disk since the last sync.
const SEQNO_GAP: u64 = 1 << 32;

/// Opens a node on this thread, which may wait for the disk.
///
/// # Errors
/// `Invalid` when options and directory do not fit or the directory is in use, `Corruption` for a damaged
/// NODE, `NoSpace`, `Io`.
pub(super) fn open(options: NodeOptions, env: Env) -> Result<Arc<NodeCore>> {
    let started = env.clock.monotonic();
    let asked_shards = options.shards;
    let mut options = options.resolve(cores(), soft_file_limit());
    check(&options)?;
    make_data_dir(&*env.storage, &options.data_dir)?;
    let lock = DirectoryLock::take(&env.storage, &options.data_dir)?;
    let (record, made) = find_or_make(&options, asked_shards, &env)?;
    options.shards = record.shards;

    let foreground = Arc::new(Foreground::new(Arc::clone(&env.clock)));
    let tree_context = tree_context(&options, &env, Some(&foreground));
    let tree_options = tree_options(&options, &record);
    let shards = usize::try_from(record.shards).unwrap_or_default();
    let (context, tree) = (&tree_context, &tree_options);
    let source = ShardSource { options: &options, env: &env, context, tree_options: tree, shards, made };
    let places: Vec<_> = (0..shards).collect();
    let recovered = recover(source, &places, &HashSet::new(), SeqNo::default(), || Ok(()))?;
    if made {
        node_file::finish_making(&*env.storage, &options.data_dir)?;
    }
    let budget = Arc::new(Budget::new(options.io_budget.rate(), Arc::clone(&env.clock)));
    let pools = start_pools(&options, &env)?;
    let (batch_lane, waiting_batches) = flume::bounded(WAITING_BATCHES);
    let core = Arc::new(NodeCore::new(Parts {
        shards: shard_slots(recovered.shards, options.shard_queue_bytes()),
        next_seqno: if made { SeqNo(1) } else { recovered.highest_seqno.plus(SEQNO_GAP) },
        clock_high_ms: recovered.clock_high_ms,
        options,
        env,
        record,
        tree_context,
        tree_options,
        pools,
        budget,
        foreground,
        batch_lane,
        lock,
    }));
    let lane_core = Arc::clone(&core);
    let lane = spawn(&core, "dbex-batch", Box::new(move || lane_core.run_batch_lane(&waiting_batches)))?;
    if let Err(error) = start_coordinator(&core) {
        end_lane(&core, lane);
        return Err(error);
    }
    *core.lane_thread.lock() = Some(lane);
    tracing::info!(
        data_dir = %core.options.data_dir.display(),
        shards = core.record.shards,
        memtable_bytes = core.options.memtable_bytes,
        block_cache_bytes = core.options.block_cache_bytes,
        duration_ms = u64::try_from(core.env.clock.monotonic().saturating_sub(started).as_millis()).unwrap_or(u64::MAX),
        "opened"
    );
    Ok(core)
}

/// The shards as recovery left them, each at its place.
fn shard_slots(recovered: Vec<(usize, RecoveredShard)>, queue_bytes: u64) -> Box<[ShardSlot]> {
    let slots = recovered.into_iter().map(|(index, shard)| {
        ShardSlot::from_pointee(match shard {
            Ok((tree, writer)) => {
                ShardState::Open(Arc::new(ShardCore::new(index, tree, writer, queue_bytes)))
            }
            Err(error) => ShardState::Refused(refused(index, &error)),
        })
    });
    slots.collect()
}

pub(super) fn check(options: &NodeOptions) -> Result<()> {
    if options.shards > MAX_SHARDS {
        return Err(Error::invalid(format!(
            "node.shards is {}; a node has at most {MAX_SHARDS} shards",
            options.shards
        )));
    }
    for (name, bytes) in
        [("memory.memtable_bytes", options.memtable_bytes), ("memory.queue_bytes", options.queue_bytes)]
    {
        if bytes < 64 << 10 {
            return Err(Error::invalid(format!("{name} is {bytes}; it must be at least 64 KiB")));
        }
    }
    Ok(())
}

/// Makes the data directory, and makes its name durable, and those of the parents that it lacked.
fn make_data_dir(storage: &dyn Storage, dir: &Path) -> Result<()> {
    let exists = |dir: &Path| storage.read_dir(named(dir)).is_ok();
    let missing = dir.ancestors().take_while(|dir| !exists(dir)).count();
    storage.create_dir_all(dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => Error::with_source(
            ErrorKind::Invalid,
            format!("{} is not a directory: name another data directory", dir.display()),
            error,
        ),
        _ => Error::io("create the data directory", dir, error),
    })?;
    // NOTE: the directory's own name once more even where it exists: whoever made it may have been killed before its
    // sync.
    for parent in dir.ancestors().skip(1).take(missing.max(1)) {
        storage.sync_dir(named(parent)).map_err(|error| Error::io("sync", parent, error))?;
    }
    Ok(())
}

/// The parent of a relative path's first part has no name of its own.
fn named(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

/// The directory's record, and whether it is being made now.
fn find_or_make(options: &NodeOptions, asked_shards: u32, env: &Env) -> Result<(NodeRecord, bool)> {
    let (storage, dir) = (&*env.storage, &options.data_dir);
    match node_file::inspect(storage, dir)? {
        Directory::Node(record) if asked_shards != 0 && asked_shards != record.shards => {
            Err(other_count(asked_shards, record.shards, dir))
        }
        Directory::Node(record) => {
            // NOTE: whoever made it may have been killed between the rename of NODE and this sync.
            storage.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
            Ok((record, false))
        }
        Directory::Unfinished | Directory::Fresh => {
            let random = || env.random.next_u64();
            let record = NodeRecord::new(options.shards, random(), (random(), random()));
            node_file::begin_making(storage, dir, &record)?;
            Ok((record, true))
        }
    }
}

/// The settings ask for another number of shards than is there.
pub(super) fn other_count(asked: u32, found: u32, dir: &Path) -> Error {
    Error::invalid(format!(
        "the settings say {asked} shards, the data directory {} has {found}: set node.shards = {found} (or 0, to take \
         what is there); to change the count, write the data into a new directory",
        dir.display()
    ))
}

/// `foreground`: who is told of cold reads.
pub(super) fn tree_context(
    options: &NodeOptions,
    env: &Env,
    foreground: Option<&Arc<Foreground>>,
) -> TreeContext {
    let cache = Arc::new(BlockCache::with_metadata(options.block_cache_bytes, options.filter_bytes_max));
    let mut files = FileCache::new(Arc::clone(&env.storage), options.max_open_files);
    if let Some(foreground) = foreground {
        files = files.timed_by(Arc::clone(foreground) as _);
    }
    TreeContext::new(Arc::clone(&env.storage), cache, Arc::new(files))
}

pub(super) fn tree_options(options: &NodeOptions, record: &NodeRecord) -> TreeOptions {
    // The half that active memtables may use. The accountant seals the largest one when it is taken, which then has
    // up to twice its even share; one that grows further seals itself.
    let active = options.memtable_bytes / 2;
    let share = (active / u64::from(record.shards)).max(16 << 10);
    let table = |compression| TableOptions {
        block_bytes: options.block_bytes,
        compression,
        filter_bits_per_key: options.filter_bits_per_key,
        ..TableOptions::default()
    };
    let segment_bytes = share.next_multiple_of(4 << 10).clamp(64 << 10, MAX_SEGMENT_BYTES);
    // What a flush frees can be written again, and all idle segments of the node take no more than its memtables.
    let idle_segments = usize::try_from((2 * share / segment_bytes).clamp(1, MAX_IDLE_SEGMENTS)).unwrap_or(1);
    TreeOptions {
        memtable_bytes: (2 * share).min(active).max(share),
        table_bytes: options.table_bytes,
        tables: options.compression.map(table),
        strategy: match options.strategy {
            CompactionStrategy::Leveled => Strategy::Leveled,
            CompactionStrategy::SizeTiered => Strategy::SizeTiered,
        },
        l0_trigger: options.l0_trigger,
        wal: WalOptions {
            segment_bytes,
            idle_segments,
            compress_above: options.wal_compress_above.and_then(|bytes| usize::try_from(bytes).ok()),
        },
        hash_seed: record.hash_seed,
        ..TreeOptions::default()
    }
}

fn start_pools(options: &NodeOptions, env: &Env) -> Result<Pools> {
    let threads = &*env.threads;
    let stepped = |low, names, count| SteppedWorkers::start(threads, low, names, count).map(Arc::new);
    Ok(Pools {
        flush: stepped(
            Priority::Low,
            Names { normal: "flush", patient: "flush-low" },
            options.flush_workers,
        )?,
        compaction: stepped(
            Priority::Lowest,
            Names { normal: "compact", patient: "compact-low" },
            options.compaction_workers,
        )?,
        read: WorkerPool::start(threads, "read", options.read_workers, WAITING_READS)?,
        // One job a shard.
        prepare: WorkerPool::start(
            threads,
            "prepare",
            1,
            usize::try_from(options.shards).unwrap_or(usize::MAX),
        )?,
        sync: WorkerPool::start(threads, "sync", SYNC_WORKERS, WAITING_JOBS)?,
    })
}

/// Starts the thread that the coordinator lives on, and the coordinator, which starts the shards' actors.
fn start_coordinator(core: &Arc<NodeCore>) -> Result<()> {
    let name = "dbex-system";
    let system = core.env.threads.start_system(name).map_err(|error| no_thread(name, error))?;
    let system = core.system.get_or_init(|| system);
    let (started, wait) = flume::bounded::<Result<Addr<Coordinator>>>(1);
    let actor_core = Arc::clone(core);
    system.run(Box::new(move || match Coordinator::new(actor_core) {
        Ok(coordinator) => {
            let coordinator = Context::new().into_future(coordinator);
            let _ = started.send(Ok(coordinator.address()));
            Box::pin(coordinator)
        }
        Err(error) => {
            let _ = started.send(Err(error));
            Box::pin(std::future::ready(()))
        }
    }));
    let started = waiting::receive(&wait);
    let started = started.unwrap_or_else(|_| Err(Error::internal("the coordinator did not start")));
    let coordinator = started.inspect_err(|_| system.end())?;
    let _ = core.coordinator.set(coordinator);
    Ok(())
}

/// Ends the batch lane, which holds the node, and with it the directory's lock.
fn end_lane(core: &NodeCore, lane: Box<dyn Thread>) {
    let lane_end = core.batch_lane.lock().take();
    if let Some(batches) = lane_end {
        drop(waiting::send(&batches, None));
    }
    if !lane.join() {
        tracing::error!("the batch lane panicked");
    }
}

fn spawn(core: &NodeCore, name: &str, body: Box<dyn FnOnce() + Send>) -> Result<Box<dyn Thread>> {
    core.env.threads.spawn(name, body).map_err(|error| no_thread(name, error))
}

fn no_thread(name: &str, error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Io, format!("cannot start the thread {name}"), error)
}

/// The soft limit of open files of this process.
pub(super) fn soft_file_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(1 << 20)
}
