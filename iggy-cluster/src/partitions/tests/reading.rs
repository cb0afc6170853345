//! Polls within the memory for requests and replies.

use adapters::wire::PollStart;
use replicated_log::MemoryBudget;

use super::*;

/// A poll of 40 MiB needs several reads.
#[tokio::test]
async fn a_poll_returns_what_it_requests_as_far_as_there_is_memory() {
    let data = TempDir::new().unwrap();
    let (log, metadata) = FakeLog::start(Duration::from_secs(5));
    let storage = EmbeddedStorage::new(data.path(), EmbeddedStorageConfig::default());
    let memory = MemoryBudget::new(64 << 20);
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
    let payload = vec![7; 400 << 10];
    for _ in 0..10 {
        let batch = batch_of(10, &payload);
        let appended = local.serve(DataRequest::Append { key, batch }).await;
        assert!(matches!(appended, DataReply::Appended(_)));
    }
    let poll = async || {
        let poll = Poll {
            key,
            reader: Reader::Single(1),
            start: PollStart::First,
            count: 100,
            auto_commit: false,
        };
        match local.poll(poll).await.unwrap().0 {
            DataReply::Polled(polled) => polled,
            other => panic!("{other:?}"),
        }
    };
    let all = poll().await;
    assert_eq!((all.messages, all.last_offset), (100, Some(99)));
    let bytes: usize = all.batches.iter().map(Bytes::len).sum();
    assert!(
        memory.reserved_bytes() >= bytes,
        "what is not sent is counted"
    );
    drop(all);
    assert_eq!(memory.reserved_bytes(), 0);
    let others = memory.try_reserve(54 << 20).unwrap();
    let some = poll().await;
    assert!(
        some.messages > 10 && some.messages < 100,
        "{}",
        some.messages
    );
    assert_eq!(some.last_offset, Some(u64::from(some.messages) - 1));
    drop((some, others));
    assert_eq!(memory.reserved_bytes(), 0);
}
