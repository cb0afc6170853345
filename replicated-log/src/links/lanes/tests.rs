use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::wire::{PIECE_BYTES_MAX, PieceHead, Window, cost};
use super::*;
use crate::links::disk_history::{AdmissionService, DiskHistory};
use crate::links::handshake::{self, Hello};
use crate::links::listener::Services;
use crate::links::pool::Links;
use crate::links::rpc::{RpcHandler, RpcReply};
use crate::links::target::Identity;
use crate::memory::MemoryBudget;
use crate::peers::{PeerAddress, Peers};

mod connections;
mod flow;

const MIB: usize = 1 << 20;
const LANE: Channel = Channel::CopiesAppend;

fn identity(number: u64) -> Identity {
    Identity {
        cluster: "c".into(),
        replica: ReplicaId::from_number(number),
        incarnation: 10 + number,
        storage_id: 7,
        membership: None,
    }
}

/// Frames for each peer, and how often a lane has connected.
#[derive(Default)]
struct Queues {
    frames: Mutex<BTreeMap<(Channel, ReplicaId), VecDeque<LaneFrame>>>,
    connected: watch::Sender<u64>,
}

impl Queues {
    fn push(&self, to: ReplicaId, stream: u64, frame: impl Into<Bytes>) {
        let frame = LaneFrame {
            stream,
            parts: vec![frame.into()],
        };
        let mut frames = self.frames.lock().unwrap();
        frames.entry((LANE, to)).or_default().push_back(frame);
    }

    fn waiting(&self, to: ReplicaId) -> usize {
        let frames = self.frames.lock().unwrap();
        frames.get(&(LANE, to)).map_or(0, VecDeque::len)
    }
}

impl LaneSource for Queues {
    fn next(&self, lane: Channel, to: ReplicaId) -> Option<LaneFrame> {
        let mut frames = self.frames.lock().unwrap();
        frames.get_mut(&(lane, to))?.pop_front()
    }

    fn connected(&self, _lane: Channel, _to: ReplicaId) {
        self.connected.send_modify(|times| *times += 1);
    }
}

/// A frame that has arrived.
#[derive(Debug)]
struct Arrived {
    from: ReplicaId,
    incarnation: u64,
    lane: Channel,
    connection: u64,
    frame: Bytes,
    credit: Credit,
}

struct Arrivals(mpsc::UnboundedSender<Arrived>);

impl LaneSink for Arrivals {
    fn frame(
        &self,
        from: ReplicaId,
        incarnation: u64,
        lane: Channel,
        connection: u64,
        frame: Bytes,
        credit: Credit,
    ) {
        let _ = self.0.send(Arrived {
            from,
            incarnation,
            lane,
            connection,
            frame,
            credit,
        });
    }
}

struct Nothing;

#[async_trait]
impl RpcHandler for Nothing {
    async fn handle(&self, _: ReplicaId, _: Channel, _: u8, _: Bytes) -> RpcReply {
        RpcReply::new()
    }

    fn without_memory(&self) -> RpcReply {
        RpcReply::new()
    }
}

#[async_trait]
impl AdmissionService for Nothing {
    async fn history(&self, _of: ReplicaId) -> DiskHistory {
        DiskHistory::NeverRan
    }
}

/// One node with its lanes.
struct Node {
    replica: ReplicaId,
    peers: watch::Sender<Peers>,
    links: Links,
    lanes: Lanes,
    source: Arc<Queues>,
    address: String,
    arrived: mpsc::UnboundedReceiver<Arrived>,
    _tasks: JoinSet<()>,
}

