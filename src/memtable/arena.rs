//! The arena: where the memtable's entries lie, record behind record (`layout.rs`), in chunks allocated as they
//! are needed, an oversized entry in one of its own. `unsafe` is here and in `walk.rs`.
//!
//! IMPORTANT, the invariant: there is one writer. It writes a record completely, and only then lets its address
//! be found, by a Release store in a slot, or of the number of entries. Nothing is changed after that, and
//! nothing is freed before the arena is dropped. So who comes to a record through an Acquire load may read it,
//! without a lock, for as long as the arena lives. `tests/model_memtable.rs` checks both files with loom as they are.
#![expect(unsafe_code, reason = "records of any length, found by address, read while the writer goes on")]

use std::{marker::PhantomData, ptr, slice};

use super::{
    Entry, KeyHash, SeqNo, ValueKind, allocate_chunk,
    counters::Counters,
    free_chunk,
    index::{Index, tag_of},
    layout::{ALIGN, Header, LINK_RECORD, Links, Shape},
    prefetch_lines,
    sync::{Arc, AtomicPtr, Ordering, Witness, ZEROED_ATOMICS_ARE_VALID},
};

const ADDRESS_BITS: u32 = 48;
const FIRST_CHUNK: usize = 64 << 10;
/// Those of a record with a small value.
const PREFETCHED_LINES: usize = 3;

/// One entry in the arena.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    at: *const Header,
    arena: PhantomData<&'a Arena>,
}

// SAFETY: a record is only read, and 'a keeps its memory.
unsafe impl Send for Record<'_> {}
// SAFETY: as above.
unsafe impl Sync for Record<'_> {}

impl<'a> Record<'a> {
    /// # Safety
    /// `at` leads to the record of an entry in an arena that lives for 'a, and was come by as the invariant says.
    #[inline]
    pub(super) unsafe fn new(at: *const Header) -> Self {
        // SAFETY: the caller's promise.
        unsafe { (*at).witness.read() };
        Self { at, arena: PhantomData }
    }

    #[inline]
    fn header(self) -> &'a Header {
        // SAFETY: `at` leads to a complete record.
        unsafe { &*self.at }
    }

    /// Asks for the record's first cache lines, and does not wait for them.
    #[inline]
    pub(super) fn prefetch(self) {
        prefetch_lines(self.at.cast(), PREFETCHED_LINES);
    }

    #[inline]
    pub(super) fn seqno(self) -> SeqNo {
        SeqNo(self.header().seqno_kind >> 8)
    }

    #[inline]
    pub(super) fn rank(self) -> usize {
        self.header().shape.rank()
    }

    #[inline]
    pub(super) fn key(self) -> &'a [u8] {
        // SAFETY: the record is complete: its key lies behind its header, as long as its shape says.
        unsafe { slice::from_raw_parts(self.at.add(1).cast(), self.header().shape.key_len()) }
    }

    #[inline]
    pub(super) fn entry(self) -> Entry<'a> {
        let &Header { seqno_kind, shape, .. } = self.header();
        let [kind, ..] = seqno_kind.to_le_bytes();
        // SAFETY: the record is complete, and its shape says where its expiry and its value lie.
        let (expires_at_ms, value) = unsafe {
            let expiry = self.at.byte_add(shape.expiry_offset()).cast::<u64>();
            let value = self.at.cast::<u8>().add(shape.value_offset());
            (shape.expires().then(|| expiry.read()), slice::from_raw_parts(value, shape.value_len()))
        };
        Entry {
            key: self.key(),
            seqno: SeqNo(seqno_kind >> 8),
            kind: ValueKind::from_byte(kind).expect("the byte was written from a ValueKind"),
            expires_at_ms,
            value,
        }
    }

    /// The next older version of the key, and the one where the jump link leads.
    #[inline]
    pub(super) fn links(self) -> Option<(Self, Self)> {
        self.header().shape.is_chained().then(|| {
            // SAFETY: a chained record has links behind its key, to records that were complete before it.
            unsafe {
                let links = self.at.byte_add(self.header().shape.links_offset()).cast::<Links>();
                let Links { older, jump } = links.read();
                (Self::new(older), Self::new(jump))
            }
        })
    }
}

/// A place in the index: empty, or a record's address with a tag in its upper bits.
#[repr(transparent)]
pub(super) struct Slot(AtomicPtr<Header>);

impl Slot {
    /// Empty slots. Their pages come one by one as they are used, not all in the turn that makes the memtable.
    pub(super) fn row(slots: usize) -> Box<[Self]> {
        let mut row = Box::<[Self]>::new_zeroed_slice(slots);
        if !ZEROED_ATOMICS_ARE_VALID {
            for slot in &mut row {
                slot.write(Self(AtomicPtr::new(ptr::null_mut())));
            }
        }
        // SAFETY: a zeroed atomic pointer is a valid one that holds null; where it is not, each was just written.
        unsafe { row.assume_init() }
    }

