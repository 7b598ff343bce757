//! wip
#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/cells.rs"]
mod cells;
#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
mod report;
#[path = "support/wgl.rs"]
mod wgl;
#[path = "support/wgl_test.rs"]
mod wgl_test;
