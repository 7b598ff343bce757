//! A checker of linearizability: the algorithm of Wing and Gong, with Lowe's list of entries and his cache of
//! configurations ("Testing for linearizability", 2016). It knows no store: what it checks is an [`Object`].
//!
//! Every call and every return is an entry of a doubly linked list, in the order of time. The search walks along the
//! list. At a call it tries to let the operation take effect next: if the object allows it, and the configuration
//! (which operations are done, and the state) is new, both its entries leave the list, and the walk begins anew at its head.
//! At a return whose call is still in the list it has gone too far: the last choice is taken back, and the walk goes on
//! behind it. The history is linearizable when the list is empty, and not when there is no choice left to take back.
//!
//! Where every value is written once, most wrong choices show at once: what overwrites a value that somebody finds later
//! is out of the question until they have found it ([`Object::needs`]). Without this a write that is long under way, because
//! its thread does not run, would be tried everywhere.
//!
//! An operation that nobody saw return may have happened or not. Its return is the moment by which it has happened or
//! never will; when the walk comes to it, the operation is dropped.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

/// What operations act on, one at a time.
pub(crate) trait Object {
    type State: Clone + Eq + Hash;
    type Op;
    /// Something that is true of a state. Once it has ended it never becomes true again.
    type Fact: Eq + Hash;

    /// The state after `op`, if `op` with its results is possible in `state`.
    fn step(state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// Whether the operation changes nothing in any state.
    fn is_read(op: &Self::Op) -> bool;

    /// What must be true when the operation takes effect.
    fn needs(op: &Self::Op) -> impl Iterator<Item = Self::Fact>;

    /// What is true in `state`, and ends with the operation.
    fn ends(state: &Self::State, op: &Self::Op) -> impl Iterator<Item = Self::Fact>;
}

/// An operation of a history.
#[derive(Clone, Debug)]
pub(crate) struct Entry<Op> {
    /// Tells it from others, for messages only.
    pub(crate) id: u64,
    pub(crate) called: u64,
    /// When it returned; if it is optional, when it had happened or never would.
    pub(crate) returned: u64,
    /// Nobody saw it return: it may never have happened.
    pub(crate) is_optional: bool,
    pub(crate) op: Op,
}

/// How a history was explained.
#[derive(Clone, Debug)]
pub(crate) struct Linearization {
    /// The places of the operations in the history, in the order of their effects.
    pub(crate) order: Vec<usize>,
    /// How many optional operations are not among them.
    pub(crate) dropped: usize,
    /// How many configurations were looked at.
    pub(crate) configurations: usize,
}

/// Why a history is not linearizable: where the search that came farthest ended.
#[derive(Clone, Debug)]
pub(crate) struct Stuck<State> {
    /// The place of the operation that returned and found no room for its effect.
    pub(crate) blocked: usize,
    /// What else had been called by then and not taken effect.
    pub(crate) waiting: Vec<usize>,
    /// What needs something that the blocked operation would end, and had not returned when that was called.
    pub(crate) needing: Vec<usize>,
    /// What had taken effect, or was dropped, in this order.
    pub(crate) order: Vec<usize>,
    pub(crate) state: State,
    pub(crate) configurations: usize,
    /// The search was given up, so that there may be an explanation all the same.
    pub(crate) is_undecided: bool,
}

/// A search that has looked at so many configurations is given up. Histories that can be explained need a few for each
/// operation; to rule out every explanation of one that cannot may take more than memory holds.
const MOST_CONFIGURATIONS: usize = 5_000_000;

/// What a check says.
pub(crate) type Verdict<State> = Result<Linearization, Box<Stuck<State>>>;

/// Checks a history of an object that began in `initial`. Calls and returns of the same time count as overlapping.
///
/// # Errors
/// Where the history cannot be explained.
pub(crate) fn check<O: Object>(history: &[Entry<O::Op>], initial: O::State) -> Verdict<O::State> {
    let mut search = Search::<O>::new(history, initial);
    while let Some(node) = search.list.first() {
        if let Err(blocked) = search.advance(node) {
            search.note_depth(blocked);
            let is_undecided = search.cache.len() > MOST_CONFIGURATIONS;
            if is_undecided || !search.take_back() {
                return Err(Box::new(search.stuck(is_undecided)));
            }
        }
    }
    Ok(search.linearization())
}

/// Whether `order` explains a history, so that nobody has to believe the search: it has every operation that must have
/// happened, once, none after one that was called when it had returned, and each is possible where it stands.
pub(crate) fn explains<O: Object>(history: &[Entry<O::Op>], initial: O::State, order: &[usize]) -> bool {
    let mut is_left = vec![true; history.len()];
    let (mut state, mut last_call) = (initial, 0);
    for place in order {
        let entry = &history[*place];
        last_call = last_call.max(entry.called);
        match O::step(&state, &entry.op) {
            Some(after) if is_left[*place] && entry.returned >= last_call => state = after,
            _ => return false,
        }
        is_left[*place] = false;
    }
    history.iter().zip(is_left).all(|(entry, is_left)| entry.is_optional || !is_left)
}

/// Calls and returns in the order of time, linked in both directions. The entry of number 0 is the head.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The operation of each entry, as its rank among the calls.
    rank: Vec<usize>,
    is_call: Vec<bool>,
    /// The entries of each rank.
    call: Vec<usize>,
    returning: Vec<usize>,
}

