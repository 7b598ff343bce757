//! The bytes of one simulated file: what a reader sees, and what would be left after a power loss.
//!
//! ```text
//!   pages      page number → bytes (absent: zeroes)      what a reader sees
//!   unsynced   page number → the durable bytes           only pages written since the last sync
//! ```
//! Pages are shared between files, images and the past, and copied when written to. So an image costs
//! a few bytes a page, a zero-filled region nothing, and a sync only what is unsynced.

use std::{collections::BTreeMap, sync::Arc};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::rng::Rng;

pub(super) const PAGE_BYTES: usize = 4096;
pub(super) const SECTOR_BYTES: usize = 512;
const SECTORS: usize = PAGE_BYTES / SECTOR_BYTES;

static ZEROES: Page = [0; PAGE_BYTES];

type Page = [u8; PAGE_BYTES];
type Pages = BTreeMap<u64, Arc<Page>>;

/// What a failing sync leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncLoss {
    /// The unsynced pages count as clean, although they are not on the disk: readers still see them, the
    /// next sync succeeds and persists nothing of them, and a power loss takes them. As ext4 does.
    PagesMarkedClean,
    /// The unsynced pages are thrown away: readers see the durable bytes again.
    PagesDropped,
    /// Everything is still there, and a second sync would persist it.
    NothingLost,
}

/// IMPORTANT: bytes behind `len` are zero in every page, so that a file that grows again reads as zeroes.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    len: u64,
    durable_len: u64,
    /// A failed sync lost the length: it stays `durable_len` on the disk until it changes again.
    len_lost: bool,
    pages: Pages,
    unsynced: BTreeMap<u64, Unsynced>,
}

#[derive(Clone, Debug)]
struct Unsynced {
    /// What is durable; `None` is zeroes.
    durable: Option<Arc<Page>>,
    /// One bit a sector: no byte of the durable sector is meant to stay, so it may turn into zeroes.
    replaced: u8,
    /// A failed sync gave this page up: only a new write makes it reach the disk.
    lost: bool,
}

