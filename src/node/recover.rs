//! Brings shards back from disk, all that are named together: every shard when the node opens, later those that
//! failed. What half a batch means is decided over their logs, and no shard flushes what it recovered before that
//! decision is permanent in all of them.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    env::Env,
    options::NodeOptions,
    parallel::{both, in_parallel},
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{BatchId, SeqNo, ShardId},
    storage::{OpenMode, Storage},
    tree::{
        Cut, RecoverySummary, Replay, Replayed, SettledRecovery, ShardLog, Tree, TreeContext, TreeOptions,
        TreeRecovery, TreeWriter, consistent_cut,
    },
};

/// Where the shards lie, and how they are opened.
#[derive(Clone, Copy)]
pub(super) struct ShardSource<'a> {
    pub options: &'a NodeOptions,
    pub env: &'a Env,
    pub context: &'a TreeContext,
    pub tree_options: &'a TreeOptions,
    /// How many shards the node has.
    pub shards: usize,
    /// Whether the node is being made: only then may a shard have no manifest.
    pub made: bool,
}

/// A shard that was brought back, or why it does not open.
pub(super) type RecoveredShard = Result<(Arc<Tree>, TreeWriter)>;

/// What was brought back.
pub(super) struct Recovered {
    /// The shards by their places.
    pub shards: Vec<(usize, RecoveredShard)>,
    /// The highest sequence number that any of them knows of.
    pub highest_seqno: SeqNo,
    /// Where the node's clock was.
    pub clock_high_ms: u64,
}

/// Recovers the shards at `places`; the others count as standing. `void` are batches that could not be taken back
/// in a log, `highest_seqno` is the node's so far, `sync_others` makes the other shards' halves of batches durable.
///
/// A shard that is damaged does not open, and the others do.
///
/// # Errors
/// `Io`, `NoSpace` and what `sync_others` fails with: none of the shards is brought back, nothing is lost, and
/// doing it again starts over.
pub(super) fn recover(
    source: ShardSource<'_>,
    places: &[usize],
    void: &HashSet<BatchId>,
    highest_seqno: SeqNo,
    sync_others: impl FnOnce() -> Result<()>,
) -> Result<Recovered> {
    let Found { intact, damaged, highest_seqno, clock_high_ms } =
        read_all(source, places, void, highest_seqno)?;
    let replays = intact.iter().map(|(_, recovery, cut)| recovery.replay(cut)).collect();
    let parallelism = source.env.threads.parallelism();
    let (replayed, settled) = both(
        parallelism,
        || in_parallel(replays, parallelism, Replay::run),
        || source.settle(intact, highest_seqno, sync_others),
    );
    let settled: Vec<_> = settled?.into_iter().zip(replayed).collect();
    let mut shards =
        in_parallel(settled, parallelism, |((place, settled), replayed)| (place, finish(settled, replayed)));
    if source.made
        && let Some((_, Err(error))) = shards.iter().find(|(_, shard)| shard.is_err())
    {
        return Err(error.clone());
    }
    shards.extend(damaged.into_iter().map(|(place, error)| (place, Err(error))));
    shards.sort_by_key(|(place, _)| *place);
    Ok(Recovered { shards, highest_seqno, clock_high_ms })
}

/// What was read of shards, before anything of it is made permanent.
pub(super) struct Found {
    /// Those that can be brought back, and what stands of their logs.
    pub intact: Vec<(usize, TreeRecovery, Cut)>,
    /// Those that do not open.
    pub damaged: Vec<(usize, Error)>,
    /// The highest sequence number that any of them knows of.
    pub highest_seqno: SeqNo,
    /// Where the node's clock was.
    pub clock_high_ms: u64,
}

