//! Polls within the memory for requests and replies.

use std::sync::Mutex;

use ::partitions::PolledBatches;
use adapters::wire::PollStart;
use replicated_log::{MemoryBudget, MemoryShare, ReservedMemory};

use super::*;
use crate::partitions::reading::{Read, Source, count_in};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

struct Bench {
    local: LocalPartitions,
    memory: MemoryBudget,
    key: PartitionKey,
    _data: TempDir,
}

impl Bench {
    /// A partition of this node with so many messages of this size.
    async fn new(memory_bytes: usize, messages: u128, payload: usize) -> Self {
        let data = TempDir::new().unwrap();
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        let storage = EmbeddedStorage::new(data.path(), EmbeddedStorageConfig::default());
        let memory = MemoryBudget::new(memory_bytes);
        let local = LocalPartitions::new(Arc::clone(&metadata), Arc::new(storage.unwrap()));
        let local = local.memory(memory.clone());
        let operations = topic_here(Options::default(), 1);
        for command in commands(log.register(CLIENT), operations) {
            log.apply(&command);
        }
        let key = {
            let state = metadata.reader.read();
            let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
            topic.key(stream.id, 0).unwrap()
        };
        let payload = vec![7; payload];
        for _ in 0..messages / 10 {
            let batch = batch_of(10, &payload);
            let appended = local.serve(DataRequest::Append { key, batch }).await;
            assert!(matches!(appended, DataReply::Appended(_)));
        }
        Self {
            local,
            memory,
            key,
            _data: data,
        }
    }

    fn request(&self) -> Poll {
        Poll {
            key: self.key,
            reader: Reader::Single(1),
            start: PollStart::First,
            count: 100,
            auto_commit: false,
        }
    }

    async fn poll(&self) -> PolledBatches {
        match self.local.poll(self.request()).await.unwrap().0 {
            DataReply::Polled(polled) => polled,
            other => panic!("{other:?}"),
        }
    }
}

/// A poll of 40 MiB needs several reads.
#[tokio::test]
async fn a_poll_returns_what_it_requests_as_far_as_there_is_memory() {
    let bench = Bench::new(256 * MIB, 100, 400 * KIB).await;
    let memory = &bench.memory;
    let all = bench.poll().await;
    assert_eq!((all.messages, all.last_offset), (100, Some(99)));
    let bytes: usize = all.batches.iter().map(Bytes::len).sum();
    assert!(
        memory.reserved_bytes() >= bytes,
        "what is not sent is counted"
    );
    drop(all);
    assert_eq!(memory.reserved_bytes(), 0);
    assert_eq!(bench.local.polls_shortened.get(), 0);
    let others = memory.try_reserve(226 * MIB).unwrap();
    let some = bench.poll().await;
    assert!(
        some.messages > 10 && some.messages < 100,
        "{}",
        some.messages
    );
    assert_eq!(some.last_offset, Some(u64::from(some.messages) - 1));
    assert_eq!(bench.local.polls_shortened.get(), 1);
    drop((some, others));
    assert_eq!(memory.reserved_bytes(), 0);
}

/// The memory of what is read is that of the batch that is dropped last.
#[tokio::test]
async fn batches_that_are_sent_one_after_the_other_stay_counted() {
    let bench = Bench::new(256 * MIB, 100, 400 * KIB).await;
    let mut polled = bench.poll().await;
    while let Some(left) = polled.batches.len().checked_sub(1) {
        let bytes = bytes_of(&polled.batches);
        assert!(bench.memory.reserved_bytes() >= bytes, "{left} are left");
        polled.batches.remove(0);
    }
    assert_eq!(bench.memory.reserved_bytes(), 0);
}

/// The node of the client has reserved so much for the reply.
#[tokio::test]
async fn an_owner_returns_no_more_than_the_node_of_the_client_has_memory_for() {
    let bench = Bench::new(256 * MIB, 100, 400 * KIB).await;
    let peer = ReplicaId(2);
    for (bytes_max, messages) in [(1, 1), (900 * KIB, 2), (30 * MIB, 76), (64 * MIB, 100)] {
        let request = DataRequest::PollWithin {
            poll: bench.request(),
            bytes_max: bytes_max as u64,
        };
        let request = request.encode().concat();
        let reply = bench.local.serve_bytes(peer, request.into()).await.concat();
        let Some(DataReply::Polled(polled)) = DataReply::decode(reply.into()) else {
            panic!("not polled");
        };
        assert_eq!(polled.messages, messages);
    }
    assert_eq!(bench.memory.reserved_bytes(), 0);
}

