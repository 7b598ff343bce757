//! What the picker chooses, case by case, and that no sequence of its choices breaks the order of the levels.

use std::collections::BTreeMap;

use super::*;
use crate::{ids::Level, tree::edit::tests::record};
use proptest::{
    collection::vec,
    prelude::{ProptestConfig, any, prop_assert, proptest},
};

const OPTIONS: PickerOptions = PickerOptions {
    strategy: Strategy::Leveled,
    l0_trigger: 2,
    tiered_trigger: 3,
    at_rest: false,
    flush_bytes: 600,
};
const ALL: Watermark = Watermark { oldest_snapshot: SeqNo(1_000_000), now_ms: 100 };

fn table(level: Level, file: u64, min: &str, max: &str) -> Arc<TableRecord> {
    Arc::new(record(level, file, min, max))
}

fn in_run(run: u64, file: u64, min: &str, max: &str) -> Arc<TableRecord> {
    Arc::new(TableRecord { run, ..record(Level::L1, file, min, max) })
}

fn choose_from(levels: &Levels, busy: &[u64], options: PickerOptions) -> Option<Choice> {
    let busy = busy.iter().map(|file| FileNumber(*file)).collect();
    pick(&Situation { levels, busy: &busy, writing_l2: &[], watermark: ALL, options })
}

fn files(choice: &Choice) -> Vec<u64> {
    let mut files: Vec<_> = choice.inputs.iter().map(|table| table.file.0).collect();
    files.sort_unstable();
    files
}

#[test]
fn nothing_is_due_below_the_triggers() {
    let levels = Levels {
        l0: vec![table(Level::L0, 3, "a", "z")],
        l1: vec![vec![table(Level::L1, 2, "a", "z")]],
        l2: vec![table(Level::L2, 1, "a", "z")],
    };
    assert_eq!(choose_from(&levels, &[], OPTIONS), None);
    assert_eq!(score_permille(&levels, &OPTIONS), 416, "L1 has 1000 of 2400 bytes");
    assert_eq!(debt_bytes(&levels, &OPTIONS), 0);
}

#[test]
fn l0_takes_what_it_overlaps_of_l1() {
    let levels = Levels {
        l0: vec![table(Level::L0, 5, "a", "f"), table(Level::L0, 4, "e", "m")],
        l1: vec![vec![table(Level::L1, 2, "b", "e"), table(Level::L1, 3, "x", "z")]],
        l2: vec![table(Level::L2, 1, "a", "z")],
    };
    assert_eq!(choose_from(&levels, &[], OPTIONS), None, "they bring less than would be rewritten for them");
    let at_rest = PickerOptions { at_rest: true, ..OPTIONS };
    assert!(choose_from(&levels, &[], at_rest).is_some(), "there is time for it");
    let mut levels = levels;
    levels.l0.insert(0, table(Level::L0, 7, "a", "c"));
    levels.l0.insert(0, table(Level::L0, 8, "a", "b"));
    let choice = choose_from(&levels, &[], OPTIONS).unwrap();
    assert_eq!((files(&choice), choice.from, choice.target), (vec![2, 4, 5, 7, 8], Level::L0, Level::L1));
    assert!(!choice.is_move && choice.score_permille >= DUE_PERMILLE);
    assert!(debt_bytes(&levels, &OPTIONS) > 0);
    assert_eq!(choose_from(&levels, &[2], OPTIONS), None, "what it needs is taken");
    assert_eq!(choose_from(&levels, &[5], OPTIONS), None, "one compaction of L0 at a time");
}

#[test]
fn l0_waits_for_three_times_its_trigger_at_most() {
    let large = TableRecord { file_bytes: 1_000_000, ..record(Level::L1, 2, "a", "z") };
    let with = |l0: u64| Levels {
        l0: (0..l0).rev().map(|number| table(Level::L0, 10 + number, "a", "z")).collect(),
        l1: vec![vec![Arc::new(large.clone())]],
        l2: vec![Arc::new(TableRecord { file_bytes: 1 << 40, ..record(Level::L2, 1, "a", "z") })],
    };
    for (l0, due) in [(2, false), (5, false), (6, true)] {
        let levels = with(l0);
        assert_eq!(choose_from(&levels, &[], OPTIONS).is_some(), due, "{l0} tables in L0");
        assert_eq!(score_permille(&levels, &OPTIONS) >= DUE_PERMILLE, due, "{l0} tables in L0");
    }
}

