//! From raft-rs's `Ready` to effects.

use consensus::rule;
use consensus::{
    Committed, Effect, Entry, EntryKind, Index, PersistBatch, PersistId, ProposalId, ProposeError,
    ReplicaId, Term, Tick,
};
use raft::eraftpb::{Message, MessageType};
use raft::{Ready, StateRole};

use super::{RaftCore, SNAPSHOT_ELECTION_TIMEOUTS};
use crate::{hard_state, message, translate};

impl RaftCore {
    pub(super) fn collect(&mut self) {
        self.start_read_round();
        while self.effects.is_empty() && self.raw.has_ready() {
            self.handle_ready();
        }
        if rule!(LostProposalsAnswered) {
            self.reject_lost_proposals();
        }
    }

    fn start_read_round(&mut self) {
        let raft = &self.raw.raft;
        let ready = if self.is_leader() {
            raft.commit_to_current_term()
        } else {
            raft.leader_id != raft::INVALID_ID
        };
        if ready && let Some(context) = self.reads.start_round() {
            self.raw.read_index(context);
        }
    }

    fn handle_ready(&mut self) {
        let mut ready = self.raw.ready();
        self.check_leader();
        let batch = self.persist(&mut ready);
        let number = ready.number();
        let messages = ready.take_messages();
        let persisted_messages = ready.take_persisted_messages();
        let committed = ready.take_committed_entries();
        let read_states = ready.take_read_states();
        self.raw.advance_append_async(ready);
        let durable = batch.is_none() && self.unpersisted.is_empty();
        if durable || !rule!(PersistedWhenDurable) {
            self.raw.on_persist_ready(number);
        }
        if !durable {
            self.unpersisted.push_back((number, batch));
        }
        let vote_pending = self.unless_durable(self.vote_batch);
        let vote_pending = vote_pending.filter(|_| rule!(LeaderMessagesAfterTerm));
        self.send(messages, vote_pending);
        let mut response_after = batch;
        if rule!(ResponseAfterEarlierWrites) {
            response_after = self.unless_durable(self.last_persist);
        }
        if !rule!(ResponseAfterDurable) {
            response_after = None;
        }
        self.send(persisted_messages, response_after);
        self.commit(committed);
        for state in read_states {
            for token in self.reads.confirm(&state.request_ctx) {
                self.effects.push_back(Effect::ReadReady {
                    token,
                    index: Index(state.index),
                });
            }
        }
        self.advance_applied();
        let (first, applied) = (
            self.raw.store().window.first(),
            self.raw.raft.raft_log.applied,
        );
        assert!(
            applied >= first.prev().0,
            "the log starts at {first} and only {applied} counts as applied: an election would read compacted entries"
        );
    }

    /// The batch, when it is not yet durable.
    fn unless_durable(&self, id: PersistId) -> Option<PersistId> {
        self.unpersisted
            .iter()
            .filter_map(|(_, batch)| *batch)
            .any(|batch| batch <= id)
            .then_some(id)
    }

    /// Returns a batch with what this `Ready` has to persist, and makes it visible to
    /// raft-rs's reads of the log.
    fn persist(&mut self, ready: &mut Ready) -> Option<PersistId> {
        let snapshot = self.restore_snapshot(ready);
        let entries: Vec<Entry> = ready
            .take_entries()
            .into_iter()
            .map(translate::from_raft_entry)
            .collect();
        let raft = &self.raw.raft;
        let vote = (raft.term, raft.vote);
        let write_vote = vote != self.vote && rule!(TermStored);
        if snapshot.is_none() && entries.is_empty() && !write_vote {
            return None;
        }
        let commit = raft.raft_log.committed.min(raft.raft_log.persisted);
        let id = PersistId(self.last_persist.0 + 1);
        self.last_persist = id;
        if self.unpersisted.iter().all(|(_, batch)| batch.is_none()) {
            self.waiting_since = self.clock;
        }
        if vote != self.vote {
            self.vote = vote;
            self.vote_batch = id;
        }
        let mut voted_for = vote.1;
        if !rule!(VoteStored) {
            voted_for = raft::INVALID_ID;
        }
        self.raw.mut_store().window.append(&entries);
        self.effects.push_back(Effect::Persist(PersistBatch {
            id,
            reset_to: snapshot,
            entries,
            hard_state: Some(hard_state::encode(vote.0, voted_for, commit)),
        }));
        Some(id)
    }