    #[inline]
    pub(super) fn load(&self) -> Option<Tagged<'_>> {
        let at = self.0.load(Ordering::Acquire);
        (!at.is_null()).then_some(Tagged { at, slot: PhantomData })
    }

    /// Asks for the slot's cache line, and does not wait for it.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch_lines(ptr::from_ref(self).cast(), 1);
    }

    /// Lets readers find a record of the arena that this slot belongs to.
    #[inline]
    fn publish(&self, record: *mut Header, tag: u16) {
        let tagged = record.map_addr(|address| address | usize::from(tag) << ADDRESS_BITS);
        self.0.store(tagged, Ordering::Release);
    }
}

/// What a slot holds.
pub(super) struct Tagged<'a> {
    at: *mut Header,
    slot: PhantomData<&'a Slot>,
}

impl<'a> Tagged<'a> {
    #[inline]
    pub(super) fn tag(&self) -> u16 {
        let [.., low, high] = self.at.addr().to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    #[inline]
    pub(super) fn record(&self) -> Record<'a> {
        // SAFETY: only complete records of the slot's own arena are published in it.
        unsafe { Record::new(self.at.map_addr(|address| address & ((1 << ADDRESS_BITS) - 1))) }
    }
}

/// Stands at the beginning of each chunk's memory.
#[repr(C, align(8))]
struct Chunk {
    previous: *mut Chunk,
    bytes: usize,
}

/// Entries that any number of readers may look up and walk while one writer adds to them.
pub(super) struct Arena {
    pub(super) index: Index,
    pub(super) counters: Counters,
    /// Where the records begin; null while there are none.
    pub(super) first: AtomicPtr<Header>,
    newest_chunk: AtomicPtr<Chunk>,
}

impl Arena {
    /// The newest version of `key` that is not newer than `at`.
    #[inline]
    pub(super) fn get(&self, hash: KeyHash, key: &[u8], at: SeqNo) -> Option<Entry<'_>> {
        let (_, newest) = self.index.locate(hash.mixed(), key);
        Some(newest?.version_at(at)?.entry())
    }

    /// Memory for `bytes` of records, in a chunk of its own; the writer only.
    fn allocate(&self, bytes: usize) -> *mut Header {
        let bytes = size_of::<Chunk>() + bytes;
        let previous = self.newest_chunk.load(Ordering::Relaxed);
        let chunk: *mut Chunk = allocate_chunk(bytes).cast().as_ptr();
        // SAFETY: there is room for a Chunk and more.
        let records = unsafe {
            chunk.write(Chunk { previous, bytes });
            chunk.add(1).cast()
        };
        assert!(
            (chunk.addr() + bytes) >> ADDRESS_BITS == 0,
            "the allocator's addresses have at most 48 bits"
        );
        self.newest_chunk.store(chunk, Ordering::Release);
        self.counters.add_allocated(bytes);
        records
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let mut newest = ptr::NonNull::new(self.newest_chunk.load(Ordering::Acquire));
        while let Some(chunk) = newest {
            // SAFETY: each chunk was allocated with this length and is in the list once; nobody else is left.
            unsafe {
                let Chunk { previous, bytes } = chunk.read();
                free_chunk(chunk.cast(), bytes);
                newest = ptr::NonNull::new(previous);
            }
        }
    }
}

/// The one writer of an arena.
pub(super) struct ArenaWriter {
    arena: Arc<Arena>,
    space: Space,
    /// How many more keys the last index takes.
    key_room: usize,
}

// SAFETY: what its pointers lead to belongs to the arena, and only this writer writes there.
unsafe impl Send for ArenaWriter {}

