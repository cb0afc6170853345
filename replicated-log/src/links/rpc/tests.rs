//! Requests and replies between two nodes with real sockets.

use std::sync::Arc;
use std::time::Duration;

use consensus::ReplicaId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::wire::PIECE_BYTES_MAX;
use super::*;
use crate::links::disk_history::{AdmissionService, DiskHistory};
use crate::links::frame;
use crate::links::handshake::{self, Hello};
use crate::links::listener::Services;
use crate::links::pool::Links;
use crate::links::requests::RequestLinks;
use crate::links::target::Identity;
use crate::memory::MemoryBudget;
use crate::peers::{PeerAddress, Peers};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(60);
/// A request for so many bytes.
const BYTES: u8 = 1;
/// A request for the length of its payload.
const LENGTH: u8 = 2;

struct Server;

#[async_trait]
impl RpcHandler for Server {
    async fn handle(&self, _: ReplicaId, channel: Channel, kind: u8, payload: Bytes) -> RpcReply {
        assert_ne!(channel, Channel::DataPieces);
        match kind {
            BYTES => {
                let bytes = u64::from_le_bytes(payload[..8].try_into().unwrap()) as usize;
                // In several parts, which do not end where pieces do.
                let parts = vec![Bytes::from(vec![7; bytes.div_ceil(3)]); 3];
                let mut left = bytes;
                let cut = parts.into_iter().map(|part| {
                    let now = part.len().min(left);
                    left -= now;
                    part.slice(..now)
                });
                cut.collect()
            }
            _ => vec![Bytes::copy_from_slice(&payload.len().to_le_bytes())],
        }
    }

    fn without_memory(&self) -> RpcReply {
        vec![Bytes::from_static(b"none")]
    }
}

#[async_trait]
impl AdmissionService for Server {
    async fn history(&self, _of: ReplicaId) -> DiskHistory {
        DiskHistory::NeverRan
    }
}

struct Node {
    replica: ReplicaId,
    peers: watch::Sender<Peers>,
    links: Links,
    memory: MemoryBudget,
    address: String,
    _tasks: JoinSet<()>,
}

fn identity(number: u64) -> Identity {
    Identity {
        cluster: "c".into(),
        replica: ReplicaId::from_number(number),
        incarnation: 1,
        storage_id: 7,
        membership: None,
    }
}