/// Messages of one size, of another node.
struct Messages {
    bytes: usize,
    count: u64,
    /// The memory of each read.
    reads: Mutex<Vec<usize>>,
}

impl Messages {
    fn new(bytes: usize, count: u64) -> Self {
        let reads = Mutex::default();
        Self {
            bytes,
            count,
            reads,
        }
    }

    fn reads(&self) -> Vec<usize> {
        std::mem::take(&mut *self.reads.lock().unwrap())
    }
}

impl Source for Messages {
    type Error = ();

    async fn read(
        &self,
        after: Option<u64>,
        messages_max: u32,
        reserved: ReservedMemory,
    ) -> Result<Read, ()> {
        self.reads.lock().unwrap().push(reserved.bytes());
        let first = after.map_or(0, |last| last + 1);
        let fit = (reserved.bytes() / self.bytes).max(1) as u64;
        let messages = fit.min(messages_max.into()).min(self.count - first);
        let read = PolledBatches {
            current_offset: self.count - 1,
            messages: messages as u32,
            last_offset: (first + messages).checked_sub(1),
            batches: vec![vec![7; messages as usize * self.bytes].into()],
        };
        Ok(count_in(read, reserved))
    }
}

async fn gather(
    bench: &Bench,
    share: &MemoryShare,
    expected: &mut PollBytes,
    from: &Messages,
) -> Option<PolledBatches> {
    let memory = PollMemory::new(share.clone(), *expected);
    let polled = bench.local.gather(&memory, 1_000, from).await.unwrap();
    if let Some(polled) = &polled {
        expected.note(bytes_of(&polled.batches));
    }
    polled
}

#[tokio::test]
async fn a_poll_reserves_what_the_last_ones_needed() {
    let bench = Bench::new(256 * MIB, 0, 0).await;
    let share = bench.memory.account().share();
    let mut expected = PollBytes::default();
    let many = Messages::new(10_000, 5_000);
    for reads in [2, 1, 1] {
        let polled = gather(&bench, &share, &mut expected, &many).await.unwrap();
        assert_eq!(polled.messages, 1_000);
        let memory = many.reads();
        assert_eq!(memory.len(), reads, "{memory:?}");
        assert!(memory.iter().sum::<usize>() < 14_000_000, "{memory:?}");
    }
    // A consumer at the end of a partition.
    let few = Messages::new(100, 5);
    for _ in 0..20 {
        let polled = gather(&bench, &share, &mut expected, &few).await.unwrap();
        assert_eq!(polled.messages, 5);
    }
    assert_eq!(few.reads().last(), Some(&(64 * KIB)));
    assert_eq!(bench.memory.reserved_bytes(), 0);
}

/// A single message for which there is no memory in the part of its user.
#[tokio::test]
async fn a_poll_of_a_long_message_waits_and_keeps_no_other_waiting() {
    let bench = Bench::new(256 * MIB, 0, 0).await;
    let user = bench.memory.account();
    let unread = user.share().try_reserve(126 * MIB).unwrap();
    let (long, short) = (Messages::new(5 * MIB, 10), Messages::new(100, 10));
    let (one, other) = (user.share(), user.share());
    let mut expected = PollBytes::default();
    let mut waiting = Box::pin(gather(&bench, &one, &mut expected, &long));
    let mut usual = PollBytes::default();
    let served = tokio::select! {
        biased;
        _ = &mut waiting => panic!("there is no memory"),
        served = gather(&bench, &other, &mut usual, &short) => served.unwrap(),
    };
    assert_eq!(served.messages, 10);
    drop(served);
    // Another user has memory for it.
    let elsewhere = bench.memory.account().share();
    let mut usual = PollBytes::default();
    let served = gather(&bench, &elsewhere, &mut usual, &long).await.unwrap();
    assert_eq!(served.messages, 10);
    drop((served, unread));
    assert!(waiting.await.unwrap().messages > 0);
    assert_eq!(bench.memory.reserved_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_finds_no_memory_in_time_is_refused_for_now() {
    let bench = Bench::new(256 * MIB, 0, 0).await;
    let all = bench.memory.try_reserve(256 * MIB).unwrap();
    let share = bench.memory.account().share();
    let short = Messages::new(100, 10);
    let mut expected = PollBytes::default();
    assert!(
        gather(&bench, &share, &mut expected, &short)
            .await
            .is_none()
    );
    assert_eq!(bench.local.without_memory.get(), 1);
    drop(all);
    assert!(
        gather(&bench, &share, &mut expected, &short)
            .await
            .is_some()
    );
}
