//! Commands on keys, whatever their values, and on all keys.

#![expect(clippy::unnecessary_wraps, reason = "the command table holds one signature for all of a kind")]

use std::ops::Bound;

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};

use super::update;
use crate::{
    error::Result,
    key::KeyRange,
    node::{Change, Step},
    server::resp::{
        command_table::StepReply,
        errors::{self, reply_or_error},
        framing::Request,
        glob,
        integer::parse_i64,
        reply::Reply,
        server::Session,
    },
};

/// How many keys one call of `SCAN` looks at unless it says.
const SCAN_COUNT: usize = 10;
/// After how many bytes of keys a call of `SCAN` ends early.
const SCAN_REPLY_BYTES: usize = 1 << 20;
/// The most keys that one call of `SCAN` looks at, whatever it says.
const MAX_SCAN_COUNT: usize = 100_000;
/// After how many keys a long scan lets other connections run.
const KEYS_A_TURN: usize = 256;

pub(crate) fn del(request: &Request, steps: &mut Vec<Step>) -> std::result::Result<StepReply, Reply> {
    steps.extend(request.arguments_from(1).iter().map(delete_if_present));
    Ok(StepReply::CountPresent)
}

/// Deletes a key without leaving a tombstone where there is none to delete.
pub(super) fn delete_if_present(key: &Bytes) -> Step {
    update(key, |old| Ok(if old.is_some() { Change::Delete } else { Change::Keep }))
}

pub(crate) fn exists<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let mut found = 0;
        let mut keys = request.arguments_from(1);
        while !keys.is_empty() {
            let (now, later) = keys.split_at_checked(session.gets_at_once()).unwrap_or((keys, &[]));
            keys = later;
            let gets = now.iter().map(|key| session.server.node.get(key));
            for value in futures_util::future::join_all(gets).await {
                match value {
                    Ok(value) => {
                        session.saw_value(value.as_ref().map_or(0, Bytes::len));
                        session.count_lookups(usize::from(value.is_some()), usize::from(value.is_none()));
                        found += usize::from(value.is_some());
                    }
                    Err(error) => return errors::node_error(&error),
                }
            }
        }
        Reply::count(found)
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the command table holds one signature for all of a kind")]
pub(crate) fn value_type(value: Option<Bytes>) -> Reply {
    Reply::Simple(if value.is_some() { "string" } else { "none" })
}

pub(crate) fn dbsize<'a>(session: &'a mut Session, _: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move { reply_or_error(count_keys(session).await.map(Reply::count)) })
}

/// Counts the keys by a scan of all.
pub(crate) async fn count_keys(session: &Session) -> Result<usize> {
    let mut scan = session.server.node.scan(..);
    let mut count = 0;
    while let Some(item) = scan.next().await {
        item?;
        count += 1;
        if count % KEYS_A_TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(count)
}

pub(crate) fn keys<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move { reply_or_error(matching_keys(session, request.argument(1)).await) })
}

