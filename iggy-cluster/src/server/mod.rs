//! Clients: their connections, sessions and requests.

mod addresses;
mod admission;
mod archive;
mod clients;
mod connection;
mod failed_logins;
mod handlers;
mod hashing;
mod login;
mod memory;
mod system;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adapters::metadata::{Intent, MetadataState};
use adapters::wire::NodeView;
use consensus::ReplicaId;
use replicated_log::{Acceptor, Throttle};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::cluster::Metadata;
use crate::config::ClusterConfig;
use crate::metrics::Metrics;
use crate::partitions::Partitions;

use addresses::Addresses;
use admission::{Place, WithoutLogin};
pub(crate) use clients::Clients;
use connection::limited;
pub(crate) use login::Credentials;
use memory::UserMemory;
pub use tls::TlsError;
#[cfg(feature = "cli")]
pub(crate) use tls::check as check_certificate;

/// Between two attempts to end a session.
const END_SESSION_PAUSE: Duration = Duration::from_secs(1);

/// What all connections share.
pub(crate) struct Server {
    pub(crate) config: ClusterConfig,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) clients: Clients,
    pub(crate) credentials: Credentials,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) system: system::System,
    tls: Option<TlsAcceptor>,
    archiving: AsyncMutex<()>,
    /// Of logins with the id of another user's client.
    refused_ids: Mutex<Throttle>,
    addresses: Arc<Addresses>,
    without_login: Arc<WithoutLogin>,
    /// For requests and replies.
    memory: UserMemory,
    refusals: Mutex<[Throttle; 5]>,
}

/// Why a connection is closed or a request refused.
#[derive(Clone, Copy)]
enum Limit {
    Connections,
    OfAddress,
    WithoutLogin,
    Memory,
    Unread,
}

impl Server {
    pub(crate) fn new(
        config: ClusterConfig,
        metadata: Arc<Metadata>,
        partitions: Arc<Partitions>,
        metrics: Arc<Metrics>,
        hosts: Vec<String>,
    ) -> Result<Self, TlsError> {
        let (section, data) = (&config.tcp.tls, &config.storage.path);
        let tls = tls::acceptor(section, data, hosts)?;
        if let Some(expiry) = tls::expiry(section, data) {
            // Nothing else sets it.
            let _ = metrics.certificate_expiry.set(expiry);
        }
        Ok(Self {
            tls,
            memory: UserMemory::new(partitions.local.memory.clone()),
            system: system::System::new(config.storage.path.clone()),
            config,
            metadata,
            partitions,
            clients: Clients::default(),
            credentials: Credentials::new(),
            metrics,
            archiving: AsyncMutex::default(),
            refused_ids: Mutex::default(),
            addresses: Arc::default(),
            without_login: Arc::default(),
            refusals: Mutex::default(),
        })
    }

