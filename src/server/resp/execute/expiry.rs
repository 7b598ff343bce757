//! Commands on how long keys live.

#![expect(clippy::unnecessary_wraps, reason = "the command table holds one signature for all of a kind")]

use std::{cmp::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::update_entry;
use crate::{
    node::{Change, Expiry, Presence, Step, StepDone},
    server::resp::{
        command_table::StepReply, errors, framing::Request, integer::parse_i64, reply::Reply, server::Session,
    },
};

type Planned = std::result::Result<StepReply, Reply>;

/// What `TTL` says of a key that is absent, and of one that stays.
const ABSENT: i64 = -2;
const FOREVER: i64 = -1;
/// The longest time from now on, so that its end is a number, too.
const MOST_RELATIVE_MS: i64 = i64::MAX - (1 << 46);

/// How a command says a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    is_absolute: bool,
    ms_a_unit: i64,
}

const SECONDS: Form = Form { is_absolute: false, ms_a_unit: 1000 };
const MILLISECONDS: Form = Form { is_absolute: false, ms_a_unit: 1 };
const UNIX_SECONDS: Form = Form { is_absolute: true, ms_a_unit: 1000 };
const UNIX_MILLISECONDS: Form = Form { is_absolute: true, ms_a_unit: 1 };

impl Form {
    /// The form that an option of `SET` or `GETEX` names.
    pub(super) fn of(option: &[u8]) -> Option<Self> {
        Some(match option.to_ascii_uppercase().as_slice() {
            b"EX" => SECONDS,
            b"PX" => MILLISECONDS,
            b"EXAT" => UNIX_SECONDS,
            b"PXAT" => UNIX_MILLISECONDS,
            _ => return None,
        })
    }

    /// Milliseconds, from now on or since the epoch.
    fn ms(self, amount: &[u8], command: &str) -> Result<i64, Reply> {
        let amount = parse_i64(amount).ok_or(Reply::error(errors::NOT_AN_INTEGER))?;
        let most = if self.is_absolute { i64::MAX } else { MOST_RELATIVE_MS };
        let ms = amount.checked_mul(self.ms_a_unit).filter(|ms| *ms <= most);
        ms.ok_or_else(|| errors::invalid_expiry(command))
    }

    /// An expiry that must lie in the future.
    pub(super) fn expiry(self, amount: &[u8], command: &str) -> Result<Expiry, Reply> {
        let ms = u64::try_from(self.ms(amount, command)?).ok().filter(|ms| *ms > 0);
        let ms = ms.ok_or_else(|| errors::invalid_expiry(command))?;
        Ok(if self.is_absolute { Expiry::At(ms) } else { Expiry::In(Duration::from_millis(ms)) })
    }
}

/// `SETEX key seconds value`.
pub(crate) fn setex(request: &Request, steps: &mut Vec<Step>) -> Planned {
    put(request, steps, SECONDS, "setex")
}

/// `PSETEX key milliseconds value`.
pub(crate) fn psetex(request: &Request, steps: &mut Vec<Step>) -> Planned {
    put(request, steps, MILLISECONDS, "psetex")
}

fn put(request: &Request, steps: &mut Vec<Step>, form: Form, command: &str) -> Planned {
    let expiry = form.expiry(request.argument(2), command)?;
    let (key, value) = (request.argument(1).clone(), request.argument(3).clone());
    steps.push(Step::Put { key, value, expiry });
    Ok(StepReply::One(|_| Reply::OK))
}

/// `GETEX key [EX seconds | PX milliseconds | EXAT time | PXAT time | PERSIST]`.
pub(crate) fn getex(request: &Request, steps: &mut Vec<Step>) -> Planned {
    let expiry = match request.arguments_from(2) {
        [] => None,
        [option] if option.eq_ignore_ascii_case(b"persist") => Some(Expiry::Never),
        [option, amount] => {
            let form = Form::of(option).ok_or(Reply::error(errors::SYNTAX))?;
            Some(form.expiry(amount, "getex")?)
        }
        _ => return Err(Reply::error(errors::SYNTAX)),
    };
    steps.push(update_entry(request.argument(1), move |current| match (current, expiry) {
        (Some(current), Some(expiry)) if (expiry, current.expires_at_ms) != (Expiry::Never, None) => {
            Change::Expire(expiry)
        }
        _ => Change::Keep,
    }));
    Ok(StepReply::One(|done| Reply::value(done.previous)))
}