#[test]
fn l1_goes_down_before_more_is_merged_into_it() {
    let l1 = ["a", "d", "g", "j"].iter().enumerate();
    let levels = Levels {
        l0: (0..40).rev().map(|number| table(Level::L0, 20 + number, "a", "z")).collect(),
        l1: vec![l1.map(|(number, min)| table(Level::L1, 5 + number as u64, min, min)).collect()],
        l2: vec![table(Level::L2, 1, "a", "z")],
    };
    let choice = choose_from(&levels, &[], OPTIONS).unwrap();
    assert_eq!((choice.from, choice.target), (Level::L1, Level::L2));
    let mut levels = levels;
    levels.l1[0].truncate(2);
    assert_eq!(choose_from(&levels, &[], OPTIONS).unwrap().from, Level::L0, "L1 is small enough again");
}

#[test]
fn tables_that_overlap_nothing_move_oldest_first() {
    let levels = Levels {
        l0: vec![table(Level::L0, 5, "e", "f"), table(Level::L0, 4, "c", "d"), table(Level::L0, 3, "c", "d")],
        l1: vec![vec![table(Level::L1, 2, "a", "b")]],
        l2: vec![],
    };
    let choice = choose_from(&levels, &[], OPTIONS).unwrap();
    assert!(choice.is_move);
    assert_eq!(files(&choice), [3], "4 overlaps 3, and 5 is newer than 4");
}

#[test]
fn the_l1_table_with_the_least_overlap_goes_down() {
    let big = |file, min: &str, max: &str| {
        Arc::new(TableRecord { file_bytes: 1500, ..record(Level::L1, file, min, max) })
    };
    let l1 = vec![big(4, "a", "c"), big(5, "d", "f"), big(6, "g", "i")];
    let l2 =
        vec![table(Level::L2, 1, "a", "b"), table(Level::L2, 2, "c", "e"), table(Level::L2, 3, "h", "k")];
    let levels = Levels { l0: vec![], l1: vec![l1], l2 };
    let choice = choose_from(&levels, &[], OPTIONS).unwrap();
    assert_eq!((files(&choice), choice.target), (vec![2, 5], Level::L2));
    let choice = choose_from(&levels, &[2], OPTIONS).unwrap();
    assert_eq!(files(&choice), [3, 6], "the others need what is taken");
}

#[test]
fn a_move_into_the_last_level_takes_no_tombstones_along() {
    let with = |tombstones| {
        let upper = TableRecord { file_bytes: 5000, tombstones, ..record(Level::L1, 4, "a", "c") };
        Levels { l0: vec![], l1: vec![vec![Arc::new(upper)]], l2: vec![table(Level::L2, 1, "x", "y")] }
    };
    assert!(choose_from(&with(0), &[], OPTIONS).unwrap().is_move);
    let merged = choose_from(&with(1), &[], OPTIONS).unwrap();
    assert!(!merged.is_move);
    assert_eq!(files(&merged), [4]);
}

#[test]
fn dead_weight_is_rewritten_when_nobody_needs_it() {
    let l2 = Arc::new(TableRecord { tombstones: 1, ..record(Level::L2, 7, "a", "c") });
    let expired = TableRecord { expiring: 6, expiry_parts: [90; 8], ..record(Level::L2, 8, "d", "e") };
    let levels = Levels { l0: vec![], l1: vec![], l2: vec![l2, Arc::new(expired)] };
    let choose = |watermark| {
        pick(&Situation {
            levels: &levels,
            busy: &HashSet::new(),
            writing_l2: &[],
            watermark,
            options: OPTIONS,
        })
    };
    assert_eq!(files(&choose(ALL).unwrap()), [7]);
    assert_eq!(choose(Watermark { oldest_snapshot: SeqNo(6), ..ALL }), None, "a snapshot needs both");
    let some = choose(Watermark { oldest_snapshot: SeqNo(6), now_ms: 0 });
    assert_eq!(some, None);
    assert_eq!(levels.garbage_tables(), 2);
}

