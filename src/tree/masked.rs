//! A source of a scan without what range deletes hide: what one of a newer source covers is passed over by a seek, what
//! one of its own covers entry by entry. Only scans of views that hold range deletes have such sources.

use std::sync::Arc;

use bytes::Bytes;

use super::{handle::TableHandle, scan::SourceCursor};
use crate::{
    entry::{Cursor, Entry},
    error::Result,
    ids::SeqNo,
    range_delete::{Place, RangeDeletes},
};

/// Where the range deletes of one source are.
pub(super) enum DeleteSource {
    Memtable(Arc<Vec<Arc<RangeDeletes>>>),
    /// Tables that do not overlap, by key: those of a run that hold range deletes, or one of L0.
    Tables(Arc<[Arc<TableHandle>]>),
}

/// The range deletes of a scan's sources, in their order, as one reader sees them.
pub(super) struct Mask {
    /// The newest source first; `None` where there are none.
    pub(super) sources: Vec<Option<DeleteSource>>,
    /// Newer ones do not count.
    pub(super) at: SeqNo,
}

/// Keys between two bounds to which the same range deletes apply.
#[derive(Default)]
struct Stretch {
    /// Its first key; `None`: it goes on to the very first one.
    from: Option<Bytes>,
    /// The first key behind it; `None`: it goes on to the very last one.
    until: Option<Bytes>,
    newest: Option<SeqNo>,
}

impl Stretch {
    fn holds(&self, key: &[u8]) -> bool {
        self.from.as_ref().is_none_or(|from| **from <= *key)
            && self.until.as_ref().is_none_or(|until| **until > *key)
    }

    fn of(place: Place<'_>) -> Self {
        Self { from: place.from.cloned(), until: place.until.cloned(), newest: place.newest }
    }

    /// The part that both have in common, with the newest delete of either.
    fn and(self, other: Self) -> Self {
        Self {
            from: self.from.max(other.from),
            until: match (self.until, other.until) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (until, None) | (None, until) => until,
            },
            newest: self.newest.max(other.newest),
        }
    }
}

impl DeleteSource {
    /// The stretch around a key.
    fn stretch(&self, key: &[u8], at: SeqNo) -> Result<Stretch> {
        match self {
            Self::Memtable(sets) => {
                let stretches = sets.iter().map(|set| Stretch::of(set.place(key, at)));
                Ok(stretches.reduce(Stretch::and).unwrap_or_default())
            }
            Self::Tables(tables) => stretch_of_tables(tables, key, at),
        }
    }
}

fn stretch_of_tables(tables: &[Arc<TableHandle>], key: &[u8], at: SeqNo) -> Result<Stretch> {
    let place = tables.partition_point(|table| table.record().ends_before(key));
    let before = place.checked_sub(1).and_then(|before| tables.get(before));
    let from = before.map(|table| table.record().end());
    let begin = |place: usize| tables.get(place).map(|table| table.record().min_key.clone());
    match tables.get(place).filter(|table| table.record().min_key <= key) {
        None => Ok(Stretch { from, until: begin(place), newest: None }),
        Some(table) => {
            let inside = table.table().with_range_deletes(|deletes| Stretch::of(deletes.place(key, at)))?;
            Ok(inside.and(Stretch { from, until: begin(place + 1), newest: None }))
        }
    }
}

/// The cursor of one source, which shows only what is not hidden.
pub(super) struct MaskedCursor {
    cursor: SourceCursor,
    mask: Arc<Mask>,
    /// Which source it is.
    place: usize,
    /// Around the current entry: what newer sources hide, and what its own does.
    above: Stretch,
    own: Stretch,
    /// It stands nowhere, whatever the cursor does.
    ended: bool,
    /// Whether the stretches were looked up.
    knows_stretch: bool,
}

impl MaskedCursor {
    pub(super) fn new(cursor: SourceCursor, mask: Arc<Mask>, place: usize) -> Self {
        let (above, own) = (Stretch::default(), Stretch::default());
        Self { cursor, mask, place, above, own, ended: true, knows_stretch: false }
    }

    /// Moves by `step` and then on to what is visible.
    fn go(&mut self, forward: bool, step: impl FnOnce(&mut SourceCursor) -> Result<()>) -> Result<()> {
        self.ended = false;
        let gone = step(&mut self.cursor).and_then(|()| self.settle(forward));
        if gone.is_err() {
            self.ended = true;
        }
        gone
    }

    /// Moves on until it stands on what is visible, or is at the end.
    fn settle(&mut self, forward: bool) -> Result<()> {
        while let Some(entry) = self.cursor.entry() {
            if !self.knows_stretch || !self.above.holds(entry.key) || !self.own.holds(entry.key) {
                (self.above, self.own) = self.mask.stretches(self.place, entry.key)?;
                self.knows_stretch = true;
            }
            if self.above.newest.is_some() {
                let behind = if forward { &self.above.until } else { &self.above.from };
                let Some(behind) = behind else {
                    self.ended = true;
                    return Ok(());
                };
                if forward { self.cursor.seek(behind)? } else { self.cursor.seek_before(behind)? }
            } else if self.own.newest.is_some_and(|delete| entry.seqno < delete) {
                if forward { self.cursor.next()? } else { self.cursor.prev()? }
            } else {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Mask {
    /// What newer sources than the one at `place` hide around a key, and what that one itself does.
    fn stretches(&self, place: usize, key: &[u8]) -> Result<(Stretch, Stretch)> {
        let mut above = Stretch::default();
        for source in self.sources.iter().take(place).flatten() {
            above = above.and(source.stretch(key, self.at)?);
        }
        let own = self.sources.get(place).and_then(Option::as_ref);
        Ok((above, own.map_or_else(|| Ok(Stretch::default()), |own| own.stretch(key, self.at))?))
    }
}

impl Cursor for MaskedCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.go(true, Cursor::seek_first)
    }

    fn seek_last(&mut self) -> Result<()> {
        self.go(false, Cursor::seek_last)
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.go(true, |cursor| cursor.seek(key))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.go(false, |cursor| cursor.seek_before(key))
    }

    fn next(&mut self) -> Result<()> {
        if self.ended { Ok(()) } else { self.go(true, Cursor::next) }
    }

    fn prev(&mut self) -> Result<()> {
        if self.ended { Ok(()) } else { self.go(false, Cursor::prev) }
    }

    fn walk(&mut self, take: &mut impl FnMut(&Entry<'_>) -> bool) -> Result<()> {
        let mut refused = false;
        while !refused && self.entry().is_some() {
            let Self { cursor, above, own, .. } = self;
            let walked = cursor.walk(&mut |entry| {
                if !above.holds(entry.key) || !own.holds(entry.key) {
                    return false;
                }
                if own.newest.is_none_or(|delete| entry.seqno > delete) {
                    refused = !take(entry);
                }
                !refused
            });
            if !refused {
                self.go(true, |_| walked)?;
            } else if let Err(error) = walked {
                self.ended = true;
                return Err(error);
            }
        }
        Ok(())
    }

    fn entry(&self) -> Option<Entry<'_>> {
        if self.ended { None } else { self.cursor.entry() }
    }

    fn key(&self) -> Option<&[u8]> {
        if self.ended { None } else { self.cursor.key() }
    }
}
