//! Bytes that are no request, against the ports of a running cluster.

use iggy_binary_protocol::consensus::Operation;
use integration_tests::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NODE: &str = env!("CARGO_BIN_EXE_node");
const CONNECTIONS: u64 = 300;
const FRAMES: usize = 20;

struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A well-formed request with some bytes changed, or none.
fn frame(random: &mut Random) -> Vec<u8> {
    let body = (random.draw() % 100) as usize;
    let mut frame = vec![0; 256 + body];
    frame[48..52].copy_from_slice(&(256 + body as u32).to_le_bytes());
    frame[60] = 5;
    frame[128] = 1;
    let operations = [2, 1, 3, 128, 132, 160, 161];
    frame[176] = operations[random.draw() as usize % operations.len()];
    frame[184] = 1;
    frame[168] = 1;
    frame[196] = [1, 10, 12, 20, 100, 103, 200, 244][random.draw() as usize % 8];
    for _ in 0..random.draw() % 6 {
        let at = random.draw() as usize % frame.len();
        frame[at] = random.draw() as u8;
    }
    frame
}

#[tokio::test]
async fn garbage_on_either_port_neither_stops_a_node_nor_confuses_clients() {
    let mut cluster = Cluster::start(NODE, 3).await.unwrap();
    for seed in 1..=CONNECTIONS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let node = (seed % 3) as u8;
        let address = if seed % 2 == 0 {
            cluster.tcp(node)
        } else {
            cluster.replica(node)
        };
        let mut stream = TcpStream::connect(&address).await.unwrap();
        for _ in 0..FRAMES {
            let bytes = if seed % 5 == 0 {
                (0..random.draw() % 400)
                    .map(|_| random.draw() as u8)
                    .collect()
            } else {
                frame(&mut random)
            };
            if stream.write_all(&bytes).await.is_err() {
                break;
            }
        }
    }
    for node in 0..3 {
        assert!(
            cluster.runs(node),
            "node {node} died:\n{}",
            cluster.last_lines(node)
        );
    }
    let client = cluster.client(0).await.unwrap();
    iggy::prelude::StreamClient::create_stream(&client, "still-here")
        .await
        .unwrap();
    assert!(Operation::is_known_code(128));
}

/// Every well-formed request gets exactly one reply, to itself.
#[tokio::test]
async fn a_reply_belongs_to_its_request() {
    let cluster = Cluster::start(NODE, 1).await.unwrap();
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
