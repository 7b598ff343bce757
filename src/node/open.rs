//! Opening a node: the directory is locked and inspected, every shard is read, the logs are cut to one
//! consistent picture, every shard is recovered, and only then do the actors and workers start.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use actix::{Actor, Addr};

use super::{
    budget::Budget,
    coordinator::Coordinator,
    directory_lock::DirectoryLock,
    env::Env,
    node_core::{NodeCore, Parts, Pools, ShardSlot, ShardState},
    node_file::{self, Directory, NodeRecord},
    options::{CompactionStrategy, MAX_SHARDS, NodeOptions},
    shard_core::ShardCore,
    workers::WorkerPool,
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{SeqNo, ShardId},
    storage::Storage,
    table::{BlockCache, FileCache, TableOptions},
    tree::{
        Cut, RecoverySummary, ShardLog, Strategy, Tree, TreeContext, TreeOptions, TreeRecovery, TreeWriter,
        consistent_cut,
    },
    wal::WalOptions,
};

/// How many threads sync logs and prepare segments.
const SYNC_WORKERS: usize = 2;
/// How many reads, and how many other jobs, may wait for a worker.
const WAITING_READS: usize = 1024;
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

    let tree_context = tree_context(&options, &env);
    let tree_options = tree_options(&options, &record);
    let recovered = recover(&options, &record, &tree_context, &tree_options, &env, made)?;
    if made {
        node_file::finish_making(&*env.storage, &options.data_dir)?;
    }
    let budget = Arc::new(Budget::new(options.io_budget, Arc::clone(&env.clock)));
    let pools = start_pools(&options, &env)?;
    let (batch_lane, waiting_batches) = flume::bounded(WAITING_BATCHES);
    let core = Arc::new(NodeCore::new(Parts {
        shards: recovered.shards,
        next_seqno: recovered.next_seqno,
        clock_high_ms: recovered.clock_high_ms,
        options,
        env,
        record,
        tree_context,
        tree_options,
        pools,
        budget,
        batch_lane,
        lock,
    }));
    let lane_core = Arc::clone(&core);
    let lane = spawn(&core, "dbex-batch", Box::new(move || lane_core.run_batch_lane(&waiting_batches)))?;
    let system = start_system(&core)?;
    core.threads.lock().extend([lane, system]);
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

/// The shards as recovery left them.
struct Recovered {
    shards: Box<[ShardSlot]>,
    next_seqno: SeqNo,
    clock_high_ms: u64,
}

fn recover(
    options: &NodeOptions,
    record: &NodeRecord,
    context: &TreeContext,
    tree_options: &TreeOptions,
    env: &Env,
    made: bool,
) -> Result<Recovered> {
    let count = usize::try_from(record.shards).unwrap_or_default();
    let read = in_parallel((0..count).collect(), cores(), |index| {
        if !made {
            check_shard_dir(&*context.storage, &options.data_dir, index)?;
        }
        read_shard(context, tree_options, &options.data_dir, index)
    });
    let logs: Vec<_> = read
        .iter()
        .map(|shard| shard.as_ref().map_or_else(|_| ShardLog::refused(), TreeRecovery::shard_log))
        .collect();
    let cuts = consistent_cut(&logs);
    let intact = || read.iter().filter_map(|shard| shard.as_ref().ok());
    let highest = intact().map(TreeRecovery::highest_seqno).max().unwrap_or_default();
    let clock_high_ms = intact().map(TreeRecovery::clock_high_ms).max().unwrap_or_default();
    // IMPORTANT: every log is durable before any shard flushes what it recovered, because a flush makes a
    // cross-shard batch count as standing in that shard.
    intact().try_for_each(TreeRecovery::sync_log)?;
    let work: Vec<_> = read.into_iter().zip(cuts).collect();
    let queue_bytes = (options.queue_bytes * 2 / u64::from(record.shards)).clamp(1, options.queue_bytes);
    let finished =
        in_parallel(work, cores(), |(shard, cut)| finish_shard(shard?, &cut, highest, env.random.next_u64()));
    let slots = finished.into_iter().enumerate().map(|(index, shard)| {
        ShardSlot::from_pointee(match shard {
            Ok((tree, writer)) => {
                ShardState::Open(Arc::new(ShardCore::new(index, tree, writer, queue_bytes)))
            }
            Err(error) => {
                tracing::error!(shard = index, error = %error, "a shard does not open; the others do");
                ShardState::Refused(error.context(format!("shard {index} is not open")))
            }
        })
    });
    let next_seqno = if made { SeqNo(1) } else { highest.plus(SEQNO_GAP) };
    Ok(Recovered { shards: slots.collect(), next_seqno, clock_high_ms })
}

