//! A replicated log in memory, for tests of the layers above it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adapters::metadata::{Command, MetadataMachine, Name, NodeInfo, Observer, Proof, Reply};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::{ApplyContext, Index, ProposeError, ReadError, ReplicaId, StateMachine, Term};
use replica::driver::{Applied, ReplicaStatus};
use tokio::sync::watch;

use super::metadata::Metadata;
use replicated_log::links::RequestLinks;
use replicated_log::{Leadership, ReplicatedLog, TransferError};

pub(crate) const ME: ReplicaId = ReplicaId(1);

/// Longer than any test.
const LEASE: Duration = Duration::from_secs(24 * 3_600);

/// The outcome of the next command.
pub(crate) enum Fate {
    /// It is applied and its outcome is lost; then these commands are applied.
    Lost(Vec<Command>),
    /// It is rejected.
    NotLeader,
    /// Its outcome is never known.
    Stuck,
}

/// A log whose only node leads.
pub(crate) struct FakeLog {
    machine: Mutex<(u64, MetadataMachine)>,
    fates: Mutex<VecDeque<Fate>>,
    /// Committed, and not yet applied at this node.
    unseen: Mutex<Vec<Command>>,
    reads_stuck: AtomicBool,
    observer: Arc<Mutex<Option<Observer>>>,
    status: Mutex<Option<ReplicaStatus>>,
    leadership: watch::Sender<Leadership>,
}

impl FakeLog {
    /// The log, with this node and a root user in it, and the metadata above it. The lease
    /// of the local state does not end.
    pub(crate) fn start(timeout: Duration) -> (Arc<Self>, Arc<Metadata>) {
        Self::start_with_lease(timeout, LEASE)
    }

    /// The same with another lease; with none, every request catches up with the log.
    pub(crate) fn start_with_lease(
        timeout: Duration,
        lease: Duration,
    ) -> (Arc<Self>, Arc<Metadata>) {
        let observer: Arc<Mutex<Option<Observer>>> = Arc::default();
        let observe = {
            let observer = Arc::clone(&observer);
            Box::new(move |event| {
                if let Some(observer) = &mut *observer.lock().unwrap() {
                    observer(event);
                }
            })
        };
        let (machine, reader) = MetadataMachine::new(observe);
        let leadership = Leadership {
            term: Term(1),
            leader: Some(ME),
        };
        let log = Arc::new(Self {
            machine: Mutex::new((0, machine)),
            fates: Mutex::default(),
            unseen: Mutex::default(),
            reads_stuck: AtomicBool::new(false),
            observer,
            status: Mutex::default(),
            leadership: watch::Sender::new(leadership),
        });
        log.register_node(ME);
        log.apply(&Command::BootstrapRoot {
            username: Name::new("iggy").unwrap(),
            password_hash: String::new(),
        });
        let metadata = Metadata::new(
            ME,
            Arc::clone(&log) as Arc<dyn ReplicatedLog>,
            reader,
            RequestLinks::default(),
            timeout,
            lease,
        );
        metadata.renew();
        (log, Arc::new(metadata))
    }

    /// Registers a node; returns its registration.
    pub(crate) fn register_node(&self, node: ReplicaId) -> u64 {
        self.register_version(node, "")
    }

    /// Registers a node with this version of the software; returns its registration.
    pub(crate) fn register_version(&self, node: ReplicaId, version: &str) -> u64 {
        let applied = self.apply(&Command::RegisterNode(Self::node_info(node, version)));
        match Reply::decode(&applied.reply) {
            Ok(Reply::NodeRegistered { registration }) => registration,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn node_info(node: ReplicaId, version: &str) -> NodeInfo {
        NodeInfo {
            node,
            name: format!("node-{node}"),
            incarnation: 1,
            host: "127.0.0.1".into(),
            tcp_port: 8090,
            admin: String::new(),
            version: version.into(),
        }
    }

    pub(crate) fn apply(&self, command: &Command) -> Applied {
        let mut machine = self.machine.lock().unwrap();
        machine.0 += 1;
        let index = Index(machine.0);
        let context = ApplyContext {
            index,
            position: 0,
            timestamp_micros: 0,
        };
        let reply = machine.1.apply(context, &command.encode()).unwrap();
        Applied { index, reply }
    }

    /// Opens a session for a client.
    pub(crate) fn register(&self, client: u128) -> u64 {
        let applied = self.apply(&Command::Register {
            client,
            user_id: 0,
            proof: Proof::Password(1),
            node: ME,
            registration: 1,
        });
        match Reply::decode(&applied.reply) {
            Ok(Reply::Registered { session }) => session,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn expect(&self, fate: Fate) {
        self.fates.lock().unwrap().push_back(fate);
    }

    /// Observes the commands that are applied from now on.
    pub(crate) fn observe(&self, observer: Observer) {
        *self.observer.lock().unwrap() = Some(observer);
    }

    /// Reads are never confirmed from now on.
    pub(crate) fn stop_reads(&self) {
        self.reads_stuck.store(true, Ordering::Relaxed);
    }

    /// The status from now on; none without it, as of a replica that has stopped.
    pub(crate) fn set_status(&self, status: ReplicaStatus) {
        *self.status.lock().unwrap() = Some(status);
    }

    /// Committed, and applied at this node only by the next confirmed read.
    pub(crate) fn commit_unseen(&self, command: Command) {
        self.unseen.lock().unwrap().push(command);
    }
}

#[async_trait]
impl ReplicatedLog for FakeLog {
    async fn submit(&self, command: Bytes) -> Result<Applied, ProposeError> {
        let fate = self.fates.lock().unwrap().pop_front();
        match fate {
            Some(Fate::NotLeader) => return Err(ProposeError::NotLeader { leader: None }),
            Some(Fate::Stuck) => std::future::pending().await,
            _ => {}
        }
        let applied = self.apply(&Command::decode(&command).unwrap());
        let Some(Fate::Lost(then)) = fate else {
            return Ok(applied);
        };
        for command in then {
            self.apply(&command);
        }
        Err(ProposeError::OutcomeUnknown)
    }

    async fn read(&self) -> Result<Index, ReadError> {
        if self.reads_stuck.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let unseen = std::mem::take(&mut *self.unseen.lock().unwrap());
        for command in unseen {
            self.apply(&command);
        }
        Ok(Index(self.machine.lock().unwrap().0))
    }

    async fn transfer(&self, _to: ReplicaId) -> Result<(), TransferError> {
        Err(TransferError::Stopped)
    }

    async fn status(&self) -> Option<ReplicaStatus> {
        self.status.lock().unwrap().clone()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}
