//! All that can be read of a node, by every way to read it, to be compared with another one's.

use bytes::Bytes;
use dbex::{
    ErrorKind, Pair, Result, TimeToLive,
    blocking::{Node, ReadOnlyNode, Scan},
};

/// What reads, on this thread.
pub(crate) trait Reads {
    fn get(&self, key: &str) -> Result<Option<Bytes>>;
    fn multi_get(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>>;
    fn time_to_live(&self, key: &str) -> Result<Option<TimeToLive>>;
    fn scan(&self) -> Scan;
    fn close(&self) -> Result<()>;
}

macro_rules! reads {
    ($($node:ty),*) => {$(
        impl Reads for $node {
            fn get(&self, key: &str) -> Result<Option<Bytes>> {
                self.get(key)
            }
            fn multi_get(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>> {
                self.multi_get(keys)
            }
            fn time_to_live(&self, key: &str) -> Result<Option<TimeToLive>> {
                self.time_to_live(key)
            }
            fn scan(&self) -> Scan {
                self.scan(..)
            }
            fn close(&self) -> Result<()> {
                self.close()
            }
        }
    )*};
}
reads!(Node, ReadOnlyNode);

type Outcome<T> = std::result::Result<T, ErrorKind>;

/// What was read, and of what could not be, why not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) pairs: Outcome<Vec<Pair>>,
    backward: Outcome<Vec<Pair>>,
    part: Outcome<Vec<Pair>>,
    pub(crate) values: Vec<Outcome<Option<Bytes>>>,
    together: Outcome<Vec<Option<Bytes>>>,
    left: Vec<Outcome<Option<TimeToLive>>>,
}

impl Picture {
    /// Reads `keys` and scans everything, twice: the second time finds much of it in the caches.
    ///
    /// # Panics
    /// If the two differ, or what is scanned from what is got.
    pub(crate) fn of(node: &impl Reads, keys: &[String]) -> Self {
        let cold = Self::once(node, keys);
        let warm = Self::once(node, keys);
        assert!(cold == warm, "nobody writes, and what is read changes");
        if let Ok(pairs) = &cold.pairs {
            let found = cold.values.iter().filter(|value| matches!(value, Ok(Some(_)))).count();
            assert_eq!(pairs.len(), found, "a scan finds other keys than gets do");
        }
        cold
    }

    fn once(node: &impl Reads, keys: &[String]) -> Self {
        let all = |scan: Scan| scan.collect::<Result<Vec<_>>>().map_err(|error| error.kind());
        let kind = |error: dbex::Error| error.kind();
        Self {
            pairs: all(node.scan()),
            backward: all(node.scan().reverse()),
            part: all(node.scan().prefix("key-1").limit(7)),
            values: keys.iter().map(|key| node.get(key).map_err(kind)).collect(),
            together: node.multi_get(keys).map_err(kind),
            left: keys.iter().map(|key| node.time_to_live(key).map_err(kind)).collect(),
        }
    }

    /// In a few words.
    pub(crate) fn summary(&self) -> String {
        match &self.pairs {
            Ok(pairs) => format!("{} pairs", pairs.len()),
            Err(kind) => format!("an error: {}", kind.name()),
        }
    }
}
