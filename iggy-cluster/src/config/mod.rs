//! A node's configuration: TOML with the names of Iggy's own server, overridden
//! by `IGGY_*` variables.
//!
//! Everything is checked before anything starts, and one error lists all violations.

mod check;
mod environment;
mod file;
mod load;
mod nearest;
mod warnings;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use consensus::{Membership, MembershipError, ReplicaId};
use ipnet::IpNet;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use load::{ConfigError, Loaded, environment, load, parse};
use replicated_log::{LogConfig, PeerAddress};

pub use replicated_log::{Backend, ConsensusSettings, HumanDuration, HumanSize, join_host_port};

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// The cluster, its nodes and how they agree.
    pub cluster: ClusterSection,
    /// Clients' connections.
    pub tcp: TcpSection,
    /// The data directory.
    pub storage: StorageSection,
    /// Maintenance in the background.
    pub data_maintenance: DataMaintenanceSection,
    /// Consumer groups.
    pub consumer_group: ConsumerGroupSection,
    /// Heartbeats of members of consumer groups.
    pub heartbeat: HeartbeatSection,
    /// Health, status and metrics.
    pub admin: AdminSection,
}

/// The section `[cluster]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSection {
    /// Must be true: a node of this software is always part of a cluster, which may have
    /// one node.
    pub enabled: bool,
    /// Connections from nodes of a cluster with another name are refused.
    pub name: String,
    /// A node that sends nothing for this long is fenced: it receives no new partitions,
    /// and its clients' sessions end.
    pub fencing_timeout: HumanDuration,
    /// The leader of a partition that cannot write, or that too few other copies answer,
    /// resigns after this time.
    pub partition_failover_timeout: HumanDuration,
    /// Copies of a partition whose topic does not state how many; at most one per node.
    pub default_replication_factor: u8,
    /// The consensus of the nodes.
    pub consensus: ConsensusSettings,
    /// All nodes of the cluster. Every node has the same list.
    pub nodes: Vec<NodeSection>,
}

/// One of the sections `[[cluster.nodes]]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSection {
    /// A name for people, unique in the cluster.
    pub name: String,
    /// Where other nodes reach it, and where it listens.
    pub ip: String,
    /// Its number, unique in the cluster, from zero: the argument `--replica-id` of `serve`.
    pub replica_id: u8,
    /// Where clients reach it, when that is not `ip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised_address: Option<String>,
    /// Where clients of a certain network reach it instead. Of several networks that
    /// contain a client, the narrowest counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertised_addresses: Vec<AdvertisedAddress>,
    /// The ports that it listens on.
    pub ports: PortsSection,
}

/// `[[cluster.nodes.advertised_addresses]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvertisedAddress {
    /// The network, such as `10.0.0.0/16` or `2001:db8::/32`.
    pub client_cidr: IpNet,
    /// Where its clients reach the node.
    pub address: String,
}

/// `ports` of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortsSection {
    /// Iggy's TCP protocol.
    pub tcp: u16,
    /// Between nodes.
    pub tcp_replica: u16,
    /// Health, status and metrics.
    pub admin: u16,
}

/// `[tcp]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpSection {
    /// The most concurrent connections; more are closed immediately.
    pub connections_max: usize,
    /// A larger frame is answered with an error, and its connection is closed.
    pub frame_size_max: HumanSize,
    /// Bytes of requests and replies in memory, without requests of up to 16 KiB; a request
    /// for which there is none is answered with a transient error.
    pub memory_max: HumanSize,
    /// A frame whose first byte has arrived must be complete within this time.
    pub frame_timeout: HumanDuration,
    /// A connection that is not logged in after this time is closed.
    pub login_timeout: HumanDuration,
    /// The most concurrent connections from one address; more are closed immediately.
    pub connections_per_address_max: usize,
    /// The most concurrent connections that are not logged in; the oldest of the address
    /// that has the most of them is closed for a further one.
    pub connections_without_login_max: usize,
    /// A request that cannot be served within this time is answered with a
    /// transient error.
    pub request_timeout: HumanDuration,
    /// Encryption.
    pub tls: TlsSection,
}

/// `[tcp.tls]`, with the names of Iggy's own server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSection {
    /// Whether clients must use TLS.
    pub enabled: bool,
    /// Where `cert_file` does not exist, the node creates a certificate for itself and
    /// keeps it in its data directory, in `tls/iggy_cert.pem`.
    pub self_signed: bool,
    /// The certificate and its chain, as PEM.
    pub cert_file: PathBuf,
    /// The private key, as PEM.
    pub key_file: PathBuf,
}

