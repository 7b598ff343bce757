//! The one table of commands: it drives dispatch, the checks of arity and authentication, and `COMMAND`.

use futures_util::future::BoxFuture;

use super::{
    errors,
    execute::{admin, connection, expiry, keys, strings},
    framing::Request,
    reply::Reply,
    server::Session,
};
use crate::node::{Step, StepDone};

/// What a command is.
pub(super) struct CommandSpec {
    /// In lower case; a subcommand's is `container|subcommand`.
    pub(super) name: &'static str,
    /// The number of arguments, the name included; negative: at least that many.
    pub(super) arity: i64,
    pub(super) flags: u16,
    /// The first and last key's position and the step between keys; zeros if there are none.
    pub(super) keys: (i64, i64, i64),
    pub(super) group: &'static str,
    pub(super) summary: &'static str,
    pub(super) handler: Handler,
}

/// How a command runs.
pub(super) enum Handler {
    /// Independent writes of single keys: run together with its neighbours' in one call of the node.
    Steps(fn(&Request, &mut Vec<Step>) -> Result<StepReply, Reply>),
    /// Reads the one key at position 1: run together with its neighbours.
    Get(fn(Option<bytes::Bytes>) -> Reply),
    /// Needs the connection only.
    Session(fn(&mut Session, &Request) -> Reply),
    /// Runs alone.
    Alone(for<'a> fn(&'a mut Session, &'a Request) -> BoxFuture<'a, Reply>),
    /// Runs one of its subcommands; alone, what the first says.
    Container(Option<fn(&mut Session, &Request) -> Reply>, &'static [CommandSpec]),
}

/// Makes a command's reply of what its steps did.
pub(super) enum StepReply {
    /// It has one step.
    One(fn(StepDone) -> Reply),
    /// It has any number, and says of how many the key was there.
    CountPresent,
}

/// Flags, by the names that `COMMAND` gives them.
pub(super) mod flag {
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const READONLY: u16 = 1 << 1;
    pub(crate) const DENYOOM: u16 = 1 << 2;
    pub(crate) const ADMIN: u16 = 1 << 3;
    pub(crate) const NOSCRIPT: u16 = 1 << 4;
    pub(crate) const LOADING: u16 = 1 << 5;
    pub(crate) const STALE: u16 = 1 << 6;
    pub(crate) const FAST: u16 = 1 << 7;
    pub(crate) const NO_AUTH: u16 = 1 << 8;
    pub(crate) const DANGEROUS: u16 = 1 << 9;

