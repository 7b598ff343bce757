//! Pieces of memory of a few sizes, cut from slabs of one size each. A slab without pieces in use serves any size
//! again; a region without slabs in use is given back once there are others to spare.
#![expect(unsafe_code, reason = "free pieces are linked through their own memory")]

use std::ptr::NonNull;

use parking_lot::Mutex;

use super::{
    region::{REGION_BYTES, Region},
    reserve,
};

const SLAB_BYTES: usize = 64 << 10;
const SLABS_PER_REGION: usize = REGION_BYTES / SLAB_BYTES;
/// Sizes are multiples of this; so are addresses.
const STEP_BYTES: usize = 128;
const LARGEST_BYTES: usize = 8 << 10;
const CLASSES: usize = LARGEST_BYTES / STEP_BYTES;

/// A pool of pieces of memory.
#[derive(Debug, Default)]
pub struct Slabs(Mutex<Pool>);

/// A piece of memory from a pool, at a multiple of 128 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where it begins.
    pub at: NonNull<u8>,
    slab: u32,
}

#[derive(Debug)]
struct Pool {
    regions: Vec<Option<MappedRegion>>,
    /// Region r's slabs are those from r × `SLABS_PER_REGION` on.
    slabs: Vec<Slab>,
    /// Slabs of which no piece is in use.
    empty: Vec<usize>,
    /// Slabs of each size that have a free piece, or had one not long ago.
    open: [Vec<usize>; CLASSES],
}

#[derive(Debug)]
struct MappedRegion {
    region: Region,
    slabs_in_use: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slab {
    /// The size of its pieces is one more than this, times [`STEP_BYTES`].
    class: usize,
    in_use: usize,
    /// How many pieces were cut from it so far; the first ones.
    cut: usize,
    /// The free one among those that was given back last; it begins with the address of the next.
    free: Option<NonNull<u8>>,
    /// Its place in its size's list of open slabs, if it stands there.
    listed: Option<usize>,
}

// SAFETY: the addresses lead into the pool's own regions.
unsafe impl Send for Pool {}

impl Slabs {
    /// A piece of `bytes` bytes or more, with whatever was there before; `None` if it is too large for a pool.
    pub fn take(&self, bytes: usize) -> Option<Piece> {
        let class = bytes.max(1).div_ceil(STEP_BYTES) - 1;
        if class >= CLASSES { None } else { self.0.lock().take(class) }
    }

    /// Takes a piece back.
    ///
    /// # Safety
    /// It was taken from this pool, is given back once, and nobody uses its memory any more.
    pub unsafe fn give_back(&self, piece: Piece) {
        // SAFETY: the caller's promise.
        let unused = unsafe { self.0.lock().give_back(piece) };
        if let Some(region) = unused {
            reserve::give_back(region);
        }
    }

    /// The memory of all regions.
    pub fn mapped_bytes(&self) -> usize {
        self.0.lock().regions.iter().flatten().count() * REGION_BYTES
    }
}

impl Default for Pool {
    fn default() -> Self {
        let open = [const { Vec::new() }; CLASSES];
        Self { regions: Vec::new(), slabs: Vec::new(), empty: Vec::new(), open }
    }
}

impl Pool {
    fn take(&mut self, class: usize) -> Option<Piece> {
        let number = match self.open_slab(class) {
            Some(number) => number,
            None => self.new_slab(class)?,
        };
        let start = self.start_of(number)?;
        let slab = self.slabs.get_mut(number)?;
        slab.in_use += 1;
        let at = if let Some(free) = slab.free {
            // SAFETY: a free piece begins with the address of the next one.
            slab.free = unsafe { free.cast::<Option<NonNull<u8>>>().read() };
            free
        } else {
            let offset = slab.cut * piece_bytes(class);
            slab.cut += 1;
            // SAFETY: an open slab without a free piece has room for another.
            unsafe { start.add(offset) }
        };
        Some(Piece { at, slab: u32::try_from(number).ok()? })
    }

    /// # Safety
    /// As for [`Slabs::give_back`].
    unsafe fn give_back(&mut self, piece: Piece) -> Option<Region> {
        let number = piece.slab as usize;
        let slab = self.slabs.get_mut(number)?;
        // SAFETY: a piece is long enough and aligned for an address, and nobody else uses it.
        unsafe { piece.at.cast::<Option<NonNull<u8>>>().write(slab.free) };
        slab.free = Some(piece.at);
        slab.in_use -= 1;
        if slab.in_use == 0 {
            return self.empty_slab(number);
        }
        if slab.listed.is_none() {
            let open = self.open.get_mut(slab.class)?;
            slab.listed = Some(open.len());
            open.push(number);
        }
        None
    }

    /// A slab of this size with a free piece, or room to cut one.
    fn open_slab(&mut self, class: usize) -> Option<usize> {
        let open = self.open.get_mut(class)?;
        while let Some(&number) = open.last() {
            let slab = self.slabs.get_mut(number)?;
            if slab.has_room() {
                return Some(number);
            }
            slab.listed = None;
            open.pop();
        }
        None
    }

    fn new_slab(&mut self, class: usize) -> Option<usize> {
        if self.empty.is_empty() {
            self.add_region();
        }
        let number = self.empty.pop()?;
        let open = self.open.get_mut(class)?;
        *self.slabs.get_mut(number)? = Slab { class, listed: Some(open.len()), ..Slab::default() };
        open.push(number);
        self.regions.get_mut(number / SLABS_PER_REGION)?.as_mut()?.slabs_in_use += 1;
        Some(number)
    }

