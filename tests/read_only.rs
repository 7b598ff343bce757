//! A read-only node shows what an ordinary one would find in the directory, and leaves no trace there: after closes,
//! kills and power losses, on a disk that refuses every change, beside other readers, and never beside a node.
//!
//! `DBEX_TEST_SEED` repeats a run, `DBEX_TEST_SCALE=50` makes it the long run: so many times the scripts.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/mixed_writes.rs"]
mod mixed_writes;
#[path = "support/picture.rs"]
mod picture;
#[path = "support/random.rs"]
mod random;
#[path = "support/report.rs"]
mod report;
#[path = "support/wall.rs"]
mod wall;
#[path = "support/watched.rs"]
mod watched;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use dbex::{
    Clock, Env, ErrorKind, Node, NodeOptions, PutOptions, ReadOnlyNode, Result, Settings, TimeToLive,
    blocking,
    ids::ShardId,
    storage::{
        DiskStorage,
        sim::{CrashPoint, Errno, Fault, FaultRule, OpKind, SimStorage},
    },
    table::{BlockCache, FileCache},
    tree::{TreeContext, TreeOptions, TreeRecovery, consistent_cut},
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use mixed_writes::{keys, options};
use picture::{Picture, Reads};
use random::{Random, derive};
use report::{Watchdog, say};
use tempfile::TempDir;
use wall::Wall;
use watched::Watched;

const SHARDS: u32 = 3;
/// Scripts in CI, and how many images of the disk are looked at for each.
const SCRIPTS: usize = 60;
const IMAGES: u64 = 4;
const DATA_DIR: &str = "/data/node";
const HANGS_AFTER: Duration = Duration::from_mins(1);

fn env(storage: Arc<dyn dbex::storage::Storage>, wall: &Arc<Wall>) -> Env {
    let mut env = Env::with_storage(storage);
    env.clock = Arc::clone(wall) as Arc<dyn Clock>;
    env
}

/// Says how to repeat what fails.
struct SaysSeed(u64);

impl Drop for SaysSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(format_args!("read_only: fails with DBEX_TEST_SEED={}", self.0));
        }
    }
}

// What it shows

/// What was done, over all scripts.
#[derive(Default)]
struct Counts {
    images: u64,
    unmade: u64,
    pairs: usize,
    in_memory: u64,
    tables: u64,
    cut: u64,
    frames_cut: usize,
    void: usize,
}

/// How many frames fall because another shard lost its part of a batch, and how many cancelled batches stand among the
/// others.
fn frames_cut(image: &SimStorage) -> (usize, usize) {
    let storage: Arc<dyn dbex::storage::Storage> = Arc::new(image.clone());
    let files = Arc::new(FileCache::new(Arc::clone(&storage), 8));
    let context = TreeContext::new(storage, Arc::new(BlockCache::new(1 << 16)), files);
    let read = |shard| {
        let dir = Path::new(DATA_DIR).join(format!("shard-{shard:04}"));
        TreeRecovery::read(context.clone(), TreeOptions::default(), ShardId(shard), dir).unwrap()
    };
    let logs: Vec<_> = (0..SHARDS).map(|shard| read(shard).shard_log()).collect();
    let cuts = consistent_cut(&logs);
    let frames = logs.iter().zip(&cuts).map(|(log, cut)| log.frames - cut.keep_frames).sum();
    (frames, cuts.iter().map(|cut| cut.void.len()).sum())
}

