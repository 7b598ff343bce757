//! The cursor over a memtable: a merge of a few sorted runs, in both directions.

use std::{cmp::Ordering, sync::Arc};

use super::{
    runs::{key_word, order},
    walk::{Item, Pinned},
};
use crate::{
    entry::{Cursor, Entry},
    error::Result,
};

/// So many items ahead of its place a cursor that walks forward asks for the record: neighbours in order lie
/// anywhere in the arena.
const PREFETCH_AHEAD: usize = 8;

/// Walks the entries that a memtable held when the cursor was made, in storage order.
///
/// It owns what it walks: it outlives the memtable's other handles, and writers never wait for it.
pub struct MemtableCursor {
    runs: Vec<Part>,
    /// The run whose item at its cut the cursor stands on.
    current: Option<usize>,
}

/// One run, cut in two: all items before the cut come before the cursor's place, all others do not.
struct Part {
    run: Arc<Pinned>,
    cut: usize,
}

impl Part {
    fn behind(&self) -> Option<&Item<'_>> {
        self.run.items().get(self.cut)
    }

    fn before(&self) -> Option<&Item<'_>> {
        self.run.items().get(self.cut.checked_sub(1)?)
    }
}

impl MemtableCursor {
    pub(super) fn new(runs: Vec<Arc<Pinned>>) -> Self {
        Self { runs: runs.into_iter().map(|run| Part { run, cut: 0 }).collect(), current: None }
    }

    #[cfg(test)]
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Stands on the first item behind the cuts.
    fn settle(&mut self) {
        let items = self.runs.iter().enumerate().filter_map(|(run, part)| Some((run, part.behind()?)));
        self.current = items.min_by(|(_, a), (_, b)| order(a, b)).map(|(run, _)| run);
    }

    /// Moves the cuts one item back, and stands on that.
    fn step_back(&mut self) {
        let items = self.runs.iter().enumerate().filter_map(|(run, part)| Some((run, part.before()?)));
        self.current = items.max_by(|(_, a), (_, b)| order(a, b)).map(|(run, _)| run);
        if let Some(part) = self.current.and_then(|run| self.runs.get_mut(run)) {
            part.cut -= 1;
        }
    }

    /// Cuts each run before the first entry whose key is at or behind `key`.
    fn cut_at(&mut self, key: &[u8]) {
        let word = key_word(key, 0);
        for part in &mut self.runs {
            part.cut = part.run.items().partition_point(|item| {
                let order = item.word.cmp(&word).then_with(|| item.record.key().cmp(key));
                order == Ordering::Less
            });
        }
    }
}

impl Cursor for MemtableCursor {
    fn seek_first(&mut self) -> Result<()> {
        for part in &mut self.runs {
            part.cut = 0;
        }
        self.settle();
        Ok(())
    }

    fn seek_last(&mut self) -> Result<()> {
        for part in &mut self.runs {
            part.cut = part.run.items().len();
        }
        self.step_back();
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.cut_at(key);
        self.settle();
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.cut_at(key);
        self.step_back();
        Ok(())
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        if let Some(part) = self.current.and_then(|run| self.runs.get_mut(run)) {
            part.cut += 1;
            if let Some(ahead) = part.run.items().get(part.cut + PREFETCH_AHEAD) {
                ahead.record.prefetch();
            }
            self.settle();
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if self.current.is_some() {
            self.step_back();
        }
        Ok(())
    }

    #[inline]
    fn entry(&self) -> Option<Entry<'_>> {
        Some(self.runs.get(self.current?)?.behind()?.record.entry())
    }

    #[inline]
    fn key(&self) -> Option<&[u8]> {
        Some(self.runs.get(self.current?)?.behind()?.record.key())
    }
}
