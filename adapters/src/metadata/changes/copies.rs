//! Who leads partitions, and which copies are in sync.
//!
//! Once leaders change at all, a partition has a leader exactly if a node with a copy that
//! is in sync is live; the leader is such a node. Its epoch rises with every change of the
//! leader and with every registration of it. In-sync sets are never empty, and only a
//! leader or an operator changes them.

use std::sync::Arc;

use consensus::ReplicaId;
use partitions::PartitionKey;
use partitions::replication::{Epoch, Recovery};

use crate::metadata::commands::{
    AlterInSync, ForceRecover, InSyncChange, LeaderMove, LogState, NodeInfo, Recover,
};
use crate::metadata::feature_level::FeatureLevel;
use crate::metadata::replicas::{NODE_ID_MAX, NodeSet};
use crate::metadata::state::{Leadership, MetadataState, Partition};
use crate::metadata::types::Identifier;

/// The nodes that may lead.
pub(in crate::metadata) struct Candidates {
    live: NodeSet,
    /// Those that have lost nothing.
    intact: NodeSet,
}

impl Candidates {
    fn without(self, node: ReplicaId) -> Self {
        let others = |nodes: NodeSet| {
            let all = (1..=NODE_ID_MAX).map(ReplicaId);
            all.filter(|it| *it != node && nodes.contains(*it))
                .collect()
        };
        Self {
            live: others(self.live),
            intact: others(self.intact),
        }
    }

    /// The live node that is to lead a partition: of those in sync, one that has lost
    /// nothing if there is one, and of these `own` or else the most preferred.
    pub(in crate::metadata) fn leader(
        &self,
        partition: &Partition,
        own: Option<ReplicaId>,
    ) -> Option<ReplicaId> {
        let in_order = own.into_iter().chain(partition.replicas.iter());
        let mut candidates =
            in_order.filter(|node| self.live.contains(*node) && partition.is_in_sync(*node));
        let first = candidates.next()?;
        let mut all = std::iter::once(first).chain(candidates);
        let intact = all.find(|node| self.intact.contains(*node));
        Some(intact.unwrap_or(first))
    }
}

impl MetadataState {
    pub(in crate::metadata) fn candidates(&self) -> Candidates {
        let live = || self.nodes().filter(|node| node.live);
        let intact = live().filter(|node| node.log == LogState::Intact);
        Candidates {
            live: live().map(|node| node.info.node).collect(),
            intact: intact.map(|node| node.info.node).collect(),
        }
    }

    /// Identity and condition of the storage of a node that registers. Another storage than
    /// before has lost everything, and what was lost stays lost until the next start.
    pub(in crate::metadata) fn storage_of(
        &self,
        info: &NodeInfo,
        storage: Option<(u128, LogState)>,
    ) -> (u128, LogState) {
        let known = self.node(info.node);
        let Some((id, log)) = storage else {
            let unknown = match self.leaders_change() {
                true => LogState::TailLost,
                false => LogState::Intact,
            };
            return (known.map_or(0, |known| known.storage_id), unknown);
        };
        let log = match known {
            Some(known) if known.storage_id != 0 && known.storage_id != id => LogState::Lost,
            Some(known) if known.info.incarnation == info.incarnation && known.storage_id == id => {
                known.log.max(log)
            }
            _ => log,
        };
        (id, log)
    }

    /// Once leaders change, partitions of nodes that are fenced have none.
    pub(in crate::metadata) fn raise_feature_level(&mut self, level: FeatureLevel) {
        let changed_before = self.leaders_change();
        self.feature_level = self.feature_level.max(level);
        if changed_before || !self.leaders_change() {
            return;
        }
        self.sessions.keep_history();
        let live = self.candidates().live;
        let led = |it: &Leadership| it.leader().is_some_and(|leader| !live.contains(leader));
        self.change_leaders(led, |_| Some(None));
    }

    /// A node that has registered leads what it led in new epochs, if it has lost nothing
    /// or no other node can lead; and those without a leader, if its copy is in sync.
    pub(in crate::metadata) fn node_started(&mut self, node: ReplicaId) {
        if !self.leaders_change() {
            return;
        }
        let candidates = self.candidates();
        let concerned = |it: &Leadership| it.leader().is_none_or(|leader| leader == node);
        self.change_leaders(concerned, |partition| {
            let led = partition.leader().is_some();
            let waits = partition.leader().is_none() && partition.is_in_sync(node);
            (led || waits).then(|| candidates.leader(partition, Some(node)))
        });
    }

