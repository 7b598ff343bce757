//! The replies of one connection that are not written yet.

use std::sync::Arc;

use bytes::{Buf, BytesMut};

use super::{
    errors,
    memory::{FREE_BYTES, MemoryCap, MemoryCharge},
    reply::{Protocol, Reply},
};

/// What an empty output keeps for the next replies.
const KEPT_BYTES: usize = 16 << 10;
/// From how many written bytes on they are dropped from the front while more wait behind them.
const DROPPED_BYTES: usize = 1 << 20;

/// Encoded replies, from the oldest that is not written.
pub(super) struct Output {
    buffer: BytesMut,
    /// How much of the buffer's front is written.
    written: usize,
    bytes_max: usize,
    /// A reply did not fit beside those that wait.
    is_blocked: bool,
    memory: Arc<MemoryCap>,
    charge: MemoryCharge,
}

impl Output {
    pub(super) fn new(bytes_max: usize, memory: &Arc<MemoryCap>) -> Self {
        let charge = MemoryCharge::new(memory);
        Self {
            buffer: BytesMut::new(),
            written: 0,
            bytes_max,
            is_blocked: false,
            memory: Arc::clone(memory),
            charge,
        }
    }

    /// Appends a reply, whatever its size.
    pub(super) fn push(&mut self, reply: Reply, protocol: Protocol) {
        reply.encode(protocol, &mut self.buffer);
        self.charge.set(self.buffer.capacity());
    }

    /// Appends the reply of a read if the memory for all clients has room for it. If not, and others wait
    /// before it, the output is full from now on and `false` says that the read is to be repeated once they
    /// are written; if none wait, the client gets an error instead.
    pub(super) fn push_if_room(&mut self, reply: Reply, protocol: Protocol) -> bool {
        let needed = self.buffer.len() + reply.memory_bytes();
        if needed <= FREE_BYTES || needed <= self.buffer.capacity() || self.charge.try_set(needed) {
            self.push(reply, protocol);
        } else if self.is_empty() {
            self.push(Reply::error(errors::NO_CLIENT_MEMORY), protocol);
        } else {
            self.is_blocked = true;
            return false;
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.len() == self.written
    }

    /// Whether no more commands should run before some of this is written.
    pub(super) fn is_full(&self) -> bool {
        let waiting = self.buffer.len() - self.written;
        self.is_blocked || waiting >= self.bytes_max || (waiting > 0 && self.memory.is_reached())
    }

    pub(super) fn unwritten(&self) -> &[u8] {
        self.buffer.get(self.written..).unwrap_or_default()
    }

    /// Notes that the first `bytes` of what was unwritten are written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        self.is_blocked = false;
        if self.is_empty() {
            self.written = 0;
            self.buffer.clear();
            if self.buffer.capacity() > KEPT_BYTES {
                self.buffer = BytesMut::new();
            }
        } else if self.written >= DROPPED_BYTES && self.written > self.buffer.len() / 2 {
            self.buffer.advance(self.written);
            self.written = 0;
        }
        self.charge.set(self.buffer.capacity());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_reply_without_room_waits_for_those_before_it_or_becomes_an_error() {
        let memory = MemoryCap::new(1 << 20);
        let mut output = Output::new(usize::MAX, &memory);
        let large = Reply::Bulk(Bytes::from(vec![b'x'; 700 << 10]));
        assert!(output.push_if_room(large.clone(), Protocol::Resp2));
        assert!(!output.is_full());
        assert!(!output.push_if_room(large, Protocol::Resp2));
        assert!(output.is_full());
        output.wrote(output.unwritten().len());
        assert!(!output.is_full());
        let huge = Reply::Bulk(Bytes::from(vec![b'x'; 2 << 20]));
        assert!(output.push_if_room(huge, Protocol::Resp2));
        assert!(output.unwritten().starts_with(b"-ERR the memory for all clients is used up"));
        assert!(memory.used() < 1 << 20);
    }

    #[test]
    fn what_is_written_is_forgotten_and_its_memory_given_back() {
        let memory = MemoryCap::new(usize::MAX);
        let mut output = Output::new(5 << 20, &memory);
        let value = Bytes::from(vec![b'x'; 3 << 20]);
        output.push(Reply::Bulk(value.clone()), Protocol::Resp2);
        assert!(!output.is_full());
        output.push(Reply::Bulk(value), Protocol::Resp2);
        assert!(output.is_full() && memory.used() >= 6 << 20);
        output.wrote(4 << 20);
        assert!(!output.is_full());
        assert!(output.unwritten().ends_with(b"x\r\n"));
        output.push(Reply::OK, Protocol::Resp2);
        assert!(output.unwritten().ends_with(b"x\r\n+OK\r\n"));
        output.wrote(output.unwritten().len());
        assert!(output.is_empty() && memory.used() <= KEPT_BYTES);
    }
}
