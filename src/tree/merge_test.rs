//! The merging cursor against one sorted vector, over random walks.

use super::*;
use crate::tree::test_cursor::{OwnedVersion, VecCursor, version};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Move {
    First,
    Last,
    Seek(u8),
    SeekBefore(u8),
    Next,
    Prev,
    /// Walk on until so many entries are taken.
    Walk(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        1 => Just(Move::First),
        1 => Just(Move::Last),
        2 => any::<u8>().prop_map(Move::Seek),
        2 => any::<u8>().prop_map(Move::SeekBefore),
        8 => Just(Move::Next),
        8 => Just(Move::Prev),
        4 => (0_usize..20).prop_map(Move::Walk),
    ];
    proptest::collection::vec(one, 1..60)
}

/// A key that shares its first eight bytes with its neighbours half of the time.
fn key(n: u8) -> Vec<u8> {
    if n.is_multiple_of(2) { vec![n / 16] } else { [&b"prefix--"[..], &[n / 16]].concat() }
}

/// What was taken, if it is a walk.
fn go(cursor: &mut impl Cursor, step: &Move) -> Vec<(Vec<u8>, u64)> {
    let mut taken = vec![];
    match step {
        Move::First => cursor.seek_first(),
        Move::Last => cursor.seek_last(),
        Move::Seek(n) => cursor.seek(&key(*n)),
        Move::SeekBefore(n) => cursor.seek_before(&key(*n)),
        Move::Next => cursor.next(),
        Move::Prev => cursor.prev(),
        Move::Walk(most) => cursor.walk(&mut |entry| {
            let has_room = taken.len() < *most;
            if has_room {
                taken.push((entry.key.to_vec(), entry.seqno.0));
            }
            has_room
        }),
    }
    .unwrap();
    taken
}

proptest! {
    #[test]
    fn the_merge_walks_like_one_sorted_list(
        entries in proptest::collection::vec((any::<u8>(), 0usize..5), 0..40),
        steps in moves(),
    ) {
        let mut sources: Vec<Vec<OwnedVersion>> = vec![vec![]; 5];
        let mut all = vec![];
        for (seqno, (n, source)) in entries.into_iter().enumerate() {
            let entry = version(&key(n), seqno as u64 + 1, Some(&[n]));
            sources[source].push(entry.clone());
            all.push(entry);
        }
        let mut merged = MergeCursor::new(sources.into_iter().map(VecCursor::new));
        let mut model = VecCursor::new(all);
        for step in &steps {
            prop_assert_eq!(go(&mut merged, step), go(&mut model, step), "in {:?}", step);
            prop_assert_eq!(merged.entry(), model.entry(), "after {:?}", step);
        }
    }
}

#[test]
fn prefixes_order_like_keys() {
    let keys: [&[u8]; 6] = [b"", b"\0", b"a", b"a\0", b"abcdefgh", b"abcdefghi"];
    assert!(keys.iter().zip(&keys[1..]).all(|(a, b)| key_prefix(a) <= key_prefix(b)));
    assert_eq!(key_prefix(b"abcdefgh"), key_prefix(b"abcdefghi"));
}
