//! What the leader decides before it proposes.

use std::collections::BTreeMap;

use consensus::ReplicaId;
use thiserror::Error;

use super::commands::{Command, CopiesCommand, Intent, NodeStart, PartitionCount};
use super::feature_level::FeatureLevel;
use super::machine::MetadataReader;
use super::placement::{Load, PlacementError, copies_of, place};

/// Why the leader proposes nothing for an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecisionError {
    /// The partitions that it creates cannot be placed.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The client's id has a session of another user, which the login would end: clients
    /// choose their ids themselves. Iggy's server refuses it too.
    #[error("the client's id has a session of another user; log in with another id")]
    ClientOfAnotherUser,
    /// The cluster uses what a node of this version does not know.
    #[error(
        "version {version} of node {node} is below the feature level {level} of the cluster; upgrade that node"
    )]
    VersionTooLow {
        /// The node.
        node: ReplicaId,
        /// Its version.
        version: FeatureLevel,
        /// What it has to know.
        level: FeatureLevel,
    },
}

/// The command that the leader proposes for an intent: all decisions that replicas must
/// not make for themselves are made here, and nowhere else.
///
/// `in_flight` counts the new copies of each node whose commands are proposed and not
/// yet applied, so that concurrent commands are not all placed on the same node. The state
/// is read only when there is something to decide.
///
/// # Errors
/// When the intent creates partitions and no node can own them, is a login with the id of
/// a client of another user, or registers a node below the feature level.
pub fn decide(
    intent: Intent,
    reader: &MetadataReader,
    in_flight: &BTreeMap<ReplicaId, Load>,
) -> Result<Command, DecisionError> {
    if let Intent::Register {
        client, user_id, ..
    } = &intent
    {
        let state = reader.read();
        let former = state.sessions().get(*client);
        if former.is_some_and(|former| former.user_id != *user_id) {
            return Err(DecisionError::ClientOfAnotherUser);
        }
    }
    if let Intent::RegisterNode(info)
    | Intent::Copies(CopiesCommand::StartNode(NodeStart { info, .. })) = &intent
    {
        let state = reader.read();
        if !state.admits_version(&info.version) {
            return Err(DecisionError::VersionTooLow {
                node: info.node,
                version: FeatureLevel::of_version(&info.version),
                level: state.feature_level(),
            });
        }
    }
    let copies = match &intent {
        Intent::Client(request) => {
            let state = reader.read();
            match state.leaders_change() {
                true => copies_of(&state, &request.operation),
                false => 1,
            }
        }
        _ => 1,
    };
    intent.decide_partitions(|PartitionCount(count)| {
        Ok(place(&reader.read(), in_flight, count, copies)?)
    })
}
