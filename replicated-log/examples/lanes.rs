//! Measures the lanes between two nodes in one process, over loopback, each with one thread:
//! `cargo run --release -p replicated-log --example lanes`.

#![expect(clippy::print_stdout, reason = "the figures are for people")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use replicated_log::links::{Channel, Credit, LaneFrame, LaneSink, LaneSource, Lanes};
use replicated_log::{
    ApplyContext, EmptyDisk, FrozenState, LogConfig, LogNode, MemoryDisk, PeerAddress, Peers,
    ReplicaId, RestoreError, StateMachine, UnknownCommand,
};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: ApplyContext, _: &[u8]) -> Result<Bytes, UnknownCommand> {
        Ok(Bytes::new())
    }

    fn freeze(&self) -> Box<dyn FrozenState> {
        Box::new(Self)
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
}

impl FrozenState for Nothing {
    fn encode(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// So many frames with this content.
#[derive(Default)]
struct Frames {
    left: [AtomicU64; 3],
    content: std::sync::OnceLock<[Vec<Bytes>; 3]>,
    connected: AtomicU64,
}

fn at(lane: Channel) -> usize {
    lane as usize - Channel::CopiesControl as usize
}

impl LaneSource for Frames {
    fn next(&self, lane: Channel, _to: ReplicaId) -> Option<LaneFrame> {
        let left = &self.left[at(lane)];
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        let stream = taken.ok()?;
        let parts = self.content.get()?[at(lane)].clone();
        Some(LaneFrame { stream, parts })
    }

    fn connected(&self, _lane: Channel, _to: ReplicaId) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends the length and the time of each frame to the thread that measures.
struct Arrivals(mpsc::Sender<(usize, Instant)>);

impl LaneSink for Arrivals {
    fn frame(
        &self,
        _from: ReplicaId,
        _incarnation: u64,
        _lane: Channel,
        _connection: u64,
        frame: Bytes,
        _credit: Credit,
    ) {
        let _ = self.0.send((frame.len(), Instant::now()));
    }
}

fn start(
    me: ReplicaId,
    peers: Peers,
    listener: std::net::TcpListener,
    source: Arc<Frames>,
    sink: Arrivals,
) -> Lanes {
    let (started, lanes) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            listener.set_nonblocking(true).expect("a socket");
            let listener = TcpListener::from_std(listener).expect("a listener");
            let config = LogConfig::new("lanes", me, peers, "nowhere").expect("valid");
            let opened = LogNode::builder(config, Box::new(Nothing))
                .disk(Arc::new(MemoryDisk::new()))
                .empty_disk(EmptyDisk::Format)
                .listener(listener)
                .lanes(source, Arc::new(sink))
                .open()
                .await
                .expect("a node");
            let _ = started.send(opened.links().lanes());
            let mut node = opened.serve();
            let _ = node.stopped().await;
        });
    });
    lanes.recv().expect("the node starts")
}

fn main() {
    let replicas = [0, 1].map(ReplicaId::from_number);
    let listeners = replicas.map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    let addresses = replicas
        .iter()
        .zip(&listeners)
        .map(|(replica, listener)| PeerAddress {
            replica: *replica,
            address: listener.local_addr().expect("bound").to_string(),
        });
    let peers: Peers = addresses.collect();
    let [near, far] = listeners;
    let source = Arc::<Frames>::default();
    let record = vec![Bytes::from(vec![1; 256]), Bytes::from(vec![2; 999_744])];
    let beat = vec![Bytes::from(vec![3; 300])];
    let _ = source.content.set([beat, record.clone(), record]);
    let (sender, arrivals) = mpsc::channel();
    let (unused, _unused) = mpsc::channel();
    let sink = Arrivals(unused);
    let lanes = start(replicas[0], peers.clone(), near, Arc::clone(&source), sink);
    start(replicas[1], peers, far, Arc::default(), Arrivals(sender));
    let lane = |lane| lanes.wake(lane, replicas[1]);
    while source.connected.load(Ordering::Relaxed) < 2 {
        lane(Channel::CopiesControl);
        lane(Channel::CopiesAppend);
        std::thread::yield_now();
    }
    let seconds: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    for _ in 0..seconds {
        const FRAMES: u64 = 3_000;
        let started = Instant::now();
        source.left[1].store(FRAMES, Ordering::Relaxed);
        lane(Channel::CopiesAppend);
        let mut bytes = 0;
        for _ in 0..FRAMES {
            bytes += arrivals.recv().expect("a frame").0;
        }
        let rate = bytes as f64 / started.elapsed().as_secs_f64() / 1e9;
        println!("1 MB frames: {rate:.2} GB/s");
    }
    for pause in [20, 200, 2_000] {
        let mut times = Vec::new();
        for _ in 0..2_000 {
            let sent = Instant::now();
            source.left[0].store(1, Ordering::Relaxed);
            lane(Channel::CopiesControl);
            let written = sent.elapsed();
            let (_, received) = arrivals.recv().expect("a frame");
            times.push((received - sent, written));
            std::thread::sleep(Duration::from_micros(pause));
        }
        times.sort();
        let (p50, p99) = (times[1_000], times[1_980]);
        println!(
            "300 bytes every {pause} us: one way p50 {:?} (of which the sender {:?}), p99 {:?}",
            p50.0, p50.1, p99.0
        );
    }
    let started = Instant::now();
    const SMALL: u64 = 1_000_000;
    source.left[0].store(SMALL, Ordering::Relaxed);
    lane(Channel::CopiesControl);
    for _ in 0..SMALL {
        arrivals.recv().expect("a frame");
    }
    let rate = SMALL as f64 / started.elapsed().as_secs_f64() / 1e6;
    println!("300 bytes, as many as there are: {rate:.2} million/s");
}
