//! The bounds of a request, checked on the raw bytes before anything is parsed, and piece by piece as they
//! arrive: counts and lengths are compared with their limits before a byte is reserved for them, and no byte
//! is looked at twice. What passes is one whole array of bulk strings, or one inline line; `framing` then
//! hands it to the parser. Nothing here allocates.

use std::fmt;

use super::{integer::parse_i64, settings::RespSettings};

/// The longest inline line, its end not counted.
pub(super) const MAX_INLINE_BYTES: usize = 64 << 10;
/// Room for the key, the options and the framing of a request whose value has the largest size.
const ROOM_BESIDE_VALUE: usize = 128 << 10;
/// The longest count or length: a sign and 20 digits, and the line's end. What is longer is refused unread.
const MAX_HEADER_BYTES: usize = 32;
/// What a client may send before it has authenticated.
const UNAUTHENTICATED_ARGUMENTS: usize = 10;
const UNAUTHENTICATED_BULK_BYTES: usize = 16 << 10;
/// The first byte of a TLS handshake, which no inline command begins with.
const TLS_HANDSHAKE: u8 = 0x16;

/// How large a request of a connection may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    arguments: usize,
    bulk_bytes: usize,
    request_bytes: usize,
    authenticated: bool,
}

impl Limits {
    pub(super) fn new(settings: &RespSettings, authenticated: bool) -> Self {
        let (arguments, bulk_bytes) = (settings.max_arguments, settings.max_request_bytes);
        if authenticated {
            let request_bytes = bulk_bytes.saturating_add(ROOM_BESIDE_VALUE);
            return Self { arguments, bulk_bytes, request_bytes, authenticated };
        }
        Self {
            arguments: arguments.min(UNAUTHENTICATED_ARGUMENTS),
            bulk_bytes: bulk_bytes.min(UNAUTHENTICATED_BULK_BYTES),
            request_bytes: UNAUTHENTICATED_ARGUMENTS * (UNAUTHENTICATED_BULK_BYTES + MAX_HEADER_BYTES),
            authenticated,
        }
    }
}

/// What stands at the front of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// A request that is not all there. It needs at least `wanted` bytes from its start.
    Incomplete { wanted: usize },
    /// An array of bulk strings of this many bytes.
    Array { bytes: usize, arguments: usize },
    /// An inline line of this many bytes, its end included.
    Inline { bytes: usize },
    /// An empty array, of this many bytes: no request, and no reply.
    Empty { bytes: usize },
}

/// Bytes that are no request. The connection is told, and closed: where the next request would begin is
/// not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProtocolError {
    CountTooLong,
    InvalidCount,
    UnauthenticatedCount,
    LengthTooLong,
    InvalidLength,
    UnauthenticatedLength,
    ExpectedBulk {
        found: u8,
    },
    MissingBulkEnd,
    RequestTooBig,
    InlineTooBig,
    UnbalancedQuotes,
    Tls,
    /// The parser refused what these checks let through.
    Parser,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            Self::CountTooLong => f.write_str("too big mbulk count string"),
            Self::InvalidCount => f.write_str("invalid multibulk length"),
            Self::UnauthenticatedCount => f.write_str("unauthenticated multibulk length"),
            Self::LengthTooLong => f.write_str("too big bulk count string"),
            Self::InvalidLength => f.write_str("invalid bulk length"),
            Self::UnauthenticatedLength => f.write_str("unauthenticated bulk length"),
            Self::ExpectedBulk { found } => write!(f, "expected '$', got '{}'", found.escape_ascii()),
            Self::MissingBulkEnd => f.write_str("expected CRLF behind a bulk string"),
            Self::RequestTooBig => f.write_str("too big request"),
            Self::InlineTooBig => f.write_str("too big inline request"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::Tls => f.write_str("this port does not speak TLS"),
            Self::Parser => f.write_str("malformed request"),
        }
    }
}

/// How far the request at the front of a buffer has been checked.
#[derive(Debug, Default)]
pub(super) struct RequestScan {
    /// Every byte before this one is checked, or known to be the body of an argument.
    position: usize,
    /// The array's count and how many of its arguments are still to come; `None` before the count is read.
    array: Option<(usize, usize)>,
    /// Where the argument that is being received ends, without its CRLF.
    body_end: Option<usize>,
}

impl RequestScan {
    /// Goes on checking `buffer`, which begins with the request and holds at least what it held at the last
    /// call. After a request, or an empty array, it is ready for the next one.
    pub(super) fn advance(&mut self, buffer: &[u8], limits: &Limits) -> Result<Progress, ProtocolError> {
        let progress = match buffer.first() {
            None => Progress::Incomplete { wanted: 1 },
            Some(b'*') => self.array(buffer, limits)?,
            Some(&TLS_HANDSHAKE) => return Err(ProtocolError::Tls),
            Some(_) => self.inline(buffer)?,
        };
        if !matches!(progress, Progress::Incomplete { .. }) {
            *self = Self::default();
        }
        Ok(progress)
    }

