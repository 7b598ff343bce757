//! A batch taken apart: which of its writes and conditions go to which shard. Range deletes go to all.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    ops::Range,
};

use bytes::Bytes;

use super::{
    conditions::ConditionBase,
    router::Router,
    write_batch::{RangeItem, WriteBatch},
};
use crate::{
    ids::SeqNo,
    key::KeyHash,
    range_delete::{RangeDeletes, only_newest},
    tree::WriteOp,
};

/// A batch and its participants, ascending. Of several writes of one key only the last is left.
#[derive(Debug)]
pub(super) struct BatchParts {
    batch: WriteBatch,
    writes: Vec<RoutedWrite>,
    /// The bounds of range deletes: see [`WriteOp::delete_range`].
    range_deletes: Vec<(Bytes, Bytes)>,
    conditions: Vec<RoutedCondition>,
    parts: Vec<Part>,
    now_ms: u64,
}

/// What one participant has of a batch, as ranges of the writes and of the conditions; either may be empty.
#[derive(Debug)]
struct Part {
    shard: usize,
    writes: Range<usize>,
    conditions: Range<usize>,
}

/// Where a condition of a batch is judged.
#[derive(Debug)]
struct RoutedCondition {
    shard: usize,
    number: usize,
    hash: KeyHash,
    /// What was read for it before the turn.
    base: Option<ConditionBase>,
}

/// A condition as a participant judges it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition<'a> {
    pub shard: usize,
    pub hash: KeyHash,
    pub key: &'a [u8],
    /// The value it must have; `None`: it must be absent.
    pub expected: Option<&'a [u8]>,
    pub base: Option<ConditionBase>,
}

#[derive(Clone, Copy, Debug)]
struct RoutedWrite {
    shard: usize,
    number: usize,
    hash: KeyHash,
}

/// A key's hash is as good a hash as any.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The last write of each key hash, by the remixed hash: shards have the leading bits in common.
type LastWrites = HashMap<u64, usize, BuildHasherDefault<KeyHasher>>;

impl BatchParts {
    /// `now_ms`: from when the time counts that values have to live.
    pub(super) fn new(batch: WriteBatch, router: Router, now_ms: u64) -> Self {
        let mut writes: Vec<RoutedWrite> = (0..batch.single_writes())
            .map(|number| {
                let hash = router.hash(batch.write(number).0);
                RoutedWrite { shard: router.shard(hash), number, hash }
            })
            .collect();
        keep_last(&batch, &mut writes);
        let range_deletes = bounds_of_range_deletes(&batch);
        drop_deleted(&batch, &mut writes);
        writes.sort_unstable_by_key(|write| (write.shard, write.number));
        let route = |(number, (key, _))| {
            let hash = router.hash(key);
            RoutedCondition { shard: router.shard(hash), number, hash, base: None }
        };
        let mut conditions: Vec<_> = batch.conditions().enumerate().map(route).collect();
        conditions.sort_by_key(|condition| condition.shard);
        let everywhere = if range_deletes.is_empty() { 0 } else { router.shards() };
        let parts = parts_of(&writes, &conditions, everywhere);
        Self { batch, writes, range_deletes, conditions, parts, now_ms }
    }

    /// The participants, ascending.
    pub(super) fn shards(&self) -> impl Iterator<Item = usize> + Clone {
        self.parts.iter().map(|part| part.shard)
    }

    /// Those that something is written to.
    pub(super) fn written_shards(&self) -> impl Iterator<Item = usize> + Clone {
        let everywhere = !self.range_deletes.is_empty();
        self.parts.iter().filter(move |part| everywhere || !part.writes.is_empty()).map(|part| part.shard)
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// How many writes the participant with the most of them has.
    pub(super) fn longest(&self) -> usize {
        let longest = self.parts.iter().map(|part| part.writes.len()).max().unwrap_or_default();
        longest + self.range_deletes.len()
    }

    /// The writes of one participant, in their order. The range deletes come first: what they remove of the batch's own
    /// writes is not among these any more.
    pub(super) fn writes_of(&self, shard: usize) -> impl Iterator<Item = WriteOp<'_>> {
        let writes = self.part(shard).and_then(|part| self.writes.get(part.writes.clone()));
        let writes = writes.unwrap_or_default().iter().map(|write| {
            let (key, value) = self.batch.write(write.number);
            let expires_at_ms = self.batch.ttl_ms(write.number).map(|ttl| self.now_ms.saturating_add(ttl));
            WriteOp { expires_at_ms, ..WriteOp::new(write.hash, key, value) }
        });
        let range_deletes = self.range_deletes.iter().map(|(start, end)| WriteOp::delete_range(start, end));
        range_deletes.chain(writes)
    }

