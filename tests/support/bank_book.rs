//! The books of a bank: every transfer that was tried, how it ended, and what of it may be found after a crash. Each
//! value says which transfer wrote it, and each transfer which values it took the place of; so what is found tells
//! which transfers stand.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use dbex::key::{EscapedKey, KeyHash};

use crate::{
    history::{Key, State},
    random::Random,
};

/// A moment, and the name of what was sent then: moments are numbered, each is used once.
pub(crate) type Moment = u64;

/// What an account holds: the money, and who put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) balance: u64,
    pub(crate) writer: Moment,
}

impl Holding {
    /// As a value, made up to so many bytes.
    pub(crate) fn to_value(self, bytes: usize) -> Vec<u8> {
        let mut value = format!("{} {} ", self.balance, self.writer).into_bytes();
        let mut filling = Random::new(self.writer);
        while value.len() < bytes {
            // Half of it compresses well, and half not at all.
            value.extend(filling.next().to_le_bytes());
            value.extend(b"........");
        }
        value
    }

    pub(crate) fn of_value(value: &[u8]) -> Option<Self> {
        let mut words = value.split(|byte| *byte == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
        Some(Self { balance: number()?, writer: number()? })
    }
}

/// What a transfer does with one account.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) account: Key,
    /// Who wrote what was there; `None`: the account was not open.
    pub(crate) before: Option<Moment>,
    /// The balance after; `None`: it is closed.
    pub(crate) after: Option<u64>,
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Unknown,
    Acked(Moment),
    /// By a conflict.
    Refused,
}

/// A transfer that was tried.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) sent: Moment,
    pub(crate) entries: Vec<Entry>,
    /// Accounts that it leaves alone, but whose writer it requires.
    pub(crate) witnesses: Vec<(Key, Moment)>,
    pub(crate) is_synced: bool,
    pub(crate) has_conditions: bool,
    pub(crate) outcome: Outcome,
}

impl Transfer {
    fn acked(&self) -> Option<Moment> {
        match self.outcome {
            Outcome::Acked(moment) => Some(moment),
            Outcome::Unknown | Outcome::Refused => None,
        }
    }

    /// Every value that it requires, as account and writer.
    fn required(&self) -> impl Iterator<Item = (&Key, Option<Moment>)> {
        let entries = self.entries.iter().map(|entry| (&entry.account, entry.before));
        entries.chain(self.witnesses.iter().map(|(account, writer)| (account, Some(*writer))))
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transfer {} ({:?}, synced: {}):", self.sent, self.outcome, self.is_synced)?;
        for Entry { account, before, after } in &self.entries {
            write!(f, " {} {before:?}→{after:?}", EscapedKey(account))?;
        }
        Ok(())
    }
}

/// How a node came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Only the process is gone.
    Process,
    /// What was not durable may be gone, too.
    Power,
}

/// What was tried since the last look at the books.
#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) transfers: Vec<Transfer>,
    /// What was acked before this moment is promised to stay, whatever its durability.
    pub(crate) promised_before: Moment,
}

impl Journal {
    pub(crate) fn append(&mut self, other: Self) {
        self.transfers.extend(other.transfers);
        self.promised_before = self.promised_before.max(other.promised_before);
    }
}

/// What stands of a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) kept: usize,
    /// Transfers that were acked and are gone, as they may be.
    pub(crate) lost: usize,
}

/// What all accounts held when they were last looked at.
#[derive(Clone)]
pub(crate) struct Book {
    hash_seed: u64,
    shards: u32,
    holdings: BTreeMap<Key, Holding>,
}

/// Who wrote what an account held before, and after; `None`: it was not open.
type Change = (Option<Moment>, Option<Moment>);

/// The transfers of a journal by their names.
type ByName<'a> = HashMap<Moment, &'a Transfer>;

impl Book {
    pub(crate) fn new(hash_seed: u64, shards: u32, opening: &State) -> Result<Self, String> {
        Ok(Self { hash_seed, shards, holdings: read(opening)? })
    }

