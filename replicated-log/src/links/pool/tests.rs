use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::Parts;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::disk_history::{AdmissionService, DiskHistory};
use super::super::rpc::{RpcError, RpcHandler, RpcReply};
use super::*;
use crate::peers::PeerAddress;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Holds the one-way links, as an engine does.
#[derive(Default)]
struct Sender(Mutex<BTreeMap<ReplicaId, OneWayLinks>>);

impl Sender {
    fn send(&self, to: ReplicaId, message: &'static [u8]) -> bool {
        let links = self.0.lock().unwrap();
        let Some(link) = links.get(&to) else {
            return false;
        };
        link.consensus
            .send(Parts::from(Bytes::from_static(message)));
        link.consensus.flush();
        true
    }
}

impl OneWaySender for Sender {
    fn opened(&self, peer: ReplicaId, links: OneWayLinks) {
        self.0.lock().unwrap().insert(peer, links);
    }

    fn closed(&self, peer: ReplicaId) {
        self.0.lock().unwrap().remove(&peer);
    }

    fn unreachable(&self, _peer: ReplicaId) {}
}

struct Echo;

#[async_trait]
impl RpcHandler for Echo {
    async fn handle(&self, _: ReplicaId, _: Channel, _: u8, payload: Bytes) -> RpcReply {
        vec![payload]
    }

    fn without_memory(&self) -> RpcReply {
        RpcReply::new()
    }
}

#[async_trait]
impl AdmissionService for Echo {
    async fn history(&self, _of: ReplicaId) -> DiskHistory {
        DiskHistory::NeverRan
    }
}

/// One node: the list of peers, its links, and the messages that it receives.
struct Node {
    replica: ReplicaId,
    peers: watch::Sender<Peers>,
    links: Links,
    sender: Arc<Sender>,
    address: String,
    received: mpsc::UnboundedReceiver<(ReplicaId, Bytes)>,
    _tasks: JoinSet<()>,
}

impl Node {
    async fn start(number: u64) -> Self {
        let replica = ReplicaId::from_number(number);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let identity = Identity {
            cluster: "c".into(),
            replica,
            incarnation: 1,
            storage_id: 7,
            membership: None,
        };
        let (peers, watched) = watch::channel(Peers::default());
        let links = Links::new(identity, watched, MemoryBudget::new(1 << 20));
        let sender = Arc::<Sender>::default();
        links.connect(sender.clone());
        let (messages, received) = mpsc::unbounded_channel();
        let services = Services {
            one_way: Box::new(move |from, message| drop(messages.send((from, message)))),
            requests: Arc::new(Echo),
            admission: Arc::new(Echo),
            lanes: None,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(links.listener(Some(services)).run(Arc::new(listener)));
        tasks.spawn(links.clone().follow_peers());
        Self {
            replica,
            peers,
            links,
            sender,
            address,
            received,
            _tasks: tasks,
        }
    }

    fn add(&self, peer: &Self) {
        let address = PeerAddress {
            replica: peer.replica,
            address: peer.address.clone(),
        };
        self.peers.send_modify(|peers| peers.insert(address));
    }

    fn remove(&self, peer: &Self) {
        self.peers.send_modify(|peers| peers.remove(peer.replica));
    }

    /// Sends until the peer has received a message: the first may precede the connection.
    async fn send_until_received(&self, to: &mut Self) {
        self.send_this_until_received(to, b"message").await;
    }

    async fn send_this_until_received(&self, to: &mut Self, expected: &'static [u8]) {
        loop {
            self.sender.send(to.replica, expected);
            tokio::select! {
                Some((from, message)) = to.received.recv() => {
                    assert_eq!(from, self.replica);
                    if message == expected {
                        return;
                    }
                }
                () = tokio::task::yield_now() => {}
            }
        }
    }

    /// Calls until there is a reply: a call that precedes the connection fails.
    async fn call_until_replied(&self, requests: &RequestLinks, to: ReplicaId) {
        let call = || requests.call(to, 7, vec![Bytes::from_static(b"hello")], TIMEOUT);
        while call().await != Ok(Bytes::from_static(b"hello")) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_added_is_linked_and_one_that_is_removed_is_not() {
    let near = Node::start(0).await;
    let mut far = Node::start(1).await;
    let requests = near.links.requests(Channel::Data);
    let call = || requests.call(far.replica, 7, Vec::new(), TIMEOUT);
    assert_eq!(call().await, Err(RpcError::NotSent));
    assert!(!near.sender.send(far.replica, b"message"));

    near.add(&far);
    far.add(&near);
    near.send_until_received(&mut far).await;
    near.call_until_replied(&requests, far.replica).await;
    // Also links of a channel that was opened after the peer was added.
    let control = near.links.requests(Channel::Control);
    near.call_until_replied(&control, far.replica).await;
    let long_ago = Instant::now();
    near.send_until_received(&mut far).await;
    assert!(far.links.silence(near.replica, long_ago) < TIMEOUT);

    // The near node closes its links.
    near.remove(&far);
    while near.sender.send(far.replica, b"message") {
        tokio::task::yield_now().await;
    }
    for links in [&requests, &control] {
        while links.call(far.replica, 7, Vec::new(), TIMEOUT).await != Err(RpcError::NotSent) {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(near.links.silence(far.replica, long_ago), Duration::ZERO);

    // A peer that comes back is linked again.
    near.add(&far);
    near.send_until_received(&mut far).await;
    near.call_until_replied(&requests, far.replica).await;
}

#[tokio::test]
async fn a_node_closes_the_connections_of_a_peer_that_it_removes() {
    let near = Node::start(0).await;
    let mut far = Node::start(1).await;
    near.add(&far);
    far.add(&near);
    let requests = near.links.requests(Channel::Control);
    near.send_until_received(&mut far).await;
    near.call_until_replied(&requests, far.replica).await;
    assert_eq!(
        far.links
            .counters()
            .refused
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );

    // The near node still dials, and is refused.
    far.remove(&near);
    let refused = || {
        let counters = near.links.counters();
        counters.refused.load(std::sync::atomic::Ordering::Relaxed)
    };
    while refused() == 0 {
        tokio::task::yield_now().await;
    }
    while requests
        .call(far.replica, 7, Vec::new(), TIMEOUT)
        .await
        .is_ok()
    {}
    while far.received.try_recv().is_ok() {}
    assert!(near.sender.send(far.replica, b"message"));
    tokio::task::yield_now().await;
    assert!(far.received.try_recv().is_err());

    // It is accepted again.
    far.add(&near);
    near.send_until_received(&mut far).await;
}

#[tokio::test]
async fn a_peer_whose_address_changes_is_dialled_there() {
    let near = Node::start(0).await;
    let mut before = Node::start(1).await;
    let mut after = Node::start(1).await;
    before.add(&near);
    after.add(&near);
    near.add(&before);
    near.send_until_received(&mut before).await;
    near.add(&after);
    near.send_until_received(&mut after).await;
    // From here on, everything goes to the new address.
    near.send_this_until_received(&mut after, b"new").await;
    // The node's own entry in the list opens no link to itself.
    near.add(&near);
    near.send_this_until_received(&mut after, b"own").await;
    assert!(!near.sender.send(near.replica, b"message"));
    while let Ok((_, message)) = before.received.try_recv() {
        assert_eq!(message[..], b"message"[..]);
    }
}
