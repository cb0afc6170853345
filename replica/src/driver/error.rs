//! Why a replica must stop.

use consensus::{BatchError, Index, RefusedMessage, RestoreError, UnknownCommand};
use thiserror::Error;

/// Committed data that this replica cannot apply. It must stop: applying anything else
/// would make its state differ from that of the other replicas.
#[derive(Debug, Error)]
pub enum ReplicaError {
    /// A committed entry does not decode.
    #[error("the committed entry {index} does not decode: {source}")]
    Entry {
        /// The index of the entry.
        index: Index,
        /// What is wrong with it.
        source: BatchError,
    },
    /// A committed entry has a command that the state machine does not know. Nothing of
    /// it and of what follows is applied.
    #[error(
        "the committed entry {index} has a command that this program does not know ({source}): upgrade this node, which then continues with it"
    )]
    Command {
        /// The index of the entry.
        index: Index,
        /// What is unknown.
        source: UnknownCommand,
    },
    /// A leader's message shows that this replica's log is not that of the cluster.
    #[error(
        "{0}; this replica stops, and its data directory is kept as it is: it is an older copy, lacks what was lost, or was written by another cluster of the same name; see \"The disk is lost\" in the operations guide"
    )]
    Diverged(RefusedMessage),
    /// A fetched snapshot does not decode.
    #[error("the snapshot at {index} does not decode: {source}")]
    Snapshot {
        /// The index of the snapshot.
        index: Index,
        /// What is wrong with it.
        source: RestoreError,
    },
}