    /// The flags with a name in `COMMAND`; `DANGEROUS` is shown as a category only.
    pub(crate) const NAMES: [(u16, &str); 9] = [
        (WRITE, "write"),
        (READONLY, "readonly"),
        (DENYOOM, "denyoom"),
        (ADMIN, "admin"),
        (NOSCRIPT, "noscript"),
        (LOADING, "loading"),
        (STALE, "stale"),
        (FAST, "fast"),
        (NO_AUTH, "no_auth"),
    ];
}
use flag::{ADMIN, DANGEROUS, DENYOOM, FAST, LOADING, NO_AUTH, NOSCRIPT, READONLY, STALE, WRITE};

const NO_KEYS: (i64, i64, i64) = (0, 0, 0);
const ONE_KEY: (i64, i64, i64) = (1, 1, 1);
const ALL_KEYS: (i64, i64, i64) = (1, -1, 1);
const PAIRS: (i64, i64, i64) = (1, -1, 2);
const ANY_TIME: u16 = NOSCRIPT | LOADING | STALE;

const fn spec(
    name: &'static str,
    arity: i64,
    flags: u16,
    keys: (i64, i64, i64),
    (group, summary): (&'static str, &'static str),
    handler: Handler,
) -> CommandSpec {
    CommandSpec { name, arity, flags, keys, group, summary, handler }
}

/// Every command, by name.
#[rustfmt::skip]
pub(super) static COMMANDS: &[CommandSpec] = {
    use Handler::{Alone, Container, Get, Session, Steps};
    &[
        spec("append", 3, WRITE | DENYOOM | FAST, ONE_KEY,
            ("string", "Appends a string to the value of a key. Creates the key if it doesn't exist."), Steps(strings::append)),
        spec("auth", -2, ANY_TIME | FAST | NO_AUTH, NO_KEYS,
            ("connection", "Authenticates the connection."), Alone(connection::auth)),
        spec("client", -2, 0, NO_KEYS,
            ("connection", "A container for client connection commands."), Container(None, CLIENT)),
        spec("command", -1, LOADING | STALE, NO_KEYS,
            ("server", "Returns detailed information about all commands."), Container(Some(admin::command), COMMAND)),
        spec("config", -2, 0, NO_KEYS,
            ("server", "A container for server configuration commands."), Container(None, CONFIG)),
        spec("dbsize", 1, READONLY, NO_KEYS,
            ("server", "Returns the number of keys in the database, counted by a scan."), Alone(keys::dbsize)),
        spec("decr", 2, WRITE | DENYOOM | FAST, ONE_KEY,
            ("string", "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist."),
            Steps(strings::decr)),
        spec("decrby", 3, WRITE | DENYOOM | FAST, ONE_KEY,
            ("string", "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist."),
            Steps(strings::decrby)),
        spec("del", -2, WRITE, ALL_KEYS, ("generic", "Deletes one or more keys."), Steps(keys::del)),
        spec("echo", 2, LOADING | STALE | FAST, NO_KEYS,
            ("connection", "Returns the given string."), Session(connection::echo)),
        spec("exists", -2, READONLY | FAST, ALL_KEYS,
            ("generic", "Determines whether one or more keys exist."), Alone(keys::exists)),
        spec("expire", -3, WRITE | FAST, ONE_KEY,
            ("generic", "Sets the expiration time of a key in seconds."), Steps(expiry::expire)),
        spec("expireat", -3, WRITE | FAST, ONE_KEY,
            ("generic", "Sets the expiration time of a key to a Unix timestamp."), Steps(expiry::expireat)),
        spec("expiretime", 2, READONLY | FAST, ONE_KEY,
            ("generic", "Returns the expiration time of a key as a Unix timestamp."), Alone(expiry::expiretime)),
        spec("flushall", -1, WRITE | DANGEROUS, NO_KEYS,
            ("server", "Removes all keys, if the server's settings allow it."), Alone(keys::flush)),
        spec("flushdb", -1, WRITE | DANGEROUS, NO_KEYS,
            ("server", "Removes all keys, if the server's settings allow it."), Alone(keys::flush)),
        spec("get", 2, READONLY | FAST, ONE_KEY, ("string", "Returns the string value of a key."), Get(strings::get)),
        spec("getdel", 2, WRITE | FAST, ONE_KEY,
            ("string", "Returns the string value of a key after deleting the key."), Steps(strings::getdel)),
        spec("getex", -2, WRITE | FAST, ONE_KEY,
            ("string", "Returns the string value of a key after setting its expiration time."), Steps(expiry::getex)),
        spec("getset", 3, WRITE | DENYOOM | FAST, ONE_KEY,
            ("string", "Returns the previous string value of a key after setting it to a new value."), Steps(strings::getset)),
        spec("hello", -1, ANY_TIME | FAST | NO_AUTH, NO_KEYS,
            ("connection", "Handshakes with the server."), Alone(connection::hello)),
        spec("incr", 2, WRITE | DENYOOM | FAST, ONE_KEY,
            ("string", "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist."),
            Steps(strings::incr)),
        spec("incrby", 3, WRITE | DENYOOM | FAST, ONE_KEY,
            ("string", "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist."),
            Steps(strings::incrby)),
        spec("info", -1, LOADING | STALE | DANGEROUS, NO_KEYS,
            ("server", "Returns information and statistics about the server."), Alone(admin::info)),
        spec("keys", 2, READONLY | DANGEROUS, NO_KEYS,
            ("generic", "Returns all key names that match a pattern."), Alone(keys::keys)),
        spec("mget", -2, READONLY | FAST, ALL_KEYS,
            ("string", "Returns the string values of one or more keys."), Alone(strings::mget)),
        spec("mset", -3, WRITE | DENYOOM, PAIRS,
            ("string", "Atomically creates or modifies the string values of one or more keys."), Alone(strings::mset)),
        spec("persist", 2, WRITE | FAST, ONE_KEY,
            ("generic", "Removes the expiration time of a key."), Steps(expiry::persist)),
        spec("pexpire", -3, WRITE | FAST, ONE_KEY,
            ("generic", "Sets the expiration time of a key in milliseconds."), Steps(expiry::pexpire)),
        spec("pexpireat", -3, WRITE | FAST, ONE_KEY,
            ("generic", "Sets the expiration time of a key to a Unix timestamp in milliseconds."), Steps(expiry::pexpireat)),
        spec("pexpiretime", 2, READONLY | FAST, ONE_KEY,
            ("generic", "Returns the expiration time of a key as a Unix timestamp in milliseconds."), Alone(expiry::pexpiretime)),
        spec("ping", -1, FAST, NO_KEYS, ("connection", "Returns the server's liveliness response."), Session(connection::ping)),
        spec("psetex", 4, WRITE | DENYOOM, ONE_KEY,
            ("string", "Sets the string value and the expiration time in milliseconds of a key."), Steps(expiry::psetex)),
        spec("pttl", 2, READONLY | FAST, ONE_KEY,
            ("generic", "Returns how many milliseconds a key has left."), Alone(expiry::pttl)),
        spec("quit", -1, ANY_TIME | FAST | NO_AUTH, NO_KEYS, ("connection", "Closes the connection."), Session(connection::quit)),
        spec("reset", 1, ANY_TIME | FAST | NO_AUTH, NO_KEYS, ("connection", "Resets the connection."), Session(connection::reset)),
        spec("scan", -2, READONLY, NO_KEYS, ("generic", "Iterates over the key names in the database."), Alone(keys::scan)),
        spec("select", 2, LOADING | STALE | FAST, NO_KEYS,
            ("connection", "Changes the selected database. There is one, 0."), Session(connection::select)),
        spec("set", -3, WRITE | DENYOOM, ONE_KEY, ("string", "Sets the string value of a key."), Steps(strings::set)),
        spec("setex", 4, WRITE | DENYOOM, ONE_KEY,
            ("string", "Sets the string value and the expiration time in seconds of a key."), Steps(expiry::setex)),
        spec("setnx", 3, WRITE | DENYOOM | FAST, ONE_KEY,
            ("string", "Sets the string value of a key only when the key doesn't exist."), Steps(strings::setnx)),
        spec("strlen", 2, READONLY | FAST, ONE_KEY, ("string", "Returns the length of a string value."), Get(strings::strlen)),
        spec("ttl", 2, READONLY | FAST, ONE_KEY,
            ("generic", "Returns how many seconds a key has left."), Alone(expiry::ttl)),
        spec("type", 2, READONLY | FAST, ONE_KEY,
            ("generic", "Determines the type of value stored at a key."), Get(keys::value_type)),
        spec("unlink", -2, WRITE | FAST, ALL_KEYS, ("generic", "Deletes one or more keys."), Steps(keys::del)),
    ]
};

#[rustfmt::skip]
static CLIENT: &[CommandSpec] = {
    use Handler::Session;
    &[
        spec("client|getname", 2, ANY_TIME, NO_KEYS,
            ("connection", "Returns the name of the connection."), Session(connection::client_getname)),
        spec("client|id", 2, ANY_TIME, NO_KEYS,
            ("connection", "Returns the unique client ID of the connection."), Session(connection::client_id)),
        spec("client|info", 2, ANY_TIME, NO_KEYS,
            ("connection", "Returns information about the connection."), Session(connection::client_info)),
        spec("client|list", -2, ANY_TIME | ADMIN | DANGEROUS, NO_KEYS,
            ("connection", "Lists open connections."), Session(connection::client_list)),
        spec("client|no-evict", 3, ANY_TIME | ADMIN | DANGEROUS, NO_KEYS,
            ("connection", "Accepted; no client is evicted."), Session(connection::client_on_or_off)),
        spec("client|no-touch", 3, ANY_TIME, NO_KEYS,
            ("connection", "Accepted; reading a key has no side effect."), Session(connection::client_on_or_off)),
        spec("client|setinfo", 4, ANY_TIME, NO_KEYS,
            ("connection", "Sets information specific to the client or connection."), Session(connection::client_setinfo)),
        spec("client|setname", 3, ANY_TIME, NO_KEYS,
            ("connection", "Sets the connection name."), Session(connection::client_setname)),
    ]
};

#[rustfmt::skip]
static COMMAND: &[CommandSpec] = {
    use Handler::Session;
    &[
        spec("command|count", 2, LOADING | STALE, NO_KEYS,
            ("server", "Returns a count of commands."), Session(admin::command_count)),
        spec("command|docs", -2, LOADING | STALE, NO_KEYS,
            ("server", "Returns documentary information about one, multiple or all commands."), Session(admin::command_docs)),
        spec("command|getkeys", -3, LOADING | STALE, NO_KEYS,
            ("server", "Extracts the key names from an arbitrary command."), Session(admin::command_getkeys)),
        spec("command|info", -2, LOADING | STALE, NO_KEYS,
            ("server", "Returns information about one, multiple or all commands."), Session(admin::command_info)),
        spec("command|list", 2, LOADING | STALE, NO_KEYS,
            ("server", "Returns a list of command names."), Session(admin::command_list)),
    ]
};

static CONFIG: &[CommandSpec] = &[spec(
    "config|get",
    -3,
    ANY_TIME | ADMIN | DANGEROUS,
    NO_KEYS,
    ("server", "Returns the effective values of configuration parameters."),
    Handler::Session(admin::config_get),
)];

/// The longest name of a command or subcommand, container included.
const MAX_NAME_BYTES: usize = 24;

/// The command of that name, in any case.
pub(super) fn command(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut buffer = [0; MAX_NAME_BYTES];
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let at = COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    COMMANDS.get(at)
}

impl CommandSpec {
    /// The name that follows the container's, or the name.
    pub(super) fn own_name(&self) -> &'static str {
        self.name.rsplit_once('|').map_or(self.name, |(_, own)| own)
    }