impl Node {
    async fn start(number: u64, memory_bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (peers, watched) = watch::channel(Peers::default());
        let memory = MemoryBudget::new(memory_bytes);
        let links = Links::new(identity(number), watched, memory.clone());
        let services = Services {
            one_way: Box::new(|_, _| {}),
            requests: Arc::new(Server),
            admission: Arc::new(Server),
            lanes: None,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(links.listener(Some(services)).run(Arc::new(listener)));
        tasks.spawn(links.clone().follow_peers());
        Self {
            replica: ReplicaId::from_number(number),
            peers,
            links,
            memory,
            address,
            _tasks: tasks,
        }
    }

    fn add(&self, replica: ReplicaId, address: &str) {
        let address = PeerAddress {
            replica,
            address: address.to_owned(),
        };
        self.peers.send_modify(|peers| peers.insert(address));
    }

    /// Two nodes, and the links of the near one. The first call waits for the connection.
    async fn pair(near: usize, far: usize) -> (Self, Self, RequestLinks) {
        let (near, far) = (Self::start(0, near).await, Self::start(1, far).await);
        far.add(near.replica, &near.address);
        near.add(far.replica, &far.address);
        let links = near.links.requests(Channel::Data);
        connected(&links, far.replica).await;
        (near, far, links)
    }
}

/// A call that precedes the connection fails.
async fn connected(links: &RequestLinks, to: ReplicaId) {
    while length(links, to, 3).await != Ok(3) {
        tokio::task::yield_now().await;
    }
}

fn bytes(count: usize) -> Vec<Bytes> {
    vec![Bytes::copy_from_slice(&(count as u64).to_le_bytes())]
}

async fn length(links: &RequestLinks, to: ReplicaId, count: usize) -> Result<usize, RpcError> {
    let sent = vec![Bytes::from(vec![7; count])];
    let reply = links.call(to, LENGTH, sent, TIMEOUT).await?;
    Ok(usize::from_le_bytes(reply[..].try_into().unwrap()))
}

#[tokio::test]
async fn requests_and_replies_of_any_length_arrive_whole() {
    let (near, far, links) = Node::pair(512 * MIB, 512 * MIB).await;
    let mut calls = JoinSet::new();
    let lengths = [0, 1, 10, 16 * KIB, PIECE_BYTES_MAX - 1, PIECE_BYTES_MAX];
    let longer = [
        PIECE_BYTES_MAX + 1,
        3 * PIECE_BYTES_MAX,
        5 * MIB,
        20 * MIB + 3,
    ];
    for count in lengths.into_iter().chain(longer) {
        for _ in 0..3 {
            let (links, to) = (links.clone(), far.replica);
            calls.spawn(async move {
                assert_eq!(length(&links, to, count).await, Ok(count));
                let reply = links.call(to, BYTES, bytes(count), TIMEOUT).await.unwrap();
                assert_eq!(reply.len(), count);
                assert!(reply.iter().all(|byte| *byte == 7));
            });
        }
    }
    while let Some(called) = calls.join_next().await {
        called.unwrap();
    }
    assert_eq!(near.memory.reserved_bytes(), 0);
}

/// The fault: replies that are not read take up the memory of the near node, and a further one
/// for which there is none kept all others waiting.
#[tokio::test]
async fn a_reply_without_memory_keeps_no_other_waiting() {
    let (near, far, links) = Node::pair(64 * MIB, 512 * MIB).await;
    let to = far.replica;
    let users = near.memory.account();
    let mut unread = Vec::new();
    loop {
        let share = users.share();
        let Some(memory) = share.try_reserve(4 * MIB) else {
            break;
        };
        let reply = links.call_within(to, BYTES, bytes(4 * MIB), TIMEOUT, memory);
        unread.push(reply.await.unwrap());
    }
    assert_eq!(unread.len(), 7);
    assert_eq!(near.memory.reserved_bytes(), 28 * MIB);
    // More than what is reserved, and than what there is.
    let little = users.share().try_reserve(64 * KIB).unwrap();
    let mut large = Box::pin(links.call_within(to, BYTES, bytes(40 * MIB), TIMEOUT, little));
    let refused = tokio::join!(&mut large, length(&links, to, 200 * KIB));
    assert_eq!(refused, (Err(RpcError::NoRoom(40 * MIB)), Ok(200 * KIB)));
    drop(large);
    assert_eq!(near.memory.reserved_bytes(), 28 * MIB);
    drop(unread);
    assert_eq!(near.memory.reserved_bytes(), 0);
    let memory = users.share().try_reserve(64 * KIB).unwrap();
    let reply = links.call_within(to, BYTES, bytes(20 * MIB), TIMEOUT, memory);
    let reply = reply.await.unwrap();
    assert_eq!(reply.len(), 20 * MIB);
    assert_eq!(near.memory.reserved_bytes(), 20 * MIB);
}

#[tokio::test]
async fn a_request_without_memory_is_refused_and_keeps_no_other_waiting() {
    let (_near, far, links) = Node::pair(512 * MIB, 16 * MIB).await;
    let to = far.replica;
    let sent = vec![Bytes::from(vec![7; 20 * MIB])];
    let refused = links.call(to, LENGTH, sent, TIMEOUT);
    let (refused, served) = tokio::join!(refused, length(&links, to, MIB));
    assert_eq!(
        (refused, served),
        (Ok(Bytes::from_static(b"none")), Ok(MIB))
    );
    assert_eq!(far.memory.reserved_bytes(), 0);
    // The same on the connection of a peer of version 0.1, which sends frames.
    let near = identity(0);
    let mut old = tokio::net::TcpStream::connect(&far.address).await.unwrap();
    let hello = handshake::present(&mut old, &near, to, Channel::Data, Hello::Current);
    hello.await.unwrap();
    for (id, payload, expected) in [
        (1_u64, 20 * MIB, b"none".to_vec()),
        (2, MIB, MIB.to_le_bytes().to_vec()),
    ] {
        let sent = vec![7; payload];
        let frame: [&[u8]; 3] = [&id.to_le_bytes(), &[LENGTH], &sent];
        frame::write(&mut old, &frame).await.unwrap();
        let reply = frame::read_short(&mut old, KIB).await.unwrap().unwrap();
        assert_eq!(reply, [&id.to_le_bytes()[..], &expected].concat());
    }
}

#[tokio::test]
async fn what_was_reserved_is_free_when_the_caller_stops_waiting() {
    let (near, far, links) = Node::pair(64 * MIB, 512 * MIB).await;
    let share = near.memory.account().share();
    let memory = share.try_reserve(8 * MIB).unwrap();
    let to = far.replica;
    let call = links.call_within(to, BYTES, bytes(8 * MIB), Duration::ZERO, memory);
    assert_eq!(call.await, Err(RpcError::Unknown));
    assert_eq!(length(&links, to, 5).await, Ok(5));
    // What had arrived by then is dropped with the rest of it.
    while near.memory.reserved_bytes() > 0 {
        assert_eq!(length(&links, to, 5).await, Ok(5));
    }
}

/// A node that answers the handshake as version 0.1 does.
#[tokio::test]
async fn a_peer_of_version_0_1_is_dialled_again_and_receives_frames() {
    let near = Node::start(0, 64 * MIB).await;
    let to = ReplicaId::from_number(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    near.add(to, &listener.local_addr().unwrap().to_string());
    let old = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let hello = frame::read_short(&mut stream, KIB).await.unwrap().unwrap();
            let (version, channel) = (hello[4], hello[6]);
            let incarnation = 1_u64.to_le_bytes();
            let unknown: Option<&[u8]> = match (version, channel == Channel::Data as u8) {
                (1, true) => None,
                (1, false) => Some(b"not a handshake: unknown channel"),
                _ => Some(b"not a handshake of version 1: another version"),
            };
            if let Some(text) = unknown {
                let refusal: [&[u8]; 3] = [&[1], &incarnation, text];
                frame::write(&mut stream, &refusal).await.unwrap();
                continue;
            }
            frame::write(&mut stream, &[&[0], &incarnation])
                .await
                .unwrap();
            while let Ok(length) = stream.read_u32_le().await {
                let mut request = vec![0; length as usize];
                stream.read_exact(&mut request).await.unwrap();
                assert_eq!(request[8], LENGTH);
                let count = (request.len() - 9).to_le_bytes();
                let reply: [&[u8]; 2] = [&request[..8], &count];
                frame::write(&mut stream, &reply).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    });
    let links = near.links.requests(Channel::Data);
    connected(&links, to).await;
    for count in [0, 100, 5 * MIB] {
        assert_eq!(length(&links, to, count).await, Ok(count));
    }
    old.abort();
}

/// A peer that accepts the connection, and never reads from it.
#[tokio::test]
async fn long_requests_that_wait_for_a_peer_do_not_keep_out_short_ones() {
    let near = Node::start(0, 64 * MIB).await;
    let to = ReplicaId::from_number(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    near.add(to, &listener.local_addr().unwrap().to_string());
    let (accepted, mut connection) = tokio::sync::mpsc::channel(1);
    let peer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        frame::read_short(&mut stream, KIB).await.unwrap().unwrap();
        let incarnation = 1_u64.to_le_bytes();
        frame::write(&mut stream, &[&[0], &incarnation])
            .await
            .unwrap();
        accepted.send(stream).await.unwrap();
    });
    let links = near.links.requests(Channel::Data);
    let link = loop {
        match links.to(to) {
            Some(link) => break link,
            None => tokio::task::yield_now().await,
        }
    };
    let long = Bytes::from(vec![7; 60 * MIB]);
    let mut calls = Vec::new();
    loop {
        match link.send(LENGTH, vec![long.clone()], None) {
            Ok(call) => calls.push(call),
            Err(error) => break assert_eq!(error, RpcError::NotSent),
        }
    }
    assert!(!calls.is_empty());
    assert!(
        link.send(LENGTH, vec![Bytes::from(vec![7; 60 * KIB])], None)
            .is_ok()
    );
    assert!(connection.recv().await.is_some());
    peer.await.unwrap();
}
