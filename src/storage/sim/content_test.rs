//! A file's pages against a model that keeps every byte.

use std::{collections::BTreeSet, ops::Range};

use proptest::prelude::*;

use super::{Rng, *};

/// The largest offset that the operations use: a few pages.
const END: u64 = 3 * PAGE_BYTES as u64;

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, len: usize, byte: u8 },
    SetLen(u64),
    Sync,
    SyncInPart(u64),
    FailSync,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1..2_000_usize, Just(SECTOR_BYTES), Just(PAGE_BYTES), Just(3 * PAGE_BYTES)];
    let offset = prop_oneof![0..END, (0..24_u64).prop_map(|sector| sector * SECTOR_BYTES as u64)];
    prop_oneof![
        6 => (offset, len, 0..3_u8).prop_map(|(offset, len, byte)| Step::Write { offset, len, byte }),
        2 => (0..END).prop_map(Step::SetLen),
        2 => Just(Step::Sync),
        1 => any::<u64>().prop_map(Step::SyncInPart),
        1 => Just(Step::FailSync),
    ]
}

#[derive(Clone, Default)]
struct Model {
    live: Vec<u8>,
    /// Everything that each byte may be on the disk; syncs that were cut short leave more than one choice.
    durable: Vec<BTreeSet<u8>>,
    /// The least and greatest length that may be durable.
    lens: (u64, u64),
    /// Whether a byte changed since the last whole sync.
    touched: Vec<bool>,
}

impl Model {
    fn byte(&self, i: usize) -> u8 {
        self.live.get(i).copied().unwrap_or(0)
    }

    fn touch(&mut self, range: Range<usize>) {
        for i in range {
            while self.touched.len() <= i {
                self.touched.push(false);
                self.durable.push(BTreeSet::from([0]));
            }
            self.touched[i] = true;
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Write { offset, len, byte } => {
                let start = usize::try_from(offset).unwrap();
                let end = start + len;
                self.live.resize(self.live.len().max(end), 0);
                self.live[start..end].fill(byte);
                self.touch(start..end);
            }
            Step::SetLen(len) => {
                let (before, len) = (self.live.len(), usize::try_from(len).unwrap());
                self.live.resize(len, 0);
                self.touch(len.min(before)..len.max(before));
            }
            Step::Sync => {
                let len = self.live.len();
                self.durable = (0..self.touched.len()).map(|i| BTreeSet::from([self.byte(i)])).collect();
                self.touched.fill(false);
                self.lens = (len as u64, len as u64);
            }
            Step::SyncInPart(_) => {
                for i in 0..self.touched.len() {
                    let byte = self.byte(i);
                    if self.touched[i] {
                        self.durable[i].insert(byte);
                    }
                }
                let len = self.live.len() as u64;
                self.lens = (self.lens.0.min(len), self.lens.1.max(len));
            }
            Step::FailSync => {}
        }
    }

    /// Whether a power loss may leave these bytes.
    fn allows(&self, image: &[u8]) -> Result<(), String> {
        let (len, live) = (image.len() as u64, self.live.len() as u64);
        if len < self.lens.0.min(live) || len > self.lens.1.max(live) {
            return Err(format!("{len} bytes, live {live}, durable {:?}", self.lens));
        }
        for (i, &byte) in image.iter().enumerate() {
            let is_touched = self.touched.get(i).copied().unwrap_or(false);
            let is_durable = self.durable.get(i).map_or(byte == 0, |durable| durable.contains(&byte));
            if !is_durable && !(is_touched && (byte == self.byte(i) || byte == 0)) {
                return Err(format!(
                    "byte {i} is {byte}, live {}, durable {:?}",
                    self.byte(i),
                    self.durable.get(i)
                ));
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn a_file_reads_as_written_and_a_power_loss_takes_only_what_it_may(
        steps in prop::collection::vec(step(), 1..25),
        seed in any::<u64>(),
        at in (0..END, 0..6_000_usize),
    ) {
        let (mut content, mut model) = (Content::default(), Model::default());
        for step in &steps {
            match *step {
                Step::Write { offset, len, byte } => content.write(&vec![byte; len], offset),
                Step::SetLen(len) => content.set_len(len),
                Step::Sync => content.sync(),
                Step::SyncInPart(seed) => content.sync_in_part(&mut Rng::new(seed, 0)),
                Step::FailSync => content.fail_sync(SyncLoss::NothingLost),
            }
            model.apply(step);
            prop_assert_eq!(&content.bytes(), &model.live);
            for stream in 0..4 {
                let image = content.power_loss(&mut Rng::new(seed, stream));
                prop_assert_eq!(model.allows(&image.bytes()), Ok(()), "after {:?}", step);
                prop_assert!(image.is_durable());
            }
            prop_assert_eq!(model.allows(&content.durable_bytes()), Ok(()));
        }
        let mut buf = vec![9; at.1];
        let n = content.read(&mut buf, at.0);
        let start = usize::try_from(at.0).unwrap().min(model.live.len());
        prop_assert_eq!(&buf[..n], &model.live[start..(start + at.1).min(model.live.len())]);
        content.sync();
        prop_assert!(content.is_durable());
        prop_assert_eq!(content.power_loss(&mut Rng::new(seed, 9)).bytes(), model.live);
    }
}

#[test]
fn zero_filled_regions_cost_nothing() {
    let mut content = Content::default();
    let zeroes = vec![0; 64 * 1024];
    for i in 0..1_024 {
        content.write(&zeroes, i * 64 * 1024);
    }
    content.write(b"frame", 4096);
    assert_eq!((content.len(), content.pages.len(), content.unsynced.len()), (64 << 20, 1, 1));
    content.write(&[0; PAGE_BYTES], 4096);
    content.sync();
    assert_eq!((content.pages.len(), content.unsynced.len()), (0, 0));
}

#[test]
fn an_image_shares_its_pages() {
    let mut content = Content::durable(&vec![1; 10 * PAGE_BYTES]);
    content.write(&[2], 0);
    let image = content.power_loss(&mut Rng::new(1, 1));
    let shared = content.pages.iter().filter(|(number, page)| Arc::ptr_eq(page, &image.pages[*number]));
    assert!(shared.count() >= 9);
}

#[test]
fn a_flipped_byte_is_flipped_on_the_disk_too() {
    let mut content = Content::durable(&[1; 100]);
    content.write(&[2], 50);
    content.flip(50, 0x80);
    content.flip(51, 0x80);
    assert_eq!(content.bytes()[50..52], [0x82, 0x81]);
    assert_eq!(content.durable_bytes()[50..52], [0x81, 0x81]);
}
