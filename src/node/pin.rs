//! Pinning a shard's thread to a core.

/// Pins the calling thread to core `index`, modulo the cores there are. Failing is logged and otherwise harmless.
pub(super) fn pin_this_thread(index: usize) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut set = rustix::thread::CpuSet::new();
    set.set(index % cores);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(shard = index, error = %error, "cannot pin the shard's thread to a core");
    }
}
