//! Construction of a node: its parts, their connections and its tasks.

use std::sync::Arc;

use ::partitions::{EmbeddedStorage, EmbeddedStorageConfig, NodeStorage, PartitionStorage};
use adapters::metadata::{MetadataEvent, MetadataMachine, MetadataReader, NodeInfo};
use replicated_log::links::{Channel, Links};
use replicated_log::{EmptyDisk, LogNode, MemoryBudget, OpenedNode, listen};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::info;

use super::admission::Registered;
use super::data_directory::use_data_directory;
use super::descriptors::{self, Shares};
use super::empty_disk::refuse_messages_alone;
use super::services::{Requests, clean_up};
use super::{Node, StartError};
use crate::admin::{self, Admin, DiskProbe, Reporter, Started};
use crate::cluster::{FoundStorage, Members, Metadata};
use crate::config::{ClusterConfig, NodeSection, RootUser, join_host_port};
use crate::copies::{Copies, CopiesSettings, CopyLanes, Proposed};
use crate::metrics::Metrics;
use crate::partitions::{self, Affected, LocalPartitions, Partitions};
use crate::server::Server;

/// A node that is not started yet.
#[must_use = "a node runs only after start()"]
pub struct NodeBuilder {
    config: ClusterConfig,
    replica_id: Option<u8>,
    root: RootUser,
    storage: Option<Arc<dyn PartitionStorage>>,
}

impl NodeBuilder {
    pub(super) fn new(config: ClusterConfig) -> Self {
        Self {
            config,
            replica_id: None,
            root: RootUser::default(),
            storage: None,
        }
    }

    /// Which of the `[[cluster.nodes]]` to start. Required unless the cluster has only one.
    pub fn replica_id(mut self, replica_id: u8) -> Self {
        self.replica_id = Some(replica_id);
        self
    }

    /// The root user of a new cluster; `iggy` with the password `iggy` by default.
    pub fn root(mut self, root: RootUser) -> Self {
        self.root = root;
        self
    }

