//! What a put may say about itself.

use std::time::Duration;

use super::options::Durability;

/// What a put may say about itself; what it leaves out is as the node's settings say.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use std::time::Duration;
///
/// use dbex::{Durability, PutOptions, Settings, TimeToLive, blocking::Node};
///
/// let node = Node::open(Settings::builder().data_dir(dir.path()).build()?)?;
/// let options = PutOptions::new().durability(Durability::Synced).ttl(Duration::from_secs(60));
/// node.put_with("session", "7f3a", options)?;
/// assert!(matches!(node.time_to_live("session")?, Some(TimeToLive::Left(left)) if left.as_secs() <= 60));
/// # Ok::<(), dbex::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutOptions {
    /// What the ack promises; `None`: the node's `durability`.
    pub durability: Option<Durability>,
    /// How long the value is there, from the put on, a millisecond at least; `None`: until it is removed.
    pub ttl: Option<Duration>,
    /// Whether the put fails with `Busy` where it would have to wait: while writers are slowed down, the memtables are
    /// full, or too much waits to be written.
    pub no_wait: bool,
}

impl PutOptions {
    /// Everything as the node's settings say.
    pub const fn new() -> Self {
        Self { durability: None, ttl: None, no_wait: false }
    }

    /// Says what the ack promises.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Has the put fail with `Busy` where it would have to wait for its turn to come; nothing is written then. A sync is
    /// waited for all the same.
    #[must_use]
    pub const fn no_wait(mut self) -> Self {
        self.no_wait = true;
        self
    }

    /// Says how long the value is there. After that no read and no scan finds it, and compaction takes back its space.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}
