//! Many keys read together: grouped by shard, each shard's view loaded once, the answers in the order of the keys.
//!
//! ```text
//!   caller's thread   locate ──► warm: look up, never waits ──► cold: in the order of shards and keys
//!                                                                 │
//!                     a blocking caller ──┐                       ▼
//!                     read workers ───────┴──► each takes the next share until none is left
//! ```
//! Nobody is given a share before he can read it. So a blocking caller waits only for shares that a worker is reading
//! at the moment, and where no worker is free it reads all of them itself.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use super::{
    read_path::{Located, PointReads},
    workers::Step,
};
use crate::{
    error::{Error, Result},
    ids::SeqNo,
    key::KeyHash,
    table::{Lookup, ReadMode},
    tree::ReadView,
    waiting,
};

/// So many cold keys are worth a thread of their own.
const KEYS_A_READER: usize = 2;
/// How many shares there are for each thread, so that all end at about the same time.
const SHARES_A_READER: usize = 4;
/// The most keys of a share: others who wait for a read worker get their turn between two.
const MOST_KEYS_A_SHARE: usize = 16;

/// The values of keys, in their order, for an async caller; what is cold is read by several workers at once.
/// `located` says where each key is.
///
/// # Errors
/// As [`PointReads::view_of`]'s; `Io`, `Corruption`. The first that is met fails all.
pub(super) async fn multi_get_async<R: PointReads, K: AsRef<[u8]>>(
    reads: &R,
    keys: &[K],
    located: &[Located],
) -> Result<Vec<Option<Bytes>>> {
    let (mut values, cold) = warm(reads, keys, located)?;
    if cold.is_empty() {
        return Ok(values);
    }
    let workers = reads.workers();
    let cold = ColdReads::new(cold, reads.position(), workers.count());
    let (step, answers) = cold.step();
    workers.start_steps(cold.readers, step).await?;
    for _ in 0..cold.shares() {
        let answer = answers.recv_async().await.map_err(|_| workers.why_dropped())?;
        put_answers(reads, &mut values, answer?);
    }
    Ok(values)
}

/// The same, for a caller that may wait: it reads beside the workers.
///
/// # Errors
/// As [`multi_get_async`]'s.
pub(super) fn multi_get_blocking<R: PointReads, K: AsRef<[u8]>>(
    reads: &R,
    keys: &[K],
    located: &[Located],
) -> Result<Vec<Option<Bytes>>> {
    let (mut values, cold) = warm(reads, keys, located)?;
    if cold.is_empty() {
        return Ok(values);
    }
    let workers = reads.workers();
    let cold = ColdReads::new(cold, reads.position(), workers.count() + 1);
    let (step, answers) = cold.step();
    workers.try_start_steps(cold.readers - 1, &step);
    let mut elsewhere = cold.shares();
    while let Some(share) = cold.take() {
        reads.check_open()?;
        put_answers(reads, &mut values, cold.read(share)?);
        elsewhere -= 1;
    }
    // IMPORTANT: these are being read: what waits for a worker has taken no share.
    for _ in 0..elsewhere {
        let answer = waiting::receive(&answers).map_err(|_| workers.why_dropped())?;
        put_answers(reads, &mut values, answer?);
    }
    Ok(values)
}

/// What can be answered without waiting, and what cannot.
fn warm<R: PointReads, K: AsRef<[u8]>>(
    reads: &R,
    keys: &[K],
    located: &[Located],
) -> Result<(Vec<Option<Bytes>>, Vec<ColdRead>)> {
    let (mut values, mut cold) = (vec![None; keys.len()], vec![]);
    let at = reads.position();
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by_key(|place| located.get(*place).map(|at| at.shard));
    let mut last: Option<(usize, Arc<ReadView>)> = None;
    for place in order {
        let (Some(key), Some(located), Some(value)) =
            (keys.get(place), located.get(place), values.get_mut(place))
        else {
            continue;
        };
        let view = match &last {
            Some((shard, view)) if *shard == located.shard => view,
            _ => &last.insert((located.shard, reads.view_of(located.shard)?)).1,
        };
        match view.get(located.hash, key.as_ref(), at, ReadMode::NoWait)? {
            Lookup::WouldBlock => cold.push(ColdRead {
                place,
                hash: located.hash,
                key: Bytes::copy_from_slice(key.as_ref()),
                shard: located.shard,
                view: Arc::clone(view),
            }),
            lookup => *value = reads.visible(lookup),
        }
    }
    Ok((values, cold))
}

/// One key that has to be waited for.
struct ColdRead {
    place: usize,
    hash: KeyHash,
    key: Bytes,
    shard: usize,
    view: Arc<ReadView>,
}

/// What was found of the keys at these places.
type Answers = Vec<(usize, Lookup)>;

/// The keys that have to be waited for, and how far they are shared out.
struct ColdReads {
    reads: Vec<ColdRead>,
    at: SeqNo,
    /// How many threads are to read.
    readers: usize,
    share: usize,
    next: AtomicUsize,
}

impl ColdReads {
    fn new(mut reads: Vec<ColdRead>, at: SeqNo, most_readers: usize) -> Arc<Self> {
        // Keys of one block are read by one thread, one after the other: it reads the block once.
        reads.sort_unstable_by(|a, b| (a.shard, &a.key).cmp(&(b.shard, &b.key)));
        let readers = (reads.len() / KEYS_A_READER).clamp(1, most_readers.max(1));
        let share = (reads.len() / (readers * SHARES_A_READER)).clamp(1, MOST_KEYS_A_SHARE);
        Arc::new(Self { reads, at, readers, share, next: AtomicUsize::new(0) })
    }

    fn shares(&self) -> usize {
        self.reads.len().div_ceil(self.share)
    }

    /// The keys that nobody has taken yet, as many as one reads at a time.
    fn take(&self) -> Option<&[ColdRead]> {
        // NOTE: nothing is handed over but the number: what it stands for does not change.
        let share = self.next.fetch_add(1, Ordering::Relaxed);
        self.reads.chunks(self.share).nth(share)
    }

    fn read(&self, share: &[ColdRead]) -> Result<Answers> {
        let read = |cold: &ColdRead| {
            let found = cold.view.get(cold.hash, &cold.key, self.at, ReadMode::Blocking)?;
            Ok((cold.place, found))
        };
        share.iter().map(read).collect()
    }

    /// What a worker does again and again: it reads a share. Ends when there is none, or nobody waits any more.
    fn step(self: &Arc<Self>) -> (Step, flume::Receiver<Result<Answers>>) {
        let (send, answers) = flume::unbounded();
        let cold = Arc::clone(self);
        let step = move || {
            if send.is_disconnected() {
                return ControlFlow::Break(());
            }
            let Some(share) = cold.take() else { return ControlFlow::Break(()) };
            // IMPORTANT: a share that was taken is answered, come what may: somebody waits for it.
            let read = catch_unwind(AssertUnwindSafe(|| cold.read(share)));
            let answer = read.unwrap_or_else(|_| Err(Error::internal("a read worker panicked")));
            if send.send(answer).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        (Arc::new(step), answers)
    }
}

fn put_answers<R: PointReads>(reads: &R, values: &mut [Option<Bytes>], answers: Answers) {
    for (place, found) in answers {
        if let Some(value) = values.get_mut(place) {
            *value = reads.visible(found);
        }
    }
}
