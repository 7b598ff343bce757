//! The one error type of the crate. Every failure has a kind that tells the caller what to do next,
//! a message that says what happened, and its source where there is one.

use std::{error::Error as StdError, fmt, io, path::Path, path::PathBuf, sync::Arc};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is, and so what the caller should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The node is at a limit or a shard is being re-opened. Nothing was written: try again later.
    Busy,
    /// The call, the settings or the data directory do not fit. Fix what the message names; trying again is of no use.
    Invalid,
    /// A condition did not hold. Nothing was written.
    Conflict,
    /// The disk is full. Nothing was written that anyone sees; reads go on, and writes work again once there is
    /// space. On a file system that reserves no space for what is written over, the write may come back if the
    /// process ends before the shard's next one.
    NoSpace,
    /// Bytes on disk are not what was written. The message names file, offset, expected and found.
    Corruption,
    /// A sync failed, or the shard panicked and does not come back by itself: it refuses writes until it is re-opened
    /// (`reopen_shards`).
    Poisoned,
    /// The node is closed.
    Closed,
    /// The operating system refused an operation. A write that fails so has an unknown outcome.
    Io,
    /// A bug in dbex or a panic in a shard. A write that fails so has an unknown outcome.
    Internal,
}

impl ErrorKind {
    /// The kind's name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::NoSpace => "no space",
            Self::Corruption => "corruption",
            Self::Poisoned => "poisoned",
            Self::Closed => "closed",
            Self::Io => "i/o",
            Self::Internal => "internal",
        }
    }
}

/// A failure: its [kind](Error::kind), a message, and a source. Cheap to clone, because one failed
/// turn answers many callers.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// An error of `kind` with a message in lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { inner: Arc::new(Inner { kind, message: message.into(), source: None }) }
    }

    /// An error of `kind` caused by `source`.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { inner: Arc::new(Inner { kind, message: message.into(), source: Some(source.into()) }) }
    }

    /// A call, a setting or a directory that does not fit.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A limit is reached; try again.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Busy, message)
    }

    /// A condition did not hold.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// The node is closed.
    pub fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the node is closed")
    }

    /// A bug or a panic.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A failed operation of the file system: `verb` is what was tried ("write", "sync", "open"). A full
    /// disk becomes `NoSpace`, everything else `Io`.
    pub fn io(verb: &str, path: &Path, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Self::with_source(kind, format!("cannot {verb} {}", path.display()), source)
    }

    /// Bytes on disk that are not what was written.
    pub fn corruption(
        path: &Path,
        offset: u64,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::with_source(
            ErrorKind::Corruption,
            format!("{} is damaged at offset {offset}: expected {expected}, found {found}", path.display()),
            Corruption {
                path: path.to_owned(),
                offset,
                expected: expected.to_string(),
                found: found.to_string(),
            },
        )
    }

    /// The same failure told to another caller in words of its own, with this one as its source.
    #[must_use]
    pub fn context(&self, message: impl Into<String>) -> Self {
        Self::with_source(self.kind(), message, self.clone())
    }

    /// Where damage was found, if this is `Corruption`.
    pub fn corruption_at(&self) -> Option<&Corruption> {
        let mut source = StdError::source(self);
        while let Some(error) = source {
            if let Some(found) = error.downcast_ref::<Corruption>() {
                return Some(found);
            }
            source = error.source();
        }
        None
    }
}

/// Where damage was found, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The damaged file.
    pub path: PathBuf,
    /// The byte offset of the damage in the file.
    pub offset: u64,
    /// What should stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

impl StdError for Corruption {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        let mut source = StdError::source(self);
        while let Some(error) = source {
            // A corruption's own words are in the message already, and an `Error` prints its whole chain.
            if !error.is::<Corruption>() {
                write!(f, ": {error}")?;
            }
            if error.is::<Self>() {
                break;
            }
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.inner.kind.name())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_space_and_says_where() {
        let error = Error::io("write", Path::new("/x"), io::ErrorKind::StorageFull.into());
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().starts_with("cannot write /x: "), "{error}");
    }

    #[test]
    fn corruption_is_found_through_context() {
        let error = Error::corruption(Path::new("a.wal"), 12, "magic", "0").context("shard 3 does not open");
        let found = error.corruption_at().unwrap();
        assert_eq!((found.offset, found.path.as_path()), (12, Path::new("a.wal")));
        assert_eq!(
            error.to_string(),
            "shard 3 does not open: a.wal is damaged at offset 12: expected magic, found 0"
        );
    }
}
