//! Between the contract's words and Raft's.

use bytes::Bytes;
use consensus::{
    Entry, EntryKind, Index, Membership, PeerState, ReplicaId, Role, SnapshotMeta, Term,
};
use raft::eraftpb::{ConfState, Entry as RaftEntry, Snapshot};
use raft::{ProgressState, StateRole};

/// Marks a command in `Entry.context`: the entry that raft-rs appends at the
/// start of a term has neither data nor context.
const COMMAND: &[u8] = b"c";

pub(crate) fn to_raft_entry(entry: &Entry) -> RaftEntry {
    let mut out = match entry.kind {
        EntryKind::Command => command(entry.payload.clone()),
        EntryKind::Noop => RaftEntry::default(),
    };
    out.term = entry.term.0;
    out.index = entry.index.0;
    out
}

pub(crate) fn command(payload: Bytes) -> RaftEntry {
    RaftEntry {
        data: payload,
        context: Bytes::from_static(COMMAND),
        ..RaftEntry::default()
    }
}

pub(crate) fn from_raft_entry(entry: RaftEntry) -> Entry {
    Entry {
        term: Term(entry.term),
        index: Index(entry.index),
        kind: if entry.context.is_empty() {
            EntryKind::Noop
        } else {
            EntryKind::Command
        },
        payload: entry.data,
    }
}

pub(crate) fn conf_state(membership: &Membership) -> ConfState {
    let numbers = |ids: &[ReplicaId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    (numbers(membership.voters()), numbers(membership.learners())).into()
}

/// The snapshot as raft-rs knows it: metadata only. The bytes travel beside the
/// protocol, pulled by the receiver.
pub(crate) fn to_raft_snapshot(meta: &SnapshotMeta) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = meta.index.0;
    metadata.term = meta.term.0;
    metadata.set_conf_state(conf_state(&meta.membership));
    snapshot
}

pub(crate) fn role(state: StateRole, is_voter: bool) -> Role {
    match state {
        StateRole::Leader => Role::Leader,
        StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        StateRole::Follower if is_voter => Role::Follower,
        StateRole::Follower => Role::Learner,
    }
}

pub(crate) fn peer_state(state: ProgressState) -> PeerState {
    match state {
        ProgressState::Probe => PeerState::Probe,
        ProgressState::Replicate => PeerState::Replicate,
        ProgressState::Snapshot => PeerState::Snapshot,
    }
}

pub(crate) fn replica(id: u64) -> Option<ReplicaId> {
    (id != raft::INVALID_ID).then_some(ReplicaId(id))
}