/// Reads the shards at `places`, and finds what stands over all their logs; see [`recover`]. Changes nothing on disk.
///
/// # Errors
/// `Io`: doing it again starts over.
pub(super) fn read_all(
    source: ShardSource<'_>,
    places: &[usize],
    void: &HashSet<BatchId>,
    highest_seqno: SeqNo,
) -> Result<Found> {
    let mut damaged = Vec::new();
    let mut intact = Vec::new();
    let mut logs: Vec<_> = (0..source.shards).map(|_| ShardLog::refused()).collect();
    for (place, read) in
        in_parallel(places.to_vec(), source.env.threads.parallelism(), |place| (place, source.read(place)))
    {
        match read {
            Ok(recovery) => {
                if let Some(log) = logs.get_mut(place) {
                    *log = recovery.shard_log();
                    log.cancelled.extend(void.iter().copied());
                }
                intact.push((place, recovery));
            }
            // NOTE: only what another try would find again. A passing error must not make batches stand or fall.
            Err(error) if !source.made && is_lasting(&error) => damaged.push((place, error)),
            Err(error) => return Err(error.context(format!("shard {place} is not open"))),
        }
    }
    let highest_seqno =
        intact.iter().map(|(_, recovery)| recovery.highest_seqno()).fold(highest_seqno, SeqNo::max);
    let clock_high_ms = intact.iter().map(|(_, recovery)| recovery.clock_high_ms()).max().unwrap_or_default();
    let mut cuts = consistent_cut(&logs);
    let mut cut_of = |place: usize| cuts.get_mut(place).map(std::mem::take).unwrap_or_default();
    let intact = intact.into_iter().map(|(place, recovery)| (place, recovery, cut_of(place))).collect();
    Ok(Found { intact, damaged, highest_seqno, clock_high_ms })
}

fn is_lasting(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Invalid)
}

impl ShardSource<'_> {
    /// Makes the logs durable, and then the cuts permanent.
    fn settle(
        &self,
        work: Vec<(usize, TreeRecovery, Cut)>,
        highest_seqno: SeqNo,
        sync_others: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<(usize, SettledRecovery)>> {
        let parallelism = self.env.threads.parallelism();
        // IMPORTANT: every log is durable before any shard flushes what it recovered, because a flush makes a
        // cross-shard batch count as standing in that shard.
        in_parallel(work.iter().collect(), parallelism, |(_, recovery, _)| recovery.sync_log())
            .into_iter()
            .collect::<Result<()>>()?;
        sync_others()?;
        let settle = |(place, recovery, cut): (usize, TreeRecovery, Cut)| {
            Ok((place, recovery.settle(cut, highest_seqno, self.env.random.next_u64())?))
        };
        in_parallel(work, parallelism, settle).into_iter().collect()
    }

    /// Reads one shard's manifest and log.
    fn read(&self, place: usize) -> Result<TreeRecovery> {
        let shard = u32::try_from(place).map_err(|_| Error::internal("a shard index above 32 bits"))?;
        let dir = shard_dir(&self.options.data_dir, place);
        if !self.made {
            check_made(&*self.context.storage, &dir)?;
        }
        TreeRecovery::read(self.context.clone(), self.tree_options.clone(), ShardId(shard), dir)
    }
}

/// A shard of a node that was made has a manifest; making an empty one in its place would hide a loss.
fn check_made(storage: &dyn Storage, shard_dir: &Path) -> Result<()> {
    let manifest = shard_dir.join("MANIFEST");
    match storage.open(&manifest, OpenMode::Read) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::corruption(&manifest, 0, "the shard's manifest", "no such file"))
        }
        Err(error) => Err(Error::io("open", &manifest, error)),
    }
}

fn shard_dir(data_dir: &Path, place: usize) -> PathBuf {
    data_dir.join(format!("shard-{place:04}"))
}

fn finish(settled: SettledRecovery, replayed: Replayed) -> RecoveredShard {
    let (tree, writer, summary) = settled.finish(replayed)?;
    log_recovery(&summary);
    Ok((tree, writer))
}

/// Why a shard is not open, told to those who come for it; it is logged here.
pub(super) fn refused(place: usize, error: &Error) -> Error {
    tracing::error!(shard = place, error = %error, "a shard does not open; the others do");
    error.context(format!("shard {place} is not open"))
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
        tracing::warn!(shard, discarded = ?discarded, "the log's end is torn: what lies behind it does not count");
    }
    for path in &summary.strangers {
        tracing::warn!(shard, path = %path.display(), "a file that is not ours is left alone");
    }
}
