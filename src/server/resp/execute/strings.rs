//! Commands on string values.

#![expect(clippy::unnecessary_wraps, reason = "the command table holds one signature for all of a kind")]

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{expiry::Form, update};
use crate::{
    error::{Error, Result},
    key::MAX_VALUE_BYTES,
    node::{Change, Expiry, Step, StepDone, WriteBatch},
    server::resp::{
        command_table::StepReply,
        errors::{self, reply_or_error},
        framing::Request,
        integer::parse_i64,
        reply::Reply,
        server::Session,
    },
};

type Planned = std::result::Result<StepReply, Reply>;

/// For how many times as many keys as single gets one read of the node is: up to 1,020 if values are small.
const KEYS_A_GET: usize = 34;

pub(crate) fn get(value: Option<Bytes>) -> Reply {
    Reply::value(value)
}

pub(crate) fn strlen(value: Option<Bytes>) -> Reply {
    Reply::count(value.map_or(0, |value| value.len()))
}

/// When a SET sets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Absent,
    Present,
}

/// `SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT time | PXAT time | KEEPTTL]`.
pub(crate) fn set(request: &Request, steps: &mut Vec<Step>) -> Planned {
    let (mut when, mut returns_old, mut keeps, mut until) = (When::Always, false, false, None);
    let mut options = request.arguments_from(3).iter();
    while let Some(option) = options.next() {
        match option.to_ascii_uppercase().as_slice() {
            b"NX" if when != When::Present => when = When::Absent,
            b"XX" if when != When::Absent => when = When::Present,
            b"GET" => returns_old = true,
            b"KEEPTTL" if until.is_none() => keeps = true,
            option => {
                let form =
                    Form::of(option).filter(|form| !keeps && until.is_none_or(|(other, _)| other == *form));
                let (Some(form), Some(amount)) = (form, options.next()) else {
                    return Err(Reply::error(errors::SYNTAX));
                };
                until = Some((form, amount));
            }
        }
    }
    let expiry = match until {
        Some((form, amount)) => form.expiry(amount, "set")?,
        None if keeps => Expiry::Keep,
        None => Expiry::Never,
    };
    let (key, value) = (request.argument(1), request.argument(2).clone());
    if when == When::Always && !returns_old && expiry != Expiry::Keep {
        steps.push(Step::Put { key: key.clone(), value, expiry });
        return Ok(StepReply::One(|_| Reply::OK));
    }
    steps.push(set_when(key, value, when, expiry));
    Ok(StepReply::One(match (returns_old, when) {
        (true, _) => previous,
        (false, When::Absent) => |done| if done.previous.is_some() { Reply::Null } else { Reply::OK },
        (false, _) => |done| if done.previous.is_some() { Reply::OK } else { Reply::Null },
    }))
}

pub(crate) fn setnx(request: &Request, steps: &mut Vec<Step>) -> Planned {
    steps.push(set_when(request.argument(1), request.argument(2).clone(), When::Absent, Expiry::Never));
    Ok(StepReply::One(|done| Reply::Integer(i64::from(done.previous.is_none()))))
}

pub(crate) fn getset(request: &Request, steps: &mut Vec<Step>) -> Planned {
    steps.push(set_when(request.argument(1), request.argument(2).clone(), When::Always, Expiry::Never));
    Ok(StepReply::One(previous))
}

pub(crate) fn getdel(request: &Request, steps: &mut Vec<Step>) -> Planned {
    steps.push(super::keys::delete_if_present(request.argument(1)));
    Ok(StepReply::One(previous))
}

fn set_when(key: &Bytes, value: Bytes, when: When, expiry: Expiry) -> Step {
    update(key, move |old| {
        let sets = match when {
            When::Always => true,
            When::Absent => old.is_none(),
            When::Present => old.is_some(),
        };
        Ok(if sets { Change::PutUntil(value, expiry) } else { Change::Keep })
    })
}

fn previous(done: StepDone) -> Reply {
    Reply::value(done.previous)
}