    /// How many conditions there are.
    pub(super) fn conditions(&self) -> usize {
        self.conditions.len()
    }

    /// One of all conditions.
    pub(super) fn condition(&self, place: usize) -> Option<Condition<'_>> {
        self.conditions.get(place).map(|routed| self.condition_of(routed))
    }

    /// The conditions that one participant judges.
    pub(super) fn conditions_of(&self, shard: usize) -> impl Iterator<Item = Condition<'_>> {
        let conditions = self.part(shard).and_then(|part| self.conditions.get(part.conditions.clone()));
        conditions.unwrap_or_default().iter().map(|routed| self.condition_of(routed))
    }

    /// Notes what was read for a condition.
    pub(super) fn set_base(&mut self, place: usize, base: ConditionBase) {
        if let Some(condition) = self.conditions.get_mut(place) {
            condition.base = Some(base);
        }
    }

    fn condition_of(&self, routed: &RoutedCondition) -> Condition<'_> {
        let &RoutedCondition { shard, number, hash, base } = routed;
        let (key, expected) = self.batch.condition(number);
        Condition { shard, hash, key, expected, base }
    }

    fn part(&self, shard: usize) -> Option<&Part> {
        let place = self.parts.binary_search_by_key(&shard, |part| part.shard).ok()?;
        self.parts.get(place)
    }
}

/// The participants of writes and conditions that are sorted by their shards; the first `everywhere` shards take part
/// in any case.
fn parts_of(writes: &[RoutedWrite], conditions: &[RoutedCondition], everywhere: usize) -> Vec<Part> {
    let (mut written, mut required) = (0, 0);
    let mut parts = vec![];
    loop {
        let next_of_all = Some(parts.len()).filter(|shard| *shard < everywhere);
        let next_written = writes.get(written).map(|write| write.shard);
        let next_required = conditions.get(required).map(|condition| condition.shard);
        let next = [next_of_all, next_written, next_required];
        let Some(shard) = next.into_iter().flatten().min() else { return parts };
        let (from_write, from_condition) = (written, required);
        written += writes.iter().skip(written).take_while(|write| write.shard == shard).count();
        required += conditions.iter().skip(required).take_while(|asked| asked.shard == shard).count();
        parts.push(Part { shard, writes: from_write..written, conditions: from_condition..required });
    }
}

/// Ranges that do not overlap, and hold the keys that the batch's range deletes do: they happen at one moment.
fn bounds_of_range_deletes(batch: &WriteBatch) -> Vec<(Bytes, Bytes)> {
    let deletes = range_deletes_of(batch, |_| SeqNo(0));
    deletes.pieces().iter().map(|piece| (piece.start.clone(), piece.end.clone())).collect()
}

/// The range deletes of a batch, under the numbers that they are given.
fn range_deletes_of(batch: &WriteBatch, number: impl Fn(&RangeItem) -> SeqNo) -> RangeDeletes {
    let one = |delete: &RangeItem| {
        let (start, end) = delete.range.half_open()?;
        Some(RangeDeletes::one(start, end, number(delete)))
    };
    let deletes: Vec<_> = batch.range_deletes().iter().filter_map(one).collect();
    RangeDeletes::union_all(&deletes, only_newest)
}

/// Takes out the writes that a later range delete of the batch removes.
fn drop_deleted(batch: &WriteBatch, writes: &mut Vec<RoutedWrite>) {
    let deletes = range_deletes_of(batch, |delete| SeqNo(delete.writes_before as u64));
    if !deletes.is_empty() {
        writes.retain(|write| {
            let behind = deletes.covering(batch.write(write.number).0, SeqNo::MAX);
            behind.is_none_or(|writes_before| write.number as u64 >= writes_before.get())
        });
    }
}

/// Leaves only the last write of each key.
fn keep_last(batch: &WriteBatch, writes: &mut Vec<RoutedWrite>) {
    if writes.len() < 2 {
        return;
    }
    let mut last = LastWrites::with_capacity_and_hasher(writes.len(), BuildHasherDefault::default());
    let mut superseded = vec![];
    for write in writes.iter() {
        let Some(before) = last.insert(write.hash.mixed(), write.number) else { continue };
        if batch.write(before).0 == batch.write(write.number).0 {
            superseded.push(before);
        } else {
            // NOTE: two keys with one hash: once in 2⁶⁴ pairs, or made on purpose.
            return keep_last_by_key(batch, writes);
        }
    }
    if !superseded.is_empty() {
        superseded.sort_unstable();
        writes.retain(|write| superseded.binary_search(&write.number).is_err());
    }
}

