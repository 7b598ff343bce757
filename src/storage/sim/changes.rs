//! Directory changes that are not durable yet, and which of them a sync or a power loss makes so.
//!
//! Any subset may survive a power loss, but changes of one name keep their order: whichever survives takes
//! along what came before it there. Without that, a file renamed twice could end up under two names.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
};

use super::rng::Rng;

/// Identifies a file or directory for ever, whatever its name.
pub(super) type NodeId = u64;
/// The names in a directory.
pub(super) type Names = BTreeMap<OsString, NodeId>;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) dir: NodeId,
    pub(super) name: OsString,
}

impl Place {
    pub(super) fn new(dir: NodeId, name: &OsStr) -> Self {
        Self { dir, name: name.to_owned() }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) node: NodeId,
    pub(super) kind: ChangeKind,
    /// A failed sync of the directory gave it up.
    pub(super) lost: bool,
}

#[derive(Clone, Debug)]
pub(super) enum ChangeKind {
    Link(Place),
    Unlink(Place),
    Rename { from: Place, to: Place },
}

impl Change {
    /// The directory whose sync makes the change durable: for a rename the target's.
    fn dir(&self) -> NodeId {
        match &self.kind {
            ChangeKind::Link(place) | ChangeKind::Unlink(place) | ChangeKind::Rename { to: place, .. } => {
                place.dir
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        let (first, second) = match &self.kind {
            ChangeKind::Link(place) | ChangeKind::Unlink(place) => (place, None),
            ChangeKind::Rename { from, to } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }

    /// Carries the change out. A name that meanwhile means another file stays.
    fn apply(&self, names: &mut impl FnMut(NodeId, &mut dyn FnMut(&mut Names))) {
        let mut unlink = |place: &Place| {
            names(place.dir, &mut |names| {
                if names.get(&place.name) == Some(&self.node) {
                    names.remove(&place.name);
                }
            });
        };
        let link_to = match &self.kind {
            ChangeKind::Link(place) => place,
            ChangeKind::Unlink(place) => return unlink(place),
            ChangeKind::Rename { from, to } => {
                unlink(from);
                to
            }
        };
        names(link_to.dir, &mut |names| {
            names.insert(link_to.name.clone(), self.node);
        });
    }
}

/// The changes since the last syncs of their directories, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    pending: Vec<Change>,
}

impl Changes {
    pub(super) fn push(&mut self, node: NodeId, kind: ChangeKind) {
        self.pending.push(Change { node, kind, lost: false });
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.pending.iter().map(|change| change.node)
    }

    /// The directories that a pending change needs, to be carried out later.
    pub(super) fn dirs(&self) -> impl Iterator<Item = NodeId> {
        self.pending.iter().flat_map(Change::places).map(|place| place.dir)
    }

    /// Carries out, and forgets, the pending changes of `dir` that `is_chosen` picks.
    pub(super) fn sync(
        &mut self,
        dir: NodeId,
        is_chosen: impl FnMut() -> bool,
        names: impl FnMut(NodeId, &mut dyn FnMut(&mut Names)),
    ) {
        let mut is_chosen = is_chosen;
        self.settle(|change| change.dir() == dir && !change.lost && is_chosen(), names);
    }

    /// Carries out, and forgets, every change of a file.
    pub(super) fn settle_node(
        &mut self,
        node: NodeId,
        names: impl FnMut(NodeId, &mut dyn FnMut(&mut Names)),
    ) {
        self.settle(|change| change.node == node, names);
    }

    /// The failing sync of a directory: its changes never become durable by themselves any more.
    pub(super) fn lose(&mut self, dir: NodeId) {
        for change in self.pending.iter_mut().filter(|change| change.dir() == dir) {
            change.lost = true;
        }
    }

    /// Carries out what a power loss lets survive.
    pub(super) fn power_loss(mut self, rng: &mut Rng, names: impl FnMut(NodeId, &mut dyn FnMut(&mut Names))) {
        let chance = match rng.between(0, 4) {
            0 => 0,
            1 => 1_000,
            2 => 850,
            _ => 500,
        };
        self.settle(|change| !change.lost && rng.permille(chance), names);
    }

    fn settle(
        &mut self,
        is_chosen: impl FnMut(&Change) -> bool,
        mut names: impl FnMut(NodeId, &mut dyn FnMut(&mut Names)),
    ) {
        if self.pending.is_empty() {
            return;
        }
        let mut chosen: Vec<bool> = self.pending.iter().map(is_chosen).collect();
        let mut places = BTreeSet::new();
        for (change, chosen) in self.pending.iter().zip(&mut chosen).rev() {
            *chosen |= change.places().any(|place| places.contains(place));
            if *chosen {
                places.extend(change.places());
            }
        }
        let mut chosen = chosen.into_iter();
        self.pending.retain(|change| {
            let is_chosen = chosen.next().unwrap_or_default();
            if is_chosen {
                change.apply(&mut names);
            }
            !is_chosen
        });
    }
}
