//! Time, delivery, and the effects of the cores of a group.

use super::{Answer, ELECTION_TICKS, Group, Packet};
use crate::{
    Committed, Consensus, Effect, Input, ProposalId, RefusalReason, RefusedMessage, ReplicaId,
    StepError, Tick,
};

/// Packets that one tick may cause before the group counts as one that never rests.
const PACKETS_MAX: usize = 20_000;

/// Time and delivery.
impl<C: Consensus> Group<C> {
    /// Time passes by one tick everywhere; then packets flow until none is in flight.
    pub fn tick(&mut self) {
        self.now = Tick(self.now.0 + 1);
        self.network.tick();
        for id in self.ids() {
            let _ = self.input(id, Input::Tick);
        }
        self.settle();
    }

    /// So many ticks.
    pub fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick();
        }
    }

    /// Delivers what is in flight, and what that causes, up to a bound.
    pub fn settle(&mut self) {
        for _ in 0..PACKETS_MAX {
            self.fetch_snapshots();
            let Some((packet, copies)) = self.network.next_delivery() else {
                return;
            };
            for _ in 0..copies {
                self.deliver(&packet);
            }
        }
    }

    /// Delivers a packet to its receiver.
    ///
    /// # Panics
    /// When the receiver refuses it as malformed or of another group.
    pub fn deliver(&mut self, packet: &Packet) {
        let input = Input::Receive {
            from: packet.from,
            message: packet.message.clone(),
        };
        if let Err(error) = self.input(packet.to, input) {
            // Late and repeated messages may contradict the present; what a core has
            // sent is never malformed.
            let malformed = matches!(
                &error,
                StepError::Message(RefusedMessage {
                    reason: RefusalReason::Malformed(_) | RefusalReason::WrongGroup,
                    ..
                })
            );
            assert!(
                !malformed,
                "{} refused a message of {}: {error}",
                packet.to, packet.from
            );
        }
        self.count_step();
    }

    /// Runs until some replica leads and an entry of its term is committed.
    ///
    /// # Panics
    /// When that takes longer than 100 election timeouts.
    pub fn elect(&mut self) -> ReplicaId {
        for _ in 0..100 * ELECTION_TICKS {
            self.tick();
            if let Some(leader) = self.leader()
                && self.history.last().map(|entry| entry.term) == Some(self.status(leader).term)
            {
                return leader;
            }
        }
        panic!("no leader within 100 election timeouts");
    }

    /// Runs until all replicas that run have the same state.
    ///
    /// # Panics
    /// When they do not within 50 election timeouts.
    pub fn converge(&mut self) {
        for _ in 0..50 * ELECTION_TICKS {
            self.tick();
            let up = self.members.values().filter(|it| it.replica.core.is_some());
            let mut states = up.map(|member| (member.applied, &member.state));
            let first = states.next();
            if self.leader().is_some() && states.all(|other| Some(other) == first) {
                return;
            }
        }
        panic!("the replicas do not converge");
    }

    /// Steps a replica, if it runs, and carries out the effects.
    ///
    /// # Errors
    /// When the core refuses the input.
    pub fn input(&mut self, id: ReplicaId, input: Input) -> Result<(), StepError> {
        let now = self.now;
        let result = self.member(id).replica.step(now, input);
        self.drain(id);
        result
    }

    fn fetch_snapshots(&mut self) {
        for id in self.ids() {
            let Some((from, meta)) = self.member(id).fetch.take() else {
                continue;
            };
            let stored = self.disk(from).snapshots.get(&meta.index).cloned();
            let reachable = self.is_up(from) && !self.network.is_cut(from, id);
            let input = match stored {
                Some(snapshot) if reachable && self.fetches_work => {
                    let disk = &mut self.member(id).replica.disk;
                    disk.snapshots.insert(meta.index, snapshot);
                    Input::SnapshotFetched(meta)
                }
                _ => Input::SnapshotFetchFailed(meta),
            };
            self.input(id, input).expect("the fetch was requested");
        }
    }
}

/// Effects.
impl<C: Consensus> Group<C> {
    /// Carries out all effects of a replica.
    pub(super) fn drain(&mut self, id: ReplicaId) {
        loop {
            let effect = self.member(id).replica.poll();
            let sent = std::mem::take(&mut self.member(id).replica.sent);
            for packet in sent {
                self.network.send(packet);
            }
            let Some(effect) = effect else {
                return;
            };
            self.member(id).trace.push(format!("{effect:?}"));
            self.carry_out(id, effect);
            self.count_step();
        }
    }

    fn carry_out(&mut self, id: ReplicaId, effect: Effect) {
        match effect {
            Effect::Commit(entries) => self.apply(id, entries),
            Effect::ProposalRejected { proposal, error } => {
                self.answer(proposal, Answer::Rejected(error));
            }
            Effect::ReadReady { token, index } => {
                self.member(id).reads_ready.push((token.0, index));
            }
            Effect::ReadRejected { token, .. } => self.member(id).reads_rejected.push(token.0),
            Effect::FetchSnapshot { from, snapshot } => {
                self.member(id).fetch = Some((from, snapshot));
            }
            Effect::InstallSnapshot(meta) => self.member(id).restore(&meta),
            // Carried out by the replica.
            Effect::Persist(_) | Effect::Send { .. } | Effect::Compact(_) => {}
            Effect::LeaderChanged { .. } => {}
        }
    }

    fn apply(&mut self, id: ReplicaId, entries: Vec<Committed>) {
        for Committed { entry, proposal } in entries {
            self.member(id).apply(&entry);
            assert!(
                self.history.commit(&entry),
                "two entries are committed at {}",
                entry.index
            );
            let Some(proposal) = proposal else {
                continue;
            };
            assert!(
                self.history.lead(entry.term, id),
                "two replicas commit in term {}",
                entry.term
            );
            assert_eq!(self.open.get(&proposal.0), Some(&entry.payload));
            self.answer(proposal, Answer::Committed(entry.index));
        }
    }

    fn answer(&mut self, proposal: ProposalId, answer: Answer) {
        self.open.remove(&proposal.0);
        let earlier = self.answers.insert(proposal.0, answer);
        assert_eq!(earlier, None, "proposal {proposal} is answered twice");
    }

    fn count_step(&mut self) {
        let Some(left) = self.leader_crash_in.as_mut() else {
            return;
        };
        *left = left.saturating_sub(1);
        if *left == 0
            && let Some(leader) = self.leader()
        {
            self.leader_crash_in = None;
            self.crash(leader);
        }
    }
}
