//! A group of replicas whose messages and disks do only what a test tells them to.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use consensus::testing::{self, Packet, Replica};
use consensus::{
    Consensus, CoreConfig, Effect, EntryKind, Index, Input, Limits, ProposalId, ReplicaId, Role,
    SnapshotMeta, StepError, Tick,
};

use crate::core::VrCore;
use crate::ids::View;
use crate::message::{Envelope, Message};

pub(super) const GROUP: u128 = testing::GROUP;
pub(super) const HEARTBEAT: u64 = testing::HEARTBEAT_TICKS;
pub(super) const ELECTION: u64 = testing::ELECTION_TICKS;

pub(super) fn id(number: u64) -> ReplicaId {
    ReplicaId(number)
}

pub(super) fn config(replica: ReplicaId, voters: u64, incarnation: u64) -> CoreConfig {
    let limits = Limits {
        log_tail_entries: 0,
        ..Limits::default()
    };
    let mut config = testing::config(replica, voters, 0, limits);
    config.seed += incarnation;
    config
}

/// A replica, and what it has answered in this incarnation.
pub(super) struct Node {
    replica: Replica<VrCore>,
    /// Commands, as they were committed here.
    pub(super) committed: Vec<(Index, Bytes)>,
    pub(super) installed: Vec<SnapshotMeta>,
    pub(super) fetches: Vec<SnapshotMeta>,
    pub(super) answers: Vec<(u64, bool)>,
    pub(super) rejected: Vec<StepError>,
    pub(super) reads: Vec<(u64, Index)>,
}

impl Node {
    fn new(replica: Replica<VrCore>) -> Self {
        Self {
            replica,
            committed: Vec::new(),
            installed: Vec::new(),
            fetches: Vec::new(),
            answers: Vec::new(),
            rejected: Vec::new(),
            reads: Vec::new(),
        }
    }
}

impl Deref for Node {
    type Target = Replica<VrCore>;

    fn deref(&self) -> &Self::Target {
        &self.replica
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.replica
    }
}

pub(super) struct Group {
    voters: u64,
    pub(super) nodes: BTreeMap<ReplicaId, Node>,
    pub(super) network: VecDeque<Envelope>,
    /// Everything that ever left.
    pub(super) sent: Vec<Envelope>,
    pub(super) now: Tick,
    next_proposal: u64,
}

