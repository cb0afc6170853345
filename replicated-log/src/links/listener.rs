//! The receiving end of all channels.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::ReplicaId;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::activity::PeerActivity;
use super::channel::Channel;
use super::counters::LinkCounters;
use super::disk_history::{AdmissionService, DiskHistory};
use super::fence::Fence;
use super::handshake::Peer;
use super::rpc::RpcHandler;
use super::target::{Identity, LinkLimits};
use super::{disk_history, frame, handshake, rpc, socket};
use crate::peers::Peers;

/// Connections that may be open, those in a handshake included. More wait unaccepted.
const CONNECTIONS_MAX: usize = 4_096;
const READ_BUFFER_BYTES: usize = 64 << 10;
/// After an error of the operating system, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Receives what arrives from peers.
pub(crate) struct Services {
    /// Receives a one-way message; must not block.
    pub(crate) one_way: Box<dyn Fn(ReplicaId, Bytes) + Send + Sync>,
    pub(crate) requests: Arc<dyn RpcHandler>,
    pub(crate) admission: Arc<dyn AdmissionService>,
}

/// Accepts the connections of peers.
pub(crate) struct PeerListener {
    pub(super) identity: Arc<Identity>,
    pub(super) peers: watch::Receiver<Peers>,
    /// `None` while the disk of this node is empty.
    pub(super) services: Option<Services>,
    pub(super) limits: LinkLimits,
    pub(super) counters: Arc<LinkCounters>,
    pub(super) activity: Arc<PeerActivity>,
    pub(super) fence: Arc<Fence>,
}

/// A connection of a known peer.
struct Connection {
    stream: TcpStream,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

impl PeerListener {
    /// Accepts until the task is aborted; its connections end with it. Those of a peer that
    /// is removed from the list of peers end too.
    pub(crate) async fn run(self, listener: Arc<TcpListener>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut peers = self.peers.clone();
        let shared = Arc::new(self);
        let mut handshakes = JoinSet::new();
        let mut connections: BTreeMap<ReplicaId, JoinSet<()>> = BTreeMap::new();
        loop {
            tokio::select! {
                (stream, address, permit) = accept(&listener, &permits) => {
                    handshakes.spawn(Arc::clone(&shared).handshake(stream, address, permit));
                }
                Some(done) = handshakes.join_next() => {
                    let Ok(Some(connection)) = done else {
                        continue;
                    };
                    let peer = connection.peer.replica;
                    let is_peer = peers.borrow().contains(peer);
                    if is_peer {
                        let of_peer = connections.entry(peer).or_default();
                        while of_peer.try_join_next().is_some() {}
                        of_peer.spawn(Arc::clone(&shared).serve(connection));
                    }
                }
                Ok(()) = peers.changed() => {
                    let current = peers.borrow_and_update();
                    connections.retain(|peer, _| current.contains(*peer));
                }
            }
        }
    }

    async fn handshake(
        self: Arc<Self>,
        mut stream: TcpStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Option<Connection> {
        socket::prepare(&stream, None);
        let is_peer = |id| self.peers.borrow().contains(id);
        let registered = |id| self.fence.registered(id);
        match handshake::receive(&mut stream, &self.identity, is_peer, registered).await {
            Ok(peer) => {
                socket::prepare(&stream, Some(peer.channel));
                debug!(peer = %peer.replica, channel = ?peer.channel, "a peer connected");
                Some(Connection {
                    stream,
                    peer,
                    _permit: permit,
                })
            }
            Err(error) => {
                if let Some(suppressed) = self.counters.refuse(None, "connection", error.label()) {
                    warn!(%address, %error, suppressed, "refused a connection to the replica port");
                }
                None
            }
        }
    }

    /// Serves a connection until it ends.
    async fn serve(self: Arc<Self>, connection: Connection) {
        let Connection {
            mut stream,
            peer,
            _permit,
        } = connection;
        let Some(services) = &self.services else {
            match peer.channel {
                Channel::DiskHistory => {
                    disk_history::reply(stream, DiskHistory::PeerIsEmpty).await;
                }
                // Kept until this node starts: the peer would dial again immediately.
                _ => drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await),
            }
            return;
        };
        match peer.channel {
            Channel::Consensus | Channel::Bulk => {
                self.read_one_way(stream, peer.replica, services).await;
            }
            Channel::DiskHistory => {
                let history = self.history(peer.replica, services).await;
                disk_history::reply(stream, history).await;
            }
            Channel::Control | Channel::Data => {
                let handler = Arc::clone(&services.requests);
                let (limits, counters) = (self.limits, &self.counters);
                rpc::serve(
                    stream,
                    peer.replica,
                    peer.channel,
                    handler,
                    limits,
                    counters,
                )
                .await;
            }
        }
    }

    /// A replica that has connected has run before, whether or not it is registered. Its
    /// connections are looked at last: it may connect meanwhile.
    async fn history(&self, of: ReplicaId, services: &Services) -> DiskHistory {
        let history = services.admission.history(of).await;
        match self.activity.has_connected(of) {
            true => DiskHistory::HasRun,
            false => history,
        }
    }

    async fn read_one_way(&self, stream: TcpStream, from: ReplicaId, services: &Services) {
        let activity = self.activity.connected(from);
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
        loop {
            match frame::read(&mut reader, self.limits.frame_bytes_max).await {
                Ok(Some(message)) => {
                    activity.note();
                    (services.one_way)(from, message);
                    // Tasks that the message has woken may wait for this worker thread.
                    tokio::task::consume_budget().await;
                }
                Ok(None) => return,
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    if let Some(suppressed) = self.counters.refuse(Some(from), "message", "frame") {
                        warn!(peer = %from, %error, suppressed, "refused a message of a peer, and closed the connection");
                    }
                    return;
                }
                Err(error) => {
                    debug!(peer = %from, %error, "the connection of a peer broke");
                    return;
                }
            }
        }
    }
}

/// The next connection, when there is room for it.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
        unreachable!("the semaphore is never closed");
    };
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, permit),
            Err(error) => {
                warn!(%error, "cannot accept a peer's connection; check the limit on open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