/// The same, by whole keys.
fn keep_last_by_key(batch: &WriteBatch, writes: &mut Vec<RoutedWrite>) {
    let last: HashMap<&[u8], usize> =
        writes.iter().map(|write| (batch.write(write.number).0, write.number)).collect();
    writes.retain(|write| last.get(batch.write(write.number).0) == Some(&write.number));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(writes: &[(u8, Option<u8>)]) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for (key, value) in writes {
            match value {
                Some(value) => batch.put([*key], vec![*value; usize::from(*value) * 40]),
                None => batch.delete([*key]),
            };
        }
        batch
    }

    proptest! {
        #[test]
        fn each_condition_goes_to_its_shard(
            writes in proptest::collection::vec((0u8..20, proptest::option::of(any::<u8>())), 0..20),
            required in proptest::collection::vec((0u8..40, proptest::option::of(any::<u8>())), 0..40),
            shards in 1u32..9,
        ) {
            let router = Router { hash_seed: 7, shards };
            let mut batch = batch(&writes);
            for (key, value) in &required {
                match value {
                    Some(value) => batch.require([*key], [*value]),
                    None => batch.require_absent([*key]),
                };
            }
            let parts = BatchParts::new(batch, router, 0);
            let participants: Vec<_> = parts.shards().collect();
            prop_assert!(participants.is_sorted_by(|a, b| a < b), "ascending, each once");
            let mut found = vec![];
            for shard in participants {
                let before = found.len();
                found.extend(parts.conditions_of(shard).map(|condition| {
                    assert_eq!((router.shard(condition.hash), condition.shard), (shard, shard));
                    assert_eq!(condition.hash, router.hash(condition.key));
                    (condition.key[0], condition.expected.map(|value| value[0]))
                }));
                let is_written = parts.writes_of(shard).next().is_some();
                prop_assert!(found.len() > before || is_written);
                prop_assert_eq!(parts.written_shards().any(|written| written == shard), is_written);
            }
            let mut required = required;
            required.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, required);
        }

        #[test]
        fn the_last_write_of_each_key_goes_to_its_shard(
            writes in proptest::collection::vec((0u8..20, proptest::option::of(any::<u8>())), 0..60),
            shards in 1u32..5,
            by_key: bool,
        ) {
            let router = Router { hash_seed: 7, shards };
            let parts = BatchParts::new(batch(&writes), router, 0);
            let mut found = vec![];
            for shard in parts.shards() {
                let before = found.len();
                found.extend(parts.writes_of(shard).map(|op| {
                    assert_eq!(router.shard(op.hash), shard);
                    assert_eq!(op.hash, router.hash(op.key));
                    (op.key.to_vec(), (op.kind, op.value.to_vec()))
                }));
                prop_assert!((1..=parts.longest()).contains(&(found.len() - before)));
            }
            let count = found.len();
            let found: HashMap<_, _> = found.into_iter().collect();
            prop_assert_eq!(count, found.len(), "each key once");
            let expected: HashMap<_, _> = writes.iter().map(|(key, value)| {
                let op = WriteOp::new(KeyHash(0), &[], None);
                let put = value.map(|value| vec![value; usize::from(value) * 40]);
                let kind = if put.is_some() { crate::entry::ValueKind::Put } else { op.kind };
                (vec![*key], (kind, put.unwrap_or_default()))
            }).collect();
            prop_assert_eq!(found, expected);
            if by_key {
                // What a collision of hashes would lead to finds the same.
                let all = batch(&writes);
                let route = |number| RoutedWrite { shard: 0, number, hash: KeyHash(0) };
                let (mut slow, mut fast): (Vec<_>, Vec<_>) = (
                    (0..all.len()).map(route).collect(),
                    (0..all.len()).map(|number| RoutedWrite { hash: router.hash(all.write(number).0), ..route(number) }).collect(),
                );
                keep_last(&all, &mut slow);
                keep_last(&all, &mut fast);
                let numbers = |writes: &[RoutedWrite]| writes.iter().map(|write| write.number).collect::<Vec<_>>();
                prop_assert_eq!(numbers(&slow), numbers(&fast));
            }
        }
    }
}