impl Content {
    /// A file whose bytes are all durable.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.write(bytes, 0);
        content.sync();
        content
    }

    /// Whether a power loss changes nothing.
    pub(super) fn is_durable(&self) -> bool {
        self.unsynced.is_empty() && self.len == self.durable_len
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Copies bytes out; returns how many.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let (mut rest, _) = buf.split_at_mut(n);
        for piece in pieces(offset, n) {
            let (out, tail) = rest.split_at_mut(piece.len);
            match self.pages.get(&piece.page).and_then(|page| page.get(piece.start..piece.start + piece.len))
            {
                Some(bytes) => out.copy_from_slice(bytes),
                None => out.fill(0),
            }
            rest = tail;
        }
        n
    }

    pub(super) fn write(&mut self, mut buf: &[u8], offset: u64) {
        let end = offset + buf.len() as u64;
        for piece in pieces(offset, buf.len()) {
            let (bytes, tail) = buf.split_at(piece.len);
            self.write_piece(&piece, bytes);
            buf = tail;
        }
        self.set_len(self.len.max(end));
    }

    fn write_piece(&mut self, piece: &Piece, bytes: &[u8]) {
        let is_zero = is_zero(bytes);
        if is_zero && !self.pages.contains_key(&piece.page) && !self.unsynced.contains_key(&piece.page) {
            return;
        }
        self.touch(piece.page, piece.whole_sectors());
        if is_zero && piece.len == PAGE_BYTES {
            self.pages.remove(&piece.page);
            return;
        }
        let page = self.pages.entry(piece.page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        if let Some(target) = Arc::make_mut(page).get_mut(piece.start..piece.start + piece.len) {
            target.copy_from_slice(bytes);
        }
    }

    /// Keeps a page's durable bytes before the page is changed.
    fn touch(&mut self, page: u64, replaced: u8) {
        let unsynced = self.unsynced.entry(page).or_insert_with(|| Unsynced {
            durable: self.pages.get(&page).cloned(),
            replaced: 0,
            lost: false,
        });
        unsynced.replaced |= replaced;
        unsynced.lost = false;
    }

    /// Makes the file longer, which adds zeroes, or shorter.
    pub(super) fn set_len(&mut self, len: u64) {
        if len == self.len {
            return;
        }
        if len < self.len {
            let (first, _) = split(len);
            let touched: Vec<u64> = self.pages.range(first..).map(|(&page, _)| page).collect();
            for page in touched {
                self.touch(page, 0);
            }
            cut(&mut self.pages, len);
        }
        self.len = len;
        self.len_lost = false;
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.retain(|_, page| page.lost);
        if !self.len_lost {
            self.durable_len = self.len;
        }
    }

    /// Makes the pages of some bytes durable, but not the length.
    pub(super) fn sync_range(&mut self, offset: u64, bytes: u64) {
        let (first, last) = (split(offset).0, split((offset + bytes).saturating_sub(1)).0);
        self.unsynced.retain(|number, page| page.lost || !(first..=last).contains(number));
    }

    /// A sync that was cut short: any part of what is unsynced is durable now.
    pub(super) fn sync_in_part(&mut self, rng: &mut Rng) {
        self.unsynced.retain(|_, page| page.lost || rng.coin());
        if !self.len_lost {
            self.durable_len = self.len_between(rng);
        }
    }

    pub(super) fn fail_sync(&mut self, loss: SyncLoss) {
        match loss {
            SyncLoss::NothingLost => {}
            SyncLoss::PagesMarkedClean => {
                self.unsynced.values_mut().for_each(|page| page.lost = true);
                self.len_lost = true;
            }
            SyncLoss::PagesDropped => {
                for (page, unsynced) in std::mem::take(&mut self.unsynced) {
                    match unsynced.durable {
                        Some(bytes) => self.pages.insert(page, bytes),
                        None => self.pages.remove(&page),
                    };
                }
                cut(&mut self.pages, self.len);
            }
        }
    }

    fn len_between(&self, rng: &mut Rng) -> u64 {
        let (low, high) = (self.len.min(self.durable_len), self.len.max(self.durable_len));
        match rng.between(0, 3) {
            0 => self.durable_len,
            1 => self.len,
            _ => rng.between(low, high),
        }
    }

    /// What the disk holds after a power loss now.
    pub(super) fn power_loss(&self, rng: &mut Rng) -> Self {
        let len = if self.len_lost { self.durable_len } else { self.len_between(rng) };
        let unit = if rng.coin() { 1 } else { SECTORS };
        let mut fate = Fate::draw(rng, self.unsynced.len() * SECTORS / unit);
        let mut pages = self.pages.clone();
        for (&number, unsynced) in &self.unsynced {
            let mut outcome = [Sector::Old; SECTORS];
            for group in outcome.chunks_mut(unit) {
                group.fill(fate.next(rng));
            }
            if unsynced.lost {
                outcome = [Sector::Old; SECTORS];
            }
            match unsynced.settle(pages.get(&number), outcome) {
                Some(page) => pages.insert(number, page),
                None => pages.remove(&number),
            };
        }
        cut(&mut pages, len);
        Self { len, durable_len: len, len_lost: false, pages, unsynced: BTreeMap::new() }
    }

    /// The bytes that every power loss would leave.
    pub(super) fn durable_bytes(&self) -> Vec<u8> {
        let mut pages = self.pages.clone();
        for (&number, unsynced) in &self.unsynced {
            match &unsynced.durable {
                Some(page) => pages.insert(number, page.clone()),
                None => pages.remove(&number),
            };
        }
        let len = self.durable_len;
        let durable = Self { len, durable_len: len, len_lost: false, pages, unsynced: BTreeMap::new() };
        durable.bytes()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or_default()];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Damages one byte, as seen and as durable.
    pub(super) fn flip(&mut self, offset: u64, xor: u8) {
        let (number, start) = split(offset);
        let flip = |page: &mut Arc<Page>| {
            if let Some(byte) = Arc::make_mut(page).get_mut(start) {
                *byte ^= xor;
            }
        };
        flip(self.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE_BYTES])));
        if let Some(unsynced) = self.unsynced.get_mut(&number) {
            flip(unsynced.durable.get_or_insert_with(|| Arc::new([0; PAGE_BYTES])));
        }
    }

    /// Calls `visit` with every page that is not zeroes.
    pub(super) fn each_page(&self, mut visit: impl FnMut(u64, &[u8])) {
        for (&number, page) in &self.pages {
            if !is_zero(page.as_slice()) {
                visit(number, page.as_slice());
            }
        }
    }
}

