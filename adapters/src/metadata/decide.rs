//! What the leader decides before it proposes.

use std::collections::BTreeMap;

use consensus::ReplicaId;

use super::commands::{Command, Intent, Owners, PartitionCount};
use super::machine::MetadataReader;
use super::placement::{PlacementError, place};

/// The command that the leader proposes for an intent: all decisions that replicas must
/// not make for themselves are made here, and nowhere else.
///
/// `in_flight` counts the new partitions of each node whose commands are proposed and not
/// yet applied, so that concurrent commands are not all placed on the same node. The state
/// is read only when there is something to decide.
///
/// # Errors
/// When the intent creates partitions and no node can own them.
pub fn decide(
    intent: Intent,
    reader: &MetadataReader,
    in_flight: &BTreeMap<ReplicaId, u64>,
) -> Result<Command, PlacementError> {
    intent.decide_partitions(|PartitionCount(count)| {
        place(&reader.read(), in_flight, count).map(Owners)
    })
}
