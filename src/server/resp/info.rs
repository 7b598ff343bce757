//! The text of `INFO`: sections of `name:value` lines, by the names that Redis's users look for.

use std::fmt::Write as _;

use bytes::Bytes;
use tokio::time::Instant;

use super::{execute::keys::count_keys, server::Session};
use crate::error::Result;

/// The sections in the order in which they are shown.
const SECTIONS: [&str; 6] = ["server", "clients", "memory", "persistence", "stats", "keyspace"];

/// The asked sections, in lower case; all when none is asked for.
///
/// # Errors
/// What the scan that counts the keys fails with.
pub(super) async fn text(session: &Session, asked: &[Bytes]) -> Result<String> {
    let wants_all = asked.is_empty()
        || asked.iter().any(|section| [&b"all"[..], b"default", b"everything"].contains(&&section[..]));
    let mut text = String::new();
    for section in SECTIONS {
        if !wants_all && !asked.iter().any(|asked| asked == section.as_bytes()) {
            continue;
        }
        let lines = match section {
            "server" => server(session),
            "clients" => clients(session),
            "memory" => memory(session),
            "persistence" => persistence(),
            "stats" => stats(session),
            _ => keyspace(session).await?,
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

fn memory(session: &Session) -> Lines {
    let memory = &session.server.memory;
    vec![
        ("mem_clients_normal", memory.used().to_string()),
        ("mem_clients_max", memory.cap().to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory_policy", "noeviction".to_owned()),
    ]
}

/// Every acked write is in the log, which Redis calls an append-only file.
fn persistence() -> Lines {
    vec![
        ("loading", "0".to_owned()),
        ("async_loading", "0".to_owned()),
        ("rdb_bgsave_in_progress", "0".to_owned()),
        ("aof_enabled", "1".to_owned()),
        ("aof_rewrite_in_progress", "0".to_owned()),
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

async fn keyspace(session: &Session) -> Result<Lines> {
    let keys = count_keys(session).await?;
    if keys == 0 {
        return Ok(Vec::new());
    }
    Ok(vec![("db0", format!("keys={keys},expires=0,avg_ttl=0"))])
}
