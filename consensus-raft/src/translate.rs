//! Between the contract's words and Raft's.

use bytes::Bytes;
use consensus::{
    Entry, EntryKind, Index, Membership, PeerState, ReplicaId, Role, SnapshotMeta, Term,
};
use raft::eraftpb::{ConfState, Entry as RaftEntry, Message, MessageType, Snapshot};
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

/// The message with index and term of the entry before its first. Where raft-rs appends
/// entries to a pending message without any, it leaves the index of that one. `None` when
/// the term there is compacted.
pub(crate) fn placed(
    mut message: Message,
    term: impl FnOnce(u64) -> Option<u64>,
) -> Option<Message> {
    if message.get_msg_type() == MessageType::MsgAppend
        && let Some(first) = message.entries.first()
        && first.index != message.index + 1
    {
        message.index = first.index - 1;
        message.log_term = term(message.index)?;
    }
    Some(message)
}

/// Splits the message so that none has more payload than this, unless a single entry
/// does. Where raft-rs appends to a pending message, it checks no bound.
pub(crate) fn bounded(mut message: Message, payload_bytes_max: usize) -> Vec<Message> {
    let bytes = |entry: &RaftEntry| entry.data.len();
    if message.entries.iter().map(bytes).sum::<usize>() <= payload_bytes_max {
        return vec![message];
    }
    let entries = message.take_entries().into_vec();
    let mut pieces = vec![message];
    let mut filled = 0;
    for entry in entries {
        let Some(piece) = pieces.last_mut() else {
            break;
        };
        filled += bytes(&entry);
        match piece.entries.last() {
            Some(last) if filled > payload_bytes_max => {
                let mut next = piece.clone();
                (next.index, next.log_term) = (last.index, last.term);
                filled = bytes(&entry);
                next.set_entries(vec![entry].into());
                pieces.push(next);
            }
            _ => piece.entries.push(entry),
        }
    }
    pieces
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

/// A vote, for people.
pub(crate) fn vote(id: u64) -> String {
    replica(id).map_or_else(|| "none".into(), |id| id.to_string())
}

pub(crate) fn replica(id: u64) -> Option<ReplicaId> {
    (id != raft::INVALID_ID).then_some(ReplicaId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(sizes: &[usize]) -> Message {
        let mut message = Message {
            index: 40,
            log_term: 6,
            commit: 39,
            ..Message::default()
        };
        let entry = |(index, size): (u64, &usize)| RaftEntry {
            index,
            term: index / 2,
            ..command(vec![0; *size].into())
        };
        let entries: Vec<_> = (41..).zip(sizes).map(entry).collect();
        message.set_entries(entries.into());
        message
    }

    #[test]
    fn a_message_beyond_the_bound_travels_in_several_that_follow_one_another() {
        let whole = append(&[10, 90, 1, 99, 0, 1, 250, 5]);
        let pieces = bounded(whole.clone(), 100);
        let sizes = |piece: &Message| -> Vec<_> {
            piece.entries.iter().map(|entry| entry.data.len()).collect()
        };
        let expected = [&[10, 90][..], &[1, 99, 0], &[1], &[250], &[5]];
        assert!(pieces.iter().map(sizes).eq(expected));
        let mut before = (40, 6);
        for piece in &pieces {
            assert_eq!((piece.index, piece.log_term), before);
            assert_eq!(piece.commit, 39);
            let last = piece.entries.last().unwrap();
            before = (last.index, last.term);
        }
        let all = pieces
            .iter()
            .flat_map(|piece| piece.entries.iter().cloned());
        assert!(all.eq(whole.entries));
    }

    #[test]
    fn entries_follow_the_one_before_them() {
        let mut message = append(&[1, 2]);
        message.set_msg_type(MessageType::MsgAppend);
        assert_eq!(placed(message.clone(), |_| None), Some(message.clone()));
        let mut misplaced = message.clone();
        (misplaced.index, misplaced.log_term) = (57, 9);
        assert_eq!(placed(misplaced.clone(), |_| None), None);
        let term = |index| (index == 40).then_some(6);
        assert_eq!(placed(misplaced, term), Some(message));
        let mut empty = append(&[]);
        empty.set_msg_type(MessageType::MsgAppend);
        assert_eq!(placed(empty.clone(), |_| None), Some(empty));
    }

    #[test]
    fn a_message_within_the_bound_stays_as_it_is() {
        for whole in [append(&[]), append(&[500]), append(&[50, 50])] {
            assert_eq!(bounded(whole.clone(), 100), [whole]);
        }
    }
}