/// Runs a script on a simulated disk until the power goes, at a step of its own or of the disk's.
fn run_script(seed: u64, wall: &Arc<Wall>, options: &NodeOptions) -> SimStorage {
    let mut random = Random::new(seed);
    let disk = SimStorage::new(derive(seed, 1));
    disk.set_cached_permille(500);
    if random.permille(500) {
        disk.set_crash_point(CrashPoint::AtChange(random.next() % 600));
    }
    match blocking::Node::open_with(options.clone(), env(Arc::new(disk.clone()), wall)) {
        Ok(node) => {
            let steps = random.between(10, 150);
            if let Err(error) = mixed_writes::write(&node, &mut random, wall, steps) {
                assert!(disk.is_dead(), "an error while the disk is well: {error}");
            }
            cancel_a_batch(&node, &disk, &mut random);
            drop(disk.crash(0));
            // The last sync fails on a dead disk, if there is anything to sync.
            let _ = node.close();
        }
        Err(error) => assert!(disk.is_dead(), "the node does not open on a disk that is well: {error}"),
    }
    disk
}

/// Writes a batch of which the second shard's part cannot be appended, so that the first takes its own back.
fn cancel_a_batch(node: &blocking::Node, disk: &SimStorage, random: &mut Random) {
    disk.fail(FaultRule::new(Fault::Fail(Errno::NOSPC)).on(&[OpKind::Write]).nth(1));
    // Where it lies in one shard alone, it is written.
    let _ = node.write(mixed_writes::batch(random));
    disk.clear_faults();
}

/// Reads an image, and compares with what an ordinary open of it then finds.
fn compare(image: &SimStorage, wall: &Arc<Wall>, options: &NodeOptions, counts: &mut Counts) {
    let (before, keys) = (image.content_hash(), keys());
    counts.images += 1;
    let watched = Watched::new(Arc::new(image.clone()));
    let read = match blocking::ReadOnlyNode::open_with(options.clone(), env(Arc::new(watched.clone()), wall))
    {
        Ok(reader) => {
            let picture = Picture::of(&reader, &keys);
            let stats = reader.stats().unwrap().shards;
            counts.in_memory +=
                stats.iter().map(|shard| shard.load.active_entries + shard.load.sealed_entries).sum::<u64>();
            counts.tables +=
                stats.iter().flat_map(|shard| shard.tree.levels).map(|level| level.tables).sum::<u64>();
            reader.close().unwrap();
            let (cut, void) = frames_cut(image);
            counts.void += void;
            counts.cut += u64::from(cut > 0);
            counts.frames_cut += cut;
            Some(picture)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            counts.unmade += 1;
            None
        }
    };
    assert_eq!(watched.changes(), Vec::<String>::new());
    assert_eq!(image.changes(), 0, "{:?}", image.trace());
    assert_eq!(image.content_hash(), before);

    let node = blocking::Node::open_with(options.clone(), env(Arc::new(image.clone()), wall)).unwrap();
    let found = Picture::of(&node, &keys);
    match read {
        Some(read) => {
            assert!(read == found, "read-only: {}, ordinary: {}", read.summary(), found.summary());
            counts.pairs += read.pairs.unwrap().len();
        }
        None => assert_eq!(found.pairs, Ok(vec![]), "a node whose making was interrupted holds nothing"),
    }
    node.close().unwrap();
}

#[test]
fn after_a_power_loss_it_shows_what_an_ordinary_open_then_finds() {
    let seed = report::seed();
    say(format_args!("read_only: DBEX_TEST_SEED={seed}"));
    let mut counts = Counts::default();
    for number in 0..SCRIPTS * report::scale() {
        let script_seed = if number == 0 { seed } else { derive(seed, number as u64) };
        let watchdog = Watchdog::new(HANGS_AFTER, move || format!("DBEX_TEST_SEED={script_seed}"));
        let _seed = SaysSeed(script_seed);
        let (wall, options) = (Wall::new(), options(DATA_DIR, SHARDS));
        let disk = run_script(script_seed, &wall, &options);
        // What has expired stays so when the clock is set back, as far as a manifest knows.
        match script_seed % 3 {
            0 => drop(wall.now_ms.fetch_sub(5 * 60_000, Ordering::SeqCst)),
            1 => wall.pass(Duration::from_millis(mixed_writes::LONGEST_TTL_MS as u64 / 2)),
            _ => {}
        }
        for loss in 0..IMAGES {
            watchdog.at(format!("power loss {loss}"));
            compare(&disk.crash(derive(script_seed, 10 + loss)), &wall, &options, &mut counts);
        }
        watchdog.at("kill");
        compare(&disk.kill(), &wall, &options, &mut counts);
    }
    let Counts { images, unmade, pairs, in_memory, tables, cut, frames_cut, void } = counts;
    say(format_args!(
        "read_only: {images} images read and then opened ({unmade} of no node yet), {pairs} pairs, {in_memory} entries in \
         memory, {tables} tables, {cut} images whose logs are cut by {frames_cut} frames, {void} cancelled batches"
    ));
    assert!(pairs > 0 && in_memory > 0 && tables > 0 && cut > 0 && void > 0, "nothing was compared");
}

