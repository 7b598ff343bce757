//! The data every engine is given: keys, values that say what they are, and the orders in which they are asked for.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;
/// Bytes of a value that name its key and version.
const STAMP_BYTES: usize = 16;

pub type Key = [u8; KEY_BYTES];

/// The key of entry `id`: spread over the key space, so that ascending ids are a random order of keys.
pub fn key(id: u64) -> Key {
    let mut key = [0; KEY_BYTES];
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&mix(id).to_be_bytes());
    tail.copy_from_slice(&mix(id ^ 0x5555_5555_5555_5555).to_be_bytes());
    key
}

/// A bijection of 64 bits (the finalizer of splitmix64).
pub fn mix(id: u64) -> u64 {
    let mut x = id.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Makes values that are half compressible, and checks them: each begins with a stamp of its key and version.
#[derive(Clone)]
pub struct Values {
    filler: Arc<[u8]>,
    bytes: usize,
    value: Vec<u8>,
}

impl Values {
    /// Values of `bytes` bytes, at least the stamp's 16. Behind the stamp the first half is random and the
    /// second repeats it.
    pub fn new(bytes: usize) -> Self {
        let mut random = Random(3);
        let filler = (0..1 << 17).flat_map(|_| random.next().to_le_bytes()).collect();
        Self { filler, bytes: bytes.max(STAMP_BYTES), value: vec![0; bytes.max(STAMP_BYTES)] }
    }

    /// The value of entry `id` in its `version`.
    pub fn make(&mut self, id: u64, version: u32) -> &[u8] {
        let body = self.bytes - STAMP_BYTES;
        let half = body.div_ceil(2);
        let start = usize::try_from(mix(id) % (self.filler.len() - body) as u64).unwrap_or(0);
        let (stamp, rest) = self.value.split_at_mut(STAMP_BYTES);
        let (first, second) = rest.split_at_mut(half);
        stamp.copy_from_slice(&stamp_of(id, version));
        first.copy_from_slice(&self.filler[start..start + half]);
        second.copy_from_slice(&self.filler[start..start + body - half]);
        &self.value
    }

    /// The version that a value found under entry `id` has, or what is wrong with it.
    pub fn check(&self, id: u64, found: &[u8]) -> anyhow::Result<u32> {
        anyhow::ensure!(
            found.len() == self.bytes,
            "entry {id} has {} bytes, not {}",
            found.len(),
            self.bytes
        );
        let mut version = [0; 4];
        version.copy_from_slice(&found[..4]);
        let version = u32::from_le_bytes(version);
        anyhow::ensure!(found[..STAMP_BYTES] == stamp_of(id, version), "entry {id} holds another's value");
        Ok(version)
    }
}

/// Version, a check over both, entry.
fn stamp_of(id: u64, version: u32) -> [u8; STAMP_BYTES] {
    let mut stamp = [0; STAMP_BYTES];
    stamp[..4].copy_from_slice(&version.to_le_bytes());
    stamp[4..8].copy_from_slice(&mix(id ^ u64::from(version)).to_le_bytes()[..4]);
    stamp[8..].copy_from_slice(&id.to_le_bytes());
    stamp
}

/// A small deterministic generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(end)) >> 64).unwrap_or(0)
    }
}

/// Which entry comes next.
#[derive(Clone, Debug)]
pub enum Pick {
    /// Each as likely as any other.
    Uniform { random: Random, entries: u64 },
    /// Few often, most seldom.
    Zipfian { random: Random, zipf: Zipf },
    /// Nine of ten among some, the others elsewhere.
    Hot { random: Random, hot: Arc<Vec<u64>>, cold: Arc<Vec<u64>> },
}

impl Pick {
    pub fn uniform(entries: u64, seed: u64) -> Self {
        Self::Uniform { random: Random(mix(seed)), entries }
    }

    /// With the exponent 0.99 that YCSB uses; the frequent entries are spread over the key space.
    pub fn zipfian(entries: u64, seed: u64) -> Self {
        Self::Zipfian { random: Random(mix(seed)), zipf: Zipf::new(entries, 0.99) }
    }

    /// Nine of ten among the first of these.
    pub fn hot((hot, cold): (Arc<Vec<u64>>, Arc<Vec<u64>>), seed: u64) -> Self {
        Self::Hot { random: Random(mix(seed)), hot, cold }
    }

    pub fn next(&mut self) -> u64 {
        match self {
            Self::Hot { random, hot, cold } => {
                let ids = if random.below(10) == 0 { cold } else { hot };
                let place = usize::try_from(random.below(ids.len() as u64)).unwrap_or_default();
                ids.get(place).copied().unwrap_or_default()
            }
            Self::Uniform { random, entries } => random.below(*entries),
            Self::Zipfian { random, zipf } => zipf.rank(random.next()),
        }
    }
}

/// Zipf-distributed ranks by the method of Gray et al., "Quickly generating billion-record synthetic databases".
#[derive(Clone, Debug)]
pub struct Zipf {
    entries: u64,
    exponent: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    fn new(entries: u64, exponent: f64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-exponent)).sum::<f64>();
        let (zeta_two, zeta_all) = (zeta(2), zeta(entries));
        let eta = (1.0 - (2.0 / entries as f64).powf(1.0 - exponent)) / (1.0 - zeta_two / zeta_all);
        Self { entries, exponent, zeta: zeta_all, alpha: 1.0 / (1.0 - exponent), eta }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the distribution is an approximation"
    )]
    fn rank(&self, random: u64) -> u64 {
        let u = (random >> 11) as f64 / (1_u64 << 53) as f64;
        let scaled = u * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.exponent) {
            return 1;
        }
        let rank = self.entries as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.entries - 1)
    }
}

/// The hash that the control loop computes, as an engine would.
pub fn control_hash(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, 7)
}
