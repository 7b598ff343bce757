//! Merges any number of cursors into one, in storage order and in both directions, with a loser tree.
//! The first bytes of each source's key are kept beside its cursor, so that most comparisons touch no key.

use std::cmp::Ordering;

use super::{block_cursor::BlockCursor, loser_tree::LoserTree};
use crate::{
    entry::{Cursor, Entry},
    error::Result,
    key::key_prefix,
    table::WholeBlock,
};

#[derive(Debug)]
struct Source<C> {
    cursor: C,
    /// The first eight bytes of the key it stands on, padded with zeroes: orders like the key, or ties.
    prefix: u64,
    stands: bool,
}

/// The merge of several cursors. No two of them hold the same version of a key.
#[derive(Debug)]
pub struct MergeCursor<C> {
    sources: Vec<Source<C>>,
    order: LoserTree,
    forward: bool,
    /// The key that comes after the first source's, in the others; kept for its memory.
    bound: Vec<u8>,
}

impl<C: Cursor> MergeCursor<C> {
    /// Merges `cursors`. It stands nowhere.
    pub fn new(cursors: impl IntoIterator<Item = C>) -> Self {
        let source = |cursor| Source { cursor, prefix: 0, stands: false };
        let sources = cursors.into_iter().map(source).collect();
        Self { sources, order: LoserTree::default(), forward: true, bound: Vec::new() }
    }

    /// Moves every source with `seek`, then plays all matches anew.
    fn reposition(&mut self, forward: bool, mut seek: impl FnMut(&mut C) -> Result<()>) -> Result<()> {
        self.order.rebuild(0, |_, _| false);
        self.forward = forward;
        for source in &mut self.sources {
            seek(&mut source.cursor)?;
            source.note_place();
        }
        let sources = &self.sources;
        self.order.rebuild(sources.len(), |a, b| is_before(sources, forward, a, b));
        Ok(())
    }

    /// Moves the first source one step in the current direction.
    #[inline]
    fn step(&mut self) -> Result<()> {
        if self.forward { self.move_first(Cursor::next) } else { self.move_first(Cursor::prev) }
    }

    /// Moves the first source with `step`, then finds which is the first now.
    #[inline]
    fn move_first(&mut self, step: impl FnOnce(&mut C) -> Result<()>) -> Result<()> {
        let Some(source) = self.order.first().and_then(|first| self.sources.get_mut(first)) else {
            return Ok(());
        };
        if let Err(error) = step(&mut source.cursor) {
            self.order.rebuild(0, |_, _| false);
            return Err(error);
        }
        source.note_place();
        let (sources, forward) = (&self.sources, self.forward);
        self.order.replay(|a, b| is_before(sources, forward, a, b));
        Ok(())
    }

    /// Walks the first source up to where another one has to come first. Whether an entry was refused.
    #[inline]
    fn walk_first(&mut self, take: &mut impl FnMut(&Entry<'_>) -> bool) -> Result<bool> {
        let prefix = self.note_bound();
        let bound = std::mem::take(&mut self.bound);
        // NOTE: where several sources hold versions of one key, only of the first entry is it known that it comes
        // first.
        let (mut is_first, mut refused) = (true, false);
        let walked = self.move_first(|cursor| {
            cursor.walk(&mut |entry| {
                let comes_first = prefix.is_none_or(|prefix| {
                    let own = key_prefix(entry.key);
                    own < prefix || (own == prefix && entry.key < bound.as_slice())
                });
                if !comes_first && !is_first {
                    return false;
                }
                is_first = false;
                refused = !take(entry);
                !refused
            })
        });
        self.bound = bound;
        walked.map(|()| refused)
    }

    /// Notes the first key of all the other sources, and returns its prefix; none if they are at their ends.
    #[inline]
    fn note_bound(&mut self) -> Option<u64> {
        let others = self.order.lost_to_first().filter_map(|place| self.sources.get(place));
        let standing = others.filter(|source| source.stands);
        let second = standing.reduce(|a, b| if b.order(a) == Ordering::Less { b } else { a })?;
        self.bound.clear();
        self.bound.extend_from_slice(second.cursor.key()?);
        Some(second.prefix)
    }

    /// Turns round: every source comes to stand on its first entry that lies behind the current one in the
    /// new direction, or on the current one itself.
    fn turn(&mut self, forward: bool) -> Result<()> {
        let Some(current) = self.entry() else { return Ok(()) };
        let (key, seqno) = (current.key.to_vec(), current.seqno);
        let here = Entry { key: &key, seqno, ..NO_ENTRY };
        self.reposition(forward, |cursor| {
            cursor.seek(&key)?;
            while cursor.entry().is_some_and(|entry| entry.storage_order(&here) == Ordering::Less) {
                cursor.next()?;
            }
            if forward {
                return Ok(());
            }
            match cursor.entry() {
                Some(entry) if entry.storage_order(&here) == Ordering::Equal => Ok(()),
                Some(_) => cursor.prev(),
                None => cursor.seek_last(),
            }
        })
    }
}

const NO_ENTRY: Entry<'static> = Entry {
    key: &[],
    seqno: crate::ids::SeqNo(0),
    kind: crate::entry::ValueKind::Delete,
    expires_at_ms: None,
    value: &[],
};