    fn restore_snapshot(&mut self, ready: &Ready) -> Option<(Index, Term)> {
        let metadata = ready.snapshot().get_metadata();
        if metadata.index == 0 {
            return None;
        }
        let meta = self
            .installing
            .take()
            .expect("only snapshots that were fetched are stepped");
        assert_eq!(meta.index.0, metadata.index, "another snapshot was fetched");
        let (index, term) = (meta.index, meta.term);
        let storage = self.raw.mut_store();
        storage.window.reset(index, term);
        storage.membership = meta.membership.clone();
        storage.snapshot = Some(meta.clone());
        // An election reads the log after what is applied, and panics where it is
        // compacted: it may start before the snapshot is durable.
        if rule!(InstalledSnapshotApplied) {
            self.raw.raft.raft_log.applied = index.0;
        }
        self.delivered = index.0;
        self.snapshots.forget_through(index.0);
        self.effects.push_back(Effect::InstallSnapshot(meta));
        Some((index, term))
    }

    fn send(&mut self, messages: Vec<Message>, after: Option<PersistId>) {
        let bytes_max = self.limits.message_bytes_max;
        // raft-rs returns term 0 where the term is unknown.
        let term = |index| {
            let term = self.raw.raft.raft_log.term(index).ok()?;
            (term > 0 || index == 0).then_some(term)
        };
        let messages: Vec<_> = messages
            .into_iter()
            .filter_map(|message| translate::placed(message, term))
            .flat_map(|message| translate::bounded(message, bytes_max))
            .collect();
        for mut message in messages {
            let to = ReplicaId(message.to);
            if message.get_msg_type() == MessageType::MsgReadIndexResp
                && rule!(ReadIndexContextUnique)
                && let Some(entry) = message.mut_entries().first_mut()
            {
                let Some(context) = self.reads.finish_request(&entry.data) else {
                    continue;
                };
                entry.data = context;
            }
            let offered = (message.get_msg_type() == MessageType::MsgSnapshot)
                .then(|| self.raw.store().snapshot.clone())
                .flatten();
            if offered.is_some() {
                let wait = SNAPSHOT_ELECTION_TIMEOUTS * self.election_ticks;
                self.snapshots.offered(to.0, Tick(self.now.0 + wait));
            }
            self.effects.push_back(Effect::Send {
                to,
                message: message::encode(self.group, message, offered.as_ref()),
                after,
            });
        }
    }

    fn commit(&mut self, entries: Vec<raft::eraftpb::Entry>) {
        if entries.is_empty() {
            return;
        }
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            let entry = translate::from_raft_entry(entry);
            assert_eq!(
                entry.index.0,
                self.delivered + 1,
                "commits are gap-free and in order"
            );
            self.delivered = entry.index.0;
            let proposal = self.answer(&entry);
            committed.push(Committed { entry, proposal });
        }
        self.snapshots.forget_through(self.delivered);
        self.effects.push_back(Effect::Commit(committed));
    }

    /// The proposal that a committed entry answers. One that was appended at its index
    /// in another term is lost.
    fn answer(&mut self, entry: &Entry) -> Option<ProposalId> {
        let (term, proposal) = self.proposals.remove(&entry.index.0)?;
        if term == entry.term.0 && entry.kind == EntryKind::Command {
            return Some(proposal);
        }
        self.effects.push_back(Effect::ProposalRejected {
            proposal,
            error: ProposeError::NotLeader {
                leader: self.leader_hint(),
            },
        });
        None
    }

    /// The outcome of proposals of a lost leadership is unknown, unless a commit has
    /// answered them before.
    fn reject_lost_proposals(&mut self) {
        let raft = &self.raw.raft;
        let current = (raft.state == StateRole::Leader).then_some(raft.term);
        let newest_is_current = self
            .proposals
            .last_key_value()
            .is_none_or(|(_, (term, _))| Some(*term) == current);
        let oldest_is_current = self
            .proposals
            .first_key_value()
            .is_none_or(|(_, (term, _))| Some(*term) == current);
        if newest_is_current && oldest_is_current {
            return;
        }
        let effects = &mut self.effects;
        self.proposals.retain(|_, (term, proposal)| {
            let keep = Some(*term) == current;
            if !keep {
                effects.push_back(Effect::ProposalRejected {
                    proposal: *proposal,
                    error: ProposeError::OutcomeUnknown,
                });
            }
            keep
        });
    }

    fn check_leader(&mut self) {
        let leader = (Term(self.raw.raft.term), self.leader_hint());
        if leader != self.leader {
            self.leader = leader;
            self.reads.restart();
            if !self.is_leader() {
                self.reads.drop_requests();
            }
            self.effects.push_back(Effect::LeaderChanged {
                term: leader.0,
                leader: leader.1,
            });
        }
    }
}
