//! The `dbex` binary.

fn main() {}
