//! Regions at hand. The first touch of a huge page takes the system two milliseconds and more where it has to be cleared
//! and, on a virtual machine, be found by the host; a writer or a reader that comes to it waits for so long. So regions
//! that are given back are kept for the next one who wants some, and who has time makes new ones ahead of need.

use std::sync::LazyLock;

use parking_lot::Mutex;

use super::region::Region;

/// So many are kept at the most: 32 MiB.
const MOST: usize = 16;
/// One goes back to the system after so many looks in which none was taken.
const IDLE_LOOKS: usize = 50;

/// The process's regions.
static RESERVE: LazyLock<Mutex<Reserve>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Reserve {
    regions: Vec<Region>,
    /// How many were taken since the last look, and how many of those were not at hand.
    taken: usize,
    missed: usize,
    idle_looks: usize,
}

/// A region, with whatever was there before.
pub(super) fn take() -> Region {
    let at_hand = RESERVE.lock().take();
    at_hand.unwrap_or_else(Region::map)
}

/// Keeps a region for the next one who wants one, or gives it back to the system.
pub(super) fn give_back(region: Region) {
    let spare = RESERVE.lock().give_back(region);
    drop(spare);
}

/// Looks at what was taken since the last look. Returns how many regions are to be [made](make) now; so many that the
/// next look finds some left.
pub fn look() -> usize {
    let (wanted, idle) = RESERVE.lock().look();
    drop(idle);
    wanted
}

/// Makes so many regions, all of their memory present; for a thread on which nobody waits.
pub fn make(regions: usize) {
    for _ in 0..regions {
        let region = Region::map();
        region.populate();
        give_back(region);
    }
}

impl Reserve {
    fn take(&mut self) -> Option<Region> {
        let region = self.regions.pop();
        self.taken += 1;
        self.missed += usize::from(region.is_none());
        region
    }

    fn give_back(&mut self, region: Region) -> Option<Region> {
        if self.regions.len() >= MOST {
            return Some(region);
        }
        self.regions.push(region);
        None
    }

    fn look(&mut self) -> (usize, Option<Region>) {
        let (taken, missed) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.missed));
        if taken > 0 {
            self.idle_looks = 0;
            // What comes back of itself need not be made.
            let wanted = if missed > 0 || self.regions.len() < taken { taken * 2 } else { 0 };
            return (wanted.min(MOST).saturating_sub(self.regions.len()), None);
        }
        self.idle_looks += 1;
        let idle = self.idle_looks.is_multiple_of(IDLE_LOOKS).then(|| self.regions.pop()).flatten();
        (0, idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_taken_next_and_nobody_keeps_more_than_so_much() {
        let mut reserve = Reserve::default();
        assert!(reserve.take().is_none());
        let spare = (0..MOST + 2).filter_map(|_| reserve.give_back(Region::map())).count();
        assert_eq!((spare, reserve.regions.len()), (2, MOST));
        assert!(reserve.take().is_some());
    }

    #[test]
    fn so_many_are_made_that_the_next_look_finds_some_left() {
        let mut reserve = Reserve::default();
        assert_eq!(reserve.look().0, 0, "nobody wants any");
        assert!((0..3).all(|_| reserve.take().is_none()));
        assert_eq!(reserve.look().0, 6);
        (0..6).for_each(|_| assert!(reserve.give_back(Region::map()).is_none()));
        (0..3).for_each(|_| drop(reserve.take()));
        assert_eq!(reserve.look().0, 0, "there are as many left as were taken");
        (0..2).for_each(|_| drop(reserve.take()));
        assert_eq!(reserve.look().0, 3, "there are fewer");
        assert!((0..MOST * 4).map(|_| reserve.take()).last().is_some());
        assert_eq!(reserve.look().0, MOST);
    }

    #[test]
    fn what_nobody_wants_for_long_goes_back_to_the_system() {
        let mut reserve = Reserve::default();
        (0..3).for_each(|_| assert!(reserve.give_back(Region::map()).is_none()));
        let back = (0..IDLE_LOOKS * 10).filter(|_| reserve.look().1.is_some()).count();
        assert_eq!((back, reserve.regions.len()), (3, 0));
    }

    /// How many of a region's 4 KiB pages are in memory, as the system says.
    #[cfg(target_os = "linux")]
    fn present_pages(region: &Region) -> usize {
        use std::os::unix::fs::FileExt;

        const PAGE_BYTES: u64 = 4096;
        let mut entries = vec![0; crate::memory::REGION_BYTES / 4096 * 8];
        let first = region.as_ptr().addr().get() as u64 / PAGE_BYTES;
        let pages = std::fs::File::open("/proc/self/pagemap").unwrap();
        pages.read_exact_at(&mut entries, first * 8).unwrap();
        entries.chunks_exact(8).filter(|entry| entry.last().is_some_and(|byte| byte & 0x80 != 0)).count()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_region_that_was_made_is_there_in_full() {
        let region = Region::map();
        assert_eq!(present_pages(&region), 0, "nobody has touched it");
        region.populate();
        assert_eq!(present_pages(&region), crate::memory::REGION_BYTES / 4096);
    }
}