impl Unsynced {
    /// The page after a power loss with this outcome for each of its sectors.
    fn settle(&self, new: Option<&Arc<Page>>, outcome: [Sector; SECTORS]) -> Option<Arc<Page>> {
        if outcome.iter().all(|&sector| sector == Sector::New) {
            return new.cloned();
        }
        if outcome.iter().all(|&sector| sector == Sector::Old) {
            return self.durable.clone();
        }
        let bytes = |page: Option<&Arc<Page>>| page.map_or([0; PAGE_BYTES], |page| **page);
        let (mut page, new) = (bytes(self.durable.as_ref()), bytes(new));
        let sectors = page.chunks_exact_mut(SECTOR_BYTES).zip(new.chunks_exact(SECTOR_BYTES));
        for (i, ((target, new), outcome)) in sectors.zip(outcome).enumerate() {
            match outcome {
                Sector::New => target.copy_from_slice(new),
                // A disk never zeroes bytes that were durable and that nobody wrote to: it writes whole sectors.
                Sector::Zero if self.replaced & (1 << i) != 0 => target.fill(0),
                Sector::Zero | Sector::Old => {}
            }
        }
        Some(Arc::new(page))
    }
}

/// What becomes of an unsynced sector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sector {
    Old,
    New,
    Zero,
}

/// How a power loss treats one file's unsynced sectors. Independent choices alone would almost never give
/// the images that matter most (all but one, all up to one), so those are drawn by name.
#[derive(Clone, Copy)]
enum Fate {
    AllOld,
    AllNew,
    /// So many are new, the others not.
    Prefix(usize),
    /// This one is not new, the others are.
    AllBut(usize),
    Mixed,
}

struct Fates {
    fate: Fate,
    position: usize,
}

impl Fate {
    fn draw(rng: &mut Rng, sectors: usize) -> Fates {
        let fate = match rng.between(0, 4) {
            0 => Self::AllOld,
            1 => Self::AllNew,
            2 => Self::Prefix(rng.up_to(sectors)),
            3 => Self::AllBut(rng.up_to(sectors.saturating_sub(1))),
            _ => Self::Mixed,
        };
        Fates { fate, position: 0 }
    }
}

impl Fates {
    fn next(&mut self, rng: &mut Rng) -> Sector {
        let position = self.position;
        self.position += 1;
        let is_new = match self.fate {
            Fate::AllOld => return Sector::Old,
            Fate::AllNew => true,
            Fate::Prefix(sectors) => position < sectors,
            Fate::AllBut(sector) => position != sector,
            Fate::Mixed => rng.between(0, 2) == 0,
        };
        match (is_new, rng.coin()) {
            (true, _) => Sector::New,
            (false, true) => Sector::Old,
            (false, false) => Sector::Zero,
        }
    }
}

/// A hash of bytes that go into a file; zeroes, which are many, cost little.
pub(super) fn data_hash(bytes: &[u8]) -> u64 {
    bytes.chunks(PAGE_BYTES).fold(bytes.len() as u64, |hash, page| {
        if is_zero(page) { hash.rotate_left(1) } else { xxh3_64_with_seed(page, hash) }
    })
}

/// Whether at most a page of bytes is all zeroes.
fn is_zero(bytes: &[u8]) -> bool {
    let (zeroes, _) = ZEROES.split_at(bytes.len());
    bytes == zeroes
}

/// The part of a read or write that falls into one page.
struct Piece {
    page: u64,
    start: usize,
    len: usize,
}

impl Piece {
    /// One bit for each sector that the piece covers wholly.
    fn whole_sectors(&self) -> u8 {
        let (first, end) = (self.start.div_ceil(SECTOR_BYTES), (self.start + self.len) / SECTOR_BYTES);
        (first..end).fold(0, |mask, sector| mask | 1 << sector)
    }
}

fn pieces(mut offset: u64, mut left: usize) -> impl Iterator<Item = Piece> {
    std::iter::from_fn(move || {
        let (page, start) = split(offset);
        let len = left.min(PAGE_BYTES - start);
        left -= len;
        offset += len as u64;
        (len > 0).then_some(Piece { page, start, len })
    })
}

/// The page of an offset, and where in the page.
fn split(offset: u64) -> (u64, usize) {
    let page_bytes = PAGE_BYTES as u64;
    (offset / page_bytes, usize::try_from(offset % page_bytes).unwrap_or_default())
}

/// Drops everything from `len` on.
fn cut(pages: &mut Pages, len: u64) {
    let (page, start) = split(len);
    pages.split_off(&if start == 0 { page } else { page + 1 });
    let Some(last) = pages.get_mut(&page) else { return };
    if last.iter().skip(start).any(|&byte| byte != 0) {
        Arc::make_mut(last).iter_mut().skip(start).for_each(|byte| *byte = 0);
    }
}

#[cfg(test)]
#[path = "content_test.rs"]
mod tests;
