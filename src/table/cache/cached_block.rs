//! A block in the cache: what a read needs to know of it and its content, in one piece of memory.

use std::{
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwapAny, Guard};
use bytes::Bytes;

use crate::{
    memory::{Shared, Slabs},
    table::block::{BlockView, Damage, Shape, pins},
};

/// What a cached block costs besides its content: its head, its place in a queue, and what allocating takes.
const OVERHEAD_BYTES: u64 = 160;
const MAX_HEAT: u8 = 3;
/// The cache lines of a block's head, and of the hash slots behind it as far as a block of the default size has them.
const HEAD_LINES: usize = 4;

/// A cached block, shared by its slot and its readers.
#[derive(Clone, Debug)]
pub(in crate::table) struct CachedBlock(Shared<Head>);

#[derive(Debug)]
struct Head {
    shape: Shape,
    /// How often it was read since it was last considered for eviction, up to 3.
    heat: AtomicU8,
    /// Which queue it stands in; changed under the shard's lock.
    in_main: AtomicBool,
    _live: LiveBytes,
}

/// Counts a block's content while it lives.
#[derive(Debug)]
pub(super) struct LiveBytes {
    pub(super) bytes: u64,
    pub(super) live: Arc<AtomicU64>,
}

impl LiveBytes {
    pub(super) fn count(bytes: usize, live: &Arc<AtomicU64>) -> Self {
        live.fetch_add(bytes as u64, Ordering::Relaxed);
        Self { bytes: bytes as u64, live: Arc::clone(live) }
    }
}

impl Drop for LiveBytes {
    fn drop(&mut self) {
        self.live.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl CachedBlock {
    /// A block of `len` bytes, which `read` writes.
    ///
    /// # Errors
    /// Those of `read`, and what is wrong with the content.
    pub(super) fn new(
        len: usize,
        live: &Arc<AtomicU64>,
        slabs: &Arc<Slabs>,
        read: impl FnOnce(&mut [u8]) -> Result<(), Damage>,
    ) -> Result<Self, Damage> {
        let shared = Shared::try_new(len, slabs, |content| {
            read(content)?;
            Ok::<_, Damage>(Head {
                shape: Shape::parse(content)?,
                heat: AtomicU8::new(0),
                in_main: AtomicBool::new(false),
                _live: LiveBytes::count(len, live),
            })
        });
        shared.map(Self)
    }

    #[inline]
    pub(in crate::table) fn view(&self) -> BlockView<'_> {
        view(&self.0)
    }

    /// A value of this block that outlives it.
    pub(in crate::table) fn share_value(&self, value: &[u8]) -> Bytes {
        share_value(&self.0, value)
    }

    pub(super) fn len(&self) -> u64 {
        self.0.bytes().len() as u64
    }

    /// What the block takes from the cache's capacity.
    pub(super) fn charge(&self) -> u64 {
        charge(self.len())
    }

    pub(super) fn in_main(&self) -> bool {
        self.head().in_main.load(Ordering::Relaxed)
    }

    pub(super) fn set_in_main(&self) {
        self.head().in_main.store(true, Ordering::Relaxed);
    }

    /// The heat before it was set to one less.
    pub(super) fn cool(&self) -> u8 {
        let heat = self.head().heat.load(Ordering::Relaxed);
        self.head().heat.store(heat.saturating_sub(1), Ordering::Relaxed);
        heat
    }

    fn head(&self) -> &Head {
        self.0.header()
    }
}

/// What a block with so much content takes from a cache's capacity.
pub(super) const fn charge(content_bytes: u64) -> u64 {
    content_bytes + OVERHEAD_BYTES
}

#[inline]
fn view(shared: &Shared<Head>) -> BlockView<'_> {
    BlockView::new(&shared.header().shape, shared.bytes())
}

fn share_value(shared: &Shared<Head>, value: &[u8]) -> Bytes {
    if !pins(value, shared.bytes()) {
        return Bytes::copy_from_slice(value);
    }
    let start = value.as_ptr().addr().wrapping_sub(shared.bytes().as_ptr().addr());
    let whole = Bytes::from_owner(Content(shared.clone()));
    match start.checked_add(value.len()) {
        Some(end) if end <= whole.len() => whole.slice(start..end),
        _ => Bytes::copy_from_slice(value),
    }
}

/// A cached block's content as the owner of shared bytes.
struct Content(Shared<Head>);

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The place of a table's block: empty, or the cached block. IMPORTANT: it has to be empty when it is dropped. That
/// spares it to look for readers of a block: dropping the pointer itself asks all threads, for each slot of a table.
#[derive(Debug, Default)]
pub(super) struct Slot(ManuallyDrop<ArcSwapAny<Option<Shared<Head>>>>);

impl Slot {
    #[inline]
    pub(super) fn load(&self) -> LoadedBlock {
        let loaded = self.0.load();
        if let Some(shared) = &*loaded {
            shared.prefetch(HEAD_LINES);
        }
        LoadedBlock(loaded)
    }

    /// The block, without counting.
    pub(super) fn peek(&self) -> Option<CachedBlock> {
        self.0.load_full().map(CachedBlock)
    }

    /// Empties the slot.
    pub(super) fn take(&self) -> Option<CachedBlock> {
        if self.0.load().is_none() { None } else { self.swap(None) }
    }

    pub(super) fn swap(&self, cached: Option<CachedBlock>) -> Option<CachedBlock> {
        self.0.swap(cached.map(|cached| cached.0)).map(CachedBlock)
    }
}

/// What was in a slot, kept while it is read.
#[derive(Default)]
pub(in crate::table) struct LoadedBlock(Guard<Option<Shared<Head>>>);

impl LoadedBlock {
    /// The block that is there.
    #[inline]
    pub(in crate::table) fn view(&self) -> Option<BlockView<'_>> {
        self.0.as_ref().map(view)
    }

    /// A value of the block that outlives it.
    #[inline]
    pub(in crate::table) fn share_value(&self, value: &[u8]) -> Bytes {
        self.0.as_ref().map_or_else(|| Bytes::copy_from_slice(value), |shared| share_value(shared, value))
    }

    /// The block, to be kept.
    pub(in crate::table) fn to_block(&self) -> Option<CachedBlock> {
        self.0.clone().map(CachedBlock)
    }

    pub(super) fn touch(&self) -> bool {
        let Some(shared) = &*self.0 else { return false };
        // NOTE: the count may lose a touch; what matters is that a hot block's line is not written each time.
        let heat = &shared.header().heat;
        let before = heat.load(Ordering::Relaxed);
        if before < MAX_HEAT {
            heat.store(before + 1, Ordering::Relaxed);
        }
        true
    }
}
