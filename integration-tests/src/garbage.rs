//! Frames that no correct client or node sends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Backend, Cluster};

/// Frames sent on one connection before the next one is opened: few, because a node closes
/// the connection at the first invalid frame and does not read those after it.
const FRAMES_PER_CONNECTION: u64 = 4;

/// Where the term or view is in a message of Raft and of VR. It stays 0: with a later one a
/// message is no garbage but a forgery, which deposes the leader, or shows a replica that its
/// log is not that of the cluster.
const TERM_AT: [std::ops::Range<usize>; 2] = [36..44, 35..43];

/// Creates random and mutated frames from a seed.
pub struct Garbage {
    seed: u64,
    backend: Backend,
}

impl Garbage {
    /// Sends at least this many frames, about a third of them to each port, to random nodes;
    /// returns how many. A node may close the connection at any of them.
    ///
    /// # Errors
    /// When a node does not accept connections any more.
    pub async fn send(cluster: &Cluster, seed: u64, frames: u64) -> anyhow::Result<u64> {
        let mut garbage = Self {
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            backend: cluster.config().cluster.consensus.backend,
        };
        let group = cluster
            .config()
            .log(&cluster.config().cluster.nodes[0])?
            .group_id();
        let name = cluster.config().cluster.name.clone();
        let mut sent = 0;
        while sent < frames {
            let node = (garbage.draw() % 3) as u8;
            sent += match garbage.draw() % 3 {
                0 => {
                    let stream = TcpStream::connect(cluster.tcp(node)).await?;
                    garbage.fill(stream, Self::request).await
                }
                1 => {
                    let stream = TcpStream::connect(cluster.admin(node)).await?;
                    garbage.fill(stream, Self::http_request).await
                }
                _ => {
                    let mut stream = TcpStream::connect(cluster.replica(node)).await?;
                    let channel = [1, 2, 3, 4, 6, 7, 8][(garbage.draw() % 7) as usize];
                    let from = 1 + u64::from((node + 1) % 3);
                    let to = u64::from(node) + 1;
                    match stream.write_all(&hello(&name, channel, from, to)).await {
                        Ok(()) => {
                            let frame = |garbage: &mut Self| match channel {
                                6.. => garbage.lane_piece(),
                                _ => garbage.peer_frame(group, from, to),
                            };
                            garbage.fill(stream, frame).await
                        }
                        Err(_) => 0,
                    }
                }
            };
        }
        Ok(sent)
    }