impl List {
    /// Of operations by rank, with their times.
    fn new(times: &[(u64, u64)]) -> Self {
        let calls = times.iter().enumerate().map(|(rank, (called, _))| (*called, false, rank));
        let returns = times.iter().enumerate().map(|(rank, (_, returned))| (*returned, true, rank));
        let mut events: Vec<_> = calls.chain(returns).collect();
        events.sort_unstable();
        let count = events.len();
        let mut list = Self {
            next: (1..=count).chain([0]).collect(),
            previous: [count].into_iter().chain(0..count).collect(),
            rank: vec![0],
            is_call: vec![false],
            call: vec![0; times.len()],
            returning: vec![0; times.len()],
        };
        for (place, (_, is_return, rank)) in events.into_iter().enumerate() {
            list.rank.push(rank);
            list.is_call.push(!is_return);
            if is_return {
                list.returning[rank] = place + 1;
            } else {
                list.call[rank] = place + 1;
            }
        }
        list
    }

    fn first(&self) -> Option<usize> {
        self.after(0)
    }

    fn after(&self, node: usize) -> Option<usize> {
        Some(self.next[node]).filter(|next| *next != 0)
    }

    /// Takes both entries of an operation out of the list.
    fn lift(&mut self, rank: usize) {
        for node in [self.call[rank], self.returning[rank]] {
            let (previous, next) = (self.previous[node], self.next[node]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// Puts back what was lifted last.
    fn unlift(&mut self, rank: usize) {
        for node in [self.returning[rank], self.call[rank]] {
            let (previous, next) = (self.previous[node], self.next[node]);
            self.next[previous] = node;
            self.previous[next] = node;
        }
    }
}

/// Who still needs which facts.
struct Facts<O: Object> {
    numbers: HashMap<O::Fact, usize>,
    /// What each operation needs, by rank; nothing if it may never happen.
    needs: Vec<Vec<usize>>,
    /// By how many operations that are not done each fact is needed.
    needed: Vec<usize>,
}

impl<O: Object> Facts<O> {
    /// Of operations by rank.
    fn new<'a>(entries: impl Iterator<Item = &'a Entry<O::Op>>) -> Self
    where
        O::Op: 'a,
    {
        let mut facts = Self { numbers: HashMap::new(), needs: vec![], needed: vec![] };
        for entry in entries {
            let mut needs = vec![];
            for fact in O::needs(&entry.op).filter(|_| !entry.is_optional) {
                let unused = facts.needed.len();
                let number = *facts.numbers.entry(fact).or_insert(unused);
                facts.needed.resize(facts.needed.len().max(number + 1), 0);
                facts.needed[number] += 1;
                needs.push(number);
            }
            facts.needs.push(needs);
        }
        facts
    }

    /// Whether an operation ends nothing that others need, who have not happened.
    fn allow(&self, rank: usize, state: &O::State, op: &O::Op) -> bool {
        O::ends(state, op).filter_map(|fact| self.numbers.get(&fact)).all(|number| {
            let by_itself = usize::from(self.needs[rank].contains(number));
            self.needed[*number] == by_itself
        })
    }

    fn done(&mut self, rank: usize) {
        self.needs[rank].iter().for_each(|number| self.needed[*number] -= 1);
    }

    fn undone(&mut self, rank: usize) {
        self.needs[rank].iter().for_each(|number| self.needed[*number] += 1);
    }
}

/// The ranks that are done, told in few words: those below `first` are, and of the others those in `words`.
#[derive(PartialEq, Eq, Hash)]
struct Done {
    first: usize,
    words: Box<[u64]>,
}

/// A choice that can be taken back.
struct Choice<State> {
    rank: usize,
    is_dropped: bool,
    before: State,
    highest_before: usize,
}

struct Search<'a, O: Object> {
    history: &'a [Entry<O::Op>],
    /// The place in the history of each rank.
    places: Vec<usize>,
    list: List,
    /// A bit a rank: done.
    done: Vec<u64>,
    /// No rank from here on is done.
    highest: usize,
    state: O::State,
    choices: Vec<Choice<O::State>>,
    cache: HashSet<(Done, O::State)>,
    facts: Facts<O>,
    /// Where the next walk begins, if not at the head.
    resume: Option<usize>,
    /// How many choices had been made where the walk came farthest, and where that was.
    deepest: usize,
    farthest: Option<Stuck<O::State>>,
}

impl<'a, O: Object> Search<'a, O> {
    fn new(history: &'a [Entry<O::Op>], initial: O::State) -> Self {
        let mut places: Vec<_> = (0..history.len()).collect();
        places.sort_by_key(|place| history[*place].called);
        let times: Vec<_> =
            places.iter().map(|place| (history[*place].called, history[*place].returned)).collect();
        Self {
            history,
            list: List::new(&times),
            done: vec![0; places.len().div_ceil(64)],
            highest: 0,
            facts: Facts::new(places.iter().map(|place| &history[*place])),
            places,
            state: initial,
            choices: vec![],
            cache: HashSet::new(),
            resume: None,
            deepest: 0,
            farthest: None,
        }
    }

