//! Hosts of a node: what serves one to clients over the network.

pub mod resp;
