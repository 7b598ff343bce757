//! A sorted array of numbers that is searched in few cache lines: a static tree with 16 numbers a node, each
//! level an array of the largest number in each node of the level below.

const FANOUT: usize = 16;

/// Sorted numbers.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// The numbers, then the levels above; the last one fits a node.
    levels: Vec<Box<[u64]>>,
}

impl Heads {
    /// Takes numbers in ascending order.
    pub(super) fn new(numbers: Box<[u64]>) -> Self {
        let mut levels = vec![numbers];
        while let Some(below) = levels.last().filter(|below| below.len() > FANOUT) {
            let above = below.chunks(FANOUT).filter_map(|node| node.last().copied()).collect();
            levels.push(above);
        }
        Self { levels }
    }

    /// All numbers.
    pub(super) fn numbers(&self) -> &[u64] {
        self.levels.first().map_or(&[], |numbers| numbers)
    }

    /// How many numbers are below `number`: the place of the first that is not.
    #[inline]
    pub(super) fn lower_bound(&self, number: u64) -> usize {
        let mut node = 0;
        for level in self.levels.iter().rev() {
            let start = node * FANOUT;
            let all = level.get(start..).unwrap_or_default();
            // NOTE: a whole node has a constant length, and so needs neither a loop's end nor a branch a number.
            let below = match all.first_chunk::<FANOUT>() {
                Some(whole) => count_below(whole, number),
                None => count_below(all, number),
            };
            node = start + below;
            // Only the top can be wholly below; a node further down holds the number that led to it.
            if node == level.len() {
                return self.numbers().len();
            }
        }
        node
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.levels.iter().map(|level| level.len() * 8).sum()
    }
}

#[inline]
fn count_below(node: &[u64], number: u64) -> usize {
    node.iter().map(|other| usize::from(*other < number)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_binary_search_finds(
            mut numbers in prop::collection::vec(prop_oneof![0u64..40, any::<u64>()], 0..700),
            probe in prop_oneof![0u64..40, any::<u64>()],
        ) {
            numbers.sort_unstable();
            let heads = Heads::new(numbers.clone().into());
            for number in numbers.iter().copied().chain([probe, 0, u64::MAX]) {
                prop_assert_eq!(heads.lower_bound(number), numbers.partition_point(|other| *other < number));
            }
        }
    }

    #[test]
    fn every_length_up_to_three_levels() {
        for n in 0..(FANOUT * FANOUT + 2 * FANOUT) as u64 {
            let heads = Heads::new((0..n).map(|i| i * 2).collect());
            for i in 0..=2 * n {
                assert_eq!(heads.lower_bound(i) as u64, i.div_ceil(2).min(n), "{i} of {n}");
            }
        }
    }
}