    /// A partition storage of the caller's. By default, partitions are stored in files in
    /// the data directory.
    pub fn storage(mut self, storage: Arc<dyn PartitionStorage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Starts the node.
    ///
    /// A node with an empty data directory first asks the other nodes whether it has run
    /// before. It waits until that is known: in a new cluster, until all voters are
    /// reachable. [`Node::format`] initializes the directory without them.
    ///
    /// # Errors
    /// When the node is not in the configuration, its data cannot be opened or is lost, or
    /// its addresses are in use.
    pub async fn start(self) -> Result<Node, StartError> {
        let section = self.section()?.clone();
        let mut config = self.config;
        let shares = descriptors::share(&mut config, section.replica())?;
        use_data_directory(&config.storage.path)?;
        let storage = match self.storage {
            Some(storage) => storage,
            None => built_in_storage(&config, shares)?,
        };
        refuse_messages_alone(&config.storage.path)?;
        let started = Started::default();
        let mut tasks = serve_admin(&config, &section, &started).await?;
        let (events, changes) = mpsc::unbounded_channel();
        let (assigned, assignments) = mpsc::unbounded_channel();
        let affected = Arc::new(Affected::default());
        let noting = Arc::clone(&affected);
        let observer = Box::new(move |event| {
            noting.note(&event);
            if matches!(
                event,
                MetadataEvent::AssignmentsChanged(_) | MetadataEvent::Restored
            ) {
                drop(assigned.send(event.clone()));
            }
            drop(events.send(event));
        });
        let (machine, reader) = MetadataMachine::new(observer);
        let metrics = Arc::new(Metrics::new());
        let memory = MemoryBudget::new(config.tcp.memory_max.bytes() as usize);
        let opened = LogNode::builder(config.log(&section)?, Box::new(machine))
            .metrics(Arc::clone(&metrics.log))
            .memory(memory.clone())
            .empty_disk(EmptyDisk::AskPeers)
            .open()
            .await?;
        let (files, found) = node_storage(&config, &opened).await?;
        // Until here, clients that connect are refused rather than left waiting.
        let clients = listen_for_clients(&section).await?;
        let (parts, proposed) = Parts::new(
            config,
            section,
            (storage, Arc::clone(&files), &found),
            (reader, affected),
            &opened,
            metrics,
            memory,
        )?;
        let reporter = Arc::new(Reporter {
            config: parts.config.clone(),
            metadata: Arc::clone(&parts.metadata),
            storage: Arc::clone(&parts.storage),
            log: Arc::clone(&parts.metrics.log),
            disk: DiskProbe::new(parts.config.storage.path.join("meta/probe")),
            incarnation: opened.incarnation(),
        });
        let requests = Requests {
            metadata: Arc::clone(&parts.metadata),
            local: Arc::clone(&parts.local),
            reporter: Arc::clone(&reporter),
        };
        let run = Run {
            root: self.root,
            incarnation: opened.incarnation(),
            found,
            clients,
            changes,
            assignments,
            proposed,
            links: opened.links().clone(),
        };
        let lanes = Arc::new(CopyLanes::new(Arc::clone(&parts.copies)));
        parts.copies.connect(run.links.lanes());
        let replica = opened
            .lanes(Arc::clone(&lanes) as _, lanes)
            .on_request(Arc::new(requests))
            .registry(Arc::new(Registered(Arc::clone(&parts.metadata))))
            .serve();
        let admin = Admin {
            reporter,
            local: Arc::clone(&parts.local),
            metrics: Arc::clone(&parts.metrics),
            links: Arc::clone(run.links.counters()),
        };
        // Nothing else sets it.
        let _ = started.set(admin);
        parts.spawn(&mut tasks, run);
        info!(
            replica_id = parts.section.replica_id,
            tcp = parts.section.client_address(),
            replica_port = parts.section.ports.tcp_replica,
            "the node runs"
        );
        Ok(Node {
            replica,
            log: Arc::clone(&parts.metadata.log),
            storage: parts.storage,
            copies: parts.copies,
            files,
            tasks,
        })
    }

    fn section(&self) -> Result<&NodeSection, StartError> {
        match (self.replica_id, self.config.cluster.nodes.as_slice()) {
            (Some(replica_id), _) => self
                .config
                .node(replica_id)
                .ok_or(StartError::UnknownReplica(replica_id)),
            (None, [only]) => Ok(only),
            (None, _) => Err(StartError::NoReplicaId),
        }
    }
}

fn built_in_storage(
    config: &ClusterConfig,
    shares: Shares,
) -> Result<Arc<dyn PartitionStorage>, StartError> {
    let path = config.storage.path.join("partitions");
    let bounds = EmbeddedStorageConfig {
        open_files_max: shares.partition_files,
        ..EmbeddedStorageConfig::default()
    };
    let storage = EmbeddedStorage::new(path, bounds)?;
    Ok(Arc::new(storage))
}

/// The files that the node has beside those of its partitions, and what may be missing.
async fn node_storage(
    config: &ClusterConfig,
    opened: &OpenedNode,
) -> Result<(Arc<NodeStorage>, FoundStorage), StartError> {
    let path = config.storage.path.join("partitions");
    let (storage_id, incarnation) = (opened.storage_id(), opened.incarnation());
    let opened =
        tokio::task::spawn_blocking(move || NodeStorage::open(path, storage_id, incarnation));
    // It fails only by a panic.
    let (files, log) = opened.await.unwrap_or_else(|panic| {
        std::panic::resume_unwind(panic.into_panic());
    })?;
    Ok((Arc::new(files), FoundStorage { storage_id, log }))
}

/// What the tasks of a node share.
struct Parts {
    config: ClusterConfig,
    section: NodeSection,
    storage: Arc<dyn PartitionStorage>,
    metadata: Arc<Metadata>,
    local: Arc<LocalPartitions>,
    copies: Arc<Copies>,
    server: Arc<Server>,
    metrics: Arc<Metrics>,
}

/// What only the start of the tasks needs.
struct Run {
    root: RootUser,
    incarnation: u64,
    found: FoundStorage,
    clients: TcpListener,
    changes: mpsc::UnboundedReceiver<MetadataEvent>,
    /// Those of assignments.
    assignments: mpsc::UnboundedReceiver<MetadataEvent>,
    proposed: mpsc::UnboundedReceiver<Proposed>,
    links: Links,
}

impl Parts {
    fn new(
        config: ClusterConfig,
        section: NodeSection,
        (storage, files, found): (Arc<dyn PartitionStorage>, Arc<NodeStorage>, &FoundStorage),
        (reader, affected): (MetadataReader, Arc<Affected>),
        opened: &OpenedNode,
        metrics: Arc<Metrics>,
        memory: MemoryBudget,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Proposed>), StartError> {
        let metadata = Arc::new(Metadata::new(
            section.replica(),
            Arc::new(opened.log().clone()),
            reader,
            opened.links().requests(Channel::Control),
            config.tcp.request_timeout.duration(),
            config.cluster.fencing_timeout.duration(),
        ));
        let settings = CopiesSettings {
            incarnation: opened.incarnation(),
            log: found.log,
            files,
            failover_timeout: config.cluster.partition_failover_timeout.duration(),
        };
        let (copies, proposed) = Copies::new(Arc::clone(&metadata), Arc::clone(&storage), settings);
        let local = LocalPartitions::new(Arc::clone(&metadata), Arc::clone(&storage));
        let mut local = local.memory(memory).copies(Arc::clone(&copies));
        local.retention_blocked = metrics.retention_blocked.clone();
        local.polls_shortened = metrics.polls_shortened.clone();
        local.without_memory = metrics.requests_without_memory.clone();
        let local = Arc::new(local);
        let partitions = Arc::new(Partitions::new(
            Arc::clone(&metadata),
            Arc::clone(&local),
            opened.links().requests(Channel::Data),
            affected,
        ));
        let server = Arc::new(Server::new(
            config.clone(),
            Arc::clone(&metadata),
            partitions,
            Arc::clone(&metrics),
            tls_names(&section),
        )?);
        let parts = Self {
            config,
            section,
            storage,
            metadata,
            local,
            copies,
            server,
            metrics,
        };
        Ok((parts, proposed))
    }

