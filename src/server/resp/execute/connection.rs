//! Commands on the connection itself.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::server::resp::{
    auth::Verdict,
    clients::is_valid_name,
    errors,
    framing::Request,
    integer::parse_i64,
    reply::{Protocol, Reply},
    server::Session,
};

const BAD_CLIENT_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

pub(crate) fn ping(_: &mut Session, request: &Request) -> Reply {
    match request.arguments_from(1) {
        [] => Reply::Simple("PONG"),
        [text] => Reply::Bulk(text.clone()),
        _ => errors::wrong_arity("ping"),
    }
}

pub(crate) fn echo(_: &mut Session, request: &Request) -> Reply {
    Reply::Bulk(request.argument(1).clone())
}

pub(crate) fn quit(session: &mut Session, _: &Request) -> Reply {
    session.closing = true;
    Reply::OK
}

pub(crate) fn select(_: &mut Session, request: &Request) -> Reply {
    match parse_i64(request.argument(1)) {
        Some(0) => Reply::OK,
        Some(_) => Reply::error(errors::DATABASE_OUT_OF_RANGE),
        None => Reply::error(errors::NOT_AN_INTEGER),
    }
}

/// Makes the connection as it was when it was new, so that a pool can hand it to another user.
pub(crate) fn reset(session: &mut Session, _: &Request) -> Reply {
    session.set_protocol(Protocol::Resp2);
    session.authenticated = !session.server.auth.is_closed();
    session.client.details.lock().name.clear();
    Reply::Simple("RESET")
}

/// `AUTH [user] password`.
pub(crate) fn auth<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let checked = match request.arguments_from(1) {
            [_] if !session.server.auth.is_closed() => Err(Reply::error(errors::NO_PASSWORD_SET)),
            [password] => authenticate(session, b"default", password).await,
            [user, password] => authenticate(session, user, password).await,
            _ => Err(Reply::error(errors::SYNTAX)),
        };
        checked.map_or_else(|error| error, |()| Reply::OK)
    })
}

async fn authenticate(session: &mut Session, user: &[u8], password: &[u8]) -> Result<(), Reply> {
    match session.server.auth.check(user, password) {
        Verdict::Right => {
            session.authenticated = true;
            Ok(())
        }
        Verdict::Wrong { delay } => {
            session.server.counters.auth_failures.add(1);
            tracing::warn!(client = session.client.id, "a client gave a wrong password");
            tokio::time::sleep(delay).await;
            Err(Reply::error(errors::WRONG_PASSWORD))
        }
    }
}

/// What `HELLO` asks for.
#[derive(Default)]
struct Hello {
    protocol: Option<Protocol>,
    credentials: Option<(Bytes, Bytes)>,
    name: Option<Bytes>,
}

impl Hello {
    /// `HELLO [version [AUTH user password] [SETNAME name]]`.
    fn parse(request: &Request) -> Result<Self, Reply> {
        let mut hello = Self::default();
        let Some((version, mut rest)) = request.arguments_from(1).split_first() else { return Ok(hello) };
        hello.protocol = Some(match parse_i64(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err(Reply::error(errors::UNKNOWN_PROTOCOL)),
            None => return Err(Reply::error(errors::PROTOCOL_NOT_A_NUMBER)),
        });
        while let Some((option, values)) = rest.split_first() {
            rest = match (option.to_ascii_uppercase().as_slice(), values) {
                (b"AUTH", [user, password, behind @ ..]) => {
                    hello.credentials = Some((user.clone(), password.clone()));
                    behind
                }
                (b"SETNAME", [name, behind @ ..]) if is_valid_name(name) => {
                    hello.name = Some(name.clone());
                    behind
                }
                (b"SETNAME", [_, ..]) => return Err(Reply::error(BAD_CLIENT_NAME)),
                _ => {
                    let option = errors::quoted(option, 128);
                    return Err(Reply::error(format!("ERR Syntax error in HELLO option '{option}'")));
                }
            };
        }
        Ok(hello)
    }
}

pub(crate) fn hello<'a>(session: &'a mut Session, request: &'a Request) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let hello = match Hello::parse(request) {
            Ok(hello) => hello,
            Err(reply) => return reply,
        };
        if let Some((user, password)) = hello.credentials
            && let Err(reply) = authenticate(session, &user, &password).await
        {
            return reply;
        }
        if !session.authenticated {
            return Reply::error(errors::HELLO_NEEDS_AUTH);
        }
        if let Some(name) = hello.name {
            session.client.details.lock().name = String::from_utf8_lossy(&name).into_owned();
        }
        if let Some(protocol) = hello.protocol {
            session.set_protocol(protocol);
        }
        hello_reply(session)
    })
}

