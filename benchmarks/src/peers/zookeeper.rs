//! ZooKeeper over its own protocol: `setData` on sessions with many requests in flight.
//!
//! Three requests are needed. The existing Rust clients have more dependencies than
//! this whole program.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hdrhistogram::Histogram;
use local_cluster::free_ports;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::processes::PeerProcesses;
use super::{NODES, Peer};
use crate::load::{Load, Measured, histogram, record};
use crate::replica::Durability;

const JAR: &str = "/usr/share/java/zookeeper.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
const CREATE: i32 = 1;
const SET_DATA: i32 = 5;
const NODE_EXISTS: i32 = -110;
const SESSION_TIMEOUT_MILLIS: i32 = 30_000;
/// Nodes of the tree, which are written in turn.
const PATHS: usize = 256;
/// The server queues this many requests; its default would throttle the load.
const OUTSTANDING_MAX: usize = 100_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The path of Java, where ZooKeeper is installed too.
pub(super) fn find() -> Option<PathBuf> {
    let java = super::program("java")?;
    Path::new(JAR).exists().then_some(java)
}

pub(super) struct ZooKeeper {
    clients: Vec<u16>,
    value: Bytes,
    _processes: PeerProcesses,
}

impl ZooKeeper {
    pub(super) async fn start(
        java: &Path,
        durability: Durability,
        value_bytes: usize,
    ) -> anyhow::Result<Self> {
        let mut processes = PeerProcesses::new("zookeeper")?;
        let ports = free_ports(3 * NODES)?;
        let (clients, peers) = ports.split_at(NODES);
        let servers: String = peers
            .chunks(2)
            .enumerate()
            .map(|(node, ports)| {
                format!("server.{}=127.0.0.1:{}:{}\n", node + 1, ports[0], ports[1])
            })
            .collect();
        for (node, port) in clients.iter().enumerate() {
            let data = processes.data(node)?;
            std::fs::write(data.join("myid"), format!("{}\n", node + 1))?;
            let config = data.join("zoo.cfg");
            let text = format!(
                "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={port}\nmaxClientCnxns=0\nglobalOutstandingLimit={OUTSTANDING_MAX}\nadmin.enableServer=false\n4lw.commands.whitelist=*\n{servers}",
                data.display(),
            );
            std::fs::write(&config, text)?;
            let sync = match durability {
                Durability::Fsync => "yes",
                Durability::None => "no",
            };
            let mut command = Command::new(java);
            command
                .args(["-Xmx1g", "-cp", &format!("/etc/zookeeper/conf:{JAR}")])
                .arg(format!("-Dzookeeper.forceSync={sync}"))
                .arg("-Dzookeeper.root.logger=WARN,CONSOLE")
                .arg(MAIN)
                .arg(&config);
            processes.start(java, &mut command)?;
        }
        let leader = processes.wait("zookeeper", || leader(clients)).await?;
        let mut session = Session::connect(leader).await?;
        for number in 0..PATHS {
            session.create(&path(number)).await?;
        }
        Ok(Self {
            clients: clients.to_vec(),
            value: vec![b'v'; value_bytes].into(),
            _processes: processes,
        })
    }
}

#[async_trait]
impl Peer for ZooKeeper {
    fn name(&self) -> &'static str {
        "zookeeper"
    }

    async fn measure(&mut self, load: Load) -> anyhow::Result<Measured> {
        let leader = leader(&self.clients).await?;
        let start = Instant::now() + load.warm_up;
        let end = start + load.measured;
        let sessions = load.connections.min(load.in_flight).max(1);
        let mut tasks = JoinSet::new();
        for number in 0..sessions {
            let window =
                load.in_flight / sessions + usize::from(number < load.in_flight % sessions);
            let session = Session::connect(leader).await?;
            tasks.spawn(session.write(window, number, self.value.clone(), start, end));
        }
        let mut latency = histogram();
        while let Some(joined) = tasks.join_next().await {
            latency.add(&joined??)?;
        }
        Ok(Measured {
            commands: latency.len(),
            elapsed: load.measured,
            latency,
        })
    }
}

fn path(number: usize) -> String {
    format!("/bench-{}", number % PATHS)
}

/// The client port of the leader.
async fn leader(ports: &[u16]) -> anyhow::Result<u16> {
    let mut leads = None;
    for port in ports {
        let mut stream = TcpStream::connect(("127.0.0.1", *port)).await?;
        stream.write_all(b"srvr").await?;
        let mut reply = String::new();
        tokio::time::timeout(CALL_TIMEOUT, stream.read_to_string(&mut reply)).await??;
        anyhow::ensure!(reply.contains("Mode: "), "a node is not serving yet");
        if reply.contains("Mode: leader") {
            leads = Some(*port);
        }
    }
    leads.context("no leader yet")
}

