//! Lists of partitions and of consumer groups, as this node's metadata has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use adapters::metadata::{Group, MetadataReader, MetadataState, Partition, Stream, Topic};
use consensus::ReplicaId;
use serde::{Deserialize, Serialize};

/// Entries of a list by default, and at most: a reply is at most 1 MiB.
pub const LISTED_MAX: usize = 1_000;

/// What a list is restricted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Of this stream only, by name or id.
    pub stream: Option<String>,
    /// Of this topic only, by name or id.
    pub topic: Option<String>,
    /// With a copy or a member on the node with this `replica_id` only.
    pub node: Option<u8>,
    /// In this state only; `problem` for every state but the best one.
    pub state: Option<String>,
    /// At most so many, and never more than [`LISTED_MAX`].
    pub limit: Option<usize>,
}

/// Partitions of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionsReport {
    /// The position of the metadata that this is from: the index of the last entry applied.
    pub applied: u64,
    /// How many there are; more than are listed when the limit is lower.
    pub matched: u64,
    /// In the order of streams, topics and partitions.
    pub partitions: Vec<PartitionReport>,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// The stream's name.
    pub stream: String,
    /// The topic's name.
    pub topic: String,
    /// Its id.
    pub partition: u32,
    /// The stream's id.
    pub stream_id: u32,
    /// The topic's id.
    pub topic_id: u32,
    /// Another one after each purge.
    pub generation: u64,
    /// The `replica_id` of its leader.
    pub leader: Option<u8>,
    /// Rises with every change of the leader.
    pub epoch: u32,
    /// Rises with every change of what is listed here.
    pub version: u32,
    /// The nodes with a copy, the preferred leader first.
    pub replicas: Vec<u8>,
    /// Those of them whose copies count.
    pub in_sync: Vec<u8>,
    /// Copies that an acknowledged message is on, at least.
    pub min_in_sync_replicas: usize,
    /// The epoch in which it was last recovered with fewer copies than are required; then
    /// acknowledged messages may be lost.
    #[serde(default)]
    pub recovered_epoch: Option<u64>,
    /// `ok`, `degraded` (a copy is not in sync, or its node is down), `refusing` (too few
    /// copies for sends), or `offline` (no leader).
    pub state: String,
}

/// Consumer groups of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupsReport {
    /// The position of the metadata that this is from: the index of the last entry applied.
    pub applied: u64,
    /// How many there are; more than are listed when the limit is lower.
    pub matched: u64,
    /// In the order of streams, topics and groups.
    pub groups: Vec<GroupReport>,
}

/// A consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// The stream's name.
    pub stream: String,
    /// The topic's name.
    pub topic: String,
    /// Its name.
    pub group: String,
    /// Its id in the topic.
    pub group_id: u32,
    /// The topic's partitions.
    pub partitions: usize,
    /// Partitions that move from one member to another, and wait for the first.
    pub revoking: usize,
    /// Its members.
    pub members: Vec<MemberReport>,
    /// `stable`, `rebalancing`, or `empty`.
    pub state: String,
}

/// A member of a consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// The client's id.
    pub client: String,
    /// The `replica_id` of the node that it is connected to.
    pub node: Option<u8>,
    /// The partitions that it holds.
    pub partitions: Vec<u32>,
}

impl Listing {
    /// From the query of a request. `None` when a number is none, or a key is unknown.
    #[must_use]
    pub fn of_query(query: &str) -> Option<Self> {
        let mut listing = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "stream" => listing.stream = Some(value.into_owned()),
                "topic" => listing.topic = Some(value.into_owned()),
                "state" => listing.state = Some(value.into_owned()),
                "node" => listing.node = Some(value.parse().ok()?),
                "limit" => listing.limit = Some(value.parse().ok()?),
                _ => return None,
            }
        }
        Some(listing)
    }

    /// As the query of a request.
    #[must_use]
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let texts = [
            ("stream", self.stream.clone()),
            ("topic", self.topic.clone()),
            ("node", self.node.map(|it| it.to_string())),
            ("state", self.state.clone()),
            ("limit", self.limit.map(|it| it.to_string())),
        ];
        for (key, value) in texts {
            if let Some(value) = value {
                query.append_pair(key, &value);
            }
        }
        query.finish()
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(LISTED_MAX).min(LISTED_MAX)
    }

    fn names(required: Option<&String>, name: &str, id: u32) -> bool {
        required.is_none_or(|required| required == name || *required == id.to_string())
    }

    /// Whether something in this state is in the list; `best` is the state without a problem.
    fn has_state(&self, state: &str, best: &str) -> bool {
        match self.state.as_deref() {
            None => true,
            Some("problem") => state != best,
            Some(required) => state == required,
        }
    }
}

/// The streams of one state, without holding it: the list may be long.
struct Seen {
    applied: u64,
    live: BTreeMap<ReplicaId, bool>,
    streams: Vec<Arc<Stream>>,
}

impl Seen {
    fn of(state: &MetadataState) -> Self {
        Self {
            applied: state.applied(),
            live: state.nodes().map(|it| (it.info.node, it.live)).collect(),
            streams: state.streams().map(Arc::clone).collect(),
        }
    }