    pub(crate) fn total(&self) -> u64 {
        self.holdings.values().map(|holding| holding.balance).sum()
    }

    pub(crate) fn holding(&self, account: &[u8]) -> Option<Holding> {
        self.holdings.get(account).copied()
    }

    /// Goes on from what was found and checked.
    pub(crate) fn go_on_from(&mut self, found: &State) -> Result<(), String> {
        self.holdings = read(found)?;
        Ok(())
    }

    /// Checks what was found after a node's end.
    ///
    /// # Errors
    /// What may not have happened.
    pub(crate) fn check(&self, journal: &Journal, found: &State, loss: Loss) -> Result<Standing, String> {
        let found = read(found)?;
        let total: u64 = found.values().map(|holding| holding.balance).sum();
        let by_name: ByName<'_> =
            journal.transfers.iter().map(|transfer| (transfer.sent, transfer)).collect();
        let kept = self.standing(&by_name, &found)?;
        self.check_accounts(&kept, &by_name, &found)?;
        if total != self.total() {
            return Err(format!("the total is {total}, not {}", self.total()));
        }
        let is_promised = |transfer: &Transfer, acked| {
            loss == Loss::Process || transfer.is_synced || acked < journal.promised_before
        };
        let mut standing = Standing { kept: kept.len(), lost: 0 };
        for transfer in journal.transfers.iter().filter(|transfer| !kept.contains(&transfer.sent)) {
            let Some(acked) = transfer.acked() else { continue };
            if is_promised(transfer, acked) {
                return Err(format!("after the loss of the {loss:?}, this is gone: {transfer}"));
            }
            standing.lost += 1;
        }
        self.check_holes(journal, &kept)?;
        self.check_witnesses(&kept, &by_name)?;
        Ok(standing)
    }

    /// The transfers that what is found rests on.
    fn standing(
        &self,
        by_name: &ByName<'_>,
        found: &BTreeMap<Key, Holding>,
    ) -> Result<BTreeSet<Moment>, String> {
        let mut kept = BTreeSet::new();
        let mut reached: Vec<_> =
            found.iter().map(|(account, holding)| (account, holding.writer, Some(holding.balance))).collect();
        while let Some((account, writer, balance)) = reached.pop() {
            if let Some(base) = self.holding(account).filter(|base| base.writer == writer) {
                if balance.is_some_and(|balance| balance != base.balance) {
                    return Err(format!("{} holds {balance:?}, not {}", EscapedKey(account), base.balance));
                }
                continue;
            }
            let transfer = by_name.get(&writer).copied();
            let transfer = transfer.filter(|transfer| transfer.outcome != Outcome::Refused);
            let entry = transfer.and_then(|transfer| {
                transfer
                    .entries
                    .iter()
                    .find(|entry| entry.account == *account && (balance.is_none() || entry.after == balance))
            });
            let (Some(transfer), Some(_)) = (transfer, entry) else {
                let account = EscapedKey(account);
                return Err(format!(
                    "{account} holds {balance:?} by {writer}, which is refused, unknown or lost before"
                ));
            };
            if kept.insert(writer) {
                let earlier = transfer.entries.iter();
                reached.extend(
                    earlier.filter_map(|entry| entry.before.map(|before| (&entry.account, before, None))),
                );
            }
        }
        Ok(kept)
    }

