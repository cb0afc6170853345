//! etcd over gRPC: `Put` at the leader, many concurrently on few connections.
//!
//! Two messages of etcd's API are needed, of two fields each; they are written here
//! rather than by a code generator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderValue, Request};
use local_cluster::free_ports;
use tokio::net::TcpStream;

use super::processes::PeerProcesses;
use super::{NODES, Peer};
use crate::load::{Load, Measured};
use crate::replica::Durability;

const PUT: &str = "/etcdserverpb.KV/Put";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// As many keys as ours.
const KEYS: u64 = 10_000;
const WINDOW_BYTES: u32 = 16 << 20;

pub(super) fn find() -> Option<PathBuf> {
    super::program("etcd")
}

pub(super) struct Etcd {
    clients: Vec<u16>,
    value: Bytes,
    _processes: PeerProcesses,
}

impl Etcd {
    pub(super) async fn start(
        binary: &Path,
        durability: Durability,
        value_bytes: usize,
    ) -> anyhow::Result<Self> {
        let mut processes = PeerProcesses::new("etcd")?;
        let ports = free_ports(2 * NODES)?;
        let (clients, peers) = ports.split_at(NODES);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let members: Vec<_> = peers.iter().enumerate().collect();
        let members = members
            .iter()
            .map(|(node, port)| format!("n{node}={}", url(**port)));
        let cluster = members.collect::<Vec<_>>().join(",");
        for node in 0..NODES {
            let mut command = Command::new(binary);
            command
                .args(["--name", &format!("n{node}")])
                .arg("--data-dir")
                .arg(processes.data(node)?)
                .args(["--listen-client-urls", &url(clients[node])])
                .args(["--advertise-client-urls", &url(clients[node])])
                .args(["--listen-peer-urls", &url(peers[node])])
                .args(["--initial-advertise-peer-urls", &url(peers[node])])
                .args(["--initial-cluster", &cluster])
                .args(["--quota-backend-bytes", &(8_u64 << 30).to_string()])
                .args(["--logger", "zap", "--log-level", "error"]);
            if durability == Durability::None {
                command.arg("--unsafe-no-fsync");
            }
            processes.start(binary, &mut command)?;
        }
        processes.wait("etcd", || leader(clients)).await?;
        Ok(Self {
            clients: clients.to_vec(),
            value: vec![b'v'; value_bytes].into(),
            _processes: processes,
        })
    }
}

#[async_trait]
impl Peer for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    async fn measure(&mut self, load: Load) -> anyhow::Result<Measured> {
        let leader = leader(&self.clients).await?;
        let mut connections = Vec::new();
        for _ in 0..load.connections.min(load.in_flight).max(1) {
            connections.push(connect(leader).await?);
        }
        let (next, value) = (Arc::new(AtomicU64::new(0)), self.value.clone());
        load.closed_with(move |number| {
            let connection = connections[number % connections.len()].clone();
            let (next, value) = (Arc::clone(&next), value.clone());
            async move {
                let key = next.fetch_add(1, Ordering::Relaxed) % KEYS;
                let mut put = BytesMut::with_capacity(value.len() + 32);
                put_bytes(&mut put, 1, format!("k{key}").as_bytes());
                put_bytes(&mut put, 2, &value);
                call(connection, PUT, &put).await.map(drop)
            }
        })
        .await
    }
}

/// The port of the leader, once all nodes agree on it.
async fn leader(ports: &[u16]) -> anyhow::Result<u16> {
    let mut leads = None;
    let mut agreed = None;
    for port in ports {
        let status = call(connect(*port).await?, STATUS, &[]).await?;
        let own = varint_field(field(&status, 1).context("no header")?, 2);
        let leader = varint_field(&status, 4).filter(|leader| *leader != 0);
        let leader = leader.context("no leader yet")?;
        if *agreed.get_or_insert(leader) != leader {
            bail!("the nodes do not agree yet");
        }
        if own == Some(leader) {
            leads = Some(*port);
        }
    }
    leads.context("no node leads yet")
}

async fn connect(port: u16) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One call of gRPC; returns the message of its reply.
async fn call(sender: SendRequest<Bytes>, path: &str, message: &[u8]) -> anyhow::Result<Bytes> {
    let request = Request::post(format!("http://127.0.0.1{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut body = BytesMut::with_capacity(5 + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len())?);
    body.put_slice(message);
    let (response, mut sending) = sender.ready().await?.send_request(request, false)?;
    sending.send_data(body.freeze(), true)?;
    let response = response.await?;
    let refused = response.headers().get("grpc-status").cloned();
    let mut body = response.into_body();
    let mut reply = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        reply.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    match trailers.get("grpc-status").or(refused.as_ref()) {
        Some(status) if status == "0" => {}
        status => {
            let status = status.and_then(|status| status.to_str().ok()?.parse().ok());
            let message = trailers.get("grpc-message");
            bail!("{}", refusal(path, status, message))
        }
    }
    anyhow::ensure!(reply.len() >= 5, "a reply without a message");
    reply.advance(5);
    Ok(reply.freeze())
}

/// Why a call failed, in words.
fn refusal(path: &str, status: Option<u8>, message: Option<&HeaderValue>) -> String {
    let method = path.rsplit('/').next().unwrap_or(path);
    let reason = match status {
        Some(2) => "an unknown error".to_owned(),
        Some(4) => "the deadline has expired".into(),
        Some(8) => "its resources are exhausted".into(),
        Some(14) => "it is unavailable".into(),
        Some(other) => format!("gRPC status {other}"),
        None => "a reply without a gRPC status".into(),
    };
    let message = message.and_then(|message| message.to_str().ok());
    let message = message.map_or("without a message".into(), |text| format!("\"{text}\""));
    format!("etcd refused {method}: {reason}, {message}")
}

/// A field of bytes, as protobuf writes it.
fn put_bytes(buffer: &mut BytesMut, number: u8, bytes: &[u8]) {
    buffer.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    while length > 127 {
        buffer.put_u8(length as u8 | 128);
        length >>= 7;
    }
    buffer.put_u8(length as u8);
    buffer.put_slice(bytes);
}

/// A message that is a field.
fn field(message: &[u8], number: u64) -> Option<&[u8]> {
    fields(message).find_map(|(found, value)| match value {
        Value::Bytes(bytes) if found == number => Some(bytes),
        _ => None,
    })
}

fn varint_field(message: &[u8], number: u64) -> Option<u64> {
    fields(message).find_map(|(found, value)| match value {
        Value::Varint(varint) if found == number => Some(varint),
        _ => None,
    })
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, up to one of another kind.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        let key = varint(&mut rest)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut rest)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(rest.split_off(..length)?)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_they_are_written() {
        let mut inner = BytesMut::new();
        inner.put_slice(&[2 << 3, 0xac, 2]);
        let mut message = BytesMut::new();
        put_bytes(&mut message, 1, &inner);
        put_bytes(&mut message, 2, &[7; 300]);
        message.put_slice(&[4 << 3, 9]);
        let header = field(&message, 1).expect("it is there");
        assert_eq!(varint_field(header, 2), Some(300));
        assert_eq!(field(&message, 2), Some(&[7; 300][..]));
        assert_eq!(varint_field(&message, 4), Some(9));
        assert_eq!(varint_field(&message[..message.len() - 1], 4), None);
    }
}