    /// Other nodes lead what a fenced node led.
    pub(in crate::metadata) fn node_fenced(&mut self, node: ReplicaId) {
        if !self.leaders_change() {
            return;
        }
        let candidates = self.candidates();
        let led = |it: &Leadership| it.leader() == Some(node);
        self.change_leaders(led, |partition| Some(candidates.leader(partition, None)));
    }

    /// Others lead what a silent node led, where another copy that is in sync is live. Returns
    /// whether the node has this registration.
    pub(in crate::metadata) fn replace_leader(
        &mut self,
        node: ReplicaId,
        registration: u64,
    ) -> bool {
        let known = self.node(node);
        let current = known.is_some_and(|known| known.live && known.registration == registration);
        if !current {
            return false;
        }
        let candidates = self.candidates().without(node);
        let led = |it: &Leadership| it.leader() == Some(node);
        self.change_leaders(led, |partition| {
            let next = candidates.leader(partition, None);
            next.map(Some)
        });
        true
    }

    /// Starts an epoch in partitions whose leadership is `concerned`, where `next` returns
    /// the leader of it. What is not concerned is not copied.
    fn change_leaders(
        &mut self,
        concerned: impl Fn(&Leadership) -> bool,
        next: impl Fn(&Partition) -> Option<Option<ReplicaId>>,
    ) {
        let mut leads = vec![0_i64; NODE_ID_MAX as usize + 1];
        let mut count = |leader: Option<ReplicaId>, change| {
            if let Some(leads) = leader.and_then(|leader| leads.get_mut(leader.0 as usize)) {
                *leads += change;
            }
        };
        for stream in self.streams.values_mut() {
            let any = |partitions: &crate::metadata::state::Partitions| partitions.any(&concerned);
            if !stream.topics().any(|topic| any(&topic.partitions)) {
                continue;
            }
            for topic in Arc::make_mut(stream).shared_topics_mut() {
                if !any(&topic.partitions) {
                    continue;
                }
                let partitions = &mut Arc::make_mut(topic).partitions;
                partitions.change_leaders(&concerned, |partition| {
                    let leader = next(partition)?;
                    count(partition.leader(), -1);
                    count(leader, 1);
                    Some(leader)
                });
            }
        }
        for (id, change) in leads.into_iter().enumerate() {
            if let Some(node) = self.nodes.get_mut(&ReplicaId(id as u64)) {
                node.leads = node.leads.saturating_add_signed(change);
            }
        }
    }

    /// Returns the partitions whose version has changed.
    pub(in crate::metadata) fn alter_in_sync(&mut self, alter: &AlterInSync) -> Vec<PartitionKey> {
        if !self.runs(alter.from, alter.incarnation) {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for change in &alter.changes {
            let Some(partition) = self.partition(&change.key) else {
                continue;
            };
            let Leadership { epoch, version, .. } = partition.leadership;
            let leads = partition.leader() == Some(alter.from);
            let epoch = u64::from(epoch) == change.epoch.0;
            let version = u64::from(version) == change.version;
            if !(leads && epoch && version) {
                continue;
            }
            match self.accepts(&partition, change) {
                true => self.set_copies(&partition, change),
                false => self.change_leadership(&change.key, Leadership::keep_in_sync),
            }
            changed.push(change.key);
        }
        changed
    }

    /// Whether a leader's proposal, for the current epoch and version, may take effect.
    fn accepts(&self, partition: &Partition, change: &InSyncChange) -> bool {
        let next = &change.in_sync;
        let known = change
            .replicas
            .iter()
            .all(|it| self.nodes.contains_key(&it));
        let have_copies = next.iter().all(|it| change.replicas.contains(it));
        let leads = partition
            .leader()
            .is_some_and(|leader| next.contains(leader));
        let added_live = next
            .iter()
            .all(|it| partition.is_in_sync(it) || self.is_live(it));
        let topic = self.topic_of(&change.key);
        let least = topic.map_or(1, |topic| topic.options.min_in_sync(change.replicas.len()));
        let enough = next.len() >= least || next.len() >= partition.in_sync().count();
        known && have_copies && leads && added_live && enough
    }

    fn set_copies(&mut self, former: &Partition, change: &InSyncChange) {
        let replicas = change.replicas;
        for (nodes, is_added) in [(former.replicas, false), (replicas, true)] {
            for node in nodes.iter() {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.partitions = match is_added {
                        true => node.partitions + 1,
                        false => node.partitions - 1,
                    };
                }
            }
        }
        let copies = replicas.iter().enumerate();
        let in_sync = copies
            .filter(|(_, node)| change.in_sync.contains(*node))
            .fold(0, |bits, (position, _)| bits | 1 << position);
        let key = &change.key;
        if replicas != former.replicas
            && let Ok(topic) = self.topic_mut(key.stream_id, key.topic_id)
        {
            topic.partitions.set_replicas(key.partition_id, replicas);
        }
        self.change_leadership(key, |it| it.set_in_sync(in_sync));
    }

