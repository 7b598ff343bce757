//! A teller moves money between accounts by batches that require what it read before, through one of a node's faces;
//! now and then it adds everything up. What it did and was told goes into its journal. It ends at the first error.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use dbex::{
    Durability, Error, ErrorKind, KeyRange, Node, PutOptions, Result, WriteBatch, blocking,
    storage::sim::{CrashPoint, SimStorage},
};
use futures_util::TryStreamExt;

use crate::{
    bank_book::{Entry, Holding, Journal, Moment, Outcome, Transfer},
    history::{Key, State},
    random::Random,
};

/// What all accounts' keys begin with.
pub(crate) const ACCOUNTS: &str = "account/";

/// The face through which a teller comes to the node.
#[derive(Clone)]
pub(crate) enum Face {
    Blocking(blocking::Node),
    Async(Node),
}

type Values = Vec<Option<Bytes>>;

/// How to read all accounts at one moment.
#[derive(Clone, Copy, Debug)]
enum Sight {
    MultiGet,
    Scan {
        reverse: bool,
    },
    SnapshotScan,
    SnapshotGets,
    /// One snapshot, read twice, with others at work in between.
    SnapshotTwice,
}

impl Face {
    async fn write(&self, batch: WriteBatch) -> Result<()> {
        match self {
            Self::Blocking(node) => node.write(batch),
            Self::Async(node) => node.write(batch).await,
        }
    }

    async fn put(&self, key: String, value: Vec<u8>, durability: Durability) -> Result<()> {
        let options = PutOptions::new().durability(durability);
        match self {
            Self::Blocking(node) => node.put_with(key, value, options),
            Self::Async(node) => node.put_with(key, value, options).await,
        }
    }

    async fn gets(&self, keys: &[Key]) -> Result<Values> {
        let mut values = vec![];
        for key in keys {
            values.push(match self {
                Self::Blocking(node) => node.get(key)?,
                Self::Async(node) => node.get(key).await?,
            });
        }
        Ok(values)
    }

    async fn multi_get(&self, keys: &[Key]) -> Result<Values> {
        match self {
            Self::Blocking(node) => node.multi_get(keys),
            Self::Async(node) => node.multi_get(keys).await,
        }
    }

    async fn tidy(&self, work: Tidying) -> Result<()> {
        match (self, work) {
            (Self::Blocking(node), Tidying::Sync) => node.sync(),
            (Self::Blocking(node), Tidying::Flush) => node.flush(),
            (Self::Blocking(node), Tidying::Compact) => node.compact(KeyRange::all()),
            (Self::Async(node), Tidying::Sync) => node.sync().await,
            (Self::Async(node), Tidying::Flush) => node.flush().await,
            (Self::Async(node), Tidying::Compact) => node.compact(KeyRange::all()).await,
        }
    }

    /// All accounts that are open.
    async fn look(&self, sight: Sight, keys: &[Key]) -> Result<State> {
        let named = |values: Values| -> State {
            let pairs = keys.iter().cloned().zip(values);
            pairs.filter_map(|(key, value)| Some((key, value?.to_vec()))).collect()
        };
        if let Sight::MultiGet = sight {
            return self.multi_get(keys).await.map(named);
        }
        let owned = |(key, value): (Bytes, Bytes)| (key.to_vec(), value.to_vec());
        match self {
            Self::Blocking(node) => {
                let all = |scan: blocking::Scan| scan.prefix(ACCOUNTS).map(|pair| pair.map(owned));
                match sight {
                    Sight::Scan { reverse: true } => all(node.scan(..).reverse()).collect(),
                    Sight::Scan { .. } | Sight::MultiGet => all(node.scan(..)).collect(),
                    Sight::SnapshotScan => all(node.snapshot()?.scan(..)).collect(),
                    Sight::SnapshotGets => {
                        let snapshot = node.snapshot()?;
                        keys.iter().map(|key| snapshot.get(key)).collect::<Result<_>>().map(named)
                    }
                    Sight::SnapshotTwice => {
                        let snapshot = node.snapshot()?;
                        let first = snapshot.multi_get(keys).map(named)?;
                        std::thread::yield_now();
                        assert_same(&first, &all(snapshot.scan(..).reverse()).collect::<Result<_>>()?);
                        Ok(first)
                    }
                }
            }
            Self::Async(node) => {
                let all = |scan: dbex::Scan| scan.prefix(ACCOUNTS).map_ok(owned).try_collect();
                match sight {
                    Sight::Scan { reverse: true } => all(node.scan(..).reverse()).await,
                    Sight::Scan { .. } | Sight::MultiGet => all(node.scan(..)).await,
                    Sight::SnapshotScan => all(node.snapshot().await?.scan(..)).await,
                    Sight::SnapshotGets => node.snapshot().await?.multi_get(keys).await.map(named),
                    Sight::SnapshotTwice => {
                        let snapshot = node.snapshot().await?;
                        let first = snapshot.multi_get(keys).await.map(named)?;
                        tokio::task::yield_now().await;
                        assert_same(&first, &all(snapshot.scan(..).reverse()).await?);
                        Ok(first)
                    }
                }
            }
        }
    }
}

