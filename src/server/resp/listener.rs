//! Accepts connections up to their maximum, and stops them in order.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};

use super::{
    connection::{Connection, linger},
    errors,
    server::{Server, Session},
    settings::RespSettings,
};
use crate::{
    error::{Error, ErrorKind, Result},
    node::Node,
};

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How many refused connections at a time are told why.
const REFUSALS_AT_ONCE: usize = 64;

/// Serves the Redis protocol from `listener` until `shutdown` is ready. Then no connection is accepted and
/// no request read any more; what was received runs and is answered, for up to
/// [`RespSettings::shutdown_grace`]. The node stays open.
///
/// # Errors
/// `Io` if the listener has no address. Errors of single connections end these only.
pub async fn serve(
    node: Node,
    listener: TcpListener,
    settings: RespSettings,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let address = listener
        .local_addr()
        .map_err(|error| Error::with_source(ErrorKind::Io, "the listener has no address", error))?;
    let grace = settings.shutdown_grace;
    let server = Arc::new(Server::new(node, settings, address));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => note_end(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => start(&server, stream, &stopped, &mut connections),
                Err(error) => pause_after(&error).await,
            },
        }
    }
    drop(listener);
    // Fails only if no connection is left to hear it.
    let _ = stop.send(true);
    let drain = async {
        while let Some(ended) = connections.join_next().await {
            note_end(ended);
        }
    };
    if timeout(grace, drain).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections did not end in time and are cut off");
    }
    connections.shutdown().await;
    Ok(())
}

fn start(
    server: &Arc<Server>,
    stream: TcpStream,
    stopped: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        return; // Reset while it waited to be accepted.
    };
    // Replies are written whole, so there is nothing to wait for; it works slower without.
    let _ = stream.set_nodelay(true);
    let most = server.settings.max_connections;
    let Some(guard) = server.clients.register(most, peer, local) else {
        server.counters.connections_rejected.add(1);
        // INFO counts these; a line each would let a flood of them fill the log.
        tracing::debug!(%peer, most, "a connection is refused: there are too many");
        if connections.len() < most.saturating_add(REFUSALS_AT_ONCE) {
            connections.spawn(refuse(stream));
        }
        return;
    };
    server.counters.connections_received.add(1);
    tracing::debug!(client = guard.client.id, %peer, "connection accepted");
    let session = Session::new(Arc::clone(server), Arc::clone(&guard.client));
    let connection = Connection::new(stream, session);
    let stopped = stopped.clone();
    connections.spawn(async move {
        connection.serve(stopped).await;
        drop(guard);
    });
}

async fn refuse(mut stream: TcpStream) {
    let refusal = format!("-{}\r\n", errors::TOO_MANY_CLIENTS);
    if stream.write_all(refusal.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        linger(&stream).await;
    }
}

fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a connection ended by a panic");
    }
}

async fn pause_after(error: &io::Error) {
    // A connection that was reset while it waited says nothing about the next one.
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "cannot accept a connection");
    sleep(ACCEPT_PAUSE).await;
}
