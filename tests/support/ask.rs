//! What a client asks of a node, whatever the face: kinds of operations on the keys of one group, the choice among
//! them, and the bytes of keys and values.

use dbex::ErrorKind;

use crate::{
    cells::{ABSENT, Cells, KEYS, Op, STRANGER, State},
    random::{Random, derive},
    recording::Outcome,
};

/// An operation on the keys of a group. What it writes, if it writes, is the value of its own number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Get(usize),
    Put {
        key: usize,
        synced: bool,
    },
    Delete(usize),
    /// Sets a key that is there.
    PutIfPresent(usize),
    /// Sets a key, and returns what it held.
    Swap(usize),
    /// Removes a key, and returns what it held.
    Take(usize),
    CompareAndSwap {
        key: usize,
        expected: u64,
    },
    CompareAndDelete {
        key: usize,
        expected: u64,
    },
    /// A batch: puts what `puts` says of each key, or removes the key, if all conditions hold.
    Write {
        conditions: Cells,
        puts: [Option<bool>; KEYS],
        synced: bool,
    },
    MultiGet([bool; KEYS]),
    /// All keys of the group, by a scan.
    Scan,
}

/// Which of them a face has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaceKind {
    Handle,
    Messages,
    Resp,
}

/// What an operation that was answered has found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// False: a condition did not hold, and nothing was written.
    pub(crate) is_done: bool,
    pub(crate) cells: Cells,
    /// Of a delete that tells: whether the key was there.
    pub(crate) was_there: Option<bool>,
}

impl Found {
    pub(crate) fn done() -> Self {
        Self { is_done: true, ..Self::default() }
    }

    pub(crate) fn done_if(is_done: bool) -> Self {
        Self { is_done, ..Self::default() }
    }

    pub(crate) fn of(key: usize, value: Option<&[u8]>) -> Self {
        Self { cells: Cells::of(key, number_of(value)), ..Self::done() }
    }

    /// Of all keys that were asked for, in their order.
    pub(crate) fn all<'a>(keys: [bool; KEYS], values: impl IntoIterator<Item = Option<&'a [u8]>>) -> Self {
        let asked = (0..KEYS).filter(|key| keys[*key]);
        let cells =
            asked.zip(values).fold(Cells::default(), |cells, (key, value)| cells.and(key, number_of(value)));
        assert_eq!(cells.iter().count(), keys.iter().filter(|asked| **asked).count(), "a value for each key");
        Self { cells, ..Self::done() }
    }
}

/// Why an operation was not answered.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) is_refused: bool,
    pub(crate) text: String,
}

impl From<dbex::Error> for Failure {
    fn from(error: dbex::Error) -> Self {
        // Of these the docs say that nothing was written.
        let is_refused = matches!(error.kind(), ErrorKind::Busy | ErrorKind::Invalid | ErrorKind::Closed);
        Self { is_refused, text: format!("{error:?}") }
    }
}

impl Ask {
    /// Chooses one that a face has, for a client that saw `last` in the group.
    pub(crate) fn choose(random: &mut Random, kind: FaceKind, last: &State) -> Self {
        let key = random.below(KEYS);
        // A synced write waits for the disk, and the writes of its shard with it.
        let synced = random.permille(3);
        let expected = if random.permille(900) { last[key] } else { *random.pick(last) };
        match random.below(1000) {
            0..300 => Self::Get(key),
            300..470 => Self::Put { key, synced },
            470..520 => Self::Delete(key),
            520..540 if kind == FaceKind::Resp => Self::PutIfPresent(key),
            520..590 if kind != FaceKind::Messages => Self::Swap(key),
            590..610 if kind != FaceKind::Messages => Self::Take(key),
            // Redis has SETNX, and nothing for other expectations.
            520..750 if kind == FaceKind::Resp => Self::CompareAndSwap { key, expected: ABSENT },
            520..750 if kind != FaceKind::Resp => Self::CompareAndSwap { key, expected },
            750..770 if kind != FaceKind::Resp => Self::CompareAndDelete { key, expected },
            750..880 => Self::batch(random, kind, last, synced),
            880..890 if kind != FaceKind::Resp => Self::Scan,
            _ => Self::MultiGet(Self::some_keys(random, key)),
        }
    }

    fn some_keys(random: &mut Random, one: usize) -> [bool; KEYS] {
        std::array::from_fn(|key| key == one || random.permille(600))
    }

