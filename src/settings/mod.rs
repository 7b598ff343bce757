//! Settings: `shards.toml`, the environment, the command line or a host program's code, read into checked,
//! plain data.
//!
//! ```text
//!   shards.toml ──► source.rs ──► field.rs (the table of fields) ──► loaded.rs ──► check.rs ──► Settings
//!   DBEX_… ───────►    │              └─ value.rs: one field's type            sections.rs ──┘    │
//!   builder.rs ────────┴─────────────────────────────────────────────────────────────────────────┘
//! ```

mod builder;
mod check;
mod field;
mod file;
mod loaded;
mod sections;
mod source;
mod value;

use std::{env, path::Path};

use garde::Validate;

pub use builder::SettingsBuilder;
pub use loaded::Loaded;
pub use sections::{
    CompactionSection, IoSection, LogFormat, LogLevel, LogSection, MemorySection, NodeSection, Secret,
    ServerSection,
};
#[cfg(feature = "server")]
pub(crate) use value::size_text;

use crate::{
    error::{Error, Result},
    node::options::NodeOptions,
};

/// All settings of a node and its server. [`Settings::default`] is what the `shards.toml` in the repository's
/// root says; the environment is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Validate)]
#[non_exhaustive]
pub struct Settings {
    /// `[node]`
    #[garde(dive)]
    pub node: NodeSection,
    /// `[memory]`
    #[garde(dive)]
    pub memory: MemorySection,
    /// `[io]`
    #[garde(dive)]
    pub io: IoSection,
    /// `[compaction]`
    #[garde(dive)]
    pub compaction: CompactionSection,
    /// `[server]`
    #[garde(dive)]
    pub server: ServerSection,
    /// `[log]`
    #[garde(dive)]
    pub log: LogSection,
}

impl Settings {
    /// The commented `shards.toml` with every default.
    pub const TEMPLATE: &'static str = include_str!("../../shards.toml");

    /// Reads a settings file. A field that it does not have keeps its default, and environment variables
    /// `DBEX_SECTION__FIELD` (`DBEX_NODE__DATA_DIR`) override both.
    ///
    /// # Errors
    /// `Io` when the file cannot be read. `Invalid` when something in it, or in a `DBEX_…` variable, does not
    /// fit: a line for each problem with file, line, field, what was found and what to do.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Loaded::read(Some(path.as_ref()), env::vars_os())?.check()
    }

    /// Reads the text of a settings file. The environment is not looked at.
    ///
    /// # Errors
    /// `Invalid`, as [`Settings::load`] tells it.
    pub fn from_toml(text: &str) -> Result<Self> {
        Loaded::parse(text, "shards.toml")?.check()
    }

    /// The defaults with the environment's overrides: what `dbex` runs with when it is given no file.
    ///
    /// # Errors
    /// `Invalid` when a `DBEX_…` variable does not fit.
    pub fn embedded() -> Result<Self> {
        Loaded::read(None, env::vars_os())?.check()
    }

    /// Makes settings in code, from the defaults. The environment is not looked at.
    ///
    /// ```
    /// use dbex::Settings;
    ///
    /// let settings = Settings::builder().data_dir("/tmp/d").shards(4).memtable_bytes(8 << 20).build()?;
    /// assert_eq!(settings.node.shards, 4);
    /// # Ok::<(), dbex::Error>(())
    /// ```
    pub fn builder() -> SettingsBuilder {
        SettingsBuilder::default()
    }
}

impl ServerSection {
    /// The password: the one given, or the first line of `password_file`.
    ///
    /// # Errors
    /// `Io` when the file cannot be read; `Invalid` when its first line is empty.
    pub fn read_password(&self) -> Result<Option<Secret>> {
        let Some(path) = &self.password_file else { return Ok(self.password.clone()) };
        let text = file::read_text(path, "password file")?;
        match text.lines().next() {
            Some(password) if !password.is_empty() => Ok(Some(Secret::new(password))),
            _ => Err(Error::invalid(format!(
                "the password file {} is empty: write the password in its first line",
                path.display()
            ))),
        }
    }
}

impl From<Settings> for NodeOptions {
    fn from(settings: Settings) -> Self {
        let Settings { node, memory, io, compaction, .. } = settings;
        Self {
            data_dir: node.data_dir,
            shards: node.shards,
            durability: node.durability,
            sync_interval: node.sync_interval,
            pin_cores: node.pin_cores,
            memtable_bytes: memory.memtable_bytes,
            block_cache_bytes: memory.block_cache_bytes,
            filter_bytes_max: memory.filter_bytes_max,
            queue_bytes: memory.queue_bytes,
            io_budget: io.budget,
            max_open_files: io.max_open_files,
            flush_workers: io.flush_workers,
            compaction_workers: io.compaction_workers,
            read_workers: io.read_workers,
            strategy: compaction.strategy,
            l0_trigger: compaction.l0_trigger,
            table_bytes: compaction.table_bytes,
            // Checked to be at most 1 MiB.
            block_bytes: usize::try_from(compaction.block_bytes).unwrap_or(usize::MAX),
            compression: compaction.compression,
            filter_bits_per_key: compaction.filter_bits_per_key,
            wal_compress_above: io.wal_compress_above,
        }
    }
}
