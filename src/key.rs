//! Keys: their limits, their one hash, ranges of them, and how they are shown in messages.
//! The hash is computed once, when a request enters; everything below receives it.

use std::{
    fmt,
    ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive},
};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result};

/// The longest key in bytes (64 KiB). The shortest is one byte.
pub const MAX_KEY_BYTES: usize = 64 << 10;
/// The longest bound of a half-open range in bytes: the key right behind the longest one.
pub const MAX_BOUND_BYTES: usize = MAX_KEY_BYTES + 1;
/// The longest value in bytes (64 MiB). A value may be empty.
pub const MAX_VALUE_BYTES: usize = 64 << 20;

/// Checks a key's length.
///
/// # Errors
/// `Invalid` for an empty key or one above [`MAX_KEY_BYTES`].
pub fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        0 => Err(Error::invalid("the key is empty; a key has 1 byte to 64 KiB")),
        1..=MAX_KEY_BYTES => Ok(()),
        n => Err(Error::invalid(format!("the key has {n} bytes; a key has at most {MAX_KEY_BYTES}"))),
    }
}

/// Checks a value's length.
///
/// # Errors
/// `Invalid` for a value above [`MAX_VALUE_BYTES`].
pub fn check_value(value: &[u8]) -> Result<()> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::invalid(format!(
            "the value has {} bytes; a value has at most {MAX_VALUE_BYTES}",
            value.len()
        )));
    }
    Ok(())
}

/// The first eight bytes of a key as a number that orders like them.
#[inline]
pub fn key_prefix(key: &[u8]) -> u64 {
    if let Some(first) = key.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let mut padded = [0; 8];
    for (to, from) in padded.iter_mut().zip(key) {
        *to = *from;
    }
    u64::from_be_bytes(padded)
}

/// The seeded XXH3 hash of a key. Its leading bits choose the shard; everything inside a shard uses
/// [`KeyHash::mixed`], because there the leading bits are nearly constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// Hashes a key with the node's seed.
    #[inline]
    pub fn of(key: &[u8], seed: u64) -> Self {
        Self(xxh3_64_with_seed(key, seed))
    }

    /// The shard of this hash among `shards`, by multiply-shift range reduction of the leading bits.
    #[inline]
    pub const fn shard(self, shards: u32) -> u32 {
        // NOTE: the product of a u64 and a u32, shifted right by 64, is below the u32.
        #[expect(clippy::cast_possible_truncation, reason = "the shifted product is below `shards`")]
        {
            ((self.0 as u128 * shards as u128) >> 64) as u32
        }
    }

    /// The hash re-mixed by one multiply: all 64 bits are usable inside a shard.
    #[inline]
    pub const fn mixed(self) -> u64 {
        let product = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        product ^ (product >> 32)
    }
}

/// A range of keys in byte order, with any kind of bound on either side.
///
/// Made from every std range of anything that is bytes (`"a".."b"`, `key..`, `..=key`, `..`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// Where the range begins.
    pub start: Bound<Bytes>,
    /// Where the range ends.
    pub end: Bound<Bytes>,
}

