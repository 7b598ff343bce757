//! The Redis protocol (RESP2 and RESP3) over TCP, in front of a node.
//!
//! ```text
//! listener ── one task a connection ──► connection: read ─► limits ─► framing ─► execute ─► output ─► write
//!                                                           bounds    parse      │  │
//!                                                                                │  └─ command_table
//!                                                        Node::{steps, get, scan, write}
//! ```
//!
//! [`serve`] is all there is to call. What connections share is in `server`.

mod auth;
mod clients;
mod command_table;
mod connection;
mod errors;
mod execute;
mod framing;
mod glob;
mod info;
mod inline;
mod integer;
mod limits;
mod listener;
mod memory;
mod output;
mod reply;
mod scan_cursors;
mod server;
mod settings;

pub use listener::serve;
pub use settings::{RespSettings, Secret};