/// Every file and directory below `dir`, with content and times.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (Option<Vec<u8>>, SystemTime, u32)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).chain([dir.clone()]) {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = metadata.is_file().then(|| fs::read(&path).unwrap());
            if metadata.is_dir() && path != dir {
                dirs.push(path.clone());
            }
            found.insert(path, (content, metadata.modified().unwrap(), metadata.permissions().mode()));
        }
    }
    found
}

fn copy_dir(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
}

fn set_modes(dir: &Path, dir_mode: u32, file_mode: u32) {
    for path in listing(dir).into_keys() {
        let mode = if path.is_dir() { dir_mode } else { file_mode };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn on_the_disk_it_shows_what_a_killed_node_left_and_leaves_it_untouched() {
    let seed = report::seed();
    say(format_args!("read_only, on the disk: DBEX_TEST_SEED={seed}"));
    let (dir, wall, keys) = (tempfile::tempdir().unwrap(), Wall::new(), keys());
    let at = |name: &str| dir.path().join(name);
    let disk = || env(Arc::new(DiskStorage::new()), &wall);
    let mut random = Random::new(seed);
    let mut pairs = 0;
    for round in 0..4 {
        let node = blocking::Node::open_with(options(at("data"), SHARDS), disk()).unwrap();
        mixed_writes::write(&node, &mut random, &wall, 300).unwrap();
        // What a kill of the process would leave; and in the last round, what a close does.
        if round == 3 {
            node.close().unwrap();
        }
        let [to_read, to_open] = ["read", "open"].map(|name| at(&format!("{name}-{round}")));
        copy_dir(&at("data"), &to_read);
        copy_dir(&at("data"), &to_open);
        node.close().unwrap();
        if round == 1 {
            // A copy without the lock file is read, too, and none is made.
            fs::remove_file(to_read.join("LOCK")).unwrap();
        }
        set_modes(&to_read, 0o555, 0o444);
        let before = listing(&to_read);
        let watched = Watched::new(Arc::new(DiskStorage::new()));
        let read = env(Arc::new(watched.clone()), &wall);
        let reader = blocking::ReadOnlyNode::open_with(options(&to_read, 0), read).unwrap();
        let picture = Picture::of(&reader, &keys);
        reader.close().unwrap();
        assert_eq!(watched.changes(), Vec::<String>::new());
        assert!(listing(&to_read) == before, "something has changed in {}", to_read.display());
        // And with the disk as it is.
        let reader = blocking::ReadOnlyNode::open_with(options(&to_read, 0), disk()).unwrap();
        assert!(Picture::of(&reader, &keys) == picture);
        drop(reader);
        assert!(listing(&to_read) == before, "something has changed in {}", to_read.display());
        set_modes(&to_read, 0o755, 0o644);

        let node = blocking::Node::open_with(options(&to_open, 0), disk()).unwrap();
        let found = Picture::of(&node, &keys);
        assert!(picture == found, "read-only: {}, ordinary: {}", picture.summary(), found.summary());
        pairs += found.pairs.unwrap().len();
        node.close().unwrap();
    }
    say(format_args!("read_only, on the disk: 4 directories, {pairs} pairs"));
    assert!(pairs > 100, "{pairs} pairs show little");
}

#[test]
fn values_expire_by_a_clock_that_never_goes_back_and_a_scan_sees_one_moment() {
    let (dir, wall) = (tempfile::tempdir().unwrap(), Wall::new());
    let disk = || env(Arc::new(DiskStorage::new()), &wall);
    let node = blocking::Node::open_with(options(dir.path(), SHARDS), disk()).unwrap();
    let second = Duration::from_secs(1);
    (0..40).for_each(|n| node.put_with(format!("{n:02}"), "v", PutOptions::new().ttl(10 * second)).unwrap());
    node.put_with("short", "v", PutOptions::new().ttl(second)).unwrap();
    node.put("stays", "v").unwrap();
    wall.pass(2 * second);
    node.close().unwrap();

    wall.now_ms.fetch_sub(60 * 60_000, Ordering::SeqCst);
    let reader = blocking::ReadOnlyNode::open_with(options(dir.path(), 0), disk()).unwrap();
    assert_eq!(reader.get("short").unwrap(), None, "it was gone when the node closed");
    assert_eq!(reader.time_to_live("00").unwrap(), Some(TimeToLive::Left(8 * second)));
    assert_eq!(reader.time_to_live("stays").unwrap(), Some(TimeToLive::Forever));
    assert_eq!(reader.time_to_live("never there").unwrap(), None);
    let mut scan = reader.scan(..);
    let mut stream = Box::pin(reader.to_async().scan(..));
    assert_eq!(scan.next().unwrap().unwrap().0, "00");
    assert_eq!(pollster::block_on(stream.next()).unwrap().unwrap().0, "00");
    wall.pass(Duration::from_hours(1) + 8 * second);
    assert_eq!(reader.get("00").unwrap(), None);
    assert_eq!(reader.multi_get(["00", "stays"]).unwrap(), [None, Some(Bytes::from("v"))]);
    assert_eq!(reader.scan(..).count(), 1);
    assert_eq!(scan.count(), 40, "a scan goes on at its moment");
    assert_eq!(pollster::block_on(stream.count()), 40);
    reader.close().unwrap();
}

#[test]
fn async_reads_leave_what_is_cold_to_the_read_workers() {
    let sim = SimStorage::new(1);
    let wall = Wall::new();
    let node =
        blocking::Node::open_with(options(DATA_DIR, SHARDS), env(Arc::new(sim.clone()), &wall)).unwrap();
    (0..500).for_each(|n| node.put(format!("{n:03}"), vec![7; 500]).unwrap());
    node.settle().unwrap();
    node.put("in memory", "1").unwrap();
    node.close().unwrap();
    sim.set_cached_permille(0);
    let watched = Watched::new(Arc::new(sim));
    let read = env(Arc::new(watched.clone()), &wall);
    pollster::block_on(async {
        let reader = ReadOnlyNode::open_with(options(DATA_DIR, SHARDS), read).await?;
        assert!(watched.take_table_readers().is_empty(), "opening tables reads nothing");
        assert_eq!(reader.get("in memory").await?.as_deref(), Some(&b"1"[..]));
        for n in 0..500 {
            assert_eq!(reader.get(format!("{n:03}")).await?.unwrap().len(), 500);
        }
        assert_eq!(reader.multi_get(["000", "499", "none"]).await?.iter().flatten().count(), 2);
        assert_eq!(reader.time_to_live("250").await?, Some(TimeToLive::Forever));
        let pairs: Vec<_> = reader.scan("1".."2").try_collect().await?;
        assert_eq!(pairs.len(), 100);
        let readers = watched.take_table_readers();
        assert!(
            !readers.is_empty() && readers.iter().all(|name| name.starts_with("dbex-read-")),
            "{readers:?}"
        );
        let stats = reader.stats().await?;
        assert!(stats.block_cache_misses > 0 && stats.block_cache_bytes <= 64 << 10, "{stats:?}");
        reader.close().await
    })
    .unwrap();
    assert_eq!(watched.changes(), Vec::<String>::new());
}

// Locks

/// A directory with a closed node of 20 pairs in it.
fn a_closed_node() -> (TempDir, NodeOptions) {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path().join("data"), SHARDS);
    let node = blocking::Node::open(options.clone()).unwrap();
    (0..20).for_each(|n| node.put(format!("{n:02}"), "v").unwrap());
    node.close().unwrap();
    (dir, options)
}

fn read(options: &NodeOptions) -> Result<blocking::ReadOnlyNode> {
    blocking::ReadOnlyNode::open(options.clone())
}

fn write(options: &NodeOptions) -> Result<blocking::Node> {
    blocking::Node::open(options.clone())
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(opened: Result<T>, why: &str) {
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[test]
fn readers_of_a_process_share_a_directory_and_keep_nodes_out() {
    let (dir, options) = a_closed_node();
    let first = read(&options).unwrap();
    let second = read(&options).unwrap();
    let mut linked = options.clone();
    linked.data_dir = dir.path().join("link");
    symlink(&options.data_dir, &linked.data_dir).unwrap();
    let third = read(&linked).unwrap();
    for options in [&options, &linked] {
        assert_refused(write(options), "in use by a reader (a read-only node) of this process");
    }
    first.close().unwrap();
    assert_refused(write(&options), "in use by a reader");
    assert_eq!((second.scan(..).count(), third.scan(..).count()), (20, 20));
    second.close().unwrap();
    drop(third);
    // A dropped one closes by itself, and the open waits for that.
    let node = write(&options).unwrap();
    assert_refused(read(&options), "in use by a node of this process");
    assert_refused(read(&linked), "in use by a node of this process");
    node.put("20", "v").unwrap();
    drop(node);
    let clone = read(&options).unwrap().clone();
    assert_eq!(clone.scan(..).count(), 21);
    drop(clone);
    write(&options).unwrap().close().unwrap();
}

const CHILD: &str = "DBEX_TEST_CHILD";

/// Another process: what [`holds_a_directory_for_another_process`] does.
struct Holder(Child);

impl Holder {
    fn start(how: &str, options: &NodeOptions) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "holds_a_directory_for_another_process", "--nocapture"]);
        command.env(CHILD, format!("{how} {}", options.data_dir.display()));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut holder = Self(child);
        let out = BufReader::new(holder.0.stdout.as_mut().unwrap());
        assert!(out.lines().any(|line| line.unwrap().contains("held")), "the other process does not open it");
        holder
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// No test, but what another process does in those of locks.
#[test]
fn holds_a_directory_for_another_process() {
    let Ok(text) = std::env::var(CHILD) else { return };
    let (how, dir) = text.split_once(' ').unwrap();
    let options = options(dir, 0);
    let hold = || {
        println!("held");
        std::io::stdin().lines().for_each(drop);
    };
    if how == "read" {
        let reader = read(&options).unwrap();
        hold();
        reader.close().unwrap();
    } else {
        let node = write(&options).unwrap();
        hold();
        node.close().unwrap();
    }
}

#[test]
fn readers_of_other_processes_count_and_nodes_of_others_too() {
    let (_dir, options) = a_closed_node();
    let (other, another) = (Holder::start("read", &options), Holder::start("read", &options));
    let reader = read(&options).unwrap();
    assert_eq!(reader.scan(..).count(), 20);
    reader.close().unwrap();
    assert_refused(write(&options), "in use by a reader (a read-only node) of another process");
    other.end();
    assert_refused(write(&options), "in use by a reader (a read-only node) of another process");
    another.kill();
    write(&options).unwrap().close().unwrap();

    let node = Holder::start("write", &options);
    assert_refused(read(&options), "in use by a node of another process");
    assert_refused(write(&options), "in use by a node of another process");
    node.kill();
    let reader = read(&options).unwrap();
    assert_eq!(reader.scan(..).count(), 20);
    drop(reader);
    write(&options).unwrap().close().unwrap();
}

// What is refused

#[test]
fn a_damaged_shard_refuses_alone() {
    let (_dir, options) = a_closed_node();
    let manifest = options.data_dir.join("shard-0001/MANIFEST");
    let mut bytes = fs::read(&manifest).unwrap();
    bytes.iter_mut().skip(30).take(1).for_each(|byte| *byte ^= 1);
    fs::write(&manifest, bytes).unwrap();
    let keys: Vec<_> = (0..20).map(|n| format!("{n:02}")).collect();
    let before = listing(&options.data_dir);
    let reader = read(&options).unwrap();
    let picture = Picture::of(&reader, &keys);
    let served = picture.values.iter().filter(|value| matches!(value, Ok(Some(_)))).count();
    let refused = picture.values.iter().filter(|value| **value == Err(ErrorKind::Corruption)).count();
    assert!(served > 0 && refused > 0 && served + refused == 20, "{served} served, {refused} refused");
    assert_eq!(picture.pairs, Err(ErrorKind::Corruption));
    let troubles: Vec<_> = reader.stats().unwrap().shards.into_iter().map(|shard| shard.trouble).collect();
    assert!(matches!(&troubles[..], [None, Some(why), None] if why.contains("MANIFEST")), "{troubles:?}");
    reader.close().unwrap();
    assert!(listing(&options.data_dir) == before);
    let node = write(&options).unwrap();
    assert!(Picture::of(&node, &keys) == picture, "an ordinary node says the same");
    node.close().unwrap();
}

#[test]
fn what_is_no_directory_of_a_node_is_refused_and_left_alone() {
    let (dir, mut options) = a_closed_node();
    let made = options.data_dir.clone();
    options.shards = SHARDS + 1;
    assert_refused(read(&options), "set node.shards = 3");
    options.shards = 0;
    assert_eq!(read(&options).unwrap().stats().unwrap().shards.len(), 3);

    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("foreign")).unwrap();
    fs::write(at("foreign/letter.txt"), "dear").unwrap();
    fs::create_dir(at("unfinished")).unwrap();
    fs::copy(made.join("NODE"), at("unfinished/NODE.new")).unwrap();
    fs::write(at("file"), "no directory").unwrap();
    let before = listing(dir.path());
    for (name, why) in [
        ("missing", "there is no data directory"),
        ("missing/below", "there is no data directory"),
        ("file", "there is no data directory"),
        ("empty", "is not the data directory of a node"),
        ("foreign", "is not the data directory of a node"),
        ("unfinished", "was interrupted"),
    ] {
        options.data_dir = at(name);
        assert_refused(read(&options), why);
    }
    assert!(listing(dir.path()) == before, "something was made");

    options.data_dir = made.clone();
    let node_file = fs::read(made.join("NODE")).unwrap();
    let mut damaged = node_file.clone();
    damaged.iter_mut().skip(40).take(1).for_each(|byte| *byte ^= 1);
    fs::write(made.join("NODE"), damaged).unwrap();
    assert_eq!(read(&options).unwrap_err().kind(), ErrorKind::Corruption);
    fs::remove_file(made.join("NODE")).unwrap();
    assert_eq!(read(&options).unwrap_err().kind(), ErrorKind::Corruption, "shards without NODE");
    fs::write(made.join("NODE"), node_file).unwrap();
    assert_eq!(read(&options).unwrap().scan(..).count(), 20, "refusals free the directory");
    write(&options).unwrap().close().unwrap();
}

// The end

/// What one who holds scans over a close finds: a scan that began, one that did not, and the calls after it.
fn over_a_close(node: &impl Reads) -> (usize, Vec<ErrorKind>) {
    let (mut begun, not_begun) = (node.scan(), node.scan());
    begun.next().unwrap().unwrap();
    node.close().unwrap();
    let went_on = begun.map(Result::unwrap).count();
    let kinds = [
        not_begun.last().unwrap().unwrap_err(),
        node.get("00").unwrap_err(),
        node.multi_get(&["00".into(), "01".into()]).unwrap_err(),
        node.time_to_live("00").unwrap_err(),
    ];
    node.close().unwrap();
    (went_on, kinds.map(|error| error.kind()).to_vec())
}

#[test]
fn after_a_close_all_is_closed_and_held_scans_end_as_a_nodes_do() {
    let (_dir, options) = a_closed_node();
    let reader = read(&options).unwrap();
    let of_reader = over_a_close(&reader);
    assert_eq!(reader.stats().unwrap_err().kind(), ErrorKind::Closed);
    let of_node = over_a_close(&write(&options).unwrap());
    assert_eq!(of_reader, of_node);
    assert_eq!(of_reader, (19, vec![ErrorKind::Closed; 4]));

    pollster::block_on(async {
        let reader = ReadOnlyNode::open(options.clone()).await.unwrap();
        let mut stream = reader.scan(..);
        stream.next().await.unwrap().unwrap();
        let unpolled = (reader.scan(..), reader.get("00"));
        reader.close().await.unwrap();
        let of_reader: Vec<_> = stream.map_err(|error| error.kind()).collect().await;
        let node = Node::open(options.clone()).await.unwrap();
        let mut stream = node.scan(..);
        stream.next().await.unwrap().unwrap();
        node.close().await.unwrap();
        let of_node: Vec<_> = stream.map_err(|error| error.kind()).collect().await;
        assert_eq!(of_reader, of_node);
        assert_eq!(of_reader.last(), Some(&Err(ErrorKind::Closed)));
        let mut scan = unpolled.0;
        assert_eq!(scan.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(unpolled.1.await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(reader.stats().await.unwrap_err().kind(), ErrorKind::Closed);
        reader.close().await.unwrap();
        node.close().await.unwrap();
    });
}

#[test]
fn the_faces_are_shared_and_their_futures_outlive_what_they_were_made_from() {
    fn is_shared<T: Clone + Send + Sync + std::fmt::Debug + 'static>() {}
    fn is_future<F: Future<Output = Result<O>> + Send + 'static, O>(future: F) -> F {
        future
    }
    is_shared::<ReadOnlyNode>();
    is_shared::<blocking::ReadOnlyNode>();
    let (_dir, options) = a_closed_node();
    let settings = Settings::builder().data_dir(&options.data_dir).build().unwrap();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let reader = is_future(ReadOnlyNode::open(settings)).await.unwrap();
        let key = String::from("07");
        let get = is_future(reader.get(&key));
        let values = is_future(reader.multi_get([&key]));
        let left = is_future(reader.time_to_live(&key));
        drop(key);
        assert_eq!(get.await.unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!(values.await.unwrap().len(), 1);
        assert_eq!(left.await.unwrap(), Some(TimeToLive::Forever));
        let some: Vec<_> = reader.scan("05"..).reverse().limit(2).try_collect().await.unwrap();
        assert_eq!(some.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["19", "18"]);
        let invalid =
            [reader.get("").await.unwrap_err(), reader.scan("b".."a").next().await.unwrap().unwrap_err()];
        assert_eq!(invalid.map(|error| error.kind()), [ErrorKind::Invalid; 2]);
        // The blocking face is legal inside a runtime, too.
        assert_eq!(read(&options).unwrap().get("07").unwrap().as_deref(), Some(&b"v"[..]));
        is_future(reader.close()).await.unwrap();
    });
}