impl KeyRange {
    /// Every key.
    pub const fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        if prefix.is_empty() {
            return Self::all();
        }
        let end =
            prefix_successor(prefix).map_or(Bound::Unbounded, |next| Bound::Excluded(Bytes::from(next)));
        Self { start: Bound::Included(Bytes::copy_from_slice(prefix)), end }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        !self.is_before(key) && !self.is_behind(key)
    }

    /// Whether `key` lies before the range's start.
    pub fn is_before(&self, key: &[u8]) -> bool {
        match &self.start {
            Bound::Included(start) => key < &start[..],
            Bound::Excluded(start) => key <= &start[..],
            Bound::Unbounded => false,
        }
    }

    /// Whether `key` lies behind the range's end.
    pub fn is_behind(&self, key: &[u8]) -> bool {
        match &self.end {
            Bound::Included(end) => key > &end[..],
            Bound::Excluded(end) => key >= &end[..],
            Bound::Unbounded => false,
        }
    }

    /// Checks that the start does not lie behind the end. An empty range (`"a".."a"`) is fine.
    ///
    /// # Errors
    /// `Invalid` for an inverted range.
    pub fn check(&self) -> Result<()> {
        let start = match &self.start {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => return Ok(()),
        };
        let end = match &self.end {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => return Ok(()),
        };
        if start > end {
            return Err(Error::invalid(format!(
                "the range is inverted: its start {} lies behind its end {}",
                EscapedKey(start),
                EscapedKey(end)
            )));
        }
        Ok(())
    }

    /// The part of this range that also lies in `other`; an empty range where they do not meet. An inverted
    /// range stays inverted.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let start = if other.start_key_is_behind(self) { other.start.clone() } else { self.start.clone() };
        let end = match (&self.end, &other.end) {
            (Bound::Unbounded, end) | (end, Bound::Unbounded) => end.clone(),
            (mine, theirs) if end_rank(theirs) < end_rank(mine) => theirs.clone(),
            (mine, _) => mine.clone(),
        };
        let both = Self { start, end };
        match &both.start {
            Bound::Included(start) | Bound::Excluded(start)
                if both.check().is_err() && self.check().is_ok() && other.check().is_ok() =>
            {
                Self { end: Bound::Excluded(start.clone()), ..both }
            }
            _ => both,
        }
    }

    /// The bytes of its bounds.
    pub fn bound_bytes(&self) -> usize {
        let bytes = |bound: &Bound<Bytes>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => key.len(),
            Bound::Unbounded => 0,
        };
        bytes(&self.start) + bytes(&self.end)
    }

    /// The range as its first key and the first key behind it, which stand for no bound where they are empty; `None`
    /// if it holds no key.
    pub fn half_open(&self) -> Option<(Bytes, Bytes)> {
        let behind = |key: &Bytes| Bytes::from([key, &[0][..]].concat());
        let start = match &self.start {
            Bound::Included(key) => key.clone(),
            Bound::Excluded(key) => behind(key),
            Bound::Unbounded => Bytes::new(),
        };
        let end = match &self.end {
            Bound::Included(key) => behind(key),
            Bound::Excluded(key) if key.is_empty() => return None,
            Bound::Excluded(key) => key.clone(),
            Bound::Unbounded => Bytes::new(),
        };
        (end.is_empty() || start < end).then_some((start, end))
    }

    fn start_key_is_behind(&self, other: &Self) -> bool {
        start_rank(&self.start) > start_rank(&other.start)
    }
}

/// Orders start bounds: unbounded first, then by key, an excluded key after the included one.
fn start_rank(bound: &Bound<Bytes>) -> (bool, &[u8], bool) {
    match bound {
        Bound::Unbounded => (false, &[], false),
        Bound::Included(key) => (true, key, false),
        Bound::Excluded(key) => (true, key, true),
    }
}

/// Orders bounded end bounds: by key, an excluded key before the included one.
fn end_rank(bound: &Bound<Bytes>) -> (&[u8], bool) {
    match bound {
        Bound::Unbounded => (&[], false),
        Bound::Included(key) => (key, true),
        Bound::Excluded(key) => (key, false),
    }
}

/// The shortest key behind every key that begins with `prefix`; none if the prefix is all 0xFF.
fn prefix_successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut next = prefix.get(..=keep)?.to_vec();
    if let Some(last) = next.last_mut() {
        *last += 1;
    }
    Some(next)
}

fn bound_of<K: AsRef<[u8]>>(bound: Bound<K>) -> Bound<Bytes> {
    match bound {
        Bound::Included(key) => Bound::Included(Bytes::copy_from_slice(key.as_ref())),
        Bound::Excluded(key) => Bound::Excluded(Bytes::copy_from_slice(key.as_ref())),
        Bound::Unbounded => Bound::Unbounded,
    }
}

macro_rules! from_std_range {
    ($($range:ident),*) => {$(
        impl<K: AsRef<[u8]>> From<$range<K>> for KeyRange {
            fn from(range: $range<K>) -> Self {
                use std::ops::RangeBounds;
                Self {
                    start: bound_of(range.start_bound().map(AsRef::<[u8]>::as_ref)),
                    end: bound_of(range.end_bound().map(AsRef::<[u8]>::as_ref)),
                }
            }
        }
    )*};
}
from_std_range!(Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive);

