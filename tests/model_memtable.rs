//! The memtable's publish protocol under loom: the arena's own files, compiled over loom's atomics, run in the
//! interleavings of a writer with a reader that gets, and with one that walks (readers write nothing, so one at a
//! time shows all there is). Each record carries a tracked cell, so a read that does not happen after the
//! record's writing fails, as does a stale or a torn answer.

#[cfg(test)]
#[expect(dead_code, reason = "the memtable's other files, which use the rest, are not under the model")]
#[path = "../src/memtable"]
mod memtable {
    mod arena;
    mod counters;
    mod index;
    mod layout;
    mod versions;
    mod walk;

    use dbex::{
        entry::{Entry, ValueKind},
        ids::SeqNo,
        key::KeyHash,
        memory::{allocate_chunk, free_chunk, prefetch_lines},
    };

    use self::{
        arena::{Arena, ArenaWriter},
        sync::Arc,
        walk::Walker,
    };

    mod sync {
        pub(super) use std::sync::OnceLock;

        pub(super) use loom::sync::{
            Arc,
            atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
        };

        pub(super) const ZEROED_ATOMICS_ARE_VALID: bool = false;

        pub(super) struct Witness(loom::cell::UnsafeCell<()>);

        impl Witness {
            pub(super) fn new() -> Self {
                let cell = loom::cell::UnsafeCell::new(());
                // The creation alone would pass for part of the atomic operation before it.
                cell.with_mut(|_| ());
                Self(cell)
            }

            pub(super) fn read(&self) {
                self.0.with(|_| ());
            }
        }
    }

    const PREEMPTIONS: usize = 4;

    /// What is inserted: keys of one byte, each with the hash that is given, sequence numbers from 1 on.
    #[derive(Clone, Copy)]
    struct Scene {
        largest_chunk: usize,
        /// Inserted before there are readers.
        before: &'static [u8],
        /// Inserted beside them.
        beside: &'static [u8],
        value: &'static [u8],
        hash: fn(u8) -> KeyHash,
    }

    impl Scene {
        fn keys(&self) -> impl Iterator<Item = (SeqNo, u8)> {
            (1..).map(SeqNo).zip(self.before.iter().chain(self.beside).copied())
        }

        fn entry<'a>(&self, key: &'a [u8; 1], seqno: SeqNo) -> Entry<'a> {
            let value = self.value;
            Entry { key, seqno, kind: ValueKind::Put, expires_at_ms: Some(seqno.get()), value }
        }

        fn newest(&self, key: u8, at: SeqNo) -> Option<SeqNo> {
            self.keys().filter(|(seqno, k)| *seqno <= at && *k == key).map(|(seqno, _)| seqno).max()
        }

        fn insert(&self, writer: &mut ArenaWriter, keys: impl Iterator<Item = (SeqNo, u8)>) {
            for (seqno, key) in keys {
                writer.insert((self.hash)(key), &self.entry(&[key], seqno));
            }
        }

        /// A get finds everything that was complete before it, whole, and never goes back.
        fn get(&self, arena: &Arena, key: u8) {
            let hash = (self.hash)(key);
            let mut least = None;
            for _ in 0..2 {
                let complete = SeqNo(arena.counters.entries() as u64);
                let bytes = [key];
                let found = arena.get(hash, &bytes, SeqNo::MAX);
                let seqno = found.map(|entry| entry.seqno);
                assert_eq!(found, seqno.map(|seqno| self.entry(&bytes, seqno)));
                assert!(seqno >= self.newest(key, complete).max(least));
                least = seqno;
                let old = arena.get(hash, &[key], complete).map(|entry| entry.seqno);
                assert_eq!(old, self.newest(key, complete), "what was complete is found by its number");
            }
        }

        /// Walks yield each entry once, whole, in the order of insertion.
        fn walk(self, arena: Arc<Arena>) {
            let mut walker = Walker::new(arena);
            let mut expected = self.keys();
            for _ in 0..2 {
                let taken = walker.take(|_| ());
                for item in taken.iter().flat_map(|pinned| pinned.items()) {
                    let (seqno, key) = expected.next().unwrap();
                    assert_eq!(item.record.entry(), self.entry(&[key], seqno));
                }
            }
        }

        fn check(self) {
            self.check_beside(|scene, arena| scene.get(&arena, scene.beside[0]));
            self.check_beside(Self::walk);
        }

        fn check_beside(self, read: fn(Self, Arc<Arena>)) {
            let mut model = loom::model::Builder::new();
            model.preemption_bound = Some(PREEMPTIONS);
            model.check(move || {
                let mut writer = ArenaWriter::new(8, self.largest_chunk);
                let before = self.before.len();
                self.insert(&mut writer, self.keys().take(before));
                let arena = Arc::clone(writer.arena());
                let reader = loom::thread::spawn(move || read(self, arena));
                self.insert(&mut writer, self.keys().skip(before));
                drop(writer);
                reader.join().unwrap();
            });
        }
    }

    fn by_key(key: u8) -> KeyHash {
        KeyHash(u64::from(key) << 40)
    }

    #[test]
    fn first_entries_and_versions() {
        Scene { largest_chunk: 4096, before: b"", beside: b"aa", value: b"v", hash: by_key }.check();
    }

    #[test]
    fn keys_that_collide() {
        Scene { largest_chunk: 4096, before: b"b", beside: b"aba", value: b"v", hash: |_| KeyHash(1) }
            .check();
    }

    #[test]
    fn versions_with_jumps() {
        Scene { largest_chunk: 4096, before: b"aaa", beside: b"aa", value: b"", hash: by_key }.check();
    }

    #[test]
    fn the_next_chunk() {
        Scene { largest_chunk: 512, before: b"abcdefgh", beside: b"aia", value: b"v", hash: by_key }.check();
    }

    #[test]
    fn chunks_of_their_own() {
        Scene { largest_chunk: 128, before: b"a", beside: b"ab", value: &[7; 200], hash: by_key }.check();
    }
}
