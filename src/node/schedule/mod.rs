//! # How dbex schedules
//!
//! Writes come in at memory's speed; behind them, flushes turn memtables into tables and compactions merge tables. That
//! work is never done at once, and it needs the disk that the foreground needs, too. What follows decides who may do how
//! much of it when, and how fast writers may go, for all shards of the node together.
//!
//! ```text
//!    writers ──► pacer ──► memtable ──► sealed ──► FLUSH ──► L0 ──► COMPACTION ──► L1 ──► L2
//!                  ▲       └──── memory ─────┘       │       └───── backlog ─────┘
//!      "so fast"   │                 │               │  "may I move 256 KiB?"   │
//!                  │                 │               └────────────┬─────────────┘
//!             throttle ◄─────────────┴── what drains              ▼
//!                                                               budget: bytes a second
//!    scheduler: which shard flushes or compacts next              ▲
//!    and how urgent what runs is ─────────────────────────────────┤
//!                                                                 │
//!    syncs and cold reads, their latency ──► governor ──► rate ───┘   (budget = "auto")
//! ```
//! The coordinator looks at all shards when something has changed, and ten times a second; everything here is a pure
//! function of what it finds, or a small state that it drives with the time as an argument.
//!
//! **Who works next** ([`scheduler`]). Flushes first, the largest first: they give memory back. Then compactions, by how
//! much they relieve reads and space for each byte that they move; who waits grows more urgent every second, so that no
//! shard starves. A shard may have several compactions at once where their keys do not meet. Flushes have workers of their
//! own and never queue behind a compaction.
//!
//! **How many bytes** ([`budget`]). All of that work, on all shards, pays for each chunk before it reads or writes it, from
//! one token bucket. Half of what comes in is kept for flushes; what they leave, compactions use, and the other way round.
//! Who waits is served by urgency, which is looked at for each chunk: when another shard becomes more urgent, what runs
//! already gives way at its next one. However large a job, a flush waits for its own bytes only.
//!
//! **With how much of a processor** ([`pressing`]). Flushes run at a low priority and compactions at the lowest that there
//! is without privileges: they take little more than what the host's own threads leave, which spreads each over the time
//! that there is, and a core that only compactions use counts as free when the system looks for one. What runs goes over,
//! between two steps of a few milliseconds, to threads that count as much as all others, when it is pressing, and back when
//! that is over. A compaction is when a shard is so far behind that its writers will soon be slowed down; a flush is when
//! writers add half as much as memory lets them, or memory is nearly full; either is when none has ended for long, and
//! while somebody waits for it, as [`settle`](crate::Node::settle) does. A flush's sorting, and the end of either, a
//! table's filter, its sync and the install, are no small steps, and others may wait for them: they are always taken there.
//!
//! **At what rate** ([`governor`]). A number is a number. With `"auto"` there is no limit while nobody suffers. When syncs
//! or cold reads take more than twice as long as at their best, the rate falls within two looks, 100 ms, to what they
//! bear, and comes to rest there. The further compaction is behind, the less it gives way: at half of the backlog that is
//! healthy it keeps up with what comes in, at all of it nothing is held back.
//!
//! **How fast writers may go** ([`throttle`], [`slowdown`], [`pacer`]). Memory fills no faster than flushes empty it:
//! writers together get the flushes' rate, times what is free, by what waits to be flushed. Both shrink together while a
//! flush runs, so the rate is steady. And a shard whose backlog is beyond what is healthy gets what compactions take off:
//! what they move in a second, by what a byte costs on its way through the levels, less the further it is behind. Shards
//! that want less than an even share are left alone; a hot one gets what they leave. Each writer takes a place in its
//! shard's line before its turn and waits until that is due: mostly a few milliseconds, as long as its bytes and those
//! before it take, and never more than a second. So nobody comes to a stop, and everybody is slowed down alike; behind a
//! value of many megabytes all wait for it. Who would rather be told `Busy` says so
//! ([`PutOptions::no_wait`](crate::PutOptions::no_wait)). Why and by how much writers are slowed down is in
//! [`ShardStats::write_limit`](crate::ShardStats::write_limit), and how long they have waited in
//! [`NodeStats::slowed_down`](crate::NodeStats::slowed_down).
//!
//! Only if all estimates fail and the memtables are full to the last byte do writers wait for a flush outright: a *stall*,
//! counted apart ([`NodeStats::stalls`](crate::NodeStats::stalls)).
//!
//! What of this is claimed is shown in `simulator_test/`, on modelled disks of four kinds with up to 4,096 shards, and with
//! real files in `tests/io_budget.rs`.

mod budget;
mod governor;
mod meter;
mod pacer;
mod pressing;
mod scheduler;
#[cfg(test)]
mod simulator_test;
mod slowdown;
mod throttle;

pub(super) use budget::{Budget, IoClass, Standing};
pub(super) use governor::{GOVERNOR_TICK, Governor, Signals};
pub(super) use meter::{FlushMeter, FlushSpent};
pub(super) use pacer::Pacer;
pub(super) use pressing::compaction_is_pressing;
pub(super) use scheduler::{Decision, ShardLoad, decide, relief};
pub use slowdown::{SlowdownReason, WriteLimit};
pub(super) use throttle::{FlushProgress, NodeCounts, ShardCounts, Throttle};
