//! The receiving end of all channels.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus::ReplicaId;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use super::activity::PeerActivity;
use super::channel::Channel;
use super::counters::LinkCounters;
use super::disk_history::{AdmissionService, DiskHistory};
use super::fence::Fence;
use super::frame::FrameMemory;
use super::handshake::Peer;
use super::lanes::{self, LaneSink, Lanes, Receiving};
use super::rpc::{RpcHandler, Serving};
use super::target::{Identity, LinkLimits};
use super::{disk_history, frame, handshake, rpc, socket};
use crate::accept::Acceptor;
use crate::peers::Peers;

/// Connections of one peer on one channel: the current one, and such as the peer has given
/// up and this node not noticed yet. For a further one, that which has been silent for the
/// longest is closed: an identity that is not proven must not cut off the peer that has it.
const CONNECTIONS_PER_CHANNEL_MAX: usize = 3;
/// The same of a lane: a new connection replaces the former one, which may not be closed yet.
const CONNECTIONS_PER_LANE_MAX: usize = 2;
/// Connections in a handshake, besides one of each peer on each channel. The oldest is closed
/// for a further one: a peer needs milliseconds for it.
const HANDSHAKES_MIN: usize = 8;
/// How often connections are compared with what their peers have registered since.
const REFUTE_INTERVAL: Duration = Duration::from_secs(1);
const READ_BUFFER_BYTES: usize = 64 << 10;

/// The most file descriptors of the links to so many peers: those that this node dials,
/// those that it accepts, and those in a handshake.
#[must_use]
pub const fn descriptors_max(peers: usize) -> usize {
    let lanes = Channel::LANES.len();
    let channels = channels_max() - lanes;
    let of_channels = channels * (1 + CONNECTIONS_PER_CHANNEL_MAX);
    let of_lanes = lanes * (1 + CONNECTIONS_PER_LANE_MAX);
    peers * (of_channels + of_lanes + 2) + handshakes_max(peers)
}

/// Connections of one peer on a channel that are served. On a lane, that is the newest one; the
/// former one ends.
fn connections_max(channel: Channel) -> usize {
    match channel.is_lane() {
        true => 1,
        false => CONNECTIONS_PER_CHANNEL_MAX,
    }
}

/// Channels on which a peer connects at the same time: with an empty disk it uses one of its
/// own only, and for data it uses one of two.
const fn channels_max() -> usize {
    Channel::ALL.len() - 2
}

const fn handshakes_max(peers: usize) -> usize {
    HANDSHAKES_MIN + peers * channels_max()
}

/// Receives what arrives from peers.
pub(crate) struct Services {
    /// Receives a one-way message; must not block.
    pub(crate) one_way: Box<dyn Fn(ReplicaId, Bytes) + Send + Sync>,
    pub(crate) requests: Arc<dyn RpcHandler>,
    pub(crate) admission: Arc<dyn AdmissionService>,
    /// `None` in a program without lanes.
    pub(crate) lanes: Option<Arc<dyn LaneSink>>,
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
    pub(super) memory: FrameMemory,
    pub(super) lanes: Lanes,
}

/// A connection of a known peer.
struct Connection {
    stream: TcpStream,
    peer: Peer,
    /// In the order in which the connections were accepted.
    number: u64,
}

/// Tasks of connections, of which one ends when there are too many.
struct Bounded<T> {
    tasks: JoinSet<T>,
    open: Vec<(AbortHandle, LastReceived)>,
}

/// When a connection has last received something.
#[derive(Clone)]
pub(super) struct LastReceived(Arc<Mutex<Instant>>);

impl LastReceived {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn note(&self) {
        *self.lock() = Instant::now();
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            open: Vec::new(),
        }
    }
}

impl<T: Send + 'static> Bounded<T> {
    /// Runs a task besides at most `max` - 1 others: the one that has been silent for the
    /// longest is aborted.
    fn spawn(
        &mut self,
        max: usize,
        last: LastReceived,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        self.open.retain(|(task, _)| !task.is_finished());
        if self.open.len() >= max {
            let silent = self.open.iter().enumerate();
            let silent = silent.min_by_key(|(_, (_, last))| *last.lock());
            if let Some(at) = silent.map(|(at, _)| at) {
                self.open.remove(at).0.abort();
            }
        }
        self.open.push((self.tasks.spawn(task), last));
    }
}

