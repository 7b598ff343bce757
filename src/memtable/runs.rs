//! Sorted runs: order made on demand. Each call sorts what came since the last one into a new run, and merges
//! runs so that each has more than twice the entries of the next: few runs, and each entry is merged few times.

use std::{cmp::Ordering, sync::Arc};

use super::{
    arena::Arena,
    walk::{Item, Pinned, Walker},
};

const WORD: usize = size_of::<u64>();
/// So many leading key bytes are sorted word by word; what is still alike then is compared as a whole.
const DEEPEST_WORD: usize = 8 * WORD;

/// The sorted runs of one memtable, and how far into the arena they reach.
pub(super) struct Runs {
    walker: Walker,
    /// Long ones first.
    runs: Vec<Arc<Pinned>>,
}

impl Runs {
    pub(super) fn new(arena: super::sync::Arc<Arena>) -> Self {
        Self { walker: Walker::new(arena), runs: Vec::new() }
    }

    /// Runs over every entry that is complete as this is called.
    pub(super) fn catch_up(&mut self) -> Vec<Arc<Pinned>> {
        if let Some(mut new) = self.walker.take(sort) {
            while let Some(last) = self.runs.pop_if(|last| merges(last.items().len(), new.items().len())) {
                new = Pinned::merge(&last, &new, merge);
            }
            self.runs.push(Arc::new(new));
        }
        self.runs.clone()
    }

    /// How many entries `catch_up` would sort or merge if `entries` are complete.
    pub(super) fn work(&self, entries: usize) -> usize {
        let mut work = entries.saturating_sub(self.walker.taken());
        if work > 0 {
            for run in self.runs.iter().rev().map(|run| run.items().len()) {
                if !merges(run, work) {
                    break;
                }
                work += run;
            }
        }
        work
    }
}

/// Whether a run is short enough to be merged with a newer one.
const fn merges(run: usize, newer: usize) -> bool {
    run <= 2 * newer
}

/// The eight bytes of a key from `at` on, padded with zeroes: words order as the keys do, but for the padding.
#[inline]
pub(super) fn key_word(key: &[u8], at: usize) -> u64 {
    let rest = key.get(at..).unwrap_or_default();
    if let Some(word) = rest.first_chunk() {
        return u64::from_be_bytes(*word);
    }
    let mut word = [0; WORD];
    for (to, from) in word.iter_mut().zip(rest) {
        *to = *from;
    }
    u64::from_be_bytes(word)
}

fn sort(items: &mut [Item<'_>]) {
    sort_from(items, 0);
}

/// Sorts items that are alike in the first `at` key bytes. Leaves the word at `at` in each.
fn sort_from(items: &mut [Item<'_>], at: usize) {
    for item in &mut *items {
        item.word = key_word(item.record.key(), at);
    }
    items.sort_unstable_by_key(|item| item.word);
    let deeper = at + WORD;
    for alike in items.chunk_by_mut(|a, b| a.word == b.word) {
        let Some((&Item { word, .. }, [_, ..])) = alike.split_first() else { continue };
        // Behind the end of a key there is only padding: further words need not tell these keys apart.
        if deeper >= DEEPEST_WORD || alike.iter().any(|item| item.record.key().len() < deeper) {
            alike.sort_unstable_by(order_of_records);
            continue;
        }
        sort_from(alike, deeper);
        for item in alike {
            item.word = word;
        }
    }
}

/// Storage order, for items that hold their keys' first words.
#[inline]
pub(super) fn order(a: &Item<'_>, b: &Item<'_>) -> Ordering {
    a.word.cmp(&b.word).then_with(|| order_of_records(a, b))
}

fn order_of_records(a: &Item<'_>, b: &Item<'_>) -> Ordering {
    a.record.key().cmp(b.record.key()).then_with(|| b.record.seqno().cmp(&a.record.seqno()))
}

fn merge<'x>(mut a: &[Item<'x>], mut b: &[Item<'x>]) -> Vec<Item<'x>> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    while let (Some((first_of_a, rest_of_a)), Some((first_of_b, rest_of_b))) =
        (a.split_first(), b.split_first())
    {
        if order(first_of_a, first_of_b).is_lt() {
            merged.push(*first_of_a);
            a = rest_of_a;
        } else {
            merged.push(*first_of_b);
            b = rest_of_b;
        }
    }
    merged.extend_from_slice(a);
    merged.extend_from_slice(b);
    merged
}