    fn is_live(&self, node: ReplicaId) -> bool {
        self.live.get(&node).copied().unwrap_or(false)
    }

    fn topics<'a>(
        &'a self,
        listing: &'a Listing,
    ) -> impl Iterator<Item = (&'a Stream, &'a Arc<Topic>)> {
        let of_stream =
            |it: &&Arc<Stream>| Listing::names(listing.stream.as_ref(), it.name.as_str(), it.id);
        let streams = self.streams.iter().filter(of_stream);
        streams.flat_map(|stream| {
            let topics = stream.topics().filter(|topic| {
                Listing::names(listing.topic.as_ref(), topic.name.as_str(), topic.id)
            });
            topics.map(move |topic| (&**stream, topic))
        })
    }

    fn state_of(&self, partition: &Partition, min_in_sync: usize) -> &'static str {
        let leader = partition.leader();
        let in_sync = partition.in_sync().filter(|node| self.is_live(*node));
        judged(
            leader.is_some_and(|leader| self.is_live(leader)),
            in_sync.count(),
            partition.replicas.len(),
            min_in_sync,
        )
    }
}

/// The state of a partition with these numbers of copies.
fn judged(has_leader: bool, in_sync: usize, copies: usize, min_in_sync: usize) -> &'static str {
    match in_sync {
        _ if !has_leader => "offline",
        count if count < min_in_sync => "refusing",
        count if count < copies => "degraded",
        _ => "ok",
    }
}

/// The partitions of a list, by the metadata of this node.
#[must_use]
pub(super) fn partitions(reader: &MetadataReader, listing: &Listing) -> PartitionsReport {
    let seen = Seen::of(&reader.read());
    let mut report = PartitionsReport {
        applied: seen.applied,
        ..PartitionsReport::default()
    };
    let node = listing.node.map(node_of);
    for (stream, topic) in seen.topics(listing) {
        for (id, partition) in (0..).zip(&topic.partitions) {
            let least = topic.options.min_in_sync(partition.replicas.len());
            let state = seen.state_of(&partition, least);
            let is_there = node.is_none_or(|node| partition.replicas.contains(node));
            if !is_there || !listing.has_state(state, "ok") {
                continue;
            }
            report.matched += 1;
            if report.partitions.len() < listing.limit() {
                let entry = partition_report(stream, topic, id, &partition, least);
                report.partitions.push(PartitionReport {
                    state: state.into(),
                    ..entry
                });
            }
        }
    }
    report
}

fn partition_report(
    stream: &Stream,
    topic: &Topic,
    id: u32,
    partition: &Partition,
    min_in_sync_replicas: usize,
) -> PartitionReport {
    PartitionReport {
        stream: stream.name.as_str().into(),
        topic: topic.name.as_str().into(),
        partition: id,
        stream_id: stream.id,
        topic_id: topic.id,
        generation: partition.generation,
        leader: partition.leader().map(number_of),
        epoch: partition.leadership.epoch,
        version: partition.leadership.version,
        replicas: partition.replicas.iter().map(number_of).collect(),
        in_sync: partition.in_sync().map(number_of).collect(),
        min_in_sync_replicas,
        recovered_epoch: topic.recovery(id).map(|recovery| recovery.epoch.0),
        state: String::new(),
    }
}

/// The groups of a list, by the metadata of this node.
#[must_use]
pub(super) fn groups(reader: &MetadataReader, listing: &Listing) -> GroupsReport {
    let state = reader.read();
    let seen = Seen::of(&state);
    let mut report = GroupsReport {
        applied: seen.applied,
        ..GroupsReport::default()
    };
    for (stream, topic) in seen.topics(listing) {
        for group in topic.groups() {
            let entry = group_report(&state, stream, topic, group);
            let mut nodes = entry.members.iter().map(|member| member.node);
            let is_there = listing
                .node
                .is_none_or(|node| nodes.any(|it| it == Some(node)));
            if !is_there || !listing.has_state(&entry.state, "stable") {
                continue;
            }
            report.matched += 1;
            if report.groups.len() < listing.limit() {
                report.groups.push(entry);
            }
        }
    }
    report
}

fn group_report(
    state: &MetadataState,
    stream: &Stream,
    topic: &Topic,
    group: &Group,
) -> GroupReport {
    let members = group.members().map(|(_, member)| {
        let session = state.sessions().get(member.client);
        MemberReport {
            client: format!("{:032x}", member.client),
            node: session.map(|session| number_of(session.node)),
            partitions: member.owned.iter().copied().collect(),
        }
    });
    let members: Vec<_> = members.collect();
    let revoking = group.revocations().count();
    let state = match (members.is_empty(), revoking) {
        (true, _) => "empty",
        (false, 0) => "stable",
        (false, _) => "rebalancing",
    };
    GroupReport {
        stream: stream.name.as_str().into(),
        topic: topic.name.as_str().into(),
        group: group.name.as_str().into(),
        group_id: group.id,
        partitions: topic.partitions.len(),
        revoking,
        members,
        state: state.into(),
    }
}