    fn entry(&self, rank: usize) -> &'a Entry<O::Op> {
        &self.history[self.places[rank]]
    }

    /// Walks from `head`, or from where a choice was taken back, to the next choice.
    ///
    /// # Errors
    /// The rank of the operation that no choice here has room for.
    fn advance(&mut self, head: usize) -> Result<(), usize> {
        let mut node = self.resume.take().unwrap_or(head);
        loop {
            let rank = self.list.rank[node];
            let entry = self.entry(rank);
            if !self.list.is_call[node] {
                let dropped = entry.is_optional && self.choose(rank, self.state.clone(), true);
                return if dropped { Ok(()) } else { Err(rank) };
            }
            if let Some(after) = O::step(&self.state, &entry.op)
                && self.facts.allow(rank, &self.state, &entry.op)
            {
                if self.choose(rank, after, false) {
                    return Ok(());
                }
                if O::is_read(&entry.op) {
                    // See `take_back`: if it is of no use to read now, nothing is.
                    return Err(rank);
                }
            }
            // A call is followed by its return, at least.
            node = self.list.next[node];
        }
    }

    /// Marks an operation done, unless that leads to where the search has been.
    fn choose(&mut self, rank: usize, after: O::State, is_dropped: bool) -> bool {
        let highest_before = self.highest;
        self.mark(rank);
        self.highest = self.highest.max(rank + 1);
        self.list.lift(rank);
        self.facts.done(rank);
        if !self.cache.insert((self.told(), after.clone())) {
            self.undo(rank, highest_before);
            return false;
        }
        let before = std::mem::replace(&mut self.state, after);
        self.choices.push(Choice { rank, is_dropped, before, highest_before });
        true
    }