/// Reads one shard's manifest and log.
pub(super) fn read_shard(
    context: &TreeContext,
    options: &TreeOptions,
    data_dir: &Path,
    index: usize,
) -> Result<TreeRecovery> {
    let shard = u32::try_from(index).map_err(|_| Error::internal("a shard index above 32 bits"))?;
    TreeRecovery::read(context.clone(), options.clone(), ShardId(shard), shard_dir(data_dir, index))
}

fn finish_shard(
    recovery: TreeRecovery,
    cut: &Cut,
    highest: SeqNo,
    incarnation_seed: u64,
) -> Result<(Arc<Tree>, TreeWriter)> {
    let (tree, writer, summary) = recovery.finish(cut, highest, incarnation_seed)?;
    log_recovery(&summary);
    Ok((tree, writer))
}

/// Says what recovery found.
pub(super) fn log_recovery(summary: &RecoverySummary) {
    let shard = summary.shard.get();
    tracing::info!(
        shard,
        frames = summary.frames_replayed,
        entries = summary.entries_replayed,
        frames_cut = summary.frames_cut,
        batches_void = summary.batches_void,
        removed_files = summary.removed_files,
        writable = summary.writable,
        "recovered"
    );
    if let Some(discarded) = &summary.discarded {
        tracing::warn!(shard, discarded = ?discarded, "the log's end was torn and is cut");
    }
    for path in &summary.strangers {
        tracing::warn!(shard, path = %path.display(), "a file that is not ours is left alone");
    }
}

fn check(options: &NodeOptions) -> Result<()> {
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

/// Makes the data directory and makes its name durable.
fn make_data_dir(storage: &dyn Storage, dir: &Path) -> Result<()> {
    storage.create_dir_all(dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => Error::with_source(
            ErrorKind::Invalid,
            format!("{} is not a directory: name another data directory", dir.display()),
            error,
        ),
        _ => Error::io("create the data directory", dir, error),
    })?;
    for parent in dir.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match storage.sync_dir(parent) {
            // A directory that we may not even open was not made by us.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => break,
            result => result.map_err(|error| Error::io("sync", parent, error))?,
        }
    }
    Ok(())
}

/// The directory's record, and whether it is being made now.
fn find_or_make(options: &NodeOptions, asked_shards: u32, env: &Env) -> Result<(NodeRecord, bool)> {
    let (storage, dir) = (&*env.storage, &options.data_dir);
    match node_file::inspect(storage, dir)? {
        Directory::Node(record) if asked_shards != 0 && asked_shards != record.shards => {
            Err(Error::invalid(format!(
                "the settings say {asked_shards} shards, the data directory {} has {}: set node.shards = {} (or 0, to \
                 take what is there); to change the count, write the data into a new directory",
                dir.display(),
                record.shards,
                record.shards
            )))
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

/// A shard of a node that was made has a manifest; making an empty one in its place would hide a loss.
fn check_shard_dir(storage: &dyn Storage, data_dir: &Path, index: usize) -> Result<()> {
    let manifest = shard_dir(data_dir, index).join("MANIFEST");
    match storage.open(&manifest, crate::storage::OpenMode::Read) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::corruption(&manifest, 0, "the shard's manifest", "no such file"))
        }
        Err(error) => Err(Error::io("open", &manifest, error)),
    }
}

