//! What was done to a simulated file system, in order: the newest operations in full, all of them as a hash.

use std::{collections::VecDeque, fmt, io, path::Path, sync::Arc};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::fault::OpKind;

/// How many operations are kept in full.
const KEPT: usize = 16 * 1024;

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEntry {
    /// Which operation it was, counted from 0.
    pub number: u64,
    /// What kind of operation.
    pub kind: OpKind,
    /// The path it was about; for an open file the path that it was opened by.
    pub path: Arc<Path>,
    /// A rename's target.
    pub to: Option<Arc<Path>>,
    /// Where in the file.
    pub offset: u64,
    /// How many bytes were asked for: a buffer's length, or the new length of the file.
    pub bytes: u64,
    /// How many bytes came or went (0 where that means nothing), or the error.
    pub outcome: Result<u64, io::ErrorKind>,
}

impl fmt::Display for TraceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.number, self.kind, self.path.display())?;
        if let Some(to) = &self.to {
            write!(f, " to {}", to.display())?;
        }
        write!(f, " {}+{}: ", self.offset, self.bytes)?;
        match self.outcome {
            Ok(bytes) => write!(f, "{bytes}"),
            Err(kind) => write!(f, "{kind}"),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Trace {
    entries: VecDeque<TraceEntry>,
    hash: u64,
}

impl Trace {
    /// Takes an operation down. `data` is a hash of what was written.
    pub(super) fn record(&mut self, entry: TraceEntry, data: u64) {
        let path_hash = |path: &Path| xxh3_64(path.as_os_str().as_encoded_bytes());
        let outcome = match entry.outcome {
            Ok(bytes) => bytes,
            Err(kind) => xxh3_64(kind.to_string().as_bytes()),
        };
        let words = [
            entry.kind as u64,
            path_hash(&entry.path),
            entry.to.as_deref().map_or(0, path_hash),
            entry.offset,
            entry.bytes,
            outcome,
            data,
        ];
        let mut bytes = [0; 7 * 8];
        for (target, word) in bytes.chunks_exact_mut(8).zip(words) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        self.hash = xxh3_64_with_seed(&bytes, self.hash);
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn entries(&self) -> Vec<TraceEntry> {
        self.entries.iter().cloned().collect()
    }
}
