//! A region: 2 MiB of memory at a multiple of 2 MiB, mapped on its own.
#![expect(unsafe_code, reason = "memory is mapped and unmapped by its address")]

use std::{alloc::Layout, alloc::handle_alloc_error, ptr, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The size of a region, and of a huge page.
pub const REGION_BYTES: usize = 2 << 20;

/// 2 MiB of zeroes at first, aligned as much. Pages come as they are touched: all at once, where the system has
/// huge pages (Linux with transparent huge pages "madvise" or "always").
#[derive(Debug)]
pub struct Region(NonNull<u8>);

// SAFETY: a region is memory that belongs to who has it.
unsafe impl Send for Region {}
// SAFETY: as above; through a shared one there is only its address.
unsafe impl Sync for Region {}

impl Region {
    /// A new region. Ends the process, as any allocation does, when the system has no memory left.
    pub fn map() -> Self {
        let out_of_memory = || {
            handle_alloc_error(
                Layout::from_size_align(REGION_BYTES, REGION_BYTES).unwrap_or(Layout::new::<u8>()),
            )
        };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping where the system likes; twice as long, so that an aligned region lies within.
        let mapped = unsafe {
            mmap_anonymous(ptr::null_mut(), 2 * REGION_BYTES, ProtFlags::READ | ProtFlags::WRITE, flags)
        };
        let Ok(mapped) = mapped else { out_of_memory() };
        let mapped = mapped.cast::<u8>();
        let before = mapped.addr().next_multiple_of(REGION_BYTES) - mapped.addr();
        // SAFETY: what is unmapped are the parts of the new mapping before and behind the region.
        let at = unsafe {
            let at = mapped.add(before);
            unmap(mapped, before);
            unmap(at.add(REGION_BYTES), REGION_BYTES - before);
            at
        };
        advise_huge(at);
        match NonNull::new(at) {
            Some(at) => Self(at),
            None => out_of_memory(),
        }
    }

    /// Has all of its memory there before anybody comes to it.
    pub(super) fn populate(&self) {
        #[cfg(target_os = "linux")]
        // SAFETY: advice about a mapping of our own; it changes no content. NOTE: systems before 5.14 refuse it, and have
        // the pages come as they are touched.
        unsafe {
            let _ = rustix::mm::madvise(
                self.0.as_ptr().cast(),
                REGION_BYTES,
                rustix::mm::Advice::LinuxPopulateWrite,
            );
        }
    }

    /// Where it begins.
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.0
    }

    /// Its address, for [`Region::from_raw`].
    pub const fn into_raw(self) -> NonNull<u8> {
        let at = self.0;
        std::mem::forget(self);
        at
    }

    /// The region whose address this is.
    ///
    /// # Safety
    /// `at` comes from [`Region::into_raw`], and is used once.
    pub const unsafe fn from_raw(at: NonNull<u8>) -> Self {
        Self(at)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region was mapped by `map`, and nobody else has it.
        unsafe { unmap(self.0.as_ptr(), REGION_BYTES) };
    }
}

/// # Safety
/// The bytes are a mapping's, or a part of one, that nobody uses any more.
unsafe fn unmap(at: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: the caller's promise. NOTE: it fails only where a mapping would have to be cut and the process has
        // too many already; the memory then stays with the process.
        let _ = unsafe { munmap(at.cast(), bytes) };
    }
}

/// Asks for a huge page. Where there are none, nothing is lost but speed.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "only Linux takes this advice"))]
fn advise_huge(at: *mut u8) {
    #[cfg(target_os = "linux")]
    // SAFETY: advice about a mapping of our own; it changes no content.
    unsafe {
        let _ = rustix::mm::madvise(at.cast(), REGION_BYTES, rustix::mm::Advice::LinuxHugepage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_zeroed_and_apart() {
        let regions: Vec<_> = (0..4).map(|_| Region::map()).collect();
        for (number, region) in (1..).zip(&regions) {
            let at = region.as_ptr();
            assert_eq!(at.addr().get() % REGION_BYTES, 0);
            // SAFETY: the region has so many bytes, and nobody else writes there.
            let bytes = unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), REGION_BYTES) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(number);
        }
        for (number, region) in (1..).zip(regions) {
            // SAFETY: the address is the region's, used once.
            let region = unsafe { Region::from_raw(region.into_raw()) };
            // SAFETY: as above.
            let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr().as_ptr(), REGION_BYTES) };
            assert!(bytes.iter().all(|byte| *byte == number));
        }
    }
}
