//! The cursors of `SCAN`: what stands behind the number that a client gets and sends back, for the whole
//! server, because clients with connection pools go on with a scan on another connection. Bounded in number
//! and in bytes; the oldest is forgotten first.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
};

use bytes::Bytes;
use parking_lot::Mutex;

/// The most cursors that are remembered.
pub(super) const MAX_CURSORS: usize = 16_384;
/// The most bytes of keys that cursors remember.
const MAX_CURSOR_BYTES: usize = 32 << 20;

/// All cursors of a server.
#[derive(Debug)]
pub(super) struct ScanCursors {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// Never 0, which means "from the start" and "at the end".
    next_id: u64,
    cursors: BTreeMap<u64, Cursor>,
    bytes: usize,
}

#[derive(Debug)]
struct Cursor {
    last_key: Bytes,
    /// The cursor that was sent to get this one, or 0.
    parent: u64,
}

impl ScanCursors {
    /// An empty table. Its numbers start at a random place, so that a cursor from before a restart is
    /// unknown rather than another's.
    pub(super) fn new() -> Self {
        let start = (RandomState::new().hash_one("scan cursors") >> 2) | 1;
        Self { table: Mutex::new(Table { next_id: start, cursors: BTreeMap::new(), bytes: 0 }) }
    }

    /// The last key that was looked at before `cursor` was given out.
    pub(super) fn last_key(&self, cursor: u64) -> Option<Bytes> {
        self.table.lock().cursors.get(&cursor).map(|cursor| cursor.last_key.clone())
    }

    /// A new cursor behind `last_key`, for a client that sent `parent`. A cursor can be sent again until the
    /// one that it led to has been sent: `parent` stays, and what led to `parent` is forgotten.
    pub(super) fn advance(&self, parent: u64, last_key: &[u8]) -> u64 {
        let mut table = self.table.lock();
        let grandparent = table.cursors.get(&parent).map_or(0, |cursor| cursor.parent);
        table.remove(grandparent);
        let id = table.next_id;
        table.next_id += 1;
        table.bytes += last_key.len();
        table.cursors.insert(id, Cursor { last_key: Bytes::copy_from_slice(last_key), parent });
        while table.cursors.len() > MAX_CURSORS || table.bytes > MAX_CURSOR_BYTES {
            let Some(oldest) = table.cursors.keys().next().copied() else { break };
            table.remove(oldest);
        }
        id
    }
}

impl Table {
    fn remove(&mut self, id: u64) {
        if let Some(cursor) = self.cursors.remove(&id) {
            self.bytes -= cursor.last_key.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_can_be_sent_again_until_its_successor_is() {
        let cursors = ScanCursors::new();
        let a = cursors.advance(0, b"a");
        let b = cursors.advance(a, b"b");
        assert_ne!(a, 0);
        assert_eq!(cursors.last_key(a), Some(Bytes::from("a")));
        let again = cursors.advance(a, b"b");
        assert_ne!(b, again);
        cursors.advance(b, b"c");
        assert_eq!(cursors.last_key(a), None, "its successor has been sent");
        assert_eq!(cursors.last_key(b), Some(Bytes::from("b")));
        assert_eq!(cursors.last_key(0), None);
    }

    #[test]
    fn the_oldest_goes_first_by_number_and_by_bytes() {
        let cursors = ScanCursors::new();
        let first = cursors.advance(0, b"first");
        let second = cursors.advance(0, b"second");
        for _ in 0..MAX_CURSORS - 1 {
            cursors.advance(0, b"k");
        }
        assert_eq!((cursors.last_key(first), cursors.last_key(second).is_some()), (None, true));

        let cursors = ScanCursors::new();
        let long = vec![0; 64 << 10];
        let first = cursors.advance(0, &long);
        for _ in 0..MAX_CURSOR_BYTES / long.len() {
            cursors.advance(0, &long);
        }
        assert_eq!(cursors.last_key(first), None);
        assert!(cursors.table.lock().bytes <= MAX_CURSOR_BYTES);
    }
}
