//! The seed project's five tables: a sequential fill, then sequential, random and zipfian reads, through
//! `blocking::Node` from one thread. Not a microbenchmark: each table is a run of its own.
//!
//! `cargo bench --bench seed_tables` runs the two small tables; `-- --all` all five (about 20 GB of disk, a quarter
//! of an hour); `-- --dir DIR` puts the data elsewhere than in the system's temporary directory. Prints the markdown
//! rows of BENCHMARKS.md.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has nothing to say")]
#![expect(clippy::cast_precision_loss, reason = "rates are shown with three digits")]

use std::{path::PathBuf, time::Instant};

use dbex::{Settings, blocking::Node};

/// Entries and value bytes of each table.
const TABLES: [(u64, usize); 5] =
    [(100_000, 100), (1_000_000, 100), (1_000_000, 1_000), (1_000_000, 8_000), (10_000_000, 1_000)];
/// How many of them run by default.
const SMALL: usize = 2;
/// Reads of each pattern, at the most.
const MAX_READS: u64 = 1_000_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let all = args.iter().any(|arg| arg == "--all");
    let dir = args.iter().position(|arg| arg == "--dir").and_then(|at| args.get(at + 1));
    let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
    println!(
        "| entries | value | write | write + settle | sequential read | random read | zipfian read | disk / logical |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (entries, value_bytes) in TABLES.into_iter().take(if all { TABLES.len() } else { SMALL }) {
        let home = tempfile::tempdir_in(&dir).unwrap();
        println!("{}", run(home.path(), entries, value_bytes));
    }
}

/// One table: its row.
fn run(dir: &std::path::Path, entries: u64, value_bytes: usize) -> String {
    let node = Node::open(Settings::builder().data_dir(dir).build().unwrap()).unwrap();
    let filler = filler();
    let started = Instant::now();
    for i in 0..entries {
        node.put(key(i), value(&filler, i, value_bytes)).unwrap();
    }
    let write = rate(entries, started);
    node.settle().unwrap();
    let settled = rate(entries, started);

    let reads = entries.min(MAX_READS);
    let check = |i: u64| {
        let found = node.get(key(i)).unwrap();
        assert_eq!(found.as_deref(), Some(value(&filler, i, value_bytes)), "entry {i}");
    };
    let sequential = timed(reads, &mut (0..reads), &check);
    let mut random = Random(7);
    let uniform = timed(reads, &mut std::iter::repeat_with(|| random.next() % entries), &check);
    let mut zipf = Zipf::new(entries, 11);
    let zipfian = timed(reads, &mut std::iter::repeat_with(|| zipf.next()), &check);

    node.close().unwrap();
    let logical = entries as f64 * (16 + value_bytes) as f64;
    let amplification = disk_bytes(dir) as f64 / logical;
    format!(
        "| {entries} | {value_bytes} B | {write} | {settled} | {sequential} | {uniform} | {zipfian} | {amplification:.2} |"
    )
}

fn timed(reads: u64, order: &mut dyn Iterator<Item = u64>, check: &dyn Fn(u64)) -> String {
    let started = Instant::now();
    order.take(usize::try_from(reads).unwrap()).for_each(check);
    rate(reads, started)
}

fn rate(count: u64, since: Instant) -> String {
    format!("{:.0} k/s", count as f64 / since.elapsed().as_secs_f64() / 1_000.0)
}

fn key(i: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    let mut rest = i;
    for digit in key.iter_mut().rev().take(12) {
        *digit = b'0' + u8::try_from(rest % 10).unwrap();
        rest /= 10;
    }
    key
}

/// Half compressible bytes: eight random ones, eight zeroes, and so on.
fn filler() -> Vec<u8> {
    let mut random = Random(3);
    (0..1 << 16).flat_map(|_| [random.next().to_le_bytes(), [0; 8]].concat()).collect()
}

/// The value of entry `i`: a window into the filler that differs from its neighbours'.
fn value(filler: &[u8], i: u64, bytes: usize) -> &[u8] {
    let start = usize::try_from(i.wrapping_mul(0x9E37_79B9) % (filler.len() - bytes) as u64).unwrap();
    filler.get(start..start + bytes).unwrap()
}

fn disk_bytes(dir: &std::path::Path) -> u64 {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() { disk_bytes(&entry.path()) } else { meta.len() }
        })
        .sum()
}

/// xorshift64*: enough for choosing keys.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Zipfian ranks with exponent 0.99, scattered over the keys (Gray et al., "Quickly generating billion-record
/// synthetic databases").
struct Zipf {
    entries: u64,
    zeta: f64,
    eta: f64,
    random: Random,
}

const THETA: f64 = 0.99;

impl Zipf {
    fn new(entries: u64, seed: u64) -> Self {
        let zeta: f64 = (1..=entries).map(|i| (i as f64).powf(-THETA)).sum();
        let zeta_two = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / entries as f64).powf(1.0 - THETA)) / (1.0 - zeta_two / zeta);
        Self { entries, zeta, eta, random: Random(seed) }
    }

    fn next(&mut self) -> u64 {
        let unit = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
        let scaled = unit * self.zeta;
        let rank = if scaled < 1.0 {
            0
        } else if scaled < 1.0 + 0.5f64.powf(THETA) {
            1
        } else {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rank lies between 0 and the number of entries"
            )]
            {
                (self.entries as f64 * (self.eta * unit - self.eta + 1.0).powf(1.0 / (1.0 - THETA))) as u64
            }
        };
        rank.min(self.entries - 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.entries
    }
}