fn shard_dir(data_dir: &Path, index: usize) -> PathBuf {
    data_dir.join(format!("shard-{index:04}"))
}

fn tree_context(options: &NodeOptions, env: &Env) -> TreeContext {
    let cache = Arc::new(BlockCache::new(options.block_cache_bytes));
    let files = Arc::new(FileCache::new(Arc::clone(&env.storage), options.max_open_files));
    TreeContext::new(Arc::clone(&env.storage), cache, files)
}

fn tree_options(options: &NodeOptions, record: &NodeRecord) -> TreeOptions {
    // An even share of the half that active memtables may use.
    let share = (options.memtable_bytes / 2 / u64::from(record.shards)).max(16 << 10);
    let table = |compression| TableOptions {
        block_bytes: options.block_bytes,
        compression,
        filter_bits_per_key: options.filter_bits_per_key,
        ..TableOptions::default()
    };
    TreeOptions {
        memtable_bytes: share,
        table_bytes: options.table_bytes,
        tables: options.compression.map(table),
        strategy: match options.strategy {
            CompactionStrategy::Leveled => Strategy::Leveled,
            CompactionStrategy::SizeTiered => Strategy::SizeTiered,
        },
        l0_trigger: options.l0_trigger,
        wal: WalOptions {
            segment_bytes: share.next_multiple_of(4 << 10).max(64 << 10),
            compress_above: options.wal_compress_above.and_then(|bytes| usize::try_from(bytes).ok()),
        },
        hash_seed: record.hash_seed,
        ..TreeOptions::default()
    }
}

fn start_pools(options: &NodeOptions, env: &Env) -> Result<Pools> {
    let threads = &*env.threads;
    Ok(Pools {
        flush: WorkerPool::start(threads, "flush", options.flush_workers, options.flush_workers)?,
        compaction: WorkerPool::start(threads, "compact", options.compaction_workers, WAITING_JOBS)?,
        read: WorkerPool::start(threads, "read", options.read_workers, WAITING_READS)?,
        sync: WorkerPool::start(threads, "sync", SYNC_WORKERS, WAITING_JOBS)?,
    })
}

/// Starts the thread of the actix system with the coordinator in it, which starts the shard actors.
fn start_system(core: &Arc<NodeCore>) -> Result<JoinHandle<()>> {
    let (started, wait) = flume::bounded::<Addr<Coordinator>>(1);
    let system_core = Arc::clone(core);
    let body = Box::new(move || {
        let system = actix::System::new();
        system.block_on(async move {
            let _ = started.send(Coordinator::new(system_core).start());
        });
        if let Err(error) = system.run() {
            tracing::error!(error = %error, "the actor system ended with an error");
        }
    });
    let thread = spawn(core, "dbex-system", body)?;
    let coordinator = wait.recv().map_err(|_| Error::internal("the actor system did not start"))?;
    let _ = core.coordinator.set(coordinator);
    Ok(thread)
}

fn spawn(core: &NodeCore, name: &str, body: Box<dyn FnOnce() + Send>) -> Result<JoinHandle<()>> {
    core.env
        .threads
        .spawn(name, body)
        .map_err(|error| Error::with_source(ErrorKind::Io, format!("cannot start the thread {name}"), error))
}

/// Runs `work` over `items` on up to `threads` threads; results stand in the items' order.
pub(super) fn in_parallel<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.into_iter().map(work).collect();
    }
    let (send, receive) = flume::unbounded();
    items.into_iter().enumerate().for_each(|item| drop(send.send(item)));
    drop(send);
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let run = || receive.iter().map(|(place, item)| (place, work(item))).collect::<Vec<_>>();
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let joined = handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.flatten().collect()
    });
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The soft limit of open files of this process.
fn soft_file_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(1 << 20)
}
