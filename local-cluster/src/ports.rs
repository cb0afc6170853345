//! Ports of 127.0.0.1 that no process listens on.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::ProcessError;

const PORTS_PER_NODE: usize = 3;
/// How many ranges of a hundred ports are searched.
const RANGES_MAX: usize = 180;

/// The ports of one node, all on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// For clients.
    pub client: u16,
    /// For the other nodes.
    pub replica: u16,
    /// For health, status and metrics. Zero where the program has no such endpoint.
    pub admin: u16,
}

impl Ports {
    /// `127.0.0.1:PORT` for clients.
    #[must_use]
    pub fn client_address(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// `127.0.0.1:PORT` for the other nodes.
    #[must_use]
    pub fn replica_address(&self) -> String {
        format!("127.0.0.1:{}", self.replica)
    }

    /// `127.0.0.1:PORT` of the admin endpoint.
    #[must_use]
    pub fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
    }
}

/// Free ports for each of `nodes` nodes.
///
/// # Errors
/// When too few ports are free.
pub fn free_node_ports(nodes: u8) -> Result<Vec<Ports>, ProcessError> {
    let ports = free_ports(usize::from(nodes) * PORTS_PER_NODE)?;
    let node = |ports: &[u16]| Ports {
        client: ports[0],
        replica: ports[1],
        admin: ports[2],
    };
    Ok(ports.chunks_exact(PORTS_PER_NODE).map(node).collect())
}

/// This many free ports. Nothing reserves them: they are free until a server listens.
///
/// # Errors
/// When too few ports are free.
pub fn free_ports(count: usize) -> Result<Vec<u16>, ProcessError> {
    let mut free = Vec::with_capacity(count);
    for _ in 0..RANGES_MAX {
        let base = next_range();
        free.extend((base..base + 100).filter(|port| is_free(*port)));
        if free.len() >= count {
            free.truncate(count);
            return Ok(free);
        }
    }
    Err(ProcessError::NoFreePorts(count))
}

/// The first port of a range of a hundred that this process has not searched yet.
/// Processes with consecutive ids start far from each other, because two of them may
/// find the same port free before either listens on it.
fn next_range() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 180 * 37 % 180 * 100;
    let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) * 100;
    12_000 + ((start + next) % 18_000) as u16
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
