//! The two faces of a node, async and blocking, behind one: each call goes through one of them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use dbex::{
    Change, Expected, KeyRange, Node, NodeStats, PutOptions, Result, Snapshot, Step, StepDone, TimeToLive,
    WriteBatch, blocking,
};
use futures_util::StreamExt;
use pollster::block_on;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What to scan.
#[derive(Clone, Debug)]
pub(crate) struct ScanOrder {
    pub(crate) range: KeyRange,
    pub(crate) prefix: Option<Vec<u8>>,
    pub(crate) reverse: bool,
    pub(crate) limit: Option<usize>,
}

/// Begins a scan of a node or a snapshot of either face.
macro_rules! as_ordered {
    ($node:expr, $order:expr) => {{
        let mut scan = $node.scan($order.range.clone());
        if let Some(prefix) = &$order.prefix {
            scan = scan.prefix(prefix);
        }
        if $order.reverse {
            scan = scan.reverse();
        }
        if let Some(limit) = $order.limit { scan.limit(limit) } else { scan }
    }};
}

/// A node and the face through which the next call goes.
pub(crate) enum Face {
    Blocking(blocking::Node),
    Async(Node),
}

impl Face {
    pub(crate) fn put(&self, key: &[u8], value: &[u8], options: PutOptions) -> Result<()> {
        match self {
            Self::Blocking(node) if options == PutOptions::new() => node.put(key, value),
            Self::Blocking(node) => node.put_with(key, value, options),
            Self::Async(node) if options == PutOptions::new() => block_on(node.put(key, value)),
            Self::Async(node) => block_on(node.put_with(key, value, options)),
        }
    }

    pub(crate) fn put_bytes(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let (key, value) = (key.to_vec().into(), value.to_vec().into());
        match self {
            Self::Blocking(node) => node.put_bytes(key, value),
            Self::Async(node) => block_on(node.put_bytes(key, value)),
        }
    }