fn assert_same(first: &State, second: &State) {
    assert!(first == second, "a snapshot has changed");
}

#[derive(Clone, Copy)]
enum Tidying {
    Sync,
    Flush,
    Compact,
}

/// When the machine stops: at one of the next changes after so many transfers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fuse {
    pub(crate) transfers: u64,
    /// How many changes or syncs later.
    pub(crate) later: u64,
    pub(crate) at_sync: bool,
}

impl Fuse {
    /// Sets the moment, counted from now.
    pub(crate) fn light(self, disk: &SimStorage) {
        disk.set_crash_point(if self.at_sync {
            CrashPoint::AtSync(disk.syncs() + self.later)
        } else {
            CrashPoint::AtChange(disk.changes() + self.later)
        });
    }
}

/// What the tellers of a bank share while a node lives.
pub(crate) struct Hall {
    pub(crate) disk: SimStorage,
    /// Every account that may ever be open: the first ones always are, the last few come and go.
    pub(crate) accounts: Vec<Key>,
    pub(crate) always_open: usize,
    pub(crate) total: u64,
    /// How many transfers of 1,000 are synced.
    pub(crate) synced_permille: usize,
    /// How many transfers of 1,000 write one account only, and require another one.
    pub(crate) lone_permille: usize,
    pub(crate) fuse: Fuse,
    pub(crate) moments: Arc<AtomicU64>,
    pub(crate) acked: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) sums: AtomicU64,
}

impl Hall {
    fn moment(&self) -> Moment {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    fn note_ack(&self) {
        if self.acked.fetch_add(1, Ordering::SeqCst) + 1 == self.fuse.transfers {
            self.fuse.light(&self.disk);
        }
    }

    /// Adds up what was found.
    ///
    /// # Errors
    /// If it is not the total.
    pub(crate) fn check_total(&self, found: &State, by: &str) -> std::result::Result<(), String> {
        let sum: Option<u64> =
            found.values().map(|value| Holding::of_value(value).map(|holding| holding.balance)).sum();
        self.sums.fetch_add(1, Ordering::Relaxed);
        if sum == Some(self.total) {
            return Ok(());
        }
        Err(format!("{by} adds up to {sum:?}, not {}, over {} accounts", self.total, found.len()))
    }
}

/// One teller.
pub(crate) struct Teller {
    face: Face,
    random: Random,
    hall: Arc<Hall>,
    /// Two accounts that nobody else touches, and who wrote them last.
    own: [(Key, Holding); 2],
    /// An auditor only adds up.
    is_auditor: bool,
    journal: Journal,
}

/// What a teller read of an account.
struct Seen {
    account: Key,
    value: Option<Bytes>,
    holding: Option<Holding>,
}

/// How a teller ended: its journal, and what it saw that may not be.
pub(crate) type Ended = (Journal, std::result::Result<(), String>);

impl Teller {
    pub(crate) fn new(
        face: Face,
        seed: u64,
        hall: Arc<Hall>,
        own: [(Key, Holding); 2],
        is_auditor: bool,
    ) -> Self {
        Self { face, random: Random::new(seed), hall, own, is_auditor, journal: Journal::default() }
    }

