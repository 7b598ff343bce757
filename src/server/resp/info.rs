//! The text of `INFO`: sections of `name:value` lines, by the names that Redis's users look for.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{execute::keys::count_keys, server::Session};
use crate::{
    error::Result,
    node::{NodeStats, ShardStats},
};

/// The sections in the order in which they are shown.
const SECTIONS: [&str; 6] = ["server", "clients", "memory", "persistence", "stats", "keyspace"];

/// Those that tell of the node's stats, for which the shards are walked.
const WITH_STATS: [&str; 3] = ["memory", "persistence", "keyspace"];

/// Up to how many entries the keys are counted when all sections are asked for.
const MAX_COUNTED_ENTRIES: u64 = 1_000_000;

/// The asked sections, in lower case; all when none is asked for.
///
/// # Errors
/// What the node's stats, or the scan that counts the keys, fail with.
pub(super) async fn text(session: &Session, asked: &[Bytes]) -> Result<String> {
    let wants_all = asked.is_empty()
        || asked.iter().any(|section| [&b"all"[..], b"default", b"everything"].contains(&&section[..]));
    let wants = |section: &str| wants_all || asked.iter().any(|asked| asked == section.as_bytes());
    let node = if WITH_STATS.into_iter().any(wants) {
        session.server.node.stats().await?
    } else {
        NodeStats::default()
    };
    let mut text = String::new();
    for section in SECTIONS {
        if !wants(section) {
            continue;
        }
        let lines = match section {
            "server" => server(session),
            "clients" => clients(session),
            "memory" => memory(session, &node),
            "persistence" => persistence(&node),
            "stats" => stats(session),
            _ => keyspace(session, &node, wants_all).await?,
        };
        let separator = if text.is_empty() { "" } else { "\r\n" };
        let title = section.get(..1).unwrap_or_default().to_ascii_uppercase();
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}# {title}{}\r\n", section.get(1..).unwrap_or_default());
        for (name, value) in lines {
            let _ = write!(text, "{name}:{value}\r\n");
        }
    }
    Ok(text)
}