impl Node {
    async fn start(number: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (peers, watched) = watch::channel(Peers::default());
        let links = Links::new(identity(number), watched, MemoryBudget::new(MIB));
        let source = Arc::<Queues>::default();
        links.connect_lanes(source.clone());
        let (arrivals, arrived) = mpsc::unbounded_channel();
        let services = Services {
            one_way: Box::new(|_, _| {}),
            requests: Arc::new(Nothing),
            admission: Arc::new(Nothing),
            lanes: Some(Arc::new(Arrivals(arrivals))),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(links.listener(Some(services)).run(Arc::new(listener)));
        tasks.spawn(links.clone().follow_peers());
        Self {
            replica: ReplicaId::from_number(number),
            peers,
            lanes: links.lanes(),
            links,
            source,
            address,
            arrived,
            _tasks: tasks,
        }
    }

    /// Two nodes that know each other; the near one has connected.
    async fn pair() -> (Self, Self) {
        let (near, far) = (Self::start(0).await, Self::start(1).await);
        far.add(near.replica, &near.address);
        near.add(far.replica, &far.address);
        near.connect_to(&far).await;
        (near, far)
    }

    fn add(&self, replica: ReplicaId, address: &str) {
        let address = PeerAddress {
            replica,
            address: address.into(),
        };
        self.peers.send_modify(|peers| peers.insert(address));
    }

    /// Waits for the next connection of a lane to the peer.
    async fn connect_to(&self, to: &Self) {
        let mut connected = self.source.connected.subscribe();
        let times = *connected.borrow_and_update();
        while !connected.has_changed().unwrap() {
            self.lanes.wake(LANE, to.replica);
            tokio::task::yield_now().await;
        }
        assert_eq!(*connected.borrow(), times + 1);
    }

    fn send(&self, to: &Self, stream: u64, frame: impl Into<Bytes>) {
        self.source.push(to.replica, stream, frame);
        self.lanes.wake(LANE, to.replica);
    }

    async fn next(&mut self) -> Arrived {
        self.arrived.recv().await.expect("the node runs")
    }

    fn counts(&self, peer: ReplicaId) -> Arc<LaneCounts> {
        self.links.counters().lanes.of(peer, LANE)
    }

    fn refused(&self) -> u64 {
        self.links.counters().refused.load(Ordering::Relaxed)
    }
}

/// A peer without the code that is tested.
struct Raw(TcpStream);

impl Raw {
    /// Connects to a node as its peer 7, and reads the window.
    async fn dial(node: &Node) -> Self {
        node.add(identity(7).replica, "127.0.0.1:1");
        Self::dial_without_adding(node).await
    }

    async fn dial_without_adding(node: &Node) -> Self {
        let own = identity(7);
        let mut stream = TcpStream::connect(&node.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let presented =
            handshake::present(&mut stream, &own, node.replica, LANE, Hello::Current).await;
        presented.unwrap();
        let window = stream.read_u64_le().await.unwrap();
        assert_eq!(window, LANE.window_bytes());
        Self(stream)
    }

    async fn piece(&mut self, slot: usize, is_first: bool, bytes: &[u8], following: usize) {
        let head = PieceHead {
            slot,
            is_first,
            bytes: bytes.len(),
            following,
        };
        let piece = [&head.encode()[..], bytes].concat();
        self.0.write_all(&piece).await.unwrap();
    }

    /// Waits until the node closes the connection.
    async fn closed(mut self) {
        let mut rest = Vec::new();
        // What the node did not read makes this a reset.
        let _ = self.0.read_to_end(&mut rest).await;
    }
}

/// A frame that shows where it belongs and whether it is whole.
fn content(stream: u64, number: u64, bytes: usize) -> Bytes {
    let mut content = BytesMut::with_capacity(16 + bytes);
    content.put_u64_le(stream);
    content.put_u64_le(number);
    content.extend((0..bytes).map(|at| at as u8 ^ number as u8));
    content.freeze()
}

fn check(mut content: Bytes) -> (u64, u64, usize) {
    let (stream, number) = (content.get_u64_le(), content.get_u64_le());
    let mut each = content.iter().enumerate();
    assert!(each.all(|(at, byte)| *byte == at as u8 ^ number as u8));
    (stream, number, content.len())
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