/// `EXPIRE key seconds [NX | XX | GT | LT]`.
pub(crate) fn expire(request: &Request, steps: &mut Vec<Step>) -> Planned {
    plan_expire(request, steps, SECONDS, "expire")
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`.
pub(crate) fn pexpire(request: &Request, steps: &mut Vec<Step>) -> Planned {
    plan_expire(request, steps, MILLISECONDS, "pexpire")
}

/// `EXPIREAT key time [NX | XX | GT | LT]`.
pub(crate) fn expireat(request: &Request, steps: &mut Vec<Step>) -> Planned {
    plan_expire(request, steps, UNIX_SECONDS, "expireat")
}

/// `PEXPIREAT key time [NX | XX | GT | LT]`.
pub(crate) fn pexpireat(request: &Request, steps: &mut Vec<Step>) -> Planned {
    plan_expire(request, steps, UNIX_MILLISECONDS, "pexpireat")
}

/// When an `EXPIRE` sets the expiry.
#[derive(Clone, Copy, Default)]
struct Conditions {
    /// Whether the key must have one before (`XX`), or must have none (`NX`).
    has_one: Option<bool>,
    /// How it must compare with the one before: greater (`GT`) or less (`LT`).
    order: Option<Ordering>,
}

impl Conditions {
    fn parse(options: &[Bytes]) -> Result<Self, Reply> {
        let words: Vec<_> = options.iter().map(|option| option.to_ascii_uppercase()).collect();
        let known = [&b"NX"[..], b"XX", b"GT", b"LT"];
        if let Some(place) = words.iter().position(|word| !known.contains(&word.as_slice())) {
            return Err(errors::unsupported_option(options.get(place).map_or(&[], |option| option)));
        }
        let [nx, xx, gt, lt] = known.map(|word| words.iter().any(|given| given == word));
        if nx && (xx || gt || lt) {
            return Err(Reply::error(errors::NX_AND_OTHERS));
        }
        if gt && lt {
            return Err(Reply::error(errors::GT_AND_LT));
        }
        let order = if gt { Some(Ordering::Greater) } else { lt.then_some(Ordering::Less) };
        Ok(Self { has_one: (nx || xx).then_some(xx), order })
    }

    /// Whether an expiry takes the place of the one before; one that is not there is later than any.
    fn allow(self, before: Option<u64>, at_ms: i64) -> bool {
        let compared = before.map_or(Ordering::Less, |before| i128::from(at_ms).cmp(&i128::from(before)));
        self.has_one.is_none_or(|has_one| has_one == before.is_some())
            && self.order.is_none_or(|order| compared == order)
    }
}

fn plan_expire(request: &Request, steps: &mut Vec<Step>, form: Form, command: &str) -> Planned {
    let conditions = Conditions::parse(request.arguments_from(3))?;
    let ms = form.ms(request.argument(2), command)?;
    steps.push(update_entry(request.argument(1), move |current| {
        let Some(current) = current else { return Change::Keep };
        let now_ms = i64::try_from(current.now_ms).unwrap_or(i64::MAX);
        let at_ms = if form.is_absolute { ms } else { now_ms.saturating_add(ms) };
        if !conditions.allow(current.expires_at_ms, at_ms) {
            return Change::Keep;
        }
        match u64::try_from(at_ms) {
            Ok(at_ms) if at_ms > current.now_ms => Change::Expire(Expiry::At(at_ms)),
            _ => Change::Delete,
        }
    }));
    Ok(StepReply::One(changed))
}

/// `PERSIST key`.
pub(crate) fn persist(request: &Request, steps: &mut Vec<Step>) -> Planned {
    steps.push(update_entry(request.argument(1), |current| match current {
        Some(current) if current.expires_at_ms.is_some() => Change::Expire(Expiry::Never),
        _ => Change::Keep,
    }));
    Ok(StepReply::One(changed))
}

#[expect(clippy::needless_pass_by_value, reason = "the command table holds one signature for all of a kind")]
fn changed(done: StepDone) -> Reply {
    Reply::Integer(i64::from(done.is_changed))
}

pub(crate) fn ttl<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    answer(session, request, |at_ms, now_ms| seconds(at_ms.saturating_sub(now_ms)))
}

pub(crate) fn pttl<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    answer(session, request, u64::saturating_sub)
}

pub(crate) fn expiretime<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    answer(session, request, |at_ms, _| seconds(at_ms))
}

pub(crate) fn pexpiretime<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    answer(session, request, |at_ms, _| at_ms)
}

/// To the nearest one.
fn seconds(ms: u64) -> u64 {
    ms.saturating_add(500) / 1000
}

fn answer<'a>(session: &'a Session, request: &'a Request, show: fn(u64, u64) -> u64) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        Reply::Integer(match session.server.node.presence(request.argument(1)).await {
            Ok(Presence::Absent) => ABSENT,
            Ok(Presence::There { expires_at_ms: None, .. }) => FOREVER,
            Ok(Presence::There { expires_at_ms: Some(at_ms), now_ms }) => {
                i64::try_from(show(at_ms, now_ms)).unwrap_or(i64::MAX)
            }
            Err(error) => return errors::node_error(&error),
        })
    })
}
