//! Merges any number of cursors into one, in storage order and in both directions, with a binary heap.
//! The first bytes of each source's key are kept beside the heap, so that most comparisons touch no source.

use std::cmp::Ordering;

use crate::{
    entry::{Cursor, Entry},
    error::Result,
};

#[derive(Debug)]
struct Source<C> {
    cursor: C,
    /// The first eight bytes of the key it stands on, padded with zeroes: orders like the key, or ties.
    prefix: u64,
}

/// The merge of several cursors. No two of them hold the same version of a key.
#[derive(Debug)]
pub struct MergeCursor<C> {
    sources: Vec<Source<C>>,
    /// The places of the sources that stand on an entry; the next one in the current direction is on top.
    heap: Vec<usize>,
    forward: bool,
}

impl<C: Cursor> MergeCursor<C> {
    /// Merges `cursors`. It stands nowhere.
    pub fn new(cursors: impl IntoIterator<Item = C>) -> Self {
        let sources: Vec<_> = cursors.into_iter().map(|cursor| Source { cursor, prefix: 0 }).collect();
        let heap = Vec::with_capacity(sources.len());
        Self { sources, heap, forward: true }
    }

    /// Moves every source with `seek`, then builds the heap anew.
    fn reposition(&mut self, forward: bool, mut seek: impl FnMut(&mut C) -> Result<()>) -> Result<()> {
        self.heap.clear();
        self.forward = forward;
        for source in &mut self.sources {
            seek(&mut source.cursor)?;
            source.note_prefix();
        }
        self.build();
        Ok(())
    }

    fn build(&mut self) {
        self.heap.clear();
        let standing = self.sources.iter().enumerate().filter(|(_, source)| source.cursor.entry().is_some());
        self.heap.extend(standing.map(|(place, _)| place));
        for place in (0..self.heap.len() / 2).rev() {
            self.sift_down(place);
        }
    }

    /// Moves the source on top one step in the current direction and restores the heap.
    fn step(&mut self) -> Result<()> {
        let Some(source) = self.heap.first().and_then(|top| self.sources.get_mut(*top)) else {
            return Ok(());
        };
        let moved = if self.forward { source.cursor.next() } else { source.cursor.prev() };
        if let Err(error) = moved {
            self.heap.clear();
            return Err(error);
        }
        source.note_prefix();
        if source.cursor.entry().is_none() {
            let last = self.heap.len() - 1;
            self.heap.swap(0, last);
            self.heap.pop();
        }
        self.sift_down(0);
        Ok(())
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            if left >= self.heap.len() {
                return;
            }
            let child = if right < self.heap.len() && self.is_before(right, left) { right } else { left };
            if !self.is_before(child, place) {
                return;
            }
            self.heap.swap(child, place);
            place = child;
        }
    }

    /// Whether the source at heap place `a` comes before the one at `b` in the current direction.
    fn is_before(&self, a: usize, b: usize) -> bool {
        let source = |place: usize| self.heap.get(place).and_then(|index| self.sources.get(*index));
        let (Some(a), Some(b)) = (source(a), source(b)) else { return false };
        let order = a.prefix.cmp(&b.prefix).then_with(|| a.full_order(b));
        if self.forward { order == Ordering::Less } else { order == Ordering::Greater }
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
    fn note_prefix(&mut self) {
        self.prefix = self.cursor.entry().map_or(0, |entry| key_prefix(entry.key));
    }

    fn full_order(&self, other: &Self) -> Ordering {
        match (self.cursor.entry(), other.cursor.entry()) {
            (Some(a), Some(b)) => a.storage_order(&b),
            _ => Ordering::Equal,
        }
    }
}

/// The first eight bytes of a key as a number that orders like them.
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

    fn next(&mut self) -> Result<()> {
        if !self.forward {
            self.turn(true)?;
        }
        self.step()
    }

    fn prev(&mut self) -> Result<()> {
        if self.forward {
            self.turn(false)?;
        }
        self.step()
    }

    fn entry(&self) -> Option<Entry<'_>> {
        self.sources.get(*self.heap.first()?)?.cursor.entry()
    }
}

#[cfg(test)]
#[path = "merge_test.rs"]
mod tests;
