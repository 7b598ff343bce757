//! What is claimed of the scheduling, shown in the model world. Each test prints what it saw.

use std::time::Duration;

use super::{
    super::budget::BURST,
    Plan, Shard, Wish, World,
    device::{CLOUD, DEVICES, HDD, MIB, NVME, SATA},
};
use crate::node::env::{Clock, SystemClock};

/// More than any of these devices bears.
fn overload(_: f64, _: usize, shards: usize) -> Wish {
    Wish { write: 400.0 * MIB / shards as f64, syncs: false }
}

#[test]
fn no_window_has_more_than_the_budget_and_a_burst() {
    for (device, budget) in
        [(HDD, 20_000_000_u64), (SATA, 20_000_000), (NVME, 400_000_000), (CLOUD, 50_000_000)]
    {
        let world = World::run(Plan { budget: Some(budget), seconds: 120, ..Plan::new(device, overload) });
        for window in [Duration::from_millis(10), BURST, Duration::from_secs(1), Duration::from_secs(10)] {
            let allowed = budget as f64 * (window + BURST).as_secs_f64();
            let (mut sum, mut first, mut most) = (0, 0, 0);
            for (at, bytes) in &world.payments {
                sum += bytes;
                while world.payments[first].0 + window < *at {
                    sum -= world.payments[first].1;
                    first += 1;
                }
                most = most.max(sum);
            }
            println!(
                "{}, {budget} bytes/s: at most {most} in {window:?}, {allowed} are allowed",
                device.name
            );
            assert!(most as f64 <= allowed + 1.0);
        }
        let paid: u64 = world.payments.iter().map(|(_, bytes)| bytes).sum();
        assert!(paid as f64 > budget as f64 * 100.0, "the budget is there to be used: {paid} bytes");
        println!("  the longest that a flush waited for its next piece: {:?}", world.longest_flush_wait);
        assert!(world.longest_flush_wait <= Duration::from_millis(50));
    }
}

#[test]
fn writers_in_overload_go_at_a_constant_rate_and_nobody_stops() {
    // On the slow ones a compaction takes half a minute, and what it brings down is felt.
    for (device, bound) in [(HDD, 0.3), (SATA, 0.05), (NVME, 0.05), (CLOUD, 0.3)] {
        let world = World::run(Plan { seconds: 600, ..Plan::new(device, overload) });
        let (mean, swing) = world.swing(300);
        println!(
            "{}: {:.1} MiB/s, ten seconds differ by up to {:.1} %, full for {:.2} s",
            device.name,
            mean / MIB,
            swing * 100.0,
            world.full_seconds()
        );
        world.keep("overload");
        assert!(swing <= bound);
        assert!(world.full_seconds() < 0.1, "{} s", world.full_seconds());
        let worst = world.seconds[300..].iter().map(|second| second.backlog).fold(0.0, f64::max);
        assert!(worst < 3.0, "the backlog is bounded, and was {worst}");
    }
}

#[test]
fn a_hot_shard_gets_what_the_others_do_not_use_and_slows_down_nobody_else() {
    fn hot(_: f64, shard: usize, _: usize) -> Wish {
        Wish { write: if shard == 0 { 400.0 } else { 0.5 } * MIB, syncs: false }
    }
    fn alone(_: f64, shard: usize, _: usize) -> Wish {
        Wish { write: if shard == 0 { 400.0 * MIB } else { 0.0 }, syncs: false }
    }
    let run = |load| World::run(Plan { seconds: 300, ..Plan::new(SATA, load) });
    let first =
        |world: &World| world.seconds[150..].iter().map(|second| second.added_to_first).sum::<f64>() / 150.0;
    let (hot, alone) = (run(hot), run(alone));
    let others =
        hot.seconds[150..].iter().map(|second| second.added - second.added_to_first).sum::<f64>() / 150.0;
    println!(
        "the hot shard: {:.1} MiB/s beside {:.2}, {:.1} alone",
        first(&hot) / MIB,
        others / MIB,
        first(&alone) / MIB
    );
    hot.keep("hot-shard");
    assert!(hot.slowed[0] && !hot.slowed[1..].contains(&true), "{:?}", hot.slowed);
    assert!(others >= 1.49 * MIB, "three shards want half a mebibyte each");
    assert!(first(&hot) > 0.8 * first(&alone));
}

