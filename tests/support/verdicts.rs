//! What a recorded history is checked for, group by group, and what a failing test says of it.
//!
//! A node promises that what happens to each key is linearizable, and that what is about several keys (batches with their
//! conditions, reads of several keys, scans) happens at one moment. So a group's history is checked in parts: each key
//! by itself, with all that was read or written of it; and all keys as one object, without gets. A get takes the newest
//! version that it finds, and waits for no turn on other shards: two gets, one after the other, may see a batch by
//! halves, or two writes in another order than a snapshot, which goes by sequence numbers.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::Mutex,
    thread,
};

use crate::{
    cells::{Group, KEYS, Op, ShowValue, State},
    load::face_of,
    recording::parts_of,
    wgl::{Entry, Stuck, check, explains},
};

pub(crate) type History = Vec<Entry<Op>>;

const THREADS: usize = 2;

/// How a group was explained.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Explained {
    pub(crate) configurations: usize,
    /// Of the part that needed most.
    pub(crate) most_configurations: usize,
    /// Writes in flight at a kill that never happened, of those of the group.
    pub(crate) dropped: usize,
}

/// A part of a group's history that is one object.
#[derive(Clone, Copy)]
enum Part {
    Key(usize),
    AllKeys,
}

impl Part {
    fn all() -> impl Iterator<Item = Self> {
        (0..KEYS).map(Self::Key).chain([Self::AllKeys])
    }

    fn of(self, history: &[Entry<Op>]) -> History {
        let about = |entry: &Entry<Op>| match self {
            Self::Key(key) => Some(entry.op.only(key)).filter(|op| *op != Op::default()),
            Self::AllKeys => Some(entry.op).filter(|op| !op.is_get()),
        };
        history.iter().filter_map(|entry| Some(Entry { op: about(entry)?, ..entry.clone() })).collect()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "key {key} by itself"),
            Self::AllKeys => write!(f, "all keys together"),
        }
    }
}

/// Checks the history of a group.
///
/// # Errors
/// A word about the first part that nothing explains.
pub(crate) fn check_group(group: u32, history: &[Entry<Op>]) -> Result<Explained, String> {
    let mut explained = Explained::default();
    for part in Part::all() {
        let history = part.of(history);
        let found = check::<Group>(&history, State::default())
            .map_err(|stuck| format!("group {group}, {part}: {}", show_stuck(&history, &stuck)))?;
        assert!(
            explains::<Group>(&history, State::default(), &found.order),
            "group {group}, {part}: a wrong order"
        );
        explained.configurations += found.configurations;
        explained.most_configurations = explained.most_configurations.max(found.configurations);
        explained.dropped = found.dropped;
    }
    Ok(explained)
}

/// The results of all groups, in their order, by threads that take one after the other.
pub(crate) fn for_each_group<T: Send>(
    groups: &BTreeMap<u32, History>,
    result: impl Fn(u32, &History) -> T + Sync,
) -> Vec<T> {
    let left = Mutex::new(groups.iter());
    let results = Mutex::new(BTreeMap::new());
    let next = || left.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((group, history)) = next() {
                    let found = result(*group, history);
                    results.lock().unwrap().insert(*group, found);
                }
            });
        }
    });
    results.into_inner().unwrap().into_values().collect()
}

/// An operation, as failing tests show it.
pub(crate) fn show_entry(entry: &Entry<Op>) -> String {
    let (life, client, number) = parts_of(entry.id);
    let returned = if entry.is_optional { "in flight, over at" } else { "to" };
    format!(
        "{:x} (life {life}, client {client} by {:?}, number {number}) {} {returned} {}: {}",
        entry.id,
        face_of(client),
        entry.called,
        entry.returned,
        entry.op
    )
}

/// What happened around the place where no order explains a history any more.
fn show_stuck(history: &History, stuck: &Stuck<State>) -> String {
    let state: Vec<_> = stuck.state.iter().map(|value| ShowValue(*value).to_string()).collect();
    let verdict = if stuck.is_undecided { "given up, probably not linearizable" } else { "not linearizable" };
    let mut text = format!("{verdict} ({} configurations looked at).", stuck.configurations);
    let mut list = |title: &str, places: &[usize]| {
        if !places.is_empty() {
            let _ = write!(text, "\n{title}");
            for place in places {
                let _ = write!(text, "\n  {}", show_entry(&history[*place]));
            }
        }
    };
    list("The longest order that fits ends with", &stuck.order);
    let title =
        format!("The keys hold {} then, and this returned without having had its effect:", state.join(", "));
    list(&title, &[stuck.blocked]);
    list("It cannot take the place of what these have found:", &stuck.needing);
    list("These had been called, and had not had theirs either:", &stuck.waiting);
    text
}
