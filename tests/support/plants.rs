//! Anomalies that are planted in real histories, for the checker to find.

use crate::{
    cells::{ABSENT, Cells, Op},
    random::Random,
    verdicts::History,
    wgl::Entry,
};

/// How often an operation is looked for that an anomaly can be planted in.
const TRIES: usize = 200;

/// A history with an anomaly in it, and where.
pub(crate) struct Planted {
    pub(crate) history: History,
    pub(crate) place: usize,
}

/// A kind of anomaly: plants one at random, if there is a place for it.
pub(crate) type Plant = fn(&History, &mut Random) -> Option<Planted>;

fn writes(history: &History, key: usize) -> impl Iterator<Item = &Entry<Op>> {
    history.iter().filter(move |entry| !entry.is_optional && entry.op.written.get(key).is_some())
}

/// The last write of a key that had returned at a time.
fn last_returned(history: &History, key: usize, before: u64) -> Option<&Entry<Op>> {
    writes(history, key).filter(|write| write.returned < before).max_by_key(|write| write.called)
}

/// The value of a key that had been overwritten when `called` came: its write returned before one was called which had
/// returned itself by then. Only values that are there are told from each other by their numbers.
fn overwritten(history: &History, key: usize, called: u64) -> Option<u64> {
    let replacing = last_returned(history, key, called)?;
    let old = last_returned(history, key, replacing.called)?;
    old.op.written.get(key).filter(|value| *value != ABSENT)
}

fn pick_some<'a>(
    history: &'a History,
    random: &'a mut Random,
    is_fit: impl Fn(&Entry<Op>) -> bool,
) -> impl Iterator<Item = usize> + 'a {
    let fit = history.iter().enumerate().filter(|(_, entry)| is_fit(entry));
    let fit: Vec<_> = fit.map(|(place, _)| place).collect();
    let tries = if fit.is_empty() { 0 } else { TRIES };
    (0..tries).map(move |_| *random.pick(&fit))
}

fn with_found(history: &History, place: usize, found: Cells) -> Planted {
    let mut history = history.clone();
    history[place].op.found = found;
    Planted { history, place }
}

/// A get returns a value of its key that had been overwritten before it was called.
pub(crate) fn stale_get(history: &History, random: &mut Random) -> Option<Planted> {
    pick_some(history, random, |entry| entry.op.is_get()).find_map(|place| {
        let get = &history[place];
        let (key, _) = get.op.found.iter().next()?;
        let old = overwritten(history, key, get.called)?;
        Some(with_found(history, place, Cells::of(key, old)))
    })
}

/// A read of several keys finds of a batch what it wrote to one key, and of another what was there before, while the batch
/// is under way: no key by itself shows it.
pub(crate) fn half_a_batch(history: &History, random: &mut Random) -> Option<Planted> {
    let is_read = |entry: &Entry<Op>| {
        entry.op.written.is_empty() && entry.op.unlike.is_empty() && entry.op.found.iter().count() > 1
    };
    pick_some(history, random, is_read).find_map(|place| {
        let read = &history[place];
        let (key, value) = read.op.found.iter().find(|(_, value)| *value != ABSENT)?;
        let batch = writes(history, key).find(|write| write.op.written.get(key) == Some(value))?;
        let found = |key| read.op.found.get(key) == Some(value);
        let (other, _) = read.op.found.iter().find(|(other, _)| *other != key && found(*other))?;
        let old = last_returned(history, other, batch.called)?.op.written.get(other)?;
        let is_hidden = batch.returned >= read.called && old != ABSENT;
        is_hidden.then(|| with_found(history, place, read.op.found.and(other, old)))
    })
}
