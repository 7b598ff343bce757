//! Compaction: what to merge, which versions to keep, and the merge itself.
//!
//! ```text
//!   Levels ──► picker ──► Choice ──► run ──► new tables ──► (the tree installs them)
//!               ├ leveled            ├ rule: which versions stay
//!               └ size_tiered        └ deletes: which range deletes stay, and where they are cut
//! ```

mod below;
mod deletes;
mod leveled;
mod picker;
mod rule;
mod run;
mod size_tiered;

pub use below::Below;
pub(super) use deletes::gather_deletes;
pub use picker::{
    Choice, DUE_PERMILLE, FullBound, FullChoice, KeySpan, Levels, PickerOptions, Situation, TargetRun,
    backlog_permille, debt_bytes, next_bytes, pick, pick_full, score_permille, span_of,
};
pub use rule::{ReadPositions, Readers, Verdict, VersionFilter, Watermark};
pub(super) use run::{Merged, Target, merge_into_tables};
