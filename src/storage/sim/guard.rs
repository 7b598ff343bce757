//! What the simulated file system itself asserts about its user: mistakes that a test of results might
//! miss, because the crash that they lead to is rare.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::volume::Volume;

/// The durable state of a simulated file system: what every power loss would leave.
pub struct DurableFiles<'a>(pub(super) &'a Volume);

impl DurableFiles<'_> {
    /// A file's durable bytes, or `None` if its name is not durable.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.0.durable_file(path)
    }
}

impl fmt::Debug for DurableFiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DurableFiles")
    }
}

/// Says whether the durable state still needs the file at a path.
pub type IsNeeded = dyn Fn(&DurableFiles<'_>, &Path) -> bool + Send + Sync;

/// The rules in force, and who broke them.
#[derive(Clone, Default)]
pub(super) struct Guard {
    pub(super) root: Option<PathBuf>,
    pub(super) write_once_suffix: Option<String>,
    pub(super) is_needed: Option<Arc<IsNeeded>>,
    violations: Vec<String>,
}

impl Guard {
    /// The same rules with a clean record.
    pub(super) fn renewed(&self) -> Self {
        Self { violations: vec![], ..self.clone() }
    }

    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(super) fn check_root(&mut self, path: &Path) -> io::Result<()> {
        match &self.root {
            Some(root) if !path.starts_with(root) => self.refuse(path, "lies outside the root"),
            _ => Ok(()),
        }
    }

    pub(super) fn check_write(&mut self, path: &Path, is_finished: bool) -> io::Result<()> {
        match (&self.write_once_suffix, path.to_str()) {
            (Some(suffix), Some(name)) if is_finished && name.ends_with(suffix.as_str()) => {
                self.refuse(path, "was finished and is written to again")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_removal(&mut self, volume: &Volume, path: &Path) -> io::Result<()> {
        match self.is_needed.clone() {
            Some(is_needed) if is_needed(&DurableFiles(volume), path) => {
                self.refuse(path, "is removed while the durable state needs it")
            }
            _ => Ok(()),
        }
    }

    fn refuse(&mut self, path: &Path, what: &str) -> io::Result<()> {
        let message = format!("{} {what}", path.display());
        self.violations.push(message.clone());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("violations", &self.violations).finish_non_exhaustive()
    }
}
