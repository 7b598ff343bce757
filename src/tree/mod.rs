//! One LSM tree.