    pub(crate) fn put_if_absent(&self, key: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Self::Blocking(node) => node.put_if_absent(key, value),
            Self::Async(node) => block_on(node.put_if_absent(key, value)),
        }
    }

    pub(crate) fn delete_range(&self, range: KeyRange) -> Result<()> {
        match self {
            Self::Blocking(node) => node.delete_range(range),
            Self::Async(node) => block_on(node.delete_range(range)),
        }
    }

    pub(crate) fn delete(&self, key: &[u8]) -> Result<()> {
        match self {
            Self::Blocking(node) => node.delete(key),
            Self::Async(node) => block_on(node.delete(key)),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = match self {
            Self::Blocking(node) => node.get(key),
            Self::Async(node) => block_on(node.get(key)),
        };
        found.map(|value| value.map(Vec::from))
    }

    pub(crate) fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let found = match self {
            Self::Blocking(node) => node.multi_get(keys),
            Self::Async(node) => block_on(node.multi_get(keys)),
        };
        found.map(|values| values.into_iter().map(|value| value.map(Vec::from)).collect())
    }

    pub(crate) fn write(&self, batch: WriteBatch) -> Result<()> {
        match self {
            Self::Blocking(node) => node.write(batch),
            Self::Async(node) => block_on(node.write(batch)),
        }
    }

    /// Sets the key to `value`, or removes it; returns the value before.
    pub(crate) fn update(&self, key: &[u8], value: Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        self.update_by(key, move |_| value.into())
    }

    /// Returns the value before.
    pub(crate) fn update_by(
        &self,
        key: &[u8],
        change: impl FnOnce(Option<&[u8]>) -> Change + Send + 'static,
    ) -> Result<Option<Vec<u8>>> {
        let before = match self {
            Self::Blocking(node) => node.update(key, change),
            Self::Async(node) => block_on(node.update(key, change)),
        };
        before.map(|value| value.map(Vec::from))
    }

    pub(crate) fn increment(&self, key: &[u8], by: i64) -> Result<i64> {
        match self {
            Self::Blocking(node) => node.increment(key, by),
            Self::Async(node) => block_on(node.increment(key, by)),
        }
    }

    pub(crate) fn compare_and_swap(&self, key: &[u8], expected: Expected<'_>, value: &[u8]) -> Result<bool> {
        match self {
            Self::Blocking(node) => node.compare_and_swap(key, expected, value),
            Self::Async(node) => block_on(node.compare_and_swap(key, expected, value)),
        }
    }

    pub(crate) fn compare_and_delete(&self, key: &[u8], expected: Expected<'_>) -> Result<bool> {
        match self {
            Self::Blocking(node) => node.compare_and_delete(key, expected),
            Self::Async(node) => block_on(node.compare_and_delete(key, expected)),
        }
    }

    pub(crate) fn steps(&self, steps: Vec<Step>) -> Vec<Result<StepDone>> {
        match self {
            Self::Blocking(node) => node.steps(steps),
            Self::Async(node) => block_on(node.steps(steps)),
        }
    }

    pub(crate) fn time_to_live(&self, key: &[u8]) -> Result<Option<TimeToLive>> {
        match self {
            Self::Blocking(node) => node.time_to_live(key),
            Self::Async(node) => block_on(node.time_to_live(key)),
        }
    }

    pub(crate) fn snapshot(&self) -> Result<OpenSnapshot> {
        match self {
            Self::Blocking(node) => node.snapshot().map(OpenSnapshot::Blocking),
            Self::Async(node) => block_on(node.snapshot()).map(OpenSnapshot::Async),
        }
    }

    pub(crate) fn scan(&self, order: &ScanOrder) -> OpenScan {
        match self {
            Self::Blocking(node) => OpenScan::Blocking(as_ordered!(node, order)),
            Self::Async(node) => OpenScan::Async(as_ordered!(node, order)),
        }
    }

    pub(crate) fn sync(&self) -> Result<()> {
        match self {
            Self::Blocking(node) => node.sync(),
            Self::Async(node) => block_on(node.sync()),
        }
    }

    pub(crate) fn flush(&self) -> Result<()> {
        match self {
            Self::Blocking(node) => node.flush(),
            Self::Async(node) => block_on(node.flush()),
        }
    }

    pub(crate) fn settle(&self) -> Result<()> {
        match self {
            Self::Blocking(node) => node.settle(),
            Self::Async(node) => block_on(node.settle()),
        }
    }

    pub(crate) fn compact(&self, range: KeyRange) -> Result<()> {
        match self {
            Self::Blocking(node) => node.compact(range),
            Self::Async(node) => block_on(node.compact(range)),
        }
    }

    pub(crate) fn stats(&self) -> Result<NodeStats> {
        match self {
            Self::Blocking(node) => node.stats(),
            Self::Async(node) => block_on(node.stats()),
        }
    }

    pub(crate) fn close(&self) -> Result<()> {
        match self {
            Self::Blocking(node) => node.close(),
            Self::Async(node) => block_on(node.close()),
        }
    }
}

/// A snapshot that is held.
pub(crate) enum OpenSnapshot {
    Blocking(blocking::Snapshot),
    Async(Snapshot),
}

impl OpenSnapshot {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = match self {
            Self::Blocking(snapshot) => snapshot.get(key),
            Self::Async(snapshot) => block_on(snapshot.get(key)),
        };
        found.map(|value| value.map(Vec::from))
    }

    pub(crate) fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let found = match self {
            Self::Blocking(snapshot) => snapshot.multi_get(keys),
            Self::Async(snapshot) => block_on(snapshot.multi_get(keys)),
        };
        found.map(|values| values.into_iter().map(|value| value.map(Vec::from)).collect())
    }

    pub(crate) fn scan(&self, order: &ScanOrder) -> OpenScan {
        match self {
            Self::Blocking(snapshot) => OpenScan::Blocking(as_ordered!(snapshot, order)),
            Self::Async(snapshot) => OpenScan::Async(as_ordered!(snapshot, order)),
        }
    }
}

/// A scan under way.
pub(crate) enum OpenScan {
    Blocking(blocking::Scan),
    Async(dbex::Scan),
}

impl OpenScan {
    /// The next pairs, `count` at most.
    pub(crate) fn take(&mut self, count: usize) -> Result<Pairs> {
        let mut pairs = vec![];
        while pairs.len() < count {
            let next = match self {
                Self::Blocking(scan) => scan.next(),
                Self::Async(scan) => block_on(scan.next()),
            };
            match next.transpose()? {
                Some((key, value)) => pairs.push((key.to_vec(), value.to_vec())),
                None => break,
            }
        }
        Ok(pairs)
    }
}
