//! Clients: their connections, sessions and requests.

mod addresses;
mod archive;
mod clients;
mod connection;
mod failed_logins;
mod handlers;
mod login;
mod system;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use adapters::metadata::{Intent, MetadataState};
use adapters::wire::NodeView;
use consensus::ReplicaId;
use replicated_log::Throttle;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::cluster::Metadata;
use crate::config::ClusterConfig;
use crate::metrics::Metrics;
use crate::partitions::Partitions;

use addresses::Addresses;
pub(crate) use clients::Clients;
pub(crate) use login::Credentials;
pub use tls::TlsError;

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
    archiving: Mutex<()>,
    /// Of logins with the id of another user's client.
    refused_ids: std::sync::Mutex<Throttle>,
    addresses: Arc<Addresses>,
}

impl Server {
    pub(crate) fn new(
        config: ClusterConfig,
        metadata: Arc<Metadata>,
        partitions: Arc<Partitions>,
        metrics: Arc<Metrics>,
        hosts: Vec<String>,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            tls: tls::acceptor(&config.tcp.tls, &config.storage.path, hosts)?,
            system: system::System::new(config.storage.path.clone()),
            config,
            metadata,
            partitions,
            clients: Clients::default(),
            credentials: Credentials::new(),
            metrics,
            archiving: Mutex::default(),
            refused_ids: std::sync::Mutex::default(),
            addresses: Arc::default(),
        })
    }

    /// Accepts until the task is aborted.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(self.config.tcp.connections_max));
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a client's connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                self.metrics.connections_refused.inc();
                debug!(%address, "too many connections");
                continue;
            };
            let per_address_max = self.config.tcp.connections_per_address_max;
            let Some(slot) = self.addresses.take(address.ip(), per_address_max) else {
                self.metrics.connections_refused.inc();
                debug!(%address, "too many connections from this address");
                continue;
            };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                server.serve(stream, address).await;
                drop((permit, slot));
            });
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let _ = stream.set_nodelay(true);
        self.metrics.connections.inc();
        match &self.tls {
            None => {
                let (reader, writer) = stream.into_split();
                self.converse(reader, writer, address).await;
            }
            Some(acceptor) => {
                let at_most = self.config.tcp.frame_timeout.duration();
                match tokio::time::timeout(at_most, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let (reader, writer) = tokio::io::split(stream);
                        self.converse(reader, writer, address).await;
                    }
                    Ok(Err(error)) => {
                        self.metrics.connections_refused.inc();
                        debug!(%address, %error, "a client's TLS handshake failed");
                    }
                    Err(_) => {
                        self.metrics.connections_refused.inc();
                        debug!(%address, "a client's TLS handshake took too long");
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
    ) {
        connection::Connection::new(Arc::clone(self), address)
            .run(reader, writer)
            .await;
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
