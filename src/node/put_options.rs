//! What a put may say about itself.

use super::options::Durability;

/// What a put may say about itself; what it leaves out is as the node's settings say.
///
/// ```
/// use dbex::{Durability, PutOptions};
///
/// let options = PutOptions::new().durability(Durability::Synced);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutOptions {
    /// What the ack promises; `None`: the node's `durability`.
    pub durability: Option<Durability>,
}

impl PutOptions {
    /// Everything as the node's settings say.
    pub const fn new() -> Self {
        Self { durability: None }
    }

    /// Says what the ack promises.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }
}
