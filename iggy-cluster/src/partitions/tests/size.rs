//! The maximum size of a topic.

use ::partitions::{ByKey, PartitionStats};
use bytes::{Bytes, BytesMut};
use iggy_binary_protocol::requests::messages::{RawMessage, SendMessagesEncoder};
use iggy_binary_protocol::{WireIdentifier, WirePartitioning};
use iggy_common::TopicCreateOptions;

use super::*;

const MIB: u64 = 1 << 20;
const PARTITIONS: u32 = 3;

fn batch(partition: u32, bytes: usize) -> Bytes {
    let payload = vec![b'x'; bytes];
    let message = RawMessage {
        id: 1,
        origin_timestamp: 1,
        headers: None,
        payload: &payload,
    };
    let mut out = BytesMut::new();
    let stream = WireIdentifier::Numeric(0);
    let to = WirePartitioning::PartitionId(partition);
    SendMessagesEncoder::encode(&mut out, &stream, &stream, &to, &[message]).unwrap();
    let metadata = u32::from_le_bytes(out[..4].try_into().unwrap()) as usize;
    out.freeze().slice(4 + metadata..)
}

struct Bench {
    local: LocalPartitions,
    _data: TempDir,
}

impl Bench {
    /// A topic of at most 6 MiB in three partitions.
    fn new() -> Self {
        let data = TempDir::new().unwrap();
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        let storage = EmbeddedStorage::new(data.path(), EmbeddedStorageConfig::default());
        let local = LocalPartitions::new(Arc::clone(&metadata), Arc::new(storage.unwrap()));
        let options = TopicCreateOptions {
            raw: [("segment_size", "6 MiB"), ("max_topic_size", "6 MiB")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..TopicCreateOptions::default()
        };
        let options = options.to_wire().unwrap();
        let options = adapters::wire::v0_11::create_topic_options(&options, PARTITIONS).unwrap();
        let operations = topic_here(options, PARTITIONS as usize);
        for command in commands(log.register(CLIENT), operations) {
            log.apply(&command);
        }
        Self { local, _data: data }
    }

    fn place(&self, partition: u32) -> Place {
        let state = self.local.metadata.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
        let key = topic.key(stream.id, partition).unwrap();
        Place::of(&state, &key).unwrap()
    }

    async fn append(&self, partition: u32, bytes: usize) {
        let Place { key, options, .. } = self.place(partition);
        let batch = batch(partition, bytes);
        let appended = self.local.storage.append(key, options, batch, 1).await;
        appended.unwrap();
    }

    async fn stats(&self, partition: u32) -> PartitionStats {
        let Place { key, options, .. } = self.place(partition);
        self.local.storage.stats(key, options).await.unwrap()
    }

    async fn clean(&self) {
        while cleaner::pass(&self.local, 2).await {}
    }
}

#[tokio::test]
async fn a_topic_is_as_small_as_its_maximum_size_after_the_cleaner_has_run() {
    let bench = Bench::new();
    for _ in 0..100 {
        for partition in 0..PARTITIONS {
            bench.append(partition, 300_000).await;
        }
    }
    bench.clean().await;
    let mut bytes = 0;
    for partition in 0..PARTITIONS {
        let stats = bench.stats(partition).await;
        assert!(stats.bytes > MIB, "more was removed than needed: {stats:?}");
        assert_eq!(stats.next_offset, 100);
        bytes += stats.bytes;
    }
    assert!(bytes <= 6 * MIB, "{bytes} bytes");
}

/// However large it is.
#[tokio::test]
async fn the_newest_message_of_a_partition_stays() {
    let bench = Bench::new();
    for _ in 0..3 {
        bench.append(0, 8 << 20).await;
    }
    bench.clean().await;
    let stats = bench.stats(0).await;
    assert_eq!((stats.messages, stats.next_offset), (1, 3));
}
