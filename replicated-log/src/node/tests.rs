use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use consensus::{
    ApplyContext, FrozenState, Membership, ProposeError, RestoreError, UnknownCommand,
};
use replica::disk::MemoryDisk;

use super::*;
use crate::admission::Registration;
use crate::error::{FatalCause, LogThread, TransferError};
use crate::handle::ReplicatedLog;
use crate::peers::PeerAddress;
use crate::{Backend, HumanDuration};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A command that only a newer program knows.
const NEWER: &[u8] = b"newer";

/// Replies with the number of commands so far; panics at an empty one.
#[derive(Clone, Default)]
struct Count {
    count: u8,
    knows_newer: bool,
}

impl StateMachine for Count {
    fn apply(&mut self, _: ApplyContext, command: &[u8]) -> Result<Bytes, UnknownCommand> {
        assert!(!command.is_empty(), "a panic on purpose");
        if command == NEWER && !self.knows_newer {
            return Err(UnknownCommand("command 9".into()));
        }
        self.count += 1;
        Ok(Bytes::copy_from_slice(&[self.count]))
    }

    fn freeze(&self) -> Box<dyn FrozenState> {
        Box::new(self.clone())
    }

    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
        self.count = encoded[0];
        Ok(())
    }
}

impl FrozenState for Count {
    fn encode(&self) -> Vec<u8> {
        vec![self.count]
    }
}

/// A registry that commits its no-op by the log of its node.
struct Registry {
    log: LogHandle,
    registered: bool,
    consulted: AtomicBool,
}

#[async_trait]
impl ReplicaRegistry for Registry {
    fn is_registered(&self, _replica: ReplicaId) -> bool {
        self.registered
    }

    async fn commit_noop(&self) -> bool {
        self.consulted.store(true, Ordering::Relaxed);
        self.log.read().await.is_ok()
    }
}

async fn builders(backend: Backend, replicas: u64) -> Vec<LogNodeBuilder> {
    let mut listeners = Vec::new();
    let mut peers = Peers::default();
    for replica in (0..replicas).map(ReplicaId::from_number) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        peers.insert(PeerAddress { replica, address });
        listeners.push((replica, listener));
    }
    let builder = |(me, listener)| {
        let mut config = LogConfig::new("test", me, peers.clone(), "nowhere").unwrap();
        config.settings.backend = backend;
        config.settings.heartbeat_interval = HumanDuration::from_millis(20);
        LogNode::builder(config, Box::<Count>::default())
            .disk(Arc::new(MemoryDisk::new()))
            .listener(listener)
    };
    listeners.into_iter().map(builder).collect()
}

