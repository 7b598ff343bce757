//! Names against a model that knows which of them must be durable.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const DIRS: [&str; 2] = ["/a", "/b"];
const PLACES: [&str; 6] = ["/a/x", "/a/y", "/a/z", "/b/x", "/b/y", "/b/z"];

#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Remove(usize),
    Rename(usize, usize),
    SyncDir(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let place = || 0..PLACES.len();
    prop_oneof![
        4 => place().prop_map(Step::Create),
        2 => place().prop_map(Step::Remove),
        4 => (place(), place()).prop_map(|(from, to)| Step::Rename(from, to)),
        3 => (0..DIRS.len()).prop_map(Step::SyncDir),
    ]
}

fn dir_of(place: usize) -> usize {
    place / 3
}

#[derive(Default)]
struct Model {
    live: HashMap<usize, NodeId>,
    /// What must be there after a power loss, for places that nothing pending concerns.
    settled: HashMap<usize, Option<NodeId>>,
    /// Sources of renames into the other directory, which only a sync there persists.
    moved_out: BTreeSet<usize>,
}

impl Model {
    fn change(&mut self, place: usize, to: Option<NodeId>) {
        match to {
            Some(node) => self.live.insert(place, node),
            None => self.live.remove(&place),
        };
        self.settled.remove(&place);
    }

    fn rename(&mut self, from: usize, to: usize) {
        let node = self.live[&from];
        self.change(from, None);
        self.change(to, Some(node));
        if dir_of(from) != dir_of(to) {
            self.moved_out.insert(from);
        }
    }

    fn sync_dir(&mut self, dir: usize) {
        self.moved_out.retain(|&from| dir_of(from) == dir);
        for place in (0..PLACES.len()).filter(|&place| dir_of(place) == dir) {
            if !self.moved_out.contains(&place) {
                self.settled.insert(place, self.live.get(&place).copied());
            }
        }
    }
}

/// The node at each place, as a power loss leaves it.
fn found(volume: &Volume) -> HashMap<usize, NodeId> {
    let found = PLACES.iter().enumerate();
    found.filter_map(|(place, path)| Some((place, volume.lookup(Path::new(path)).ok()?))).collect()
}

fn with_dirs() -> Volume {
    let mut volume = Volume::new();
    for dir in DIRS {
        volume.create_dir_all(Path::new(dir)).unwrap();
    }
    volume.sync_dir(ROOT, || true).unwrap();
    volume
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_power_loss_keeps_synced_names_and_gives_no_file_two(
        steps in prop::collection::vec(step(), 1..40),
        seed in any::<u64>(),
    ) {
        let (mut volume, mut model) = (with_dirs(), Model::default());
        for step in steps {
            let is_there = |place: usize| model.live.contains_key(&place);
            match step {
                Step::Create(place) => match volume.create_file(Path::new(PLACES[place])) {
                    Ok(node) => {
                        prop_assert!(!is_there(place));
                        model.change(place, Some(node));
                    }
                    Err(error) => {
                        prop_assert!(is_there(place) && error.kind() == io::ErrorKind::AlreadyExists);
                    }
                },
                Step::Remove(place) => {
                    let removed = volume.remove_file(Path::new(PLACES[place]));
                    prop_assert_eq!(removed.is_ok(), is_there(place));
                    if removed.is_ok() {
                        model.change(place, None);
                    }
                }
                Step::Rename(from, to) => {
                    let renamed = volume.rename(Path::new(PLACES[from]), Path::new(PLACES[to]));
                    prop_assert_eq!(renamed.is_ok(), is_there(from));
                    if renamed.is_ok() && from != to {
                        model.rename(from, to);
                    }
                }
                Step::SyncDir(dir) => {
                    let id = volume.lookup(Path::new(DIRS[dir])).unwrap();
                    volume.sync_dir(id, || true).unwrap();
                    model.sync_dir(dir);
                }
            }
            prop_assert_eq!(&found(&volume), &model.live);
            for image in 0..4 {
                let after = found(&volume.power_loss(seed.wrapping_add(image)));
                let nodes: BTreeSet<_> = after.values().collect();
                prop_assert_eq!(nodes.len(), after.len(), "a file has two names: {:?}", after);
                for (place, node) in &model.settled {
                    prop_assert_eq!(after.get(place), node.as_ref(), "at {}", PLACES[*place]);
                }
            }
        }
        for dir in DIRS {
            volume.sync_dir(volume.lookup(Path::new(dir)).unwrap(), || true).unwrap();
        }
        prop_assert_eq!(found(&volume.power_loss(seed)), model.live);
    }
}

#[test]
fn what_nothing_can_bring_back_is_forgotten() {
    let mut volume = with_dirs();
    let dir = volume.lookup(Path::new("/a")).unwrap();
    for _ in 0..5_000 {
        let id = volume.create_file(Path::new("/a/x")).unwrap();
        volume.opened(id).unwrap();
        volume.closed(id, true);
        volume.remove_file(Path::new("/a/x")).unwrap();
        volume.sync_dir(dir, || true).unwrap();
    }
    assert!(volume.nodes.len() < 1_000, "{} nodes", volume.nodes.len());
}

#[test]
fn an_open_file_without_a_name_outlives_every_reclaim() {
    let mut volume = with_dirs();
    let id = volume.create_file(Path::new("/a/x")).unwrap();
    volume.opened(id).unwrap();
    volume.change(id, |content| content.write(b"content", 0)).unwrap();
    volume.remove_file(Path::new("/a/x")).unwrap();
    volume.sync_dir(volume.lookup(Path::new("/a")).unwrap(), || true).unwrap();
    volume.reclaim_now();
    assert_eq!(volume.file(id).unwrap().content.bytes(), b"content");
    volume.closed(id, true);
    volume.reclaim_now();
    assert!(volume.file(id).is_err());
    assert_eq!(volume.used_bytes(), 0);
}

#[test]
fn directories_and_files_are_not_mixed_up() {
    let mut volume = with_dirs();
    volume.create_file(Path::new("/a/x")).unwrap();
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(volume.create_dir_all(Path::new("/a/x"))), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(volume.create_dir_all(Path::new("/a/x/y"))), io::ErrorKind::NotADirectory);
    assert_eq!(kind(volume.remove_file(Path::new("/a"))), io::ErrorKind::IsADirectory);
    assert_eq!(kind(volume.rename(Path::new("/a/x"), Path::new("/b"))), io::ErrorKind::IsADirectory);
    assert_eq!(kind(volume.lookup_file(Path::new("/a")).map(drop)), io::ErrorKind::InvalidInput);
    assert_eq!(kind(volume.create_file(Path::new("/c/x")).map(drop)), io::ErrorKind::NotFound);
    volume.rename(Path::new("/a"), Path::new("/c")).unwrap();
    assert!(volume.lookup_file(Path::new("/c/x")).is_ok(), "a directory moves with what is in it");
}
