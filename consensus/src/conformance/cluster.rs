//! A group of cores over a network and disks that do as they are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::Factory;
use super::node::{Held, Node};
use crate::{
    Committed, CoreConfig, Effect, EntryKind, Index, Input, Limits, Membership, PersistId,
    ProposalId, ProposeError, ReadToken, RefusalReason, RefusedMessage, ReplicaId, Role,
    SnapshotMeta, Status, StepError, Term, Tick,
};

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Sender.
    pub from: ReplicaId,
    /// Receiver.
    pub to: ReplicaId,
    /// Content.
    pub message: Bytes,
}

/// What the network does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Delivers it.
    Deliver,
    /// Loses it.
    Drop,
    /// Delivers it twice.
    Duplicate,
    /// Delivers it a tick later.
    Delay,
}

/// How a proposal ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Committed at this index.
    Committed(Index),
    /// Turned away.
    Rejected(ProposeError),
}

/// The heartbeat interval of every cluster here, in ticks.
pub const HEARTBEAT_TICKS: u64 = 3;
/// The election timeout of every cluster here, in ticks.
pub const ELECTION_TICKS: u64 = 10;

type Policy = Box<dyn FnMut(&Packet, u64) -> Verdict>;

/// A deterministic cluster of one backend.
pub struct Cluster {
    factory: Factory,
    /// Configuration of the next core that is built.
    pub limits: Limits,
    membership: Membership,
    pub(super) nodes: BTreeMap<ReplicaId, Node>,
    /// Messages under way, oldest first.
    pub network: VecDeque<Packet>,
    /// Directed links that lose everything.
    pub cut: BTreeSet<(ReplicaId, ReplicaId)>,
    /// Keep a copy of every packet ever sent, for replays.
    pub record: Option<Vec<Packet>>,
    /// Whether snapshots can be fetched.
    pub fetches_work: bool,
    delayed: Vec<Packet>,
    policy: Policy,
    random: u64,
    now: Tick,
    next_number: u64,
    /// How each proposal ended.
    pub answers: BTreeMap<u64, Answer>,
    open: BTreeMap<u64, Bytes>,
    history: BTreeMap<Index, (Term, EntryKind, Bytes)>,
    committers: BTreeMap<Term, ReplicaId>,
    /// Counts down with every effect and every delivery; at zero the leader
    /// crashes.
    pub leader_crash_in: Option<u64>,
}

impl Cluster {
    /// Voters 1 to `voters`, and learners behind them.
    #[must_use]
    pub fn new(factory: Factory, voters: u64, learners: u64) -> Self {
        Self::with_limits(factory, voters, learners, Limits::default())
    }

    /// The same, with bounds of its own.
    #[must_use]
    pub fn with_limits(factory: Factory, voters: u64, learners: u64, limits: Limits) -> Self {
        let membership = Membership::new(
            1,
            (1..=voters).map(ReplicaId),
            (voters + 1..=voters + learners).map(ReplicaId),
        )
        .expect("a small cluster is a membership");
        let mut cluster = Self {
            factory,
            limits,
            nodes: membership
                .members()
                .map(|id| (id, Node::default()))
                .collect(),
            membership,
            network: VecDeque::new(),
            cut: BTreeSet::new(),
            record: None,
            fetches_work: true,
            delayed: Vec::new(),
            policy: Box::new(|_, _| Verdict::Deliver),
            random: 1,
            now: Tick(0),
            next_number: 0,
            answers: BTreeMap::new(),
            open: BTreeMap::new(),
            history: BTreeMap::new(),
            committers: BTreeMap::new(),
            leader_crash_in: None,
        };
        for id in cluster.ids() {
            cluster.restart(id);
        }
        cluster
    }

    /// Every replica.
    #[must_use]
    pub fn ids(&self) -> Vec<ReplicaId> {
        self.nodes.keys().copied().collect()
    }

    /// The configuration of a replica's next life.
    #[must_use]
    pub fn config(&self, id: ReplicaId) -> CoreConfig {
        CoreConfig {
            id,
            group: 7,
            membership: self.membership.clone(),
            heartbeat_ticks: HEARTBEAT_TICKS,
            election_ticks: ELECTION_TICKS,
            seed: id.0 * 1000 + self.nodes[&id].incarnation,
            limits: self.limits.clone(),
        }
    }

    /// Lets the network do as this says; the number is random.
    pub fn set_policy(&mut self, seed: u64, policy: impl FnMut(&Packet, u64) -> Verdict + 'static) {
        self.random = seed;
        self.policy = Box::new(policy);
    }