    /// Each account went through what stands, one after the other, to what was found: no transfer stands in part, and
    /// none of two that took the place of the same value.
    fn check_accounts(
        &self,
        kept: &BTreeSet<Moment>,
        by_name: &ByName<'_>,
        found: &BTreeMap<Key, Holding>,
    ) -> Result<(), String> {
        let mut changes: BTreeMap<&Key, Vec<Change>> = BTreeMap::new();
        for transfer in kept.iter().filter_map(|name| by_name.get(name)) {
            for entry in &transfer.entries {
                let after = entry.after.map(|_| transfer.sent);
                changes.entry(&entry.account).or_default().push((entry.before, after));
            }
        }
        for (account, mut changes) in changes {
            let mut ends: Vec<_> = self.holding(account).map(|holding| holding.writer).into_iter().collect();
            // An account that is opened again: each time goes on by itself, and all but one must be closed.
            changes.sort_unstable();
            for (before, after) in changes {
                if let Some(before) = before {
                    let Some(place) = ends.iter().position(|end| *end == before) else {
                        let account = EscapedKey(account);
                        return Err(format!("two transfers took the place of {before} in {account}"));
                    };
                    ends.swap_remove(place);
                }
                ends.extend(after);
            }
            let end = found.get(account).map(|holding| holding.writer);
            if ends != Vec::from_iter(end) {
                let writers = ends.iter().filter_map(|end| by_name.get(end)).map(ToString::to_string);
                return Err(format!(
                    "{} ends at {end:?}, by what the other accounts hold at {ends:?}: {}",
                    EscapedKey(account),
                    writers.collect::<Vec<_>>().join("; ")
                ));
            }
        }
        Ok(())
    }

    /// A shard loses only what came last: nothing that was acked before something was sent that it has.
    fn check_holes(&self, journal: &Journal, kept: &BTreeSet<Moment>) -> Result<(), String> {
        let mut newest_kept = BTreeMap::new();
        let (stand, gone): (Vec<_>, Vec<_>) =
            journal.transfers.iter().partition(|transfer| kept.contains(&transfer.sent));
        for (shard, sent) in stand.iter().flat_map(|transfer| self.in_shards(transfer)) {
            let newest: &mut Moment = newest_kept.entry(shard).or_default();
            *newest = sent.max(*newest);
        }
        for transfer in gone {
            let Some(acked) = transfer.acked() else { continue };
            for (shard, _) in self.in_shards(transfer) {
                if let Some(newest) = newest_kept.get(&shard).filter(|newest| acked < **newest) {
                    return Err(format!("shard {shard} has transfer {newest}, but lost {transfer}"));
                }
            }
        }
        Ok(())
    }

    fn in_shards(&self, transfer: &Transfer) -> impl Iterator<Item = (u32, Moment)> {
        let accounts = transfer.entries.iter().map(|entry| &entry.account);
        accounts.map(|account| (KeyHash::of(account, self.hash_seed).shard(self.shards), transfer.sent))
    }

    /// What a synced transfer required is as durable as itself.
    fn check_witnesses(&self, kept: &BTreeSet<Moment>, by_name: &ByName<'_>) -> Result<(), String> {
        let synced = kept.iter().filter_map(|name| by_name.get(name));
        for transfer in synced.filter(|transfer| transfer.is_synced && transfer.acked().is_some()) {
            for (account, writer) in &transfer.witnesses {
                let is_base = self.holding(account).is_some_and(|base| base.writer == *writer);
                if !is_base && !kept.contains(writer) {
                    return Err(format!("{writer} in {} is gone, seen by {transfer}", EscapedKey(account)));
                }
            }
        }
        Ok(())
    }
}

/// Checks that every condition was judged by what was there when it was judged: none held on a value that was gone
/// before the transfer was sent, and none failed on a value that nobody took the place of.
///
/// # Errors
/// Which was not.
pub(crate) fn check_conditions(journal: &Journal) -> Result<(), String> {
    let mut successors: HashMap<(&Key, Option<Moment>), Vec<&Transfer>> = HashMap::new();
    for transfer in journal.transfers.iter().filter(|transfer| transfer.outcome != Outcome::Refused) {
        for entry in &transfer.entries {
            successors.entry((&entry.account, entry.before)).or_default().push(transfer);
        }
    }
    let others = |required, own: &Transfer| {
        let others = successors.get(&required).into_iter().flatten();
        let sent = own.sent;
        others.filter(move |other| other.sent != sent)
    };
    for transfer in journal.transfers.iter().filter(|transfer| transfer.has_conditions) {
        match transfer.outcome {
            Outcome::Unknown => {}
            Outcome::Refused => {
                if transfer.required().all(|required| others(required, transfer).next().is_none()) {
                    return Err(format!("refused for nothing: {transfer}"));
                }
            }
            Outcome::Acked(_) => {
                // NOTE: an account that was not open may have been opened and closed in between.
                for required in transfer.required().filter(|(_, writer)| writer.is_some()) {
                    let mut others = others(required, transfer).filter_map(|other| other.acked());
                    if others.any(|acked| acked < transfer.sent) {
                        return Err(format!("{required:?} was gone before this was sent: {transfer}"));
                    }
                }
            }
        }
    }
    Ok(())
}