pub(crate) fn incr(request: &Request, steps: &mut Vec<Step>) -> Planned {
    Ok(plan_add(request, steps, 1))
}

pub(crate) fn decr(request: &Request, steps: &mut Vec<Step>) -> Planned {
    Ok(plan_add(request, steps, -1))
}

pub(crate) fn incrby(request: &Request, steps: &mut Vec<Step>) -> Planned {
    let amount = parse_i64(request.argument(2)).ok_or(Reply::error(errors::NOT_AN_INTEGER))?;
    Ok(plan_add(request, steps, amount))
}

pub(crate) fn decrby(request: &Request, steps: &mut Vec<Step>) -> Planned {
    let amount = parse_i64(request.argument(2)).ok_or(Reply::error(errors::NOT_AN_INTEGER))?;
    let amount = amount.checked_neg().ok_or(Reply::error("ERR decrement would overflow"))?;
    Ok(plan_add(request, steps, amount))
}

fn plan_add(request: &Request, steps: &mut Vec<Step>, amount: i64) -> StepReply {
    steps.push(update(request.argument(1), move |old| add(old, amount)));
    StepReply::One(|done| {
        let current = done.current.as_deref().and_then(parse_i64);
        current.map_or_else(|| Reply::error(errors::NOT_AN_INTEGER), Reply::Integer)
    })
}

fn add(old: Option<&[u8]>, amount: i64) -> Result<Change> {
    let not_an_integer = || Error::invalid("value is not an integer or out of range");
    let old = old.map_or(Some(0), parse_i64).ok_or_else(not_an_integer)?;
    let overflow = || Error::invalid("increment or decrement would overflow");
    let new = old.checked_add(amount).ok_or_else(overflow)?;
    Ok(Change::Put(new.to_string().into()))
}

pub(crate) fn append(request: &Request, steps: &mut Vec<Step>) -> Planned {
    let tail = request.argument(2).clone();
    steps.push(update(request.argument(1), move |old| {
        let old = old.unwrap_or_default();
        if old.len() + tail.len() > MAX_VALUE_BYTES {
            return Err(Error::invalid("string exceeds maximum allowed size (proto-max-bulk-len)"));
        }
        Ok(Change::Put([old, &tail].concat().into()))
    }));
    Ok(StepReply::One(|done| Reply::count(done.current.map_or(0, |value| value.len()))))
}

/// `MGET`. Up to 1,020 keys are read at one moment; more, or fewer if values are large, in several reads.
pub(crate) fn mget<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let mut held = session.new_charge();
        let mut values = Vec::new();
        let mut keys = request.arguments_from(1);
        while !keys.is_empty() {
            let most = session.gets_at_once() * KEYS_A_GET;
            let (now, later) = keys.split_at_checked(most).unwrap_or((keys, &[]));
            keys = later;
            let read = match session.server.node.multi_get(now).await {
                Ok(read) => read,
                Err(error) => return errors::node_error(&error),
            };
            let bytes: usize = read.iter().flatten().map(Bytes::len).sum();
            let hits = read.iter().flatten().count();
            session.count_lookups(hits, read.len() - hits);
            session.saw_value(read.iter().flatten().map(Bytes::len).max().unwrap_or(0));
            // What a value costs beside its bytes while the reply is encoded.
            if !held.try_set(held.bytes() + bytes + read.len() * size_of::<Reply>()) {
                return Reply::error(errors::REPLY_TOO_LARGE);
            }
            values.extend(read.into_iter().map(Reply::value));
        }
        Reply::Array(values)
    })
}

pub(crate) fn mset<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let Some(batch) = pairs(request) else { return errors::wrong_arity("mset") };
        reply_or_error(session.server.node.write(batch).await.map(|()| Reply::OK))
    })
}

/// The batch that puts the request's pairs; `None` if a key has no value.
fn pairs(request: &Request) -> Option<WriteBatch> {
    let mut batch = WriteBatch::new();
    for pair in request.arguments_from(1).chunks(2) {
        let [key, value] = pair else { return None };
        batch.put(key, value);
    }
    Some(batch)
}