async fn matching_keys(session: &Session, pattern: &[u8]) -> Result<Reply> {
    let mut scan = session.server.node.scan(KeyRange::prefix(glob::literal_prefix(pattern)));
    let mut held = session.new_charge();
    let (mut keys, mut looked_at) = (Vec::new(), 0);
    while let Some(item) = scan.next().await {
        let (key, _) = item?;
        if glob::matches(pattern, &key) {
            if !held.try_set(held.bytes() + key.len() + size_of::<Reply>()) {
                return Ok(Reply::error(errors::REPLY_TOO_LARGE));
            }
            keys.push(Reply::Bulk(Bytes::copy_from_slice(&key)));
        }
        looked_at += 1;
        if looked_at % KEYS_A_TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(Reply::Array(keys))
}

/// The arguments of a `SCAN`.
struct ScanRequest {
    cursor: u64,
    pattern: Option<Bytes>,
    count: usize,
    /// The type asked for is not a string's: there are no such keys.
    other_type: bool,
}

impl ScanRequest {
    fn parse(request: &Request) -> std::result::Result<Self, Reply> {
        let cursor = std::str::from_utf8(request.argument(1)).ok().and_then(|text| text.parse().ok());
        let cursor = cursor.ok_or(Reply::error(errors::INVALID_CURSOR))?;
        let mut parsed = Self { cursor, pattern: None, count: SCAN_COUNT, other_type: false };
        for option in request.arguments_from(2).chunks(2) {
            let [name, value] = option else { return Err(Reply::error(errors::SYNTAX)) };
            match name.to_ascii_uppercase().as_slice() {
                b"MATCH" => parsed.pattern = Some(value.clone()),
                b"COUNT" => {
                    let count = parse_i64(value).ok_or(Reply::error(errors::NOT_AN_INTEGER))?;
                    let count = usize::try_from(count).ok().filter(|count| *count > 0);
                    parsed.count = count.ok_or(Reply::error(errors::SYNTAX))?.min(MAX_SCAN_COUNT);
                }
                b"TYPE" => parsed.other_type = !value.eq_ignore_ascii_case(b"string"),
                _ => return Err(Reply::error(errors::SYNTAX)),
            }
        }
        Ok(parsed)
    }
}

pub(crate) fn scan<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let asked = match ScanRequest::parse(request) {
            Ok(asked) => asked,
            Err(reply) => return reply,
        };
        let behind = match asked.cursor {
            0 => Bound::Unbounded,
            cursor => match session.server.cursors.last_key(cursor) {
                Some(key) => Bound::Excluded(key),
                None => return Reply::error(errors::UNKNOWN_CURSOR),
            },
        };
        reply_or_error(scan_some(session, &asked, behind).await)
    })
}

/// Looks at the next keys behind `behind` that have the pattern's literal prefix.
async fn scan_some(session: &Session, asked: &ScanRequest, behind: Bound<Bytes>) -> Result<Reply> {
    let prefix = asked.pattern.as_ref().map_or(&b""[..], |pattern| glob::literal_prefix(pattern));
    let range = KeyRange::prefix(prefix).intersect(&KeyRange { start: behind, end: Bound::Unbounded });
    // The cursor may come from a scan with another pattern, and stand behind all keys of this one's prefix.
    if asked.other_type || range.check().is_err() {
        return Ok(scan_reply(0, Vec::new()));
    }
    let mut scan = session.server.node.scan(range).limit(asked.count);
    let (mut keys, mut key_bytes, mut looked_at) = (Vec::new(), 0, 0);
    let mut last_key = Bytes::new();
    while looked_at < asked.count && key_bytes < SCAN_REPLY_BYTES {
        let Some(item) = scan.next().await else { return Ok(scan_reply(0, keys)) };
        let (key, _) = item?;
        looked_at += 1;
        if asked.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, &key)) {
            key_bytes += key.len();
            keys.push(Reply::Bulk(key.clone()));
        }
        last_key = key;
        if looked_at % KEYS_A_TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(scan_reply(session.server.cursors.advance(asked.cursor, &last_key), keys))
}

fn scan_reply(cursor: u64, keys: Vec<Reply>) -> Reply {
    Reply::Array(vec![Reply::text(cursor.to_string()), Reply::Array(keys)])
}

/// `FLUSHALL` and `FLUSHDB`, both `[ASYNC | SYNC]`: removes all keys at one moment.
pub(crate) fn flush<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let is_mode =
            |word: &Bytes| [&b"async"[..], b"sync"].iter().any(|mode| word.eq_ignore_ascii_case(mode));
        match request.arguments_from(1) {
            [] => {}
            [mode] if is_mode(mode) => {}
            _ => return Reply::error(errors::SYNTAX),
        }
        if !session.server.settings.flushall_enabled {
            return Reply::error(errors::FLUSH_DISABLED);
        }
        reply_or_error(session.server.node.delete_range(..).await.map(|()| Reply::OK))
    })
}
