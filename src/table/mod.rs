//! Sorted-string tables.
