//! Invalid frames, sent to the ports of a running cluster.

#![expect(
    clippy::unwrap_used,
    reason = "a panic shows which line of a test failed"
)]

use iggy_binary_protocol::consensus::Operation;
use integration_tests::{Backend, Cluster, Garbage, on_each_backend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NODE: &str = env!("CARGO_BIN_EXE_node");
const FRAMES: u64 = 5_000;

async fn garbage_on_any_port_neither_stops_a_node_nor_confuses_clients(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    for seed in 1..=4 {
        Garbage::send(&cluster, seed, FRAMES).await.unwrap();
    }
    for node in 0..3 {
        assert!(
            cluster.is_running(node),
            "node {node} died:\n{}",
            cluster.last_lines(node)
        );
    }
    let client = cluster.client(0).await.unwrap();
    iggy::prelude::StreamClient::create_stream(&client, "still-here")
        .await
        .unwrap();
}

/// Every well-formed request receives exactly one reply, which names the request.
async fn a_reply_belongs_to_its_request(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    let mut stream = TcpStream::connect(cluster.tcp(0)).await.unwrap();
    for (number, code) in [(1_u64, 1_u8), (2, 200), (3, 1), (4, 12), (5, 244), (6, 1)] {
        let mut request = vec![0; 256];
        request[48..52].copy_from_slice(&256_u32.to_le_bytes());
        request[60] = 5;
        request[128] = 7;
        request[168..176].copy_from_slice(&number.to_le_bytes());
        request[176] = Operation::NonReplicated as u8;
        request[196] = code;
        stream.write_all(&request).await.unwrap();
        let mut reply = vec![0; 256];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[60], 8, "a reply");
        assert_eq!(reply[160], 7, "to this client");
        assert_eq!(reply[200..208], number.to_le_bytes(), "to this request");
        let status = u32::from_le_bytes(reply[216..220].try_into().unwrap());
        assert_eq!(status, if code == 1 { 0 } else { 40 }, "code {code}");
    }
}

on_each_backend! {
    garbage_on_any_port_neither_stops_a_node_nor_confuses_clients
    a_reply_belongs_to_its_request
}