/// `[storage]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// The data directory of this node.
    pub path: PathBuf,
}

/// `[data_maintenance]`, with the names of Iggy's own server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataMaintenanceSection {
    /// Removal of messages that topics do not retain.
    pub messages: MessagesMaintenanceSection,
}

/// `[data_maintenance.messages]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MessagesMaintenanceSection {
    /// Whether messages that have expired, and those that exceed a topic's maximum size,
    /// are removed.
    pub cleaner_enabled: bool,
    /// The time between two passes.
    pub interval: HumanDuration,
}

/// `[consumer_group]`, with the names of Iggy's own server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsumerGroupSection {
    /// A member that a partition is revoked from has this long to commit the offsets of
    /// what it was served of it.
    pub rebalancing_timeout: HumanDuration,
}

/// `[heartbeat]`, with the names of Iggy's own server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeartbeatSection {
    /// Whether members of consumer groups that send nothing are removed from their groups.
    pub enabled: bool,
    /// A member that sends nothing for 1.2 times this interval is removed.
    pub interval: HumanDuration,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// Whether the endpoint is served.
    pub enabled: bool,
    /// The address to listen on; the port is the node's `ports.admin`.
    pub ip: String,
}

/// The root user of a new cluster, from the environment only.
#[derive(Clone, Debug)]
pub struct RootUser {
    /// `IGGY_ROOT_USERNAME`.
    pub username: String,
    /// `IGGY_ROOT_PASSWORD`.
    pub password: SecretString,
}

impl Default for RootUser {
    fn default() -> Self {
        Self {
            username: "iggy".into(),
            password: SecretString::from("iggy"),
        }
    }
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self {
            enabled: true,
            name: "iggy-cluster".into(),
            fencing_timeout: HumanDuration::from_millis(3_000),
            partition_failover_timeout: HumanDuration::from_millis(1_000),
            default_replication_factor: 3,
            consensus: ConsensusSettings::default(),
            nodes: Vec::new(),
        }
    }
}

impl Default for PortsSection {
    fn default() -> Self {
        Self {
            tcp: 8090,
            tcp_replica: 9090,
            admin: 3300,
        }
    }
}

impl PortsSection {
    /// The ports of a node of `dev`, whose nodes are `step` ports apart. With the default
    /// ports of `dev`: 8090, 9090 and 3300 for the first node.
    #[must_use]
    pub fn for_dev(replica_id: u8, tcp_port: u16, step: u16) -> Self {
        let admin_port = match tcp_port.checked_sub(4790) {
            Some(port) if port >= 1024 => port,
            _ => tcp_port + 2000,
        };
        let offset = u16::from(replica_id) * step;
        Self {
            tcp: tcp_port + offset,
            tcp_replica: tcp_port + 1000 + offset,
            admin: admin_port + offset,
        }
    }
}

impl Default for TcpSection {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            frame_size_max: HumanSize::from_mib(64),
            memory_max: HumanSize::from_mib(512),
            frame_timeout: HumanDuration::from_millis(30_000),
            login_timeout: HumanDuration::from_millis(30_000),
            connections_per_address_max: 5_000,
            connections_without_login_max: 5_000,
            request_timeout: HumanDuration::from_millis(10_000),
            tls: TlsSection::default(),
        }
    }
}

impl Default for TlsSection {
    fn default() -> Self {
        Self {
            enabled: false,
            self_signed: true,
            cert_file: PathBuf::from("iggy_cert.pem"),
            key_file: PathBuf::from("iggy_key.pem"),
        }
    }
}

impl Default for StorageSection {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data"),
        }
    }
}

impl Default for MessagesMaintenanceSection {
    fn default() -> Self {
        Self {
            cleaner_enabled: true,
            interval: HumanDuration::from_millis(60_000),
        }
    }
}

impl Default for ConsumerGroupSection {
    fn default() -> Self {
        Self {
            rebalancing_timeout: HumanDuration::from_millis(30_000),
        }
    }
}

impl Default for HeartbeatSection {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: HumanDuration::from_millis(30_000),
        }
    }
}

impl HeartbeatSection {
    /// How long a member may send nothing; `None` without a limit.
    #[must_use]
    pub fn silence_max(&self) -> Option<Duration> {
        let interval = self.interval.duration();
        self.enabled.then(|| interval + interval / 5)
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            enabled: true,
            ip: "127.0.0.1".into(),
        }
    }
}

