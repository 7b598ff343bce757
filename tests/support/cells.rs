//! A group of keys as one object for the checker: what an operation found, and what it wrote, in one form for all
//! kinds of operations.

use std::fmt;

use crate::wgl::Object;

/// The keys of a group.
pub(crate) const KEYS: usize = 4;
/// What an absent key holds. Values that are there have other numbers.
pub(crate) const ABSENT: u64 = 0;
/// What a key holds that has a value which nobody writes.
pub(crate) const STRANGER: u64 = u64::MAX;

/// What each key holds: the number of its value.
pub(crate) type State = [u64; KEYS];

/// Numbers of values for some of the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cells {
    values: [Option<u64>; KEYS],
}

impl Cells {
    pub(crate) fn of(key: usize, value: u64) -> Self {
        Self::default().and(key, value)
    }

    pub(crate) fn and(mut self, key: usize, value: u64) -> Self {
        self.values[key] = Some(value);
        self
    }

    pub(crate) fn get(&self, key: usize) -> Option<u64> {
        self.values[key]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values == [None; KEYS]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.values.iter().enumerate().filter_map(|(key, value)| Some((key, (*value)?)))
    }

    fn hold_in(&self, state: &State) -> bool {
        self.iter().all(|(key, value)| state[key] == value)
    }

    pub(crate) fn write_to(&self, state: &mut State) {
        self.iter().for_each(|(key, value)| state[key] = value);
    }
}

/// An operation with its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Op {
    /// What these keys held just before.
    pub(crate) found: Cells,
    /// Not all of these keys held this just before (if there are any).
    pub(crate) unlike: Cells,
    /// What these keys hold just after.
    pub(crate) written: Cells,
}

impl Op {
    /// What of the operation is about one key, as far as it can be told.
    pub(crate) fn only(&self, key: usize) -> Self {
        let only = |cells: Cells| cells.get(key).map_or(Cells::default(), |value| Cells::of(key, value));
        // Of several conditions nobody knows which did not hold.
        let unlike = if self.unlike.iter().count() == 1 { only(self.unlike) } else { Cells::default() };
        Self { found: only(self.found), unlike, written: only(self.written) }
    }

    /// Whether it reads one key and does nothing else.
    pub(crate) fn is_get(&self) -> bool {
        self.written.is_empty() && self.unlike.is_empty() && self.found.iter().count() == 1
    }

    /// The operation whose conditions did not hold, so that it wrote nothing.
    pub(crate) fn refuted(self) -> Self {
        Self { found: self.unlike, unlike: self.found, written: Cells::default() }
    }
}

/// The keys of a group, as an object.
pub(crate) struct Group;

impl Object for Group {
    type State = State;
    type Op = Op;
    /// That a key has a value. Every value is written by one operation only.
    type Fact = (usize, u64);

    fn step(state: &State, op: &Op) -> Option<State> {
        let is_possible = op.found.hold_in(state) && (op.unlike.is_empty() || !op.unlike.hold_in(state));
        is_possible.then(|| {
            let mut after = *state;
            op.written.write_to(&mut after);
            after
        })
    }

    fn is_read(op: &Op) -> bool {
        op.written.is_empty()
    }

    fn needs(op: &Op) -> impl Iterator<Item = (usize, u64)> {
        op.found.iter().filter(|(_, value)| *value != ABSENT)
    }

    fn ends(state: &State, op: &Op) -> impl Iterator<Item = (usize, u64)> {
        op.written.iter().map(|(key, _)| (key, state[key])).filter(|(_, value)| *value != ABSENT)
    }
}

/// A value's number, as failing tests show it.
pub(crate) struct ShowValue(pub(crate) u64);

impl fmt::Display for ShowValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ABSENT => write!(f, "none"),
            STRANGER => write!(f, "A VALUE NOBODY WROTE"),
            id => write!(f, "{id:x}"),
        }
    }
}

impl fmt::Display for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (key, value)) in self.iter().enumerate() {
            write!(f, "{}k{key}={}", if place > 0 { " " } else { "" }, ShowValue(value))?;
        }
        Ok(())
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, cells) in [("found", self.found), ("not", self.unlike), ("wrote", self.written)] {
            if !cells.is_empty() {
                write!(f, "{word} [{cells}] ")?;
            }
        }
        Ok(())
    }
}
