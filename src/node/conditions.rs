//! The conditions of batches: what is read for them before the turns, and how they are judged in them.

use std::sync::Arc;

use super::{
    batch_parts::{BatchParts, Condition},
    node_core::NodeCore,
    request::BatchAnswer,
    shard_core::ShardCore,
    write_path::Caller,
};
use crate::{
    entry::ValueKind,
    error::{Error, Result},
    ids::SeqNo,
    key::EscapedKey,
    table::{Lookup, ReadMode},
    tree::{TreeWriter, is_visible},
};

/// Whether a batch may be written.
pub(super) enum Verdict {
    /// All its conditions hold.
    Holds,
    /// One does not, and this is the error that says so.
    Fails(Error),
    /// What was read before the turn may be outdated.
    Stale,
}

/// What was read for a condition before the turn. It holds as long as no flush has moved newer versions from memory to
/// tables meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConditionBase {
    incarnation: u64,
    flush_count: u64,
    found: Found,
}

/// What a condition's key has, as far as the condition asks. Not the value itself, which may be large.
#[derive(Clone, Copy, Debug)]
enum Found {
    Nothing,
    Value { is_expected: bool, expires_at_ms: Option<u64> },
}

impl Found {
    fn of(kind: ValueKind, expires_at_ms: Option<u64>, value: &[u8], expected: Option<&[u8]>) -> Self {
        match kind {
            ValueKind::Put => Self::Value { is_expected: expected == Some(value), expires_at_ms },
            ValueKind::Delete | ValueKind::RangeDelete => Self::Nothing,
        }
    }

    /// What is wrong with it, if anything is.
    fn fault(self, expected: Option<&[u8]>, now_ms: u64) -> Option<&'static str> {
        match self {
            Self::Value { is_expected, expires_at_ms }
                if is_visible(ValueKind::Put, expires_at_ms, now_ms) =>
            {
                let fault = if expected.is_some() { "has another value" } else { "is there" };
                (!is_expected).then_some(fault)
            }
            Self::Value { .. } | Self::Nothing => expected.is_some().then_some("is absent"),
        }
    }
}

impl ConditionBase {
    fn holds_at(self, incarnation: u64, flush_count: u64) -> bool {
        (self.incarnation, self.flush_count) == (incarnation, flush_count)
    }
}

impl BatchAnswer {
    /// What becomes of a batch that was judged, and written if it could be.
    pub(super) fn of(outcome: Result<Verdict>, parts: Box<BatchParts>) -> Self {
        match outcome {
            Ok(Verdict::Holds) => Self::Done(Ok(())),
            Ok(Verdict::Stale) => Self::Stale(parts),
            Ok(Verdict::Fails(error)) | Err(error) => Self::Done(Err(error)),
        }
    }
}

impl NodeCore {
    /// Reads what a batch's conditions ask about, as far as that was not done, or is outdated. What is cold is read by
    /// one worker, in one go, for an async caller.
    ///
    /// # Errors
    /// `Closed`, `Busy`, `Io`, `Corruption`.
    pub(super) async fn read_for_conditions(
        self: &Arc<Self>,
        mut parts: Box<BatchParts>,
        caller: Caller,
    ) -> Result<Box<BatchParts>> {
        let mode = if caller == Caller::Blocking { ReadMode::Blocking } else { ReadMode::NoWait };
        if self.read_conditions(&mut parts, mode)? {
            return Ok(parts);
        }
        let core = Arc::clone(self);
        let read = move || core.read_conditions(&mut parts, ReadMode::Blocking).map(|_| parts);
        self.pools.read.run(read).await?
    }

    /// Whether all that had to be read could be.
    fn read_conditions(&self, parts: &mut BatchParts, mode: ReadMode) -> Result<bool> {
        let mut is_all = true;
        for place in 0..parts.conditions() {
            let Some(Condition { shard, hash, key, expected, base }) = parts.condition(place) else { break };
            let shard = self.shard(shard)?;
            let view = shard.tree.view();
            let (incarnation, flush_count) = (shard.incarnation, view.flush_count());
            if base.is_some_and(|base| base.holds_at(incarnation, flush_count)) {
                continue;
            }
            let found = match view.get(hash, key, SeqNo::MAX, mode)? {
                Lookup::Found(entry) => Found::of(entry.kind, entry.expires_at_ms, &entry.value, expected),
                Lookup::Missing => Found::Nothing,
                Lookup::WouldBlock => {
                    is_all = false;
                    continue;
                }
            };
            parts.set_base(place, ConditionBase { incarnation, flush_count, found });
        }
        Ok(is_all)
    }

    /// The time by which a batch's conditions are judged, in all shards.
    pub(super) fn time_for(&self, parts: &BatchParts) -> u64 {
        if parts.conditions() > 0 { self.now_ms() } else { 0 }
    }
}

