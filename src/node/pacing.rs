//! How writers keep to what their shard may add while it is slowed down: each takes its place in the shard's line
//! before its turn, and waits until it is due; or is told `Busy`, if it prefers that.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    batch_parts::BatchParts,
    node_core::{NodeCore, duration_ns},
    shard_core::ShardCore,
    write_path::{Caller, WriteMode},
};
use crate::error::{Error, Result};

/// Who waits looks so often whether it still must.
const SLICE: Duration = Duration::from_millis(25);

impl NodeCore {
    /// Keeps the pace of a shard with a write of so many bytes of keys and values, on a thread that may wait.
    ///
    /// # Errors
    /// `Busy` if the write would have to wait and may not.
    pub(super) fn keep_pace_here(&self, shard: &ShardCore, bytes: usize, mode: WriteMode) -> Result<()> {
        let wait = self.take_place(shard, bytes, mode)?;
        self.wait_here(shard, wait);
        Ok(())
    }

    /// Keeps the pace of the shard with an index, whoever calls.
    ///
    /// # Errors
    /// As [`NodeCore::keep_pace_here`].
    pub(super) async fn keep_pace_of(&self, index: usize, bytes: usize, mode: WriteMode) -> Result<()> {
        if let Some(shard) = self.slowed_shard(index) {
            let wait = self.take_place(&shard, bytes, mode)?;
            self.wait(&shard, wait, mode.caller).await;
        }
        Ok(())
    }

    /// Keeps the pace of all shards that a batch writes to: takes its places, and waits until the last one is due.
    ///
    /// # Errors
    /// As [`NodeCore::keep_pace_here`].
    pub(super) async fn keep_pace_of_all(&self, parts: &BatchParts, mode: WriteMode) -> Result<()> {
        let slowed: Vec<_> = parts.written_shards().filter_map(|index| self.slowed_shard(index)).collect();
        if !mode.may_wait {
            // NOTE: before any place is taken.
            slowed.iter().try_for_each(|shard| self.take_place(shard, 0, mode).map(drop))?;
        }
        let mut last: Option<(&Arc<ShardCore>, Duration)> = None;
        for shard in &slowed {
            let bytes = parts.writes_of(shard.index).map(|op| op.key.len() + op.value.len()).sum();
            let wait = self.take_place(shard, bytes, mode)?;
            if last.is_none_or(|(_, longest)| wait > longest) {
                last = Some((shard, wait));
            }
        }
        if let Some((shard, wait)) = last {
            self.wait(shard, wait, mode.caller).await;
        }
        Ok(())
    }

    /// Puts into the line what an update has come to, which was not known when it took its place: who comes next waits
    /// for it, too.
    pub(super) fn charge(&self, shard: &ShardCore, bytes: usize) {
        if shard.pacer.is_on() {
            shard.pacer.place(bytes, self.env.clock.monotonic());
        }
    }

    /// A shard whose writers are slowed down.
    fn slowed_shard(&self, index: usize) -> Option<Arc<ShardCore>> {
        let slot = self.shards.get(index)?.load();
        slot.open().ok().filter(|shard| shard.pacer.is_on()).cloned()
    }

    /// How long a write must wait for its place.
    fn take_place(&self, shard: &ShardCore, bytes: usize, mode: WriteMode) -> Result<Duration> {
        // NOTE: who is refused anyway is not kept waiting for it.
        if !shard.pacer.is_on() || !shard.seems_well() {
            return Ok(Duration::ZERO);
        }
        let now = self.env.clock.monotonic();
        if !mode.may_wait {
            let refused = |wait: Duration| {
                let reason =
                    shard.pacer.limit().map_or_else(String::new, |limit| format!(" for {}", limit.reason));
                Error::busy(format!(
                    "writers of shard {} are slowed down{reason}: try again in {} ms, or let the write wait",
                    shard.index,
                    wait.as_millis().max(1)
                ))
            };
            return shard.pacer.place_at_once(bytes, now).map(|()| Duration::ZERO).map_err(refused);
        }
        let wait = shard.pacer.place(bytes, now);
        if !wait.is_zero() {
            self.counters.slowdowns.fetch_add(1, Ordering::Relaxed);
            self.counters.slowdown_ns.fetch_add(duration_ns(wait), Ordering::Relaxed);
            tracing::trace!(shard = shard.index, wait_us = wait.as_micros(), "a writer is slowed down");
        }
        Ok(wait)
    }

    async fn wait(&self, shard: &ShardCore, wait: Duration, caller: Caller) {
        if caller == Caller::Blocking {
            return self.wait_here(shard, wait);
        }
        for slice in slices(wait).take_while(|_| self.must_wait(shard)) {
            self.pause(slice).await;
        }
    }

    fn wait_here(&self, shard: &ShardCore, wait: Duration) {
        slices(wait).take_while(|_| self.must_wait(shard)).for_each(|slice| self.env.clock.sleep(slice));
    }

    fn must_wait(&self, shard: &ShardCore) -> bool {
        shard.pacer.is_on() && shard.seems_well() && self.lifecycle.check_open().is_ok()
    }

    /// Waits without blocking the thread, whatever runtime it belongs to: the node's own one keeps the time.
    async fn pause(&self, wait: Duration) {
        let Some(system) = self.system.get() else { return };
        let (done, waiting) = oneshot::channel();
        system.run(Box::new(move || {
            Box::pin(async move {
                actix::clock::sleep(wait).await;
                let _ = done.send(());
            })
        }));
        // It is over at once when the node closes.
        let _ = waiting.await;
    }
}

/// A time in parts, none of which is longer than a [`SLICE`].
fn slices(mut time: Duration) -> impl Iterator<Item = Duration> {
    std::iter::from_fn(move || {
        let slice = time.min(SLICE);
        time -= slice;
        (!slice.is_zero()).then_some(slice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_all_of_its_slices() {
        assert_eq!(slices(Duration::ZERO).count(), 0);
        let wait = SLICE * 3 + Duration::from_micros(7);
        assert_eq!((slices(wait).count(), slices(wait).sum::<Duration>()), (4, wait));
        assert!(slices(wait).all(|slice| slice <= SLICE));
    }
}
