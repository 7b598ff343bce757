//! The open-addressing hash index over the arena: sized at creation, and it never grows. A slot holds the address
//! of a key's newest version and 16 bits of its hash, so that a get touches one line here and one in the arena.

use super::{
    arena::{Record, Slot},
    sync::OnceLock,
};

const SMALLEST: usize = 8;

/// Slots for the keys of one memtable.
pub(super) struct Index {
    slots: Box<[Slot]>,
    /// The index that takes over when this one is all but full. Only a single item larger than what the memtable
    /// was made for gets that far, because the memtable seals long before.
    next: OnceLock<Box<Index>>,
}

impl Index {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: Slot::row(slots.max(SMALLEST)), next: OnceLock::new() }
    }

    /// The key's slot and newest version, or the empty slot where it would be.
    #[inline]
    pub(super) fn locate(&self, mixed: u64, key: &[u8]) -> (&Slot, Option<Record<'_>>) {
        let mut index = self;
        loop {
            let (slot, newest) = index.probe(mixed, key);
            if newest.is_some() {
                return (slot, newest);
            }
            match index.next.get() {
                Some(next) => index = next,
                None => return (slot, None),
            }
        }
    }

    /// Looks at the slots from the key's home on. Ends because there is always an empty one.
    #[inline]
    fn probe(&self, mixed: u64, key: &[u8]) -> (&Slot, Option<Record<'_>>) {
        let tag = tag_of(mixed);
        let mut position = home_of(mixed, self.slots.len());
        loop {
            let Some(slot) = self.slots.get(position) else {
                position = 0;
                continue;
            };
            match slot.load() {
                None => return (slot, None),
                Some(found) if found.tag() == tag => {
                    let record = found.record();
                    if record.key() == key {
                        return (slot, Some(record));
                    }
                }
                Some(_) => {}
            }
            position += 1;
        }
    }

    /// Asks for the cache line of a key's home slot, and does not wait for it.
    #[inline]
    pub(super) fn prefetch(&self, mixed: u64) {
        if let Some(slot) = self.slots.get(home_of(mixed, self.slots.len())) {
            slot.prefetch();
        }
    }

    /// Adds an index for the keys to come, twice as large as the last; the writer only.
    pub(super) fn extend(&self) -> &Self {
        let mut last = self;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last.next.get_or_init(|| Box::new(Self::new(last.slots.len() * 2)))
    }

    /// How many keys it takes before the next index has to take over: some slots stay empty.
    pub(super) const fn most_keys(&self) -> usize {
        self.slots.len() / 8 * 7
    }

    /// The keys at which the memtable is to be sealed: 70 % of the slots. Never 0.
    pub(super) const fn limit(&self) -> usize {
        self.slots.len() * 7 / 10
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

/// The tag comes from the lowest bits, the home slot from the highest: they say different things about a key.
#[inline]
pub(super) const fn tag_of(mixed: u64) -> u16 {
    let [low, high, ..] = mixed.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[inline]
const fn home_of(mixed: u64, slots: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "the shifted product is below `slots`")]
    {
        ((mixed as u128 * slots as u128) >> 64) as usize
    }
}
