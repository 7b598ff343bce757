//! What a thread keeps from one read past the cache to the next: the memory for a stored block, and the block itself.
//! One who reads in the order of the keys comes to the same block several times, and a full cache lets it in only if
//! it is missed for the second time.

use std::cell::{Cell, RefCell};

use super::block::Block;

/// Nothing larger is kept, so that many threads keep little.
const MOST_BYTES: usize = 64 << 10;

thread_local! {
    static LAST: RefCell<Option<LastRead>> = const { RefCell::new(None) };
    static STORED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

struct LastRead {
    table: u64,
    number: usize,
    block: Block,
}

/// The block `number` of the table with this number in the process, if it is the last one that this thread kept.
pub(super) fn find(table: u64, number: usize) -> Option<Block> {
    let found = LAST.try_with(|last| {
        let last = last.borrow();
        last.as_ref()
            .filter(|last| (last.table, last.number) == (table, number))
            .map(|last| last.block.clone())
    });
    found.ok().flatten()
}

/// Keeps a block instead of the last one, if it is not in the cache.
pub(super) fn keep(table: u64, number: usize, block: &Block) {
    let Block::Read { content, .. } = block else { return };
    if content.len() <= MOST_BYTES {
        let last = LastRead { table, number, block: block.clone() };
        // A thread that ends keeps nothing any more.
        let _ = LAST.try_with(|kept| kept.replace(Some(last)));
    }
}

/// Memory for a stored block, of any length and content.
pub(super) fn take_memory() -> Vec<u8> {
    STORED.try_with(Cell::take).unwrap_or_default()
}

/// Keeps the memory for the next block.
pub(super) fn give_back(memory: Vec<u8>) {
    if memory.capacity() <= MOST_BYTES {
        let _ = STORED.try_with(|stored| stored.set(memory));
    }
}