    /// Goes on until the machine stops, or has done so many steps.
    pub(crate) async fn run(mut self, steps: u64) -> Ended {
        for _ in 0..steps {
            match self.step().await {
                Ok(Ok(())) => {}
                Err(_) if self.hall.disk.is_dead() => break,
                Err(error) => {
                    return (self.journal, Err(format!("an error while the disk is well: {error}")));
                }
                Ok(Err(violation)) => return (self.journal, Err(violation)),
            }
        }
        (self.journal, Ok(()))
    }

    /// The outer error is the node's, the inner one a violation.
    async fn step(&mut self) -> Result<std::result::Result<(), String>> {
        match self.random.below(1000) {
            _ if self.is_auditor => return self.sum().await,
            0..820 if self.random.permille(self.hall.lone_permille) => self.transfer(true).await?,
            0..700 => self.transfer(false).await?,
            700..820 => self.transfer_own().await?,
            820..920 => return self.sum().await,
            920..980 => self.make_noise().await?,
            980..990 => self.tidy(Tidying::Sync).await?,
            990..998 => self.tidy(Tidying::Flush).await?,
            _ => self.tidy(Tidying::Compact).await?,
        }
        Ok(Ok(()))
    }

    async fn tidy(&mut self, work: Tidying) -> Result<()> {
        let before = self.hall.moment();
        self.face.tidy(work).await?;
        self.journal.promised_before = before;
        Ok(())
    }

    async fn sum(&mut self) -> Result<std::result::Result<(), String>> {
        let sight = *self.random.pick(&[
            Sight::MultiGet,
            Sight::Scan { reverse: false },
            Sight::Scan { reverse: true },
            Sight::SnapshotScan,
            Sight::SnapshotGets,
            Sight::SnapshotTwice,
        ]);
        let found = self.face.look(sight, &self.hall.accounts).await?;
        let own = self.own.iter().try_for_each(|(account, holding)| {
            let seen = found.get(account).and_then(|value| Holding::of_value(value));
            let is_own = seen == Some(*holding);
            is_own.then_some(()).ok_or_else(|| format!("{sight:?} sees {seen:?}, not the acked {holding:?}"))
        });
        Ok(own.and_then(|()| self.hall.check_total(&found, &format!("{sight:?}"))))
    }

    /// A write that is no transfer, so that turns are shared and logs grow.
    async fn make_noise(&mut self) -> Result<()> {
        let key = format!("noise/{}", self.random.below(50));
        let value = vec![b'n'; self.random.between(1, 1500)];
        let durability = self.durability();
        self.face.put(key, value, durability).await
    }

    /// Moves money between accounts as they were read, if they still are so.
    async fn transfer(&mut self, is_lone: bool) -> Result<()> {
        let count = if is_lone || self.random.permille(700) { 2 } else { self.random.between(3, 6) };
        let seen = self.read_some(count).await?;
        let (mut batch, mut witnesses) = (WriteBatch::new(), vec![]);
        for Seen { account, value, .. } in &seen {
            match value {
                Some(value) => batch.require(account, value),
                None => batch.require_absent(account),
            };
        }
        let mut parties = seen;
        if is_lone || self.random.permille(300) {
            let witness = parties.pop().expect("there are two at least");
            match witness.holding {
                Some(holding) => witnesses.push((witness.account, holding.writer)),
                None => parties.push(witness),
            }
        }
        let entries = self.new_balances(&parties);
        self.write(batch, entries, witnesses, true).await?;
        Ok(())
    }

