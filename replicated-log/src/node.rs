//! A node: one replica with its disk, its threads and its links.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::{ReplicaId, StateMachine};
use replica::disk::{Disk, RealDisk, open_to_others};
use replica::open::{OpenError, Opened};
use replica::superblock::{self, SuperblockError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::warn;

use crate::address::listen;
use crate::admission::{self, Admission, NotAdmitted, ReplicaRegistry};
use crate::config::LogConfig;
use crate::error::{FatalError, LogError};
use crate::handle::LogHandle;
use crate::inbox::{Inbox, Message};
use crate::links::{
    Channel, Identity, LaneSink, LaneSource, Links, Outdated, RpcHandler, RpcReply, Services,
};
use crate::memory::MemoryBudget;
use crate::metrics::LogMetrics;
use crate::patient_disk::PatientDisk;
use crate::peers::Peers;
use crate::storage;
use crate::threads::ReplicaThreads;

/// Memory for large frames, if the program sets no budget.
const MEMORY_BYTES: usize = 512 << 20;

/// What a node does when its disk is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyDisk {
    /// It does not start: an operator must format the disk.
    #[default]
    Refuse,
    /// It formats the disk, on the word of the program that the replica has never run. A
    /// replica whose disk was lost must not come back so under its id: it may have voted
    /// and acknowledged.
    Format,
    /// It waits until every other voter confirms that the replica has never run, then
    /// formats the disk. In a new cluster, that is until all voters have started. The nodes
    /// need a [`ReplicaRegistry`] to confirm it for a replica that joins later.
    AskPeers,
}

/// The settings of a node that is to start. See [`LogNode::builder`].
pub struct LogNodeBuilder {
    config: LogConfig,
    machine: Box<dyn StateMachine>,
    disk: Option<Arc<dyn Disk>>,
    empty_disk: EmptyDisk,
    listener: Option<TcpListener>,
    metrics: Arc<LogMetrics>,
    memory: MemoryBudget,
    requests: Arc<dyn RpcHandler>,
    registry: Option<Arc<dyn ReplicaRegistry>>,
    lanes: Option<LaneEnds>,
}

/// Where the lanes of a node start and end.
type LaneEnds = (Arc<dyn LaneSource>, Arc<dyn LaneSink>);