/// A session: replies arrive in the order of the requests.
struct Session {
    stream: BufReader<TcpStream>,
    next: i32,
    frame: BytesMut,
}

impl Session {
    async fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut session = Self {
            stream: BufReader::with_capacity(64 << 10, stream),
            next: 0,
            frame: BytesMut::new(),
        };
        // Protocol version, last transaction seen, timeout, session, password.
        let start = session.start_frame();
        session.frame.put_i32(0);
        session.frame.put_i64(0);
        session.frame.put_i32(SESSION_TIMEOUT_MILLIS);
        session.frame.put_i64(0);
        put_bytes(&mut session.frame, &[0; 16]);
        session.end_frame(start);
        session.flush().await?;
        tokio::time::timeout(CALL_TIMEOUT, session.receive()).await??;
        Ok(session)
    }

    fn start_frame(&mut self) -> usize {
        let at = self.frame.len();
        self.frame.put_i32(0);
        at
    }

    fn end_frame(&mut self, start: usize) {
        let length = (self.frame.len() - start - 4) as u32;
        self.frame[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn start_request(&mut self, kind: i32) -> usize {
        let at = self.start_frame();
        self.next += 1;
        self.frame.put_i32(self.next);
        self.frame.put_i32(kind);
        at
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        self.stream.get_mut().write_all(&self.frame).await?;
        self.frame.clear();
        Ok(())
    }

    async fn receive(&mut self) -> anyhow::Result<Bytes> {
        let length = self.stream.read_u32().await? as usize;
        let mut reply = vec![0; length];
        self.stream.read_exact(&mut reply).await?;
        Ok(reply.into())
    }

    /// The error code of the next reply; zero is success.
    async fn reply(&mut self) -> anyhow::Result<i32> {
        let mut reply = self.receive().await?;
        anyhow::ensure!(reply.len() >= 16, "a reply that is too short");
        let (_request, _transaction) = (reply.get_i32(), reply.get_i64());
        Ok(reply.get_i32())
    }

    async fn create(&mut self, path: &str) -> anyhow::Result<()> {
        let start = self.start_request(CREATE);
        put_bytes(&mut self.frame, path.as_bytes());
        put_bytes(&mut self.frame, b"");
        // An ACL that permits everything; the node is persistent.
        self.frame.put_i32(1);
        self.frame.put_i32(31);
        put_bytes(&mut self.frame, b"world");
        put_bytes(&mut self.frame, b"anyone");
        self.frame.put_i32(0);
        self.end_frame(start);
        self.flush().await?;
        match tokio::time::timeout(CALL_TIMEOUT, self.reply()).await?? {
            0 | NODE_EXISTS => Ok(()),
            error => bail!("ZooKeeper refused to create {path}: error {error}"),
        }
    }

    fn set_data(&mut self, path: &str, value: &[u8]) {
        let start = self.start_request(SET_DATA);
        put_bytes(&mut self.frame, path.as_bytes());
        put_bytes(&mut self.frame, value);
        // Any version.
        self.frame.put_i32(-1);
        self.end_frame(start);
    }

    /// Keeps this many writes in flight; those with a reply between `start` and `end`
    /// count.
    async fn write(
        mut self,
        window: usize,
        first: usize,
        value: Bytes,
        start: Instant,
        end: Instant,
    ) -> anyhow::Result<Histogram<u64>> {
        let mut latency = histogram();
        let mut sent = VecDeque::new();
        let mut number = first;
        loop {
            while sent.len() < window {
                self.set_data(&path(number), &value);
                sent.push_back(Instant::now());
                number += 1;
            }
            self.flush().await?;
            // Waits for one reply, and receives the others that have arrived.
            loop {
                let error = self.reply().await?;
                anyhow::ensure!(error == 0, "ZooKeeper refused a write: error {error}");
                let now = Instant::now();
                let at = sent.pop_front().context("a reply without a request")?;
                if now >= start && now <= end {
                    record(&mut latency, now - at);
                }
                if now > end {
                    return Ok(latency);
                }
                if sent.is_empty() || !whole_reply(self.stream.buffer()) {
                    break;
                }
            }
        }
    }
}

/// Whether a whole reply has arrived.
fn whole_reply(buffer: &[u8]) -> bool {
    buffer.first_chunk().is_some_and(|length| {
        let length = u32::from_be_bytes(*length) as usize;
        buffer.len() >= 4 + length
    })
}

fn put_bytes(frame: &mut BytesMut, bytes: &[u8]) {
    frame.put_u32(bytes.len() as u32);
    frame.put_slice(bytes);
}