fn hello_reply(session: &Session) -> Reply {
    let fields = [
        ("server", Reply::text("redis")),
        ("version", Reply::text(session.server.settings.redis_version.clone())),
        ("proto", Reply::Integer(session.protocol.number())),
        ("id", client_number(session)),
        ("mode", Reply::text("standalone")),
        ("role", Reply::text("master")),
        ("modules", Reply::Array(Vec::new())),
    ];
    Reply::Map(fields.map(|(name, value)| (Reply::text(name), value)).into())
}

fn client_number(session: &Session) -> Reply {
    Reply::Integer(i64::try_from(session.client.id).unwrap_or(i64::MAX))
}

pub(crate) fn client_id(session: &mut Session, _: &Request) -> Reply {
    client_number(session)
}

pub(crate) fn client_getname(session: &mut Session, _: &Request) -> Reply {
    let name = session.client.details.lock().name.clone();
    if name.is_empty() { Reply::Null } else { Reply::text(name) }
}

pub(crate) fn client_setname(session: &mut Session, request: &Request) -> Reply {
    let name = request.argument(2);
    if !is_valid_name(name) {
        return Reply::error(BAD_CLIENT_NAME);
    }
    session.client.details.lock().name = String::from_utf8_lossy(name).into_owned();
    Reply::OK
}

/// `CLIENT SETINFO LIB-NAME name` or `LIB-VER version`.
pub(crate) fn client_setinfo(session: &mut Session, request: &Request) -> Reply {
    let (option, value) = (request.argument(2), request.argument(3));
    let lower = String::from_utf8_lossy(option).to_ascii_lowercase();
    let text = String::from_utf8_lossy(value).into_owned();
    if !is_valid_name(value) {
        return Reply::error(format!(
            "ERR {} cannot contain spaces, newlines or special characters.",
            errors::quoted(lower.as_bytes(), 128)
        ));
    }
    let mut details = session.client.details.lock();
    match lower.as_str() {
        "lib-name" => details.lib_name = text,
        "lib-ver" => details.lib_version = text,
        _ => {
            let option = errors::quoted(option, 128);
            return Reply::error(format!("ERR Unrecognized option '{option}'"));
        }
    }
    Reply::OK
}

pub(crate) fn client_info(session: &mut Session, _: &Request) -> Reply {
    Reply::Verbatim(session.client.line(Instant::now()) + "\n")
}

/// `CLIENT LIST [TYPE type] [ID id …]`. Every client is of type `normal`.
pub(crate) fn client_list(session: &mut Session, request: &Request) -> Reply {
    let mut clients = session.server.clients.all();
    match request.arguments_from(2) {
        [] => {}
        [option, kind] if option.eq_ignore_ascii_case(b"type") => {
            if [&b"master"[..], b"replica", b"slave", b"pubsub"].iter().any(|t| kind.eq_ignore_ascii_case(t))
            {
                clients.clear();
            } else if !kind.eq_ignore_ascii_case(b"normal") {
                let kind = errors::quoted(kind, 128);
                return Reply::error(format!("ERR Unknown client type '{kind}'"));
            }
        }
        [option, ids @ ..] if option.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
            let ids: Option<Vec<u64>> =
                ids.iter().map(|id| parse_i64(id).and_then(|id| u64::try_from(id).ok())).collect();
            let Some(ids) = ids else { return Reply::error("ERR Invalid client ID") };
            clients.retain(|client| ids.contains(&client.id));
        }
        _ => return Reply::error(errors::SYNTAX),
    }
    let now = Instant::now();
    Reply::Verbatim(clients.iter().map(|client| client.line(now) + "\n").collect())
}

/// `CLIENT NO-EVICT` and `NO-TOUCH`: accepted, because there is nothing to turn off.
pub(crate) fn client_on_or_off(_: &mut Session, request: &Request) -> Reply {
    let mode = request.argument(2);
    if mode.eq_ignore_ascii_case(b"on") || mode.eq_ignore_ascii_case(b"off") {
        Reply::OK
    } else {
        Reply::error(errors::SYNTAX)
    }
}