    /// Accepts until the task is aborted.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(self.config.tcp.connections_max));
        let per_address_max = self.config.tcp.connections_per_address_max;
        let mut acceptor = Acceptor::new(listener, "a client");
        loop {
            let (stream, address) = acceptor.accept().await;
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                self.refused(Limit::Connections, address.ip());
                continue;
            };
            let Some(slot) = self.addresses.take(address.ip(), per_address_max) else {
                self.refused(Limit::OfAddress, address.ip());
                continue;
            };
            let place = self.without_login(address.ip());
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                server.serve(stream, address, place).await;
                drop((permit, slot));
            });
        }
    }

    /// Adds a connection to those without a login. Another one may be closed for it.
    fn without_login(&self, address: IpAddr) -> Place {
        let max = self.config.tcp.connections_without_login_max;
        let (place, is_full) = self.without_login.enter(address, max);
        if is_full {
            self.refused(Limit::WithoutLogin, address);
        }
        place
    }

    /// Whether to log what a limit refuses; with how much was not logged.
    fn due(&self, limit: Limit) -> Option<u64> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals[limit as usize].due(Instant::now())
    }

    /// Counts a connection that is closed, and logs it once per interval.
    fn refused(&self, limit: Limit, address: IpAddr) {
        self.metrics.connections_refused.inc();
        let Some(suppressed) = self.due(limit) else {
            return;
        };
        let tcp = &self.config.tcp;
        let (limit, max) = match limit {
            Limit::OfAddress => (
                "tcp.connections_per_address_max",
                tcp.connections_per_address_max,
            ),
            Limit::WithoutLogin => (
                "tcp.connections_without_login_max",
                tcp.connections_without_login_max,
            ),
            _ => ("tcp.connections_max", tcp.connections_max),
        };
        warn!(
            newest = %address, limit, max, suppressed,
            "closed a client's connection because of a limit"
        );
    }

    /// Counts a request for which there is no memory, and logs it once per interval.
    fn without_memory(&self) {
        self.metrics.requests_without_memory.inc();
        if let Some(suppressed) = self.due(Limit::Memory) {
            let max = self.config.tcp.memory_max;
            warn!(
                %max, suppressed,
                "refused a request, because requests and replies take up tcp.memory_max; clients repeat it"
            );
        }
    }

    /// Counts a client that has not read a reply in time, and logs it once per interval.
    fn unread(&self, user_id: Option<u32>, address: SocketAddr) {
        self.metrics.clients_not_reading.inc();
        if let Some(suppressed) = self.due(Limit::Unread) {
            let max = self.config.tcp.frame_timeout;
            warn!(
                user_id, %address, %max, suppressed,
                "closed a client's connection, because it has not read a reply within tcp.frame_timeout"
            );
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr, place: Place) {
        let _ = stream.set_nodelay(true);
        self.metrics.connections.inc();
        match &self.tls {
            None => {
                let (reader, mut writer) = stream.into_split();
                if self.converse(reader, &mut writer, address, place).await {
                    reset(writer.as_ref());
                }
            }
            Some(acceptor) => {
                let login_by = place.since() + self.config.tcp.login_timeout.duration();
                let mut place = Some(place);
                let accepted = limited(&mut place, login_by, acceptor.accept(stream)).await;
                match (accepted, place) {
                    (Ok(stream), Some(place)) => {
                        let (mut reader, mut writer) = tokio::io::split(stream);
                        let ended = self.converse(&mut reader, &mut writer, address, place);
                        if ended.await {
                            reset(reader.unsplit(writer).get_ref().0);
                        }
                    }
                    (accepted, _) => {
                        self.metrics.connections_refused.inc();
                        let error = accepted.err();
                        debug!(%address, ?error, "a client's TLS handshake failed");
                    }
                }
            }
        }
        self.metrics.connections.dec();
    }

    async fn converse(
        self: &Arc<Self>,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
        address: SocketAddr,
        place: Place,
    ) -> bool {
        connection::Connection::new(Arc::clone(self), address, place)
            .run(reader, writer)
            .await
    }

    /// Ends a session that is no longer used. As long as a session exists, its client keeps
    /// its partitions as a member of groups. So this is repeated until the session has ended,
    /// or all sessions of this node have because it was fenced.
    pub(super) async fn end_session(&self, client: u128, session: u64) {
        let registration = self.metadata.registration();
        while self.metadata.registration() == registration {
            let intent = Intent::Unregister { client, session };
            if self.metadata.replicate(intent).await.is_ok() {
                return;
            }
            tokio::time::sleep(END_SESSION_PAUSE).await;
        }
    }

    /// Logs that a user's login was refused because of the client's id.
    fn log_client_of_another(&self, user_id: u32) {
        let refused = self.refused_ids.lock();
        let due = refused
            .unwrap_or_else(PoisonError::into_inner)
            .due(Instant::now());
        if let Some(suppressed) = due {
            warn!(
                user_id,
                suppressed,
                "refused a login, because the client's id has a session of another user"
            );
        }
    }

    /// The nodes of the cluster, for a client with this address, by one state.
    pub(crate) fn roster(&self, client: IpAddr) -> Vec<NodeView> {
        let leader = self.metadata.leadership().leader;
        let state = self.metadata.reader.read();
        let nodes = self.config.cluster.nodes.iter();
        nodes
            .map(|node| self.node_view(&state, node.replica(), leader, client))
            .collect()
    }

    fn node_view(
        &self,
        state: &MetadataState,
        replica: ReplicaId,
        leader: Option<ReplicaId>,
        client: IpAddr,
    ) -> NodeView {
        let live = state.node(replica).is_some_and(|node| node.live);
        let section = self.config.node_of(replica);
        NodeView {
            name: section.map_or_else(String::new, |node| node.name.clone()),
            host: section.map_or_else(String::new, |node| node.client_host_for(client).to_owned()),
            tcp_port: section.map_or(0, |node| node.ports.tcp),
            leader: leader == Some(replica),
            // The leader is healthy, even if the state has it as fenced.
            healthy: live || leader == Some(replica),
        }
    }
}

/// The kernel drops what the client of this connection has not read, when it is closed.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        debug!(%error, "cannot reset a client's connection");
    }
}
