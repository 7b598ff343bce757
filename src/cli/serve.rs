//! `dbex serve`: a node with its Redis server, from start to orderly stop.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpSocket;

use super::{Failure, log, signals::StopSignal};
use crate::{
    error::{Error, Result},
    node::{IoBudget, Node},
    server::resp::{self, RespSettings, Secret},
    settings::{Loaded, ServerSection, Settings, size_text},
};

/// Connections that the kernel holds ready while the server is busy with others.
const BACKLOG: u32 = 1024;

/// Serves until told to stop.
pub(super) fn serve(loaded: Loaded) -> Result<(), Failure> {
    let settings = loaded.check().map_err(Failure::settings)?;
    log::start(&settings.log).map_err(Failure::settings)?;
    let resp = resp_settings(&settings.server).map_err(Failure::settings)?;
    raise_open_files(&settings);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("dbex-server")
        .enable_all()
        .build()
        .map_err(|error| Failure::run(Error::io("start", Path::new("the server's threads"), error)))?;
    let served = runtime.block_on(run(&settings, resp));
    // The node is closed: nothing that a thread may still wait for is worth waiting for.
    runtime.shutdown_background();
    served.map_err(Failure::run)
}

async fn run(settings: &Settings, resp: RespSettings) -> Result<()> {
    let stop = StopSignal::watch()?;
    // The address is taken before the node opens, so that a wrong one is told at once; clients are let in after.
    let socket = bind(settings.server.listen)?;
    let node = tokio::select! {
        node = Node::open(settings.clone()) => node?,
        () = stop.clone().told() => return Ok(()),
    };
    let served = serve_node(&node, socket, settings, resp, stop).await;
    let closed = node.close().await;
    served.and(closed)?;
    tracing::info!("closed");
    Ok(())
}

async fn serve_node(
    node: &Node,
    socket: TcpSocket,
    settings: &Settings,
    resp: RespSettings,
    stop: StopSignal,
) -> Result<()> {
    let failed = |error| Error::io("listen on", Path::new(&settings.server.listen.to_string()), error);
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    announce(&listener.local_addr().map_err(failed)?, settings, node.stats().await?.shards.len());
    resp::serve(node.clone(), listener, resp, stop.told()).await
}

fn bind(listen: SocketAddr) -> Result<TcpSocket> {
    let bind = || {
        let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart need not wait for the connections of the last run to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        Ok(socket)
    };
    bind().map_err(|error| Error::io("listen on", Path::new(&listen.to_string()), error))
}

/// Tells on stdout what was started. The first line is for programs too: they wait for it.
fn announce(listen: &SocketAddr, settings: &Settings, shards: usize) {
    let memory = &settings.memory;
    let data_dir = std::path::absolute(&settings.node.data_dir).unwrap_or(settings.node.data_dir.clone());
    let budget = match settings.io.budget {
        IoBudget::Auto => "auto (no limit yet)".to_owned(),
        IoBudget::Unlimited => "unlimited".to_owned(),
        IoBudget::BytesPerSecond(rate) => format!("{}/s", size_text(rate)),
    };
    let password = match (&settings.server.password, &settings.server.password_file) {
        (None, None) => "none",
        _ => "needed",
    };
    let mut text = format!("dbex {} listens on {listen}\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "  protocol    Redis, password {password}");
    let _ = writeln!(text, "  data        {}", data_dir.display());
    let _ = writeln!(text, "  shards      {shards}");
    let _ = writeln!(
        text,
        "  memory      memtables {}, block cache {}, filters {}, queue {}, clients {}",
        size_text(memory.memtable_bytes),
        size_text(memory.block_cache_bytes),
        size_text(memory.filter_bytes_max),
        size_text(memory.queue_bytes),
        size_text(settings.server.client_memory_bytes),
    );
    let _ = writeln!(text, "  i/o budget  {budget}");
    // A server whose stdout is closed serves all the same.
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn resp_settings(server: &ServerSection) -> Result<RespSettings> {
    let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok(RespSettings {
        password: server.read_password()?.map(|password| Secret::new(password.expose())),
        max_connections: server.max_connections,
        idle_timeout: server.idle_timeout,
        request_timeout: server.request_timeout,
        max_request_bytes: bytes(server.max_request_bytes),
        client_memory_bytes: bytes(server.client_memory_bytes),
        flushall_enabled: server.enable_flushall,
        shutdown_grace: server.shutdown_grace,
        ..RespSettings::default()
    })
}

/// Raises the process's limit of open files as far as it may: connections and tables both count against it.
fn raise_open_files(settings: &Settings) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    // The node's tables get half of it, or what is set.
    let wanted = u64::try_from(settings.server.max_connections.saturating_add(settings.io.max_open_files));
    if let (Some(limit), Ok(wanted)) = (limit, wanted)
        && wanted > limit
    {
        tracing::warn!(
            limit,
            wanted,
            "max_connections and max_open_files are more than the process may open: raise its limit (ulimit -n)"
        );
    }
}
