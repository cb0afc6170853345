//! The metadata of one partition: a sequence of assignments that consensus would agree on.

use std::collections::BTreeMap;

use consensus::{ReplicaId, rule};
use partitions::Durability;
use partitions::replication::{Assignment, Epoch, Member, Proposal, Recovery, Trust};

/// A command.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Register {
        node: ReplicaId,
        registration: u64,
        trust: Trust,
    },
    Down {
        node: ReplicaId,
        registration: u64,
    },
    Of(Proposal),
    /// An operator names the copy to start from.
    Force {
        leader: ReplicaId,
    },
}

pub(crate) struct Metadata {
    pub(crate) states: Vec<Assignment>,
    /// Nodes whose storage is the one that acknowledged, as they have registered.
    trust: BTreeMap<ReplicaId, Trust>,
}

impl Metadata {
    pub(crate) fn new(nodes: u64, min_in_sync: usize, durability: Durability) -> Self {
        let replicas: Vec<_> = (0..nodes).map(ReplicaId::from_number).collect();
        let member = |&node: &ReplicaId| {
            let member = Member {
                registration: 0,
                live: false,
            };
            (node, member)
        };
        let first = Assignment {
            epoch: Epoch(1),
            version: 1,
            leader: None,
            in_sync: replicas.clone(),
            members: replicas.iter().map(member).collect(),
            replicas,
            min_in_sync,
            durability,
            recovery: None,
        };
        Self {
            states: vec![first],
            trust: BTreeMap::new(),
        }
    }

    pub(crate) fn latest(&self) -> &Assignment {
        &self.states[self.states.len() - 1]
    }

    /// Applies a command; without effect when it is based on what is no longer true.
    pub(crate) fn apply(&mut self, command: Command) {
        let mut next = self.latest().clone();
        let changed = match command {
            Command::Register {
                node,
                registration,
                trust,
            } => self.register(&mut next, node, registration, trust),
            Command::Down { node, registration } => self.down(&mut next, node, registration),
            Command::Of(proposal) => propose(&mut next, proposal),
            Command::Force { leader } => force(&mut next, leader),
        };
        if changed {
            next.version += 1;
            self.states.push(next);
        }
    }

    fn register(
        &mut self,
        next: &mut Assignment,
        node: ReplicaId,
        registration: u64,
        trust: Trust,
    ) -> bool {
        let Some(member) = next.members.get_mut(&node) else {
            return false;
        };
        if registration < member.registration || registration == member.registration && member.live
        {
            return false;
        }
        let restarted = registration > member.registration;
        *member = Member {
            registration,
            live: true,
        };
        self.trust.insert(node, trust);
        let led = next.leader == Some(node);
        if led && restarted && rule!(RestartStartsEpoch) {
            next.epoch = Epoch(next.epoch.0 + 1);
            next.leader = self.successor(next, node);
        } else if next.leader.is_none() && next.is_in_sync(node) {
            next.epoch = Epoch(next.epoch.0 + 1);
            next.leader = Some(node);
        }
        true
    }

    fn down(&self, next: &mut Assignment, node: ReplicaId, registration: u64) -> bool {
        let Some(member) = next.members.get_mut(&node) else {
            return false;
        };
        if member.registration != registration || !member.live {
            return false;
        }
        member.live = false;
        if next.in_sync.len() > next.min_in_sync && !rule!(DownKeepsInSync) {
            next.in_sync.retain(|other| *other != node);
        }
        if next.leader == Some(node) {
            next.epoch = Epoch(next.epoch.0 + 1);
            next.leader = self.successor(next, node);
        }
        true
    }

    /// The first live member of the in-sync set, intact ones first.
    fn successor(&self, next: &Assignment, after: ReplicaId) -> Option<ReplicaId> {
        let live = |node: &&ReplicaId| next.is_in_sync(**node) && next.is_live(**node);
        let intact = |node: &&ReplicaId| {
            let trust = self.trust.get(*node);
            trust.is_none_or(|trust| *trust == Trust::Trusted)
        };
        let own_first = std::iter::once(&after).chain(&next.replicas);
        let candidates: Vec<&ReplicaId> = own_first.filter(live).collect();
        let first = candidates.iter().copied().find(|node| intact(node));
        first.or(candidates.first().copied()).copied()
    }
}

fn propose(next: &mut Assignment, proposal: Proposal) -> bool {
    match proposal {
        Proposal::AlterInSync {
            epoch,
            version,
            in_sync,
        } => {
            let valid = next.epoch == epoch
                && next.version == version
                && in_sync.iter().all(|&node| next.is_live(node));
            next.in_sync = if valid { in_sync } else { return false };
        }
        Proposal::Move { epoch, to } => {
            if next.epoch != epoch || !next.is_in_sync(to) || !next.is_live(to) {
                return false;
            }
            next.epoch = Epoch(epoch.0 + 1);
            next.leader = Some(to);
        }
        Proposal::Recover {
            epoch,
            leader,
            registration,
            offset_gap,
        } => {
            let same = next.members[&leader].registration == registration;
            if next.epoch != epoch || !next.is_in_sync(leader) || !next.is_live(leader) || !same {
                return false;
            }
            next.epoch = Epoch(epoch.0 + 1);
            next.leader = Some(leader);
            let before = next.recovery;
            next.recovery = Some(Recovery::usual(next.epoch, before, offset_gap));
        }
    }
    true
}

fn force(next: &mut Assignment, leader: ReplicaId) -> bool {
    if !next.is_live(leader) {
        return false;
    }
    next.epoch = Epoch(next.epoch.0 + 1);
    next.leader = Some(leader);
    next.in_sync = vec![leader];
    next.recovery = Some(Recovery::forced(next.epoch, next.recovery));
    true
}
