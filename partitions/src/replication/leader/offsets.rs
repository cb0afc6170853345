//! Consumer offsets and the start of the log, at the leader: changes of the table, and their
//! commit.

use std::collections::VecDeque;

use consensus::{Index, ReplicaId, rule};

use super::{Leader, value};
use crate::offsets::CONSUMERS_MAX;
use crate::record::Tag;
use crate::replication::context::Context;
use crate::replication::effect::{Effect, Outcome, Refusal};
use crate::replication::message::Message;
use crate::replication::table::{OffsetChange, Requested, Start, TableChange, TableWrite};
use crate::types::ConsumerKey;

/// Changes that wait for their commit; further ones are refused.
const WAITING_MAX: usize = 4096;

pub(super) struct Offsets {
    /// The version with which the epoch starts.
    first: u64,
    /// Up to this version the table is committed; zero before the first.
    pub(super) commit: u64,
    /// Versions and the requests that wait for them.
    waiting: VecDeque<(u64, u64)>,
}

impl Offsets {
    pub(super) fn new(first: u64) -> Self {
        Self {
            first,
            commit: 0,
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|(_, request)| *request)
    }

    /// Everything that may be committed is in this version.
    pub(super) fn may_be_committed(&self) -> u64 {
        self.first.max(self.commit)
    }
}

impl Leader {
    /// A client changes a consumer's offset.
    pub(in crate::replication) fn change_offset(
        &mut self,
        context: &mut Context,
        request: u64,
        consumer: ConsumerKey,
        change: OffsetChange,
        tag: Option<Tag>,
    ) {
        let refused = |refusal| Effect::Reply {
            request,
            outcome: Outcome::Refused(refusal),
        };
        if context.commit < self.first {
            return context.emit(refused(Refusal::NotLeader));
        }
        let tag = tag.filter(|tag| tag.client != 0);
        let table = &context.table;
        let change = match table.effect_of(consumer, change, tag) {
            Requested::Older => return context.emit(refused(Refusal::OlderRequest)),
            Requested::Missing => return context.emit(refused(Refusal::NoSuchOffset)),
            Requested::Nothing => {
                self.offsets.waiting.push_back((table.at.version, request));
                return;
            }
            Requested::Change(change) => change,
        };
        let offset = match change {
            TableChange::Consumer { offset, .. } => offset,
            TableChange::Start(_) => None,
        };
        let is_new = offset.is_some() && table.offset(consumer).is_none();
        let refusal = if offset.is_some_and(|offset| offset >= self.commit_offset) {
            Some(Refusal::NoSuchMessage)
        } else if is_new && table.consumers() >= CONSUMERS_MAX {
            Some(Refusal::TooManyConsumers)
        } else {
            self.refuses_changes(context)
        };
        match refusal {
            Some(refusal) => context.emit(refused(refusal)),
            None => self.change_table(context, request, change),
        }
    }

    /// The log may start later.
    pub(in crate::replication) fn move_start(
        &mut self,
        context: &mut Context,
        request: u64,
        start: Start,
    ) {
        let current = context.table.start;
        let forward = start.first_offset > current.first_offset || !rule!(StartNeverBack);
        let in_sync = start.base.index <= self.removable(context) || !rule!(RemovesWithinInSync);
        let known = context.chain.contains(start.base) && start.base.index <= context.commit;
        let refusal = if forward && in_sync && known {
            self.refuses_changes(context)
        } else {
            Some(Refusal::NotRemovable)
        };
        match refusal {
            Some(refusal) => context.emit(Effect::Reply {
                request,
                outcome: Outcome::Refused(refusal),
            }),
            None => self.change_table(context, request, TableChange::Start(start)),
        }
    }

    /// Up to here records may be removed: they are committed, and on every copy of each
    /// in-sync set that may be in force.
    pub(in crate::replication) fn removable(&self, context: &Context) -> Index {
        let sets = self.proposed.iter().map(Vec::as_slice);
        let sets = sets.chain([context.assignment.in_sync.as_slice()]);
        let ends = sets.flatten().map(|&node| match self.peer(node) {
            _ if node == context.me => context.stored(),
            Some(peer) => value(context, peer.written, peer.synced),
            None => Index(0),
        });
        ends.min().unwrap_or_default().min(context.commit)
    }

    fn refuses_changes(&self, context: &Context) -> Option<Refusal> {
        if !self.reaches_quorum(context) {
            Some(Refusal::NoQuorum)
        } else if self.offsets.waiting.len() >= WAITING_MAX {
            Some(Refusal::TooMuchUncommitted)
        } else {
            None
        }
    }

    fn change_table(&mut self, context: &mut Context, request: u64, change: TableChange) {
        let epoch = context.assignment.epoch;
        let mut at = context.table.at;
        at.version += 1;
        context.table.apply(at, change);
        context.write_table(TableWrite::Change { at, change });
        self.offsets.waiting.push_back((at.version, request));
        for (node, progress) in &mut self.peers {
            if progress.registration.is_some() && progress.table_sent + 1 == at.version {
                progress.sent_table(context.now, at.version);
                let version = at.version;
                let message = Message::Offset {
                    epoch,
                    version,
                    change,
                };
                context.send(*node, message);
            }
        }
    }

    /// Commits what enough copies have, answers, and sends the table to those that lack it.
    pub(super) fn advance_offsets(&mut self, context: &mut Context) {
        let commit = self.table_committed(context);
        if commit >= self.offsets.first && commit > self.offsets.commit {
            self.offsets.commit = commit;
        }
        context.table_committed(self.offsets.commit);
        while let Some(&(version, request)) = self.offsets.waiting.front() {
            if version > self.offsets.commit {
                break;
            }
            let outcome = Outcome::Stored;
            context.emit(Effect::Reply { request, outcome });
            self.offsets.waiting.pop_front();
        }
        let (epoch, version) = (context.assignment.epoch, context.table.at.version);
        for (node, progress) in &mut self.peers {
            if progress.needs_table(context.now, version) {
                progress.sent_table(context.now, version);
                let table = context.table.clone();
                context.send(*node, Message::Table { epoch, table });
            }
        }
    }

    fn table_committed(&self, context: &Context) -> u64 {
        let commit = self.table_of_quorum(context, &context.assignment.in_sync);
        let open = self.proposed.iter().filter(|_| rule!(CommitsOnOpenSets));
        let open = open.map(|set| self.table_of_quorum(context, set));
        open.fold(commit, u64::min)
    }

    /// The largest version that a commit quorum of the set has.
    pub(super) fn table_of_quorum(&self, context: &Context, set: &[ReplicaId]) -> u64 {
        let has = |node: ReplicaId| match self.peer(node) {
            _ if node == context.me => context.table_acknowledged(),
            Some(peer) if !peer.has_gone_back() => peer.table,
            _ => 0,
        };
        let quorum = context.assignment.commit_quorum(set.len());
        super::quorum::largest_of(set, quorum, has)
    }
}
