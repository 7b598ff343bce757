//! Locks that are held while their holder waits for the disk. Who wants one waits as [`block_on`] does, so that in a
//! simulation the holder goes on meanwhile.

use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::block_on;

/// A mutex that is held over reads, writes and syncs.
#[derive(Debug, Default)]
pub struct SlowMutex<T>(Mutex<T>);

impl<T> SlowMutex<T> {
    /// A mutex that nobody holds.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Takes it, in the order of asking.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.try_lock().unwrap_or_else(|_| block_on(self.0.lock()))
    }

    /// Whether nobody holds it.
    pub fn is_free(&self) -> bool {
        self.0.try_lock().is_ok()
    }
}

/// The same for many at once, or for one alone.
#[derive(Debug, Default)]
pub struct SlowRwLock<T>(RwLock<T>);

impl<T> SlowRwLock<T> {
    /// Takes it, beside others. Not twice by one thread: somebody may wait between who wants it alone.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.try_read().unwrap_or_else(|_| block_on(self.0.read()))
    }

    /// Takes it, alone.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.try_write().unwrap_or_else(|_| block_on(self.0.write()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One put in so many is made by a task that has had its share; what it waits for must come all the same.
    #[test]
    fn a_task_that_has_had_its_share_of_the_runtime_gets_a_lock_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mutex = std::sync::Arc::new(SlowMutex::new(1));
        let held = mutex.lock();
        let (asks, asked) = flume::bounded(1);
        let theirs = std::sync::Arc::clone(&mutex);
        let waits = std::thread::spawn(move || {
            runtime.block_on(async move {
                let share = tokio::sync::Semaphore::new(1);
                while tokio::task::coop::has_budget_remaining() {
                    drop(share.acquire().await);
                }
                asks.send(()).unwrap();
                *theirs.lock()
            })
        });
        asked.recv().unwrap();
        (0..1000).for_each(|_| std::thread::yield_now());
        drop(held);
        assert_eq!(waits.join().unwrap(), 1);
    }

    #[test]
    fn who_comes_while_it_is_held_gets_it_afterwards() {
        let (mutex, lock) = (SlowMutex::new(1), SlowRwLock::<u8>::default());
        std::thread::scope(|scope| {
            let (mut held, alone) = (mutex.lock(), lock.write());
            assert!(!mutex.is_free());
            let waits = scope.spawn(|| (*mutex.lock(), *lock.read()));
            *held = 2;
            drop((held, alone));
            assert_eq!(waits.join().unwrap(), (2, 0));
        });
        assert!(mutex.is_free());
    }
}
