//! A simulated file system.