    fn inline(&mut self, buffer: &[u8]) -> Result<Progress, ProtocolError> {
        let unread = buffer.get(self.position..).unwrap_or_default();
        let end = unread.iter().position(|byte| *byte == b'\n').map(|at| self.position + at);
        if end.unwrap_or(buffer.len()) > MAX_INLINE_BYTES + usize::from(end.is_some()) {
            return Err(ProtocolError::InlineTooBig);
        }
        self.position = buffer.len();
        Ok(match end {
            Some(end) => Progress::Inline { bytes: end + 1 },
            None => Progress::Incomplete { wanted: buffer.len() + 1 },
        })
    }

    fn array(&mut self, buffer: &[u8], limits: &Limits) -> Result<Progress, ProtocolError> {
        let (count, mut left) = match self.array {
            Some(array) => array,
            None => match self.count(buffer, limits)? {
                Some(0) => return Ok(Progress::Empty { bytes: self.position }),
                Some(count) => (count, count),
                None => return Ok(Progress::Incomplete { wanted: buffer.len() + 1 }),
            },
        };
        while left > 0 {
            self.array = Some((count, left));
            let end = match self.body_end {
                Some(end) => end,
                None => match self.length(buffer, limits)? {
                    Some(end) => end,
                    None => return Ok(Progress::Incomplete { wanted: buffer.len() + 1 }),
                },
            };
            self.body_end = Some(end);
            match buffer.get(end..).unwrap_or_default() {
                [b'\r', b'\n', ..] => {}
                [] | [b'\r'] => return Ok(Progress::Incomplete { wanted: end + 2 }),
                _ => return Err(ProtocolError::MissingBulkEnd),
            }
            self.position = end + 2;
            self.body_end = None;
            left -= 1;
        }
        Ok(Progress::Array { bytes: self.position, arguments: count })
    }

    /// Reads the array's count, if its line is all there.
    fn count(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        let (number, end) = match header(buffer, 1) {
            Header::Line { number, end } => (number, end),
            Header::Incomplete => return Ok(None),
            Header::TooLong => return Err(ProtocolError::CountTooLong),
        };
        let count = number.ok_or(ProtocolError::InvalidCount)?;
        if count > limits.arguments {
            return Err(if limits.authenticated {
                ProtocolError::InvalidCount
            } else {
                ProtocolError::UnauthenticatedCount
            });
        }
        self.position = end;
        Ok(Some(count))
    }

    /// Reads an argument's length, if its line is all there, and returns where the argument ends.
    fn length(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        match buffer.get(self.position) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&found) => return Err(ProtocolError::ExpectedBulk { found }),
        }
        let (number, start) = match header(buffer, self.position + 1) {
            Header::Line { number, end } => (number, end),
            Header::Incomplete => return Ok(None),
            Header::TooLong => return Err(ProtocolError::LengthTooLong),
        };
        let length = number.ok_or(ProtocolError::InvalidLength)?;
        if length > limits.bulk_bytes {
            return Err(if limits.authenticated {
                ProtocolError::InvalidLength
            } else {
                ProtocolError::UnauthenticatedLength
            });
        }
        let end = start + length;
        if end + 2 > limits.request_bytes {
            return Err(ProtocolError::RequestTooBig);
        }
        self.position = start;
        Ok(Some(end))
    }
}

/// A line that holds a number.
enum Header {
    /// The line, its end included, ends at `end`; the number is `None` if the line holds anything else.
    Line { number: Option<usize>, end: usize },
    /// The line is not all there.
    Incomplete,
    /// The line is too long for any number.
    TooLong,
}

