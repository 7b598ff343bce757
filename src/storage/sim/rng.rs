//! Small seeded random numbers (SplitMix64): the same seed and stream give the same numbers, on every machine.

#[derive(Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// Numbers for one purpose: streams of one seed have nothing to do with each other.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        rng.next();
        rng
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        match (high - low).checked_add(1) {
            Some(span) => low + self.next() % span,
            None => self.next(),
        }
    }

    /// A number in `0..=high`.
    pub(super) fn up_to(&mut self, high: usize) -> usize {
        usize::try_from(self.between(0, high as u64)).unwrap_or(high)
    }

    pub(super) fn coin(&mut self) -> bool {
        self.permille(500)
    }

    /// True in `chance` of 1,000 cases.
    pub(super) fn permille(&mut self, chance: u32) -> bool {
        self.next() % 1_000 < u64::from(chance)
    }
}