#[test]
fn after_an_overload_and_a_rest_writers_go_as_fast_as_ever() {
    fn twice(seconds: f64, _: usize, shards: usize) -> Wish {
        let is_on = !(120.0..300.0).contains(&seconds);
        Wish { write: if is_on { 400.0 * MIB / shards as f64 } else { 0.0 }, syncs: false }
    }
    for device in [SATA, NVME] {
        let world = World::run(Plan { seconds: 310, ..Plan::new(device, twice) });
        let (first, again) = (world.seconds[1].added, world.seconds[301].added);
        println!(
            "{}: {:.0} MiB in the second second, {:.0} after the rest",
            device.name,
            first / MIB,
            again / MIB
        );
        assert!(again > 0.5 * first, "compactions that are left over may take a part");
    }
}

#[test]
fn no_shard_starves_from_1_to_4096() {
    /// Half of all goes to one shard.
    fn uneven(_: f64, shard: usize, shards: usize) -> Wish {
        let part = if shard == 0 { 0.5 } else { 0.5 / (shards as f64 - 1.0) };
        Wish { write: 200.0 * MIB * part, syncs: false }
    }
    for (shards, step) in [(1, 2), (16, 2), (256, 5), (4096, 10)] {
        let mut world = World::run(Plan {
            shards,
            memory: (shards as f64 * 0.25).max(64.0) * MIB,
            seconds: 120,
            step: Duration::from_millis(step),
            first_l0_tables: 16,
            ..Plan::new(NVME, uneven)
        });
        println!(
            "{shards} shards: a compaction was due for {:?} at the longest, the longest one took {:?}; full for {:.2} s",
            world.longest_due(),
            world.longest_job,
            world.full_seconds()
        );
        // All were due at once in the beginning, and each was served in about the time that all their work takes.
        let bound = world.work_seconds / world.plan.compaction_workers as f64;
        let bound = Duration::from_secs_f64(bound.min(60.0) * 0.75);
        assert!(world.longest_due() < bound, "more than {bound:?}");
        assert!(world.shards.iter().all(Shard::has_compacted));
        let clock = SystemClock::new();
        let took = |look: &mut dyn FnMut()| {
            let began = clock.monotonic();
            (0..100).for_each(|_| look());
            clock.monotonic().saturating_sub(began) / 100
        };
        let now = Duration::from_secs(119);
        let (schedule, throttle) = (took(&mut || world.schedule(now)), took(&mut || world.throttle(now)));
        println!("  a look at all of them: {schedule:?} to schedule, {throttle:?} to throttle");
    }
}

#[test]
fn auto_backs_off_where_the_foreground_suffers_and_gives_everything_where_nobody_does() {
    /// A load that is there all the time, and somebody who syncs for a minute.
    fn synced_for_a_minute(seconds: f64, _: usize, shards: usize) -> Wish {
        Wish { write: 40.0 * MIB / shards as f64, syncs: (60.0..120.0).contains(&seconds) }
    }
    for device in DEVICES {
        let world = World::run(Plan { seconds: 180, ..Plan::new(device, synced_for_a_minute) });
        world.keep("auto");
        let limited = |from: u64, to: u64| {
            let within = |at: &Duration| (from..to).contains(&at.as_secs());
            let seen: Vec<_> = world.rates.iter().filter(|(at, _)| within(at)).collect();
            seen.iter().filter(|(_, rate)| rate.is_some()).count() as f64 / seen.len() as f64
        };
        let mean = |from: usize, to: usize| {
            let bytes = world.seconds[from..to].iter().map(|second| second.paid);
            bytes.sum::<f64>() / (to - from) as f64 / MIB
        };
        println!(
            "{}: held back {:.0} / {:.0} / {:.0} % of the time, {:.0} / {:.0} / {:.0} MiB/s, worst sync {:.1} ms",
            device.name,
            limited(0, 60) * 100.0,
            limited(60, 120) * 100.0,
            limited(125, 180) * 100.0,
            mean(0, 60),
            mean(60, 120),
            mean(125, 180),
            world.seconds.iter().map(|second| second.worst_sync).fold(0.0, f64::max) * 1e3,
        );
        let backed_off = world.rates.iter().find(|(_, rate)| rate.is_some()).map(|(at, _)| *at);
        println!("  held back for the first time at {backed_off:?}");
        assert!(limited(0, 60) < 1e-9, "nobody suffered");
        if [SATA.name, CLOUD.name].contains(&device.name) {
            // A pause of 100 ms in which it learns what is best, and 100 ms more.
            assert!(backed_off.unwrap() <= Duration::from_millis(60_250));
        }
        assert!(limited(125, 180) < 0.2, "nobody suffers any more");
        assert!(world.full_seconds() < 0.1);
    }
}
