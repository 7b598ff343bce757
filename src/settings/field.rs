//! The table of all fields. Reading, overriding, checking and printing settings all go through it, so that a
//! field is known everywhere or nowhere.

use super::{
    Settings,
    value::{Found, SettingValue},
};

/// One field of `shards.toml`.
pub(super) struct Field {
    /// The section's name.
    pub(super) section: &'static str,
    /// The field's name in its section.
    pub(super) name: &'static str,
    /// The member of the section's struct, as validation reports it.
    member: &'static str,
    /// Whether the value must never be shown.
    pub(super) secret: bool,
    /// Reads a value into settings; the error says what was expected.
    pub(super) set: fn(&mut Settings, &Found) -> Result<(), String>,
    /// The value as TOML; `None` if it is unset.
    pub(super) toml: fn(&Settings) -> Option<String>,
}

macro_rules! field {
    ($section:ident.$member:ident) => {
        field!($section.$member, stringify!($member), false)
    };
    ($section:ident.$member:ident, $name:expr, $secret:literal) => {
        Field {
            section: stringify!($section),
            name: $name,
            member: stringify!($member),
            secret: $secret,
            set: |settings, found| {
                settings.$section.$member = SettingValue::parse(found)?;
                Ok(())
            },
            toml: |settings| settings.$section.$member.toml(),
        }
    };
}

/// Every field, section by section, in the order of `shards.toml`.
pub(super) static FIELDS: [Field; 33] = [
    field!(node.data_dir),
    field!(node.shards),
    field!(node.durability),
    field!(node.sync_interval, "sync_interval_ms", false),
    field!(node.pin_cores),
    field!(memory.memtable_bytes),
    field!(memory.block_cache_bytes),
    field!(memory.filter_bytes_max),
    field!(memory.queue_bytes),
    field!(io.budget),
    field!(io.max_open_files),
    field!(io.flush_workers),
    field!(io.compaction_workers),
    field!(io.read_workers),
    field!(io.wal_compress_above),
    field!(compaction.strategy),
    field!(compaction.l0_trigger),
    field!(compaction.table_bytes),
    field!(compaction.block_bytes),
    field!(compaction.compression),
    field!(compaction.filter_bits_per_key),
    field!(server.listen),
    field!(server.password_file),
    field!(server.password, "password", true),
    field!(server.max_connections),
    field!(server.client_memory_bytes),
    field!(server.max_request_bytes),
    field!(server.idle_timeout, "idle_timeout_ms", false),
    field!(server.request_timeout, "request_timeout_ms", false),
    field!(server.shutdown_grace, "shutdown_grace_ms", false),
    field!(server.enable_flushall),
    field!(log.level),
    field!(log.format),
];

impl Field {
    /// The field of this section and name.
    pub(super) fn find(section: &str, name: &str) -> Option<&'static Self> {
        FIELDS.iter().find(|field| field.section == section && field.name == name)
    }

    /// The field that validation calls `section.member`.
    pub(super) fn of_member(path: &str) -> Option<&'static Self> {
        let (section, member) = path.split_once('.')?;
        FIELDS.iter().find(|field| field.section == section && field.member == member)
    }

    /// `section.name`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that overrides it.
    pub(super) fn variable(&self) -> String {
        format!("DBEX_{}__{}", self.section, self.name).to_ascii_uppercase()
    }
}

/// The names of all sections, in order.
pub(super) fn sections() -> Vec<&'static str> {
    let mut names: Vec<_> = FIELDS.iter().map(|field| field.section).collect();
    names.dedup();
    names
}

/// The names of a section's fields, with commas.
pub(super) fn names_in(section: &str) -> String {
    let names: Vec<_> =
        FIELDS.iter().filter(|field| field.section == section).map(|field| field.name).collect();
    names.join(", ")
}