/// The `replica_id` of a node.
fn number_of(node: ReplicaId) -> u8 {
    u8::try_from(node.number()).unwrap_or(u8::MAX)
}

fn node_of(replica_id: u8) -> ReplicaId {
    ReplicaId::from_number(u64::from(replica_id))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adapters::metadata::{
        ClientOperation, ClientRequest, Command, GroupChange, GroupOperation, Identifier, Name,
        Options, Placement,
    };

    use super::*;
    use crate::cluster::testing::{FakeLog, ME};

    const OTHER: ReplicaId = ReplicaId(2);

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// A stream with two topics: two partitions on this node and one on another, and one here.
    /// The first has a group with this client as its member.
    fn metadata() -> (Arc<FakeLog>, MetadataReader) {
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        log.register_node(OTHER);
        let session = log.register(7);
        let topic = |topic, owners: &[ReplicaId]| ClientOperation::CreateTopic {
            stream: Identifier::Id(0),
            name: name(topic),
            options: Options::default(),
            partitions: Placement::single(owners).unwrap(),
        };
        let group = |change| {
            ClientOperation::Group(GroupOperation {
                stream: Identifier::Id(0),
                topic: Identifier::Id(0),
                change,
            })
        };
        let operations = [
            ClientOperation::CreateStream {
                name: name("orders & more"),
                options: Options::default(),
            },
            topic("new", &[ME, OTHER, ME]),
            topic("old", &[ME]),
            group(GroupChange::Create(name("billing"))),
            group(GroupChange::Join {
                group: Identifier::Id(0),
                busy: [].into(),
            }),
            group(GroupChange::Create(name("idle"))),
        ];
        for (request, operation) in (1..).zip(operations) {
            log.apply(&Command::Client(ClientRequest {
                client: 7,
                session,
                request,
                checksum: 0,
                operation,
            }));
        }
        (log, metadata.reader.clone())
    }

    fn listed(reader: &MetadataReader, query: &str) -> (u64, Vec<(String, u32)>) {
        let report = partitions(reader, &Listing::of_query(query).unwrap());
        let listed = report.partitions.into_iter();
        (
            report.matched,
            listed.map(|it| (it.topic, it.partition)).collect(),
        )
    }

    #[test]
    fn partitions_are_filtered_and_counted() {
        let (log, reader) = metadata();
        let of = |topic: &str, ids: &[u32]| -> Vec<_> {
            ids.iter().map(|id| (topic.to_owned(), *id)).collect()
        };
        let all = [of("new", &[0, 1, 2]), of("old", &[0])].concat();
        assert_eq!(listed(&reader, ""), (4, all));
        assert_eq!(listed(&reader, "limit=1"), (4, of("new", &[0])));
        assert_eq!(listed(&reader, "topic=old"), (1, of("old", &[0])));
        assert_eq!(listed(&reader, "stream=orders+%26+more&topic=0").0, 3);
        assert_eq!(listed(&reader, "stream=orders").0, 0);
        assert_eq!(listed(&reader, "node=1"), (1, of("new", &[1])));
        assert_eq!(listed(&reader, "state=ok").0, 4);
        assert_eq!(listed(&reader, "state=problem").0, 0);
        let registration = reader.read().node(OTHER).unwrap().registration;
        log.apply(&Command::FenceNode {
            node: OTHER,
            registration,
        });
        assert_eq!(listed(&reader, "state=problem"), (1, of("new", &[1])));
        assert_eq!(listed(&reader, "state=offline").0, 1);
        for wrong in ["node=x", "limit=-1", "colour=red"] {
            assert_eq!(Listing::of_query(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_query_encodes_what_it_was_made_of() {
        let listing = Listing {
            stream: Some("a&b=c d".into()),
            topic: Some("ü".into()),
            node: Some(2),
            state: Some("problem".into()),
            limit: Some(5),
        };
        assert_eq!(Listing::of_query(&listing.to_query()), Some(listing));
        assert_eq!(Listing::default().to_query(), "");
    }

    #[test]
    fn a_partition_is_as_well_as_its_copies() {
        for (has_leader, in_sync, expected) in [
            (true, 3, "ok"),
            (true, 2, "degraded"),
            (true, 1, "refusing"),
            (false, 2, "offline"),
            (false, 0, "offline"),
        ] {
            assert_eq!(judged(has_leader, in_sync, 3, 2), expected, "{in_sync}");
        }
    }

    #[test]
    fn groups_have_their_members_and_a_state() {
        let (_log, reader) = metadata();
        let list = |query: &str| groups(&reader, &Listing::of_query(query).unwrap());
        let report = list("");
        assert_eq!(report.matched, 2);
        let billing = &report.groups[0];
        assert_eq!(
            (billing.group.as_str(), billing.state.as_str()),
            ("billing", "stable")
        );
        assert_eq!(billing.members[0].partitions, [0, 1, 2]);
        assert_eq!(billing.members[0].node, Some(0));
        assert_eq!(report.groups[1].state, "empty");
        assert_eq!(list("state=problem").groups, report.groups[1..]);
        assert_eq!(list("node=0").groups, report.groups[..1]);
        assert_eq!(list("topic=old").matched, 0);
    }
}
