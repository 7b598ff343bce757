//! The simulated disk without its faults: directories and files, as seen and as durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use xxhash_rust::xxh3::Xxh3;

use super::{
    changes::{ChangeKind, Changes, Names, NodeId, Place},
    content::{Content, SyncLoss},
    node::{Dir, File, Node, names},
    rng::Rng,
};
use crate::storage::{DirEntry, FileKind, not_regular};

const ROOT: NodeId = 0;
/// How many nodes may come into being before unreachable ones are looked for.
const RECLAIM_AFTER: u64 = 256;

#[derive(Clone, Debug)]
pub(super) struct Volume {
    nodes: BTreeMap<NodeId, Node>,
    changes: Changes,
    next: NodeId,
    reclaim_at: NodeId,
    used_bytes: u64,
}

impl Volume {
    pub(super) fn new() -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]);
        Self { nodes, changes: Changes::default(), next: 1, reclaim_at: RECLAIM_AFTER, used_bytes: 0 }
    }

    /// The lengths of all files together: files are charged as if they had no holes.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(super) fn lookup(&self, path: &Path) -> io::Result<NodeId> {
        names(path)?.into_iter().try_fold(ROOT, |dir, name| {
            self.dir(dir)?.live.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    /// The file of that name.
    pub(super) fn lookup_file(&self, path: &Path) -> io::Result<NodeId> {
        let id = self.lookup(path)?;
        self.file(id).map(|_| id)
    }

    pub(super) fn file(&self, id: NodeId) -> io::Result<&File> {
        match self.nodes.get(&id) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(not_regular("a directory")),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn file_mut(&mut self, id: NodeId) -> io::Result<&mut File> {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(not_regular("a directory")),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Changes a file's content, and keeps count of the space.
    pub(super) fn change(&mut self, id: NodeId, change: impl FnOnce(&mut Content)) -> io::Result<()> {
        let content = Arc::make_mut(&mut self.file_mut(id)?.content);
        let before = content.len();
        change(content);
        let after = content.len();
        self.used_bytes = self.used_bytes - before + after;
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let names = names(path)?;
        let mut dir = ROOT;
        for (i, name) in names.iter().enumerate() {
            let found = self.dir(dir)?.live.get(*name).copied();
            dir = match found.map(|id| (id, self.nodes.get(&id))) {
                Some((id, Some(Node::Dir(_)))) => id,
                Some(_) if i + 1 == names.len() => return Err(io::ErrorKind::AlreadyExists.into()),
                Some(_) => return Err(io::ErrorKind::NotADirectory.into()),
                None => self.add(Place::new(dir, name), Node::Dir(Dir::default())),
            };
        }
        Ok(())
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        let place = self.place(path)?;
        if self.dir(place.dir)?.live.contains_key(&place.name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(self.add(place, Node::File(File { is_linked: true, ..File::default() })))
    }

    /// Lists a directory, sorted by name.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.dir(self.lookup(path)?)?;
        let entries = dir.live.iter().map(|(name, id)| {
            let is_dir = matches!(self.nodes.get(id), Some(Node::Dir(_)));
            DirEntry { name: name.clone(), kind: if is_dir { FileKind::Dir } else { FileKind::File } }
        });
        Ok(entries.collect())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.lookup(from)?;
        let (from, to) = (self.place(from)?, self.place(to)?);
        if from == to {
            return Ok(());
        }
        if let Some(&replaced) = self.dir(to.dir)?.live.get(&to.name) {
            let both_files = self.file(node).is_ok() && self.file(replaced).is_ok();
            if !both_files {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            self.unlink(&to, replaced)?;
        }
        self.dir_mut(from.dir)?.live.remove(&from.name);
        self.dir_mut(to.dir)?.live.insert(to.name.clone(), node);
        self.changes.push(node, ChangeKind::Rename { from, to });
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let node = self.lookup(path)?;
        if self.file(node).is_err() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let place = self.place(path)?;
        self.unlink(&place, node)?;
        self.changes.push(node, ChangeKind::Unlink(place));
        Ok(())
    }

    /// Makes those changes of a directory durable that `is_chosen` picks.
    pub(super) fn sync_dir(&mut self, id: NodeId, is_chosen: impl FnMut() -> bool) -> io::Result<()> {
        self.dir(id)?;
        let Self { nodes, changes, .. } = self;
        changes.sync(id, is_chosen, |dir, apply| durable_names(nodes, dir, apply));
        self.reclaim();
        Ok(())
    }

    pub(super) fn fail_dir_sync(&mut self, id: NodeId, loss: SyncLoss) {
        if loss != SyncLoss::NothingLost {
            self.changes.lose(id);
        }
    }

    pub(super) fn opened(&mut self, id: NodeId) -> io::Result<()> {
        self.file_mut(id)?.handles += 1;
        Ok(())
    }

    pub(super) fn closed(&mut self, id: NodeId, is_creator: bool) {
        let Ok(file) = self.file_mut(id) else { return };
        file.handles -= 1;
        file.is_finished |= is_creator;
        if !file.is_present() {
            self.used_bytes -= file.content.len();
        }
    }

    /// What the disk holds after a power loss now.
    pub(super) fn power_loss(&self, seed: u64) -> Self {
        let mut dirs: BTreeMap<NodeId, Names> = BTreeMap::new();
        for (&id, node) in &self.nodes {
            if let Node::Dir(dir) = node {
                dirs.insert(id, dir.durable.clone());
            }
        }
        self.changes.clone().power_loss(&mut Rng::new(seed, u64::MAX), |dir, apply| {
            dirs.get_mut(&dir).into_iter().for_each(&mut *apply);
        });
        let mut after = Self { nodes: BTreeMap::new(), changes: Changes::default(), ..*self };
        let mut reached = vec![ROOT];
        while let Some(id) = reached.pop() {
            let node = match self.nodes.get(&id) {
                _ if after.nodes.contains_key(&id) => continue,
                Some(Node::Dir(_)) => {
                    let names = dirs.remove(&id).unwrap_or_default();
                    reached.extend(names.values());
                    Node::Dir(Dir { live: names.clone(), durable: names })
                }
                Some(Node::File(file)) => Node::File(File {
                    content: if file.content.is_durable() {
                        Arc::clone(&file.content)
                    } else {
                        Arc::new(file.content.power_loss(&mut Rng::new(seed, id)))
                    },
                    is_finished: true,
                    is_linked: true,
                    handles: 0,
                }),
                None => continue,
            };
            after.nodes.insert(id, node);
        }
        after.count_used_bytes();
        after
    }

    /// What is there once every process has ended: everything that is seen now.
    pub(super) fn processes_ended(&self) -> Self {
        let mut after = self.clone();
        for node in after.nodes.values_mut() {
            if let Node::File(file) = node {
                file.handles = 0;
                file.is_finished = true;
            }
        }
        after.reclaim_now();
        after.count_used_bytes();
        after
    }

    /// Puts a file there, durable with its name, in place of what stands there.
    pub(super) fn put_durable(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        let id = match self.lookup(path) {
            Ok(id) => id,
            Err(_) => self.create_file(path)?,
        };
        let mut path_so_far = PathBuf::new();
        for name in names(path)? {
            path_so_far.push(name);
            let node = self.lookup(&path_so_far)?;
            let Self { nodes, changes, .. } = self;
            changes.settle_node(node, |dir, apply| durable_names(nodes, dir, apply));
        }
        self.change(id, |content| *content = Content::durable(bytes))
    }

    /// The bytes of a file that every power loss would leave, if its name survives every one.
    pub(super) fn durable_file(&self, path: &Path) -> Option<Vec<u8>> {
        let id = names(path).ok()?.into_iter().try_fold(ROOT, |dir, name| match self.nodes.get(&dir) {
            Some(Node::Dir(dir)) => dir.durable.get(name).copied(),
            _ => None,
        })?;
        self.file(id).ok().map(|file| file.content.durable_bytes())
    }

    /// Every file that is seen, sorted by path.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let mut found = vec![];
        let mut dirs = vec![(ROOT, PathBuf::from("/"))];
        while let Some((id, path)) = dirs.pop() {
            match self.nodes.get(&id) {
                Some(Node::Dir(dir)) => dirs.extend(dir.live.iter().map(|(name, &id)| (id, path.join(name)))),
                _ => found.push(path),
            }
        }
        found.sort();
        found
    }

    pub(super) fn content_hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for path in self.paths() {
            hasher.update(path.as_os_str().as_encoded_bytes());
            let Ok(file) = self.lookup_file(&path).and_then(|id| self.file(id)) else { continue };
            hasher.update(&file.content.len().to_le_bytes());
            file.content.each_page(|number, bytes| {
                hasher.update(&number.to_le_bytes());
                hasher.update(bytes);
            });
        }
        hasher.digest()
    }

    fn dir(&self, id: NodeId) -> io::Result<&Dir> {
        match self.nodes.get(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn dir_mut(&mut self, id: NodeId) -> io::Result<&mut Dir> {
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Where a path's last name stands or would stand.
    fn place(&self, path: &Path) -> io::Result<Place> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let dir = self.lookup(parent)?;
        self.dir(dir).map(|_| Place::new(dir, name))
    }

    fn add(&mut self, place: Place, node: Node) -> NodeId {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        if let Some(Node::Dir(dir)) = self.nodes.get_mut(&place.dir) {
            dir.live.insert(place.name.clone(), id);
        }
        self.changes.push(id, ChangeKind::Link(place));
        id
    }

    fn unlink(&mut self, place: &Place, id: NodeId) -> io::Result<()> {
        self.dir_mut(place.dir)?.live.remove(&place.name);
        let file = self.file_mut(id)?;
        file.is_linked = false;
        if !file.is_present() {
            self.used_bytes -= file.content.len();
        }
        Ok(())
    }

    fn count_used_bytes(&mut self) {
        let lengths = self.nodes.values().map(|node| match node {
            Node::File(file) if file.is_present() => file.content.len(),
            _ => 0,
        });
        self.used_bytes = lengths.sum();
    }

    fn reclaim(&mut self) {
        if self.next >= self.reclaim_at {
            self.reclaim_now();
            self.reclaim_at = self.next + RECLAIM_AFTER.max(self.nodes.len() as u64);
        }
    }

    /// Forgets what no name, handle, pending change or power loss can bring back.
    fn reclaim_now(&mut self) {
        let mut kept = BTreeSet::new();
        let mut reached: Vec<NodeId> =
            std::iter::once(ROOT).chain(self.changes.nodes()).chain(self.changes.dirs()).collect();
        for (&id, node) in &self.nodes {
            if matches!(node, Node::File(file) if file.handles > 0) {
                reached.push(id);
            }
        }
        while let Some(id) = reached.pop() {
            if kept.insert(id)
                && let Some(Node::Dir(dir)) = self.nodes.get(&id)
            {
                reached.extend(dir.live.values().chain(dir.durable.values()));
            }
        }
        self.nodes.retain(|id, _| kept.contains(id));
    }
}

fn durable_names(nodes: &mut BTreeMap<NodeId, Node>, dir: NodeId, apply: &mut dyn FnMut(&mut Names)) {
    if let Some(Node::Dir(dir)) = nodes.get_mut(&dir) {
        apply(&mut dir.durable);
    }
}

#[cfg(test)]
#[path = "volume_test.rs"]
mod tests;