    /// A few accounts, the first of which is always open.
    async fn read_some(&mut self, count: usize) -> Result<Vec<Seen>> {
        let hall = Arc::clone(&self.hall);
        let mut accounts = vec![hall.accounts[self.random.below(hall.always_open)].clone()];
        while accounts.len() < count {
            let account = self.random.pick(&hall.accounts[..]);
            let is_own = account.windows(4).any(|part| part == b"/own");
            if !accounts.contains(account) && !is_own {
                accounts.push(account.clone());
            }
        }
        let values = if self.random.permille(700) {
            self.face.gets(&accounts).await?
        } else {
            self.face.multi_get(&accounts).await?
        };
        let seen = accounts.into_iter().zip(values).map(|(account, value)| {
            let holding = value.as_ref().and_then(|value| Holding::of_value(value));
            Seen { account, value, holding }
        });
        Ok(seen.collect())
    }

    /// What the accounts hold after the transfer. One that comes and goes may be opened or closed by it.
    fn new_balances(&mut self, parties: &[Seen]) -> Vec<Entry> {
        let mut pot: u64 =
            parties.iter().filter_map(|seen| seen.holding).map(|holding| holding.balance).sum();
        let mut entries = vec![];
        for seen in parties.iter().skip(1) {
            let before = seen.holding.map(|holding| holding.writer);
            let comes_and_goes = seen.account.windows(5).any(|part| part == b"/slot");
            let closes = comes_and_goes && before.is_some() && self.random.permille(500);
            let after = (!closes).then(|| self.random.next() % (pot + 1));
            pot -= after.unwrap_or_default();
            entries.push(Entry { account: seen.account.clone(), before, after });
        }
        let first = parties.first().expect("there is one");
        let before = first.holding.map(|holding| holding.writer);
        entries.push(Entry { account: first.account.clone(), before, after: Some(pot) });
        entries
    }

    /// Moves money between the accounts that nobody else touches, without a condition.
    async fn transfer_own(&mut self) -> Result<()> {
        let [(left, old_left), (right, old_right)] = self.own.clone();
        let pot = old_left.balance + old_right.balance;
        let share = self.random.next() % (pot + 1);
        let entries = vec![
            Entry { account: left.clone(), before: Some(old_left.writer), after: Some(share) },
            Entry { account: right.clone(), before: Some(old_right.writer), after: Some(pot - share) },
        ];
        let writer = self.write(WriteBatch::new(), entries, vec![], false).await?;
        let holding = |balance| Holding { balance, writer };
        self.own = [(left, holding(share)), (right, holding(pot - share))];
        Ok(())
    }

    /// Writes a transfer, and notes it and how it ends; returns its name.
    async fn write(
        &mut self,
        mut batch: WriteBatch,
        entries: Vec<Entry>,
        witnesses: Vec<(Key, Moment)>,
        has_conditions: bool,
    ) -> Result<Moment> {
        let durability = self.durability();
        let sent = self.hall.moment();
        for Entry { account, after, .. } in &entries {
            match after {
                Some(balance) => {
                    let bytes = if self.random.permille(100) { 3000 } else { self.random.between(20, 900) };
                    batch.put(account, Holding { balance: *balance, writer: sent }.to_value(bytes))
                }
                None => batch.delete(account),
            };
        }
        batch.durability(durability);
        let is_synced = durability == Durability::Synced;
        let outcome = Outcome::Unknown;
        let transfer = Transfer { sent, entries, witnesses, is_synced, has_conditions, outcome };
        self.journal.transfers.push(transfer);
        let done = self.face.write(batch).await;
        let transfer = self.journal.transfers.last_mut().expect("it was pushed");
        match done {
            Ok(()) => {
                transfer.outcome = Outcome::Acked(self.hall.moment());
                self.hall.note_ack();
            }
            Err(error) if is_conflict(&error) && has_conditions => {
                transfer.outcome = Outcome::Refused;
                self.hall.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error),
        }
        Ok(sent)
    }

    fn durability(&mut self) -> Durability {
        if self.random.permille(self.hall.synced_permille) {
            Durability::Synced
        } else {
            Durability::Buffered
        }
    }
}

fn is_conflict(error: &Error) -> bool {
    error.kind() == ErrorKind::Conflict
}
