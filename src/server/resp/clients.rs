//! The connections that are open, as `CLIENT LIST` and `INFO` show them.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::reply::Protocol;

/// One open connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    address: SocketAddr,
    local_address: SocketAddr,
    connected: Instant,
    pub(super) details: Mutex<ClientDetails>,
}

/// What changes while a connection is open.
#[derive(Clone, Debug, Default)]
pub(super) struct ClientDetails {
    /// Set by `CLIENT SETNAME` or `HELLO … SETNAME`; printable, without spaces.
    pub(super) name: String,
    /// Set by `CLIENT SETINFO`.
    pub(super) lib_name: String,
    /// Set by `CLIENT SETINFO`.
    pub(super) lib_version: String,
    pub(super) protocol: Protocol,
}

impl Client {
    /// The client in the form of a line of `CLIENT LIST`.
    pub(super) fn line(&self, now: Instant) -> String {
        let details = self.details.lock().clone();
        let age = now.saturating_duration_since(self.connected).as_secs();
        let mut line = format!("id={} addr={} laddr={}", self.id, self.address, self.local_address);
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            " fd=-1 name={} age={age} flags=N db=0 user=default resp={} lib-name={} lib-ver={}",
            details.name,
            details.protocol.number(),
            details.lib_name,
            details.lib_version
        );
        line
    }
}

/// All open connections.
#[derive(Debug, Default)]
pub(super) struct Clients {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    open: BTreeMap<u64, Arc<Client>>,
}

impl Clients {
    /// Registers a connection unless `most` are open. The registration ends when the guard is dropped.
    pub(super) fn register(
        self: &Arc<Self>,
        most: usize,
        address: SocketAddr,
        local_address: SocketAddr,
    ) -> Option<ClientGuard> {
        let mut table = self.table.lock();
        if table.open.len() >= most {
            return None;
        }
        table.last_id += 1;
        let client = Arc::new(Client {
            id: table.last_id,
            address,
            local_address,
            connected: Instant::now(),
            details: Mutex::default(),
        });
        table.open.insert(client.id, Arc::clone(&client));
        Some(ClientGuard { clients: Arc::clone(self), client })
    }

    pub(super) fn count(&self) -> usize {
        self.table.lock().open.len()
    }

    /// All open connections, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Client>> {
        self.table.lock().open.values().cloned().collect()
    }
}

/// A registered connection.
#[derive(Debug)]
pub(super) struct ClientGuard {
    clients: Arc<Clients>,
    pub(super) client: Arc<Client>,
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.clients.table.lock().open.remove(&self.client.id);
    }
}

/// Whether `name` may be a client's or library's name: printable ASCII without spaces, as in Redis.
pub(super) fn is_valid_name(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_too_many_is_refused_until_one_closes() {
        let clients = Arc::new(Clients::default());
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let first = clients.register(1, address, address).unwrap();
        assert!(clients.register(1, address, address).is_none());
        assert_eq!((first.client.id, clients.count()), (1, 1));
        drop(first);
        assert_eq!(clients.register(1, address, address).unwrap().client.id, 2);
    }
}
