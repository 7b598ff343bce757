//! Histories in files, one a client and life of the host, which outlive the processes that write them: an operation is
//! written down before it is called, and again when it has returned. What was written by `write` survives a SIGKILL.
//!
//! ```text
//! record  length of what follows (1), kind (1), id (8), time (8), then
//!         called: group (4), op        as it is if it takes effect
//!         took effect: op              with what was found
//!         refused, unknown: nothing
//! op      found, unlike, written: each a mask of keys (1) and the values' numbers (8 each)
//! ids     life of the host (16 bits), client (8), number (40)
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{
    cells::{Cells, KEYS, Op},
    wgl::Entry,
};

const CALLED: u8 = 1;
const TOOK_EFFECT: u8 = 2;
const REFUSED: u8 = 3;
const UNKNOWN: u8 = 4;

/// Nanoseconds of a clock that all processes of the machine share, and that never goes backwards.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

pub(crate) fn operation_id(life: usize, client: usize, number: u64) -> u64 {
    assert!(life < 1 << 16 && client < 1 << 8 && number < 1 << 40, "ids are used up");
    u64::try_from((life << 8) | client).unwrap() << 40 | number
}

/// The life of the host, the client, and the number of the operation.
pub(crate) fn parts_of(id: u64) -> (u64, usize, u64) {
    (id >> 48, usize::try_from(id >> 40 & 0xFF).unwrap(), id & ((1 << 40) - 1))
}

/// How an operation returned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    TookEffect(Op),
    /// It is certain that nothing was written.
    Refused,
    /// It may have happened, or may happen yet.
    Unknown,
}

/// Writes the history of one client.
pub(crate) struct Recorder {
    file: File,
    buffer: Vec<u8>,
}

impl Recorder {
    pub(crate) fn create(dir: &Path, life: usize, client: usize) -> Self {
        let path = dir.join(format!("life{life:04}-client{client:03}"));
        Self { file: File::create_new(path).unwrap(), buffer: vec![] }
    }

    /// To be called before the operation is.
    pub(crate) fn called(&mut self, id: u64, group: u32, op: &Op) {
        self.begin(CALLED, id);
        self.buffer.extend(group.to_le_bytes());
        self.put(op);
        self.end();
    }

    /// To be called when it has returned.
    pub(crate) fn returned(&mut self, id: u64, outcome: &Outcome) {
        match outcome {
            Outcome::TookEffect(op) => {
                self.begin(TOOK_EFFECT, id);
                self.put(op);
            }
            Outcome::Refused => self.begin(REFUSED, id),
            Outcome::Unknown => self.begin(UNKNOWN, id),
        }
        self.end();
    }

    fn begin(&mut self, kind: u8, id: u64) {
        self.buffer.clear();
        self.buffer.extend([0, kind]);
        self.buffer.extend(id.to_le_bytes());
        self.buffer.extend(now().to_le_bytes());
    }

    fn put(&mut self, op: &Op) {
        for cells in [op.found, op.unlike, op.written] {
            self.buffer.push(cells.iter().fold(0, |mask, (key, _)| mask | 1 << key));
            self.buffer.extend(cells.iter().flat_map(|(_, value)| value.to_le_bytes()));
        }
    }

    fn end(&mut self) {
        self.buffer[0] = u8::try_from(self.buffer.len() - 1).unwrap();
        self.file.write_all(&self.buffer).unwrap();
    }
}

/// Notes when a life of the host had ended.
pub(crate) fn note_death(dir: &Path, life: usize, at: u64) {
    fs::write(dir.join(format!("death{life:04}")), at.to_string()).unwrap();
}

/// What was recorded of a group, and what the recording says of itself.
#[derive(Default)]
pub(crate) struct Recorded {
    pub(crate) groups: BTreeMap<u32, Vec<Entry<Op>>>,
    /// How many operations returned, by client.
    pub(crate) returned: BTreeMap<usize, usize>,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    /// Writes that nobody saw return before their process died.
    pub(crate) in_flight: usize,
}

impl Recorded {
    /// Reads all that was recorded in a directory.
    pub(crate) fn read(dir: &Path) -> Self {
        let mut recorded = Self::default();
        let paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        for path in paths {
            let name = path.file_name().unwrap().to_str().unwrap();
            if let Some(life) = name.strip_prefix("life").and_then(|name| name.get(..4)) {
                let death = fs::read_to_string(dir.join(format!("death{life}"))).unwrap();
                recorded.add(&fs::read(&path).unwrap(), death.parse().unwrap());
            }
        }
        recorded
    }

