//! Any history, against a list.

use std::collections::BTreeMap;

use consensus::Index;
use proptest::prelude::*;

use super::*;
use crate::replication::{Position, Start};

#[derive(Clone, Debug)]
enum Step {
    Append {
        messages: u64,
        later: u64,
    },
    Read {
        at: u64,
        count: u32,
        bytes: usize,
    },
    ReadLast {
        count: u32,
    },
    ReadTime {
        at: u64,
        count: u32,
    },
    Store {
        consumer: u32,
        at: u64,
    },
    Delete {
        consumer: u32,
    },
    Sync,
    Close,
    Kill,
    Tear {
        bytes: u64,
    },
    Purge,
    Truncate {
        at: u64,
    },
    Reset {
        gap: u64,
    },
    Records {
        after: u64,
        count: u64,
        bytes: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..40_u64, 0..5_u64).prop_map(|(messages, later)| Step::Append { messages, later }),
        6 => (any::<u64>(), 1..100_u32, 300..20_000_usize)
            .prop_map(|(at, count, bytes)| Step::Read { at, count, bytes }),
        2 => (1..100_u32).prop_map(|count| Step::ReadLast { count }),
        3 => (any::<u64>(), 1..100_u32).prop_map(|(at, count)| Step::ReadTime { at, count }),
        3 => (0..4_u32, any::<u64>()).prop_map(|(consumer, at)| Step::Store { consumer, at }),
        1 => (0..4_u32).prop_map(|consumer| Step::Delete { consumer }),
        1 => Just(Step::Sync),
        1 => Just(Step::Close),
        2 => Just(Step::Kill),
        1 => (1..300_u64).prop_map(|bytes| Step::Tear { bytes }),
        1 => Just(Step::Purge),
        3 => any::<u64>().prop_map(|at| Step::Truncate { at }),
        1 => (0..1_000_u64).prop_map(|gap| Step::Reset { gap }),
        4 => (any::<u64>(), 1..20_u64, 0..20_000_usize)
            .prop_map(|(after, count, bytes)| Step::Records { after, count, bytes }),
    ]
}

#[derive(Default)]
struct Model {
    /// Offset of the first message.
    first: u64,
    /// When each message arrived.
    messages: Vec<u64>,
    /// The record before the first one, and how many messages each has.
    base: u64,
    records: Vec<u64>,
    offsets: BTreeMap<u32, u64>,
    now: u64,
}

impl Model {
    fn next(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    fn append(&mut self, messages: u64) {
        let times = std::iter::repeat_n(self.now, messages as usize);
        self.messages.extend(times);
        self.records.push(messages);
    }
}

struct History {
    dir: Dir,
    storage: EmbeddedStorage,
    model: Model,
}

impl History {
    async fn run(&mut self, step: Step) {
        let next = self.model.next();
        match step {
            Step::Append { messages, later } => {
                self.model.now += later;
                append(&self.storage, next, messages, self.model.now).await;
                self.model.append(messages);
            }
            Step::Read { at, count, bytes } => self.read(at % (next + 2), count, bytes).await,
            Step::ReadLast { count } => {
                let from = next.saturating_sub(u64::from(count)).max(self.model.first);
                let expected: Vec<_> = (from..next).collect();
                assert_eq!(read(&self.storage, ReadFrom::Last, count).await, expected);
            }
            Step::ReadTime { at, count } => {
                let time = at % (self.model.now + 2);
                let before = self.model.messages.partition_point(|then| *then < time);
                let from = self.model.first + before as u64;
                let expected: Vec<_> = (from..next.min(from + u64::from(count))).collect();
                let got = read(&self.storage, ReadFrom::Timestamp(time), count).await;
                assert_eq!(got, expected, "at {time}");
            }
            Step::Store { consumer, at } => self.store(consumer, at % (next + 1)).await,
            Step::Delete { consumer: id } => {
                let deleted = self.storage.delete_offset(key(1), written(), consumer(id));
                let deleted = deleted.await.is_ok();
                assert_eq!(deleted, self.model.offsets.remove(&id).is_some());
            }
            Step::Sync => self.storage.sync(key(1), written()).await.unwrap(),
            Step::Close => self.storage.close(key(1)).await.unwrap(),
            Step::Kill => self.kill(),
            Step::Tear { bytes } => self.tear(bytes).await,
            Step::Purge => {
                self.storage.purge(key(1)).await.unwrap();
                self.model = Model {
                    now: self.model.now,
                    ..Model::default()
                };
            }
            Step::Truncate { at } => self.truncate(at).await,
            Step::Reset { gap } => self.reset(gap).await,
            Step::Records {
                after,
                count,
                bytes,
            } => self.records(after, count, bytes).await,
        }
        self.check_offsets().await;
    }