    /// Takes choices back up to one that has an alternative behind it. False if there is none.
    fn take_back(&mut self) -> bool {
        while let Some(choice) = self.choices.pop() {
            self.undo(choice.rank, choice.highest_before);
            self.state = choice.before;
            // NOTE: a read that is possible now might as well come first in every explanation that begins here, so a read
            // has no alternative. And behind the return at which an operation was dropped there is nothing to choose.
            if !choice.is_dropped && !O::is_read(&self.entry(choice.rank).op) {
                self.resume = self.list.after(self.list.call[choice.rank]);
                return true;
            }
        }
        false
    }

    fn undo(&mut self, rank: usize, highest_before: usize) {
        self.facts.undone(rank);
        self.list.unlift(rank);
        self.highest = highest_before;
        self.mark(rank);
    }

    /// Turns the bit of a rank over.
    fn mark(&mut self, rank: usize) {
        self.done[rank / 64] ^= 1 << (rank % 64);
    }

    fn told(&self) -> Done {
        let first = self.list.first().map_or(self.places.len(), |node| self.list.rank[node]);
        let words = self.done.get(first / 64..self.highest.div_ceil(64)).unwrap_or_default();
        Done { first, words: words.into() }
    }

    fn note_depth(&mut self, blocked: usize) {
        if self.farthest.is_some() && self.choices.len() <= self.deepest {
            return;
        }
        self.deepest = self.choices.len();
        let returns = self.list.returning[blocked];
        let nodes = std::iter::successors(self.list.first(), |node| self.list.after(*node));
        let waiting = nodes.take_while(|node| *node < returns).filter(|node| self.list.is_call[*node]);
        let ranks = waiting.map(|node| self.list.rank[node]).filter(|rank| *rank != blocked);
        self.farthest = Some(Stuck {
            blocked: self.places[blocked],
            waiting: ranks.map(|rank| self.places[rank]).collect(),
            needing: vec![],
            order: self.order().rev().take(ORDER_SHOWN).collect(),
            state: self.state.clone(),
            configurations: 0,
            is_undecided: false,
        });
    }

    fn order(&self) -> impl DoubleEndedIterator<Item = usize> {
        self.choices.iter().filter(|choice| !choice.is_dropped).map(|choice| self.places[choice.rank])
    }

    fn stuck(self, is_undecided: bool) -> Stuck<O::State> {
        let mut farthest = self.farthest.expect("the search ended somewhere");
        farthest.order.reverse();
        let blocked = &self.history[farthest.blocked];
        let ended: HashSet<_> = O::ends(&farthest.state, &blocked.op).collect();
        let needs = |entry: &Entry<O::Op>| O::needs(&entry.op).any(|fact| ended.contains(&fact));
        let others = self.history.iter().enumerate().filter(|(place, _)| *place != farthest.blocked);
        let needing = others.filter(|(_, entry)| entry.returned >= blocked.called && needs(entry));
        farthest.needing = needing.map(|(place, _)| place).take(ORDER_SHOWN).collect();
        Stuck { configurations: self.cache.len(), is_undecided, ..farthest }
    }

    fn linearization(&self) -> Linearization {
        Linearization {
            order: self.order().collect(),
            dropped: self.choices.iter().filter(|choice| choice.is_dropped).count(),
            configurations: self.cache.len(),
        }
    }
}

/// How many of the operations that took effect last, or need something, are told of a history that is stuck.
const ORDER_SHOWN: usize = 12;
