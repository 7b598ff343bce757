//! The operations in a frame's body, one after the other:
//!
//! ```text
//! kind, flags, keyspace, expiry   as in `codec::entry_meta`
//! key length                      varint, 1 to 64 KiB
//! value length                    varint, at most 64 MiB; 0 for a delete
//!                                 of a range delete these are bounds: 0 to 64 KiB and a byte
//! key, value                      their bytes
//! ```

use std::ops::Range;

use crate::{
    codec::{
        entry_meta::{put_entry_meta, read_entry_meta},
        varint::{ByteReader, put_varint},
    },
    entry::{Entry, ValueKind},
    ids::SeqNo,
    key::{MAX_BOUND_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES},
    range_delete::is_before_end,
};

/// Where an operation's key and value lie in the [`GroupBuffer`](super::GroupBuffer) that it was pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpSpan {
    /// The key's bytes.
    pub key: Range<usize>,
    /// The value's bytes.
    pub value: Range<usize>,
}

/// Appends an operation.
#[inline]
pub(super) fn put_op(
    out: &mut Vec<u8>,
    kind: ValueKind,
    expires_at_ms: Option<u64>,
    key: &[u8],
    value: &[u8],
) -> OpSpan {
    put_entry_meta(out, kind, expires_at_ms);
    put_varint(out, key.len() as u64);
    put_varint(out, value.len() as u64);
    let key_start = out.len();
    out.extend_from_slice(key);
    let value_start = out.len();
    out.extend_from_slice(value);
    OpSpan { key: key_start..value_start, value: value_start..out.len() }
}

/// Reads an operation.
fn read_op<'a>(reader: &mut ByteReader<'a>, seqno: SeqNo) -> Result<Entry<'a>, &'static str> {
    const SHORT: &str = "an operation that ends early";
    let (kind, expires_at_ms) = read_entry_meta(reader, ValueKind::from_byte)?;
    let key_bytes = reader.varint_usize().ok_or(SHORT)?;
    let value_bytes = reader.varint_usize().ok_or(SHORT)?;
    let is_range = kind == ValueKind::RangeDelete;
    let (shortest_key, longest_value) = if is_range { (0, MAX_BOUND_BYTES) } else { (1, MAX_VALUE_BYTES) };
    let longest_key = if is_range { MAX_BOUND_BYTES } else { MAX_KEY_BYTES };
    if !(shortest_key..=longest_key).contains(&key_bytes) || value_bytes > longest_value {
        return Err("a key or value of an impossible length");
    }
    if kind == ValueKind::Delete && value_bytes != 0 {
        return Err("a delete with a value");
    }
    let key = reader.bytes(key_bytes).ok_or(SHORT)?;
    let value = reader.bytes(value_bytes).ok_or(SHORT)?;
    if is_range && (expires_at_ms.is_some() || !is_before_end(key, value)) {
        return Err("a range delete of no key, or one that expires");
    }
    Ok(Entry { key, seqno, kind, expires_at_ms, value })
}

/// Checks that `bytes` are exactly `count` operations.
///
/// # Errors
/// What is wrong, as a phrase for a corruption error.
pub(super) fn check_ops(bytes: &[u8], count: u32) -> Result<(), &'static str> {
    let mut reader = ByteReader::new(bytes);
    for _ in 0..count {
        read_op(&mut reader, SeqNo(0))?;
    }
    if reader.rest().is_empty() { Ok(()) } else { Err("bytes behind the last operation") }
}

/// Walks the operations of a recovered frame, in the order in which they were pushed, each with its
/// sequence number. They were checked when the frame was read.
#[derive(Clone, Debug)]
pub struct Ops<'a> {
    reader: ByteReader<'a>,
    seqno: SeqNo,
}

impl<'a> Ops<'a> {
    pub(super) const fn new(checked: &'a [u8], first_seqno: SeqNo) -> Self {
        Self { reader: ByteReader::new(checked), seqno: first_seqno }
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let entry = read_op(&mut self.reader, self.seqno).ok()?;
        self.seqno = self.seqno.plus(1);
        Some(entry)
    }
}