    /// Cuts a replica off from everybody, or heals it.
    pub fn isolate(&mut self, id: ReplicaId, isolated: bool) {
        for other in self.ids() {
            for link in [(id, other), (other, id)] {
                if isolated {
                    self.cut.insert(link);
                } else {
                    self.cut.remove(&link);
                }
            }
        }
    }

    /// The replica's memory is gone, and what was not synced.
    pub fn crash(&mut self, id: ReplicaId) {
        let node = self.node(id);
        let disk = std::mem::take(&mut node.disk);
        *node = Node {
            disk,
            incarnation: node.incarnation,
            manual_sync: node.manual_sync,
            ..Node::default()
        };
    }

    /// Builds the replica from its disk.
    pub fn restart(&mut self, id: ReplicaId) {
        let config = {
            self.node(id).incarnation += 1;
            self.config(id)
        };
        let disk = &mut self.node(id).disk;
        let recovered = disk.recovered().checked();
        let recovered = recovered.expect("what was synced is gap-free");
        if recovered.log_is_void(disk.end())
            && let Some(snapshot) = &recovered.snapshot
        {
            disk.start = (snapshot.index, snapshot.term);
            disk.entries.clear();
        }
        let mut core = (self.factory)(&config, recovered).expect("a legal disk is recovered from");
        // A core counts time from its own start; here all clocks are one.
        let _ = core.step(self.now, Input::Tick);
        let node = self.node(id);
        if let Some((meta, state)) = node.disk.newest_snapshot().cloned() {
            node.applied = meta.index;
            node.applied_term = meta.term;
            node.state = state;
        }
        node.core = Some(core);
        self.drain(id);
    }

    /// Whether the replica runs.
    #[must_use]
    pub fn is_up(&self, id: ReplicaId) -> bool {
        self.nodes[&id].core.is_some()
    }

    /// What a running replica believes.
    #[must_use]
    pub fn status(&self, id: ReplicaId) -> Status {
        let core = self.nodes[&id].core.as_ref();
        core.expect("a running replica").status()
    }