    pub(super) fn subcommands(&self) -> &'static [CommandSpec] {
        match self.handler {
            Handler::Container(_, subcommands) => subcommands,
            _ => &[],
        }
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn accepts(&self, arguments: usize) -> bool {
        let arguments = i64::try_from(arguments).unwrap_or(i64::MAX);
        if self.arity < 0 { arguments >= -self.arity } else { arguments == self.arity }
    }
}

/// The command that `request` is, or the error that Redis has for one that does not exist or has the wrong
/// number of arguments, or needs authentication first.
pub(super) fn resolve(request: &Request, authenticated: bool) -> Result<&'static CommandSpec, Reply> {
    let Some(mut spec) = command(request.argument(0)) else {
        return Err(errors::unknown_command(&request.arguments));
    };
    let count = request.arguments.len();
    if let (Handler::Container(_, subcommands), true) = (&spec.handler, count > 1) {
        let name = request.argument(1);
        let found = subcommands.iter().find(|sub| sub.own_name().as_bytes().eq_ignore_ascii_case(name));
        spec = found.ok_or_else(|| errors::unknown_subcommand(spec.name, name))?;
    }
    if !spec.accepts(count) {
        return Err(errors::wrong_arity(spec.name));
    }
    if !authenticated && !spec.has(NO_AUTH) {
        return Err(Reply::error(errors::NO_AUTH));
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for spec in COMMANDS {
            assert!(spec.name.len() <= MAX_NAME_BYTES);
            let found = command(spec.name.to_ascii_uppercase().as_bytes());
            assert_eq!(found.map(|found| found.name), Some(spec.name));
            for sub in spec.subcommands() {
                assert_eq!(sub.name.split('|').next(), Some(spec.name));
                assert!(!matches!(sub.handler, Handler::Container(..)));
            }
        }
        assert!(command(b"nope").is_none() && command(&[b'x'; 1000]).is_none() && command(b"").is_none());
    }

    #[test]
    fn commands_that_read_or_write_keys_say_so() {
        for spec in COMMANDS {
            match spec.handler {
                Handler::Steps(_) => assert!(spec.has(WRITE), "{}", spec.name),
                Handler::Get(_) => assert!(spec.has(READONLY) && spec.arity == 2, "{}", spec.name),
                _ => {}
            }
        }
    }

    #[test]
    fn arity_counts_the_name() {
        let request =
            |words: &[&'static str]| Request { arguments: words.iter().map(|word| (*word).into()).collect() };
        let error = |words: &[&'static str]| resolve(&request(words), true).err();
        assert_eq!(error(&["get"]), Some(errors::wrong_arity("get")));
        assert_eq!(error(&["GET", "a", "b"]), Some(errors::wrong_arity("get")));
        assert_eq!(error(&["client", "SetName"]), Some(errors::wrong_arity("client|setname")));
        assert_eq!(error(&["client"]), Some(errors::wrong_arity("client")));
        assert_eq!(error(&["command"]), None);
        assert_eq!(error(&["config", "set"]), Some(errors::unknown_subcommand("config", b"set")));
        assert!(resolve(&request(&["get", "a"]), false).is_err());
        assert!(resolve(&request(&["auth", "a"]), false).is_ok());
    }
}
