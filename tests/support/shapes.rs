//! Keys, values, ranges and scans at random, of many shapes.

use std::ops::Bound;

use bytes::Bytes;
use dbex::KeyRange;

use crate::{face::ScanOrder, random::Random};

/// A key among so many; of several shapes: text, numbers, long common prefixes, high bytes.
pub(crate) fn key(random: &mut Random, keys: usize) -> Vec<u8> {
    let number = random.below(keys);
    match number % 5 {
        0 => format!("user:{number:06}:name").into_bytes(),
        1 => u32::try_from(number).expect("there are few keys").to_be_bytes().to_vec(),
        2 => [&vec![b'p'; number % 300][..], format!("/{number}").as_bytes()].concat(),
        3 => [&[0xFF; 3][..], number.to_string().as_bytes()].concat(),
        _ => number.to_string().into_bytes(),
    }
}

/// A value: mostly small, some numbers, a few far larger than a block.
pub(crate) fn value(random: &mut Random) -> Vec<u8> {
    let bytes = match random.below(1000) {
        0..20 => 0,
        20..25 => random.between(50_000, 150_000),
        25..100 => random.between(500, 6_000),
        _ => random.between(1, 120),
    };
    if random.permille(100) {
        return (random.next() % 1000).to_string().into_bytes();
    }
    let mut value = vec![];
    while value.len() < bytes {
        value.extend(random.next().to_le_bytes());
        value.extend_from_slice(b"dbexdbex");
    }
    value.truncate(bytes);
    value
}

fn bound(random: &mut Random, keys: usize) -> Bound<Bytes> {
    match random.below(4) {
        0 => Bound::Unbounded,
        1 => Bound::Excluded(key(random, keys).into()),
        _ => Bound::Included(key(random, keys).into()),
    }
}

/// A range that is not inverted.
pub(crate) fn range(random: &mut Random, keys: usize) -> KeyRange {
    let (start, end) = (bound(random, keys), bound(random, keys));
    match (&start, &end) {
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high))
            if low > high =>
        {
            KeyRange { start: end, end: start }
        }
        _ => KeyRange { start, end },
    }
}

/// The beginning of a key; the whole key and nothing included.
pub(crate) fn prefix(random: &mut Random, keys: usize) -> Vec<u8> {
    let mut key = key(random, keys);
    key.truncate(random.below(key.len() + 1));
    key
}

/// What to scan.
pub(crate) fn order(random: &mut Random, keys: usize) -> ScanOrder {
    let range = range(random, keys);
    let prefix = random.permille(300).then(|| prefix(random, keys));
    let limit = random.permille(500).then(|| random.below(60));
    let reverse = random.permille(500);
    ScanOrder { range, prefix, reverse, limit }
}

/// The pairs of a scan, from all pairs in key order.
pub(crate) fn scanned<P>(
    pairs: impl Iterator<Item = P>,
    key: impl Fn(&P) -> &[u8],
    order: &ScanOrder,
) -> Vec<P> {
    let begins = |key: &[u8]| order.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix));
    let mut pairs: Vec<_> =
        pairs.filter(|pair| begins(key(pair)) && order.range.contains(key(pair))).collect();
    if order.reverse {
        pairs.reverse();
    }
    pairs.truncate(order.limit.unwrap_or(usize::MAX));
    pairs
}
