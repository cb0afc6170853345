//! One running node.

mod admission;

use std::path::Path;
use std::sync::Arc;

use ::partitions::{EmbeddedStorage, EmbeddedStorageConfig, PartitionStorage, StorageError};
use adapters::metadata::{MetadataEvent, MetadataMachine, NodeInfo, PartitionKey};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::{MembershipError, ReplicaId};
use replica::disk::{DiskError, RealDisk};
use replica::superblock::SuperblockError;
use replicated_log::links::{Channel, RpcHandler, RpcReply};
use replicated_log::{EmptyDisk, FatalError, LogError, LogNode, OpenError, ReplicatedLog, listen};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc as tokio_mpsc;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::admin::{self, Admin};
use crate::cluster::{Members, Metadata};
use crate::config::{ClusterConfig, NodeSection, RootUser, join_host_port};
use crate::metrics::Metrics;
use crate::partitions::{self, LocalPartitions, Partitions};
use crate::server::{Server, TlsError};
use admission::Registered;

/// Why a node cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration does not list this node.
    #[error("replica id {0} is not in [[cluster.nodes]]")]
    UnknownReplica(u8),
    /// The list of nodes is no membership.
    #[error("cluster.nodes: {0}")]
    Membership(#[from] MembershipError),
    /// The replica of the metadata cannot start.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The partitions cannot be opened.
    #[error("partitions: {0}")]
    Storage(#[from] StorageError),
    /// Clients cannot be served over TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A running node. Dropping it stops it at once, as a crash would.
pub struct Node {
    replica: LogNode,
    log: Arc<dyn ReplicatedLog>,
    storage: Arc<dyn PartitionStorage>,
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts the node of this number, with the embedded partition storage.
    ///
    /// A node whose data directory is empty first asks the others whether it has
    /// run before. It waits until that is clear: in a new cluster, until all nodes
    /// that vote are there. [`Self::format`] begins it without them.
    ///
    /// # Errors
    /// When it is not in the configuration, its data cannot be opened or is lost,
    /// or its addresses are taken.
    pub async fn start(
        config: ClusterConfig,
        root: RootUser,
        replica_id: u8,
    ) -> Result<Self, StartError> {
        let storage = EmbeddedStorage::new(
            config.storage.path.join("partitions"),
            EmbeddedStorageConfig::default(),
        )?;
        Self::start_with(config, root, replica_id, Arc::new(storage)).await
    }

    /// Begins the data directory of a node that has never run, without asking
    /// anybody: one whose disk was lost must not come back empty under its number.
    ///
    /// # Errors
    /// When there is no such node, the directory holds a replica already, or the
    /// disk fails.
    pub fn format(config: &ClusterConfig, replica_id: u8) -> Result<(), StartError> {
        let section = config
            .node(replica_id)
            .ok_or(StartError::UnknownReplica(replica_id))?;
        let path = &config.storage.path;
        let disk = RealDisk::new(path).map_err(|error| open_error(path, error))?;
        Ok(LogNode::format(&config.log(section)?, &disk)?)
    }

    /// Starts the node with a partition storage of the caller's.
    ///
    /// # Errors
    /// The same.
    pub async fn start_with(
        config: ClusterConfig,
        root: RootUser,
        replica_id: u8,
        storage: Arc<dyn PartitionStorage>,
    ) -> Result<Self, StartError> {
        let section = config
            .node(replica_id)
            .ok_or(StartError::UnknownReplica(replica_id))?
            .clone();
        let me = section.replica();
        let path = &config.storage.path;
        refuse_messages_alone(path).map_err(|error| open_error(path, error))?;
        let (events, removed) = tokio_mpsc::unbounded_channel();
        let observer = Box::new(move |event| drop(events.send(event)));
        let (machine, reader) = MetadataMachine::new(observer);
        let metrics = Arc::new(Metrics::new());
        let opened = LogNode::builder(config.log(&section)?, Box::new(machine))
            .metrics(Arc::clone(&metrics.log))
            .empty_disk(EmptyDisk::AskPeers)
            .open()
            .await?;
        // Until here, clients that connect are refused rather than left waiting.
        let listeners = Listeners::bind(&config, &section).await?;
        let incarnation = opened.incarnation();
        let links = opened.links().clone();
        let log: Arc<dyn ReplicatedLog> = Arc::new(opened.log().clone());
        let metadata = Arc::new(Metadata::new(
            me,
            Arc::clone(&log),
            reader,
            links.requests(Channel::Control),
            config.tcp.request_timeout.duration(),
        ));
        let local = Arc::new(LocalPartitions::new(
            Arc::clone(&metadata),
            Arc::clone(&storage),
        ));
        let partitions = Arc::new(Partitions::new(
            Arc::clone(&metadata),
            Arc::clone(&local),
            links.requests(Channel::Data),
        ));
        let server = Arc::new(Server::new(
            config.clone(),
            Arc::clone(&metadata),
            partitions,
            Arc::clone(&metrics),
            tls_names(&section),
        )?);

        let mut tasks = JoinSet::new();
        let requests = Requests {
            metadata: Arc::clone(&metadata),
            local: Arc::clone(&local),
        };
        let replica = opened
            .on_request(Arc::new(requests))
            .registry(Arc::new(Registered(Arc::clone(&metadata))))
            .serve();
        tasks.spawn(server.run(listeners.tcp));
        let rebalancing_timeout = config.consumer_group.rebalancing_timeout.duration();
        tasks.spawn(partitions::end_hand_overs(
            Arc::clone(&local),
            rebalancing_timeout,
        ));
        let maintenance = &config.data_maintenance.messages;
        if maintenance.cleaner_enabled {
            tasks.spawn(partitions::clean_messages(
                Arc::clone(&local),
                maintenance.interval.duration(),
            ));
        }
        tasks.spawn(clean_up(Arc::clone(&metadata), local, removed));
        tasks.spawn(
            Members {
                metadata: Arc::clone(&metadata),
                info: node_info(&section, incarnation),
                root,
                fencing_timeout: config.cluster.fencing_timeout.duration(),
                links: links.clone(),
            }
            .run(),
        );
        if let Some(listener) = listeners.admin {
            let admin = Admin {
                config: config.clone(),
                metadata,
                metrics: Arc::clone(&metrics),
                links: Arc::clone(links.counters()),
                incarnation,
            };
            tasks.spawn(admin::run(admin, listener));
        }
        info!(
            replica = replica_id,
            tcp = section.client_address(),
            replica_port = section.ports.tcp_replica,
            "the node runs"
        );
        Ok(Self {
            replica,
            log,
            storage,
            tasks,
        })
    }

    /// The replicated log.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn ReplicatedLog> {
        &self.log
    }

    /// Waits until the node stops by itself, which it does only when it must.
    ///
    /// # Errors
    /// Why it had to.
    pub async fn stopped(&mut self) -> Result<(), FatalError> {
        self.replica.stopped().await
    }

    /// Stops the node. Acknowledged metadata is durable at any moment; messages
    /// whose acknowledgement did not promise that are now synced too.
    pub async fn stop(mut self) {
        self.tasks.abort_all();
        if let Err(error) = self.replica.stop().await {
            error!(%error, "the replica could not continue");
        }
        if let Err(error) = self.storage.shutdown().await {
            error!(%error, "not all partitions could be closed");
        }
    }
}

struct Listeners {
    tcp: TcpListener,
    admin: Option<TcpListener>,
}

impl Listeners {
    async fn bind(config: &ClusterConfig, section: &NodeSection) -> Result<Self, StartError> {
        let ports = section.ports;
        Ok(Self {
            tcp: listen(&join_host_port(&section.ip, ports.tcp), "clients").await?,
            admin: match config.admin.enabled {
                true => {
                    let address = join_host_port(&config.admin.ip, ports.admin);
                    Some(listen(&address, "the admin endpoint").await?)
                }
                false => None,
            },
        })
    }
}

/// The names under which clients know this node.
fn tls_names(section: &NodeSection) -> Vec<String> {
    let mut names = vec![
        section.client_host().to_owned(),
        section.ip.clone(),
        "localhost".to_owned(),
    ];
    names.extend(
        section
            .advertised_addresses
            .iter()
            .map(|advertised| advertised.address.clone()),
    );
    names.sort_unstable();
    names.dedup();
    names
}

fn node_info(section: &NodeSection, incarnation: u64) -> NodeInfo {
    NodeInfo {
        node: section.replica(),
        name: section.name.clone(),
        incarnation,
        host: section.client_host().to_owned(),
        tcp_port: section.ports.tcp,
        admin: join_host_port(&section.ip, section.ports.admin),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn open_error(path: &Path, source: impl Into<OpenError>) -> LogError {
    LogError::Open {
        path: path.to_owned(),
        source: source.into(),
    }
}

/// A directory that holds messages and no superblock is damaged rather than empty.
fn refuse_messages_alone(data: &Path) -> Result<(), SuperblockError> {
    match replicated_log::is_empty(&RealDisk::new(data)?)? && holds_messages(data)? {
        true => Err(SuperblockError::Corrupt),
        false => Ok(()),
    }
}

fn holds_messages(data: &Path) -> Result<bool, SuperblockError> {
    let path = data.join("partitions");
    let unreadable = |source| {
        SuperblockError::Disk(DiskError {
            operation: "list",
            path: path.display().to_string(),
            source,
        })
    };
    let entries = match std::fs::read_dir(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(unreadable)?,
    };
    for entry in entries {
        // The storage makes hidden ones before there is any partition.
        let name = entry.map_err(unreadable)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Requests of other nodes.
struct Requests {
    metadata: Arc<Metadata>,
    local: Arc<LocalPartitions>,
}

#[async_trait]
impl RpcHandler for Requests {
    async fn handle(
        &self,
        _from: ReplicaId,
        channel: Channel,
        kind: u8,
        payload: Bytes,
    ) -> RpcReply {
        match channel {
            Channel::Data => self.local.serve_bytes(payload).await,
            _ => self.metadata.serve_control(kind, payload).await,
        }
    }
}

/// Follows what changes: removes what partitions and groups that are gone left
/// behind, now and from earlier lives, and wakes who waits for changes.
async fn clean_up(
    metadata: Arc<Metadata>,
    local: Arc<LocalPartitions>,
    mut events: tokio_mpsc::UnboundedReceiver<MetadataEvent>,
) {
    while metadata.barrier().await.is_err() {}
    local.remove_strangers().await;
    while let Some(event) = events.recv().await {
        let keys: Vec<PartitionKey> = match event {
            MetadataEvent::PartitionsRemoved(keys) => keys,
            MetadataEvent::GroupRemoved(group) => {
                local.remove_group(group).await;
                continue;
            }
            MetadataEvent::Revoking => {
                local.hand_overs.notify_one();
                continue;
            }
            MetadataEvent::Restored => {
                local.remove_strangers().await;
                continue;
            }
            _ => continue,
        };
        local.remove(keys).await;
    }
}
