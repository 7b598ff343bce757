//! Requests out of the bytes that a client sends. `limits` has checked them, the `redis-protocol` crate
//! parses them; arguments stay where they were received and are shared, not copied.

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::{decode::decode_range, types::RangeFrame};

use super::{
    inline,
    limits::{Limits, Progress, ProtocolError, RequestScan},
    memory::MemoryCharge,
};

/// What an argument costs beside its bytes, while a request is parsed and run.
const ARGUMENT_OVERHEAD_BYTES: usize = 96;

/// A command and its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The command's name and its arguments; never empty.
    pub(super) arguments: Vec<Bytes>,
}

impl Request {
    /// The argument at `index`; the command's name is at 0. Empty if there is none, which the command
    /// table's arity rules out for the arguments a command must have.
    pub(super) fn argument(&self, index: usize) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        self.arguments.get(index).unwrap_or(&NONE)
    }

    /// The arguments from `index` on.
    pub(super) fn arguments_from(&self, index: usize) -> &[Bytes] {
        self.arguments.get(index..).unwrap_or_default()
    }

    /// The memory that the request holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.arguments.iter().map(|argument| argument.len() + ARGUMENT_OVERHEAD_BYTES).sum()
    }
}

/// What the next bytes of a client are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Request(Request),
    /// The request at the front needs `wanted` bytes in all, or more.
    Incomplete {
        wanted: usize,
    },
    /// There is a request, but no memory left to parse it into.
    NoMemory,
}

/// Takes the next request off the front of `input`, and charges what it costs beside its bytes to `memory`.
pub(super) fn next_request(
    input: &mut BytesMut,
    scan: &mut RequestScan,
    limits: &Limits,
    memory: &mut MemoryCharge,
) -> Result<Next, ProtocolError> {
    loop {
        let arguments = match scan.advance(input, limits)? {
            Progress::Incomplete { wanted } => return Ok(Next::Incomplete { wanted }),
            Progress::Empty { bytes } => {
                let _ = input.split_to(bytes);
                continue;
            }
            Progress::Inline { bytes } => {
                let line = input.split_to(bytes);
                inline::split(&line).ok_or(ProtocolError::UnbalancedQuotes)?
            }
            Progress::Array { bytes, arguments } => {
                if !memory.try_set(memory.bytes() + arguments * ARGUMENT_OVERHEAD_BYTES) {
                    return Ok(Next::NoMemory);
                }
                array(&input.split_to(bytes).freeze(), arguments)?
            }
        };
        if !arguments.is_empty() {
            return Ok(Next::Request(Request { arguments }));
        }
    }
}

fn array(bytes: &Bytes, count: usize) -> Result<Vec<Bytes>, ProtocolError> {
    let Ok(Some((RangeFrame::Array(frames), used))) = decode_range(bytes) else {
        return Err(ProtocolError::Parser);
    };
    if used != bytes.len() || frames.len() != count {
        return Err(ProtocolError::Parser);
    }
    let arguments = frames.into_iter().map(|frame| match frame {
        RangeFrame::BulkString((start, end)) => Ok(bytes.slice(start..end)),
        _ => Err(ProtocolError::Parser),
    });
    arguments.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::resp::{memory::MemoryCap, settings::RespSettings};

    fn all(bytes: &[u8]) -> Result<Vec<Vec<Bytes>>, ProtocolError> {
        let limits = Limits::new(&RespSettings::default(), true);
        let (mut input, mut scan) = (BytesMut::from(bytes), RequestScan::default());
        let mut memory = MemoryCharge::new(&MemoryCap::new(1 << 20));
        let mut requests = Vec::new();
        while let Next::Request(request) = next_request(&mut input, &mut scan, &limits, &mut memory)? {
            requests.push(request.arguments);
        }
        Ok(requests)
    }

    #[test]
    fn arrays_lines_and_nothing_in_a_row() {
        let requests =
            all(b"*0\r\n\r\nGET \"a b\"\r\n*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n*1\r\n$4\r\nPI").unwrap();
        let expected: Vec<Vec<Bytes>> =
            vec![vec!["GET".into(), "a b".into()], vec!["GET".into(), "\r\n".into()]];
        assert_eq!(requests, expected);
        assert_eq!(all(b"get 'a\r\n"), Err(ProtocolError::UnbalancedQuotes));
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_comes_out(
            requests in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 0..6,
            ),
        ) {
            let mut bytes = Vec::new();
            for request in &requests {
                bytes.extend_from_slice(format!("*{}\r\n", request.len()).as_bytes());
                for argument in request {
                    bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
                    bytes.extend_from_slice(argument);
                    bytes.extend_from_slice(b"\r\n");
                }
            }
            let decoded = all(&bytes).unwrap();
            prop_assert_eq!(decoded, requests);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes);
        }

        #[test]
        fn the_parser_agrees_with_the_checks(
            bytes in prop::collection::vec(prop::sample::select(b"*$0123\r\nab-+:".to_vec()), 0..60),
        ) {
            prop_assert_ne!(all(&bytes), Err(ProtocolError::Parser));
        }
    }
}
