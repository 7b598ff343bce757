//! The load: which clients there are, which groups of keys each life of the host has, and a client's side of it, which
//! chooses operations and records them.

use std::{collections::BTreeMap, ops::Range, path::Path};

use crate::{
    ask::{Ask, FaceKind, Failure, Found},
    cells::{ABSENT, KEYS, Op, State},
    random::{Random, derive},
    recording::{Outcome, Recorder, operation_id},
    report::say,
};

pub(crate) const CLIENTS: usize = 24;
/// Groups that are written at a time, and how many of them are others in the next life.
const ACTIVE: u32 = 6;
const ROTATED: u32 = 2;
/// So many of 1,000 operations read a group that may be no longer written.
const VISITS: usize = 15;

/// The face of a client. A third of them each; those of RESP are not in the host's process.
pub(crate) fn face_of(client: usize) -> FaceKind {
    [FaceKind::Handle, FaceKind::Messages, FaceKind::Resp][client % 3]
}

pub(crate) fn clients_of(is_wanted: impl Fn(FaceKind) -> bool) -> Vec<usize> {
    (0..CLIENTS).filter(|client| is_wanted(face_of(*client))).collect()
}

/// The groups that are written in a life of the host. Those before them were.
pub(crate) fn active(life: usize) -> Range<u32> {
    let first = u32::try_from(life).unwrap() * ROTATED;
    first..first + ACTIVE
}

/// An operation that a client has called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) group: u32,
    pub(crate) ask: Ask,
    intent: Op,
}

/// A client in one life of the host.
pub(crate) struct Client {
    life: usize,
    number: usize,
    random: Random,
    recorder: Recorder,
    operations: u64,
    /// What it saw last.
    last: BTreeMap<u32, State>,
    /// What it reads before anything else: all clients together look at every group there ever was.
    unread: Vec<u32>,
}

impl Client {
    pub(crate) fn new(histories: &Path, seed: u64, life: usize, number: usize) -> Self {
        let place = u64::try_from(life * CLIENTS + number).unwrap();
        let everything = 0..active(life).end;
        // Another client each time: so that groups are seen through all faces.
        let is_own = |group: &u32| (usize::try_from(*group).unwrap() + life) % CLIENTS == number;
        Self {
            life,
            number,
            random: Random::new(derive(seed, place)),
            recorder: Recorder::create(histories, life, number),
            operations: 0,
            last: BTreeMap::new(),
            unread: everything.filter(is_own).collect(),
        }
    }

    /// Whether it has seen its share of what former lives left.
    pub(crate) fn has_looked(&self) -> bool {
        self.unread.is_empty()
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Chooses an operation and records that it is called, which is to happen next.
    pub(crate) fn call(&mut self) -> Asked {
        let (group, ask) = self.choose();
        self.operations += 1;
        let id = operation_id(self.life, self.number, self.operations);
        let intent = ask.intent(id);
        self.recorder.called(id, group, &intent);
        Asked { id, group, ask, intent }
    }

    /// Records how it returned.
    pub(crate) fn returned(&mut self, asked: &Asked, answer: &Result<Found, Failure>) {
        let outcome = Ask::outcome(asked.intent, answer);
        self.recorder.returned(asked.id, &outcome);
        match outcome {
            Outcome::TookEffect(op) => {
                let state = self.last.entry(asked.group).or_insert([ABSENT; KEYS]);
                op.found.write_to(state);
                op.written.write_to(state);
            }
            Outcome::Refused | Outcome::Unknown => {}
        }
        if let (Outcome::Unknown, Err(failure)) = (outcome, answer) {
            say(format_args!("{:x} has an unknown outcome: {}", asked.id, failure.text));
        }
    }

    fn choose(&mut self) -> (u32, Ask) {
        let active = active(self.life);
        if let Some(group) = self.unread.pop() {
            return (group, Ask::MultiGet([true; KEYS]));
        }
        if self.random.permille(VISITS) {
            let group = u32::try_from(self.random.below(usize::try_from(active.end).unwrap())).unwrap();
            return (group, Ask::Get(self.random.below(KEYS)));
        }
        let count = active.len();
        // Some groups are more in demand than others.
        let place = self.random.below(count).min(self.random.below(count));
        let group = active.start + u32::try_from(place).unwrap();
        let last = self.last.entry(group).or_insert([ABSENT; KEYS]);
        (group, Ask::choose(&mut self.random, face_of(self.number), last))
    }
}
