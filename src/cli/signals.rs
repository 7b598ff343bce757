//! SIGINT and SIGTERM: the first asks for an orderly stop, the second ends the process at once.

use std::{io::Write as _, path::Path};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::error::{Error, Result};

/// The status of a process that was told twice to stop, as shells count it: 128 + SIGINT.
const STOPPED_AT_ONCE: i32 = 130;

/// Whether the process was told to stop. Clones wait for the same signal.
#[derive(Clone, Debug)]
pub(super) struct StopSignal {
    told: watch::Receiver<bool>,
}

impl StopSignal {
    /// Watches for signals from now on. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// `Io` when the system has no place left for a handler.
    pub(super) fn watch() -> Result<Self> {
        let handler = |kind| signal(kind).map_err(|error| Error::io("handle", Path::new("signals"), error));
        let (mut interrupt, mut terminate) =
            (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            next(&mut interrupt, &mut terminate).await;
            tracing::info!("told to stop; again stops at once");
            tell.send_replace(true);
            next(&mut interrupt, &mut terminate).await;
            let _ = writeln!(
                std::io::stderr(),
                "error: told twice to stop: what is not synced is left to recovery"
            );
            std::process::exit(STOPPED_AT_ONCE);
        });
        Ok(Self { told })
    }

    /// Returns once the process was told to stop.
    pub(super) async fn told(mut self) {
        // The sender lives in a task that ends with the process, so an error means that the runtime is stopping.
        let _ = self.told.wait_for(|told| *told).await;
    }
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
