//! The actor face: messages to [`Coordinator`], answered as the handle's methods of the same name.
//!
//! Sender: any actor or task of the host. Receiver: the coordinator, which only hands them on: it never
//! waits for a shard. A caller that goes away does not undo its write. What waits in the coordinator's
//! mailbox is outside the node's admission cap; a write that carries a [permit](Put::with_permit) from
//! `node.admit(bytes)` is inside it. Without one the handler takes a free permit, or answers `Busy`.
//!
//! ```
//! # let dir = tempfile::tempdir().unwrap();
//! # actix::System::new().block_on(async {
//! use dbex::{Node, Settings, messages::{Get, Put}};
//!
//! let node = Node::open(Settings::builder().data_dir(dir.path()).build().unwrap()).await.unwrap();
//! let coordinator: actix::Addr<dbex::Coordinator> = node.coordinator();
//! coordinator.send(Put::new("k", "v")).await.unwrap().unwrap();
//! let value = coordinator.send(Get::new("k")).await.unwrap().unwrap();
//! assert_eq!(value.as_deref(), Some(&b"v"[..]));
//! node.close().await.unwrap();
//! # });
//! ```

use std::{sync::Arc, time::Duration};

use actix::{Handler, Message, ResponseFuture};
use bytes::Bytes;

use super::{
    admission::Permit,
    coordinator::Coordinator,
    node_core::NodeCore,
    options::Durability,
    put_options::PutOptions,
    range_deletes::delete_range,
    read_path,
    scan::{Pair, ScanPlan, ShardsScan},
    snapshot::Snapshot,
    stats::NodeStats,
    write_batch::WriteBatch,
    write_path::Caller,
};
use crate::{error::Result, key::KeyRange};

/// Reads a key. Reply: its value, or `None`.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Option<Bytes>>")]
pub struct Get {
    key: Bytes,
}

impl Get {
    /// Reads `key`, which is copied.
    pub fn new(key: impl AsRef<[u8]>) -> Self {
        Self { key: Bytes::copy_from_slice(key.as_ref()) }
    }
}

/// Reads keys. Reply: their values, in their order.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Option<Bytes>>>")]
pub struct MultiGet {
    keys: Vec<Bytes>,
}

impl MultiGet {
    /// Reads `keys`, which are copied.
    pub fn new<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self { keys: keys.into_iter().map(|key| Bytes::copy_from_slice(key.as_ref())).collect() }
    }
}

/// Sets a key. Reply: done, with the durability asked for.
#[derive(Debug, Message)]
#[rtype(result = "Result<()>")]
pub struct Put {
    key: Bytes,
    value: Bytes,
    options: PutOptions,
    permit: Option<Permit>,
}

impl Put {
    /// Sets `key` to `value`; both are copied.
    pub fn new(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let (key, value) = (Bytes::copy_from_slice(key.as_ref()), Bytes::copy_from_slice(value.as_ref()));
        Self { key, value, options: PutOptions::new(), permit: None }
    }

    /// Says what the reply promises; the node's `durability` otherwise.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.options.durability = Some(durability);
        self
    }

    /// Says how long the value is there.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = Some(ttl);
        self
    }

    /// Has the put fail with `Busy` where it would have to wait for its turn to come; see
    /// [`PutOptions::no_wait`].
    #[must_use]
    pub fn no_wait(mut self) -> Self {
        self.options.no_wait = true;
        self
    }

    /// Carries the right to wait at the node.
    #[must_use]
    pub fn with_permit(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }
}

/// Removes a key. Reply: done.
#[derive(Debug, Message)]
#[rtype(result = "Result<()>")]
pub struct Delete {
    key: Bytes,
    permit: Option<Permit>,
}

impl Delete {
    /// Removes `key`, which is copied.
    pub fn new(key: impl AsRef<[u8]>) -> Self {
        Self { key: Bytes::copy_from_slice(key.as_ref()), permit: None }
    }

    /// Carries the right to wait at the node.
    #[must_use]
    pub fn with_permit(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }
}

/// Removes all keys in a range at one moment. Reply: done.
#[derive(Debug, Message)]
#[rtype(result = "Result<()>")]
pub struct DeleteRange {
    range: KeyRange,
    permit: Option<Permit>,
}

impl DeleteRange {
    /// Removes the keys in `range`.
    pub fn new(range: impl Into<KeyRange>) -> Self {
        Self { range: range.into(), permit: None }
    }

    /// Removes the keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self::new(KeyRange::prefix(prefix))
    }

    /// Carries the right to wait at the node.
    #[must_use]
    pub fn with_permit(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }
}

/// Writes a batch: all or nothing. Reply: done.
#[derive(Debug, Message)]
#[rtype(result = "Result<()>")]
pub struct Write {
    batch: WriteBatch,
    permit: Option<Permit>,
}

impl Write {
    /// Writes `batch`.
    pub fn new(batch: WriteBatch) -> Self {
        Self { batch, permit: None }
    }