#[test]
fn what_a_snapshot_kept_goes_after_it() {
    let with = |superseded| {
        let table = TableRecord { superseded, entries: 100, ..record(Level::L2, 7, "a", "c") };
        Levels { l0: vec![], l1: vec![], l2: vec![Arc::new(table)] }
    };
    let (held, free) = (Watermark { oldest_snapshot: SeqNo(6), ..ALL }, ALL);
    for (superseded, watermark, by_itself, asked) in
        [(0, free, false, false), (9, free, false, true), (10, free, true, true), (10, held, false, false)]
    {
        let levels = with(superseded);
        let busy = HashSet::new();
        let situation =
            Situation { levels: &levels, busy: &busy, writing_l2: &[], watermark, options: OPTIONS };
        assert_eq!(pick(&situation).is_some(), by_itself, "{superseded} {watermark:?}");
        let full = pick_full(&situation, &KeyRange::all(), FullBound::NONE);
        assert_eq!(full != FullChoice::Nothing, asked, "{superseded} {watermark:?}");
    }
}

#[test]
fn a_range_that_is_being_written_in_l2_is_left_alone() {
    // The running compaction's inputs leave a gap from c to p, but its outputs may span it.
    let levels = Levels {
        l0: vec![],
        l1: vec![vec![Arc::new(TableRecord { file_bytes: 5000, ..record(Level::L1, 4, "f", "g") })]],
        l2: vec![],
    };
    let span = [(Bytes::from_static(b"a"), Bytes::from_static(b"q"))];
    let situation = Situation {
        levels: &levels,
        busy: &HashSet::new(),
        writing_l2: &span,
        watermark: ALL,
        options: OPTIONS,
    };
    assert_eq!(pick(&situation), None);
    assert_eq!(pick_full(&situation, &KeyRange::all(), before(9)), FullChoice::Busy);
    assert_eq!(pick_full(&situation, &KeyRange::all(), before(4)), FullChoice::Nothing);
    assert!(pick(&Situation { writing_l2: &[], ..situation }).is_some());
}

#[test]
fn size_tiered_makes_runs_of_the_oldest_tables_and_merges_the_oldest_runs() {
    let options = PickerOptions { strategy: Strategy::SizeTiered, ..OPTIONS };
    let l0: Vec<_> = (10..14).rev().map(|file| table(Level::L0, file, "a", "z")).collect();
    let levels = Levels { l0, l1: vec![], l2: vec![] };
    let choice = choose_from(&levels, &[], options).unwrap();
    assert_eq!((files(&choice), choice.run), (vec![10, 11, 12], TargetRun::New));
    let runs = (5..9).rev().map(|file| vec![in_run(file, file, "a", "m")]).collect();
    let levels = Levels {
        l0: vec![],
        l1: runs,
        l2: vec![table(Level::L2, 1, "b", "c"), table(Level::L2, 2, "x", "z")],
    };
    let choice = choose_from(&levels, &[], options).unwrap();
    assert_eq!((files(&choice), choice.target), (vec![1, 5, 6, 7], Level::L2));
    // Under the leveled strategy the same runs go down at once.
    assert_eq!(files(&choose_from(&levels, &[], OPTIONS).unwrap()), [1, 5, 6, 7, 8]);
}

/// Before the table of this number and all that follow was written; a table's sequence number is its file's here.
fn before(file: u64) -> FullBound {
    FullBound { end: FileNumber(file), flushed: SeqNo(file - 1) }
}

#[test]
fn what_was_merged_meanwhile_into_newer_tables_still_goes_down() {
    // 3 and 4 were in L0 at the bound; a compaction that ran wrote them to 7. 8 was flushed later.
    let merged = Arc::new(TableRecord { min_seqno: SeqNo(3), ..record(Level::L1, 7, "a", "m") });
    let levels = Levels { l0: vec![table(Level::L0, 8, "x", "z")], l1: vec![vec![merged]], l2: vec![] };
    let FullChoice::Compact(choice) = full_of(&levels, &[], &KeyRange::all(), 5) else {
        panic!("7 is meant")
    };
    assert_eq!(files(&choice), [7, 8]);
    let levels = Levels { l0: levels.l0, l1: vec![], l2: vec![table(Level::L2, 9, "a", "m")] };
    assert_eq!(full_of(&levels, &[], &KeyRange::all(), 5), FullChoice::Nothing);
}

fn full_of(levels: &Levels, busy: &[u64], range: &KeyRange, end: u64) -> FullChoice {
    let busy = busy.iter().map(|file| FileNumber(*file)).collect();
    let situation = Situation { levels, busy: &busy, writing_l2: &[], watermark: ALL, options: OPTIONS };
    pick_full(&situation, range, before(end))
}

