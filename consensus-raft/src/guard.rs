//! Whether a peer's message can be true.
//!
//! raft-rs trusts its peers and panics where one contradicts what is committed.
//! A peer may be broken, of another version, or not what it claims to be: such
//! a message is refused before raft-rs sees it.

use consensus::{Index, Membership, RefusalReason, ReplicaId, SnapshotMeta};
use raft::eraftpb::{Message, MessageType};
use raft::{Raft, StateRole};

use crate::reads;
use crate::storage::RaftStorage;

/// No cluster has so many elections; beyond it, terms would overflow.
const TERM_MAX: u64 = u64::MAX / 2;
/// Terms grow by one in an election timeout at most; no replica was down for longer. A
/// replica that followed a peer further, up to the last term, could elect no leader again.
const TERMS_AHEAD_MAX: u64 = 1 << 32;

pub(crate) fn check(
    raft: &Raft<RaftStorage>,
    membership: &Membership,
    from: ReplicaId,
    message: &Message,
) -> Result<(), RefusalReason> {
    if message.from != from.0 || from.0 == raft.id || !membership.contains(from) {
        return Err(RefusalReason::UnknownPeer);
    }
    if message.to != raft.id {
        return impossible(format!("addressed to replica {}", ReplicaId(message.to)));
    }
    let kind = message.get_msg_type();
    // Only a forwarded read has none: raft-rs panics on one that has a term.
    if (message.term == 0) != (kind == MessageType::MsgReadIndex) || message.term > TERM_MAX {
        return impossible(format!("{kind:?} of term {}", message.term));
    }
    if message.term > raft.term.saturating_add(TERMS_AHEAD_MAX) {
        return impossible(format!(
            "{kind:?} of term {} in term {}, more than {TERMS_AHEAD_MAX} ahead",
            message.term, raft.term
        ));
    }
    if !message.entries.is_empty()
        && !matches!(
            kind,
            MessageType::MsgAppend | MessageType::MsgReadIndex | MessageType::MsgReadIndexResp
        )
    {
        return impossible(format!("entries in {kind:?}"));
    }
    match kind {
        MessageType::MsgAppend => {
            one_leader(raft, message)?;
            append(raft, message)
        }
        MessageType::MsgSnapshot => {
            one_leader(raft, message)?;
            snapshot(raft, message)
        }
        MessageType::MsgHeartbeat => {
            one_leader(raft, message)?;
            if message.term >= raft.term && message.commit > raft.raft_log.last_index() {
                return diverged(format!(
                    "this replica has acknowledged {} to replica {from}, and its log ends at {}",
                    message.commit,
                    raft.raft_log.last_index()
                ));
            }
            Ok(())
        }
        MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => {
            acknowledgement(raft, message)
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            let entries = &message.entries;
            if entries.len() != 1 || entries[0].data.len() != reads::CONTEXT_BYTES {
                return impossible("a read without its context".into());
            }
            Ok(())
        }
        MessageType::MsgRequestVote
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow
            if !membership.is_voter(from) =>
        {
            impossible(format!("{kind:?} from a learner"))
        }
        // A candidate's log is durable before it requests votes, and it receives no vote
        // after it has appended more. raft-rs panics where it is elected then.
        MessageType::MsgRequestVoteResponse
            if !message.reject
                && raft.state == StateRole::Candidate
                && message.term == raft.term
                && raft.raft_log.last_index() != raft.raft_log.persisted =>
        {
            impossible("a vote that was not requested".into())
        }
        _ => Ok(()),
    }
}

/// Whether an offered snapshot is one of this group, whose members do not change: others
/// would decide what a quorum is.
pub(crate) fn offer(membership: &Membership, offered: &SnapshotMeta) -> Result<(), RefusalReason> {
    if offered.membership != *membership {
        return impossible(format!("a snapshot at {} of other members", offered.index));
    }
    Ok(())
}

/// Raft 5.2: a term has one leader.
fn one_leader(raft: &Raft<RaftStorage>, message: &Message) -> Result<(), RefusalReason> {
    if message.term == raft.term
        && (raft.state == StateRole::Leader
            || (raft.leader_id != raft::INVALID_ID && raft.leader_id != message.from))
    {
        return impossible(format!(
            "replica {} claims term {}, which replica {} leads",
            ReplicaId(message.from),
            message.term,
            ReplicaId(raft.leader_id)
        ));
    }
    Ok(())
}

fn append(raft: &Raft<RaftStorage>, message: &Message) -> Result<(), RefusalReason> {
    let (mut index, mut term) = (message.index, message.log_term);
    if index.checked_add(message.entries.len() as u64).is_none() {
        return impossible("indexes overflow".into());
    }
    // raft-rs reads term 0 as the term of any entry that it does not have.
    if (index == 0) != (term == 0) {
        return impossible(format!("entries after entry {index} of term {term}"));
    }
    let log = &raft.raft_log;
    let differs = |index: u64, term: u64| {
        let own = log.term(index).unwrap_or(0);
        message.term >= raft.term && index <= log.committed && own != 0 && own != term
    };
    if differs(index, term) {
        return committed_differs(raft, message, index);
    }
    for entry in &message.entries {
        let in_order = entry.term >= term.max(1) && entry.term <= message.term;
        if entry.index != index + 1 || !in_order {
            return impossible(format!(
                "entry {} of term {} after entry {index} of term {term}",
                entry.index, entry.term
            ));
        }
        (index, term) = (entry.index, entry.term);
        if differs(index, term) {
            return committed_differs(raft, message, index);
        }
    }
    Ok(())
}

fn committed_differs(
    raft: &Raft<RaftStorage>,
    message: &Message,
    index: u64,
) -> Result<(), RefusalReason> {
    diverged(format!(
        "replica {}, which leads term {}, has another entry {index} than is committed here up to {}",
        ReplicaId(message.from),
        message.term,
        raft.raft_log.committed
    ))
}

fn snapshot(raft: &Raft<RaftStorage>, message: &Message) -> Result<(), RefusalReason> {
    let meta = message.get_snapshot().get_metadata();
    let log = &raft.raft_log;
    if meta.index <= log.committed
        && log
            .term(meta.index)
            .is_ok_and(|own| own != 0 && own != meta.term)
    {
        return impossible(format!(
            "a snapshot at {} of term {} differs from what is committed",
            meta.index, meta.term
        ));
    }
    Ok(())
}

fn acknowledgement(raft: &Raft<RaftStorage>, message: &Message) -> Result<(), RefusalReason> {
    let last = raft.raft_log.last_index();
    if raft.state == StateRole::Leader
        && message.term == raft.term
        && message.index.max(message.reject_hint) > last
    {
        return impossible(format!(
            "{} is acknowledged, with a hint at {}; the log ends at {last}",
            Index(message.index),
            message.reject_hint,
        ));
    }
    Ok(())
}

fn diverged(what: String) -> Result<(), RefusalReason> {
    Err(RefusalReason::Diverged(what))
}

fn impossible(what: String) -> Result<(), RefusalReason> {
    Err(RefusalReason::Impossible(what))
}
