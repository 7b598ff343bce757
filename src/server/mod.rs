//! Hosts of a node.
