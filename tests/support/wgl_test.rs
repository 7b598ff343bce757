//! What the checker must find, in histories made by hand, and that it agrees with one that tries every order.

use crate::{
    cells::{ABSENT, Cells, Group, KEYS, Op, State},
    random::Random,
    report::{say, seed},
    wgl::{Entry, Object, check, explains},
};

type History = Vec<Entry<Op>>;

/// A history that is written down call by call.
#[derive(Default)]
struct Story(History);

impl Story {
    fn add(mut self, called: u64, returned: u64, is_optional: bool, op: Op) -> Self {
        let id = u64::try_from(self.0.len()).unwrap();
        self.0.push(Entry { id, called, returned, is_optional, op });
        self
    }

    fn put(self, called: u64, returned: u64, key: usize, value: u64) -> Self {
        self.add(called, returned, false, Op { written: Cells::of(key, value), ..Op::default() })
    }

    /// A put that nobody saw return before its process died at `death`.
    fn put_in_flight(self, called: u64, death: u64, key: usize, value: u64) -> Self {
        self.add(called, death, true, Op { written: Cells::of(key, value), ..Op::default() })
    }

    fn get(self, called: u64, returned: u64, key: usize, value: u64) -> Self {
        self.add(called, returned, false, Op { found: Cells::of(key, value), ..Op::default() })
    }

    fn swap(self, called: u64, returned: u64, key: usize, values: (u64, u64)) -> Self {
        let op = Op { found: Cells::of(key, values.0), written: Cells::of(key, values.1), ..Op::default() };
        self.add(called, returned, false, op)
    }

    fn failed_swap(self, called: u64, returned: u64, key: usize, expected: u64) -> Self {
        self.add(called, returned, false, Op { unlike: Cells::of(key, expected), ..Op::default() })
    }

    fn batch(self, called: u64, returned: u64, written: Cells) -> Self {
        self.add(called, returned, false, Op { written, ..Op::default() })
    }

    fn batch_in_flight(self, called: u64, death: u64, written: Cells) -> Self {
        self.add(called, death, true, Op { written, ..Op::default() })
    }

    fn multi_get(self, called: u64, returned: u64, found: Cells) -> Self {
        self.add(called, returned, false, Op { found, ..Op::default() })
    }

    fn holds(&self) -> bool {
        check::<Group>(&self.0, State::default()).is_ok()
    }
}

fn story() -> Story {
    Story::default()
}

fn both(left: u64, right: u64) -> Cells {
    Cells::of(0, left).and(1, right)
}

#[test]
fn what_follows_an_order_is_accepted() {
    assert!(story().holds());
    assert!(story().get(0, 1, 0, ABSENT).put(2, 3, 0, 1).get(4, 5, 0, 1).put(6, 7, 0, ABSENT).holds());
    // Of two puts at a time either may be the last, and a get at that time sees before or after.
    for last in [1, 2] {
        assert!(story().put(0, 9, 0, 1).put(0, 9, 0, 2).get(10, 11, 0, last).holds());
    }
    for seen in [ABSENT, 1] {
        assert!(story().put(0, 9, 0, 1).get(3, 4, 0, seen).get(20, 21, 0, 1).holds());
    }
    assert!(story().swap(0, 9, 0, (1, 2)).swap(0, 9, 0, (ABSENT, 1)).get(10, 11, 0, 2).holds());
    assert!(story().put(0, 1, 0, 1).failed_swap(2, 3, 0, 2).holds());
}

#[test]
fn a_stale_read_is_found() {
    assert!(!story().put(0, 1, 0, 1).put(2, 3, 0, 2).get(4, 5, 0, 1).holds());
    assert!(!story().put(0, 1, 0, 1).get(2, 3, 0, ABSENT).holds());
    assert!(!story().put(0, 1, 0, 1).put(2, 3, 0, ABSENT).get(4, 5, 0, 1).holds(), "deleted");
    // One reader has seen the new value, and a later one sees the old one, while the put is still under way.
    let before = || story().put(0, 1, 0, 1).put(2, 99, 0, 2).get(10, 11, 0, 2);
    assert!(before().get(20, 21, 0, 2).holds());
    assert!(!before().get(20, 21, 0, 1).holds());
    // A failed compare-and-swap is a read, too.
    assert!(!story().put(0, 1, 0, 1).failed_swap(2, 3, 0, 1).holds());
}

#[test]
fn a_value_that_nobody_wrote_or_that_comes_too_early_is_found() {
    assert!(!story().put(0, 1, 0, 1).get(2, 3, 0, 7).holds());
    assert!(!story().get(0, 1, 0, 1).put(2, 3, 0, 1).holds());
    assert!(!story().put(0, 1, 0, 1).get(2, 3, 1, 1).holds(), "the value of another key");
}