    /// Returns the partitions that have another leader.
    pub(in crate::metadata) fn move_leaders(&mut self, moves: &[LeaderMove]) -> Vec<PartitionKey> {
        let mut moved = Vec::new();
        for LeaderMove { key, epoch, to } in moves {
            let may_lead = |it: &Partition| self.is_live(*to) && it.is_in_sync(*to);
            let partition = self.partition_in(key, *epoch).filter(may_lead);
            if partition.is_some() {
                self.change_leadership(key, |it| it.start_epoch(Some(*to)));
                moved.push(*key);
            }
        }
        moved
    }

    /// Returns whether the epoch was started.
    pub(in crate::metadata) fn recover(&mut self, recover: &Recover) -> bool {
        let &Recover {
            key,
            epoch,
            leader,
            incarnation,
            offset_gap,
        } = recover;
        let partition = self.partition_in(&key, epoch);
        let in_sync = partition.is_some_and(|it| it.is_in_sync(leader));
        if !in_sync || !self.runs(leader, incarnation) {
            return false;
        }
        self.change_leadership(&key, |it| it.start_epoch(Some(leader)));
        self.record_recovery(&key, |epoch, before| {
            Recovery::usual(epoch, before, offset_gap)
        });
        true
    }

    /// Returns whether the epoch was started.
    pub(in crate::metadata) fn force_recover(&mut self, recover: &ForceRecover) -> bool {
        let &ForceRecover {
            key,
            epoch,
            leader,
            incarnation,
        } = recover;
        let partition = self.partition_in(&key, epoch);
        let position = partition.and_then(|it| it.replicas.position(leader));
        let (Some(position), true) = (position, self.runs(leader, incarnation)) else {
            return false;
        };
        self.change_leadership(&key, |it| {
            it.set_in_sync(1 << position);
            it.start_epoch(Some(leader));
        });
        self.record_recovery(&key, Recovery::forced);
        true
    }

    /// The partition, if it is in this epoch.
    fn partition_in(&self, key: &PartitionKey, epoch: Epoch) -> Option<Partition> {
        let partition = self.partition(key)?;
        let current = u64::from(partition.leadership.epoch) == epoch.0;
        current.then_some(partition)
    }

    /// Whether this start of the node is live.
    fn runs(&self, node: ReplicaId, incarnation: u64) -> bool {
        self.node(node)
            .is_some_and(|node| node.live && node.info.incarnation == incarnation)
    }

    fn record_recovery(
        &mut self,
        key: &PartitionKey,
        next: impl FnOnce(Epoch, Option<Recovery>) -> Recovery,
    ) {
        let Some(partition) = self.partition(key) else {
            return;
        };
        let Ok(topic) = self.topic_mut(key.stream_id, key.topic_id) else {
            return;
        };
        let epoch = Epoch(u64::from(partition.leadership.epoch));
        let former = topic.recoveries.get(&key.partition_id).copied();
        let recovery = next(epoch, former);
        topic.recoveries.insert(key.partition_id, recovery);
    }

    fn topic_of(&self, key: &PartitionKey) -> Option<&Arc<crate::metadata::state::Topic>> {
        let stream = self.streams.get(&key.stream_id)?;
        stream.topic(&Identifier::Id(key.topic_id))
    }

    /// Changes a partition that exists.
    fn change_leadership(&mut self, key: &PartitionKey, change: impl FnOnce(&mut Leadership)) {
        let Ok(topic) = self.topic_mut(key.stream_id, key.topic_id) else {
            return;
        };
        let Some(leadership) = topic.partitions.leadership_mut(key.partition_id) else {
            return;
        };
        let before = leadership.leader();
        change(leadership);
        let after = leadership.leader();
        for (leader, change) in [(before, -1), (after, 1)] {
            if let Some(node) = leader.and_then(|leader| self.nodes.get_mut(&leader)) {
                node.leads = node.leads.saturating_add_signed(change);
            }
        }
    }
}