impl PeerListener {
    /// Accepts until the task is aborted; its connections end with it. Those of a peer that
    /// is removed from the list of peers end too.
    pub(crate) async fn run(self, listener: Arc<TcpListener>) {
        let mut acceptor = Acceptor::new(listener, "a peer");
        let mut peers = self.peers.clone();
        let shared = Arc::new(self);
        let mut handshakes = Bounded::default();
        let mut connections: BTreeMap<(ReplicaId, Channel), Bounded<()>> = BTreeMap::new();
        let mut refute = tokio::time::interval(REFUTE_INTERVAL);
        loop {
            tokio::select! {
                (stream, address) = acceptor.accept() => {
                    let others = peers.borrow().replicas().count().saturating_sub(1);
                    let number = shared.lanes.number();
                    let handshake = Arc::clone(&shared).handshake(stream, address, number);
                    handshakes.spawn(handshakes_max(others), LastReceived::now(), handshake);
                }
                Some(done) = handshakes.tasks.join_next() => {
                    let Ok(Some(connection)) = done else {
                        continue;
                    };
                    let Peer { replica, channel, .. } = connection.peer;
                    let is_peer = peers.borrow().contains(replica);
                    if is_peer && shared.is_newest(&connection) {
                        let of_channel = connections.entry((replica, channel.served())).or_default();
                        while of_channel.tasks.try_join_next().is_some() {}
                        let last = LastReceived::now();
                        let serve = Arc::clone(&shared).serve(connection, last.clone());
                        of_channel.spawn(connections_max(channel), last, serve);
                    }
                }
                _ = refute.tick() => {
                    for (peer, error) in shared.fence.take_refuted() {
                        warn!(%peer, %error, "closed the connections of a peer");
                        connections.retain(|(connected, _), _| *connected != peer);
                    }
                }
                Ok(()) = peers.changed() => {
                    let current = peers.borrow_and_update();
                    connections.retain(|(peer, _), _| current.contains(*peer));
                }
            }
        }
    }

    async fn handshake(
        self: Arc<Self>,
        mut stream: TcpStream,
        address: SocketAddr,
        number: u64,
    ) -> Option<Connection> {
        socket::prepare(&stream, None);
        let is_peer = |id| self.peers.borrow().contains(id);
        let admit = |id, shown| self.fence.admit(id, shown);
        match handshake::receive(&mut stream, &self.identity, is_peer, admit).await {
            Ok(peer) => {
                socket::prepare(&stream, Some(peer.channel));
                debug!(peer = %peer.replica, channel = ?peer.channel, "a peer connected");
                Some(Connection {
                    stream,
                    peer,
                    number,
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

    /// Whether a connection is to be served: on a lane, it replaces those that were accepted
    /// before it, and a later one may have replaced it.
    fn is_newest(&self, connection: &Connection) -> bool {
        let Peer {
            replica, channel, ..
        } = connection.peer;
        if !channel.is_lane() {
            return true;
        }
        self.lanes.connected_by(replica);
        let gate = self.lanes.gate(replica, channel);
        gate.replace(connection.number)
    }

    /// Serves a connection until it ends.
    async fn serve(self: Arc<Self>, connection: Connection, last: LastReceived) {
        let Connection {
            mut stream,
            peer,
            number,
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
                let received = || last.note();
                self.read_one_way(stream, peer, services, received).await;
            }
            Channel::CopiesControl | Channel::CopiesAppend | Channel::CopiesCatchUp => {
                if let Some(sink) = &services.lanes {
                    let receiving = Receiving {
                        peer,
                        connection: number,
                        sink: Arc::clone(sink),
                        gate: self.lanes.gate(peer.replica, peer.channel),
                        counters: Arc::clone(&self.counters),
                    };
                    lanes::receive(stream, receiving, || last.note()).await;
                }
            }
            Channel::DiskHistory => {
                let history = self.history(peer.replica, services).await;
                disk_history::reply(stream, history).await;
            }
            Channel::Control | Channel::Data | Channel::DataPieces => {
                let serving = Serving {
                    handler: Arc::clone(&services.requests),
                    limits: self.limits,
                    memory: &self.memory,
                    counters: &self.counters,
                };
                rpc::serve(stream, peer, serving, || last.note()).await;
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

    async fn read_one_way(
        &self,
        stream: TcpStream,
        Peer { replica: from, .. }: Peer,
        services: &Services,
        received: impl Fn(),
    ) {
        let activity = self.activity.connected(from);
        let limits = self.memory.limits(self.limits.frame_bytes_max);
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
        loop {
            match frame::read(&mut reader, &limits).await {
                Ok(Some(message)) => {
                    activity.note();
                    received();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_connection_that_has_been_silent_for_the_longest_is_closed_for_a_further_one() {
        let mut connections = Bounded::<()>::default();
        let received: Vec<_> = (0..3).map(|_| LastReceived::now()).collect();
        for last in &received {
            connections.spawn(3, last.clone(), std::future::pending());
        }
        received[0].note();
        let silent = connections.open[1].0.id();
        connections.spawn(3, LastReceived::now(), std::future::pending());
        let ended = connections.tasks.join_next().await.unwrap().unwrap_err();
        assert_eq!(ended.id(), silent);
        assert_eq!(connections.tasks.len(), 3);
    }
}
