//! An owner that does not know yet what was acknowledged.

use super::*;

/// The owner of a topic that was purged, which it does not know yet. Returns also the key of
/// the former generation.
fn unaware(lease: Duration) -> (Arc<FakeLog>, LocalPartitions, PartitionKey, TempDir) {
    let data = TempDir::new().unwrap();
    let (log, metadata) = FakeLog::start_with_lease(Duration::from_secs(5), lease);
    let storage = EmbeddedStorage::new(data.path(), EmbeddedStorageConfig::default());
    let local = LocalPartitions::new(Arc::clone(&metadata), Arc::new(storage.unwrap()));
    let mut operations = topic_here(Options::default(), 1);
    operations.push(ClientOperation::PurgeTopic {
        stream: named("s"),
        topic: named("t"),
    });
    let commands = commands(log.register(CLIENT), operations);
    log.apply(&commands[0]);
    log.apply(&commands[1]);
    let key = {
        let state = metadata.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic.key(stream.id, 0).unwrap()
    };
    log.commit_unseen(commands[2].clone());
    (log, local, key, data)
}

fn append(key: PartitionKey) -> DataRequest {
    DataRequest::Append {
        key,
        batch: batch(1),
    }
}

#[tokio::test]
async fn an_owner_whose_lease_has_ended_stores_nothing_in_a_purged_partition() {
    let (_, local, key, _data) = unaware(Duration::from_secs(3_600));
    let stored = local.serve(append(key)).await;
    assert!(matches!(stored, DataReply::Appended(_)), "{stored:?}");
    let (_, local, key, _data) = unaware(Duration::ZERO);
    let refused = local.serve(append(key)).await;
    assert!(
        matches!(refused, DataReply::Refused(code::PARTITION_NOT_FOUND)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_owner_that_confirms_a_change_has_applied_it() {
    let (_, local, key, _data) = unaware(Duration::from_secs(3_600));
    let request = DataRequest::barrier().encode().concat();
    let reply = local.serve_bytes(ME, request.into()).await.concat();
    let confirmed = DataReply::decode(reply.into());
    assert!(matches!(
        confirmed,
        Some(DataReply::Refused(code::PARTITION_NOT_FOUND))
    ));
    let refused = local.serve(append(key)).await;
    assert!(
        matches!(refused, DataReply::Refused(code::PARTITION_NOT_FOUND)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_fenced_owner_serves_nothing() {
    let (log, local, former, _data) = unaware(Duration::from_secs(3_600));
    local.metadata.barrier().await.unwrap();
    let current = {
        let state = local.metadata.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic.key(stream.id, 0).unwrap()
    };
    assert_ne!(current, former);
    log.apply(&Command::FenceNode {
        node: ME,
        registration: 1,
    });
    let refused = local.serve(append(current)).await;
    assert!(
        matches!(refused, DataReply::Refused(code::TRANSIENT_NOT_ACCEPTED)),
        "{refused:?}"
    );
}
