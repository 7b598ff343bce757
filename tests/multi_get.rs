//! A multi-get answers what gets answer, at the places of its keys: over several shards, from memory and from tables,
//! some blocks in a cache and others not, with keys that are asked for twice and keys that are nowhere.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod report;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use dbex::{Env, NodeOptions, blocking::Node, storage::sim::SimStorage};
use pollster::block_on;
use random::Random;
use report::{say, scale, seed};

const KEYS: usize = 800;
const ROUNDS: usize = 30;

type Model = BTreeMap<String, Bytes>;

fn key(n: usize) -> String {
    format!("key-{n:04}")
}

fn open(seed: u64, random: &mut Random) -> (SimStorage, Node) {
    let disk = SimStorage::new(seed);
    let mut options = NodeOptions::default();
    options.data_dir = "/data".into();
    options.shards = *random.pick(&[1, 3, 7]);
    options.memtable_bytes = 1 << 20;
    options.block_cache_bytes = *random.pick(&[0, 64 << 10]);
    options.table_bytes = 16 << 10;
    options.block_bytes = 1 << 10;
    options.read_workers = random.between(1, 4);
    let node = Node::open_with(options, Env::with_storage(Arc::new(disk.clone()))).unwrap();
    (disk, node)
}

/// Writes here and there, and moves some of it to tables.
fn write(node: &Node, model: &mut Model, random: &mut Random) {
    for _ in 0..random.between(1, KEYS / 4) {
        let key = key(random.below(KEYS));
        if random.permille(200) {
            node.delete(&key).unwrap();
            model.remove(&key);
        } else {
            let value = Bytes::from(format!("{key} {}", random.next()).repeat(random.between(1, 8)));
            node.put(&key, &value).unwrap();
            model.insert(key, value);
        }
    }
    match random.below(4) {
        0 => node.flush().unwrap(),
        1 => node.settle().unwrap(),
        _ => (),
    }
}

/// Keys in no order; some twice, some that were never written.
fn some_keys(random: &mut Random) -> Vec<String> {
    let most = *random.pick(&[2, 20, 300]);
    (0..random.between(0, most)).map(|_| key(random.below(KEYS + KEYS / 10))).collect()
}

#[test]
fn a_multi_get_is_as_many_gets() {
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut asked, mut found) = (0, 0);
    for round in 0..ROUNDS * scale() {
        let (disk, node) = open(seed, &mut random);
        let mut model = Model::new();
        for _ in 0..random.between(1, 6) {
            write(&node, &mut model, &mut random);
            disk.set_cached_permille(*random.pick(&[0, 500, 1000]));
            let snapshot = node.snapshot().unwrap();
            let then = model.clone();
            for _ in 0..4 {
                let keys = some_keys(&mut random);
                let about = format!("seed {seed:#x}, round {round}: {} keys", keys.len());
                let expect =
                    |model: &Model| keys.iter().map(|key| model.get(key).cloned()).collect::<Vec<_>>();
                let gets = keys.iter().map(|key| snapshot.get(key).unwrap()).collect::<Vec<_>>();
                assert_eq!(gets, expect(&then), "gets from a snapshot, {about}");
                assert_eq!(snapshot.multi_get(&keys).unwrap(), gets, "of a snapshot, {about}");
                let now = expect(&model);
                assert_eq!(node.multi_get(&keys).unwrap(), now, "blocking, {about}");
                assert_eq!(block_on(node.to_async().multi_get(&keys)).unwrap(), now, "async, {about}");
                let then_async = block_on(async { node.to_async().snapshot().await?.multi_get(&keys).await });
                assert_eq!(then_async.unwrap(), now, "of a new snapshot, async, {about}");
                asked += keys.len();
                found += gets.iter().flatten().count();
                // The snapshot stays where it is.
                write(&node, &mut model, &mut random);
            }
        }
        node.close().unwrap();
    }
    say(format_args!("seed {seed:#x}: {asked} keys asked for, {found} there, each in five ways"));
    assert!(found > asked / 4 && found < asked, "{found} of {asked} keys are there");
}
