//! Replies, and their encoding in either protocol by the `redis-protocol` crate. A command makes one reply;
//! what RESP2 has no type for (maps, sets, verbatim text, null) becomes what Redis sends there.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use redis_protocol::{
    error::RedisProtocolError,
    resp2::{encode as resp2_encode, types as resp2},
    resp3::{encode::complete as resp3_encode, types as resp3},
};

/// Which protocol a connection speaks. `HELLO` changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

impl Protocol {
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Simple(&'static str),
    /// Begins with a code word, such as `ERR`.
    Error(Cow<'static, str>),
    Integer(i64),
    Bulk(Bytes),
    Null,
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Set(Vec<Reply>),
    /// Text for people: a bulk string in RESP2.
    Verbatim(String),
}

impl Reply {
    pub(super) const OK: Self = Self::Simple("OK");

    pub(super) fn error(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Error(text.into())
    }

    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::Bulk(text.into())
    }

    /// A value, or null.
    pub(super) fn value(value: Option<Bytes>) -> Self {
        value.map_or(Self::Null, Self::Bulk)
    }

    /// A count.
    pub(super) fn count(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// About how many bytes the encoded reply has.
    pub(super) fn memory_bytes(&self) -> usize {
        const FRAMING: usize = 16;
        FRAMING
            + match self {
                Self::Simple(text) => text.len(),
                Self::Error(text) => text.len(),
                Self::Verbatim(text) => text.len(),
                Self::Bulk(bytes) => bytes.len(),
                Self::Integer(_) | Self::Null => 0,
                Self::Array(replies) | Self::Set(replies) => replies.iter().map(Self::memory_bytes).sum(),
                Self::Map(pairs) => {
                    pairs.iter().map(|(key, value)| key.memory_bytes() + value.memory_bytes()).sum()
                }
            }
    }

    /// Appends the reply to `output`.
    pub(super) fn encode(self, protocol: Protocol, output: &mut BytesMut) {
        let start = output.len();
        let encoded = match protocol {
            Protocol::Resp2 => encode_resp2(self, output),
            Protocol::Resp3 => encode_resp3(self, output),
        };
        if let Ok(bytes) = encoded {
            // NOTE: the crate reserves by an estimate that is a byte too long for integers just below a
            // power of ten past 2^53, so what it did not fill is cut off here.
            output.truncate(start + bytes);
        } else {
            output.truncate(start);
            output.extend_from_slice(b"-ERR internal: the reply cannot be encoded\r\n");
        }
    }
}

/// Whole messages only: the offset behind the last byte is returned, counted from the start of `output`'s
/// new part.
type Encoded = Result<usize, RedisProtocolError>;

fn encode_resp2(reply: Reply, output: &mut BytesMut) -> Encoded {
    use resp2::BorrowedFrame as Frame;
    let start = output.len();
    let end = match &reply {
        Reply::Simple(text) => borrowed_resp2(output, &Frame::SimpleString(text.as_bytes())),
        Reply::Error(text) => borrowed_resp2(output, &Frame::Error(&one_line(text))),
        Reply::Integer(number) => borrowed_resp2(output, &Frame::Integer(*number)),
        Reply::Bulk(bytes) => borrowed_resp2(output, &Frame::BulkString(bytes)),
        Reply::Verbatim(text) => borrowed_resp2(output, &Frame::BulkString(text.as_bytes())),
        Reply::Null => borrowed_resp2(output, &Frame::Null),
        Reply::Array(_) | Reply::Map(_) | Reply::Set(_) => {
            resp2_encode::extend_encode(output, &resp2_frame(reply), false)
        }
    };
    end.map(|end| end - start)
}

fn borrowed_resp2(output: &mut BytesMut, frame: &resp2::BorrowedFrame<'_>) -> Encoded {
    resp2_encode::extend_encode_borrowed(output, frame, false)
}

fn resp2_frame(reply: Reply) -> resp2::BytesFrame {
    use resp2::BytesFrame as Frame;
    match reply {
        Reply::Simple(text) => Frame::SimpleString(Bytes::from_static(text.as_bytes())),
        Reply::Error(text) => Frame::Error(one_line(&text).into_owned().into()),
        Reply::Integer(number) => Frame::Integer(number),
        Reply::Bulk(bytes) => Frame::BulkString(bytes),
        Reply::Verbatim(text) => Frame::BulkString(text.into()),
        Reply::Null => Frame::Null,
        Reply::Array(replies) | Reply::Set(replies) => {
            Frame::Array(replies.into_iter().map(resp2_frame).collect())
        }
        Reply::Map(pairs) => {
            let flat = pairs.into_iter().flat_map(|(key, value)| [key, value]);
            Frame::Array(flat.map(resp2_frame).collect())
        }
    }
}

fn encode_resp3(reply: Reply, output: &mut BytesMut) -> Encoded {
    use resp3::BorrowedFrame as Frame;
    let start = output.len();
    let attributes = None;
    let end = match &reply {
        Reply::Simple(text) => {
            borrowed_resp3(output, &Frame::SimpleString { data: text.as_bytes(), attributes })
        }
        Reply::Error(text) => {
            borrowed_resp3(output, &Frame::SimpleError { data: &one_line(text), attributes })
        }
        Reply::Integer(number) => borrowed_resp3(output, &Frame::Number { data: *number, attributes }),
        Reply::Bulk(bytes) => borrowed_resp3(output, &Frame::BlobString { data: bytes, attributes }),
        Reply::Null => borrowed_resp3(output, &Frame::Null),
        Reply::Verbatim(_) | Reply::Array(_) | Reply::Map(_) | Reply::Set(_) => {
            resp3_encode::extend_encode(output, &resp3_frame(reply), false)
        }
    };
    end.map(|end| end - start)
}

fn borrowed_resp3(output: &mut BytesMut, frame: &resp3::BorrowedFrame<'_>) -> Encoded {
    resp3_encode::extend_encode_borrowed(output, frame, false)
}

fn resp3_frame(reply: Reply) -> resp3::BytesFrame {
    use resp3::BytesFrame as Frame;
    let attributes = None;
    match reply {
        Reply::Simple(text) => Frame::SimpleString { data: Bytes::from_static(text.as_bytes()), attributes },
        Reply::Error(text) => Frame::SimpleError { data: one_line(&text).into_owned().into(), attributes },
        Reply::Integer(data) => Frame::Number { data, attributes },
        Reply::Bulk(data) => Frame::BlobString { data, attributes },
        Reply::Verbatim(text) => {
            Frame::VerbatimString { data: text.into(), format: resp3::VerbatimStringFormat::Text, attributes }
        }
        Reply::Null => Frame::Null,
        Reply::Array(replies) => {
            Frame::Array { data: replies.into_iter().map(resp3_frame).collect(), attributes }
        }
        Reply::Set(replies) => {
            Frame::Set { data: replies.into_iter().map(resp3_frame).collect(), attributes }
        }
        Reply::Map(pairs) => {
            let pairs = pairs.into_iter().map(|(key, value)| (resp3_frame(key), resp3_frame(value)));
            Frame::Map { data: pairs.collect(), attributes }
        }
    }
}

/// An error is one line, whatever the client sent that it quotes.
fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(['\r', '\n']) {
        Cow::Owned(text.replace(['\r', '\n'], " "))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: &Reply, protocol: Protocol) -> String {
        let mut output = BytesMut::from("x");
        reply.clone().encode(protocol, &mut output);
        String::from_utf8(output[1..].to_vec()).unwrap()
    }

    #[test]
    fn both_protocols() {
        let map = Reply::Map(vec![(Reply::text("b"), Reply::Integer(1)), (Reply::text("a"), Reply::Null)]);
        let cases = [
            (Reply::OK, "+OK\r\n", "+OK\r\n"),
            (Reply::error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (Reply::Integer(-5), ":-5\r\n", ":-5\r\n"),
            (Reply::text("a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (Reply::Array(vec![]), "*0\r\n", "*0\r\n"),
            (
                Reply::Array(vec![Reply::error("ERR\n"), Reply::Null]),
                "*2\r\n-ERR \r\n$-1\r\n",
                "*2\r\n-ERR \r\n_\r\n",
            ),
            (map, "*4\r\n$1\r\nb\r\n:1\r\n$1\r\na\r\n$-1\r\n", "%2\r\n$1\r\nb\r\n:1\r\n$1\r\na\r\n_\r\n"),
            (Reply::Set(vec![Reply::Simple("x")]), "*1\r\n+x\r\n", "~1\r\n+x\r\n"),
            (Reply::Verbatim("hi".into()), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
        ];
        for (reply, resp2, resp3) in cases {
            assert_eq!(encoded(&reply, Protocol::Resp2), resp2);
            assert_eq!(encoded(&reply, Protocol::Resp3), resp3);
        }
    }

    #[test]
    fn integers_near_powers_of_ten_have_no_byte_too_many() {
        for power in 0..19u32 {
            for number in [10i64.pow(power) - 1, 10i64.pow(power), -(10i64.pow(power)), i64::MAX, i64::MIN] {
                let array = Reply::Array(vec![Reply::Integer(number), Reply::OK]);
                for protocol in [Protocol::Resp2, Protocol::Resp3] {
                    assert_eq!(encoded(&Reply::Integer(number), protocol), format!(":{number}\r\n"));
                    assert_eq!(encoded(&array, protocol), format!("*2\r\n:{number}\r\n+OK\r\n"));
                }
            }
        }
    }
}
