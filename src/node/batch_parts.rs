//! A batch taken apart: which of its writes go to which shard.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    ops::Range,
};

use super::{router::Router, write_batch::WriteBatch};
use crate::{key::KeyHash, tree::WriteOp};

/// A batch and its participants, ascending. Of several writes of one key only the last is left.
#[derive(Debug)]
pub(super) struct BatchParts {
    batch: WriteBatch,
    writes: Vec<RoutedWrite>,
    /// Each participant's writes, as a range of `writes`.
    parts: Vec<(usize, Range<usize>)>,
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
    pub(super) fn new(batch: WriteBatch, router: Router) -> Self {
        let mut writes: Vec<RoutedWrite> = (0..batch.len())
            .map(|number| {
                let hash = router.hash(batch.write(number).0);
                RoutedWrite { shard: router.shard(hash), number, hash }
            })
            .collect();
        keep_last(&batch, &mut writes);
        writes.sort_unstable_by_key(|write| (write.shard, write.number));
        let mut parts: Vec<(usize, Range<usize>)> = Vec::new();
        for (place, write) in writes.iter().enumerate() {
            match parts.last_mut() {
                Some((shard, range)) if *shard == write.shard => range.end = place + 1,
                _ => parts.push((write.shard, place..place + 1)),
            }
        }
        Self { batch, writes, parts }
    }

    /// The participants, ascending.
    pub(super) fn shards(&self) -> impl Iterator<Item = usize> + Clone {
        self.parts.iter().map(|(shard, _)| *shard)
    }

    /// How many writes the participant with the most of them has.
    pub(super) fn longest(&self) -> usize {
        self.parts.iter().map(|(_, range)| range.len()).max().unwrap_or_default()
    }

    /// The writes of one participant, in their order.
    pub(super) fn writes_of(&self, shard: usize) -> impl Iterator<Item = WriteOp<'_>> {
        let part = self.parts.iter().find(|(other, _)| *other == shard);
        let writes = part.and_then(|(_, range)| self.writes.get(range.clone())).unwrap_or_default();
        writes.iter().map(|write| {
            let (key, value) = self.batch.write(write.number);
            WriteOp::new(write.hash, key, value)
        })
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
        fn the_last_write_of_each_key_goes_to_its_shard(
            writes in proptest::collection::vec((0u8..20, proptest::option::of(any::<u8>())), 0..60),
            shards in 1u32..5,
            by_key: bool,
        ) {
            let router = Router { hash_seed: 7, shards };
            let parts = BatchParts::new(batch(&writes), router);
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
