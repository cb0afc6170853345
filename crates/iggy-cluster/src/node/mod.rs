//! One running node.

mod admission;
mod consensus_thread;
mod handle;
mod open;
mod wal_thread;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use adapters::metadata::{MetadataEvent, NodeInfo, PartitionKey};
use adapters::storage::{EmbeddedStorage, EmbeddedStorageConfig, PartitionStorage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::ReplicaId;
use replica::driver::FileEvent;
use replica::snapshots::FileWorker;
use replica::superblock::SuperblockError;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc as tokio_mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::admin::{self, Admin};
use crate::cluster::{self, LastHeard, Members, Metadata};
use crate::config::{ClusterConfig, NodeSection, RootUser, join_host_port};
use crate::metrics::Metrics;
use crate::partitions::{self, LocalPartitions, Partitions};
use crate::peers::{
    Identity, Lane, LinkCounters, LinkLimits, OneWayLink, PeerListener, RpcHandler, RpcLink,
    RpcReply, Services, Target,
};
use crate::server::{Server, TlsError};
use admission::Registered;
use consensus_thread::{ConsensusThread, PeerLinks};
use handle::{Answers, Inbox, LocalLog, Message};
pub use handle::{Leadership, ReplicatedLog};
pub use replica::open::OpenError;

/// Why a node cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration does not list this node.
    #[error("replica id {0} is not in [[cluster.nodes]]")]
    UnknownReplica(u8),
    /// The data directory cannot be opened.
    #[error("{path}: {source}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The disk of a node that has run is gone.
    #[error(
        "{path} is empty, but replica id {peer} knows this node as one that has run: its disk is lost, and with it what it has acknowledged. Bring the directory back, but no older backup; the other nodes go on without this one"
    )]
    DiskLost {
        /// The directory.
        path: PathBuf,
        /// Who knows it.
        peer: u64,
    },
    /// The partitions cannot be opened.
    #[error("partitions: {0}")]
    Storage(#[from] StorageError),
    /// An address is taken or not this machine's.
    #[error(
        "cannot listen on {address} for {purpose}: {source}; is another node running, or is the address not this machine's?"
    )]
    Listen {
        /// The address.
        address: String,
        /// For whom.
        purpose: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Clients cannot be served over TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A running node. Dropping it stops it at once, as a crash would.
pub struct Node {
    inbox: Inbox,
    log: Arc<dyn ReplicatedLog>,
    storage: Arc<dyn PartitionStorage>,
    tasks: JoinSet<()>,
    stopped: oneshot::Receiver<Result<(), String>>,
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
        open::format(config, section.replica(), path).map_err(|source| StartError::Open {
            path: path.clone(),
            source: source.into(),
        })
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
        let replica_port = listen(&section.ip, section.ports.tcp_replica, "other nodes").await?;
        let replica_port = Arc::new(replica_port);
        begin_if_empty(&config, &section, &replica_port).await?;
        // Whoever connects before finds nobody rather than silence.
        let listeners = Listeners::bind(&config, &section, replica_port).await?;
        let (events, removed) = tokio_mpsc::unbounded_channel();
        let data = config.storage.path.clone();
        let observer = Box::new(move |event| drop(events.send(event)));
        let (opened, reader) = open::open(&config, me, &data, observer)
            .map_err(|source| StartError::Open { path: data, source })?;
        let metrics = Arc::new(Metrics::new());
        metrics.set_wal(opened.wal.size());
        metrics
            .snapshot_bytes
            .store(opened.snapshot_bytes, std::sync::atomic::Ordering::Relaxed);

        let (inbox, messages) = Inbox::new();
        let peers = Peers::new(&config, &section, opened.incarnation);
        let (leadership, follows) = watch::channel(Leadership::default());
        let (wal, wal_jobs) = mpsc::channel();
        let (files, file_jobs) = mpsc::channel();
        let thread = ConsensusThread {
            replica: opened.replica,
            tick: config.cluster.consensus.tick(),
            inbox: inbox.clone(),
            messages,
            wal,
            files,
            links: peers.links(&inbox),
            leadership,
            answers: Answers::default(),
            started: Instant::now(),
            metrics: Arc::clone(&metrics),
        };
        let log: Arc<dyn ReplicatedLog> = Arc::new(LocalLog {
            inbox: inbox.clone(),
            leadership: follows,
        });
        let metadata = Arc::new(Metadata::new(
            me,
            Arc::clone(&log),
            reader,
            peers.rpc(Lane::Control),
            config.tcp.request_timeout.duration(),
        ));
        let local = Arc::new(LocalPartitions::new(
            Arc::clone(&metadata),
            Arc::clone(&storage),
        ));
        let partitions = Arc::new(Partitions::new(
            Arc::clone(&metadata),
            Arc::clone(&local),
            peers.rpc(Lane::Data),
        ));
        let server = Arc::new(Server::new(
            config.clone(),
            Arc::clone(&metadata),
            partitions,
            Arc::clone(&metrics),
            tls_names(&section),
        )?);

        let mut tasks = JoinSet::new();
        tasks.spawn(
            peers
                .listener(&inbox, &metadata, &local)
                .run(listeners.replica),
        );
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
                info: node_info(&section, opened.incarnation),
                root,
                fencing_timeout: config.cluster.fencing_timeout.duration(),
                heard: Arc::clone(&peers.heard),
            }
            .run(),
        );
        if let Some(listener) = listeners.admin {
            let admin = Admin {
                config: config.clone(),
                metadata,
                metrics: Arc::clone(&metrics),
                links: Arc::clone(&peers.counters),
                incarnation: opened.incarnation,
            };
            tasks.spawn(admin::run(admin, listener));
        }
        let stopped = spawn_threads(
            thread,
            opened.wal,
            wal_jobs,
            opened.files,
            file_jobs,
            &inbox,
            &metrics,
        )?;
        info!(
            replica = replica_id,
            tcp = section.client_address(),
            replica_port = section.ports.tcp_replica,
            "the node runs"
        );
        Ok(Self {
            inbox,
            log,
            storage,
            tasks,
            stopped,
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
    pub async fn stopped(&mut self) -> Result<(), String> {
        match (&mut self.stopped).await {
            Ok(result) => result,
            Err(_) => Err("the consensus thread is gone".into()),
        }
    }

    /// Stops the node. Acknowledged metadata is durable at any moment; messages
    /// whose acknowledgement did not promise that are now synced too.
    pub async fn stop(mut self) {
        self.inbox.put(Message::Stop);
        self.tasks.abort_all();
        let _ = self.stopped().await;
        if let Err(error) = self.storage.shutdown().await {
            error!(%error, "not all partitions could be closed");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.inbox.put(Message::Stop);
    }
}

struct Listeners {
    tcp: TcpListener,
    replica: Arc<TcpListener>,
    admin: Option<TcpListener>,
}

impl Listeners {
    async fn bind(
        config: &ClusterConfig,
        section: &NodeSection,
        replica: Arc<TcpListener>,
    ) -> Result<Self, StartError> {
        let ports = section.ports;
        Ok(Self {
            tcp: listen(&section.ip, ports.tcp, "clients").await?,
            replica,
            admin: match config.admin.enabled {
                true => Some(listen(&config.admin.ip, ports.admin, "the admin endpoint").await?),
                false => None,
            },
        })
    }
}

async fn listen(ip: &str, port: u16, purpose: &'static str) -> Result<TcpListener, StartError> {
    let address = join_host_port(ip, port);
    TcpListener::bind(&address)
        .await
        .map_err(|source| StartError::Listen {
            address,
            purpose,
            source,
        })
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

/// Links to the other nodes.
struct Peers {
    targets: BTreeMap<ReplicaId, Target>,
    identity: Arc<Identity>,
    limits: LinkLimits,
    counters: Arc<LinkCounters>,
    heard: Arc<LastHeard>,
}

impl Peers {
    fn new(config: &ClusterConfig, section: &NodeSection, incarnation: u64) -> Self {
        let identity = Arc::new(Identity {
            cluster: config.cluster.name.clone(),
            replica: section.replica(),
            incarnation,
        });
        let limits = LinkLimits::default();
        let counters = Arc::<LinkCounters>::default();
        let others = config
            .cluster
            .nodes
            .iter()
            .filter(|node| node.replica() != section.replica());
        let targets: BTreeMap<_, _> = others
            .map(|node| {
                let target = Target {
                    replica: node.replica(),
                    address: node.replica_address(),
                    identity: Arc::clone(&identity),
                    limits,
                    counters: Arc::clone(&counters),
                };
                (node.replica(), target)
            })
            .collect();
        Self {
            heard: Arc::new(LastHeard::new(targets.keys().copied())),
            targets,
            identity,
            limits,
            counters,
        }
    }

    /// Those that vote.
    fn voters(&self, config: &ClusterConfig) -> Vec<Target> {
        let voters = config.voters();
        let targets = self.targets.values();
        targets
            .filter(|target| voters.contains(&target.replica))
            .cloned()
            .collect()
    }

    fn links(&self, inbox: &Inbox) -> PeerLinks {
        let start = |lane: Lane| {
            let links = self.targets.iter().map(|(id, target)| {
                let inbox = inbox.clone();
                let broken = move |peer| inbox.unreachable(peer);
                (*id, OneWayLink::start(target.clone(), lane, broken))
            });
            links.collect()
        };
        PeerLinks {
            consensus: start(Lane::Consensus),
            bulk: start(Lane::Bulk),
        }
    }

    fn rpc(&self, lane: Lane) -> BTreeMap<ReplicaId, RpcLink> {
        let links = self.targets.iter();
        links
            .map(|(id, target)| (*id, RpcLink::start(target.clone(), lane)))
            .collect()
    }

    fn listener(
        &self,
        inbox: &Inbox,
        metadata: &Arc<Metadata>,
        local: &Arc<LocalPartitions>,
    ) -> PeerListener {
        let (inbox, heard) = (inbox.clone(), Arc::clone(&self.heard));
        PeerListener {
            heard: Mutex::default(),
            identity: Arc::clone(&self.identity),
            members: self.targets.keys().copied().collect(),
            services: Some(Services {
                one_way: Box::new(move |from, message| {
                    heard.note(from);
                    inbox.peer(from, message);
                }),
                requests: Arc::new(Requests {
                    metadata: Arc::clone(metadata),
                    local: Arc::clone(local),
                }),
                witness: Arc::new(Registered(Arc::clone(metadata))),
            }),
            limits: self.limits,
            counters: Arc::clone(&self.counters),
        }
    }

    fn listener_before_begin(&self) -> PeerListener {
        PeerListener {
            heard: Mutex::default(),
            identity: Arc::clone(&self.identity),
            members: self.targets.keys().copied().collect(),
            services: None,
            limits: self.limits,
            counters: Arc::clone(&self.counters),
        }
    }
}

/// Begins an empty disk, when the others say that this node has never run.
async fn begin_if_empty(
    config: &ClusterConfig,
    section: &NodeSection,
    listener: &Arc<TcpListener>,
) -> Result<(), StartError> {
    let (me, path) = (section.replica(), &config.storage.path);
    let failed = |source: SuperblockError| StartError::Open {
        path: path.clone(),
        source: source.into(),
    };
    if !open::is_empty(path).map_err(failed)? {
        return Ok(());
    }
    let peers = Peers::new(config, section, 0);
    let mut answering = JoinSet::new();
    answering.spawn(peers.listener_before_begin().run(Arc::clone(listener)));
    let formatted = || open::is_empty(path).is_ok_and(|empty| !empty);
    admission::admit(peers.voters(config), formatted)
        .await
        .map_err(|peer| StartError::DiskLost {
            path: path.clone(),
            peer: peer.0 - 1,
        })?;
    answering.shutdown().await;
    match open::format(config, me, path) {
        // An operator was quicker.
        Ok(()) | Err(SuperblockError::Formatted) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Requests of other nodes.
struct Requests {
    metadata: Arc<Metadata>,
    local: Arc<LocalPartitions>,
}

#[async_trait]
impl RpcHandler for Requests {
    async fn handle(&self, _from: ReplicaId, lane: Lane, kind: u8, payload: Bytes) -> RpcReply {
        match lane {
            Lane::Data => self.local.serve_bytes(payload).await,
            _ => cluster::serve_control(&self.metadata, kind, payload).await,
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

/// Starts the threads; the receiver tells how the consensus thread ended.
fn spawn_threads(
    consensus: ConsensusThread,
    wal: replica::wal::Wal,
    wal_jobs: mpsc::Receiver<wal_thread::WalJob>,
    worker: FileWorker,
    file_jobs: mpsc::Receiver<replica::driver::FileJob>,
    inbox: &Inbox,
    metrics: &Arc<Metrics>,
) -> Result<oneshot::Receiver<Result<(), String>>, StartError> {
    let (ended, stopped) = oneshot::channel();
    let named = |name: &str| std::thread::Builder::new().name(name.into());
    let (wal_inbox, wal_metrics) = (inbox.clone(), Arc::clone(metrics));
    named("wal")
        .spawn(move || wal_thread::run(wal, &wal_jobs, &wal_inbox, &wal_metrics))
        .map_err(StartError::Thread)?;
    let file_inbox = inbox.clone();
    named("snapshots")
        .spawn(move || {
            while let Ok(job) = file_jobs.recv() {
                let event = worker.execute(job);
                if let FileEvent::Saved(Err(why)) = &event {
                    tracing::error!(why, "cannot store a snapshot; it will be tried again");
                }
                file_inbox.put(Message::File(event));
            }
        })
        .map_err(StartError::Thread)?;
    named("consensus")
        .spawn(move || drop(ended.send(consensus.run())))
        .map_err(StartError::Thread)?;
    Ok(stopped)
}
