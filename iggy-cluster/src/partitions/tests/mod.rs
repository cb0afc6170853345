use ::partitions::{EmbeddedStorage, EmbeddedStorageConfig};
use adapters::metadata::{ClientOperation, ClientRequest, Command, Name, Options, Placement};
use bytes::{Bytes, BytesMut};
use iggy_binary_protocol::requests::messages::{RawMessage, SendMessagesEncoder};
use iggy_binary_protocol::{WireIdentifier, WirePartitioning};
use tempfile::TempDir;

use super::*;
use crate::cluster::testing::{FakeLog, ME};

mod groups;
mod lease;
mod reading;
mod size;

pub(crate) const CLIENT: u128 = 7;

fn named(text: &str) -> Identifier {
    Identifier::Name(Name::new(text).unwrap())
}

/// A batch of this many messages.
pub(crate) fn batch(messages: u128) -> Bytes {
    batch_of(messages, b"payload")
}

/// The same, with this payload in each message.
pub(crate) fn batch_of(messages: u128, payload: &[u8]) -> Bytes {
    let messages: Vec<_> = (1..=messages)
        .map(|id| RawMessage {
            id,
            origin_timestamp: 1,
            headers: None,
            payload,
        })
        .collect();
    let mut out = BytesMut::new();
    let stream = WireIdentifier::Numeric(0);
    let to = WirePartitioning::PartitionId(0);
    SendMessagesEncoder::encode(&mut out, &stream, &stream, &to, &messages).unwrap();
    let metadata = u32::from_le_bytes(out[..4].try_into().unwrap()) as usize;
    out.freeze().slice(4 + metadata..)
}

/// Commands of one client.
pub(crate) fn commands(session: u64, operations: Vec<ClientOperation<Placement>>) -> Vec<Command> {
    let request = |(number, operation)| {
        Command::Client(ClientRequest {
            client: CLIENT,
            session,
            request: number,
            checksum: 0,
            operation,
        })
    };
    (1..).zip(operations).map(request).collect()
}

/// Stream `s` with topic `t`, whose partitions this node owns.
pub(crate) fn topic_here(options: Options, partitions: usize) -> Vec<ClientOperation<Placement>> {
    vec![
        ClientOperation::CreateStream {
            name: Name::new("s").unwrap(),
            options: Options::default(),
        },
        ClientOperation::CreateTopic {
            stream: named("s"),
            name: Name::new("t").unwrap(),
            options,
            partitions: Placement::single(&vec![ME; partitions]).unwrap(),
        },
    ]
}

/// This node does not know yet that the topic was deleted and created again.
#[tokio::test]
async fn a_partition_is_looked_up_in_no_older_state_than_the_client_has_seen() {
    let data = TempDir::new().unwrap();
    let (log, metadata) = FakeLog::start(Duration::from_secs(5));
    let storage = EmbeddedStorage::new(data.path(), EmbeddedStorageConfig::default());
    let local = LocalPartitions::new(Arc::clone(&metadata), Arc::new(storage.unwrap()));
    let partitions = Partitions::new(
        Arc::clone(&metadata),
        Arc::new(local),
        RequestLinks::default(),
        Arc::default(),
    );
    let create = || ClientOperation::CreateTopic {
        stream: named("s"),
        name: Name::new("t").unwrap(),
        options: Options::default(),
        partitions: Placement::single(&[ME]).unwrap(),
    };
    let operations = vec![
        ClientOperation::CreateStream {
            name: Name::new("s").unwrap(),
            options: Options::default(),
        },
        create(),
        ClientOperation::DeleteTopic {
            stream: named("s"),
            topic: named("t"),
        },
        create(),
    ];
    let commands = commands(log.register(CLIENT), operations);
    for command in &commands[..2] {
        log.apply(command);
    }
    for command in &commands[2..] {
        log.commit_unseen(command.clone());
    }
    let here = metadata.applied();
    let (stream, topic, partition) = (named("s"), named("t"), Partitioning::Partition(0));
    let find = |seen| {
        crate::view::view(&metadata, seen, |state| {
            partitions.look_up(state, &stream, &topic, &partition)
        })
    };
    assert_eq!(find(here).await.unwrap().key.generation, here);
    let last = here + 2;
    assert_eq!(find(last).await.unwrap().key.generation, last);
}
