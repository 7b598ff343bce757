//! A header and bytes behind it in one piece of memory, from a pool where it is small enough, shared by counting.
#![expect(unsafe_code, reason = "memory of a length that is known at run time, counted by hand")]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    mem::ManuallyDrop,
    ptr::NonNull,
    slice,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering, fence},
    },
};

use arc_swap::RefCnt;

use super::{
    chunk::prefetch_lines,
    slabs::{Piece, Slabs},
};

/// Counted memory: a header, and bytes that never change.
#[derive(Debug)]
pub struct Shared<H>(NonNull<Inner<H>>);

/// What stands in front of the bytes.
#[derive(Debug)]
#[repr(C)]
pub struct Inner<H> {
    count: AtomicUsize,
    len: usize,
    header: H,
    /// Where the memory comes from; `None`: from the process's allocator.
    home: Option<(Arc<Slabs>, Piece)>,
}

// SAFETY: as for `Arc<H>`; the bytes are only read.
unsafe impl<H: Send + Sync> Send for Shared<H> {}
// SAFETY: as above.
unsafe impl<H: Send + Sync> Sync for Shared<H> {}

impl<H> Shared<H> {
    /// `len` bytes that `write` writes, behind the header that it returns. What it finds there is of no meaning.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn try_new<E>(
        len: usize,
        slabs: &Arc<Slabs>,
        write: impl FnOnce(&mut [u8]) -> Result<H, E>,
    ) -> Result<Self, E> {
        const { assert!(align_of::<Inner<H>>() <= 16, "pieces are aligned to more than that") };
        let room = Room::<H>::take(len, slabs);
        // SAFETY: there is room for so many bytes behind the header, and nobody else knows of them. They have been
        // written: those of a pool by the system, with zeroes, or as the bytes of another one; the others are zeroed.
        let bytes = unsafe { slice::from_raw_parts_mut(room.at.add(1).cast().as_ptr(), len) };
        let header = write(bytes)?;
        let room = ManuallyDrop::new(room);
        let home = room.piece.map(|piece| (Arc::clone(slabs), piece));
        // SAFETY: the memory is aligned, long enough, and nobody else's.
        unsafe { room.at.write(Inner { count: AtomicUsize::new(1), len, header, home }) };
        Ok(Self(room.at))
    }

    /// The header.
    #[inline]
    pub const fn header(&self) -> &H {
        &self.inner().header
    }

    /// The bytes.
    #[inline]
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes were written behind the header, and never change.
        unsafe { slice::from_raw_parts(self.0.add(1).cast().as_ptr(), self.inner().len) }
    }

    /// Asks for the memory's first `lines` cache lines all at once, and does not wait for them.
    #[inline]
    pub fn prefetch(&self, lines: usize) {
        prefetch_lines(self.0.as_ptr().cast_const().cast(), lines);
    }

    const fn inner(&self) -> &Inner<H> {
        // SAFETY: it lives as long as it is counted, and this is counted.
        unsafe { self.0.as_ref() }
    }
}

/// Memory for a header and bytes; given back on drop.
struct Room<'a, H> {
    at: NonNull<Inner<H>>,
    len: usize,
    piece: Option<Piece>,
    slabs: &'a Slabs,
}

impl<'a, H> Room<'a, H> {
    fn take(len: usize, slabs: &'a Slabs) -> Self {
        let layout = layout::<H>(len);
        let piece = slabs.take(layout.size());
        let at = piece.map_or_else(
            || {
                // SAFETY: the layout is not empty: there is the count.
                let at = unsafe { alloc_zeroed(layout) };
                NonNull::new(at).unwrap_or_else(|| handle_alloc_error(layout))
            },
            |piece| piece.at,
        );
        Self { at: at.cast(), len, piece, slabs }
    }
}

impl<H> Drop for Room<'_, H> {
    fn drop(&mut self) {
        // SAFETY: it came from there, and nobody uses it.
        unsafe {
            match self.piece {
                Some(piece) => self.slabs.give_back(piece),
                None => dealloc(self.at.cast().as_ptr(), layout::<H>(self.len)),
            }
        }
    }
}

fn layout<H>(bytes: usize) -> Layout {
    let inner = Layout::new::<Inner<H>>();
    Layout::from_size_align(inner.size() + bytes, inner.align())
        .expect("a slice and a header fit the address space")
}

