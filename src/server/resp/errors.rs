//! The texts of errors: those that clients know from Redis, and what a dbex error becomes.

use std::fmt::Write as _;

use bytes::Bytes;

use super::reply::Reply;
use crate::error::{Error, ErrorKind};

/// How much of a client's bytes an error quotes, as in Redis.
const QUOTED_BYTES: usize = 128;

pub(super) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(super) const NO_AUTH: &str = "NOAUTH Authentication required.";
pub(super) const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
pub(super) const NO_PASSWORD_SET: &str = "ERR AUTH <password> called without any password configured for the \
                                          default user. Are you sure your configuration is correct?";
pub(super) const HELLO_NEEDS_AUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> \
     <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
pub(super) const UNKNOWN_PROTOCOL: &str = "NOPROTO unsupported protocol version";
pub(super) const PROTOCOL_NOT_A_NUMBER: &str = "ERR Protocol version is not an integer or out of range";
pub(super) const DATABASE_OUT_OF_RANGE: &str = "ERR DB index is out of range";
pub(super) const INVALID_CURSOR: &str = "ERR invalid cursor";
pub(super) const UNKNOWN_CURSOR: &str = "ERR unknown cursor: it was not given by this server, or the scan was left \
                                         for so long that it has been forgotten; start again with 0";
pub(super) const NX_AND_OTHERS: &str = "ERR NX and XX, GT or LT options at the same time are not compatible";
pub(super) const GT_AND_LT: &str = "ERR GT and LT options at the same time are not compatible";
pub(super) const FLUSH_DISABLED: &str =
    "ERR FLUSHALL and FLUSHDB are disabled; enable them in the settings of the server";
pub(super) const TOO_MANY_CLIENTS: &str = "ERR max number of clients reached";
pub(super) const REQUEST_TIMEOUT: &str = "ERR the request took too long to arrive";
pub(super) const NO_CLIENT_MEMORY: &str =
    "ERR the memory for all clients is used up; try again, or send smaller requests";
pub(super) const REPLY_TOO_LARGE: &str =
    "ERR the reply would exceed the memory for clients; ask for less at a time";

pub(super) fn wrong_arity(command: &str) -> Reply {
    Reply::error(format!("ERR wrong number of arguments for '{command}' command"))
}

pub(super) fn invalid_expiry(command: &str) -> Reply {
    Reply::error(format!("ERR invalid expire time in '{command}' command"))
}

pub(super) fn unsupported_option(option: &[u8]) -> Reply {
    Reply::error(format!("ERR Unsupported option {}", quoted(option, QUOTED_BYTES)))
}

pub(super) fn unknown_command(arguments: &[Bytes]) -> Reply {
    let (name, rest) = arguments.split_first().map_or((&b""[..], &[][..]), |(name, rest)| (&name[..], rest));
    let mut shown = String::new();
    let mut left = QUOTED_BYTES;
    for argument in rest {
        if left == 0 {
            break;
        }
        // Writing to a String cannot fail.
        let _ = write!(shown, "'{}' ", quoted(argument, left));
        left = left.saturating_sub(argument.len() + 3);
    }
    let name = quoted(name, QUOTED_BYTES);
    Reply::error(format!("ERR unknown command '{name}', with args beginning with: {shown}"))
}

pub(super) fn unknown_subcommand(command: &str, subcommand: &[u8]) -> Reply {
    let subcommand = quoted(subcommand, QUOTED_BYTES);
    let command = command.to_ascii_uppercase();
    Reply::error(format!("ERR unknown subcommand '{subcommand}'. Try {command} HELP."))
}

pub(super) fn quoted(bytes: &[u8], most: usize) -> String {
    String::from_utf8_lossy(bytes.get(..most).unwrap_or(bytes)).replace('\0', "\u{fffd}")
}

/// What a failure of the node becomes: a code word that clients know where one fits, else `ERR` with the
/// error's kind.
pub(super) fn node_error(error: &Error) -> Reply {
    Reply::error(match error.kind() {
        ErrorKind::Busy => format!("TRYAGAIN {error}"),
        ErrorKind::NoSpace => format!("MISCONF {error}"),
        ErrorKind::Invalid => format!("ERR {error}"),
        kind => format!("ERR {}: {error}", kind.name()),
    })
}

/// The reply that `result` holds.
pub(super) fn reply_or_error(result: Result<Reply, Error>) -> Reply {
    result.unwrap_or_else(|error| node_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(arguments: &[&'static str]) -> Reply {
        unknown_command(&arguments.iter().map(|argument| Bytes::from(*argument)).collect::<Vec<_>>())
    }

    #[test]
    fn unknown_commands_are_quoted_as_redis_does() {
        let text = "ERR unknown command 'foo', with args beginning with: 'a' 'b' ";
        assert_eq!(unknown(&["foo", "a", "b"]), Reply::error(text));
        assert_eq!(unknown(&["foo"]), Reply::error("ERR unknown command 'foo', with args beginning with: "));
        let long = "x".repeat(500);
        let Reply::Error(text) = unknown_command(&[Bytes::from(long.clone()), Bytes::from(long)]) else {
            panic!("not an error")
        };
        assert!(text.len() < 350, "{}", text.len());
    }

    #[test]
    fn kinds_become_code_words() {
        assert_eq!(node_error(&Error::busy("the queue is full")), Reply::error("TRYAGAIN the queue is full"));
        assert_eq!(node_error(&Error::closed()), Reply::error("ERR closed: the node is closed"));
        assert_eq!(node_error(&Error::invalid("x")), Reply::error("ERR x"));
    }
}
