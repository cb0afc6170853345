//! Members of groups, and pending commits of polls, at the owner of a partition.

use std::collections::BTreeSet;
use std::time::Instant;

use ::partitions::ConsumerKey;
use adapters::metadata::{GroupChange, GroupOperation};
use adapters::wire::PollStart;

use super::super::pending_commits::PendingCommit;
use super::*;

const OTHER: u128 = 8;
const GROUP: ConsumerKey = ConsumerKey { group: true, id: 0 };

struct Bench {
    log: Arc<FakeLog>,
    local: Arc<LocalPartitions>,
    sessions: BTreeMap<u128, u64>,
    requests: u64,
    _data: TempDir,
}

impl Bench {
    /// A topic with four partitions of ten messages each, and a group.
    async fn new() -> Self {
        let data = TempDir::new().unwrap();
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        let storage = EmbeddedStorage::new(data.path(), EmbeddedStorageConfig::default());
        let local = LocalPartitions::new(Arc::clone(&metadata), Arc::new(storage.unwrap()));
        let sessions = [CLIENT, OTHER].map(|client| (client, log.register(client)));
        let mut bench = Self {
            log,
            local: Arc::new(local),
            sessions: sessions.into(),
            requests: 0,
            _data: data,
        };
        for operation in topic_here(Options::default(), 4) {
            let command = bench.command(CLIENT, operation);
            bench.log.apply(&command);
        }
        bench.change(CLIENT, GroupChange::Create(Name::new("g").unwrap()));
        for partition in 0..4 {
            bench.append(partition).await;
        }
        bench
    }

    fn command(&mut self, client: u128, operation: ClientOperation<Placement>) -> Command {
        self.requests += 1;
        Command::Client(ClientRequest {
            client,
            session: self.sessions[&client],
            request: self.requests,
            checksum: 0,
            operation,
        })
    }

    fn group_command(&mut self, client: u128, change: GroupChange) -> Command {
        let operation = ClientOperation::Group(GroupOperation {
            stream: named("s"),
            topic: named("t"),
            change,
        });
        self.command(client, operation)
    }

    fn change(&mut self, client: u128, change: GroupChange) {
        let command = self.group_command(client, change);
        self.log.apply(&command);
    }

    fn join(&mut self, client: u128, busy: &[u32]) {
        self.change(client, join(busy));
    }

    fn key(&self, partition: u32) -> PartitionKey {
        let state = self.local.metadata.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic.key(stream.id, partition).unwrap()
    }

    async fn append(&self, partition: u32) {
        let batch = batch(10);
        let key = self.key(partition);
        let appended = self.local.serve(DataRequest::Append { key, batch }).await;
        assert!(matches!(appended, DataReply::Appended(_)));
    }

    /// Whether the client has not committed everything that it was served.
    async fn is_busy(&self, partition: u32) -> bool {
        let key = self.key(partition);
        let place = Place::of(&self.local.metadata.reader.read(), &key);
        let options = place.unwrap().options;
        self.local.is_busy(key, options, 0, CLIENT).await
    }

    fn reader(&self, client: u128) -> Reader {
        Reader::Member {
            group: 0,
            client,
            session: self.sessions[&client],
        }
    }

    async fn poll(
        &self,
        client: u128,
        partition: u32,
        count: u32,
        auto_commit: bool,
    ) -> (DataReply, Option<PendingCommit>) {
        let poll = Poll {
            key: self.key(partition),
            reader: self.reader(client),
            start: PollStart::Next,
            count,
            auto_commit,
        };
        self.local.poll(poll).await.unwrap()
    }

    /// The offsets that a poll returns.
    async fn polled(&self, client: u128, partition: u32, count: u32) -> (Option<u64>, u32) {
        match self.poll(client, partition, count, false).await.0 {
            DataReply::Polled(polled) => (polled.last_offset, polled.messages),
            other => panic!("{other:?}"),
        }
    }

    async fn stored(&self, partition: u32) -> Option<u64> {
        let request = DataRequest::Offset {
            key: self.key(partition),
            consumer: GROUP,
        };
        match self.local.serve(request).await {
            DataReply::Offset { stored, .. } => stored,
            other => panic!("{other:?}"),
        }
    }