/// Submits a command to the leader, once it is known.
async fn submit(nodes: &[LogNode]) -> Bytes {
    let mut leadership = nodes[0].log().leadership();
    loop {
        let known = leadership.wait_for(|now| now.leader.is_some()).await;
        let leader = known.unwrap().leader.unwrap();
        let log = nodes[leader.number() as usize].log();
        match log.submit(Bytes::from_static(b"command")).await {
            Ok(applied) => return applied.reply,
            Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn new_replicas_confirm_to_each_other_that_they_have_never_run() {
    for backend in [Backend::Raft, Backend::Vr] {
        let mut starting = JoinSet::new();
        for builder in builders(backend, 3).await {
            starting.spawn(async {
                let opened = builder
                    .empty_disk(EmptyDisk::AskPeers)
                    .open()
                    .await
                    .unwrap();
                let registry = Registry {
                    log: opened.log().clone(),
                    registered: false,
                    consulted: AtomicBool::new(false),
                };
                opened.registry(Arc::new(registry)).serve()
            });
        }
        let mut nodes = starting.join_all().await;
        nodes.sort_by_key(|node| node.links.identity().replica);
        assert_eq!(submit(&nodes).await[..], [1]);
        for node in nodes {
            assert_eq!(node.incarnation(), 1);
            node.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_replica_that_is_registered_does_not_start_with_an_empty_disk() {
    let mut builders = builders(Backend::Raft, 2).await;
    let empty = builders.pop().unwrap();
    let opened = builders.remove(0).empty_disk(EmptyDisk::Format);
    let opened = opened.open().await.unwrap();
    let registry = Arc::new(Registry {
        log: opened.log().clone(),
        registered: true,
        consulted: AtomicBool::new(false),
    });
    let _node = opened.registry(registry.clone()).serve();
    let started = empty.empty_disk(EmptyDisk::AskPeers).start().await;
    match started.map(drop) {
        Err(LogError::DiskLost { peer, .. }) => assert_eq!(peer.number(), 0),
        other => panic!("{other:?}"),
    }
    assert!(!registry.consulted.load(Ordering::Relaxed));
}

#[tokio::test]
async fn an_empty_disk_is_refused_unless_the_program_decides_otherwise() {
    let builder = builders(Backend::Vr, 1).await.remove(0);
    let error = builder.start().await.map(drop).unwrap_err();
    assert!(error.to_string().contains("format it"), "{error}");
}

#[tokio::test]
async fn a_transfer_that_is_impossible_is_refused() {
    for backend in [Backend::Raft, Backend::Vr] {
        let builder = builders(backend, 1).await.remove(0);
        let node = builder.empty_disk(EmptyDisk::Format).start().await.unwrap();
        let nodes = [node];
        assert_eq!(submit(&nodes).await[..], [1]);
        let [node] = nodes;
        let log = node.log().clone();
        let refused = log.transfer(ReplicaId::from_number(98)).await;
        assert!(matches!(refused, Err(TransferError::Refused(_))));
        node.stop().await.unwrap();
        let stopped = log.transfer(ReplicaId::from_number(0)).await;
        assert!(matches!(stopped, Err(TransferError::Stopped)));
        assert!(log.status().await.is_none());
    }
}

#[tokio::test]
async fn a_panic_of_the_state_machine_stops_the_node_and_its_callers() {
    let builder = builders(Backend::Raft, 1).await.remove(0);
    let node = builder.empty_disk(EmptyDisk::Format).start().await.unwrap();
    let mut nodes = [node];
    submit(&nodes).await;
    let [node] = &mut nodes;
    let log = node.log().clone();
    let submitted = tokio::spawn(async move { log.submit(Bytes::new()).await });
    let error = tokio::time::timeout(TIMEOUT, node.stopped()).await.unwrap();
    let error = error.unwrap_err();
    assert_eq!(error.thread, LogThread::Consensus);
    assert!(matches!(error.cause, FatalCause::Panic), "{error}");
    // The panic may have unwound through the call itself.
    if let Ok(outcome) = submitted.await {
        assert_eq!(outcome, Err(ProposeError::OutcomeUnknown));
    }
    assert!(node.stopped().await.is_ok());
}

/// Skipped, the command would have an effect on the replicas that know it only.
#[tokio::test]
async fn an_unknown_command_stops_the_replica_until_it_is_upgraded() {
    let disk = MemoryDisk::new();
    let log = |knows_newer| {
        let disk = disk.clone();
        async move {
            let builder = builders(Backend::Raft, 1).await.remove(0);
            let mut builder = builder.disk(Arc::new(disk)).empty_disk(EmptyDisk::Format);
            builder.machine = Box::new(Count {
                knows_newer,
                ..Count::default()
            });
            builder.start().await.unwrap()
        }
    };
    let mut nodes = [log(false).await];
    assert_eq!(submit(&nodes).await[..], [1]);
    let _ = nodes[0].log().submit(Bytes::from_static(NEWER)).await;
    let [node] = &mut nodes;
    let stopped = tokio::time::timeout(TIMEOUT, node.stopped()).await.unwrap();
    let error = stopped.unwrap_err().to_string();
    assert!(error.contains("(command 9): upgrade this node"), "{error}");
    // The same program stops again.
    let mut node = log(false).await;
    let stopped = tokio::time::timeout(TIMEOUT, node.stopped()).await.unwrap();
    assert!(stopped.is_err());
    let nodes = [log(true).await];
    assert_eq!(submit(&nodes).await[..], [3]);
}

#[tokio::test]
async fn metrics_number_the_leader_as_the_configuration_does() {
    let builder = builders(Backend::Vr, 1).await.remove(0);
    let metrics = Arc::<LogMetrics>::default();
    let builder = builder
        .metrics(Arc::clone(&metrics))
        .empty_disk(EmptyDisk::Format);
    let nodes = [builder.start().await.unwrap()];
    submit(&nodes).await;
    let mut status = nodes[0].log().status().await.unwrap();
    for (leader, value) in [(Some(ReplicaId::from_number(0)), 1), (None, 0)] {
        status.core.leader = leader;
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register_status(&mut registry, &status, nodes[0].links().counters());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = format!("\nleader{{replica_id=\"0\"}} {value}\n");
        assert!(text.contains(&line), "{text}");
    }
}

/// Its disk was formatted again, or is an older copy.
#[tokio::test]
async fn a_replica_whose_disk_is_not_the_registered_one_stops() {
    struct Registered(Registration);

    #[async_trait]
    impl ReplicaRegistry for Registered {
        fn is_registered(&self, _replica: ReplicaId) -> bool {
            true
        }

        fn registration(&self, _replica: ReplicaId) -> Option<Registration> {
            Some(self.0)
        }

        async fn commit_noop(&self) -> bool {
            false
        }
    }

    for (incarnation, storage_id, why) in [
        (2, 0, "presents incarnation 1, but has run as incarnation 2"),
        (1, 9 << 96, "but has had disk 00000009: what it has voted"),
    ] {
        let registered = Registration {
            incarnation,
            storage_id,
        };
        let mut builders = builders(Backend::Raft, 2).await;
        let (again, first) = (builders.pop().unwrap(), builders.pop().unwrap());
        let first = first.registry(Arc::new(Registered(registered)));
        let first = first.empty_disk(EmptyDisk::Format).start().await.unwrap();
        stops_for(again, why).await;
        first.stop().await.unwrap();
    }
}

/// It has acknowledged, and nothing replicated names its disk: only its peer has seen it.
#[tokio::test]
async fn a_replica_that_comes_back_on_another_disk_before_it_has_registered_stops() {
    for backend in [Backend::Raft, Backend::Vr] {
        let mut builders = builders(backend, 2).await;
        let (mut second, first) = (builders.pop().unwrap(), builders.pop().unwrap());
        let config = second.config.clone();
        // A node that has stopped may not have closed its socket yet.
        let socket = second.listener.take().unwrap().into_std().unwrap();
        let listener = || TcpListener::from_std(socket.try_clone().unwrap()).unwrap();
        second.listener = Some(listener());
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let second = second.disk(Arc::clone(&disk));
        let mut nodes = Vec::new();
        for builder in [first, second] {
            nodes.push(builder.empty_disk(EmptyDisk::Format).start().await.unwrap());
        }
        submit(&nodes).await;
        nodes.pop().unwrap().stop().await.unwrap();
        let again =
            || LogNode::builder(config.clone(), Box::<Count>::default()).listener(listener());
        let empty = again().disk(Arc::new(MemoryDisk::new()));
        stops_for(empty, "but has had disk").await;
        // The disk that it has had is welcome.
        nodes.push(again().disk(disk).start().await.unwrap());
        submit(&nodes).await;
        for node in nodes {
            node.stop().await.unwrap();
        }
    }
}

/// Starts a node on an empty disk; another one refuses it.
async fn stops_for(node: LogNodeBuilder, why: &str) {
    let mut node = node.empty_disk(EmptyDisk::Format).start().await.unwrap();
    assert_eq!(node.incarnation(), 1);
    let stopped = tokio::time::timeout(TIMEOUT, node.stopped()).await;
    let error = stopped.unwrap().unwrap_err();
    assert!(
        matches!(error.cause, FatalCause::Outdated { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(why), "{text}");
}

#[tokio::test]
async fn a_replica_with_another_list_does_not_start_on_its_disk_or_join_with_a_new_one() {
    let mut builders = builders(Backend::Vr, 2).await;
    let (mut other, first) = (builders.pop().unwrap(), builders.pop().unwrap());
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let first = first.disk(Arc::clone(&disk)).empty_disk(EmptyDisk::Format);
    let config = first.config.clone();
    let first = first.start().await.unwrap();
    let replica = ReplicaId::from_number(9);
    let third = |config: &mut LogConfig| {
        let address = "127.0.0.1:1".to_owned();
        config.peers.insert(PeerAddress { replica, address });
        config.membership = Membership::new(1, config.peers.replicas(), []).unwrap();
    };
    third(&mut other.config);
    let refused = other.empty_disk(EmptyDisk::AskPeers).start().await;
    let text = refused.map(drop).unwrap_err().to_string();
    let lists = "is configured with the replicas 0, 1, this node with 0, 1, 9;";
    assert!(text.contains(lists), "{text}");
    first.stop().await.unwrap();
    let mut changed = config;
    third(&mut changed);
    let again = LogNode::builder(changed, Box::<Count>::default()).disk(disk);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = again.listener(listener).start().await.map(drop);
    let text = text.unwrap_err().to_string();
    let lists = "a cluster of the replicas 0, 1, but the configuration lists 0, 1, 9;";
    assert!(text.contains(lists), "{text}");
}
