//! LEB128 varints, and a reader over untrusted bytes that never panics.

/// Appends `value` as a varint of 1 to 10 bytes.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the low seven bits are what is written")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80 here")]
    out.push(value as u8);
}

/// The number of bytes that [`put_varint`] writes for `value`.
#[inline]
pub const fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Reads values one after the other from bytes that may be damaged. Each method returns `None`, and
/// moves nothing, when the bytes do not hold what is asked for.
#[derive(Clone, Copy, Debug)]
pub struct ByteReader<'a> {
    rest: &'a [u8],
}

impl<'a> ByteReader<'a> {
    /// A reader at the start of `bytes`.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What is not read yet.
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    #[inline]
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }

    /// The next byte.
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let (head, tail) = self.rest.split_first()?;
        self.rest = tail;
        Some(*head)
    }

    /// The next little-endian `u16`.
    #[inline]
    pub fn u16(&mut self) -> Option<u16> {
        let (head, tail) = self.rest.split_first_chunk()?;
        self.rest = tail;
        Some(u16::from_le_bytes(*head))
    }

    /// The next little-endian `u32`.
    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        let (head, tail) = self.rest.split_first_chunk()?;
        self.rest = tail;
        Some(u32::from_le_bytes(*head))
    }

    /// The next little-endian `u64`.
    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        let (head, tail) = self.rest.split_first_chunk()?;
        self.rest = tail;
        Some(u64::from_le_bytes(*head))
    }

    /// The next varint; `None` also when it runs over 64 bits.
    #[inline]
    pub fn varint(&mut self) -> Option<u64> {
        // Most lengths and counts take one byte; this much is worth inlining everywhere.
        if let Some((byte, tail)) = self.rest.split_first()
            && *byte < 0x80
        {
            self.rest = tail;
            return Some(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut rest = self.rest;
        let (mut value, mut shift) = (0u64, 0u32);
        loop {
            let (byte, tail) = rest.split_first()?;
            rest = tail;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                self.rest = rest;
                return Some(value);
            }
            shift += 7;
            if shift > 63 {
                return None;
            }
        }
    }

    /// The next varint as a length or count that fits memory.
    #[inline]
    pub fn varint_usize(&mut self) -> Option<usize> {
        let mut ahead = *self;
        let value = usize::try_from(ahead.varint()?).ok()?;
        *self = ahead;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut out = vec![];
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut reader = ByteReader::new(&out);
            prop_assert_eq!(reader.varint(), Some(value));
            prop_assert!(reader.rest().is_empty());
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>) {
            let mut reader = ByteReader::new(&bytes);
            while reader.varint().is_some() {}
        }
    }

    #[test]
    fn an_endless_varint_is_refused() {
        assert_eq!(ByteReader::new(&[0xFF; 11]).varint(), None);
        assert_eq!(ByteReader::new(&[0x80]).varint(), None);
    }
}
