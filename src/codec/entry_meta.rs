//! What precedes every entry's key and value, in WAL frames and in data blocks alike:
//!
//! ```text
//! kind       1 byte     ValueKind; an unknown one is an error
//! flags      varint     bit 0: an expiry follows; any other bit set is an error
//! keyspace   varint     0 until keyspaces exist; another is an error
//! expires_at varint     only with flag bit 0: milliseconds on the node's clock
//! ```

use super::varint::{ByteReader, put_varint};
use crate::entry::ValueKind;

const FLAG_EXPIRES: u64 = 1;
const ENDS_EARLY: &str = "an entry that ends early";

/// Appends the kind, flags, keyspace and expiry of an entry.
#[inline]
pub fn put_entry_meta(out: &mut Vec<u8>, kind: ValueKind, expires_at_ms: Option<u64>) {
    match expires_at_ms {
        None => out.extend_from_slice(&[kind.byte(), 0, 0]),
        Some(at) => {
            out.extend_from_slice(&[kind.byte(), 1, 0]);
            put_varint(out, at);
        }
    }
}

/// Reads what [`put_entry_meta`] wrote; `kind_of` knows the kinds that may be there.
///
/// # Errors
/// What is wrong, as a phrase for a corruption error.
#[inline]
pub fn read_entry_meta(
    reader: &mut ByteReader<'_>,
    kind_of: impl Fn(u8) -> Option<ValueKind>,
) -> Result<(ValueKind, Option<u64>), &'static str> {
    // Nearly all entries have no flags.
    if let Some(&[kind, 0, 0]) = reader.rest().first_chunk()
        && let Some(kind) = kind_of(kind)
    {
        reader.bytes(3);
        return Ok((kind, None));
    }
    let kind = kind_of(reader.byte().ok_or(ENDS_EARLY)?).ok_or("an entry kind that is not known here")?;
    read_expiry(reader).map(|expires_at_ms| (kind, expires_at_ms))
}

/// What follows the kind. Apart, so that what reads the many entries without flags stays small enough to be inlined.
#[inline(never)]
fn read_expiry(reader: &mut ByteReader<'_>) -> Result<Option<u64>, &'static str> {
    let flags = reader.varint().ok_or(ENDS_EARLY)?;
    if flags & !FLAG_EXPIRES != 0 {
        return Err("an entry flag that this version does not know");
    }
    if reader.varint().ok_or(ENDS_EARLY)? != 0 {
        return Err("a keyspace that this version does not know");
    }
    match flags & FLAG_EXPIRES {
        0 => Ok(None),
        _ => reader.varint().ok_or(ENDS_EARLY).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_round_trips_and_unknown_bits_are_refused() {
        for expires in [None, Some(0), Some(u64::MAX)] {
            let mut out = vec![];
            put_entry_meta(&mut out, ValueKind::Delete, expires);
            let read = read_entry_meta(&mut ByteReader::new(&out), ValueKind::from_byte).unwrap();
            assert_eq!(read, (ValueKind::Delete, expires));
        }
        for bad in [&[4u8, 0, 0][..], &[1, 2, 0], &[1, 0, 1], &[1, 1, 0], &[1]] {
            assert!(read_entry_meta(&mut ByteReader::new(bad), ValueKind::from_byte).is_err(), "{bad:?}");
        }
        assert!(read_entry_meta(&mut ByteReader::new(&[3, 0, 0]), ValueKind::from_byte).is_ok());
        assert!(
            read_entry_meta(&mut ByteReader::new(&[3, 0, 0]), ValueKind::in_block).is_err(),
            "in a block"
        );
    }
}