    fn add_region(&mut self) {
        let mapped = MappedRegion { region: reserve::take(), slabs_in_use: 0 };
        let place = self.regions.iter().position(Option::is_none).unwrap_or(self.regions.len());
        if let Some(vacant) = self.regions.get_mut(place) {
            *vacant = Some(mapped);
        } else {
            self.regions.push(Some(mapped));
            self.slabs.resize(self.regions.len() * SLABS_PER_REGION, Slab::default());
        }
        self.empty.extend((place * SLABS_PER_REGION..(place + 1) * SLABS_PER_REGION).rev());
    }

    /// Makes a slab serve any size again. Returns its region if that has no slab in use, and there are as many
    /// empty ones elsewhere.
    fn empty_slab(&mut self, number: usize) -> Option<Region> {
        let place = number / SLABS_PER_REGION;
        let slab = std::mem::take(self.slabs.get_mut(number)?);
        if let Some(listed) = slab.listed {
            let open = self.open.get_mut(slab.class)?;
            open.swap_remove(listed);
            if let Some(moved) = open.get(listed) {
                self.slabs.get_mut(*moved)?.listed = Some(listed);
            }
        }
        self.empty.push(number);
        let mapped = self.regions.get_mut(place)?;
        let in_use = &mut mapped.as_mut()?.slabs_in_use;
        *in_use -= 1;
        if *in_use > 0 || self.empty.len() < 2 * SLABS_PER_REGION {
            return None;
        }
        let unmapped = mapped.take();
        self.empty.retain(|slab| slab / SLABS_PER_REGION != place);
        unmapped.map(|mapped| mapped.region)
    }

    fn start_of(&self, number: usize) -> Option<NonNull<u8>> {
        let region = &self.regions.get(number / SLABS_PER_REGION)?.as_ref()?.region;
        // SAFETY: a region has room for that many slabs.
        Some(unsafe { region.as_ptr().add(number % SLABS_PER_REGION * SLAB_BYTES) })
    }
}

impl Slab {
    const fn has_room(&self) -> bool {
        self.free.is_some() || (self.cut + 1) * piece_bytes(self.class) <= SLAB_BYTES
    }
}

const fn piece_bytes(class: usize) -> usize {
    (class + 1) * STEP_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    /// Fills a piece, and says later whether nobody else wrote there.
    fn mark(piece: Piece, bytes: usize, mark: u8) {
        // SAFETY: the piece has so many bytes and is in use.
        unsafe { piece.at.as_ptr().write_bytes(mark, bytes) };
    }

    fn holds(piece: Piece, bytes: usize, mark: u8) -> bool {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(piece.at.as_ptr(), bytes) }.iter().all(|byte| *byte == mark)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_never_overlap_and_memory_comes_back(
            steps in proptest::collection::vec((any::<bool>(), 1usize..9000, any::<u16>()), 1..2000),
        ) {
            let slabs = Slabs::default();
            let mut held: BTreeMap<u32, (Piece, usize, u8)> = BTreeMap::new();
            for (number, (take, bytes, pick)) in (0_u32..).zip(steps) {
                if take || held.is_empty() {
                    let piece = slabs.take(bytes);
                    prop_assert_eq!(piece.is_some(), bytes <= LARGEST_BYTES);
                    let Some(piece) = piece else { continue };
                    prop_assert_eq!(piece.at.addr().get() % STEP_BYTES, 0);
                    let [tag, ..] = number.to_le_bytes();
                    mark(piece, bytes, tag);
                    held.insert(number, (piece, bytes, tag));
                } else {
                    let key = *held.keys().nth(usize::from(pick) % held.len()).unwrap();
                    let (piece, bytes, tag) = held.remove(&key).unwrap();
                    prop_assert!(holds(piece, bytes, tag));
                    // SAFETY: it was taken, and is forgotten here.
                    unsafe { slabs.give_back(piece) };
                }
            }
            for (piece, bytes, tag) in held.into_values() {
                prop_assert!(holds(piece, bytes, tag));
                // SAFETY: as above.
                unsafe { slabs.give_back(piece) };
            }
            prop_assert!(slabs.mapped_bytes() <= 2 * REGION_BYTES, "{} bytes are left", slabs.mapped_bytes());
        }
    }

    #[test]
    fn a_region_is_full_of_pieces_before_there_is_another() {
        let slabs = Slabs::default();
        let pieces: Vec<_> = (0..REGION_BYTES / 4096).map(|_| slabs.take(4000).unwrap()).collect();
        assert_eq!(slabs.mapped_bytes(), REGION_BYTES);
        let more: Vec<_> = (0..10 * REGION_BYTES / 8192).map(|_| slabs.take(8192).unwrap()).collect();
        assert_eq!(slabs.mapped_bytes(), 11 * REGION_BYTES);
        for piece in pieces.into_iter().chain(more) {
            // SAFETY: each was taken once.
            unsafe { slabs.give_back(piece) };
        }
        assert!(slabs.mapped_bytes() <= 2 * REGION_BYTES);
        assert!(slabs.take(8193).is_none());
    }
}
