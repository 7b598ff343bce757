//! The numbers that name things on disk, each a type of its own so that none can be taken for another.
//! Nothing here knows what it names.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $shown:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $shown, self.0)
            }
        }
    };
}

id!(
    /// A partition of the key space; the index of its shard actor and of its directory.
    ShardId(u32),
    "{:04}"
);
id!(
    /// The place of one write in the node's single order of writes. 0 is never handed out.
    SeqNo(u64),
    "{}"
);
id!(
    /// The number of a table file inside one shard. Never reused.
    FileNumber(u64),
    "{:010}"
);
id!(
    /// The number of a WAL segment inside one shard. Never reused.
    SegmentNumber(u64),
    "{:010}"
);
id!(
    /// Names one life of a WAL segment file, so that frames of an earlier life are told apart. Random.
    Incarnation(u64),
    "{:016x}"
);
id!(
    /// Names one cross-shard batch: the first sequence number of its range, unique in the node.
    BatchId(u64),
    "{}"
);

impl SeqNo {
    /// Above every sequence number that is handed out: a read at this position sees the newest version.
    pub const MAX: Self = Self(u64::MAX >> 8);

    /// The sequence number `n` places after this one.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl FileNumber {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl SegmentNumber {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One of the three levels of a shard's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Flushed memtables; tables may overlap.
    L0,
    /// Sorted runs made from L0.
    L1,
    /// The last level: one sorted run, nothing older below it.
    L2,
}

impl Level {
    /// Every level, top first.
    pub const ALL: [Self; 3] = [Self::L0, Self::L1, Self::L2];

    /// The level's number, 0 to 2.
    pub const fn number(self) -> u8 {
        match self {
            Self::L0 => 0,
            Self::L1 => 1,
            Self::L2 => 2,
        }
    }

    /// The level with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::L0),
            1 => Some(Self::L1),
            2 => Some(Self::L2),
            _ => None,
        }
    }

    /// The name of the level's directory inside the shard's.
    pub const fn dir_name(self) -> &'static str {
        match self {
            Self::L0 => "l0",
            Self::L1 => "l1",
            Self::L2 => "l2",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.number())
    }
}