impl LogNodeBuilder {
    /// The disk; by default the directory [`LogConfig::data`].
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = Some(disk);
        self
    }

    /// What to do when the disk is empty; by default [`EmptyDisk::Refuse`].
    #[must_use]
    pub fn empty_disk(mut self, policy: EmptyDisk) -> Self {
        self.empty_disk = policy;
        self
    }

    /// A socket that listens for the other nodes already; by default the node listens on
    /// [`LogConfig::listen`].
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// The metrics that the node counts in, so that the caller can register them.
    #[must_use]
    pub fn metrics(mut self, metrics: Arc<LogMetrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// The memory for frames of [`Channel::Data`] that are longer than 64 KiB, for as long as
    /// any part of them is kept; a frame waits while there is none. By default 512 MiB of this
    /// node's own. It must be larger than the largest frame, of 80 MiB.
    #[must_use]
    pub fn memory(mut self, budget: MemoryBudget) -> Self {
        self.memory = budget;
        self
    }

    /// Serves the requests of other nodes, which they send by [`Links::requests`]; by
    /// default the reply is empty. A handler that needs the log itself is given to
    /// [`OpenedNode::on_request`].
    #[must_use]
    pub fn on_request(mut self, handler: Arc<dyn RpcHandler>) -> Self {
        self.requests = handler;
        self
    }

    /// See [`OpenedNode::lanes`].
    #[must_use]
    pub fn lanes(mut self, source: Arc<dyn LaneSource>, sink: Arc<dyn LaneSink>) -> Self {
        self.lanes = Some((source, sink));
        self
    }

    /// See [`OpenedNode::registry`].
    #[must_use]
    pub fn registry(mut self, registry: Arc<dyn ReplicaRegistry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Starts the node.
    ///
    /// # Errors
    /// When the address is in use, or the disk is empty or cannot be opened.
    pub async fn start(self) -> Result<LogNode, LogError> {
        Ok(self.open().await?.serve())
    }

    /// Opens the disk and starts the replica, which does not accept connections before
    /// [`OpenedNode::serve`]. Between the two the caller builds what needs the log, and
    /// serves the requests of the other nodes.
    ///
    /// # Errors
    /// When the address is in use, or the disk is empty or cannot be opened.
    pub async fn open(self) -> Result<OpenedNode, LogError> {
        let Self { config, .. } = self;
        let listener = match self.listener {
            Some(listener) => listener,
            None => listen(&config.listen, "other nodes").await?,
        };
        let listener = Arc::new(listener);
        let disk = match self.disk {
            Some(disk) => disk,
            None => real_disk(&config)?,
        };
        let disk: Arc<dyn Disk> = Arc::new(PatientDisk::new(disk));
        let (peers, watched) = watch::channel(config.peers.clone());
        match self.empty_disk {
            EmptyDisk::Refuse => {}
            EmptyDisk::Format => format_if_empty(&config, disk.as_ref())?,
            EmptyDisk::AskPeers => {
                if !admit_if_empty(&config, disk.as_ref(), &listener, &watched).await? {
                    check_if_unchecked(&config, disk.as_ref(), &watched).await?;
                }
            }
        }
        let opened = storage::open(&config, &disk, self.machine)
            .map_err(|source| open_error(&config, source))?;
        let identity = identity(&config, opened.incarnation, opened.storage_id);
        let links = Links::new(identity, watched, self.memory);
        let node = start_replica(&config, opened, links, peers, &self.metrics)?;
        Ok(OpenedNode {
            node,
            listener,
            requests: self.requests,
            registry: self.registry,
            lanes: self.lanes,
        })
    }
}

/// A node whose replica runs, and which does not accept the connections of its peers yet.
#[must_use = "peers cannot connect before `serve` is called"]
pub struct OpenedNode {
    node: LogNode,
    listener: Arc<TcpListener>,
    requests: Arc<dyn RpcHandler>,
    registry: Option<Arc<dyn ReplicaRegistry>>,
    lanes: Option<LaneEnds>,
}

impl OpenedNode {
    /// The log.
    #[must_use]
    pub fn log(&self) -> &LogHandle {
        self.node.log()
    }

    /// The links to the other nodes.
    #[must_use]
    pub fn links(&self) -> &Links {
        self.node.links()
    }

    /// See [`LogNode::incarnation`].
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.node.incarnation()
    }

    /// See [`LogNode::storage_id`].
    #[must_use]
    pub fn storage_id(&self) -> u128 {
        self.node.storage_id()
    }

    /// Serves the requests of other nodes.
    pub fn on_request(mut self, handler: Arc<dyn RpcHandler>) -> Self {
        self.requests = handler;
        self
    }

    /// Sends frames of `source` on lanes to the other nodes, and delivers theirs to `sink`,
    /// from [`serve`](Self::serve) on. The source is woken by [`Links::lanes`].
    pub fn lanes(mut self, source: Arc<dyn LaneSource>, sink: Arc<dyn LaneSink>) -> Self {
        self.lanes = Some((source, sink));
        self
    }

    /// Lets this node confirm to a replica with an empty disk that it has never run.
    pub fn registry(mut self, registry: Arc<dyn ReplicaRegistry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Accepts the connections of the other nodes from now on.
    #[must_use]
    pub fn serve(self) -> LogNode {
        let mut node = self.node;
        if let Some(registry) = &self.registry {
            let registry = Arc::clone(registry);
            node.links
                .fence(move |replica| registry.registration(replica));
        }
        let (source, sink) = self.lanes.unzip();
        if let Some(source) = source {
            node.links.connect_lanes(source);
        }
        let inbox = node.log().inbox.clone();
        let services = Services {
            one_way: Box::new(move |from, message| inbox.peer(from, message)),
            requests: self.requests,
            admission: Arc::new(Admission {
                log: Arc::new(node.log().clone()),
                registry: self.registry,
            }),
            lanes: sink,
        };
        let listener = node.links.listener(Some(services));
        node.tasks.spawn(listener.run(self.listener));
        node
    }
}

/// A running node. Dropping it stops it immediately, as a crash would.
///
/// It listens for the other nodes only: to serve clients is up to the program around it.
pub struct LogNode {
    replica: ReplicaThreads,
    links: Links,
    incarnation: u64,
    storage_id: u128,
    /// The list of peers, which links and listener follow.
    _peers: watch::Sender<Peers>,
    tasks: JoinSet<()>,
}

impl LogNode {
    /// A node to be started, under a state machine that holds the state before the first
    /// command.
    #[must_use]
    pub fn builder(config: LogConfig, machine: Box<dyn StateMachine>) -> LogNodeBuilder {
        LogNodeBuilder {
            config,
            machine,
            disk: None,
            empty_disk: EmptyDisk::default(),
            listener: None,
            metrics: Arc::default(),
            memory: MemoryBudget::new(MEMORY_BYTES),
            requests: Arc::new(NoRequests),
            registry: None,
            lanes: None,
        }
    }

    /// Formats the disk of a replica that has never run. A replica whose disk was lost must
    /// not come back so under its id: it may have voted and acknowledged.
    ///
    /// # Errors
    /// When the disk holds a replica already, or cannot be written.
    pub fn format(config: &LogConfig, disk: &dyn Disk) -> Result<(), LogError> {
        storage::format(config, disk)
            .and_then(|()| Ok(superblock::skip_peer_check(disk)?))
            .map_err(|source| open_error(config, source))
    }

    /// The same, after asking the peers that can be reached whether this replica has run; the
    /// first start with [`EmptyDisk::AskPeers`] asks them again. Returns those that have not confirmed that it has never run, because they cannot be
    /// reached or cannot know.
    ///
    /// # Errors
    /// When a peer knows this replica or belongs to a cluster with other replicas, the disk
    /// holds a replica already, or it cannot be written.
    pub async fn format_unless_known(
        config: &LogConfig,
        disk: &dyn Disk,
    ) -> Result<Vec<ReplicaId>, LogError> {
        if !storage::is_empty(disk).map_err(|source| open_error(config, source))? {
            return Err(open_error(config, SuperblockError::Formatted));
        }
        let (_peers, watched) = watch::channel(config.peers.clone());
        let links = Links::new(
            identity(config, 0, 0),
            watched,
            MemoryBudget::new(MEMORY_BYTES),
        );
        let voters = links.voters(&config.membership);
        let unconfirmed = admission::check_format(voters)
            .await
            .map_err(|why| not_admitted(config, why))?;
        storage::format(config, disk).map_err(|source| open_error(config, source))?;
        Ok(unconfirmed)
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &LogHandle {
        &self.replica.log
    }

    /// The links to the other nodes.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// How often this node has been started on its disk, the present start included.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Names the disk of this node, for as long as it exists: random, above zero.
    #[must_use]
    pub fn storage_id(&self) -> u128 {
        self.storage_id
    }

    /// Waits until the replica stops, which it does only after [`stop`](Self::stop) and
    /// after an error that does not allow it to continue. The error is returned once.
    ///
    /// # Errors
    /// Why the replica could not continue.
    pub async fn stopped(&mut self) -> Result<(), FatalError> {
        self.replica.stopped().await
    }

    /// Stops the node. What it has acknowledged is durable already.
    ///
    /// # Errors
    /// When the replica had stopped before, because it could not continue.
    pub async fn stop(mut self) -> Result<(), FatalError> {
        self.replica.stop();
        self.tasks.abort_all();
        self.replica.stopped().await
    }
}

fn start_replica(
    config: &LogConfig,
    opened: Opened,
    links: Links,
    peers: watch::Sender<Peers>,
    metrics: &Arc<LogMetrics>,
) -> Result<LogNode, LogError> {
    let (incarnation, storage_id) = (opened.incarnation, opened.storage_id);
    let replica = ReplicaThreads::start(opened, &config.settings, metrics, |inbox| {
        links.connect(Arc::new(inbox.clone()));
    })?;
    let mut tasks = JoinSet::new();
    tasks.spawn(links.clone().follow_peers());
    tasks.spawn(stop_when_outdated(links.clone(), replica.log.inbox.clone()));
    Ok(LogNode {
        replica,
        links,
        incarnation,
        storage_id,
        _peers: peers,
        tasks,
    })
}

/// A replica that has forgotten what it has acknowledged must not take part: it stops.
async fn stop_when_outdated(links: Links, inbox: Inbox) {
    let Outdated { peer, reason } = links.outdated().await;
    let error = FatalError::outdated(peer, reason);
    inbox.post_and_wake(Message::Fatal(Box::new(error)));
}

fn identity(config: &LogConfig, incarnation: u64, storage_id: u128) -> Identity {
    Identity {
        cluster: config.cluster.clone(),
        replica: config.me,
        incarnation,
        storage_id,
        membership: Some(config.membership.clone()),
    }
}

fn real_disk(config: &LogConfig) -> Result<Arc<dyn Disk>, LogError> {
    let disk = RealDisk::new(&config.data).map_err(|source| open_error(config, source))?;
    // It keeps the permissions that it was created with.
    let open = open_to_others(&config.data).map_err(|source| open_error(config, source))?;
    if let Some(mode) = open {
        let path = config.data.display();
        warn!(
            mode = format!("{mode:o}"),
            "other users of this machine have access to the data directory, whose log and \
             snapshots contain hashes of passwords; run: chmod -R go= {path}"
        );
    }
    Ok(Arc::new(disk))
}

fn open_error(config: &LogConfig, source: impl Into<OpenError>) -> LogError {
    LogError::Open {
        path: config.data.clone(),
        source: Box::new(source.into()),
    }
}

fn not_admitted(config: &LogConfig, why: NotAdmitted) -> LogError {
    let path = config.data.clone();
    match why {
        NotAdmitted::HasRun(peer) => LogError::DiskLost { path, peer },
        NotAdmitted::Members(error) => {
            let reason = error.to_string();
            LogError::OtherMembers { path, reason }
        }
    }
}

fn format_if_empty(config: &LogConfig, disk: &dyn Disk) -> Result<(), LogError> {
    let is_empty = storage::is_empty(disk).map_err(|source| open_error(config, source))?;
    match is_empty {
        true => LogNode::format(config, disk),
        false => Ok(()),
    }
}

/// Formats an empty disk when the peers confirm that this replica has never run. Whether it
/// was empty.
async fn admit_if_empty(
    config: &LogConfig,
    disk: &dyn Disk,
    listener: &Arc<TcpListener>,
    peers: &watch::Receiver<Peers>,
) -> Result<bool, LogError> {
    if !storage::is_empty(disk).map_err(|source| open_error(config, source))? {
        return Ok(false);
    }
    let memory = MemoryBudget::new(MEMORY_BYTES);
    let links = Links::new(identity(config, 0, 0), peers.clone(), memory);
    let mut replying = JoinSet::new();
    replying.spawn(links.listener(None).run(Arc::clone(listener)));
    let is_formatted = || storage::is_empty(disk).is_ok_and(|is_empty| !is_empty);
    admission::admit(links.voters(&config.membership), is_formatted)
        .await
        .map_err(|why| not_admitted(config, why))?;
    replying.shutdown().await;
    match storage::format(config, disk) {
        // An operator has formatted it meanwhile.
        Ok(()) | Err(SuperblockError::Formatted) => Ok(true),
        Err(source) => Err(open_error(config, source)),
    }
}

/// The first start on a disk that an operator has formatted: the peers that can be reached
/// may know that this replica has run on another one.
async fn check_if_unchecked(
    config: &LogConfig,
    disk: &dyn Disk,
    peers: &watch::Receiver<Peers>,
) -> Result<(), LogError> {
    if !superblock::is_unchecked(disk).map_err(|source| open_error(config, source))? {
        return Ok(());
    }
    let links = Links::new(
        identity(config, 0, 0),
        peers.clone(),
        MemoryBudget::new(MEMORY_BYTES),
    );
    match admission::check_format(links.voters(&config.membership)).await {
        Ok(_) => Ok(()),
        Err(NotAdmitted::HasRun(peer)) => Err(LogError::Reformatted {
            path: config.data.clone(),
            peer,
        }),
        Err(why) => Err(not_admitted(config, why)),
    }
}

/// Replies to every request with nothing.
struct NoRequests;

#[async_trait]
impl RpcHandler for NoRequests {
    async fn handle(
        &self,
        _from: ReplicaId,
        _channel: Channel,
        _kind: u8,
        _payload: Bytes,
    ) -> RpcReply {
        RpcReply::new()
    }

    fn without_memory(&self) -> RpcReply {
        RpcReply::new()
    }
}

#[cfg(test)]
mod tests;