    /// The leader of the highest term among those that run.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.ids()
            .into_iter()
            .filter(|id| self.is_up(*id) && self.status(*id).role == Role::Leader)
            .max_by_key(|id| self.status(*id).term)
    }

    /// Runs until some replica leads and a command of its term is committed.
    ///
    /// # Panics
    /// When that takes longer than 100 election timeouts.
    pub fn elect(&mut self) -> ReplicaId {
        for _ in 0..100 * ELECTION_TICKS {
            self.tick();
            if let Some(leader) = self.leader()
                && self.history.values().next_back().map(|(term, ..)| *term)
                    == Some(self.status(leader).term)
            {
                return leader;
            }
        }
        panic!("no leader within 100 election timeouts");
    }

    /// Time passes by one tick everywhere; then messages flow until it is quiet.
    pub fn tick(&mut self) {
        self.now = Tick(self.now.0 + 1);
        self.network.extend(std::mem::take(&mut self.delayed));
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

    /// Delivers what is under way until nothing is, or for a bounded time.
    pub fn settle(&mut self) {
        for _ in 0..20_000 {
            self.fetch_snapshots();
            let Some(packet) = self.network.pop_front() else {
                return;
            };
            let cut = self.cut.contains(&(packet.from, packet.to));
            let random = self.draw();
            match (self.policy)(&packet, random) {
                _ if cut => {}
                Verdict::Drop => {}
                Verdict::Deliver => self.deliver(&packet),
                Verdict::Duplicate => {
                    self.deliver(&packet);
                    self.deliver(&packet);
                }
                Verdict::Delay => self.delayed.push(packet),
            }
        }
    }

    /// Hands a packet to its receiver.
    pub fn deliver(&mut self, packet: &Packet) {
        let input = Input::Receive {
            from: packet.from,
            message: packet.message.clone(),
        };
        if let Err(error) = self.input(packet.to, input) {
            // Late and repeated messages may contradict the present; what the
            // protocol sends in order may not be malformed.
            let badly_formed = matches!(
                &error,
                StepError::Message(RefusedMessage {
                    reason: RefusalReason::Malformed(_) | RefusalReason::WrongGroup,
                    ..
                })
            );
            assert!(
                !badly_formed,
                "{} refused a message of {}: {error}",
                packet.to, packet.from
            );
        }
        self.count_step();
    }

    /// Proposes a command at a replica; the number finds its answer.
    pub fn propose(&mut self, id: ReplicaId, payload: &[u8]) -> u64 {
        let number = self.next_number + 1;
        self.propose_together(id, payload, 1);
        number
    }

    /// Proposes so many commands before any effect is looked at.
    pub fn propose_together(&mut self, id: ReplicaId, payload: &[u8], count: usize) {
        let payload = Bytes::copy_from_slice(payload);
        for _ in 0..count {
            let number = self.number();
            self.open.insert(number, payload.clone());
            let (now, payload) = (self.now, payload.clone());
            if let Some(core) = self.node(id).core.as_mut() {
                let proposal = ProposalId(number);
                let _ = core.step(now, Input::Propose { proposal, payload });
            }
        }
        self.drain(id);
    }

    /// Proposes at the leader and runs until it is answered as committed.
    ///
    /// # Panics
    /// When it is not within 20 election timeouts.
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

    /// Asks a replica for a read index; the number finds its answer.
    pub fn read(&mut self, id: ReplicaId) -> u64 {
        let number = self.number();
        let _ = self.input(id, Input::ReadIndex(ReadToken(number)));
        number
    }

    /// The index of a read that may be served, when it may.
    #[must_use]
    pub fn read_ready(&self, id: ReplicaId, read: u64) -> Option<Index> {
        let ready = &self.nodes[&id].reads_ready;
        ready
            .iter()
            .find(|(number, _)| *number == read)
            .map(|found| found.1)
    }

    /// Whether the read was rejected.
    #[must_use]
    pub fn read_rejected(&self, id: ReplicaId, read: u64) -> bool {
        self.nodes[&id].reads_rejected.contains(&read)
    }

    /// The commands that a replica has applied, in order.
    #[must_use]
    pub fn state(&self, id: ReplicaId) -> &[Bytes] {
        &self.nodes[&id].state
    }

    /// Whether batches of the replica become durable only by [`Self::sync`].
    pub fn set_manual_sync(&mut self, id: ReplicaId, manual: bool) {
        self.node(id).manual_sync = manual;
    }

    /// Makes the oldest batch of a replica durable.
    pub fn sync(&mut self, id: ReplicaId) -> bool {
        let node = self.node(id);
        let Some(batch) = node.unsynced.pop_front() else {
            return false;
        };
        node.disk.write(&batch);
        node.durable = batch.id;
        let _ = self.input(id, Input::Persisted(batch.id));
        self.release(id);
        true
    }

    /// Snapshots a replica's state where it stands.
    pub fn snapshot(&mut self, id: ReplicaId) -> SnapshotMeta {
        let node = self.node(id);
        let meta = SnapshotMeta {
            index: node.applied,
            term: node.applied_term,
            membership: node.core.as_ref().expect("up").status().membership,
        };
        let state = node.state.clone();
        node.disk
            .snapshots
            .insert(meta.index, (meta.clone(), state));
        self.input(id, Input::SnapshotTaken(meta.clone()))
            .expect("a snapshot of what is applied is taken");
        meta
    }

    /// All replicas that run hold the same state.
    ///
    /// # Panics
    /// When they do not within 50 election timeouts.
    pub fn converge(&mut self) {
        for _ in 0..50 * ELECTION_TICKS {
            self.tick();
            let up: Vec<_> = self
                .ids()
                .into_iter()
                .filter(|id| self.is_up(*id))
                .collect();
            if self.leader().is_some()
                && up.iter().all(|id| {
                    self.state(*id) == self.state(up[0])
                        && self.nodes[id].applied == self.nodes[&up[0]].applied
                })
            {
                return;
            }
        }
        panic!("the replicas do not converge");
    }

    /// Gives an input to a replica, if it runs, and carries out the effects.
    ///
    /// # Errors
    /// When the core refuses the input.
    pub fn input(&mut self, id: ReplicaId, input: Input) -> Result<(), StepError> {
        let now = self.now;
        let Some(core) = self.node(id).core.as_mut() else {
            return Ok(());
        };
        let result = core.step(now, input);
        self.drain(id);
        result
    }

    /// Every effect that a replica has had in this life.
    #[must_use]
    pub fn trace(&self, id: ReplicaId) -> &[String] {
        &self.nodes[&id].trace
    }

    pub(super) fn node(&mut self, id: ReplicaId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a member")
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn drain(&mut self, id: ReplicaId) {
        while let Some(core) = self.node(id).core.as_mut()
            && let Some(effect) = core.poll()
        {
            let text = format!("{effect:?}");
            self.node(id).trace.push(text);
            self.carry_out(id, effect);
            self.count_step();
        }
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

    fn carry_out(&mut self, id: ReplicaId, effect: Effect) {
        match effect {
            Effect::Persist(batch) => {
                let node = self.node(id);
                let previous = node.unsynced.back().map_or(node.durable, |batch| batch.id);
                assert_eq!(batch.id, PersistId(previous.0 + 1), "batch ids rise by one");
                node.unsynced.push_back(batch);
                if !node.manual_sync {
                    self.sync(id);
                }
            }
            Effect::Send { to, message, after } => {
                let message = message.to_bytes();
                let node = self.node(id);
                let after = after.unwrap_or_default();
                if after <= node.durable {
                    self.transmit(id, to, message);
                } else {
                    node.held.push(Held { after, to, message });
                }
            }
            Effect::Commit(entries) => self.apply(id, entries),
            Effect::ProposalRejected { proposal, error } => {
                self.answer(proposal, Answer::Rejected(error));
            }
            Effect::ReadReady { token, index } => {
                self.node(id).reads_ready.push((token.0, index));
            }
            Effect::ReadRejected { token, .. } => self.node(id).reads_rejected.push(token.0),
            Effect::LeaderChanged { .. } => {}
            Effect::FetchSnapshot { from, snapshot } => {
                self.node(id).fetch = Some((from, snapshot));
            }
            Effect::InstallSnapshot(meta) => {
                let node = self.node(id);
                let (_, state) = node.disk.snapshots[&meta.index].clone();
                node.state = state;
                node.applied = meta.index;
                node.applied_term = meta.term;
            }
            Effect::Compact(through) => self.node(id).disk.compact(through),
        }
    }

    fn apply(&mut self, id: ReplicaId, entries: Vec<Committed>) {
        for Committed { entry, proposal } in entries {
            let node = self.nodes.get_mut(&id).expect("a member");
            assert_eq!(entry.index, node.applied.next(), "{id}: commits have a gap");
            assert!(
                entry.index <= node.disk.last(),
                "{id}: {} is applied before it is durable here",
                entry.index
            );
            let fact = (entry.term, entry.kind, entry.payload.clone());
            let agreed = self
                .history
                .entry(entry.index)
                .or_insert_with(|| fact.clone());
            assert_eq!(
                *agreed, fact,
                "two entries are committed at {}",
                entry.index
            );
            node.applied = entry.index;
            node.applied_term = entry.term;
            if entry.kind == EntryKind::Command {
                node.state.push(entry.payload.clone());
            }
            if let Some(proposal) = proposal {
                let leader = *self.committers.entry(entry.term).or_insert(id);
                assert_eq!(leader, id, "two replicas commit in term {}", entry.term);
                assert_eq!(self.open.get(&proposal.0), Some(&entry.payload));
                self.answer(proposal, Answer::Committed(entry.index));
            }
        }
    }

    fn answer(&mut self, proposal: ProposalId, answer: Answer) {
        self.open.remove(&proposal.0);
        let earlier = self.answers.insert(proposal.0, answer);
        assert_eq!(earlier, None, "proposal {proposal} is answered twice");
    }

    fn release(&mut self, id: ReplicaId) {
        let node = self.node(id);
        let durable = node.durable;
        let (ready, held) = std::mem::take(&mut node.held)
            .into_iter()
            .partition(|held: &Held| held.after <= durable);
        node.held = held;
        for Held { to, message, .. } in ready {
            self.transmit(id, to, message);
        }
    }

    fn transmit(&mut self, from: ReplicaId, to: ReplicaId, message: Bytes) {
        let packet = Packet { from, to, message };
        if let Some(record) = &mut self.record {
            record.push(packet.clone());
        }
        self.network.push_back(packet);
    }

    fn fetch_snapshots(&mut self) {
        for id in self.ids() {
            let Some((from, meta)) = self.node(id).fetch.take() else {
                continue;
            };
            let held = self.nodes[&from].disk.snapshots.get(&meta.index).cloned();
            let reachable = self.is_up(from) && !self.cut.contains(&(from, id));
            let input = match held {
                Some(snapshot) if reachable && self.fetches_work => {
                    self.node(id).disk.snapshots.insert(meta.index, snapshot);
                    Input::SnapshotFetched(meta)
                }
                _ => Input::SnapshotFetchFailed(meta),
            };
            self.input(id, input).expect("a fetch that was asked for");
        }
    }
}