    /// Carries the right to wait at the node.
    #[must_use]
    pub fn with_permit(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }
}

/// Scans a range. Reply: up to `limit` pairs in key order; for more, scan on behind the last key, or use the
/// handle's stream.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Pair>>")]
pub struct Scan {
    range: KeyRange,
    reverse: bool,
    limit: usize,
}

impl Scan {
    /// Scans the first `limit` pairs of `range`.
    pub fn new(range: impl Into<KeyRange>, limit: usize) -> Self {
        Self { range: range.into(), reverse: false, limit }
    }

    /// From the last key to the first.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }
}

/// Rewrites every table that has keys in a range into the last level. Reply: done.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<()>")]
pub struct Compact {
    range: KeyRange,
}

impl Compact {
    /// Compacts what has keys in `range`.
    pub fn new(range: impl Into<KeyRange>) -> Self {
        Self { range: range.into() }
    }
}

macro_rules! plain_message {
    ($(#[$doc:meta])* $name:ident -> $reply:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name;

        impl Message for $name {
            type Result = Result<$reply>;
        }
    };
}
plain_message!(
    /// Takes a snapshot of the node. Reply: it, to be read from directly.
    TakeSnapshot -> Snapshot
);
plain_message!(
    /// Makes every write acked before it durable. Reply: done.
    Sync -> ()
);
plain_message!(
    /// Writes every memtable to tables. Reply: done.
    Flush -> ()
);
plain_message!(
    /// Flushes, then waits until no background work is due. Reply: done.
    Settle -> ()
);
plain_message!(
    /// Reads the node's stats. Reply: them.
    Stats -> NodeStats
);
plain_message!(
    /// Re-opens every shard that refuses writes. Reply: done.
    ReopenShards -> ()
);
plain_message!(
    /// Closes the node. Reply, once every admitted write is answered and synced: the result of the last sync.
    /// The node's threads end after that; `Node::close` waits for them too.
    Close -> ()
);

/// The permit a write carries, or a free one.
fn permit(core: &NodeCore, carried: Option<Permit>, bytes: usize) -> Result<Permit> {
    carried.map_or_else(|| core.message_admission.try_acquire(bytes), Ok)
}

/// Answers a message by a future over the node.
macro_rules! answer {
    ($message:ty => $reply:ty, |$this:ident, $msg:ident| $body:expr) => {
        impl Handler<$message> for Coordinator {
            type Result = ResponseFuture<Result<$reply>>;

            fn handle(&mut self, $msg: $message, _: &mut Self::Context) -> Self::Result {
                let $this = Arc::clone(self.core());
                Box::pin(async move { $body })
            }
        }
    };
}

answer!(Get => Option<Bytes>, |core, message| read_path::get_async(&core, message.key).await);
answer!(MultiGet => Vec<Option<Bytes>>, |core, message| core.multi_get_async(&message.keys).await);
answer!(Put => (), |core, message| {
    let Put { key, value, options, permit: carried } = message;
    let permit = permit(&core, carried, key.len() + value.len())?;
    core.write_one(key, Some(value), options, Caller::Async, Some(permit)).await
});
answer!(Delete => (), |core, message| {
    let Delete { key, permit: carried } = message;
    let permit = permit(&core, carried, key.len())?;
    core.write_one(key, None, PutOptions::new(), Caller::Async, Some(permit)).await
});
answer!(DeleteRange => (), |core, message| {
    let DeleteRange { range, permit: carried } = message;
    let batch = delete_range(range);
    let permit = permit(&core, carried, batch.bytes())?;
    core.write_batch(batch, Caller::Async, Some(permit)).await
});
answer!(Write => (), |core, message| {
    let Write { batch, permit: carried } = message;
    let permit = permit(&core, carried, batch.bytes())?;
    core.write_batch(batch, Caller::Async, Some(permit)).await
});
answer!(Scan => Vec<Pair>, |core, message| {
    let plan = ScanPlan { range: message.range, reverse: message.reverse, limit: message.limit };
    let snapshot = core.snapshot().await?;
    core.pools.read.run(move || {
        let mut scan = ShardsScan::open(&*snapshot, &plan)?;
        std::iter::from_fn(|| scan.next().transpose()).collect()
    })
    .await?
});
answer!(TakeSnapshot => Snapshot, |core, _message| core.snapshot().await.map(Snapshot::new));
answer!(Compact => (), |core, message| core.compact_range(message.range, Caller::Async).await);
answer!(Sync => (), |core, _message| core.sync_all().await);
answer!(Flush => (), |core, _message| core.flush_all(Caller::Async).await);
answer!(Settle => (), |core, _message| core.settle_all(Caller::Async).await);
answer!(Stats => NodeStats, |core, _message| core.stats());
answer!(ReopenShards => (), |core, _message| core.reopen_shards().await);
answer!(Close => (), |core, _message| {
    super::close::start(&core);
    super::close::wait_drained(&core).await
});