impl<H> Clone for Shared<H> {
    #[inline]
    fn clone(&self) -> Self {
        let before = self.inner().count.fetch_add(1, Ordering::Relaxed);
        // As `Arc` does: so many can only have been forgotten, and the count must not wrap.
        if before > usize::MAX / 2 {
            std::process::abort();
        }
        Self(self.0)
    }
}

impl<H> Drop for Shared<H> {
    #[inline]
    fn drop(&mut self) {
        if self.inner().count.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // What the others did with it comes before it is freed.
        fence(Ordering::Acquire);
        let bytes = self.inner().len;
        // SAFETY: this was the last one: nobody reads the memory any more, and it goes back where it came from.
        unsafe {
            let Inner { header, home, .. } = self.0.read();
            match home {
                Some((slabs, piece)) => slabs.give_back(piece),
                None => dealloc(self.0.cast().as_ptr(), layout::<H>(bytes)),
            }
            drop(header);
        }
    }
}

// SAFETY: the pointer is the one of a counted allocation, as an `Arc`'s is; nothing is counted on the way to it or
// back.
unsafe impl<H> RefCnt for Shared<H> {
    type Base = Inner<H>;

    fn into_ptr(me: Self) -> *mut Self::Base {
        std::mem::ManuallyDrop::new(me).0.as_ptr()
    }

    fn as_ptr(me: &Self) -> *mut Self::Base {
        me.0.as_ptr()
    }

    unsafe fn from_ptr(ptr: *const Self::Base) -> Self {
        // SAFETY: it comes from `into_ptr`, and so is not null.
        Self(unsafe { NonNull::new_unchecked(ptr.cast_mut()) })
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwapAny;

    use super::*;

    fn shared<H>(header: H, content: &[u8], slabs: &Arc<Slabs>) -> Shared<H> {
        let written = Shared::try_new(content.len(), slabs, |bytes| {
            bytes.copy_from_slice(content);
            Ok::<_, ()>(header)
        });
        written.unwrap()
    }

    #[test]
    fn what_cannot_be_written_gives_its_memory_back() {
        let slabs = Arc::new(Slabs::default());
        for bytes in [10, 100_000] {
            assert_eq!(Shared::<u8>::try_new(bytes, &slabs, |_| Err("no")).unwrap_err(), "no");
        }
        let first = shared(1, &[7; 10], &slabs);
        let piece = first.bytes().as_ptr();
        drop(first);
        assert_eq!(Shared::<u8>::try_new(10, &slabs, |_| Err("no")).unwrap_err(), "no");
        assert_eq!(shared(2, &[8; 10], &slabs).bytes().as_ptr(), piece, "the same piece again");
    }

    #[test]
    fn small_and_large_ones_are_freed_by_the_last_owner() {
        let slabs = Arc::new(Slabs::default());
        for bytes in [0, 1, 4000, 8100, 8192, 100_000] {
            let (content, token) = (vec![7; bytes], Arc::new(()));
            let one = shared(Arc::clone(&token), &content, &slabs);
            let other = one.clone();
            drop(one);
            assert_eq!(other.bytes(), content);
            assert_eq!(Arc::strong_count(other.header()), 2);
            std::thread::spawn(move || drop(other)).join().unwrap();
            assert_eq!(Arc::strong_count(&token), 1, "{bytes} bytes");
        }
        assert_eq!(Arc::strong_count(&slabs), 1);
    }

    #[test]
    fn what_is_swapped_out_while_it_is_read_stays_whole() {
        const ROUNDS: u8 = 200;
        let slabs = Arc::new(Slabs::default());
        let block = |number: u8| Some(shared(number, &[number; 3000], &slabs));
        let slot: ArcSwapAny<_> = ArcSwapAny::new(block(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < ROUNDS {
                        let found = slot.load();
                        let Some(block) = &*found else { continue };
                        let kept = block.clone();
                        last = *block.header();
                        assert!(kept.bytes().iter().all(|byte| *byte == last));
                    }
                });
            }
            for number in 1..=ROUNDS {
                slot.store(None);
                slot.store(block(number));
            }
        });
        drop(slot);
        assert_eq!(Arc::strong_count(&slabs), 1);
    }
}