    async fn store(&self, client: u128, partition: u32, offset: u64) -> DataReply {
        let request = DataRequest::StoreOffset {
            key: self.key(partition),
            reader: self.reader(client),
            offset,
        };
        self.local.serve(request).await
    }
}

fn join(busy: &[u32]) -> GroupChange {
    GroupChange::Join {
        group: named("g"),
        busy: busy.iter().copied().collect::<BTreeSet<_>>(),
    }
}

#[tokio::test]
async fn only_the_holder_is_served() {
    let mut bench = Bench::new().await;
    let (reply, _) = bench.poll(CLIENT, 0, 5, false).await;
    assert!(matches!(reply, DataReply::Fenced), "no member");
    bench.join(CLIENT, &[]);
    bench.join(OTHER, &[]);
    assert_eq!(bench.polled(CLIENT, 0, 5).await, (Some(4), 5));
    assert_eq!(bench.polled(OTHER, 3, 5).await, (Some(4), 5));
    let (reply, _) = bench.poll(OTHER, 0, 5, false).await;
    assert!(matches!(reply, DataReply::Fenced));
    let refused = bench.store(OTHER, 0, 4).await;
    assert!(matches!(
        refused,
        DataReply::Refused(code::PARTITION_NOT_OWNED)
    ));
}

/// This node does not know the member yet; clients regard a refusal as final.
#[tokio::test]
async fn a_refusal_is_never_made_from_an_old_state() {
    let mut bench = Bench::new().await;
    let unseen = bench.group_command(CLIENT, join(&[]));
    bench.log.commit_unseen(unseen);
    assert_eq!(bench.polled(CLIENT, 0, 5).await, (Some(4), 5));
}

#[tokio::test]
async fn a_session_that_has_ended_is_refused_as_stale() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    let poll = Poll {
        key: bench.key(0),
        reader: bench.reader(CLIENT),
        start: PollStart::Next,
        count: 1,
        auto_commit: true,
    };
    bench.log.register(CLIENT);
    assert_eq!(
        bench.local.poll(poll).await.unwrap_err(),
        code::STALE_CLIENT
    );
}

#[tokio::test]
async fn a_holder_of_a_revoked_partition_may_commit_but_not_read() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    bench.polled(CLIENT, 3, 5).await;
    bench.join(OTHER, &[0, 1, 2, 3]);
    let (reply, _) = bench.poll(CLIENT, 3, 5, false).await;
    assert!(matches!(reply, DataReply::Fenced));
    assert!(bench.is_busy(3).await);
    assert!(!bench.is_busy(2).await, "nothing was served of it");
    assert!(matches!(bench.store(CLIENT, 3, 3).await, DataReply::Done));
    assert!(bench.is_busy(3).await);
    assert!(matches!(bench.store(CLIENT, 3, 4).await, DataReply::Done));
    assert!(!bench.is_busy(3).await);
}

#[tokio::test]
async fn revocations_complete_when_everything_served_is_committed() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    bench.polled(CLIENT, 3, 5).await;
    bench.join(OTHER, &[0, 1, 2, 3]);
    let mut pending = revocations::Pending::default();
    let (now, timeout) = (Instant::now(), Duration::from_secs(3_600));
    revocations::round(&bench.local, &mut pending, now, timeout).await;
    assert_eq!(bench.polled(OTHER, 2, 5).await, (Some(4), 5));
    let (reply, _) = bench.poll(OTHER, 3, 5, false).await;
    assert!(matches!(reply, DataReply::Fenced), "not committed");
    bench.store(CLIENT, 3, 4).await;
    revocations::round(&bench.local, &mut pending, now, timeout).await;
    assert_eq!(bench.polled(OTHER, 3, 100).await, (Some(9), 5));
}