    fn draw(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    async fn fill(&mut self, stream: TcpStream, frame: impl Fn(&mut Self) -> Vec<u8>) -> u64 {
        let frames = (0..FRAMES_PER_CONNECTION).map(|_| frame(self)).collect();
        write_and_drain(stream, frames).await
    }

    /// A request to the admin endpoint of which some bytes may be changed, or random bytes.
    fn http_request(&mut self) -> Vec<u8> {
        if self.draw().is_multiple_of(4) {
            return self.random_bytes(400);
        }
        let path = ["/livez", "/readyz", "/status", "/metrics", "/"][(self.draw() % 5) as usize];
        let length = self.draw() % 100;
        let head = format!("GET {path} HTTP/1.1\r\nHost: n\r\nContent-Length: {length}\r\n\r\n");
        let mut request = head.into_bytes();
        request.extend(self.random_bytes(100));
        for _ in 0..self.draw() % 6 {
            let at = (self.draw() % request.len() as u64) as usize;
            request[at] = self.draw() as u8;
        }
        request
    }

    /// A well-formed request of which some bytes may be changed, or random bytes.
    #[must_use]
    pub fn request(&mut self) -> Vec<u8> {
        if self.draw().is_multiple_of(16) {
            return self.random_bytes(400);
        }
        let body = (self.draw() % 100) as usize;
        let mut frame = vec![0; 256 + body];
        frame[48..52].copy_from_slice(&(256 + body as u32).to_le_bytes());
        frame[60] = 5;
        frame[128] = 1;
        frame[168] = 1;
        frame[176] = [2, 1, 3, 128, 132, 160, 161][(self.draw() % 7) as usize];
        frame[184] = 1;
        frame[196] = [1, 10, 12, 20, 100, 103, 200, 244][(self.draw() % 8) as usize];
        for _ in 0..self.draw() % 6 {
            let at = (self.draw() % frame.len() as u64) as usize;
            frame[at] = self.draw() as u8;
        }
        frame
    }

    /// A piece of a frame on a lane between nodes, whose head may be changed: its length, slot,
    /// and whether it is the first one, and the bytes that follow it.
    fn lane_piece(&mut self) -> Vec<u8> {
        let bytes = self.random_bytes(200);
        let slot = self.draw() % 4;
        let first = u64::from(!self.draw().is_multiple_of(4));
        let following = match self.draw() % 4 {
            0 => self.draw() % 300,
            1 => self.draw() & 0x7ff_ffff,
            _ => 0,
        };
        let mut head = bytes.len() as u64 | slot << 24 | first << 31 | following << 32;
        if self.draw().is_multiple_of(4) {
            head ^= 1 << (self.draw() % 64);
        }
        [&head.to_le_bytes()[..], &bytes].concat()
    }

    /// A frame between nodes: a message of the backend with random numbers, or random bytes.
    fn peer_frame(&mut self, group: u128, from: u64, to: u64) -> Vec<u8> {
        let mut content = match self.draw() % 4 {
            0 => self.random_bytes(200),
            _ => match self.backend {
                Backend::Raft => self.raft_message(group, from, to),
                Backend::Vr => self.vr_message(group, from, to),
            },
        };
        if self.draw().is_multiple_of(3) && !content.is_empty() {
            let at = (self.draw() % content.len() as u64) as usize;
            let bit = 1 << (self.draw() % 8);
            let [raft, vr] = TERM_AT;
            let term = match self.backend {
                Backend::Raft => raft,
                Backend::Vr => vr,
            };
            if !term.contains(&at) {
                content[at] ^= bit;
            }
        }
        let mut frame = (content.len() as u32).to_le_bytes().to_vec();
        frame.append(&mut content);
        frame
    }

    fn raft_message(&mut self, group: u128, from: u64, to: u64) -> Vec<u8> {
        let mut out = vec![0, 1];
        out.extend_from_slice(&group.to_le_bytes());
        out.push((self.draw() % 20) as u8);
        out.push((self.draw() % 2) as u8);
        let small = self.draw().is_multiple_of(2);
        for (field, fixed) in [
            (0, Some(to)),
            (1, Some(from)),
            (2, None),
            (3, None),
            (4, None),
            (5, None),
            (6, None),
            (7, None),
        ] {
            let random = if field == 2 {
                0
            } else if small {
                self.draw() % 8
            } else {
                self.draw()
            };
            out.extend_from_slice(&fixed.unwrap_or(random).to_le_bytes());
        }
        out.extend_from_slice(&0_u16.to_le_bytes());
        self.entries(&mut out);
        out
    }

    fn vr_message(&mut self, group: u128, from: u64, to: u64) -> Vec<u8> {
        let mut out = vec![0, 1];
        out.extend_from_slice(&group.to_le_bytes());
        out.push((self.draw() % 14) as u8);
        for number in [from, to, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for _ in 0..self.draw() % 4 {
            out.extend_from_slice(&(self.draw() % 8).to_le_bytes());
        }
        if self.draw().is_multiple_of(2) {
            self.entries(&mut out);
        }
        out
    }

    fn entries(&mut self, out: &mut Vec<u8>) {
        let entries = (self.draw() % 3) as u32;
        out.extend_from_slice(&entries.to_le_bytes());
        for _ in 0..entries {
            out.extend_from_slice(&(self.draw() % 8).to_le_bytes());
            out.extend_from_slice(&(self.draw() % 8).to_le_bytes());
            out.push((self.draw() % 3) as u8);
            let payload = self.random_bytes(40);
            out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            out.extend_from_slice(&payload);
        }
    }

    fn random_bytes(&mut self, below: u64) -> Vec<u8> {
        (0..self.draw() % below)
            .map(|_| self.draw() as u8)
            .collect()
    }
}

fn hello(cluster: &str, lane: u8, from: u64, to: u64) -> Vec<u8> {
    let mut content = b"IGCL".to_vec();
    content.extend_from_slice(&1_u16.to_le_bytes());
    content.push(lane);
    for number in [from, 1, to] {
        content.extend_from_slice(&number.to_le_bytes());
    }
    content.extend_from_slice(cluster.as_bytes());
    let mut frame = (content.len() as u32).to_le_bytes().to_vec();
    frame.append(&mut content);
    frame
}

/// Writes all frames while it reads and drops the replies; returns how many were written
/// before the node closed the connection.
async fn write_and_drain(stream: TcpStream, frames: Vec<Vec<u8>>) -> u64 {
    let (mut reader, mut writer) = stream.into_split();
    let drain = tokio::spawn(async move {
        let mut nowhere = vec![0; 4096];
        while matches!(reader.read(&mut nowhere).await, Ok(read) if read > 0) {}
    });
    let mut written = 0;
    for frame in frames {
        if writer.write_all(&frame).await.is_err() {
            break;
        }
        written += 1;
    }
    // The node closes the connection when it has read everything, or at an invalid frame.
    let _ = writer.shutdown().await;
    let _ = drain.await;
    written.max(1)
}