    fn add(&mut self, bytes: &[u8], death: u64) {
        let mut open = BTreeMap::new();
        let mut reader = Reader { bytes };
        // What the kill cut off is as if it had not been written: the operation had not begun, or nobody saw it return.
        while let Ok(mut record) = reader.record() {
            let record = &mut record;
            let (kind, id, time) =
                (record.byte().unwrap(), record.number().unwrap(), record.number().unwrap());
            if kind == CALLED {
                open.insert(id, (time, record.group().unwrap(), record.op().unwrap()));
                continue;
            }
            let (called, group, op) = open.remove(&id).expect("what returns was called");
            *self.returned.entry(parts_of(id).1).or_default() += 1;
            match kind {
                TOOK_EFFECT => self.push(group, id, (called, time), record.op().unwrap()),
                REFUSED => self.refused += 1,
                UNKNOWN => {
                    self.unknown += 1;
                    self.push_in_flight(group, id, (called, death), op);
                }
                other => panic!("a record of kind {other}"),
            }
        }
        for (id, (called, group, op)) in open {
            self.push_in_flight(group, id, (called, death), op);
        }
    }

    fn push(&mut self, group: u32, id: u64, (called, returned): (u64, u64), op: Op) {
        let entry = Entry { id, called, returned, is_optional: false, op };
        self.groups.entry(group).or_default().push(entry);
    }

    fn push_in_flight(&mut self, group: u32, id: u64, (called, death): (u64, u64), op: Op) {
        // A read that did not return says nothing, and neither does what was sent to a process that was dead.
        if op.written != Cells::default() && called < death {
            let entry = Entry { id, called, returned: death, is_optional: true, op };
            self.groups.entry(group).or_default().push(entry);
            self.in_flight += 1;
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn record(&mut self) -> io::Result<Self> {
        let length = self.byte()?;
        Ok(Self { bytes: self.take(length.into())? })
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().unwrap()))
    }

    fn group(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().unwrap()))
    }

    fn op(&mut self) -> io::Result<Op> {
        Ok(Op { found: self.cells()?, unlike: self.cells()?, written: self.cells()? })
    }

    fn cells(&mut self) -> io::Result<Cells> {
        let mask = self.byte()?;
        let mut cells = Cells::default();
        for key in (0..KEYS).filter(|key| mask & 1 << key != 0) {
            cells = cells.and(key, self.number()?);
        }
        Ok(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A put of client 1 in life 0 that returned, or was in flight, as a recording has it that was cut off after so many
    /// bytes.
    fn read_cut(bytes: usize) -> (usize, Recorded) {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path(), 0, 1);
        let (id, op) = (operation_id(0, 1, 7), Op { written: Cells::of(2, 7), ..Op::default() });
        recorder.called(id, 3, &op);
        recorder.returned(id, &Outcome::TookEffect(Op { found: Cells::of(2, 5), ..op }));
        let path = dir.path().join("life0000-client001");
        let length = fs::metadata(&path).unwrap().len();
        recorder.file.set_len(length.min(bytes as u64)).unwrap();
        note_death(dir.path(), 0, u64::MAX);
        (usize::try_from(length).unwrap(), Recorded::read(dir.path()))
    }

    #[test]
    fn what_a_kill_cut_off_had_not_begun_or_had_not_returned() {
        let (length, whole) = read_cut(usize::MAX);
        let entry = &whole.groups[&3][0];
        assert!(!entry.is_optional && entry.called <= entry.returned && entry.returned < u64::MAX);
        assert_eq!((entry.op.found, entry.op.written), (Cells::of(2, 5), Cells::of(2, 7)));
        assert_eq!((parts_of(entry.id), whole.returned[&1]), ((0, 1, 7), 1));
        let mut in_flight = 0;
        for bytes in 0..length {
            let (_, cut) = read_cut(bytes);
            let left = cut.groups.values().flatten().count();
            assert!(left <= 1 && left == cut.in_flight && cut.returned.is_empty(), "cut at {bytes}");
            assert!(
                cut.groups.values().flatten().all(|entry| entry.is_optional && entry.returned == u64::MAX)
            );
            in_flight += left;
        }
        // The first record is cut short at its own bytes only.
        assert!(in_flight > 0 && in_flight < length, "{in_flight} of {length}");
    }
}