impl ArenaWriter {
    /// A new, empty arena. Chunks grow from small ones to `largest_chunk` bytes.
    pub(super) fn new(index_slots: usize, largest_chunk: usize) -> Self {
        let arena = Arena {
            index: Index::new(index_slots),
            counters: Counters::new(),
            first: AtomicPtr::new(ptr::null_mut()),
            newest_chunk: AtomicPtr::new(ptr::null_mut()),
        };
        arena.counters.add_allocated(arena.index.bytes());
        let next_chunk = largest_chunk.min(FIRST_CHUNK);
        let space = Space { free: ptr::null_mut(), room: 0, next_chunk, largest_chunk, used_bytes: 0 };
        Self { key_room: arena.index.most_keys(), arena: Arc::new(arena), space }
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// The bytes of all records.
    pub(super) fn used_bytes(&self) -> usize {
        self.space.used_bytes
    }

    /// Adds an entry; on return readers find it.
    #[inline]
    pub(super) fn insert(&mut self, hash: KeyHash, entry: &Entry<'_>) {
        let mixed = hash.mixed();
        if self.key_room == 0 {
            self.add_index();
        }
        let (slot, newest) = self.arena.index.locate(mixed, entry.key);
        let (mut shape, mut links) = (Shape::of(entry), None);
        if let Some(older) = newest {
            assert!(older.seqno() < entry.seqno, "versions of a key arrive in ascending order");
            let (jump, rank) = older.next_jump();
            shape = shape.chained(rank);
            links = Some(Links { older: older.at, jump: jump.at });
        }
        let record = self.space.take(&self.arena, shape.record_bytes());
        // SAFETY: `record` leads to free room for a record of this shape.
        unsafe { write_record(record, entry, shape, links) };
        slot.publish(record, tag_of(mixed));
        self.key_room -= usize::from(newest.is_none());
        self.arena.counters.add_entry(entry, newest.is_none());
    }

    #[cold]
    fn add_index(&mut self) {
        let added = self.arena.index.extend();
        self.key_room = added.most_keys();
        self.arena.counters.add_allocated(added.bytes());
    }
}

/// The free part of the newest chunk of records.
struct Space {
    free: *mut Header,
    /// The free bytes, without the room of a link record behind them.
    room: usize,
    next_chunk: usize,
    largest_chunk: usize,
    used_bytes: usize,
}

impl Space {
    /// Room for a record, next in the order of records.
    #[inline]
    fn take(&mut self, arena: &Arena, bytes: usize) -> *mut Header {
        self.used_bytes += bytes;
        if bytes <= self.room { self.bump(bytes) } else { self.take_elsewhere(arena, bytes) }
    }

    #[inline]
    fn bump(&mut self, bytes: usize) -> *mut Header {
        let taken = self.free;
        self.room -= bytes;
        // SAFETY: the chunk has `room` bytes and a link record's from `free` on; callers take no more than `room`.
        self.free = unsafe { taken.byte_add(bytes) };
        taken
    }

    #[cold]
    fn take_elsewhere(&mut self, arena: &Arena, bytes: usize) -> *mut Header {
        // What an entry leaves unused at the end of a chunk is at most an eighth of it.
        let is_oversized = bytes > self.largest_chunk / 8;
        let bytes_here = if is_oversized { LINK_RECORD } else { bytes };
        if bytes_here > self.room {
            self.start_chunk(arena, bytes_here);
        }
        if !is_oversized {
            return self.bump(bytes);
        }
        let own = arena.allocate(bytes);
        let link = self.bump(LINK_RECORD);
        // SAFETY: a link record's room was just taken.
        unsafe { write_link(link, Shape::LINK_TO_ENTRY, own) };
        own
    }

    fn start_chunk(&mut self, arena: &Arena, bytes: usize) {
        let chunk = (size_of::<Chunk>() + bytes + LINK_RECORD).max(self.next_chunk).next_multiple_of(ALIGN);
        self.next_chunk = (self.next_chunk * 2).min(self.largest_chunk);
        let records = arena.allocate(chunk - size_of::<Chunk>());
        if self.free.is_null() {
            arena.first.store(records, Ordering::Release);
        } else {
            // SAFETY: the room of a link record is kept free at the end of each chunk.
            unsafe { write_link(self.free, Shape::LINK_TO_CHUNK, records) };
        }
        self.free = records;
        self.room = chunk - size_of::<Chunk>() - LINK_RECORD;
    }
}

/// # Safety
/// `at` leads to free, aligned room for a record of this shape, which is the entry's.
#[inline]
unsafe fn write_record(at: *mut Header, entry: &Entry<'_>, shape: Shape, links: Option<Links>) {
    let seqno_kind = entry.seqno.get() << 8 | u64::from(entry.kind.byte());
    // SAFETY: all of this lies within the record.
    unsafe {
        at.write(Header { witness: Witness::new(), seqno_kind, shape });
        ptr::copy_nonoverlapping(entry.key.as_ptr(), at.add(1).cast(), entry.key.len());
        if let Some(links) = links {
            at.byte_add(shape.links_offset()).cast::<Links>().write(links);
        }
        if let Some(expiry) = entry.expires_at_ms {
            at.byte_add(shape.expiry_offset()).cast::<u64>().write(expiry);
        }
        let value = at.byte_add(shape.value_offset()).cast();
        ptr::copy_nonoverlapping(entry.value.as_ptr(), value, entry.value.len());
    }
}

/// # Safety
/// `at` leads to free, aligned room for a link record.
unsafe fn write_link(at: *mut Header, shape: Shape, to: *mut Header) {
    // SAFETY: the caller's promise.
    unsafe {
        at.write(Header { witness: Witness::new(), seqno_kind: 0, shape });
        at.add(1).cast::<*mut Header>().write(to);
    }
}