fn read(state: &State) -> Result<BTreeMap<Key, Holding>, String> {
    let holding = |(account, value): (&Key, &Vec<u8>)| {
        let holding = Holding::of_value(value);
        let holding = holding.ok_or_else(|| format!("{} holds no balance", EscapedKey(account)))?;
        Ok((account.clone(), holding))
    };
    state.iter().map(holding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;

    fn state(holdings: &[(&str, u64, Moment)]) -> State {
        let value = |balance, writer| Holding { balance, writer }.to_value(40);
        holdings
            .iter()
            .map(|(key, balance, writer)| (key.as_bytes().to_vec(), value(*balance, *writer)))
            .collect()
    }

    fn entry(account: &str, before: Option<Moment>, after: Option<u64>) -> Entry {
        Entry { account: account.into(), before, after }
    }

    fn transfer(sent: Moment, outcome: Outcome, entries: Vec<Entry>) -> Transfer {
        let has_conditions = true;
        Transfer { sent, entries, witnesses: vec![], is_synced: false, has_conditions, outcome }
    }

    fn book(shards: u32) -> Book {
        Book::new(SEED, shards, &state(&[("a", 10, 0), ("b", 10, 0)])).expect("a book")
    }

    /// `a` pays 1 to `b`, then `b` pays 2 to `c`, which is opened, then `c` is closed.
    fn journal() -> Journal {
        let transfers = vec![
            transfer(1, Outcome::Acked(2), vec![entry("a", Some(0), Some(9)), entry("b", Some(0), Some(11))]),
            transfer(3, Outcome::Acked(4), vec![entry("b", Some(1), Some(9)), entry("c", None, Some(2))]),
            transfer(5, Outcome::Unknown, vec![entry("c", Some(3), None), entry("a", Some(1), Some(11))]),
        ];
        Journal { transfers, promised_before: 0 }
    }

    fn check(found: &[(&str, u64, Moment)], loss: Loss) -> Result<Standing, String> {
        book(1).check(&journal(), &state(found), loss)
    }

    #[test]
    fn a_value_says_what_it_is() {
        let holding = Holding { balance: 12, writer: 345 };
        assert_eq!(Holding::of_value(&holding.to_value(100)), Some(holding));
        assert_eq!(Holding::of_value(&holding.to_value(0)), Some(holding));
        assert_eq!(Holding::of_value(b"12"), None);
    }

    #[test]
    fn what_was_in_flight_stands_or_not_and_the_last_may_be_lost_with_the_power() {
        let all = [("a", 11, 5), ("b", 9, 3)];
        let acked = [("a", 9, 1), ("b", 9, 3), ("c", 2, 3)];
        let first = [("a", 9, 1), ("b", 11, 1)];
        for loss in [Loss::Power, Loss::Process] {
            assert_eq!(check(&all, loss), Ok(Standing { kept: 3, lost: 0 }));
            assert_eq!(check(&acked, loss), Ok(Standing { kept: 2, lost: 0 }));
        }
        assert_eq!(check(&first, Loss::Power), Ok(Standing { kept: 1, lost: 1 }));
        assert_eq!(check(&[("a", 10, 0), ("b", 10, 0)], Loss::Power), Ok(Standing { kept: 0, lost: 2 }));
        assert!(check(&first, Loss::Process).unwrap_err().contains("is gone: transfer 3"));
        let promised = Journal { promised_before: 5, ..journal() };
        assert!(book(1).check(&promised, &state(&first), Loss::Power).is_err());
        assert!(book(1).check(&promised, &state(&acked), Loss::Power).is_ok());
    }

    #[test]
    fn half_a_transfer_is_found_out_even_if_the_total_is_right() {
        let half = check(&[("a", 9, 1), ("b", 10, 0)], Loss::Power).unwrap_err();
        assert!(half.contains("\"b\" ends at Some(0)"), "{half}");
        assert!(check(&[("a", 9, 1), ("b", 9, 3)], Loss::Power).unwrap_err().contains("\"c\" ends at None"));
        let back = check(&[("a", 11, 5), ("b", 9, 3), ("c", 2, 3)], Loss::Power).unwrap_err();
        assert!(back.contains("\"c\" ends at Some(3)"), "what was closed is back: {back}");
        assert!(check(&[("a", 9, 99), ("b", 11, 1)], Loss::Power).unwrap_err().contains("unknown"));
    }

    #[test]
    fn a_shard_has_no_holes() {
        let transfers = vec![
            transfer(1, Outcome::Acked(2), vec![entry("a", Some(0), Some(10))]),
            transfer(3, Outcome::Acked(4), vec![entry("b", Some(0), Some(10))]),
        ];
        let journal = Journal { transfers, promised_before: 0 };
        let check = |shards, found: &[_]| book(shards).check(&journal, &state(found), Loss::Power);
        assert!(check(1, &[("a", 10, 0), ("b", 10, 3)]).unwrap_err().contains("but lost transfer 1"));
        assert!(check(1, &[("a", 10, 1), ("b", 10, 0)]).is_ok());
        let shard = |account: &[u8], shards| KeyHash::of(account, SEED).shard(shards);
        let shards = (2..99).find(|shards| shard(b"a", *shards) != shard(b"b", *shards)).expect("a count");
        assert!(check(shards, &[("a", 10, 0), ("b", 10, 3)]).is_ok(), "they are in two shards");
    }

    #[test]
    fn two_transfers_of_one_balance_are_found_out() {
        let mut journal = journal();
        journal.transfers.truncate(1);
        let second = vec![entry("a", Some(0), Some(8)), entry("b", Some(1), Some(13))];
        journal.transfers.push(transfer(6, Outcome::Acked(7), second));
        let found = state(&[("a", 8, 6), ("b", 13, 6)]);
        let double = book(1).check(&journal, &found, Loss::Power).unwrap_err();
        assert!(double.contains("two transfers took the place of 0 in \"a\""), "{double}");
        assert!(check_conditions(&journal).unwrap_err().contains("was gone before"));
    }

    #[test]
    fn what_a_synced_transfer_saw_stays() {
        // Nobody heard that the first was done, but the second saw it.
        let mut journal = journal();
        journal.transfers.truncate(1);
        let mut seen = transfer(3, Outcome::Acked(4), vec![entry("c", None, Some(0))]);
        (seen.witnesses, seen.is_synced) = (vec![(b"a".to_vec(), 1)], true);
        journal.transfers.push(seen);
        let book = book(2);
        let found = state(&[("a", 10, 0), ("b", 10, 0), ("c", 0, 3)]);
        journal.transfers[0].outcome = Outcome::Unknown;
        assert!(book.check(&journal, &found, Loss::Power).unwrap_err().contains("seen by"));
    }

    #[test]
    fn a_conflict_needs_somebody_else() {
        let mut journal = journal();
        journal.transfers.push(transfer(8, Outcome::Refused, vec![entry("a", Some(0), Some(0))]));
        assert_eq!(check_conditions(&journal), Ok(()));
        journal.transfers.push(transfer(9, Outcome::Refused, vec![entry("b", Some(3), Some(0))]));
        assert!(check_conditions(&journal).unwrap_err().contains("refused for nothing: transfer 9"));
    }
}
