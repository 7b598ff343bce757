//! Commands about the server: what it can do, how it is set, how it is.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::server::resp::{
    command_table::{self, COMMANDS, CommandSpec, flag},
    errors::reply_or_error,
    framing::Request,
    glob, info as info_text,
    reply::Reply,
    server::Session,
};

/// `COMMAND`: all commands, in the form of `COMMAND INFO`.
pub(crate) fn command(_: &mut Session, _: &Request) -> Reply {
    Reply::Array(COMMANDS.iter().map(command_entry).collect())
}

pub(crate) fn command_count(_: &mut Session, _: &Request) -> Reply {
    Reply::count(COMMANDS.len())
}

pub(crate) fn command_list(_: &mut Session, _: &Request) -> Reply {
    Reply::Array(COMMANDS.iter().map(|spec| Reply::text(spec.name)).collect())
}

pub(crate) fn command_info(session: &mut Session, request: &Request) -> Reply {
    match request.arguments_from(2) {
        [] => command(session, request),
        names => {
            Reply::Array(names.iter().map(|name| find(name).map_or(Reply::Null, command_entry)).collect())
        }
    }
}

pub(crate) fn command_docs(_: &mut Session, request: &Request) -> Reply {
    let docs = |spec: &CommandSpec| (Reply::text(spec.name), command_doc(spec));
    Reply::Map(match request.arguments_from(2) {
        [] => COMMANDS.iter().map(docs).collect(),
        names => names.iter().filter_map(|name| find(name)).map(docs).collect(),
    })
}

pub(crate) fn command_getkeys(_: &mut Session, request: &Request) -> Reply {
    let asked = Request { arguments: request.arguments_from(2).to_vec() };
    let Some(spec) = command_table::command(asked.argument(0)) else {
        return Reply::error("ERR Invalid command specified");
    };
    if spec.keys.0 == 0 {
        return Reply::error("ERR The command has no key arguments");
    }
    if !spec.accepts(asked.arguments.len()) {
        return Reply::error("ERR Invalid number of arguments specified for command");
    }
    let (first, last, step) = spec.keys;
    let step = usize::try_from(step).unwrap_or(1).max(1);
    let count = if last < 0 { asked.arguments.len() } else { 1 };
    let first = usize::try_from(first).unwrap_or(1);
    let keys = asked.arguments_from(first).iter().step_by(step).take(count);
    Reply::Array(keys.cloned().map(Reply::Bulk).collect())
}

/// A command or, as `container|subcommand`, a subcommand.
fn find(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut parts = name.splitn(2, |byte| *byte == b'|');
    let spec = command_table::command(parts.next()?)?;
    match parts.next() {
        None => Some(spec),
        Some(own) => {
            spec.subcommands().iter().find(|sub| sub.own_name().as_bytes().eq_ignore_ascii_case(own))
        }
    }
}

/// Name, arity, flags, first key, last key, step, categories, tips, key specifications, subcommands.
fn command_entry(spec: &CommandSpec) -> Reply {
    let flags = flag::NAMES.iter().filter(|(flag, _)| spec.has(*flag)).map(|(_, name)| Reply::Simple(name));
    let categories = categories(spec).into_iter().map(Reply::Simple);
    let (first, last, step) = spec.keys;
    Reply::Array(vec![
        Reply::text(spec.name),
        Reply::Integer(spec.arity),
        Reply::Set(flags.collect()),
        Reply::Integer(first),
        Reply::Integer(last),
        Reply::Integer(step),
        Reply::Set(categories.collect()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(spec.subcommands().iter().map(command_entry).collect()),
    ])
}

fn categories(spec: &CommandSpec) -> Vec<&'static str> {
    let mut categories = Vec::new();
    let mut add = |holds: bool, name| categories.extend(holds.then_some(name));
    add(spec.group == "generic", "@keyspace");
    add(spec.has(flag::READONLY), "@read");
    add(spec.has(flag::WRITE), "@write");
    add(spec.group == "string", "@string");
    add(spec.has(flag::ADMIN), "@admin");
    add(spec.has(flag::DANGEROUS), "@dangerous");
    add(spec.group == "connection", "@connection");
    add(true, if spec.has(flag::FAST) { "@fast" } else { "@slow" });
    categories
}

fn command_doc(spec: &CommandSpec) -> Reply {
    let mut fields = vec![
        (Reply::text("summary"), Reply::text(spec.summary)),
        (Reply::text("group"), Reply::text(spec.group)),
    ];
    let subcommands = spec.subcommands();
    if !subcommands.is_empty() {
        let docs = subcommands.iter().map(|sub| (Reply::text(sub.name), command_doc(sub)));
        fields.push((Reply::text("subcommands"), Reply::Map(docs.collect())));
    }
    Reply::Map(fields)
}

/// `CONFIG GET pattern …`: what the server is set to, by the names that Redis has for it.
pub(crate) fn config_get(session: &mut Session, request: &Request) -> Reply {
    let settings = &session.server.settings;
    let values = [
        ("appendonly", "yes".to_owned()),
        ("bind", session.server.address.ip().to_string()),
        ("databases", "1".to_owned()),
        ("maxclients", settings.max_connections.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-clients", settings.client_memory_bytes.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", session.server.address.port().to_string()),
        ("proto-max-bulk-len", settings.max_request_bytes.to_string()),
        ("save", String::new()),
        ("timeout", settings.idle_timeout.as_secs().to_string()),
    ];
    let patterns: Vec<_> =
        request.arguments_from(2).iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
    let asked = values
        .into_iter()
        .filter(|(name, _)| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes())))
        .map(|(name, value)| (Reply::text(name), Reply::text(value)));
    Reply::Map(asked.collect())
}

/// `INFO [section …]`.
pub(crate) fn info<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let asked: Vec<Bytes> =
            request.arguments_from(1).iter().map(|section| section.to_ascii_lowercase().into()).collect();
        reply_or_error(info_text::text(session, &asked).await.map(Reply::Verbatim))
    })
}