#[test]
fn a_lost_update_is_found() {
    let swaps = |second| story().put(0, 1, 0, 1).swap(2, 9, 0, (1, 2)).swap(2, 9, 0, second);
    assert!(swaps((2, 3)).holds());
    assert!(!swaps((1, 3)).holds(), "two swaps of one value");
    // An update that was acked is gone, though no other write could have replaced it.
    assert!(!swaps((2, 3)).get(10, 11, 0, 1).holds());
    assert!(!swaps((2, 3)).get(10, 11, 0, 2).holds());
}

#[test]
fn half_a_batch_is_found() {
    let batch = || story().batch(0, 1, both(1, 1)).batch(10, 19, both(2, 2));
    for seen in [both(1, 1), both(2, 2)] {
        assert!(batch().multi_get(12, 13, seen).holds());
    }
    for seen in [both(1, 2), both(2, 1)] {
        assert!(!batch().multi_get(12, 13, seen).holds());
    }
    // By two gets, one after the other, too: the first sees the batch, the second not.
    assert!(!batch().get(12, 13, 0, 2).get(14, 15, 1, 1).holds());
    assert!(batch().get(12, 13, 0, 1).get(14, 15, 1, 2).holds());
    // Left by a process that died.
    let died = || story().batch(0, 1, both(1, 1)).batch_in_flight(10, 19, both(2, 2));
    assert!(died().multi_get(22, 23, both(1, 1)).holds() && died().multi_get(22, 23, both(2, 2)).holds());
    assert!(!died().multi_get(22, 23, both(1, 2)).holds());
}

#[test]
fn a_read_of_several_keys_that_mixes_moments_is_found() {
    let writes = || story().put(0, 1, 0, 1).put(2, 3, 1, 1).put(10, 11, 0, 2).put(12, 13, 1, 2);
    assert!(writes().multi_get(5, 20, both(2, 1)).holds());
    assert!(!writes().multi_get(5, 20, both(1, 2)).holds());
}

#[test]
fn a_batch_is_conditional_on_one_moment() {
    let conditional = |found, unlike, written| Op { found, unlike, written };
    let begun = || story().batch(0, 1, both(1, 1));
    let none = Cells::default();
    assert!(begun().add(2, 3, false, conditional(both(1, 1), none, both(2, 2))).holds());
    assert!(!begun().add(2, 3, false, conditional(both(1, 2), none, both(2, 2))).holds());
    // It was refused, though nothing else was written at that time.
    assert!(!begun().add(2, 3, false, conditional(both(1, 1), none, both(2, 2)).refuted()).holds());
    assert!(begun().add(2, 3, false, conditional(both(1, 2), none, both(2, 2)).refuted()).holds());
    // It was refused, and wrote all the same.
    let refused = conditional(both(1, 2), none, both(2, 2)).refuted();
    assert!(!begun().add(2, 3, false, refused).get(4, 5, 0, 2).holds());
}

#[test]
fn a_write_in_flight_at_a_death_happens_before_it_or_never() {
    let died = || story().put(0, 1, 0, 1).put_in_flight(2, 10, 0, 2);
    assert!(died().get(11, 12, 0, 1).get(13, 14, 0, 1).holds());
    assert!(died().get(11, 12, 0, 2).get(13, 14, 0, 2).holds());
    assert!(!died().get(11, 12, 0, 1).get(13, 14, 0, 2).holds(), "seen absent, and there later");
    assert!(!died().get(11, 12, 0, 2).get(13, 14, 0, 1).holds(), "seen there, and gone later");
    assert!(!died().get(3, 4, 0, 2).get(11, 12, 0, 1).holds(), "seen while it lived, and lost in the death");
    // Two in flight: the later call may be the one that happened, or both, in any order.
    let two = || died().put_in_flight(3, 10, 0, 3);
    for seen in [1, 2, 3] {
        assert!(two().get(11, 12, 0, seen).holds());
    }
    assert!(!two().get(11, 12, 0, 3).get(13, 14, 0, 2).holds());
}

#[test]
fn an_acked_write_that_a_death_lost_is_found() {
    assert!(!story().put(0, 1, 0, 1).put(2, 3, 0, 2).put_in_flight(4, 10, 1, 5).get(11, 12, 0, 1).holds());
}

#[test]
fn a_check_tells_where_it_got_stuck() {
    let planted = story().put(0, 1, 0, 1).put(2, 3, 0, 2).put(4, 90, 1, 3).get(5, 6, 0, 1);
    let stuck = check::<Group>(&planted.0, State::default()).unwrap_err();
    // The second put would end what the get needs.
    assert_eq!((stuck.blocked, stuck.waiting.clone(), stuck.needing.clone()), (1, vec![], vec![3]));
    assert_eq!((stuck.order.clone(), stuck.state), (vec![0], [1, 0, 0, 0]));
    let unwritten = story().put(0, 1, 0, 1).put(0, 1, 1, 2).get(2, 3, 0, 9);
    let stuck = check::<Group>(&unwritten.0, State::default()).unwrap_err();
    assert_eq!((stuck.blocked, stuck.needing.clone(), stuck.state), (2, vec![], [1, 2, 0, 0]));
    assert_eq!(stuck.order.len(), 2);
}