impl NodeSection {
    /// Its id in the replicated log.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        ReplicaId::from_number(u64::from(self.replica_id))
    }

    /// Where clients reach it.
    #[must_use]
    pub fn client_host(&self) -> &str {
        self.advertised_address.as_deref().unwrap_or(&self.ip)
    }

    /// Where a client with this address reaches it. A client that connects through a
    /// proxy has the proxy's address.
    #[must_use]
    pub fn client_host_for(&self, client: IpAddr) -> &str {
        let client = client.to_canonical();
        self.advertised_addresses
            .iter()
            .filter(|advertised| advertised.client_cidr.contains(&client))
            .max_by_key(|advertised| advertised.client_cidr.prefix_len())
            .map_or(self.client_host(), |advertised| &advertised.address)
    }

    /// `host:port` for other nodes.
    #[must_use]
    pub fn replica_address(&self) -> String {
        join_host_port(&self.ip, self.ports.tcp_replica)
    }

    /// `host:port` for clients to dial.
    #[must_use]
    pub fn client_address(&self) -> String {
        join_host_port(self.client_host(), self.ports.tcp)
    }
}

impl ClusterConfig {
    /// A cluster on 127.0.0.1 with one node for each of these ports, as `dev` runs it. The
    /// nodes have the replica ids 0, 1, 2, ...
    #[must_use]
    pub fn on_this_machine(
        backend: Backend,
        ports: impl IntoIterator<Item = PortsSection>,
    ) -> Self {
        let section = |(replica_id, ports): (u8, PortsSection)| NodeSection {
            name: format!("node-{replica_id}"),
            ip: "127.0.0.1".into(),
            replica_id,
            ports,
            ..NodeSection::default()
        };
        let mut config = Self::default();
        config.cluster.name = "dev".into();
        config.cluster.consensus.backend = backend;
        config.cluster.nodes = (0..).zip(ports).map(section).collect();
        config
    }

    /// Copies of a partition whose topic does not state how many.
    #[must_use]
    pub fn replication_factor(&self) -> u32 {
        let nodes = self.cluster.nodes.len().max(1) as u32;
        u32::from(self.cluster.default_replication_factor).min(nodes)
    }

    /// The node with this `replica_id`.
    #[must_use]
    pub fn node(&self, replica_id: u8) -> Option<&NodeSection> {
        let nodes = &self.cluster.nodes;
        nodes.iter().find(|node| node.replica_id == replica_id)
    }

    /// The node with this id in the replicated log.
    #[must_use]
    pub fn node_of(&self, replica: ReplicaId) -> Option<&NodeSection> {
        let nodes = &self.cluster.nodes;
        nodes.iter().find(|node| node.replica() == replica)
    }

    /// The configuration of this node's replicated log.
    ///
    /// # Errors
    /// When the list of nodes is empty or contains a node twice.
    pub fn log(&self, section: &NodeSection) -> Result<LogConfig, MembershipError> {
        let peers = self.cluster.nodes.iter().map(|node| PeerAddress {
            replica: node.replica(),
            address: node.replica_address(),
        });
        Ok(LogConfig {
            cluster: self.cluster.name.clone(),
            me: section.replica(),
            listen: section.replica_address(),
            peers: peers.collect(),
            membership: self.membership()?,
            data: self.storage.path.clone(),
            settings: self.cluster.consensus.clone(),
        })
    }

    /// The members of the metadata group: the seven nodes with the lowest replica ids are
    /// voters, the others learners.
    ///
    /// # Errors
    /// When the list of nodes is empty or contains a node twice.
    pub fn membership(&self) -> Result<Membership, MembershipError> {
        let ids: BTreeSet<ReplicaId> = self
            .cluster
            .nodes
            .iter()
            .map(NodeSection::replica)
            .collect();
        let learners = ids.iter().copied().skip(Membership::VOTERS_MAX);
        Membership::new(1, self.voters(), learners)
    }

    /// The nodes with the lowest replica ids.
    fn voters(&self) -> BTreeSet<ReplicaId> {
        let ids: BTreeSet<ReplicaId> = self
            .cluster
            .nodes
            .iter()
            .map(NodeSection::replica)
            .collect();
        ids.into_iter().take(Membership::VOTERS_MAX).collect()
    }
}
