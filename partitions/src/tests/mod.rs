//! Tests of the embedded storage through its trait, with batches from the
//! client's own encoder, read by the client's own decoder.

mod acknowledged;
mod append_read;
mod consumers;
mod copies;
mod crash_disk;
mod crashes;
mod damaged_copies;
mod faults;
mod faulty;
mod full;
mod generations;
mod model;
mod node;
mod operations;
mod records;
mod recovery;
mod trim;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use iggy_binary_protocol::batch::decode_batch_slice;
use iggy_binary_protocol::requests::messages::{RawMessage, SendMessagesEncoder};
use iggy_binary_protocol::responses::messages::poll_messages::PolledBatchesIterator;
use iggy_binary_protocol::{WireIdentifier, WirePartitioning};

use super::*;
use crate::files::{Disk, OsDisk};
use crash_disk::CrashDisk;
use faulty::FaultyDisk;

/// A run of the machine.
const BOOT: u64 = 7;
const NEXT_BOOT: u64 = 8;

fn written() -> PartitionOptions {
    PartitionOptions {
        segment_bytes_max: 8 << 10,
        durability: Durability::Written,
        offset_durability: Durability::Written,
        repairable: false,
    }
}

fn synced() -> PartitionOptions {
    PartitionOptions {
        durability: Durability::Synced,
        offset_durability: Durability::Synced,
        ..written()
    }
}

fn key(generation: u64) -> PartitionKey {
    PartitionKey {
        stream_id: 1,
        topic_id: 2,
        partition_id: 3,
        generation,
    }
}

fn consumer(id: u32) -> ConsumerKey {
    ConsumerKey { group: false, id }
}

/// A batch as the client's own encoder makes it.
fn batch_of(messages: &[RawMessage<'_>]) -> Bytes {
    let (stream, partitioning) = (WireIdentifier::Numeric(1), WirePartitioning::PartitionId(3));
    let mut out = BytesMut::new();
    SendMessagesEncoder::encode(&mut out, &stream, &stream, &partitioning, messages).unwrap();
    let metadata = u32::from_le_bytes(out[..4].try_into().unwrap()) as usize;
    out.freeze().slice(4 + metadata..)
}

fn batch(payloads: &[Vec<u8>]) -> Bytes {
    let messages: Vec<_> = payloads
        .iter()
        .enumerate()
        .map(|(number, payload)| RawMessage {
            id: number as u128 + 1,
            origin_timestamp: 1_000 + number as u64,
            headers: None,
            payload,
        })
        .collect();
    batch_of(&messages)
}

/// Messages whose payload is the offset they expect.
fn numbered(from: u64, count: u64) -> Bytes {
    let payloads: Vec<_> = (from..from + count)
        .map(|n| format!("message {n}").into_bytes())
        .collect();
    batch(&payloads)
}

/// Offsets and payloads, as the client's own decoder reads them.
fn decoded(polled: &PolledBatches) -> Vec<(u64, String)> {
    let joined = polled.batches.concat();
    let mut at = 0;
    while at < joined.len() {
        let batch = decode_batch_slice(&joined[at..]).expect("every checksum holds");
        assert_eq!(batch.header.partition_id, 3);
        at += batch.header.total_size();
    }
    let messages: Vec<_> = PolledBatchesIterator::new(&joined)
        .map(|message| {
            let message = message.unwrap();
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            (message.offset, payload)
        })
        .collect();
    assert_eq!(messages.len(), polled.messages as usize);
    assert_eq!(messages.last().map(|last| last.0), polled.last_offset);
    messages
}

async fn poll(storage: &EmbeddedStorage, from: ReadFrom, count: u32) -> PolledBatches {
    let polled = storage.read(key(1), written(), from, count, 1 << 20).await;
    polled.unwrap()
}

/// The offsets that a read returns, all with their own messages.
async fn read(storage: &EmbeddedStorage, from: ReadFrom, count: u32) -> Vec<u64> {
    let messages = decoded(&poll(storage, from, count).await);
    for (offset, payload) in &messages {
        assert_eq!(*payload, format!("message {offset}"));
    }
    messages.into_iter().map(|(offset, _)| offset).collect()
}

async fn append_with(
    storage: &EmbeddedStorage,
    options: PartitionOptions,
    from: u64,
    count: u64,
    now: u64,
) {
    let appended = storage
        .append(key(1), options, numbered(from, count), now)
        .await
        .unwrap();
    assert_eq!(
        (appended.base_offset, u64::from(appended.messages)),
        (from, count)
    );
}

async fn append(storage: &EmbeddedStorage, from: u64, count: u64, now: u64) {
    append_with(storage, written(), from, count, now).await;
}

fn all(messages: u64) -> Vec<u64> {
    (0..messages).collect()
}

struct Dir {
    dir: tempfile::TempDir,
}

impl Dir {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// What a process finds that starts now, on the machine that still runs.
    fn storage(&self) -> EmbeddedStorage {
        self.storage_on(Arc::new(OsDisk), BOOT)
    }

    /// The same after the machine itself was started again.
    fn storage_after_boot(&self) -> EmbeddedStorage {
        self.storage_on(Arc::new(OsDisk), NEXT_BOOT)
    }

    fn faulty(&self) -> (Arc<FaultyDisk>, EmbeddedStorage) {
        let disk = Arc::new(FaultyDisk::default());
        let storage = self.storage_on(Arc::clone(&disk) as Arc<dyn Disk>, BOOT);
        (disk, storage)
    }

    fn storage_on(&self, disk: Arc<dyn Disk>, boot: u64) -> EmbeddedStorage {
        let config = EmbeddedStorageConfig::default();
        EmbeddedStorage::on(disk, self.dir.path().to_owned(), config, boot).unwrap()
    }

    /// The files as they are now, as another process would find them.
    fn copy(&self) -> Self {
        let copy = Self::new();
        let (from, to) = (self.partition(key(1)), copy.partition(key(1)));
        if !from.exists() {
            return copy;
        }
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            match fs::copy(entry.path(), to.join(entry.file_name())) {
                // A background sync has just given it its name.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => assert!(copied.is_ok(), "{copied:?}"),
            }
        }
        copy
    }

    /// A storage that works like that on the system's disk, but for fsyncs.
    fn storage_unsynced(&self, boot: u64) -> EmbeddedStorage {
        self.storage_on(Arc::new(CrashDisk::new(usize::MAX)), boot)
    }

    fn partition(&self, key: PartitionKey) -> PathBuf {
        self.storage_unsynced(BOOT).dir(&key)
    }

    fn files(&self, key: PartitionKey, extension: &str) -> Vec<PathBuf> {
        let mut paths: Vec<_> = fs::read_dir(self.partition(key))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == extension))
            .collect();
        paths.sort();
        paths
    }

    /// The record of what was acknowledged.
    fn acknowledged(&self) -> PathBuf {
        self.partition(key(1)).join("acknowledged")
    }

    fn segments(&self) -> Vec<PathBuf> {
        self.files(key(1), "log")
    }
}