#[test]
fn a_full_compaction_takes_everything_that_hangs_together() {
    let levels = Levels {
        l0: vec![table(Level::L0, 9, "a", "d"), table(Level::L0, 8, "x", "z")],
        l1: vec![vec![table(Level::L1, 5, "c", "f"), table(Level::L1, 6, "k", "l")]],
        l2: vec![table(Level::L2, 1, "f", "g"), table(Level::L2, 2, "h", "i")],
    };
    let full = |busy: &[u64], range: KeyRange| full_of(&levels, busy, &range, 10);
    let FullChoice::Compact(choice) = full(&[], KeyRange::from("a".."b")) else { panic!("nothing") };
    assert_eq!(files(&choice), [1, 5, 9]);
    assert_eq!(full(&[5], KeyRange::from("a".."b")), FullChoice::Busy);
    assert_eq!(full(&[], KeyRange::from("h".."i")), FullChoice::Nothing);
}

#[test]
fn a_full_compaction_rewrites_what_the_last_level_could_drop_table_by_table() {
    let garbage = |file, min: &str, max: &str| {
        Arc::new(TableRecord { tombstones: 1, ..record(Level::L2, file, min, max) })
    };
    // What lies between the first and the last is no garbage; their outputs together would overlap it.
    let l2 = vec![garbage(7, "a", "b"), table(Level::L2, 2, "c", "d"), garbage(3, "e", "f")];
    let mut levels = Levels { l0: vec![], l1: vec![], l2 };
    let chosen = |levels: &Levels, busy: &[u64], end| match full_of(levels, busy, &KeyRange::all(), end) {
        FullChoice::Compact(choice) => files(&choice),
        FullChoice::Busy => vec![0],
        FullChoice::Nothing => vec![],
    };
    assert_eq!(chosen(&levels, &[], 10), [7]);
    assert_eq!(chosen(&levels, &[7], 10), [3], "one that is taken keeps nobody from the other");
    assert_eq!(chosen(&levels, &[7, 3], 10), [0]);
    assert_eq!(chosen(&levels, &[], 7), [3], "what is newer than the call does not hide what is older");
    assert_eq!(chosen(&levels, &[], 3), [0; 0], "what is rewritten is not rewritten again");
    assert_eq!(chosen(&levels, &[7], 3), [0; 0], "nobody waits for what is not meant");
    levels.l0 = vec![table(Level::L0, 8, "a", "b")];
    assert_eq!(chosen(&levels, &[], 7), [3]);
    assert_eq!(chosen(&levels, &[], 8), [7, 8]);
}

/// A tree of plain data: what is in each table, and the rules that every install must keep.
#[derive(Default)]
struct Model {
    contents: BTreeMap<u64, Vec<(u8, u64)>>,
    levels: Levels,
    next_file: u64,
    seqno: u64,
}

impl Model {
    fn table(&mut self, level: Level, run: u64, entries: Vec<(u8, u64)>) -> Arc<TableRecord> {
        self.next_file += 1;
        let (min, max) = (entries.first().unwrap().0, entries.last().unwrap().0);
        let seqnos = || entries.iter().map(|(_, seqno)| SeqNo(*seqno));
        let record = TableRecord {
            run,
            min_key: Bytes::copy_from_slice(&[min]),
            max_key: Bytes::copy_from_slice(&[max]),
            min_seqno: seqnos().min().unwrap(),
            max_seqno: seqnos().max().unwrap(),
            file_bytes: 100 * entries.len() as u64,
            ..record(level, self.next_file, "", "")
        };
        self.contents.insert(self.next_file, entries);
        Arc::new(record)
    }

    fn flush(&mut self, keys: &[u8]) {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let entries = keys.into_iter().map(|key| {
            self.seqno += 1;
            (key, self.seqno)
        });
        let entries = entries.collect();
        let table = self.table(Level::L0, 0, entries);
        self.levels.l0.insert(0, table);
    }

