//! Clients that are connected to this node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use adapters::wire::v0_11::ConnectedClient;

/// The connections of this node.
#[derive(Default)]
pub(crate) struct Clients {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u32,
    connected: BTreeMap<u32, (SocketAddr, Option<u32>)>,
}

impl Clients {
    /// Takes note of a connection; returns its number, unique on this node.
    pub(super) fn add(&self, address: SocketAddr) -> u32 {
        let mut inner = self.lock();
        inner.next = inner.next.wrapping_add(1);
        let id = inner.next;
        inner.connected.insert(id, (address, None));
        id
    }

    /// Says who the connection's user is.
    pub(super) fn set_user(&self, id: u32, user_id: Option<u32>) {
        if let Some((_, user)) = self.lock().connected.get_mut(&id) {
            *user = user_id;
        }
    }

    pub(super) fn remove(&self, id: u32) {
        self.lock().connected.remove(&id);
    }

    /// One connection.
    pub(super) fn get(&self, id: u32) -> Option<ConnectedClient> {
        let inner = self.lock();
        let (address, user_id) = inner.connected.get(&id)?;
        Some(view(id, *address, *user_id))
    }

    /// All connections.
    pub(crate) fn all(&self) -> Vec<ConnectedClient> {
        self.lock()
            .connected
            .iter()
            .map(|(id, (address, user_id))| view(*id, *address, *user_id))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn view(id: u32, address: SocketAddr, user_id: Option<u32>) -> ConnectedClient {
    ConnectedClient {
        id,
        user_id,
        address: address.to_string(),
    }
}
