//! Where actors live outside of simulations: an actix system, and arbiters that end with it.

use std::{io, thread::JoinHandle};

use actix::{Arbiter, ArbiterHandle, System};
use parking_lot::Mutex;

use super::env::{ActorSystem, Executor, MakeFuture};

/// An actix system on a thread of its own.
#[derive(Debug)]
pub(super) struct ActixSystem {
    system: System,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One of its arbiters.
#[derive(Debug)]
struct ActixArbiter(ArbiterHandle);

impl ActixSystem {
    /// Starts it on a thread called `name`.
    ///
    /// # Errors
    /// When the operating system refuses the thread or what the system needs.
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let (started, wait) = flume::bounded(1);
        let body = move || {
            let runner = System::new();
            let _ = started.send(System::current());
            if let Err(error) = runner.run() {
                tracing::error!(error = %error, "the actor system ended with an error");
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        let system = wait.recv().map_err(|_| io::Error::other("the actor system did not start"))?;
        Ok(Self { system, thread: Mutex::new(Some(thread)) })
    }
}

impl Executor for ActixSystem {
    fn run(&self, make: MakeFuture) {
        run(self.system.arbiter(), make);
    }
}

impl ActorSystem for ActixSystem {
    fn start_another(&self) -> io::Result<Box<dyn Executor>> {
        Ok(Box::new(ActixArbiter(Arbiter::try_new()?.handle())))
    }

    fn end(&self) {
        // NOTE: this ends the arbiters, too.
        self.system.stop();
        let thread = self.thread.lock().take();
        // A thread does not wait for itself.
        let thread = thread.filter(|thread| thread.thread().id() != std::thread::current().id());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the actor system panicked");
        }
    }
}

impl Executor for ActixArbiter {
    fn run(&self, make: MakeFuture) {
        run(&self.0, make);
    }
}

fn run(arbiter: &ArbiterHandle, make: MakeFuture) {
    arbiter.spawn_fn(move || drop(actix::spawn(make())));
}