type Lines = Vec<(&'static str, String)>;

fn server(session: &Session) -> Lines {
    let server = &session.server;
    let uptime = Instant::now().saturating_duration_since(server.started).as_secs();
    vec![
        ("redis_version", server.settings.redis_version.clone()),
        ("dbex_version", server.settings.dbex_version.clone()),
        ("redis_mode", "standalone".to_owned()),
        ("os", std::env::consts::OS.to_owned()),
        ("arch_bits", usize::BITS.to_string()),
        ("process_id", std::process::id().to_string()),
        ("run_id", server.run_id.clone()),
        ("tcp_port", server.address.port().to_string()),
        ("uptime_in_seconds", uptime.to_string()),
        ("uptime_in_days", (uptime / 86_400).to_string()),
    ]
}

fn clients(session: &Session) -> Lines {
    vec![
        ("connected_clients", session.server.clients.count().to_string()),
        ("maxclients", session.server.settings.max_connections.to_string()),
        ("blocked_clients", "0".to_owned()),
    ]
}

fn memory(session: &Session, node: &NodeStats) -> Lines {
    let clients = &session.server.memory;
    let memtables = node.active_memtable_bytes + node.sealed_memtable_bytes;
    let metadata: u64 = node.shards.iter().map(|shard| shard.tree.metadata_bytes).sum();
    let used = memtables + node.block_cache_bytes + metadata + clients.used() as u64;
    vec![
        ("used_memory", used.to_string()),
        ("dbex_memtable_bytes", memtables.to_string()),
        ("dbex_block_cache_bytes", node.block_cache_bytes.to_string()),
        ("dbex_table_metadata_bytes", metadata.to_string()),
        ("mem_clients_normal", clients.used().to_string()),
        ("mem_clients_max", clients.cap().to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory_policy", "noeviction".to_owned()),
    ]
}

/// Every acked write is in the log, which Redis calls an append-only file.
fn persistence(node: &NodeStats) -> Lines {
    let troubled = node.shards.iter().filter(|shard| shard.trouble.is_some()).count();
    let slowed = node.shards.iter().filter(|shard| shard.write_limit.is_some()).count();
    let debt: u64 = node.shards.iter().map(|shard| shard.load.debt_bytes).sum();
    vec![
        ("loading", "0".to_owned()),
        ("async_loading", "0".to_owned()),
        ("rdb_bgsave_in_progress", "0".to_owned()),
        ("aof_enabled", "1".to_owned()),
        ("aof_rewrite_in_progress", "0".to_owned()),
        ("aof_last_write_status", if troubled == 0 { "ok" } else { "err" }.to_owned()),
        ("dbex_shards", node.shards.len().to_string()),
        ("dbex_shards_in_trouble", troubled.to_string()),
        ("dbex_shard_reopens", node.reopens.to_string()),
        ("dbex_flush_io_bytes", node.flush_io_bytes.to_string()),
        ("dbex_compaction_io_bytes", node.compaction_io_bytes.to_string()),
        ("dbex_compaction_debt_bytes", debt.to_string()),
        ("dbex_flush_is_pressing", u8::from(node.flush_is_pressing).to_string()),
        ("dbex_compaction_is_pressing", u8::from(node.compaction_is_pressing).to_string()),
        ("dbex_io_budget_bytes_per_second", node.io_budget_bytes_per_second.unwrap_or_default().to_string()),
        ("dbex_write_slowdowns", node.slowdowns.to_string()),
        ("dbex_write_slowdown_ms", node.slowed_down.as_millis().to_string()),
        ("dbex_slowed_shards", slowed.to_string()),
        ("dbex_write_stalls", node.stalls.to_string()),
    ]
}

fn stats(session: &Session) -> Lines {
    let counters = &session.server.counters;
    let lines = [
        ("total_connections_received", &counters.connections_received),
        ("total_commands_processed", &counters.commands),
        ("total_net_input_bytes", &counters.input_bytes),
        ("total_net_output_bytes", &counters.output_bytes),
        ("rejected_connections", &counters.connections_rejected),
        ("keyspace_hits", &counters.key_hits),
        ("keyspace_misses", &counters.key_misses),
        ("acl_access_denied_auth", &counters.auth_failures),
    ];
    lines.map(|(name, counter)| (name, counter.get().to_string())).into()
}

/// Counts the keys if nothing but their number is asked for. With everything, which monitors ask for every
/// few seconds, an earlier count does while counting anew would take more than a tenth of the time; and for
/// very many keys it is an estimate, entries less tombstones, in which a key that was overwritten or deleted
/// lately counts more than once.
async fn keyspace(session: &Session, node: &NodeStats, with_all: bool) -> Result<Lines> {
    let entries = entries(node);
    let earlier = session.server.key_count.lock().filter(|count| count.does(Instant::now()));
    let keys = match earlier {
        _ if with_all && entries > MAX_COUNTED_ENTRIES => entries,
        Some(count) if with_all => count.keys,
        _ => {
            let began = Instant::now();
            let keys = count_keys(session).await? as u64;
            let ended = Instant::now();
            let count = KeyCount { keys, ended, took: ended.saturating_duration_since(began) };
            *session.server.key_count.lock() = Some(count);
            keys
        }
    };
    if keys == 0 {
        return Ok(Vec::new());
    }
    Ok(vec![("db0", format!("keys={keys},expires=0,avg_ttl=0"))])
}

fn entries(node: &NodeStats) -> u64 {
    let in_shard = |shard: &ShardStats| {
        let in_tables =
            shard.tree.levels.iter().map(|level| level.entries.saturating_sub(2 * level.tombstones));
        in_tables.sum::<u64>() + shard.load.active_entries + shard.load.sealed_entries
    };
    node.shards.iter().map(in_shard).sum()
}

/// How many keys there were, when they were counted, and how long that took.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyCount {
    keys: u64,
    ended: Instant,
    took: Duration,
}

impl KeyCount {
    fn does(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.ended) < self.took * 10
    }
}
