//! Scans: one ordered sequence over all shards, merged from a scan of each shard's tree.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;

use super::node_core::NodeCore;
use crate::{
    error::{Error, Result},
    ids::SeqNo,
    key::KeyRange,
    tree::TreeScan,
};

/// What a scan returns: a key and its value.
pub type Pair = (Bytes, Bytes);

/// What to scan.
#[derive(Clone, Debug)]
pub(super) struct ScanPlan {
    pub range: KeyRange,
    pub reverse: bool,
    pub limit: usize,
}

impl ScanPlan {
    pub(super) fn new(range: KeyRange) -> Self {
        Self { range, reverse: false, limit: usize::MAX }
    }

    pub(super) fn prefix(&mut self, prefix: &[u8]) {
        self.range = self.range.intersect(&KeyRange::prefix(prefix));
    }
}

/// A running scan over all shards; each step may wait for the disk.
pub(super) struct ShardsScan {
    scans: Vec<TreeScan>,
    heads: BinaryHeap<Head>,
    left: usize,
}

/// The next pair of one shard. The greatest head is the next one out.
struct Head {
    key: Bytes,
    value: Bytes,
    scan: usize,
    reverse: bool,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let ascending = self.key.cmp(&other.key);
        if self.reverse { ascending } else { ascending.reverse() }
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Head {}

impl ShardsScan {
    /// Opens a scan of every shard. Sorts what was written since the last scan.
    ///
    /// # Errors
    /// `Invalid` for an inverted range; why a shard is not open; `Io`; `Corruption`.
    pub(super) fn open(core: &NodeCore, plan: &ScanPlan) -> Result<Self> {
        plan.range.check()?;
        core.lifecycle.check_open()?;
        let now_ms = core.now_ms();
        let scans = (0..core.shards.len())
            .map(|index| Ok(core.shard(index)?.tree.scan(&plan.range, plan.reverse, SeqNo::MAX, now_ms)));
        let mut scan =
            Self { scans: scans.collect::<Result<_>>()?, heads: BinaryHeap::new(), left: plan.limit };
        for index in 0..scan.scans.len() {
            scan.advance(index, plan.reverse)?;
        }
        Ok(scan)
    }

    pub(super) fn next(&mut self) -> Result<Option<Pair>> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(Head { key, value, scan, reverse }) = self.heads.pop() else { return Ok(None) };
        self.left -= 1;
        self.advance(scan, reverse)?;
        Ok(Some((key, value)))
    }

    fn advance(&mut self, index: usize, reverse: bool) -> Result<()> {
        let next = self.scans.get_mut(index).map_or(Ok(None), TreeScan::next)?;
        self.heads.extend(next.map(|(key, value)| Head { key, value, scan: index, reverse }));
        Ok(())
    }
}

/// How many pairs the first fetch brings; each later one brings twice as many as the one before.
const FIRST_CHUNK: usize = 16;
const MAX_CHUNK: usize = 1024;
/// A fetch ends early once it holds this many bytes.
const MAX_CHUNK_BYTES: usize = 256 << 10;

/// An ordered scan over all shards, as a stream of key and value. Nothing happens before the first poll; all
/// work that may wait for the disk happens on the node's read workers, a chunk at a time.
///
/// It sees each shard as it was when the stream was first polled, whatever is written, flushed or compacted meanwhile.
/// While it is held it pins the tables it reads from.
pub struct Scan {
    plan: ScanPlan,
    state: State,
    ready: VecDeque<Pair>,
    chunk: usize,
    core: Arc<NodeCore>,
}

enum State {
    Start,
    Between(ShardsScan),
    Fetching(Pin<Box<dyn Future<Output = Result<Fetched>> + Send>>),
    /// Pairs came before this; it is told after them.
    Failed(Error),
    Ended,
}

struct Fetched {
    pairs: VecDeque<Pair>,
    /// `None`: the scan is at its end.
    scan: Option<ShardsScan>,
    /// What ended the scan early; told after the pairs before it.
    failed: Option<Error>,
}

impl Scan {
    pub(super) fn new(core: Arc<NodeCore>, range: KeyRange) -> Self {
        let (plan, ready) = (ScanPlan::new(range), VecDeque::new());
        Self { plan, state: State::Start, ready, chunk: FIRST_CHUNK, core }
    }

    /// Only keys that begin with `prefix`, within the range. Call it before the first poll.
    #[must_use]
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.plan.prefix(prefix.as_ref());
        self
    }

    /// From the last key to the first. Call it before the first poll.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.plan.reverse = true;
        self
    }

    /// At most `limit` pairs; 0 gives an empty stream. Call it before the first poll.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.plan.limit = limit;
        self
    }

    /// Starts the next fetch on a read worker.
    fn fetch(&mut self, scan: Option<ShardsScan>) {
        let (core, plan, chunk) = (Arc::clone(&self.core), self.plan.clone(), self.chunk);
        self.chunk = (self.chunk * 2).min(MAX_CHUNK);
        self.state = State::Fetching(Box::pin(async move {
            let worker = Arc::clone(&core);
            core.pools
                .read
                .run(move || {
                    let scan = scan.map_or_else(|| ShardsScan::open(&worker, &plan), Ok)?;
                    Ok(take_chunk(scan, chunk))
                })
                .await?
        }));
    }
}

fn take_chunk(mut scan: ShardsScan, chunk: usize) -> Fetched {
    let (mut pairs, mut bytes) = (VecDeque::new(), 0);
    while pairs.len() < chunk && bytes < MAX_CHUNK_BYTES {
        match scan.next() {
            Ok(Some((key, value))) => {
                bytes += key.len() + value.len();
                pairs.push_back((key, value));
            }
            Ok(None) => return Fetched { pairs, scan: None, failed: None },
            Err(error) => return Fetched { pairs, scan: None, failed: Some(error) },
        }
    }
    Fetched { pairs, scan: Some(scan), failed: None }
}

impl Stream for Scan {
    type Item = Result<Pair>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(pair) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(pair)));
            }
            match std::mem::replace(&mut this.state, State::Ended) {
                State::Start => this.fetch(None),
                State::Between(scan) => this.fetch(Some(scan)),
                State::Ended => return Poll::Ready(None),
                State::Failed(error) => return Poll::Ready(Some(Err(error))),
                State::Fetching(mut fetching) => match fetching.as_mut().poll(context) {
                    Poll::Pending => {
                        this.state = State::Fetching(fetching);
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                    Poll::Ready(Ok(Fetched { pairs, scan, failed })) => {
                        this.ready = pairs;
                        match (scan, failed) {
                            (Some(scan), _) => this.state = State::Between(scan),
                            (None, Some(error)) => this.state = State::Failed(error),
                            (None, None) => this.state = State::Ended,
                        }
                    }
                },
            }
        }
    }
}
