//! Scans: one ordered sequence over all shards, merged from a scan of each shard's tree.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;

use super::{
    open_scans::OpenScan,
    scan_source::{ScanSource, Scanned},
};
use crate::{
    error::{Error, Result},
    key::KeyRange,
    tree::{LoserTree, PairBatch, TreeScan},
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

/// The least that is fetched from a shard at once, and the most.
const MIN_BATCH: usize = 4;
const MAX_BATCH: usize = 256;
/// What is fetched from each shard first, where no limit says how much will be wanted.
const FIRST_BATCH: usize = 16;

/// A running scan over all shards; each step may wait for the disk.
pub(super) struct ShardsScan {
    heads: Vec<Head>,
    order: LoserTree,
    reverse: bool,
    left: usize,
    /// How many pairs each shard is asked for next, if the limit asks for no fewer.
    batch: usize,
    /// Whether the first head was returned, and has to move on first.
    returned: bool,
    /// Tells that it is under way.
    _open: Option<OpenScan>,
}

/// Where one shard's scan stands.
struct Head {
    scan: TreeScan,
    batch: PairBatch,
    at: usize,
}

impl Head {
    #[inline]
    fn key(&self) -> Option<(u64, &[u8])> {
        self.batch.key(self.at)
    }

    fn fetch(&mut self, pairs: usize) -> Result<()> {
        self.at = 0;
        // NOTE: the old batch goes first, so that its memory can be the next one's.
        self.batch = PairBatch::default();
        self.batch = self.scan.next_batch(pairs)?;
        Ok(())
    }
}

/// Whether the head at `a` is returned before the one at `b`; one at its end comes last.
#[inline]
fn is_before(heads: &[Head], reverse: bool, a: usize, b: usize) -> bool {
    let key = |place: usize| heads.get(place).and_then(Head::key);
    match (key(a), key(b)) {
        (Some(a), Some(b)) if reverse => b < a,
        (Some(a), Some(b)) => a < b,
        (a, _) => a.is_some(),
    }
}

impl ShardsScan {
    /// Opens a scan of every shard. Sorts what was written since the last scan. It does not need the source
    /// afterwards.
    ///
    /// # Errors
    /// `Invalid` for an inverted range; why a shard cannot be read from; `Io`; `Corruption`.
    pub(super) fn open(source: &dyn ScanSource, plan: &ScanPlan) -> Result<Self> {
        let &ScanPlan { ref range, reverse, limit } = plan;
        range.check()?;
        let open = |index| {
            let scan = source.scan_shard(index, range, reverse)?;
            Ok(Head { scan, batch: PairBatch::default(), at: 0 })
        };
        let heads = (0..source.shards()).map(open).collect::<Result<Vec<_>>>()?;
        let batch = if limit == usize::MAX { FIRST_BATCH } else { MAX_BATCH };
        let order = LoserTree::default();
        let mut scan =
            Self { heads, order, reverse, left: limit, batch, returned: false, _open: source.begin_scan() };
        if limit == 0 {
            return Ok(scan);
        }
        let pairs = scan.batch_pairs();
        scan.heads.iter_mut().try_for_each(|head| head.fetch(pairs))?;
        let heads = &scan.heads;
        scan.order.rebuild(heads.len(), |a, b| is_before(heads, reverse, a, b));
        Ok(scan)
    }

    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Pair>> {
        Ok(self.step()?.and_then(|head| head.batch.pair(head.at)))
    }

    /// The next pair, without a reference to its memory being counted.
    #[inline]
    pub(super) fn next_in_place(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        Ok(self.step()?.and_then(|head| head.batch.pair_in_place(head.at)))
    }

    /// Finds the next pair: where the head stands. `None` at the end, and from then on.
    #[inline]
    fn step(&mut self) -> Result<Option<&Head>> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.returned {
            self.advance()?;
        }
        self.returned = true;
        let first = self.order.first().and_then(|first| self.heads.get(first));
        let first = first.filter(|head| head.key().is_some());
        self.left = if first.is_some() { self.left - 1 } else { 0 };
        Ok(first)
    }

    /// Moves the first head on, and finds which is the first now.
    fn advance(&mut self) -> Result<()> {
        let pairs = self.batch_pairs();
        if let Some(head) = self.order.first().and_then(|first| self.heads.get_mut(first)) {
            head.at += 1;
            if head.at == head.batch.len() {
                head.fetch(pairs)?;
                self.batch = (self.batch * 2).min(MAX_BATCH);
            }
        }
        let (heads, reverse) = (&self.heads, self.reverse);
        self.order.replay(|a, b| is_before(heads, reverse, a, b));
        Ok(())
    }

    /// How many pairs to ask a shard for: its even share of what is left, as keys are hashed.
    fn batch_pairs(&self) -> usize {
        let share = self.left.div_ceil(self.heads.len().max(1));
        share.clamp(MIN_BATCH, self.batch).min(self.left)
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
/// It sees all shards as they were at one moment, its snapshot's or that of the first poll, whatever is written,
/// flushed or compacted meanwhile. While it is held it pins the memtables that there were, and the tables with keys in its range;
/// [`NodeStats`](crate::NodeStats) tells how many there are, and how long the oldest has been.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # pollster::block_on(async {
/// use dbex::{Node, Settings};
/// use futures_util::TryStreamExt;
///
/// let node = Node::open(Settings::builder().data_dir(dir.path()).build()?).await?;
/// for day in ["log/1", "log/2", "log/3", "user/1"] {
///     node.put(day, "…").await?;
/// }
/// let last_two: Vec<_> = node.scan(..).prefix("log/").reverse().limit(2).try_collect().await?;
/// assert_eq!(last_two[0].0, "log/3");
/// assert_eq!(last_two[1].0, "log/2");
/// # node.close().await?;
/// # Ok::<(), dbex::Error>(())
/// # }).unwrap();
/// ```
pub struct Scan {
    plan: ScanPlan,
    state: State,
    ready: VecDeque<Pair>,
    chunk: usize,
    scanned: Scanned,
    /// The moment that is seen; taken at the first poll otherwise.
    source: Option<Arc<dyn ScanSource>>,
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
    pub(super) fn new(scanned: Scanned, range: KeyRange, source: Option<Arc<dyn ScanSource>>) -> Self {
        let (plan, ready) = (ScanPlan::new(range), VecDeque::new());
        Self { plan, state: State::Start, ready, chunk: FIRST_CHUNK, scanned, source }
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
        let (scanned, plan, chunk) = (self.scanned.clone(), self.plan.clone(), self.chunk);
        let source = self.source.take();
        self.chunk = (self.chunk * 2).min(MAX_CHUNK);
        self.state = State::Fetching(Box::pin(async move {
            let start = match (&scan, source) {
                (Some(_), _) => None,
                (None, Some(source)) => Some(source),
                (None, None) => Some(scanned.now().await?),
            };
            scanned
                .workers()
                .run(move || open_or_go_on(scan, start, &plan).map(|scan| take_chunk(scan, chunk)))
                .await?
        }));
    }
}

fn open_or_go_on(
    scan: Option<ShardsScan>,
    start: Option<Arc<dyn ScanSource>>,
    plan: &ScanPlan,
) -> Result<ShardsScan> {
    match (scan, start) {
        (Some(scan), _) => Ok(scan),
        (None, Some(source)) => ShardsScan::open(&*source, plan),
        (None, None) => Err(Error::internal("a scan of nothing")),
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
