//! The priorities of threads, as the system has them.
//!
//! On Linux the lowest is the policy `SCHED_IDLE`, and not only a high `nice`: besides the smallest share of a core it makes
//! the scheduler take a core on which nothing else runs for a free one. With `nice` 19 it does not, and has two writers
//! share one core for tens of milliseconds while a compaction has the other.
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "two system calls that rustix does not have"))]

use super::env::Priority;

/// Gives the calling thread a priority, where a thread has one of its own. Without privileges it can't be raised again.
pub(super) fn take_priority(priority: Priority) {
    #[cfg(target_os = "linux")]
    if let Err(error) = linux::take_priority(priority) {
        tracing::debug!(?priority, error = %error, "a thread that is to have another priority keeps its own");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = priority;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use super::Priority;

    /// By how much lower than the process's, as `nice` counts: where such a thread and one of `nice` 0 want the same core, it
    /// gets a tenth.
    const LOW_NICE: i32 = 10;
    /// For where the policy is refused, as some sandboxes do; and people see it in `top`.
    const LOWEST_NICE: i32 = 19;
    /// As the kernel's `IOPRIO_PRIO_VALUE` has it: best effort, the last of its eight levels.
    pub(super) const LAST_BEST_EFFORT: libc::c_int = 2 << 13 | 7;
    pub(super) const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    /// Stands for the calling thread.
    pub(super) const OWN: libc::pid_t = 0;

    pub(super) fn take_priority(priority: Priority) -> io::Result<()> {
        match priority {
            Priority::Normal => Ok(()),
            Priority::Low => Ok(rustix::process::nice(LOW_NICE).map(drop)?),
            Priority::Lowest => {
                rustix::process::nice(LOWEST_NICE)?;
                // IMPORTANT: first. A thread of that policy has its reads behind all others of the machine unless it says
                // otherwise, for as long as there are others.
                keep_io_priority()?;
                take_idle_policy()
            }
        }
    }

    pub(super) fn keep_io_priority() -> io::Result<()> {
        // SAFETY: the call takes three numbers, and touches no memory of ours.
        let done = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, OWN, LAST_BEST_EFFORT) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn take_idle_policy() -> io::Result<()> {
        // What the kernel's `sched_param` is: this policy has no priorities.
        let priority: libc::c_int = 0;
        // SAFETY: the call reads the priority, which lives until it returns. NOTE: not libc's function, which does nothing in
        // musl.
        let done = unsafe {
            libc::syscall(libc::SYS_sched_setscheduler, OWN, libc::SCHED_IDLE, &raw const priority)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// The calling thread's `nice` and its scheduling policy, as the system tells them.
    fn own() -> (i32, i32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // Behind the name, which may hold anything, the third field is the first.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[19 - 3].parse().unwrap(), fields[41 - 3].parse().unwrap())
    }

    fn own_io_priority() -> i64 {
        // SAFETY: the call takes two numbers, and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_ioprio_get, linux::IOPRIO_WHO_PROCESS, linux::OWN) }
    }

    /// Whether the system lets a thread have that priority: some sandboxes do not.
    fn is_refused() -> bool {
        std::thread::spawn(|| linux::keep_io_priority().and(linux::take_idle_policy()).is_err())
            .join()
            .unwrap()
    }

    #[test]
    fn a_thread_takes_its_own_priority_and_changes_nobody_elses() {
        let (nice, policy) = own();
        let taken = |priority| {
            let thread = std::thread::spawn(move || {
                take_priority(priority);
                (own(), own_io_priority())
            });
            thread.join().unwrap()
        };
        assert_eq!(taken(Priority::Normal), ((nice, policy), own_io_priority()));
        assert_eq!(taken(Priority::Low).0, ((nice + 10).min(19), policy));
        let (lowest, io) = taken(Priority::Lowest);
        if is_refused() {
            assert_eq!(lowest.0, 19);
        } else {
            assert_eq!((lowest, io), ((19, libc::SCHED_IDLE), i64::from(linux::LAST_BEST_EFFORT)));
        }
        assert_eq!(own(), (nice, policy));
    }
}
