//! A group of replicas in one thread: who runs, who is cut off, and what each believes.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};

use bytes::Bytes;

use super::member::Member;
use super::{Disk, History, Network, Replica, config};
use crate::{
    Consensus, CoreConfig, Index, Input, Limits, ProposeError, RecoverError, Recovered, ReplicaId,
    Role, Status, Tick,
};

/// Builds a core.
pub type Build<C> = fn(&CoreConfig, Recovered) -> Result<C, RecoverError>;

/// The answer to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Committed at this index.
    Committed(Index),
    /// Rejected.
    Rejected(ProposeError),
}

/// A deterministic group of replicas of one backend.
pub struct Group<C> {
    build: Build<C>,
    pub(super) members: BTreeMap<ReplicaId, Member<C>>,
    /// The packets between the replicas.
    pub network: Network,
    /// Whether snapshots can be fetched.
    pub fetches_work: bool,
    /// The answer to each proposal.
    pub answers: BTreeMap<u64, Answer>,
    /// Decreases with every effect and every delivery; the leader crashes at zero.
    pub leader_crash_in: Option<u64>,
    pub(super) now: Tick,
    pub(super) next_number: u64,
    /// Proposals without an answer.
    pub(super) open: BTreeMap<u64, Bytes>,
    pub(super) history: History,
}

impl<C> Debug for Group<C> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("now", &self.now)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

impl<C: Consensus> Group<C> {
    /// Voters 1 to `voters`, followed by learners.
    #[must_use]
    pub fn new(build: Build<C>, voters: u64, learners: u64) -> Self {
        Self::with_limits(build, voters, learners, &Limits::default())
    }

    /// The same, with limits other than the default.
    #[must_use]
    pub fn with_limits(build: Build<C>, voters: u64, learners: u64, limits: &Limits) -> Self {
        let member = |id| {
            let config = config(id, voters, learners, limits.clone());
            (id, Member::new(Replica::new(config)))
        };
        let ids = (1..=voters + learners).map(ReplicaId);
        let mut group = Self {
            build,
            members: ids.map(member).collect(),
            network: Network::default(),
            fetches_work: true,
            answers: BTreeMap::new(),
            leader_crash_in: None,
            now: Tick(0),
            next_number: 0,
            open: BTreeMap::new(),
            history: History::default(),
        };
        for id in group.ids() {
            group.restart(id);
        }
        group
    }

    /// Every replica.
    #[must_use]
    pub fn ids(&self) -> Vec<ReplicaId> {
        self.members.keys().copied().collect()
    }

    /// The configuration of a replica's current incarnation.
    #[must_use]
    pub fn config(&self, id: ReplicaId) -> CoreConfig {
        self.members[&id].replica.config()
    }

    /// A replica's disk.
    #[must_use]
    pub fn disk(&self, id: ReplicaId) -> &Disk {
        &self.members[&id].replica.disk
    }

    /// Isolates a replica from all others, or heals it.
    pub fn isolate(&mut self, id: ReplicaId, isolated: bool) {
        for other in self.ids() {
            self.network.set_cut(id, other, isolated);
            self.network.set_cut(other, id, isolated);
        }
    }

    /// The replica loses its memory, and what is not durable.
    pub fn crash(&mut self, id: ReplicaId) {
        self.member(id).crash();
    }

    /// Builds the replica from its disk.
    pub fn restart(&mut self, id: ReplicaId) {
        let (build, now) = (self.build, self.now);
        let member = self.member(id);
        member.replica.start(build);
        // A core counts time from its own start; here all clocks are one.
        let _ = member.replica.step(now, Input::Tick);
        let newest = member.replica.disk.newest_snapshot();
        if let Some((meta, _)) = newest.cloned() {
            member.restore(&meta);
        }
        self.drain(id);
    }

    /// Whether the replica runs.
    #[must_use]
    pub fn is_up(&self, id: ReplicaId) -> bool {
        self.members[&id].replica.core.is_some()
    }

    /// What a running replica believes.
    ///
    /// # Panics
    /// When the replica does not run.
    #[must_use]
    pub fn status(&self, id: ReplicaId) -> Status {
        self.members[&id].replica.core().status()
    }

    /// The leader of the highest term among those that run.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.ids()
            .into_iter()
            .filter(|id| self.is_up(*id) && self.status(*id).role == Role::Leader)
            .max_by_key(|id| self.status(*id).term)
    }

    /// The commands that a replica has applied, in order.
    #[must_use]
    pub fn state(&self, id: ReplicaId) -> &[Bytes] {
        &self.members[&id].state
    }

    /// Every effect of a replica's current incarnation.
    #[must_use]
    pub fn trace(&self, id: ReplicaId) -> &[String] {
        &self.members[&id].trace
    }

    pub(super) fn member(&mut self, id: ReplicaId) -> &mut Member<C> {
        self.members.get_mut(&id).expect("a member")
    }
}