/// The line from `start` on.
fn header(buffer: &[u8], start: usize) -> Header {
    let rest = buffer.get(start..).unwrap_or_default();
    let line = rest.get(..MAX_HEADER_BYTES).unwrap_or(rest);
    let Some(cr) = line.iter().position(|byte| *byte == b'\r') else {
        return if line.len() < MAX_HEADER_BYTES { Header::Incomplete } else { Header::TooLong };
    };
    let end = start + cr + 2;
    match rest.get(cr + 1) {
        None => Header::Incomplete,
        Some(b'\n') => {
            let number = rest.get(..cr).and_then(parse_i64);
            Header::Line { number: number.and_then(|number| usize::try_from(number).ok()), end }
        }
        // A CR without its LF makes no number.
        Some(_) => Header::Line { number: None, end },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(authenticated: bool) -> Limits {
        Limits::new(&RespSettings::default(), authenticated)
    }

    fn advance(bytes: &[u8]) -> Result<Progress, ProtocolError> {
        RequestScan::default().advance(bytes, &limits(true))
    }

    #[test]
    fn whole_requests() {
        assert_eq!(advance(b"*1\r\n$4\r\nPING\r\nrest"), Ok(Progress::Array { bytes: 14, arguments: 1 }));
        assert_eq!(advance(b"*0\r\n"), Ok(Progress::Empty { bytes: 4 }));
        assert_eq!(advance(b"PING\r\nPING\r\n"), Ok(Progress::Inline { bytes: 6 }));
        assert_eq!(advance(b"*1\r\n$4\r\nPI"), Ok(Progress::Incomplete { wanted: 14 }));
        assert_eq!(advance(b"*2\r\n$1\r\n\n\r\n$0\r\n\r\n"), Ok(Progress::Array { bytes: 17, arguments: 2 }));
    }

    #[test]
    fn bad_counts_and_lengths_are_refused_before_their_bytes_arrive() {
        use ProtocolError as E;
        let cases: &[(&[u8], E)] = &[
            (b"*-1\r\n", E::InvalidCount),
            (b"*-9223372036854775808\r\n", E::InvalidCount),
            (b"*1048577\r\n", E::InvalidCount),
            (b"*99999999999999999999\r\n", E::InvalidCount),
            (b"*\r\n", E::InvalidCount),
            (b"*1x\r\n", E::InvalidCount),
            (b"*+1\r\n", E::InvalidCount),
            (b"*1\rx", E::InvalidCount),
            (b"*11111111111111111111111111111111", E::CountTooLong),
            (b"*1\r\n$-1\r\n", E::InvalidLength),
            (b"*1\r\n$67108865\r\n", E::InvalidLength),
            (b"*1\r\n$99999999999999999999\r\n", E::InvalidLength),
            (b"*1\r\n$\r\n", E::InvalidLength),
            (b"*1\r\n$11111111111111111111111111111111", E::LengthTooLong),
            (b"*1\r\n*1\r\n", E::ExpectedBulk { found: b'*' }),
            (b"*1\r\n:5\r\n", E::ExpectedBulk { found: b':' }),
            (b"*1\r\n$4\r\nPINGxx", E::MissingBulkEnd),
            (b"*1\r\n$3\r\nPING\r\n", E::MissingBulkEnd),
            (b"*1\r\n$4\r\nPING\rx", E::MissingBulkEnd),
            (b"*3\r\n$1\r\na\r\n$67108864\r\n", E::RequestTooBig),
            (b"\x16\x03\x01\x02\x00", E::Tls),
        ];
        for (bytes, error) in cases {
            let mut padded = bytes.to_vec();
            if *error == E::RequestTooBig {
                // Two arguments of the largest size: the second length is refused.
                padded = b"*3\r\n$67108864\r\n".to_vec();
                padded.resize(padded.len() + (64 << 20), b'x');
                padded.extend_from_slice(b"\r\n$67108864\r\n");
            }
            assert_eq!(advance(&padded).as_ref(), Err(error), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn before_auth_requests_are_small() {
        let mut scan = RequestScan::default();
        assert_eq!(scan.advance(b"*11\r\n", &limits(false)), Err(ProtocolError::UnauthenticatedCount));
        let mut scan = RequestScan::default();
        let sixteen = scan.advance(b"*1\r\n$16384\r\n", &limits(false));
        assert_eq!(sixteen, Ok(Progress::Incomplete { wanted: 12 + 16384 + 2 }));
        let mut scan = RequestScan::default();
        let more = scan.advance(b"*1\r\n$16385\r\n", &limits(false));
        assert_eq!(more, Err(ProtocolError::UnauthenticatedLength));
    }

    #[test]
    fn an_inline_line_has_at_most_64_kib() {
        let mut line = vec![b'x'; MAX_INLINE_BYTES];
        assert!(matches!(advance(&line), Ok(Progress::Incomplete { .. })));
        line.extend_from_slice(b"\n");
        assert_eq!(advance(&line), Ok(Progress::Inline { bytes: MAX_INLINE_BYTES + 1 }));
        let mut line = vec![b'x'; MAX_INLINE_BYTES + 1];
        assert_eq!(advance(&line), Err(ProtocolError::InlineTooBig));
        line.extend_from_slice(b"\r\n");
        assert_eq!(advance(&line), Err(ProtocolError::InlineTooBig));
    }

    #[test]
    fn the_largest_value_fits_beside_the_largest_key() {
        let mut request = b"*3\r\n$3\r\nSET\r\n$65536\r\n".to_vec();
        request.resize(request.len() + (64 << 10), b'k');
        request.extend_from_slice(b"\r\n$67108864\r\n");
        assert!(matches!(advance(&request), Ok(Progress::Incomplete { .. })));
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(
            bytes in prop_oneof![
                prop::collection::vec(prop::sample::select(b"*$12\r\nab-".to_vec()), 0..60),
                Just(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n".to_vec()),
            ],
            cuts in prop::collection::vec(0usize..60, 0..8),
        ) {
            let whole = advance(&bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut scan = RequestScan::default();
            let mut last = Ok(Progress::Incomplete { wanted: 1 });
            for cut in cuts {
                last = scan.advance(&bytes[..cut], &limits(true));
                if !matches!(last, Ok(Progress::Incomplete { .. })) {
                    break;
                }
            }
            prop_assert_eq!(last, whole);
        }
    }
}
