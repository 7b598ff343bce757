//! One shard's LSM tree, passive: it starts no thread, reads no clock and logs nothing. Whoever drives it asks it
//! for a plan, runs the plan, and installs what came out.
//!
//! ```text
//!   turn ────► TreeWriter ──► log, active memtable ──seal──► sealed memtables
//!   worker ──► plan_flush ──► run_flush ──► install_flush              │ flush
//!          └─► plan_compaction ──► run… ──► install…                   ▼
//!   reader ──► ReadView ──► get, scan          L0 tables ──► L1 runs ──► L2
//!
//!   open:  TreeRecovery::read (each shard) ──► consistent_cut (all) ──► settle (each) ──► finish (each)
//!                                                                 └──► into_view (each), to read only
//! ```

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod shards_test;
#[cfg(test)]
mod tree_test;

mod block_cursor;
pub mod compact;
pub mod compaction;
pub mod cut;
pub mod edit;
pub mod flush;
pub mod handle;
mod jobs;
pub mod listing;
mod live;
pub mod load;
mod loser_tree;
pub mod lsm;
pub mod manifest;
mod masked;
mod memtable_size;
pub mod merge;
pub mod options;
mod pair_batch;
pub mod recovery;
mod replaced;
mod replay;
mod run_cursor;
pub mod scan;
#[cfg(test)]
mod test_cursor;
#[cfg(test)]
mod testing;
pub mod version;
pub mod view;
pub mod visible;
pub mod writer;

pub use compact::{CompactionDone, CompactionOutput, CompactionPlan, FullCompaction};
pub use cut::{BatchMark, Cut, ShardLog, consistent_cut};
pub use flush::{FlushDone, FlushOutput, FlushPlan};
pub use live::LiveTables;
pub use load::{LevelStats, TreeLoad, TreeStats};
pub use loser_tree::LoserTree;
pub use lsm::{Tree, VerifySummary};
pub use options::{Strategy, TreeContext, TreeOptions};
pub use pair_batch::PairBatch;
pub use recovery::{RecoverySummary, SettledRecovery, TreeRecovery};
pub use replay::{Replay, Replayed};
pub use scan::TreeScan;
pub use version::Version;
pub use view::{ReadView, SealedMemtable};
pub use visible::{ReadPoint, is_visible};
pub use writer::{SMALL_WRITE_BYTES, TreeWriter, WriteOp};
