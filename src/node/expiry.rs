//! Until when values are there: absolute times on the node's clock, which never goes backwards.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    handle::Node,
    node_core::NodeCore,
    read_path::{PointReads, look_up_async},
};
use crate::{
    error::{Error, Result},
    table::{Lookup, ReadMode},
    tree::is_visible,
};

/// Until when a value is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// For ever.
    #[default]
    Never,
    /// As long as the value before it would have been; for ever if there was none.
    Keep,
    /// For so long from its write on.
    In(Duration),
    /// Until then, in milliseconds since the Unix epoch, on the node's clock.
    At(u64),
}

/// How long a key that is there stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeToLive {
    /// Until it is removed.
    Forever,
    /// For so long, in whole milliseconds.
    Left(Duration),
}

impl Expiry {
    /// When that is; `None`: never. `before`: when the value before expires.
    pub(super) fn at_ms(self, now_ms: impl FnOnce() -> u64, before: Option<u64>) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::Keep => before,
            Self::In(ttl) => Some(now_ms().saturating_add(whole_ms(ttl))),
            Self::At(at_ms) => Some(at_ms),
        }
    }
}

/// In milliseconds, rounded down.
pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Refuses what would be gone at once.
pub(super) fn check_ttl(ttl: Option<Duration>) -> Result<()> {
    match ttl {
        Some(ttl) if whole_ms(ttl) == 0 => {
            Err(Error::invalid(format!("a ttl of {ttl:?}: it is a millisecond at least")))
        }
        _ => Ok(()),
    }
}

impl NodeCore {
    /// Whether a key is there, and until when.
    ///
    /// # Errors
    /// As a get.
    pub(super) async fn expiry_of(self: &Arc<Self>, key: Bytes) -> Result<Presence> {
        let lookup = look_up_async(self, key).await?;
        Ok(Presence::of(&lookup, self.now_ms()))
    }

    /// The same, on a thread that may wait.
    ///
    /// # Errors
    /// As a get.
    pub(super) fn expiry_of_blocking(&self, key: &[u8]) -> Result<Presence> {
        let lookup = self.look_up(key, ReadMode::Blocking)?;
        Ok(Presence::of(&lookup, self.now_ms()))
    }
}

impl Node {
    /// How long a key stays; `None` if it is absent.
    ///
    /// # Errors
    /// As [`Node::get`].
    pub fn time_to_live(
        &self,
        key: impl AsRef<[u8]>,
    ) -> impl Future<Output = Result<Option<TimeToLive>>> + Send + 'static {
        let (node, key) = (self.clone(), Bytes::copy_from_slice(key.as_ref()));
        async move { node.core().expiry_of(key).await.map(Presence::time_to_live) }
    }

    /// Whether a key is there, and until when.
    #[cfg(feature = "server")]
    pub(crate) async fn presence(&self, key: &Bytes) -> Result<Presence> {
        self.core().expiry_of(key.clone()).await
    }
}

/// Whether a key is there, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Absent,
    There { expires_at_ms: Option<u64>, now_ms: u64 },
}

impl Presence {
    /// What a lookup says at a time.
    pub(super) fn of(lookup: &Lookup, now_ms: u64) -> Self {
        match lookup {
            Lookup::Found(entry) if is_visible(entry.kind, entry.expires_at_ms, now_ms) => {
                Self::There { expires_at_ms: entry.expires_at_ms, now_ms }
            }
            _ => Self::Absent,
        }
    }

    /// How long it stays; `None` if it is absent.
    pub(super) fn time_to_live(self) -> Option<TimeToLive> {
        let Self::There { expires_at_ms, now_ms } = self else { return None };
        Some(expires_at_ms.map_or(TimeToLive::Forever, |at| {
            TimeToLive::Left(Duration::from_millis(at.saturating_sub(now_ms)))
        }))
    }
}