/// The log's time stands still here, as it does after a leader whose clock was ahead.
#[tokio::test]
async fn the_leader_completes_revocations_that_take_too_long_whatever_the_time_of_the_log() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    bench.polled(CLIENT, 3, 5).await;
    bench.join(OTHER, &[0, 1, 2, 3]);
    let mut pending = revocations::Pending::default();
    let (start, timeout) = (Instant::now(), Duration::from_secs(30));
    for seconds in [0, 29] {
        let now = start + Duration::from_secs(seconds);
        revocations::round(&bench.local, &mut pending, now, timeout).await;
        let (reply, _) = bench.poll(OTHER, 3, 5, false).await;
        assert!(matches!(reply, DataReply::Fenced), "after {seconds} s");
    }
    revocations::round(&bench.local, &mut pending, start + timeout, timeout).await;
    assert_eq!(bench.polled(OTHER, 3, 5).await, (Some(4), 5));
}

#[tokio::test]
async fn a_commit_is_visible_immediately_and_stored_only_when_the_messages_are_delivered() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    let (_, commit) = bench.poll(CLIENT, 0, 4, true).await;
    assert_eq!(bench.stored(0).await, Some(3));
    assert!(bench.is_busy(0).await);
    bench.local.drop_commit(&commit.unwrap());
    assert_eq!(bench.stored(0).await, None, "the messages are served again");

    let (_, commit) = bench.poll(CLIENT, 0, 4, true).await;
    bench.local.delivered(commit.unwrap()).await;
    let (_, lost) = bench.poll(CLIENT, 0, 4, true).await;
    assert_eq!(bench.stored(0).await, Some(7));
    bench.local.drop_commit(&lost.unwrap());
    assert_eq!(bench.stored(0).await, Some(3));
    assert_eq!(bench.polled(CLIENT, 0, 4).await, (Some(7), 4));
}

#[tokio::test]
async fn an_offset_that_a_consumer_sets_replaces_a_pending_commit() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    let (_, commit) = bench.poll(CLIENT, 0, 8, true).await;
    bench.store(CLIENT, 0, 2).await;
    bench.local.delivered(commit.unwrap()).await;
    assert_eq!(bench.stored(0).await, Some(2));
    let (_, commit) = bench.poll(CLIENT, 1, 8, true).await;
    let request = DataRequest::DeleteOffset {
        key: bench.key(1),
        reader: bench.reader(CLIENT),
    };
    assert!(matches!(bench.local.serve(request).await, DataReply::Done));
    bench.local.delivered(commit.unwrap()).await;
    assert_eq!(bench.stored(1).await, None);
}

/// The reply to the former holder's poll may be lost with its connection.
#[tokio::test]
async fn the_next_holder_is_served_what_the_former_one_has_not_committed() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    bench.join(OTHER, &[]);
    let (_, commit) = bench.poll(CLIENT, 0, 4, true).await;
    bench.change(CLIENT, GroupChange::Leave(named("g")));
    assert_eq!(bench.stored(0).await, None);
    assert_eq!(bench.polled(OTHER, 0, 4).await, (Some(3), 4));
    bench.local.drop_commit(&commit.unwrap());
    assert_eq!(bench.polled(OTHER, 0, 4).await, (Some(3), 4));
}

#[tokio::test]
async fn what_arrives_at_a_member_that_has_left_is_committed() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    bench.join(OTHER, &[]);
    let (_, commit) = bench.poll(CLIENT, 0, 4, true).await;
    bench.change(CLIENT, GroupChange::Leave(named("g")));
    bench.local.delivered(commit.unwrap()).await;
    assert_eq!(bench.stored(0).await, Some(3));
    assert_eq!(bench.polled(OTHER, 0, 4).await, (Some(7), 4));
}

#[tokio::test]
async fn of_two_polls_the_later_one_counts() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    let (_, first) = bench.poll(CLIENT, 0, 4, true).await;
    let (_, second) = bench.poll(CLIENT, 0, 4, true).await;
    bench.local.delivered(second.unwrap()).await;
    bench.local.delivered(first.unwrap()).await;
    assert_eq!(bench.stored(0).await, Some(7));
}