    async fn read(&self, from: u64, count: u32, bytes: usize) {
        let next = self.model.next();
        let polled = self
            .storage
            .read(key(1), written(), ReadFrom::Offset(from), count, bytes)
            .await
            .unwrap();
        let got = decoded(&polled);
        let from = from.max(self.model.first);
        let most = next.min(from + u64::from(count));
        let expected: Vec<_> = (from..most).take(got.len()).collect();
        let offsets: Vec<_> = got.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, expected);
        assert_eq!(got.is_empty(), from >= most, "progress");
        let size: usize = polled.batches.iter().map(Bytes::len).sum();
        assert!(size <= bytes || got.len() == 1);
    }

    async fn submit(&self, operation: Operation) {
        let partition = self.storage.open(key(1), written()).await.unwrap();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        partition.submit(operation, Box::new(|result| drop(sender.send(result))));
        receiver.await.unwrap().unwrap();
    }

    async fn truncate(&mut self, at: u64) {
        let kept = at % (self.model.records.len() as u64 + 1);
        let end = Index(self.model.base + kept);
        self.submit(Operation::Truncate { end }).await;
        self.model.records.truncate(kept as usize);
        let messages: u64 = self.model.records.iter().sum();
        self.model.messages.truncate(messages as usize);
        self.forget_offsets(self.model.next()).await;
    }

    async fn reset(&mut self, gap: u64) {
        let base = self.model.base + self.model.records.len() as u64 + gap;
        let first_offset = self.model.next() + gap;
        let position = Position {
            epoch: crate::replication::Epoch(1),
            index: Index(base),
        };
        let start = Start {
            base: position,
            first_offset,
        };
        let sessions = Bytes::new();
        self.submit(Operation::Reset { start, sessions }).await;
        self.model.base = base;
        self.model.first = first_offset;
        self.model.records.clear();
        self.model.messages.clear();
    }

    /// Offsets beyond the end would be set back with the next start.
    async fn forget_offsets(&mut self, end: u64) {
        let beyond = self.model.offsets.iter().filter(|it| *it.1 >= end);
        let beyond: Vec<_> = beyond.map(|it| *it.0).collect();
        for id in beyond {
            let deleted = self.storage.delete_offset(key(1), written(), consumer(id));
            deleted.await.unwrap();
            self.model.offsets.remove(&id);
        }
    }

    async fn records(&self, after: u64, count: u64, bytes: usize) {
        let partition = self.storage.open(key(1), written()).await.unwrap();
        let total = self.model.records.len() as u64;
        let skip = after % (total + 1);
        let after = Index(self.model.base + skip);
        let through = Index(after.0 + count);
        let found = partition.records(after, through, bytes).unwrap();
        let expected = self.model.records[skip as usize..]
            .iter()
            .take(count as usize);
        let mut offset = self.model.first + self.model.records[..skip as usize].iter().sum::<u64>();
        assert_eq!(found.is_empty(), skip == total);
        for (number, (record, messages)) in found.iter().zip(expected).enumerate() {
            assert_eq!(record.position.index.0, after.0 + 1 + number as u64);
            assert_eq!(u64::from(record.messages), *messages);
            assert_eq!(record.first_offset, offset);
            offset += messages;
        }
        assert_eq!(
            partition.recovered().unwrap().chain.last().index.0,
            self.model.base + total
        );
        let size: usize = found.iter().map(Record::bytes).sum();
        assert!(size <= bytes || found.len() <= 1);
    }

    async fn store(&mut self, id: u32, offset: u64) {
        let stored = self
            .storage
            .store_offset(key(1), written(), consumer(id), offset);
        match stored.await {
            Ok(()) => {
                assert!(offset < self.model.next());
                self.model.offsets.insert(id, offset);
            }
            Err(StorageError::InvalidOffset { .. }) => {
                assert_eq!(offset, self.model.next());
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn check_offsets(&self) {
        for id in 0..4 {
            let stored = self.storage.offset(key(1), written(), consumer(id)).await;
            assert_eq!(stored.unwrap(), self.model.offsets.get(&id).copied());
        }
    }

    fn kill(&mut self) {
        self.dir = self.dir.copy();
        self.storage = self.dir.storage();
    }

    /// The process is killed while it writes a batch: the directory is as before, with
    /// part of the batch.
    async fn tear(&mut self, bytes: u64) {
        let torn = self.dir.copy();
        let next = self.model.next();
        append(&self.storage, next, 3, self.model.now).await;
        let is_empty = |path: &PathBuf| {
            fs::metadata(path).unwrap().len() == crate::format::FILE_HEADER_BYTES_MAX as u64
        };
        // The batch may have filled its segment: the next one is made after the write.
        let mut segments = self.dir.segments().into_iter().rev();
        let written = segments.find(|path| !is_empty(path)).unwrap();
        let content = fs::read(&written).unwrap();
        let partition = torn.partition(key(1));
        fs::create_dir_all(&partition).unwrap();
        let part = &content[..content.len() - bytes as usize];
        fs::write(partition.join(written.file_name().unwrap()), part).unwrap();
        self.dir = torn;
        self.storage = self.dir.storage();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_history_reads_like_a_list(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = Dir::new();
            let storage = dir.storage();
            let mut history = History { dir, storage, model: Model::default() };
            for step in steps {
                history.run(step).await;
            }
        });
    }
}