/// Judges a batch's conditions in a shard, in its turn, after what the turn has staged.
pub(super) fn judge(shard: &ShardCore, writer: &mut TreeWriter, parts: &BatchParts, now_ms: u64) -> Verdict {
    let mut verdict = Verdict::Holds;
    for Condition { hash, key, expected, base, .. } in parts.conditions_of(shard.index) {
        let in_memory = writer.newest_in_memory(hash, key);
        let in_memory =
            in_memory.map(|entry| Found::of(entry.kind, entry.expires_at_ms, entry.value, expected));
        let base = base.filter(|base| base.holds_at(shard.incarnation, writer.flush_count()));
        match in_memory.or(base.map(|base| base.found)).map(|found| found.fault(expected, now_ms)) {
            Some(None) => {}
            // NOTE: goes on, since another condition may be known to fail.
            None => verdict = Verdict::Stale,
            Some(Some(fault)) => {
                return Verdict::Fails(Error::conflict(format!(
                    "a condition of the batch does not hold: the key {} {fault}; nothing was written",
                    EscapedKey(key)
                )));
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{
        Node, NodeOptions, WriteBatch,
        options::Durability,
        request::{Work, WriteRequest},
    };

    fn open(dir: &tempfile::TempDir) -> Node {
        let options = NodeOptions { data_dir: dir.path().join("data"), shards: 2, ..NodeOptions::default() };
        pollster::block_on(Node::open(options)).unwrap()
    }

    fn parts(node: &Node, batch: &WriteBatch) -> Box<BatchParts> {
        let parts = Box::new(BatchParts::new(batch.clone(), node.core().router, 0));
        pollster::block_on(node.core().read_for_conditions(parts, Caller::Blocking)).unwrap()
    }

    /// Runs a batch, all of which is of one shard, in a turn now.
    fn turn(node: &Node, parts: Box<BatchParts>) -> BatchAnswer {
        let shard = node.core().shard(parts.shards().next().unwrap()).unwrap();
        let (reply, answer) = oneshot::channel();
        let work = Work::Batch { parts, reply };
        let request = WriteRequest { work, durability: Durability::Buffered, _permit: None };
        node.core().run_turn(&shard, pollster::block_on(shard.turn()), vec![request]);
        answer.recv().unwrap()
    }

    #[test]
    fn what_was_read_before_a_flush_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(&dir);
        let put = |value: &str| pollster::block_on(node.put("k", value.to_owned())).unwrap();
        let flush = || pollster::block_on(node.flush()).unwrap();
        put("old");
        flush();
        let mut batch = WriteBatch::new();
        batch.require("k", "old").put("k", "new");
        // What memory holds counts, whatever was read.
        let read = parts(&node, &batch);
        put("other");
        assert!(matches!(turn(&node, read), BatchAnswer::Done(Err(_))));
        // What a flush has moved since is unknown.
        put("old");
        let read = parts(&node, &batch);
        put("other");
        flush();
        let BatchAnswer::Stale(read) = turn(&node, read) else { panic!("judged by what was read before") };
        let read = pollster::block_on(node.core().read_for_conditions(read, Caller::Async)).unwrap();
        assert!(matches!(turn(&node, read), BatchAnswer::Done(Err(_))));
        put("old");
        let read = parts(&node, &batch);
        assert!(matches!(turn(&node, read), BatchAnswer::Done(Ok(()))));
        assert_eq!(pollster::block_on(node.get("k")).unwrap().as_deref(), Some(&b"new"[..]));
        pollster::block_on(node.close()).unwrap();
    }

    #[test]
    fn a_synced_batch_makes_durable_what_its_conditions_found() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(&dir);
        let core = node.core();
        for keys in [&["k"][..], &["a", "b", "c", "d", "e"]] {
            let mut batch = WriteBatch::new();
            for key in keys {
                pollster::block_on(node.put(key, "v")).unwrap();
                batch.require(key, "v");
            }
            batch.durability(Durability::Synced);
            pollster::block_on(node.write(batch)).unwrap();
            for key in keys {
                let shard = core.shard(core.router.shard(core.router.hash(key.as_bytes()))).unwrap();
                assert_eq!(shard.tree.wal().written(), shard.tree.wal().synced());
            }
        }
        pollster::block_on(node.close()).unwrap();
    }

    #[test]
    fn an_expired_value_is_absent() {
        let value = |is_expected| Found::Value { is_expected, expires_at_ms: Some(10) };
        for (found, now_ms, has_value, is_absent) in [
            (value(true), 9, true, false),
            (value(false), 9, false, false),
            (value(true), 10, false, true),
            (Found::Nothing, 0, false, true),
        ] {
            assert_eq!(found.fault(Some(b"v"), now_ms).is_none(), has_value, "{found:?} at {now_ms}");
            if !matches!(found, Found::Value { is_expected: true, .. }) || now_ms >= 10 {
                assert_eq!(found.fault(None, now_ms).is_none(), is_absent, "{found:?} at {now_ms}");
            }
        }
    }
}