#[tokio::test]
async fn offsets_of_a_deleted_group_are_removed() {
    let mut bench = Bench::new().await;
    bench.join(CLIENT, &[]);
    bench.store(CLIENT, 0, 4).await;
    bench.change(CLIENT, GroupChange::Delete(named("g")));
    let partitions = (0..4).map(|partition| bench.key(partition)).collect();
    let removed = adapters::metadata::RemovedGroup {
        group_id: 0,
        partitions,
    };
    bench.local.remove_group(removed).await;
    assert_eq!(bench.stored(0).await, None);
}

/// An administrator changes the offset of a group while the group has no members, and only
/// then: members would store theirs over it.
#[tokio::test]
async fn an_administrator_sets_the_offset_of_a_group_without_members() {
    let mut bench = Bench::new().await;
    let administrator = Reader::Administrator { group: 0 };
    let key = bench.key(0);
    let set = |offset| DataRequest::StoreOffset {
        key,
        reader: administrator,
        offset,
    };
    let local = Arc::clone(&bench.local);
    let serve = async |request: DataRequest| local.serve(request).await;
    assert!(matches!(serve(set(4)).await, DataReply::Done));
    assert_eq!(bench.stored(0).await, Some(4));
    // Not to read, and not for a group that does not exist.
    let poll = Poll {
        key,
        reader: administrator,
        start: PollStart::Next,
        count: 1,
        auto_commit: false,
    };
    assert!(matches!(
        serve(DataRequest::Poll(poll)).await,
        DataReply::Fenced
    ));
    let deleted = |group| DataRequest::DeleteOffset {
        key,
        reader: Reader::Administrator { group },
    };
    let refused = DataReply::Refused(code::PARTITION_NOT_OWNED);
    assert_eq!(serve(deleted(9)).await.encode(), refused.clone().encode());
    assert!(matches!(serve(deleted(0)).await, DataReply::Done));
    assert_eq!(bench.stored(0).await, None);
    bench.join(CLIENT, &[]);
    let late = bench.local.serve(set(5)).await;
    assert_eq!(late.encode(), refused.encode());
    assert_eq!(bench.polled(CLIENT, 0, 5).await, (Some(4), 5));
}

/// An owner of version 0.1 reads an administrator as a member without a session, which it
/// refuses as stale.
#[test]
fn administrators_are_encoded_as_a_member_that_no_client_can_be() {
    let key = PartitionKey {
        stream_id: 1,
        topic_id: 2,
        partition_id: 3,
        generation: 4,
    };
    let request = |reader| DataRequest::StoreOffset {
        key,
        reader,
        offset: 5,
    };
    let member = Reader::Member {
        group: 6,
        client: 0,
        session: 0,
    };
    let administrator = Reader::Administrator { group: 6 };
    let bytes = request(administrator).encode().concat();
    assert_eq!(bytes, request(member).encode().concat());
    match DataRequest::decode(bytes.into()) {
        Some(DataRequest::StoreOffset { reader, .. }) => assert_eq!(reader, administrator),
        other => panic!("{other:?}"),
    }
}

/// What keeps messages is listed with the lowest offset first.
#[tokio::test]
async fn stored_offsets_are_listed_with_the_names_of_groups() {
    let bench = Bench::new().await;
    for (reader, offset) in [
        (Reader::Single(5), 7),
        (Reader::Administrator { group: 0 }, 3),
        (Reader::Single(9), 1),
    ] {
        let request = DataRequest::StoreOffset {
            key: bench.key(2),
            reader,
            offset,
        };
        let stored = bench.local.serve(request).await;
        assert!(matches!(stored, DataReply::Done), "{stored:?}");
    }
    let listed = bench.local.stored_offsets(&named("s"), &named("t")).await;
    let listed = serde_json::to_value(listed.unwrap()).unwrap();
    let expected = serde_json::json!({
        "partitions": [{
            "partition": 2,
            "first_offset": 0,
            "next_offset": 10,
            "offsets": [
                { "kind": "consumer", "id": 9, "offset": 1 },
                { "kind": "group", "id": 0, "name": "g", "offset": 3 },
                { "kind": "consumer", "id": 5, "offset": 7 },
            ],
        }],
        "truncated": false,
    });
    assert_eq!(listed, expected);
    let missing = bench.local.stored_offsets(&named("s"), &named("u")).await;
    assert!(missing.is_none());
}
