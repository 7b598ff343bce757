//! Opening a data directory to read it. As [`super::super::open`] up to the cut over all shards' logs; then what
//! stands is replayed into memory, and that is all.
//!
//! IMPORTANT: nothing here may change anything on disk, whatever is found there.

use std::{io, path::Path, sync::Arc};

use super::{
    super::{
        directory_lock::DirectoryLock,
        env::Env,
        node_file::{self, Directory, NodeRecord},
        open::{WAITING_READS, check, other_count, soft_file_limit, tree_context, tree_options},
        options::NodeOptions,
        parallel::{cores, in_parallel},
        recover::{Found, ShardSource, log_recovery, read_all, refused},
        router::Router,
        workers::WorkerPool,
    },
    core::{Parts, ReadOnlyCore, ReadOnlyShard, Shards},
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::SeqNo,
    storage::Storage,
    tree::{Cut, TreeRecovery},
};

/// Opens a directory on this thread, which may wait for the disk.
///
/// # Errors
/// `Invalid` when there is no node, a node has it open, or options and directory do not fit; `Corruption` for a
/// damaged NODE; `Io`.
pub(super) fn open(options: NodeOptions, env: Env) -> Result<Arc<ReadOnlyCore>> {
    let asked_shards = options.shards;
    let mut options = options.resolve(cores(), soft_file_limit());
    check(&options)?;
    look_at(&*env.storage, &options.data_dir)?;
    let lock = DirectoryLock::share(&env.storage, &options.data_dir)?;
    let record = find(&*env.storage, &options.data_dir, asked_shards)?;
    options.shards = record.shards;

    let context = tree_context(&options, &env, None);
    let shards = usize::try_from(record.shards).unwrap_or_default();
    let source = ShardSource {
        options: &options,
        env: &env,
        context: &context,
        tree_options: &tree_options(&options, &record),
        shards,
        made: false,
    };
    let places: Vec<_> = (0..shards).collect();
    let found = read_all(source, &places, &[].into(), SeqNo::default())?;
    let clock_high_ms = found.clock_high_ms;
    let shards = replay(found, env.threads.parallelism());
    let workers = WorkerPool::start(&*env.threads, "read", options.read_workers, WAITING_READS)?;
    tracing::info!(data_dir = %options.data_dir.display(), shards = record.shards, "opened to be read");
    Ok(Arc::new(ReadOnlyCore::new(Parts {
        router: Router { hash_seed: record.hash_seed, shards: record.shards },
        cache: context.cache,
        options,
        env,
        clock_high_ms,
        workers,
        shards,
        lock,
    })))
}

/// Whether there is a directory; before its lock is looked for, so that the error says what is wrong.
fn look_at(storage: &dyn Storage, dir: &Path) -> Result<()> {
    match storage.read_dir(dir) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let message =
                format!("there is no data directory {}: name the directory of a node", dir.display());
            Err(Error::with_source(ErrorKind::Invalid, message, error))
        }
        Err(error) => Err(Error::io("list", dir, error)),
    }
}

/// The directory's record.
fn find(storage: &dyn Storage, dir: &Path, asked_shards: u32) -> Result<NodeRecord> {
    match node_file::inspect(storage, dir)? {
        Directory::Node(record) if asked_shards != 0 && asked_shards != record.shards => {
            Err(other_count(asked_shards, record.shards, dir))
        }
        Directory::Node(record) => Ok(record),
        Directory::Unfinished => Err(Error::invalid(format!(
            "the making of a node in {} was interrupted: there is nothing to read before a node is opened there",
            dir.display()
        ))),
        Directory::Fresh => Err(Error::invalid(format!(
            "{} is not the data directory of a node: name another directory",
            dir.display()
        ))),
    }
}

/// Replays what stands of the logs; a shard that cannot be read refuses alone.
fn replay(found: Found, parallelism: usize) -> Shards {
    let view = |(place, recovery, cut): (usize, TreeRecovery, Cut)| (place, view_of(recovery, &cut));
    let mut shards = in_parallel(found.intact, parallelism, view);
    shards.extend(found.damaged.into_iter().map(|(place, error)| (place, Err(error))));
    shards.sort_by_key(|(place, _)| *place);
    shards.into_iter().map(|(place, shard)| shard.map_err(|error| refused(place, &error))).collect()
}

fn view_of(recovery: TreeRecovery, cut: &Cut) -> Result<ReadOnlyShard> {
    let flushed_seqno = recovery.flushed_seqno();
    let replayed = recovery.replay(cut).run();
    let (view, summary) = recovery.into_view(cut, replayed)?;
    log_recovery(&summary);
    Ok(ReadOnlyShard { view, flushed_seqno })
}
