//! A fixed piece of work, and what it takes at the moment: a machine that is shared is not always equally fast, and no
//! engine can make up for that.

use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::data::mix;

/// Places of the chain, of eight bytes each: more than fits the caches that a core has to itself.
const PLACES: usize = 2 << 20;
const STEPS: usize = 2_000;
const HASHES: u64 = 100;

/// See the module.
pub struct Yardstick {
    /// At each place the next one: a single cycle through all of them.
    chain: Vec<usize>,
}

impl Yardstick {
    pub fn new() -> Self {
        let mut chain: Vec<usize> = (0..PLACES).collect();
        for last in (1..PLACES).rev() {
            #[expect(clippy::cast_possible_truncation, reason = "less than a usize")]
            let other = (mix(last as u64) % last as u64) as usize;
            chain.swap(last, other);
        }
        Self { chain }
    }

    /// The processor time that the work takes now, in microseconds: what a thread waits for a processor does not count.
    pub fn measure(&self, seed: u64) -> f64 {
        let began = thread_micros();
        #[expect(clippy::cast_possible_truncation, reason = "less than a usize")]
        let mut place = (mix(seed) % PLACES as u64) as usize;
        for _ in 0..STEPS {
            place = self.chain[place];
        }
        let page = [7; 4096];
        black_box((0..HASHES).fold(place as u64, |hash, _| xxh3_64_with_seed(black_box(&page), hash)));
        thread_micros() - began
    }
}

fn thread_micros() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_goes_through_all_places() {
        let yardstick = Yardstick::new();
        let mut place = 0;
        let steps = (1..).take_while(|_| {
            place = yardstick.chain[place];
            place != 0
        });
        assert_eq!(steps.count() + 1, PLACES);
        assert!(yardstick.measure(1) > 1.0);
    }
}