impl From<RangeFull> for KeyRange {
    fn from(_: RangeFull) -> Self {
        Self::all()
    }
}

impl<K: AsRef<[u8]>> From<(Bound<K>, Bound<K>)> for KeyRange {
    fn from((start, end): (Bound<K>, Bound<K>)) -> Self {
        Self { start: bound_of(start), end: bound_of(end) }
    }
}

/// Shows a key in a message: escaped, and cut to 32 bytes.
pub struct EscapedKey<'a>(pub &'a [u8]);

impl fmt::Display for EscapedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 32;
        let shown = self.0.get(..SHOWN).unwrap_or(self.0);
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if self.0.len() > SHOWN {
            write!(f, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_of_hashes_cover_all_shards_evenly() {
        let mut counts = [0u32; 64];
        for i in 0u64..64_000 {
            counts[KeyHash::of(&i.to_le_bytes(), 7).shard(64) as usize] += 1;
        }
        assert!(counts.iter().all(|n| (700..1300).contains(n)), "{counts:?}");
    }

    #[test]
    fn prefix_of_all_ff_is_unbounded_above() {
        assert_eq!(KeyRange::prefix([0xFF, 0xFF]).end, Bound::Unbounded);
        assert_eq!(KeyRange::prefix([1, 0xFF]).end, Bound::Excluded(Bytes::from_static(&[2])));
        assert_eq!(KeyRange::prefix([]), KeyRange::all());
    }

    #[test]
    fn std_ranges_become_key_ranges() {
        let range = KeyRange::from("b".."d");
        assert!(
            range.contains(b"b") && range.contains(b"cz") && !range.contains(b"d") && !range.contains(b"a")
        );
        assert!(KeyRange::from("b"..="d").contains(b"d"));
        assert!(KeyRange::from(..).contains(b""));
        assert!(KeyRange::from("x".."a").check().is_err());
        assert!(KeyRange::from("a".."a").check().is_ok());
    }

    #[test]
    fn intersection_takes_the_tighter_bounds() {
        let both = KeyRange::from("b"..="m").intersect(&KeyRange::from("a".."m"));
        assert_eq!(both, KeyRange::from("b".."m"));
        assert_eq!(KeyRange::all().intersect(&KeyRange::from("b"..)), KeyRange::from("b"..));
    }

    #[test]
    fn ranges_that_do_not_meet_intersect_in_an_empty_range_and_not_in_an_inverted_one() {
        for (left, right) in [
            (KeyRange::from("a".."b"), KeyRange::prefix("m")),
            (KeyRange::prefix("z"), KeyRange::from(.."b")),
        ] {
            let both = left.intersect(&right);
            assert_eq!(both.check().map_err(|error| error.to_string()), Ok(()));
            assert!(["a", "b", "m", "z"].iter().all(|key| !both.contains(key.as_bytes())), "{both:?}");
        }
        assert!(
            KeyRange::from("b".."a").intersect(&KeyRange::prefix("a")).check().is_err(),
            "a mistake stays one"
        );
    }

    #[test]
    fn half_open_bounds_hold_the_same_keys() {
        let half_open =
            |range: KeyRange| range.half_open().map(|(start, end)| (start.to_vec(), end.to_vec()));
        assert_eq!(half_open(KeyRange::from("b".."d")), Some((b"b".to_vec(), b"d".to_vec())));
        assert_eq!(half_open(KeyRange::from("b"..="d")), Some((b"b".to_vec(), b"d\0".to_vec())));
        let behind = (Bound::Excluded("b"), Bound::Unbounded);
        assert_eq!(half_open(behind.into()), Some((b"b\0".to_vec(), vec![])));
        assert_eq!(half_open(KeyRange::all()), Some((vec![], vec![])));
        assert_eq!(half_open(KeyRange::from("b".."b")), None);
        assert_eq!(half_open(KeyRange::from(.."")), None);
        assert_eq!(half_open((Bound::Excluded("b"), Bound::Excluded("b\0")).into()), None);
    }

    #[test]
    fn escaped_keys_are_cut() {
        assert_eq!(EscapedKey(b"a\n\xff").to_string(), "\"a\\n\\xff\"");
        assert!(EscapedKey(&[b'x'; 100]).to_string().ends_with("(100 bytes)"));
    }
}
