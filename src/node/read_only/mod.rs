//! A data directory that is only read: what its last node left, recovered in memory alone.
//!
//! ```text
//!   open.rs   shared lock ─► NODE ─► manifests, logs ─► the cut ─► replay ─► views     nothing is written
//!   core.rs   views ◄── get, multi_get, scan: as a node's, without anything that changes
//! ```

mod core;
mod open;

use std::{fmt, future::Future, sync::Arc};

use bytes::Bytes;

pub(super) use self::core::ReadOnlyCore;
use super::{
    env::Env,
    expiry::{Presence, TimeToLive},
    multi_get::multi_get_async,
    options::NodeOptions,
    parallel::on_a_thread,
    read_path::{self, locate_all},
    scan::Scan,
    scan_source::Scanned,
    stats::NodeStats,
};
use crate::{error::Result, key::KeyRange};

/// A data directory of a node that is not running, to be read. It changes nothing there: no file is made, written,
/// renamed, removed or synced, so that it works on a read-only mount, and on a backup that must stay as it is. Cheap
/// to clone; all clones are the same one. Every method returns a future that is `Send + 'static`, copies what it is
/// given inside the call, and does nothing before its first poll.
///
/// It shows what [`Node::open`](crate::Node::open) would find there, after a crash, too: what the tables lack is read
/// from the logs, and stays in memory (up to some times `memtable_bytes`, as the last node set it) until this is
/// closed. Values expire meanwhile as they do in a node.
///
/// Any number of these may be open on a directory, in any number of processes. A node is not opened meanwhile, and
/// while one is open, this is refused. For that it locks the file `LOCK`, which every node makes; a copy of a directory
/// without that file is read without a lock, and nothing but the one who made the copy keeps a node of another process
/// out.
///
/// Dropping the last handle never blocks; [`ReadOnlyNode::close`] waits until the directory is free.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # pollster::block_on(async {
/// use dbex::{Node, ReadOnlyNode, Settings};
///
/// let settings = Settings::builder().data_dir(dir.path()).build()?;
/// let node = Node::open(settings.clone()).await?;
/// node.put("greeting", "hello").await?;
/// node.close().await?;
///
/// let reader = ReadOnlyNode::open(settings.clone()).await?;
/// assert_eq!(reader.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
/// assert!(Node::open(settings).await.is_err(), "the directory is being read");
/// reader.close().await?;
/// # Ok::<(), dbex::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct ReadOnlyNode {
    handle: Arc<Handle>,
}

/// What the clones share; the last one starts the close.
struct Handle {
    core: Arc<ReadOnlyCore>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.start_close();
    }
}

impl fmt::Debug for ReadOnlyNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadOnlyNode({})", self.core().data_dir().display())
    }
}

impl ReadOnlyNode {
    /// Opens the settings' data directory. What only concerns writes is not looked at; the caches, `read_workers` and
    /// `max_open_files` are those of the settings. A damaged shard refuses alone; the others serve.
    ///
    /// # Errors
    /// `Invalid` when there is no node in the directory or its making was interrupted, when settings and directory do
    /// not fit, or a node has it open; `Corruption` for a damaged NODE; `Io`.
    pub fn open(options: impl Into<NodeOptions>) -> impl Future<Output = Result<Self>> + Send + 'static {
        Self::open_with(options, Env::system())
    }

    /// The same in another world: its storage, clocks and threads. For tests.
    ///
    /// # Errors
    /// As [`ReadOnlyNode::open`].
    pub fn open_with(
        options: impl Into<NodeOptions>,
        env: Env,
    ) -> impl Future<Output = Result<Self>> + Send + 'static {
        let options = options.into();
        async move {
            let threads = Arc::clone(&env.threads);
            let core = on_a_thread(&*threads, "dbex-open", move || open::open(options, env)).await??;
            Ok(Self { handle: Arc::new(Handle { core }) })
        }
    }

    pub(super) fn core(&self) -> &Arc<ReadOnlyCore> {
        &self.handle.core
    }

    /// The value of a key, or `None`. Never blocks the runtime: what is in memory or in the page cache is answered in
    /// place, the rest by a read worker.
    ///
    /// # Errors
    /// `Invalid`, `Closed`, `Io`, `Corruption`; why the key's shard is not open.
    pub fn get(&self, key: impl AsRef<[u8]>) -> impl Future<Output = Result<Option<Bytes>>> + Send + 'static {
        let (node, key) = (self.clone(), copy(key));
        async move { read_path::get_async(node.core(), key).await }
    }

    /// The values of keys, in their order; what has expired is judged by one moment.
    ///
    /// # Errors
    /// As [`ReadOnlyNode::get`].
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<Bytes>>>> + Send + 'static {
        let (node, keys): (_, Vec<_>) = (self.clone(), keys.into_iter().map(copy).collect());
        async move {
            let moment = node.core().moment();
            let located = locate_all(&*moment, &keys)?;
            multi_get_async(&*moment, &keys, &located).await
        }
    }

    /// How long a key stays; `None` if it is absent.
    ///
    /// # Errors
    /// As [`ReadOnlyNode::get`].
    pub fn time_to_live(
        &self,
        key: impl AsRef<[u8]>,
    ) -> impl Future<Output = Result<Option<TimeToLive>>> + Send + 'static {
        let (node, key) = (self.clone(), copy(key));
        async move {
            let lookup = read_path::look_up_async(node.core(), key).await?;
            Ok(Presence::of(&lookup, node.core().now_ms()).time_to_live())
        }
    }

    /// Scans a range in key order over all shards; see [`Scan`] for prefix, reverse and limit.
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        Scan::new(Scanned::ReadOnly(Arc::clone(self.core())), range.into(), None)
    }

    /// What it tells of itself: of each shard its trouble, what was recovered into memory, and its tables; of the
    /// caches, all. What concerns writes and background work is zero.
    ///
    /// # Errors
    /// `Closed`.
    pub fn stats(&self) -> impl Future<Output = Result<NodeStats>> + Send + 'static {
        let node = self.clone();
        async move { node.core().stats() }
    }

    /// Closes it: ends its threads, gives its memory back, and frees the directory. Idempotent; later calls of anything
    /// else get `Closed`.
    ///
    /// # Errors
    /// `Internal` when a thread of it panicked.
    pub fn close(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let core = Arc::clone(self.core());
        async move {
            core.start_close();
            core.closed().await
        }
    }
}

fn copy(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}