impl<C: Cursor> Source<C> {
    #[inline]
    fn note_place(&mut self) {
        let key = self.cursor.key();
        self.stands = key.is_some();
        self.prefix = key.map_or(0, key_prefix);
    }

    /// The storage order of where they stand.
    #[inline]
    fn order(&self, other: &Self) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| match (self.cursor.entry(), other.cursor.entry()) {
            (Some(a), Some(b)) => a.storage_order(&b),
            _ => Ordering::Equal,
        })
    }
}

/// Whether the source at `a` comes before the one at `b` in a direction; one that stands nowhere comes last.
#[inline]
fn is_before<C: Cursor>(sources: &[Source<C>], forward: bool, a: usize, b: usize) -> bool {
    let (Some(a), Some(b)) = (sources.get(a), sources.get(b)) else { return false };
    if !a.stands || !b.stands {
        return a.stands;
    }
    a.order(b) == if forward { Ordering::Less } else { Ordering::Greater }
}

impl<C: Cursor> Cursor for MergeCursor<C> {
    fn seek_first(&mut self) -> Result<()> {
        self.reposition(true, Cursor::seek_first)
    }

    fn seek_last(&mut self) -> Result<()> {
        self.reposition(false, Cursor::seek_last)
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.reposition(true, |cursor| cursor.seek(key))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.reposition(false, |cursor| cursor.seek_before(key))
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        if !self.forward {
            self.turn(true)?;
        }
        self.step()
    }

    #[inline]
    fn walk(&mut self, take: &mut impl FnMut(&Entry<'_>) -> bool) -> Result<()> {
        if !self.forward {
            self.turn(true)?;
        }
        while self.sources.get(self.order.first().unwrap_or(usize::MAX)).is_some_and(|first| first.stands) {
            if self.walk_first(take)? {
                break;
            }
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if self.forward {
            self.turn(false)?;
        }
        self.step()
    }

    #[inline]
    fn entry(&self) -> Option<Entry<'_>> {
        let first = self.sources.get(self.order.first()?)?;
        if first.stands { first.cursor.entry() } else { None }
    }
}

impl<C: BlockCursor> BlockCursor for MergeCursor<C> {
    #[inline]
    fn block_bound(&self) -> Option<&[u8]> {
        let first = self.order.first().filter(|_| self.forward)?;
        let bound = self.sources.get(first)?.cursor.block_bound()?;
        let prefix = key_prefix(bound);
        let is_behind = |(place, source): (usize, &Source<C>)| {
            place == first
                || !source.stands
                || source.prefix > prefix
                || (source.prefix == prefix && source.cursor.key().is_some_and(|key| key > bound))
        };
        self.sources.iter().enumerate().all(is_behind).then_some(bound)
    }

    fn whole_block(&self) -> Option<WholeBlock> {
        self.sources.get(self.order.first()?)?.cursor.whole_block()
    }

    fn skip_block(&mut self) -> Result<()> {
        self.move_first(BlockCursor::skip_block)
    }
}

#[cfg(test)]
#[path = "merge_test.rs"]
mod tests;