    /// Takes a finished compaction: all versions are kept, so that the order can be checked.
    fn install(&mut self, choice: &Choice) {
        let gone = |table: &Arc<TableRecord>| choice.inputs.iter().any(|input| input.file == table.file);
        let run = match choice.run {
            TargetRun::Existing(run) => run,
            TargetRun::New => {
                self.next_file += 1;
                self.next_file
            }
        };
        let mut outputs = vec![];
        if choice.is_move {
            outputs.extend(choice.inputs.iter().map(|table| {
                Arc::new(TableRecord { level: choice.target, run, ..TableRecord::clone(table) })
            }));
        } else {
            let contents = choice.inputs.iter().flat_map(|table| self.contents[&table.file.0].clone());
            let mut entries: Vec<_> = contents.collect();
            let is_sent_down = choice.target == Level::L2 && choice.from != Level::L2;
            entries.sort_by_key(|(key, seqno)| (*key, u64::MAX - seqno));
            while !entries.is_empty() {
                let mut end = entries.len().min(if self.next_file.is_multiple_of(2) { 6 } else { 4 });
                while end < entries.len() && entries[end].0 == entries[end - 1].0 {
                    end += 1;
                }
                let rest = entries.split_off(end);
                // Every other table that comes down has tombstones left, as if for a snapshot that is gone since.
                let tombstones = u64::from(is_sent_down && outputs.len() % 2 == 0);
                let output = self.table(choice.target, run, entries);
                outputs.push(Arc::new(TableRecord { tombstones, ..TableRecord::clone(&output) }));
                entries = rest;
            }
        }
        self.levels.l0.retain(|table| !gone(table));
        self.levels.l2.retain(|table| !gone(table));
        self.levels.l1.iter_mut().for_each(|run| run.retain(|table| !gone(table)));
        match choice.target {
            Level::L2 => self.levels.l2.extend(outputs),
            _ => {
                match self.levels.l1.iter_mut().find(|tables| tables.first().is_some_and(|t| t.run == run)) {
                    Some(tables) => tables.extend(outputs),
                    None => self.levels.l1.insert(0, outputs),
                }
            }
        }
        self.levels.l1.retain(|run| !run.is_empty());
        for run in self.levels.l1.iter_mut().chain([&mut self.levels.l2]) {
            run.sort_by(|a, b| a.min_key.cmp(&b.min_key));
        }
        self.levels.l1.sort_by_key(|run| u64::MAX - run[0].run);
    }

    /// Runs do not overlap, and walking down from the newest, each key's versions only get older.
    fn check(&self) {
        for run in self.levels.l1.iter().chain([&self.levels.l2]) {
            assert!(are_disjoint(run), "{run:?}");
        }
        let mut seen = BTreeMap::new();
        let l0 = self.levels.l0.iter().map(std::slice::from_ref);
        let runs = self.levels.l1.iter().chain([&self.levels.l2]).map(|run| &run[..]);
        for tables in l0.chain(runs) {
            for (key, seqno) in tables.iter().flat_map(|table| &self.contents[&table.file.0]) {
                if let Some(above) = seen.insert(*key, *seqno) {
                    assert!(above > *seqno, "key {key} at {seqno} lies below {above}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_order_of_flushes_and_parallel_compactions_breaks_the_levels(
        steps in vec((0u8..10, vec(0u8..40, 1..8)), 1..80),
        switch in any::<bool>(),
    ) {
        let mut model = Model::default();
        let mut running: Vec<Choice> = vec![];
        let mut options = PickerOptions { flush_bytes: 150, ..OPTIONS };
        for (at, (step, keys)) in steps.iter().enumerate() {
            if switch && at % 20 == 0 {
                let tiered = options.strategy == Strategy::SizeTiered;
                options.strategy = if tiered { Strategy::Leveled } else { Strategy::SizeTiered };
            }
            match step {
                0..=3 => model.flush(keys),
                4 if !running.is_empty() => {
                    let done = running.swap_remove(keys[0] as usize % running.len());
                    model.install(&done);
                }
                _ => {
                    let busy = running.iter().flat_map(|c| c.inputs.iter().map(|t| t.file)).collect();
                    let into_l2 = running.iter().filter(|choice| choice.target == Level::L2);
                    let spans: Vec<_> = into_l2.filter_map(|choice| span_of(&choice.inputs)).collect();
                    let situation = Situation {
                        levels: &model.levels, busy: &busy, writing_l2: &spans, watermark: ALL, options,
                    };
                    let range = KeyRange::from([*keys.iter().min().unwrap()]..=[*keys.iter().max().unwrap()]);
                    let choice = if *step == 9 {
                        match pick_full(&situation, &range, FullBound::NONE) {
                            FullChoice::Compact(choice) => Some(choice),
                            _ => None,
                        }
                    } else {
                        pick(&situation)
                    };
                    running.extend(choice);
                }
            }
            model.check();
        }
        // What is left comes to rest.
        for choice in running {
            model.install(&choice);
        }
        for _ in 0..1000 {
            match choose_from(&model.levels, &[], options) {
                Some(choice) => model.install(&choice),
                None => break,
            }
            model.check();
        }
        prop_assert!(choose_from(&model.levels, &[], options).is_none(), "it never settles");
    }
}
