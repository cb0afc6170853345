//! Construction of a node: its parts, their connections and its tasks.

use std::sync::Arc;

use ::partitions::{EmbeddedStorage, EmbeddedStorageConfig, PartitionStorage};
use adapters::metadata::{MetadataEvent, MetadataMachine, MetadataReader, NodeInfo};
use replica::disk::{Disk, RealDisk};
use replicated_log::links::{Lane, Links, Services};
use replicated_log::{LogConfig, LogError, OpenError, Opened, RunningLog, listen};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::info;

use super::admission::Registered;
use super::services::{Requests, clean_up};
use super::{Node, StartError, empty_disk};
use crate::admin::{self, Admin};
use crate::cluster::{LastHeard, Members, Metadata};
use crate::config::{ClusterConfig, NodeSection, RootUser, join_host_port};
use crate::metrics::Metrics;
use crate::partitions::{self, LocalPartitions, Partitions};
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
        let config = self.config;
        let storage = match self.storage {
            Some(storage) => storage,
            None => built_in_storage(&config)?,
        };
        let log_config = config.log(&section)?;
        let replica = Arc::new(listen(&log_config.listen, "other nodes").await?);
        empty_disk::initialize(&log_config, &replica).await?;
        // Clients that connect earlier are refused, rather than accepted and not served.
        let listeners = Listeners::bind(&config, &section, replica).await?;
        let (events, changes) = mpsc::unbounded_channel();
        let observer = Box::new(move |event| drop(events.send(event)));
        let (machine, reader) = MetadataMachine::new(observer);
        let opened = open_log(&log_config, machine)?;
        let incarnation = opened.incarnation;
        let metrics = Arc::new(Metrics::new());
        let links = Links::new(&log_config, incarnation);
        let running = RunningLog::start(opened, &log_config, &links, &metrics.log)?;
        let parts = Parts::new(config, section, storage, reader, &running, &links, metrics)?;
        let tasks = parts.spawn(Run {
            root: self.root,
            incarnation,
            listeners,
            changes,
            links: &links,
            running: &running,
        });
        info!(
            replica_id = parts.section.replica_id,
            tcp = parts.section.client_address(),
            replica_port = parts.section.ports.tcp_replica,
            "the node runs"
        );
        Ok(Node {
            log: Arc::new(running.log.clone()),
            running,
            storage: parts.storage,
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

fn built_in_storage(config: &ClusterConfig) -> Result<Arc<dyn PartitionStorage>, StartError> {
    let path = config.storage.path.join("partitions");
    let storage = EmbeddedStorage::new(path, EmbeddedStorageConfig::default())?;
    Ok(Arc::new(storage))
}

fn open_log(config: &LogConfig, machine: MetadataMachine) -> Result<Opened, LogError> {
    RealDisk::new(&config.data)
        .map_err(OpenError::from)
        .and_then(|disk| {
            let disk: Arc<dyn Disk> = Arc::new(disk);
            replicated_log::open(config, &disk, Box::new(machine))
        })
        .map_err(|source| LogError::Open {
            path: config.data.clone(),
            source,
        })
}

/// What the tasks of a node share.
struct Parts {
    config: ClusterConfig,
    section: NodeSection,
    storage: Arc<dyn PartitionStorage>,
    metadata: Arc<Metadata>,
    local: Arc<LocalPartitions>,
    server: Arc<Server>,
    metrics: Arc<Metrics>,
}

/// What only the start of the tasks needs.
struct Run<'a> {
    root: RootUser,
    incarnation: u64,
    listeners: Listeners,
    changes: mpsc::UnboundedReceiver<MetadataEvent>,
    links: &'a Links,
    running: &'a RunningLog,
}

impl Parts {
    fn new(
        config: ClusterConfig,
        section: NodeSection,
        storage: Arc<dyn PartitionStorage>,
        reader: MetadataReader,
        running: &RunningLog,
        links: &Links,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let metadata = Arc::new(Metadata::new(
            section.replica(),
            Arc::new(running.log.clone()),
            reader,
            links.rpc(Lane::Control),
            config.tcp.request_timeout.duration(),
        ));
        let local = Arc::new(LocalPartitions::new(
            Arc::clone(&metadata),
            Arc::clone(&storage),
        ));
        let partitions = Arc::new(Partitions::new(
            Arc::clone(&metadata),
            Arc::clone(&local),
            links.rpc(Lane::Data),
        ));
        let server = Arc::new(Server::new(
            config.clone(),
            Arc::clone(&metadata),
            partitions,
            Arc::clone(&metrics),
            tls_names(&section),
        )?);
        Ok(Self {
            config,
            section,
            storage,
            metadata,
            local,
            server,
            metrics,
        })
    }

    /// Starts the tasks. They end when the set is dropped.
    fn spawn(&self, run: Run<'_>) -> JoinSet<()> {
        let Self {
            config,
            section,
            metadata,
            local,
            ..
        } = self;
        let heard = Arc::new(LastHeard::new(run.links.others()));
        let services = Services {
            one_way: run.running.log.receiver({
                let heard = Arc::clone(&heard);
                move |from| heard.note(from)
            }),
            requests: Arc::new(Requests {
                metadata: Arc::clone(metadata),
                local: Arc::clone(local),
            }),
            witness: Arc::new(Registered(Arc::clone(metadata))),
        };
        let mut tasks = JoinSet::new();
        let listener = run.links.listener(Some(services));
        tasks.spawn(listener.run(run.listeners.replica));
        tasks.spawn(Arc::clone(&self.server).run(run.listeners.tcp));
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
        let members = Members {
            metadata: Arc::clone(metadata),
            info: node_info(section, run.incarnation),
            root: run.root,
            fencing_timeout: config.cluster.fencing_timeout.duration(),
            heard,
        };
        tasks.spawn(members.run());
        if let Some(listener) = run.listeners.admin {
            let admin = Admin {
                config: config.clone(),
                metadata: Arc::clone(metadata),
                metrics: Arc::clone(&self.metrics),
                links: Arc::clone(&run.links.counters),
                incarnation: run.incarnation,
            };
            tasks.spawn(admin::run(admin, listener));
        }
        tasks
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
            tcp: listen(&join_host_port(&section.ip, ports.tcp), "clients").await?,
            replica,
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
