//! What tests request of a group: proposals, reads, snapshots, and its disks.

use bytes::Bytes;

use super::{Answer, ELECTION_TICKS, Group};
use crate::{Consensus, Index, Input, ProposalId, ReadToken, ReplicaId, SnapshotMeta};

impl<C: Consensus> Group<C> {
    /// Proposes a command at a replica. Returns the key of its answer.
    pub fn propose(&mut self, id: ReplicaId, payload: &[u8]) -> u64 {
        let number = self.next_number + 1;
        self.propose_together(id, payload, 1);
        number
    }

    /// Proposes so many commands before any effect is polled.
    pub fn propose_together(&mut self, id: ReplicaId, payload: &[u8], count: usize) {
        let payload = Bytes::copy_from_slice(payload);
        let now = self.now;
        for _ in 0..count {
            let proposal = ProposalId(self.number());
            self.open.insert(proposal.0, payload.clone());
            let payload = payload.clone();
            let input = Input::Propose { proposal, payload };
            let _ = self.member(id).replica.step(now, input);
        }
        self.drain(id);
    }

    /// Proposes at the leader and runs until the command is committed.
    ///
    /// # Panics
    /// When that takes longer than 20 election timeouts.
    pub fn commit(&mut self, payload: &[u8]) -> Index {
        for _ in 0..20 {
            let leader = self.leader().unwrap_or_else(|| self.elect());
            let number = self.propose(leader, payload);
            for _ in 0..ELECTION_TICKS {
                self.settle();
                if let Some(Answer::Committed(index)) = self.answers.get(&number) {
                    return *index;
                }
                self.tick();
            }
        }
        panic!("no commit within 20 election timeouts");
    }

    /// Requests a read index at a replica. Returns the key of its answer.
    pub fn read(&mut self, id: ReplicaId) -> u64 {
        let number = self.number();
        let _ = self.input(id, Input::ReadIndex(ReadToken(number)));
        number
    }

    /// The index of a read that may be served; `None` when it may not.
    #[must_use]
    pub fn read_ready(&self, id: ReplicaId, read: u64) -> Option<Index> {
        let ready = &mut self.members[&id].reads_ready.iter();
        ready
            .find(|(number, _)| *number == read)
            .map(|found| found.1)
    }

    /// Whether the read was rejected.
    #[must_use]
    pub fn read_rejected(&self, id: ReplicaId, read: u64) -> bool {
        self.members[&id].reads_rejected.contains(&read)
    }

    /// Whether batches of the replica become durable only by [`Self::sync`].
    pub fn set_manual_sync(&mut self, id: ReplicaId, manual: bool) {
        self.member(id).replica.manual_sync = manual;
    }

    /// Makes the oldest batch of a replica durable. Whether there was one.
    pub fn sync(&mut self, id: ReplicaId) -> bool {
        let any = self.member(id).replica.fsync();
        self.drain(id);
        any
    }

    /// Takes a snapshot of what a replica has applied.
    ///
    /// # Panics
    /// When the replica does not run, or refuses it.
    pub fn snapshot(&mut self, id: ReplicaId) -> SnapshotMeta {
        let member = self.member(id);
        let meta = SnapshotMeta {
            index: member.applied,
            term: member.applied_term,
            membership: member.replica.core().status().membership,
        };
        let stored = (meta.clone(), member.state.clone());
        member.replica.disk.snapshots.insert(meta.index, stored);
        self.input(id, Input::SnapshotTaken(meta.clone()))
            .expect("a snapshot of what is applied is taken");
        meta
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}
