//! Chunks: memory of any length for who gives it back by address and length. One as long as a region is one.
#![expect(unsafe_code, reason = "memory is allocated and freed by its address")]

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    ptr::NonNull,
};

use super::{
    region::{REGION_BYTES, Region},
    reserve,
};

const ALIGN: usize = 16;

/// Memory of `bytes` bytes, more than none, at a multiple of 16; with whatever was there before. Ends the process, as
/// any allocation does, when there is none.
pub fn allocate_chunk(bytes: usize) -> NonNull<u8> {
    if bytes == REGION_BYTES {
        return reserve::take().into_raw();
    }
    let layout = layout(bytes);
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Frees a chunk.
///
/// # Safety
/// `at` comes from [`allocate_chunk`] for so many bytes, and nobody uses it any more.
pub unsafe fn free_chunk(at: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if bytes == REGION_BYTES {
            reserve::give_back(Region::from_raw(at));
        } else {
            dealloc(at.as_ptr(), layout(bytes));
        }
    }
}

fn layout(bytes: usize) -> Layout {
    assert!(bytes > 0, "nobody asks for nothing");
    Layout::from_size_align(bytes, ALIGN).expect("a chunk is smaller than the address space")
}

/// Asks for so many cache lines at once, and does not wait for them. The address need not lead anywhere.
#[inline]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "no stable prefetch there"))]
pub fn prefetch_lines(at: *const u8, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const CACHE_LINE_BYTES: usize = 64;
        // SAFETY: a hint; it has no effect but on the cache, wherever the address leads.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line * CACHE_LINE_BYTES).cast()) };
    }
}
