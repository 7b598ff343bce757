//! A loser tree: which of several places comes first, and after that one has changed, which comes first now, in
//! ⌈log₂ n⌉ comparisons (Knuth, "Sorting and Searching", 5.4.1). It knows the places' numbers only; whoever owns
//! what stands there compares.

/// The matches of a tournament between places `0..n`. Each inner node keeps who lost there.
#[derive(Debug, Default)]
pub struct LoserTree {
    /// The winner of all, then the loser of each match; the match of places `2 i` and `2 i + 1` is at `i`, where
    /// place `p` counts as `n + p`.
    nodes: Vec<usize>,
    /// Who won each match so far; used while the tree is built.
    winners: Vec<usize>,
}

impl LoserTree {
    /// Plays all matches between `places` places. `is_before(a, b)` says whether place `a` comes first.
    pub fn rebuild(&mut self, places: usize, is_before: impl Fn(usize, usize) -> bool) {
        self.nodes.clear();
        self.nodes.resize(places, 0);
        self.winners.clear();
        self.winners.resize(places, 0);
        self.winners.extend(0..places);
        for node in (1..places).rev() {
            let (Some(&left), Some(&right)) = (self.winners.get(2 * node), self.winners.get(2 * node + 1))
            else {
                return;
            };
            let (winner, loser) = if is_before(right, left) { (right, left) } else { (left, right) };
            self.set(node, winner, loser);
        }
        if let (Some(first), Some(winner)) = (self.nodes.first_mut(), self.winners.get(1)) {
            *first = *winner;
        }
    }

    /// The place that comes first; `None` if there are no places.
    #[inline]
    pub fn first(&self) -> Option<usize> {
        self.nodes.first().copied()
    }

    /// The places one of which comes next after the first one: those that lost against it.
    #[inline]
    pub fn lost_to_first(&self) -> impl Iterator<Item = usize> {
        let first = self.nodes.first().map(|first| usize::midpoint(self.nodes.len(), *first));
        let above = std::iter::successors(first, |node| Some(node / 2));
        above.take_while(|node| *node > 0).filter_map(|node| self.nodes.get(node).copied())
    }

    /// Plays the first place's matches again, after what stands there has changed.
    #[inline]
    pub fn replay(&mut self, is_before: impl Fn(usize, usize) -> bool) {
        let Some(mut winner) = self.first() else { return };
        let mut node = usize::midpoint(self.nodes.len(), winner);
        while let Some(loser) = self.nodes.get_mut(node).filter(|_| node > 0) {
            if is_before(*loser, winner) {
                std::mem::swap(loser, &mut winner);
            }
            node /= 2;
        }
        if let Some(first) = self.nodes.first_mut() {
            *first = winner;
        }
    }

    fn set(&mut self, node: usize, winner: usize, loser: usize) {
        if let (Some(won), Some(lost)) = (self.winners.get_mut(node), self.nodes.get_mut(node)) {
            (*won, *lost) = (winner, loser);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_merges_like_a_sort(mut lists in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..12)) {
            let mut expected: Vec<u8> = lists.concat();
            expected.sort_unstable();
            for list in &mut lists {
                list.sort_unstable_by(|a, b| b.cmp(a));
            }
            let head = |lists: &[Vec<u8>], place: usize| lists[place].last().map_or(u16::MAX, |head| u16::from(*head));
            let mut tree = LoserTree::default();
            tree.rebuild(lists.len(), |a, b| head(&lists, a) < head(&lists, b));
            let mut merged = vec![];
            while let Some(first) = tree.first() {
                let second = tree.lost_to_first().map(|place| head(&lists, place)).min();
                let others = (0..lists.len()).filter(|place| *place != first);
                prop_assert_eq!(second, others.map(|place| head(&lists, place)).min());
                let Some(next) = lists[first].pop() else { break };
                merged.push(next);
                tree.replay(|a, b| head(&lists, a) < head(&lists, b));
            }
            prop_assert_eq!(merged, expected);
        }
    }
}
