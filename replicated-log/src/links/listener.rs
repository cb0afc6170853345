//! The receiving end of all lanes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use consensus::ReplicaId;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{
    Identity, Lane, LinkCounters, LinkLimits, RpcHandler, Standing, Witness, frame, handshake, rpc,
    socket, standing,
};

/// Connections that may be open at once, handshakes under way included.
const CONNECTIONS_MAX: usize = 4_096;
const READ_BUFFER_BYTES: usize = 64 << 10;

/// What the node does with what arrives.
pub struct Services {
    /// Takes a one-way message; must not block.
    pub one_way: Box<dyn Fn(ReplicaId, Bytes) + Send + Sync>,
    /// Serves requests.
    pub requests: Arc<dyn RpcHandler>,
    /// Says whether a node is known.
    pub witness: Arc<dyn Witness>,
}

/// Accepts the connections of peers.
pub struct PeerListener {
    /// This node.
    pub identity: Arc<Identity>,
    /// Who may connect.
    pub members: BTreeSet<ReplicaId>,
    /// What to do. Without, the node has not begun: it says that it is empty, and
    /// takes nothing.
    pub services: Option<Services>,
    /// Bounds.
    pub limits: LinkLimits,
    /// Where to count.
    pub counters: Arc<LinkCounters>,
    /// Whose consensus messages were taken since this node started.
    pub heard: Mutex<BTreeSet<ReplicaId>>,
}

impl PeerListener {
    fn heard(&self) -> MutexGuard<'_, BTreeSet<ReplicaId>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node that was heard has run before, whether or not it was registered.
    async fn standing(&self, of: ReplicaId, services: &Services) -> Standing {
        let standing = services.witness.standing(of).await;
        match self.heard().contains(&of) {
            true => Standing::Known,
            false => standing,
        }
    }

    /// Accepts until the task is aborted; its connections end with it.
    pub async fn run(self, listener: Arc<TcpListener>) {
        let shared = Arc::new(self);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, address)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        shared.serve(stream, address).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a peer's connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve(&self, mut stream: TcpStream, address: std::net::SocketAddr) {
        socket::prepare(&stream, None);
        let is_member = |id| self.members.contains(&id);
        let peer = match handshake::receive(&mut stream, &self.identity, is_member).await {
            Ok(peer) => peer,
            Err(error) => {
                LinkCounters::add(&self.counters.refused, 1);
                warn!(%address, %error, "a connection to the replica port was refused");
                return;
            }
        };
        socket::prepare(&stream, Some(peer.lane));
        debug!(peer = %peer.replica, lane = ?peer.lane, "a peer connected");
        let Some(services) = &self.services else {
            match peer.lane {
                Lane::Standing => standing::answer(stream, Standing::Empty).await,
                // Held until the node begins; closed, it would be opened again at once.
                _ => drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await),
            }
            return;
        };
        match peer.lane {
            Lane::Consensus | Lane::Bulk => {
                self.heard().insert(peer.replica);
                self.read_one_way(stream, peer.replica, services).await;
            }
            Lane::Standing => {
                let standing = self.standing(peer.replica, services).await;
                standing::answer(stream, standing).await;
            }
            Lane::Control | Lane::Data => {
                let handler = Arc::clone(&services.requests);
                rpc::serve(
                    stream,
                    peer.replica,
                    peer.lane,
                    handler,
                    self.limits,
                    &self.counters,
                )
                .await;
            }
        }
    }

    async fn read_one_way(&self, stream: TcpStream, from: ReplicaId, services: &Services) {
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
        loop {
            match frame::read(&mut reader, self.limits.frame_bytes_max).await {
                Ok(Some(message)) => {
                    (services.one_way)(from, message);
                    // What the message has woken may wait behind this task.
                    tokio::task::consume_budget().await;
                }
                Ok(None) => return,
                Err(error) => {
                    LinkCounters::add(&self.counters.refused, 1);
                    debug!(peer = %from, %error, "a message could not be read");
                    return;
                }
            }
        }
    }
}
