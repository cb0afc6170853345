//! Clients that are connected to this node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use adapters::wire::ConnectedClient;

/// The connections of this node.
#[derive(Default)]
pub(crate) struct Clients {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u32,
    connected: BTreeMap<u32, Connected>,
}

/// A connection and, once it is logged in, its user and the client's id.
#[derive(Clone, Copy)]
struct Connected {
    address: SocketAddr,
    user: Option<(u32, u128)>,
}

impl Clients {
    /// Adds a connection; returns its number, unique on this node.
    pub(super) fn add(&self, address: SocketAddr) -> u32 {
        let mut inner = self.lock();
        inner.next = inner.next.wrapping_add(1);
        let id = inner.next;
        let connected = Connected {
            address,
            user: None,
        };
        inner.connected.insert(id, connected);
        id
    }

    /// Sets the connection's user and the client's id.
    pub(super) fn set_user(&self, id: u32, user: Option<(u32, u128)>) {
        if let Some(connected) = self.lock().connected.get_mut(&id) {
            connected.user = user;
        }
    }

    pub(super) fn remove(&self, id: u32) {
        self.lock().connected.remove(&id);
    }

    /// One connection.
    pub(super) fn get(&self, id: u32) -> Option<ConnectedClient> {
        let inner = self.lock();
        Some(view(id, *inner.connected.get(&id)?))
    }

    /// All connections.
    pub(crate) fn all(&self) -> Vec<ConnectedClient> {
        self.lock()
            .connected
            .iter()
            .map(|(id, connected)| view(*id, *connected))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn view(id: u32, connected: Connected) -> ConnectedClient {
    ConnectedClient {
        id,
        user_id: connected.user.map(|(user_id, _)| user_id),
        address: connected.address.to_string(),
        client: connected.user.map(|(_, client)| client),
    }
}
