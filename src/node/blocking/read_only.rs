//! A data directory that is only read, for threads.

use std::fmt;

use bytes::Bytes;

use super::{
    super::{
        env::Env,
        expiry::{Presence, TimeToLive},
        multi_get::multi_get_blocking,
        options::NodeOptions,
        read_only,
        read_path::{PointReads, locate_all},
        stats::NodeStats,
    },
    Scan,
    scan::Open,
};
use crate::{
    error::{Error, Result},
    key::KeyRange,
    table::{Lookup, ReadMode},
    waiting::block_on,
};

/// A data directory of a node that is not running, to be read, and nothing of it changed; see
/// [`dbex::ReadOnlyNode`](crate::ReadOnlyNode). Cheap to clone. Every method waits until it is done.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use dbex::{
///     Settings,
///     blocking::{Node, ReadOnlyNode},
/// };
///
/// let settings = Settings::builder().data_dir(dir.path()).build()?;
/// let node = Node::open(settings.clone())?;
/// node.put("user:1", "Ada")?;
/// node.close()?;
///
/// let reader = ReadOnlyNode::open(settings)?;
/// for pair in reader.scan(..).prefix("user:") {
///     let (key, value) = pair?;
///     assert_eq!((&key[..], &value[..]), (&b"user:1"[..], &b"Ada"[..]));
/// }
/// reader.close()?;
/// # Ok::<(), dbex::Error>(())
/// ```
#[derive(Clone)]
pub struct ReadOnlyNode {
    pub(super) node: read_only::ReadOnlyNode,
}

impl fmt::Debug for ReadOnlyNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocking::{:?}", self.node)
    }
}

impl ReadOnlyNode {
    /// Opens the settings' data directory; see [`dbex::ReadOnlyNode::open`](crate::ReadOnlyNode::open).
    ///
    /// # Errors
    /// As there.
    pub fn open(options: impl Into<NodeOptions>) -> Result<Self> {
        Self::open_with(options, Env::system())
    }

    /// The same in another world. For tests.
    ///
    /// # Errors
    /// As [`ReadOnlyNode::open`].
    pub fn open_with(options: impl Into<NodeOptions>, env: Env) -> Result<Self> {
        block_on(read_only::ReadOnlyNode::open_with(options, env)).map(|node| Self { node })
    }

    /// The same one, for async callers.
    pub fn to_async(&self) -> read_only::ReadOnlyNode {
        self.node.clone()
    }

    /// The value of a key, or `None`; reads the disk on this thread if it must.
    ///
    /// # Errors
    /// As [`dbex::ReadOnlyNode::get`](crate::ReadOnlyNode::get).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.node.core().get_blocking(key.as_ref())
    }

    /// The values of keys, in their order; what has expired is judged by one moment.
    ///
    /// # Errors
    /// As [`ReadOnlyNode::get`].
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Bytes>>> {
        let (moment, keys) = (self.node.core().moment(), keys.into_iter().collect::<Vec<K>>());
        let located = locate_all(&*moment, &keys)?;
        multi_get_blocking(&*moment, &keys, &located)
    }

    /// How long a key stays; `None` if it is absent.
    ///
    /// # Errors
    /// As [`ReadOnlyNode::get`].
    pub fn time_to_live(&self, key: impl AsRef<[u8]>) -> Result<Option<TimeToLive>> {
        let core = self.node.core();
        match core.look_up(key.as_ref(), ReadMode::Blocking)? {
            Lookup::WouldBlock => Err(Error::internal("a blocking read would block")),
            lookup => Ok(Presence::of(&lookup, core.now_ms()).time_to_live()),
        }
    }

    /// Scans a range in key order over all shards; see [`Scan`].
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        Scan::new(Open::ReadOnly(self.clone()), range.into(), None)
    }

    /// What it tells of itself; see [`dbex::ReadOnlyNode::stats`](crate::ReadOnlyNode::stats).
    ///
    /// # Errors
    /// `Closed`.
    pub fn stats(&self) -> Result<NodeStats> {
        self.node.core().stats()
    }

    /// Closes it and frees the directory. Idempotent.
    ///
    /// # Errors
    /// As [`dbex::ReadOnlyNode::close`](crate::ReadOnlyNode::close).
    pub fn close(&self) -> Result<()> {
        block_on(self.node.close())
    }
}
