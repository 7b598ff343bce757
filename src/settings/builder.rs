//! Settings made in code: one method a field, checked by [`SettingsBuilder::build`]. Neither a file nor the
//! environment is looked at.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{LogFormat, LogLevel, Secret, Settings, loaded::Loaded};
use crate::{
    codec::compress::Compression,
    error::Result,
    node::options::{CompactionStrategy, Durability, IoBudget},
};

/// Makes [`Settings`] in code, from the defaults. See [`Settings::builder`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SettingsBuilder {
    settings: Settings,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($type:ty) => $section:ident.$member:ident;)+) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self, $name: $type) -> Self {
                self.settings.$section.$member = $name;
                self
            }
        )+
    };
}

impl SettingsBuilder {
    /// Sets [`NodeSection::data_dir`](super::NodeSection::data_dir).
    pub fn data_dir(mut self, data_dir: impl Into<PathBuf>) -> Self {
        self.settings.node.data_dir = data_dir.into();
        self
    }

    /// Sets [`IoSection::budget`](super::IoSection::budget); a number is bytes per second.
    pub fn io_budget(mut self, budget: impl Into<IoBudget>) -> Self {
        self.settings.io.budget = budget.into();
        self
    }

    /// Sets [`CompactionSection::compression`](super::CompactionSection::compression) for all levels.
    pub fn compression(self, compression: Compression) -> Self {
        self.compression_per_level([compression; 3])
    }

    /// Sets [`ServerSection::password_file`](super::ServerSection::password_file).
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.server.password_file = Some(path.into());
        self
    }

    /// Sets [`ServerSection::password`](super::ServerSection::password).
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.settings.server.password = Some(Secret::new(password));
        self
    }

    setters! {
        /// Sets [`NodeSection::shards`](super::NodeSection::shards).
        shards(u32) => node.shards;
        /// Sets [`NodeSection::durability`](super::NodeSection::durability).
        durability(Durability) => node.durability;
        /// Sets [`NodeSection::sync_interval`](super::NodeSection::sync_interval).
        sync_interval(Duration) => node.sync_interval;
        /// Sets [`NodeSection::pin_cores`](super::NodeSection::pin_cores).
        pin_cores(bool) => node.pin_cores;
        /// Sets [`MemorySection::memtable_bytes`](super::MemorySection::memtable_bytes).
        memtable_bytes(u64) => memory.memtable_bytes;
        /// Sets [`MemorySection::block_cache_bytes`](super::MemorySection::block_cache_bytes).
        block_cache_bytes(u64) => memory.block_cache_bytes;
        /// Sets [`MemorySection::filter_bytes_max`](super::MemorySection::filter_bytes_max).
        filter_bytes_max(u64) => memory.filter_bytes_max;
        /// Sets [`MemorySection::queue_bytes`](super::MemorySection::queue_bytes).
        queue_bytes(u64) => memory.queue_bytes;
        /// Sets [`IoSection::max_open_files`](super::IoSection::max_open_files).
        max_open_files(usize) => io.max_open_files;
        /// Sets [`IoSection::flush_workers`](super::IoSection::flush_workers).
        flush_workers(usize) => io.flush_workers;
        /// Sets [`IoSection::compaction_workers`](super::IoSection::compaction_workers).
        compaction_workers(usize) => io.compaction_workers;
        /// Sets [`IoSection::read_workers`](super::IoSection::read_workers).
        read_workers(usize) => io.read_workers;
        /// Sets [`IoSection::wal_compress_above`](super::IoSection::wal_compress_above).
        wal_compress_above(Option<u64>) => io.wal_compress_above;
        /// Sets [`CompactionSection::strategy`](super::CompactionSection::strategy).
        strategy(CompactionStrategy) => compaction.strategy;
        /// Sets [`CompactionSection::l0_trigger`](super::CompactionSection::l0_trigger).
        l0_trigger(usize) => compaction.l0_trigger;
        /// Sets [`CompactionSection::table_bytes`](super::CompactionSection::table_bytes).
        table_bytes(u64) => compaction.table_bytes;
        /// Sets [`CompactionSection::block_bytes`](super::CompactionSection::block_bytes).
        block_bytes(u64) => compaction.block_bytes;
        /// Sets [`CompactionSection::compression`](super::CompactionSection::compression), L0 first.
        compression_per_level([Compression; 3]) => compaction.compression;
        /// Sets [`CompactionSection::filter_bits_per_key`](super::CompactionSection::filter_bits_per_key).
        filter_bits_per_key(u32) => compaction.filter_bits_per_key;
        /// Sets [`ServerSection::listen`](super::ServerSection::listen).
        listen(SocketAddr) => server.listen;
        /// Sets [`ServerSection::max_connections`](super::ServerSection::max_connections).
        max_connections(usize) => server.max_connections;
        /// Sets [`ServerSection::client_memory_bytes`](super::ServerSection::client_memory_bytes).
        client_memory_bytes(u64) => server.client_memory_bytes;
        /// Sets [`ServerSection::max_request_bytes`](super::ServerSection::max_request_bytes).
        max_request_bytes(u64) => server.max_request_bytes;
        /// Sets [`ServerSection::idle_timeout`](super::ServerSection::idle_timeout).
        idle_timeout(Duration) => server.idle_timeout;
        /// Sets [`ServerSection::request_timeout`](super::ServerSection::request_timeout).
        request_timeout(Duration) => server.request_timeout;
        /// Sets [`ServerSection::shutdown_grace`](super::ServerSection::shutdown_grace).
        shutdown_grace(Duration) => server.shutdown_grace;
        /// Sets [`ServerSection::enable_flushall`](super::ServerSection::enable_flushall).
        enable_flushall(bool) => server.enable_flushall;
        /// Sets [`LogSection::level`](super::LogSection::level).
        log_level(LogLevel) => log.level;
        /// Sets [`LogSection::format`](super::LogSection::format).
        log_format(LogFormat) => log.format;
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// `Invalid`, with a line for each field that does not fit.
    pub fn build(self) -> Result<Settings> {
        Loaded::from_code(self.settings).check()
    }
}
