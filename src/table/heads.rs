//! A sorted array of numbers that is searched in few cache lines: a static tree with 16 numbers a node, each
//! level an array of the largest number in each node of the level below.

const FANOUT: usize = 16;

/// Numbers that are compared at once, in two neighbouring cache lines: processors load those together.
#[derive(Clone, Copy, Debug)]
#[repr(align(128))]
struct Node([u64; FANOUT]);

/// Sorted numbers.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// The numbers, then the levels above; the last one is one node. Each is filled up with the largest number there
    /// is.
    levels: Vec<Box<[Node]>>,
    len: usize,
}

impl Heads {
    /// Takes numbers in ascending order.
    pub(super) fn new(numbers: &[u64]) -> Self {
        let mut levels = vec![nodes_of(numbers)];
        while let Some(below) = levels.last().filter(|below| below.len() > 1) {
            let largest: Vec<_> = below.iter().map(|node| node.0[FANOUT - 1]).collect();
            levels.push(nodes_of(&largest));
        }
        Self { levels, len: numbers.len() }
    }

    /// The number at a place.
    pub(super) fn get(&self, place: usize) -> Option<u64> {
        let node = self.levels.first()?.get(place / FANOUT)?;
        node.0.get(place % FANOUT).copied().filter(|_| place < self.len)
    }

    /// How many numbers are below `number`: the place of the first that is not.
    #[inline]
    pub(super) fn lower_bound(&self, number: u64) -> usize {
        let mut place = 0;
        for level in self.levels.iter().rev() {
            // NOTE: only the top can be wholly below, and then there is no node at that place further down.
            let Some(node) = level.get(place) else { return self.len };
            place = place * FANOUT + count_below(node, number);
        }
        place
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.levels.iter().map(|level| size_of_val(&**level)).sum()
    }
}

fn nodes_of(numbers: &[u64]) -> Box<[Node]> {
    let node = |chunk: &[u64]| {
        let mut node = Node([u64::MAX; FANOUT]);
        node.0.iter_mut().zip(chunk).for_each(|(place, number)| *place = *number);
        node
    };
    numbers.chunks(FANOUT).map(node).collect()
}

/// NOTE: a node has a constant length, and so needs neither a loop's end nor a branch a number.
#[inline]
fn count_below(node: &Node, number: u64) -> usize {
    node.0.iter().map(|other| usize::from(*other < number)).sum()
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
            let heads = Heads::new(&numbers);
            for number in numbers.iter().copied().chain([probe, 0, u64::MAX]) {
                prop_assert_eq!(heads.lower_bound(number), numbers.partition_point(|other| *other < number));
            }
        }
    }

    #[test]
    fn every_length_up_to_three_levels() {
        for n in 0..(FANOUT * FANOUT + 2 * FANOUT) as u64 {
            let numbers: Vec<_> = (0..n).map(|i| i * 2).collect();
            let heads = Heads::new(&numbers);
            assert_eq!((0..).map_while(|place| heads.get(place)).collect::<Vec<_>>(), numbers);
            for i in 0..=2 * n {
                assert_eq!(heads.lower_bound(i) as u64, i.div_ceil(2).min(n), "{i} of {n}");
            }
        }
    }
}
