use std::time::Duration;

use adapters::metadata::code;
use iggy_binary_protocol::codes::{PING_CODE, POLL_MESSAGES_CODE, SEND_MESSAGES_CODE};
use iggy_binary_protocol::consensus::Operation;
use iggy_binary_protocol::requests::messages::PollMessagesRequest;
use iggy_binary_protocol::{WireConsumer, WireEncode, WireIdentifier, WirePollingStrategy};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use super::connection::Connection;
use super::testing::TestServer;

const CLIENT: u128 = 7;
const MIB: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

fn server() -> TestServer {
    TestServer::new(Duration::from_secs(5), 64 * MIB)
}

/// A request as a client writes it, with so many bytes announced.
fn request(code: u32, frame_bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; 256];
    frame[48..52].copy_from_slice(&u32::try_from(frame_bytes).unwrap().to_le_bytes());
    frame[60] = 5;
    frame[128] = CLIENT as u8;
    frame[168] = 1;
    frame[176] = Operation::NonReplicated as u8;
    frame[196..200].copy_from_slice(&code.to_le_bytes());
    frame
}

/// A poll of so many messages.
fn poll_of(count: u32) -> Vec<u8> {
    let poll = PollMessagesRequest {
        consumer: WireConsumer::consumer(WireIdentifier::Numeric(1)),
        stream_id: WireIdentifier::named("s").unwrap(),
        topic_id: WireIdentifier::named("t").unwrap(),
        partition_id: Some(0),
        strategy: WirePollingStrategy::first(),
        count,
        auto_commit: false,
    };
    let body = poll.to_bytes();
    [request(POLL_MESSAGES_CODE, 256 + body.len()), body.to_vec()].concat()
}

fn run(connection: Connection) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (reader, writer) = tokio::io::split(far);
    tokio::spawn(connection.run(reader, writer));
    near
}