    fn batch(random: &mut Random, kind: FaceKind, last: &State, synced: bool) -> Self {
        let one = random.below(KEYS);
        let mut conditions = Cells::default();
        // MSET has no conditions, and removes nothing.
        if kind != FaceKind::Resp && random.permille(500) {
            for key in (0..KEYS).filter(|_| random.permille(400)) {
                conditions = conditions.and(key, last[key]);
            }
        }
        let keys = Self::some_keys(random, one);
        let puts = keys.map(|is_in| is_in.then(|| kind == FaceKind::Resp || random.permille(800)));
        Self::Write { conditions, puts, synced }
    }

    /// The operation as it is if it takes effect, as far as that is known before; `id` is the number of its value.
    pub(crate) fn intent(&self, id: u64) -> Op {
        let (mut found, mut unlike) = (Cells::default(), Cells::default());
        let written = match *self {
            Self::Get(_) | Self::MultiGet(_) | Self::Scan => Cells::default(),
            Self::Put { key, .. } | Self::Swap(key) => Cells::of(key, id),
            Self::Delete(key) | Self::Take(key) => Cells::of(key, ABSENT),
            Self::PutIfPresent(key) => {
                unlike = Cells::of(key, ABSENT);
                Cells::of(key, id)
            }
            Self::CompareAndSwap { key, expected } => {
                found = Cells::of(key, expected);
                Cells::of(key, id)
            }
            Self::CompareAndDelete { key, expected } => {
                found = Cells::of(key, expected);
                Cells::of(key, ABSENT)
            }
            Self::Write { conditions, puts, .. } => {
                found = conditions;
                let puts = puts.iter().enumerate().filter_map(|(key, put)| Some((key, (*put)?)));
                puts.fold(Cells::default(), |cells, (key, put)| cells.and(key, if put { id } else { ABSENT }))
            }
        };
        Op { found, unlike, written }
    }

    /// How an operation with this intent returned.
    pub(crate) fn outcome(intent: Op, answer: &Result<Found, Failure>) -> Outcome {
        let found = match answer {
            Ok(found) => found,
            Err(failure) if failure.is_refused => return Outcome::Refused,
            Err(_) => return Outcome::Unknown,
        };
        if !found.is_done {
            assert!(!intent.found.is_empty() || !intent.unlike.is_empty(), "a conflict without a condition");
            return Outcome::TookEffect(intent.refuted());
        }
        let mut op = intent;
        op.found = found.cells.iter().fold(op.found, |cells, (key, value)| cells.and(key, value));
        if let (Some(was_there), Some((key, _))) = (found.was_there, intent.written.iter().next()) {
            *(if was_there { &mut op.unlike } else { &mut op.found }) = Cells::of(key, ABSENT);
        }
        Outcome::TookEffect(op)
    }
}

pub(crate) fn prefix(group: u32) -> Vec<u8> {
    format!("group{group:05}/").into_bytes()
}

pub(crate) fn key_bytes(group: u32, key: usize) -> Vec<u8> {
    format!("group{group:05}/{key}").into_bytes()
}

/// The keys of a group that are in it.
pub(crate) fn keys_bytes(group: u32, keys: [bool; KEYS]) -> Vec<Vec<u8>> {
    (0..KEYS).filter(|key| keys[*key]).map(|key| key_bytes(group, key)).collect()
}

/// The value of a number: most are small, some are written apart from their batch, and compressed in the log.
pub(crate) fn value_bytes(number: u64) -> Vec<u8> {
    let mut random = Random::new(derive(number, 0));
    let bytes = match random.below(100) {
        0 => random.between(4_000, 9_000),
        1..15 => random.between(100, 600),
        _ => random.between(20, 100),
    };
    let mut value = format!("{number:x}.").into_bytes();
    while value.len() < bytes {
        // Half of it compresses well, and half not at all.
        value.extend(random.next().to_le_bytes());
        value.extend(b"........");
    }
    value
}

/// The number of a value that was found, which must be the whole value and nothing else.
pub(crate) fn number_of(value: Option<&[u8]>) -> u64 {
    let Some(value) = value else { return ABSENT };
    let digits = value.split(|byte| *byte == b'.').next().and_then(|digits| std::str::from_utf8(digits).ok());
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.filter(|number| value_bytes(*number) == value).unwrap_or(STRANGER)
}

/// The value that a key must have, as bytes; `None`: it must be absent.
pub(crate) fn expected_bytes(number: u64) -> Option<Vec<u8>> {
    (number != ABSENT).then(|| value_bytes(number))
}
