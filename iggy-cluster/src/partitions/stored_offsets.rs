//! The stored consumer offsets of a topic, for people: which consumers keep messages, and
//! which of them have not returned.

use ::partitions::ByKey;
use adapters::metadata::{Identifier, MetadataState, PartitionKey};
use serde::Serialize;

use super::local::LocalPartitions;
use super::place::Place;
use super::readers::group_of;

/// The most offsets in one list.
const OFFSETS_MAX: usize = 10_000;

/// The offsets that are stored in the partitions of a topic which this node owns.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct StoredOffsets {
    partitions: Vec<OfPartition>,
    /// Whether there are more than are listed.
    truncated: bool,
}

/// Those of one partition, the lowest first.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct OfPartition {
    partition: u32,
    first_offset: u64,
    next_offset: u64,
    offsets: Vec<StoredOffset>,
}

/// The offset of a consumer or of a group.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct StoredOffset {
    /// `consumer` or `group`.
    kind: &'static str,
    /// The number by which clients can name it. That of a consumer with a name is a hash.
    id: u32,
    /// The name of a group that exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    offset: u64,
}

impl LocalPartitions {
    /// Lists the offsets of a topic in the partitions that this node owns; `None` when its
    /// state does not contain the topic. What cannot be read is left out.
    pub(crate) async fn stored_offsets(
        &self,
        stream: &Identifier,
        topic: &Identifier,
    ) -> Option<StoredOffsets> {
        let places: Vec<Place> = {
            let state = self.metadata.reader.read();
            let (stream, topic) = state.topic(stream, topic).ok()?;
            let places = topic
                .keys(stream.id)
                .filter_map(|key| Place::of(&state, &key));
            places
                .filter(|place| place.owner == self.metadata.me)
                .collect()
        };
        let mut listed = StoredOffsets::default();
        let mut room = OFFSETS_MAX;
        for Place { key, options, .. } in places {
            let stats = self.storage.stats(key, options).await;
            let stored = self.storage.offsets(key, options).await;
            let (Ok(stats), Ok(mut stored)) = (stats, stored) else {
                continue;
            };
            if stored.is_empty() {
                continue;
            }
            stored.sort_unstable_by_key(|(consumer, offset)| (*offset, *consumer));
            listed.truncated |= stored.len() > room;
            if room == 0 {
                break;
            }
            stored.truncate(room);
            room -= stored.len();
            let state = self.metadata.reader.read();
            listed.partitions.push(OfPartition {
                partition: key.partition_id,
                first_offset: stats.first_offset,
                next_offset: stats.next_offset,
                offsets: stored
                    .into_iter()
                    .map(|(consumer, offset)| StoredOffset {
                        kind: if consumer.group { "group" } else { "consumer" },
                        id: consumer.id,
                        name: consumer
                            .group
                            .then(|| group_name(&state, &key, consumer.id))
                            .flatten(),
                        offset,
                    })
                    .collect(),
            });
        }
        Some(listed)
    }
}

fn group_name(state: &MetadataState, key: &PartitionKey, id: u32) -> Option<String> {
    let (_, group) = state.group(&group_of(key, id))?;
    Some(group.name.as_str().to_owned())
}