impl Group {
    pub(super) fn new(voters: u64) -> Self {
        Self::with_limits(voters, config(id(1), voters, 0).limits)
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "tests write the limits where they call it"
    )]
    pub(super) fn with_limits(voters: u64, limits: Limits) -> Self {
        let configured = |number| CoreConfig {
            limits: limits.clone(),
            ..config(id(number), voters, 0)
        };
        let node = |number| {
            let replica = Replica::new(configured(number));
            (id(number), Node::new(replica))
        };
        let mut group = Self {
            voters,
            nodes: (1..=voters).map(node).collect(),
            network: VecDeque::new(),
            sent: Vec::new(),
            now: Tick(0),
            next_proposal: 0,
        };
        for number in 1..=voters {
            group.restart(number);
        }
        group
    }

    /// A group in its first view, and the number of its primary.
    pub(super) fn started(voters: u64) -> (Self, u64) {
        Self::new(voters).start()
    }

    pub(super) fn start(mut self) -> (Self, u64) {
        let group = &mut self;
        group.run(3);
        let primary = group.primary().expect("the first view starts immediately");
        group.run(2 * HEARTBEAT);
        (self, primary)
    }

    pub(super) fn core(&self, number: u64) -> &VrCore {
        self.nodes[&id(number)].core.as_ref().expect("it runs")
    }

    pub(super) fn node(&mut self, number: u64) -> &mut Node {
        self.nodes.get_mut(&id(number)).expect("a member")
    }

    /// The leader of the highest view.
    pub(super) fn primary(&self) -> Option<u64> {
        self.nodes
            .iter()
            .filter_map(|(id, node)| Some((id, node.core.as_ref()?.status())))
            .filter(|(_, status)| status.role == Role::Leader)
            .max_by_key(|(_, status)| status.term)
            .map(|(id, _)| id.0)
    }

    pub(super) fn crash(&mut self, number: u64) {
        let node = self.node(number);
        let mut replica = node.replica.clone();
        replica.crash();
        replica.manual_sync = false;
        *node = Node::new(replica);
    }

    pub(super) fn restart(&mut self, number: u64) {
        let now = self.now;
        let replica = &mut self.node(number).replica;
        replica.start(VrCore::new);
        if let Some(core) = &mut replica.core {
            core.start_at(now);
        }
        self.drain(number);
    }

    pub(super) fn input(&mut self, number: u64, input: Input) {
        let now = self.now;
        let node = self.node(number);
        if let Err(error) = node.replica.step(now, input) {
            node.rejected.push(error);
        }
        self.drain(number);
    }

    pub(super) fn deliver(&mut self, envelope: &Envelope) {
        let message = envelope.encode(GROUP).to_bytes();
        let from = envelope.from;
        self.input(envelope.to.0, Input::Receive { from, message });
    }

    /// A message that a test made up.
    pub(super) fn say(&mut self, from: u64, to: u64, view: u64, message: Message) {
        self.deliver(&Envelope {
            from: id(from),
            to: id(to),
            view: View(view),
            message,
        });
    }

    /// Delivers what is in flight, and what that causes, as far as `filter` accepts it.
    pub(super) fn settle_if(&mut self, mut filter: impl FnMut(&Envelope) -> bool) {
        for _ in 0..100_000 {
            let Some(envelope) = self.network.pop_front() else {
                return;
            };
            if filter(&envelope) {
                self.deliver(&envelope);
            }
        }
        panic!("the group does not come to rest");
    }

    pub(super) fn tick(&mut self) {
        self.now = Tick(self.now.0 + 1);
        for number in 1..=self.voters {
            self.input(number, Input::Tick);
        }
    }

    pub(super) fn run(&mut self, ticks: u64) {
        self.run_if(ticks, |_| true);
    }

    pub(super) fn run_if(&mut self, ticks: u64, mut filter: impl FnMut(&Envelope) -> bool) {
        for _ in 0..ticks {
            self.tick();
            self.settle_if(&mut filter);
        }
    }

    /// Runs until a primary leads in a view behind this one.
    pub(super) fn until_view_after(&mut self, view: u64) -> u64 {
        for _ in 0..100 * ELECTION {
            self.run(1);
            if let Some(primary) = self.primary()
                && self.core(primary).context().view() > View(view)
                && self.core(primary).context().commit()
                    == self.core(primary).context().log().last()
            {
                return primary;
            }
        }
        panic!("no view starts");
    }

    pub(super) fn propose(&mut self, number: u64, payload: &[u8]) -> u64 {
        self.next_proposal += 1;
        let proposal = ProposalId(self.next_proposal);
        let payload = Bytes::copy_from_slice(payload);
        self.input(number, Input::Propose { proposal, payload });
        self.next_proposal
    }

    /// Proposes at the primary and lets it be committed everywhere.
    pub(super) fn commit(&mut self, payload: &[u8]) {
        let primary = self.primary().expect("a replica leads");
        self.propose(primary, payload);
        self.run(HEARTBEAT + 1);
    }

    /// Makes the oldest batch durable, and releases what waited for it.
    pub(super) fn sync(&mut self, number: u64) -> bool {
        let any = self.node(number).replica.fsync();
        self.drain(number);
        any
    }

    fn transmit(&mut self, packet: &Packet) {
        let envelope = Envelope::decode(GROUP, packet.message.clone());
        let envelope = envelope.expect("own messages decode");
        self.sent.push(envelope.clone());
        self.network.push_back(envelope);
    }

    fn drain(&mut self, number: u64) {
        loop {
            let effect = self.node(number).replica.poll();
            let sent = std::mem::take(&mut self.node(number).replica.sent);
            for packet in &sent {
                self.transmit(packet);
            }
            let Some(effect) = effect else {
                return;
            };
            self.carry_out(number, effect);
        }
    }

    fn carry_out(&mut self, number: u64, effect: Effect) {
        let node = self.node(number);
        match effect {
            Effect::Commit(entries) => {
                for committed in entries {
                    let entry = committed.entry;
                    if entry.kind == EntryKind::Command {
                        node.committed.push((entry.index, entry.payload));
                    }
                    if let Some(proposal) = committed.proposal {
                        node.answers.push((proposal.0, true));
                    }
                }
            }
            Effect::ProposalRejected { proposal, .. } => node.answers.push((proposal.0, false)),
            Effect::FetchSnapshot { snapshot, .. } => node.fetches.push(snapshot),
            Effect::InstallSnapshot(meta) => node.installed.push(meta),
            Effect::ReadReady { token, index } => node.reads.push((token.0, index)),
            Effect::Persist(_) | Effect::Send { .. } | Effect::Compact(_) => {}
            Effect::LeaderChanged { .. } | Effect::ReadRejected { .. } => {}
        }
    }

    /// Snapshots a replica where it stands, with nothing kept before it.
    pub(super) fn snapshot(&mut self, number: u64) -> SnapshotMeta {
        let core = self.core(number);
        let index = core.context().delivered();
        let meta = SnapshotMeta {
            index,
            term: core.context().log().view(index).expect("it is held").term(),
            membership: core.context().membership().clone(),
        };
        let snapshots = &mut self.node(number).disk.snapshots;
        snapshots.insert(index, (meta.clone(), Vec::new()));
        self.input(number, Input::SnapshotTaken(meta.clone()));
        meta
    }

    /// The snapshot that a replica requested arrives.
    pub(super) fn fetched(&mut self, number: u64) {
        let node = self.node(number);
        let meta = node.fetches.pop().expect("it requested one");
        node.disk
            .snapshots
            .insert(meta.index, (meta.clone(), Vec::new()));
        self.input(number, Input::SnapshotFetched(meta));
    }

    /// What this incarnation of a replica has committed.
    pub(super) fn commands(&self, number: u64) -> Vec<String> {
        let node = &self.nodes[&id(number)];
        let text = |payload: &Bytes| String::from_utf8_lossy(payload).into_owned();
        node.committed.iter().map(|(_, p)| text(p)).collect()
    }
}