#[test]
fn an_order_that_explains_nothing_is_not_taken_for_an_explanation() {
    let told = story().put(0, 1, 0, 1).put(2, 3, 0, 2).get(2, 5, 0, 2).put_in_flight(2, 9, 0, 3);
    let explains = |order: &[usize]| explains::<Group>(&told.0, State::default(), order);
    assert!(explains(&[0, 1, 2]) && explains(&[0, 1, 2, 3]) && explains(&[0, 3, 1, 2]));
    assert!(!explains(&[0, 2, 1]), "the get does not find its value");
    assert!(!explains(&[1, 0, 2]) && !explains(&[1, 2, 0]), "one had returned when the other was called");
    assert!(!explains(&[0, 1]) && !explains(&[0, 0, 1, 2]), "one is missing, or there twice");
}

/// A history of a few operations at random times that a group that is one object could have had: each takes effect
/// at a moment between its call and its return, or never if it is optional.
fn random_history(random: &mut Random) -> History {
    let count = random.between(1, 6);
    let mut moments: Vec<u64> = (0..count).map(|_| random.next() % 30 + 5).collect();
    moments.sort_unstable();
    let mut state = State::default();
    let mut history = vec![];
    for (value, moment) in (1..).zip(moments) {
        let is_optional = random.permille(250);
        let (called, returned) = (moment - random.next() % 5, moment + random.next() % 5);
        let mut op = Op::default();
        for (key, held) in state.iter().enumerate().take(2) {
            op.found = if random.permille(350) { op.found.and(key, *held) } else { op.found };
            op.written = if random.permille(350) { op.written.and(key, value) } else { op.written };
        }
        if random.permille(150) {
            op.unlike = Cells::of(0, state[0] + 1);
        }
        if !is_optional || random.permille(500) {
            op.written.write_to(&mut state);
        }
        history.push(Entry { id: value, called, returned, is_optional, op });
    }
    history
}

/// Changes one thing that was found, or when one operation happened.
fn distort(history: &mut History, random: &mut Random) {
    let place = random.below(history.len());
    let entry = &mut history[place];
    if random.permille(700) {
        entry.op.found = entry.op.found.and(random.below(2), random.next() % 7);
    } else {
        (entry.called, entry.returned) = (entry.called + 4, entry.returned + 9);
    }
}

/// Whether some order of some of the operations explains the history: all orders are tried.
fn some_order_holds(history: &History, done: u32, state: State) -> bool {
    let is_left = |place: usize| done & (1 << place) == 0;
    let left = || history.iter().enumerate().filter(|(place, _)| is_left(*place));
    if left().all(|(_, entry)| entry.is_optional) {
        return true;
    }
    left().any(|(place, entry)| {
        // Nothing that is left, and has happened at all, returned before this was called. What is optional may not have.
        let is_first = left().all(|(_, other)| other.is_optional || other.returned >= entry.called);
        let rest = done | 1 << place;
        // Those that had to happen before this was called never do.
        let gone = left().filter(|(_, other)| other.is_optional && other.returned < entry.called);
        let rest = gone.fold(rest, |rest, (place, _)| rest | 1 << place);
        is_first && Group::step(&state, &entry.op).is_some_and(|after| some_order_holds(history, rest, after))
    })
}

#[test]
fn the_checker_agrees_with_one_that_tries_every_order() {
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut accepted, mut rejected) = (0, 0);
    for round in 0..40_000 {
        let mut history = random_history(&mut random);
        let is_distorted = round % 4 != 0;
        if is_distorted {
            distort(&mut history, &mut random);
        }
        let expected = some_order_holds(&history, 0, [ABSENT; KEYS]);
        assert!(expected || is_distorted, "DBEX_TEST_SEED={seed}: this did happen: {history:?}");
        let found = check::<Group>(&history, [ABSENT; KEYS]);
        assert_eq!(found.is_ok(), expected, "DBEX_TEST_SEED={seed}: {history:?}");
        let explanation = found.map(|found| explains::<Group>(&history, [ABSENT; KEYS], &found.order));
        assert!(explanation.unwrap_or(true), "DBEX_TEST_SEED={seed}: {history:?}");
        if expected { accepted += 1 } else { rejected += 1 }
    }
    say(format_args!(
        "checker: {accepted} small histories accepted, {rejected} rejected, as by trying every order; DBEX_TEST_SEED={seed}"
    ));
    assert!(accepted > 4_000 && rejected > 4_000, "too few of one kind");
}