/// The code in the next reply.
async fn status(client: &mut DuplexStream) -> u32 {
    let mut reply = [0; 256];
    client.read_exact(&mut reply).await.unwrap();
    u32::from_le_bytes(reply[216..220].try_into().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_log_in_is_closed_in_time_whatever_it_sends() {
    let half_body = [request(PING_CODE, 8 << 10), vec![0; 4 << 10]].concat();
    for sent in [&[][..], &half_body[..1], &half_body[..200], &half_body] {
        let server = server();
        let started = Instant::now();
        let mut client = run(server.connection());
        client.write_all(sent).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(started.elapsed(), TIMEOUT, "{} bytes", sent.len());
    }
    // The time for a frame does not start again with each frame, nor with each byte.
    let server = server();
    let started = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(run(server.connection()));
    let writing = tokio::spawn(async move {
        for byte in half_body {
            tokio::time::sleep(Duration::from_secs(7)).await;
            if writer.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(reader.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(started.elapsed(), TIMEOUT);
    writing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_is_given_up_in_time_and_its_memory_is_free_again() {
    let server = server();
    let mut client = run(server.bound(CLIENT));
    let started = Instant::now();
    client
        .write_all(&request(SEND_MESSAGES_CODE, 4 * MIB))
        .await
        .unwrap();
    client.write_all(&vec![7; 2 * MIB]).await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(started.elapsed(), TIMEOUT);
    assert_eq!(server.memory.reserved_bytes(), 0);
}

/// Memory follows what arrives, and a request for which there is none holds none.
#[tokio::test]
async fn a_request_without_memory_is_skipped_and_refused_for_now() {
    let server = server();
    let others = server.memory.try_reserve(63 * MIB).unwrap();
    let mut client = run(server.bound(CLIENT));
    client
        .write_all(&request(SEND_MESSAGES_CODE, 2 * MIB))
        .await
        .unwrap();
    client.write_all(&vec![7; 2 * MIB - 256]).await.unwrap();
    let refused = status(&mut client).await;
    assert_eq!(refused, code::TRANSIENT_NOT_ACCEPTED.number());
    assert_eq!(server.memory.reserved_bytes(), 63 * MIB);
    client.write_all(&request(PING_CODE, 256)).await.unwrap();
    assert_eq!(status(&mut client).await, 0, "the next request is served");
    drop(others);
    client
        .write_all(&request(SEND_MESSAGES_CODE, 2 * MIB))
        .await
        .unwrap();
    client.write_all(&vec![7; 2 * MIB - 256]).await.unwrap();
    let invalid = status(&mut client).await;
    assert_ne!(
        invalid,
        code::TRANSIENT_NOT_ACCEPTED.number(),
        "there is memory"
    );
}

/// Connections of one user, each with most of a frame that it does not complete.
#[tokio::test]
async fn half_frames_of_a_user_leave_memory_to_others() {
    let server = TestServer::new(Duration::from_secs(5), 256 * MIB);
    let frame = request(SEND_MESSAGES_CODE, 64 * MIB);
    let body = vec![7; 63 * MIB];
    let mut half = Vec::new();
    for client in 1..=8 {
        let mut client = run(server.bound(client));
        client.write_all(&frame).await.unwrap();
        client.write_all(&body).await.unwrap();
        half.push(client);
    }
    let reserved = server.memory.reserved_bytes();
    assert!(
        (60 * MIB..=130 * MIB).contains(&reserved),
        "{reserved} bytes"
    );
    let send = async |mut connection: DuplexStream, bytes: usize| {
        let head = request(SEND_MESSAGES_CODE, bytes);
        connection.write_all(&head).await.unwrap();
        let rest = vec![7; bytes - 256];
        connection.write_all(&rest).await.unwrap();
        status(&mut connection).await
    };
    let refused = code::TRANSIENT_NOT_ACCEPTED.number();
    // Another connection of the user may send what is short.
    assert_ne!(send(run(server.bound(9)), MIB).await, refused);
    // So may another user, and what is long too.
    let other = server.server.memory.share(7);
    assert!(other.try_reserve(60 * MIB).is_some());
    drop(half);
}

/// A client that polls, and does not read the reply.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_closed_in_time_and_what_it_held_is_free() {
    let server = TestServer::new(Duration::from_secs(5), 256 * MIB);
    server.create_topic(40, 100_000).await;
    let poll = poll_of(40);
    let mut client = run(server.bound(CLIENT));
    let started = Instant::now();
    client.write_all(&poll).await.unwrap();
    client.read_exact(&mut [0; 256]).await.unwrap();
    assert!(server.memory.reserved_bytes() > 40 * 100_000);
    // A client that reads is served.
    let mut other = run(server.bound(CLIENT + 1));
    other.write_all(&poll).await.unwrap();
    assert_eq!(status(&mut other).await, 0);
    let mut reply = vec![0; 40 * 100_000];
    other.read_exact(&mut reply).await.unwrap();
    let unread = &server.server.metrics.clients_not_reading;
    tokio::time::sleep_until(started + TIMEOUT - Duration::from_secs(1)).await;
    assert_eq!(unread.get(), 0);
    tokio::time::sleep_until(started + TIMEOUT + Duration::from_secs(1)).await;
    assert_eq!(unread.get(), 1);
    // What is in the pipe is all that is left of the reply.
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < 40 * 100_000);
    drop(other);
    assert_eq!(server.memory.reserved_bytes(), 0);
}

#[tokio::test]
async fn a_frame_that_is_too_large_is_answered_while_the_client_is_sending_it() {
    let server = server();
    let mut client = run(server.bound(CLIENT));
    client
        .write_all(&request(SEND_MESSAGES_CODE, 65 * MIB))
        .await
        .unwrap();
    let (mut reader, mut writer) = tokio::io::split(client);
    let writing = tokio::spawn(async move {
        let rest = vec![7; 65 * MIB - 256];
        writer.write_all(&rest).await
    });
    let mut reply = [0; 256];
    reader.read_exact(&mut reply).await.unwrap();
    let status = u32::from_le_bytes(reply[216..220].try_into().unwrap());
    assert_eq!(status, code::TOO_BIG_PAYLOAD.number());
    writing.await.unwrap().unwrap();
    assert_eq!(reader.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(server.memory.reserved_bytes(), 0);
}

/// Such users hold no memory however much they send.
#[tokio::test]
async fn long_requests_that_cannot_succeed_are_skipped() {
    let server = server();
    let nothing = server.memory.try_reserve(64 * MIB).unwrap();
    let mut connection = server.bound(CLIENT);
    // A user that does not exist has no rights.
    if let Some(bound) = &mut connection.bound {
        bound.user_id = 9;
    }
    let mut client = run(connection);
    for (code, bytes, answer) in [
        (SEND_MESSAGES_CODE, MIB, code::UNAUTHORIZED),
        (PING_CODE, 2 * MIB, code::INVALID_SIZE),
    ] {
        client.write_all(&request(code, bytes)).await.unwrap();
        client.write_all(&vec![7; bytes - 256]).await.unwrap();
        assert_eq!(status(&mut client).await, answer.number());
    }
    drop(nothing);
}
