//! The operating system's file system.
/// The disk.
#[derive(Debug)]
pub struct DiskStorage;