    /// Starts the tasks. They end when the set is dropped.
    fn spawn(&self, tasks: &mut JoinSet<()>, run: Run) {
        let Self {
            config,
            section,
            metadata,
            local,
            ..
        } = self;
        tasks.spawn(Arc::clone(&self.server).run(run.clients));
        tasks.spawn(Arc::clone(metadata).keep_current());
        tasks.spawn(partitions::complete_revocations(
            Arc::clone(local),
            config.consumer_group.rebalancing_timeout.duration(),
        ));
        let maintenance = &config.data_maintenance.messages;
        if maintenance.cleaner_enabled {
            tasks.spawn(partitions::clean_messages(
                Arc::clone(local),
                maintenance.interval.duration(),
            ));
        }
        tasks.spawn(clean_up(
            Arc::clone(metadata),
            Arc::clone(local),
            run.changes,
        ));
        let copies = &self.copies;
        tasks.spawn(Arc::clone(copies).follow(run.assignments));
        tasks.spawn(Arc::clone(copies).propose(run.proposed));
        tasks.spawn(Arc::clone(copies).tick());
        tasks.spawn(Arc::clone(copies).regain_trust());
        let members = Members {
            metadata: Arc::clone(metadata),
            info: node_info(section, run.incarnation),
            storage: run.found,
            root: run.root,
            fencing_timeout: config.cluster.fencing_timeout.duration(),
            failover_timeout: config.cluster.partition_failover_timeout.duration(),
            links: run.links,
            started: std::time::Instant::now(),
        };
        let members = Arc::new(members);
        tasks.spawn(Arc::clone(&members).replace_silent_leaders());
        tasks.spawn(members.run());
    }
}

/// Serves the admin endpoint from now on, with what is known of a node that starts. The
/// task ends when the set is dropped.
async fn serve_admin(
    config: &ClusterConfig,
    section: &NodeSection,
    started: &Started,
) -> Result<JoinSet<()>, StartError> {
    let mut tasks = JoinSet::new();
    if config.admin.enabled {
        let address = join_host_port(&config.admin.ip, section.ports.admin);
        let listener = listen(&address, "the admin endpoint").await?;
        tasks.spawn(admin::run(Arc::clone(started), listener));
    }
    Ok(tasks)
}

async fn listen_for_clients(section: &NodeSection) -> Result<TcpListener, StartError> {
    let address = join_host_port(&section.ip, section.ports.tcp);
    Ok(listen(&address, "clients").await?)
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
