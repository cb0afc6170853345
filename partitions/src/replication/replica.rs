//! One copy of a partition: inputs, outputs, and which role handles what.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Index, ReplicaId, rule};

use super::assignment::Assignment;
use super::chain::{Chain, Epoch, Position};
use super::context::Context;
use super::election::{Answer, Election, Next, answer};
use super::follower::{Append, Follower};
use super::leader::{Ack, Leader};
use super::message::{Message, Trust};
use crate::record::Record;

/// Times and bounds of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A copy that is so far behind leaves the in-sync set: it lacks what its leader had
    /// then.
    pub replica_lag_max: Duration,
    /// A copy that has been less far behind than this, for as long as this, may enter it.
    pub steady: Duration,
    /// A leader without a quorum, or whose write hangs, resigns after this time; after
    /// each resignation that changed nothing, after twice as long.
    pub failover_timeout: Duration,
    /// How often a log is fsynced whose acknowledgements do not promise it.
    pub sync_interval: Duration,
    /// Bytes of batches that are not committed; further ones are refused.
    pub uncommitted_bytes_max: usize,
    /// Offsets between the last message on the disk and the last one that is acknowledged.
    /// As many are left out after a recovery, so it must not be lowered for a partition.
    pub unsynced_messages_max: u64,
    /// Records of one append.
    pub append_records_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replica_lag_max: Duration::from_secs(3),
            steady: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(1),
            sync_interval: Duration::from_secs(1),
            uncommitted_bytes_max: 16 << 20,
            unsynced_messages_max: 1 << 22,
            append_records_max: 64,
        }
    }
}

/// What a copy has when its node starts.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The log.
    pub chain: Chain,
    /// Offset of the message after its last record.
    pub next_offset: u64,
    /// Up to here it is on the disk.
    pub synced: Index,
    /// Offset of the message after that record.
    pub synced_offset: u64,
    /// Up to here records are known to be committed.
    pub commit: Index,
    /// The latest epoch that was adopted.
    pub adopted: Epoch,
    /// What it may have lost.
    pub trust: Trust,
}

/// Names a disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// An input.
#[derive(Clone, Debug)]
pub enum Event {
    /// The metadata has changed the assignment. The caller passes none before the metadata
    /// contains the registration of this start of the node: so no promise of an earlier
    /// start has to be remembered.
    Assigned(Assignment),
    /// A client's batch, at the leader; the answer is an [`Effect::Reply`].
    Append {
        /// Names the request.
        request: u64,
        /// Messages in the batch.
        messages: u32,
        /// The batch.
        batch: Bytes,
    },
    /// A message of another copy. Messages of one connection arrive in their order.
    Message {
        /// The other node.
        from: ReplicaId,
        /// The registration of the process that has sent it.
        registration: u64,
        /// The message.
        message: Message,
    },
    /// The connection to this node was replaced: what was sent on it may be lost.
    Reconnected {
        /// The other node.
        peer: ReplicaId,
    },
    /// A disk operation has succeeded.
    Done {
        /// Which one.
        ticket: Ticket,
    },
    /// A disk operation has failed for good.
    Failed {
        /// Which one.
        ticket: Ticket,
    },
    /// Time has passed: at least ten times a second.
    Tick,
}

/// What the caller has to do. Disk operations on the log are done in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a message.
    Send {
        /// The other node.
        to: ReplicaId,
        /// The message.
        message: Message,
    },
    /// [`PartitionReplica::next_append`] has something for this node.
    Ready {
        /// The other node.
        to: ReplicaId,
    },
    /// Read records after this one from the log, and send them as [`Message::Fetched`].
    Serve {
        /// The other node.
        to: ReplicaId,
        /// The epoch of the message.
        epoch: Epoch,
        /// The predecessor of the first record.
        after: Position,
    },
    /// Write records at the log's end.
    Write {
        /// To be reported as done.
        ticket: Ticket,
        /// The records.
        records: Vec<Record>,
    },
    /// Remove the records after this index, and sync that before the next write.
    Truncate {
        /// To be reported as done.
        ticket: Ticket,
        /// The last index that stays.
        end: Index,
    },
    /// Sync all earlier writes.
    Sync {
        /// To be reported as done.
        ticket: Ticket,
    },
    /// Write durably that the copy acknowledges in this epoch.
    Adopt {
        /// To be reported as done.
        ticket: Ticket,
        /// The epoch.
        epoch: Epoch,
    },
    /// The copy has again what its in-sync set may rely on.
    Trusted,
    /// Records up to here are committed.
    Committed {
        /// The last of them.
        through: Index,
    },
    /// The answer to a client's request.
    Reply {
        /// Which request.
        request: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// Propose a change to the metadata.
    Propose(Proposal),
    /// Report this to the operator.
    Alarm(Alarm),
}

/// What became of a client's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed.
    Appended {
        /// Offset of its first message.
        first_offset: u64,
    },
    /// It was not stored.
    Refused(Refusal),
    /// It may have been stored.
    Unknown,
}

/// Why a batch was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This copy does not lead, or not yet.
    NotLeader,
    /// Too few copies answer.
    NoQuorum,
    /// As many bytes as allowed wait for their commit.
    TooMuchUncommitted,
}

/// A change of the metadata. It takes effect only in the epoch that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// Replace the in-sync set, if the version is still this one and all members are live.
    AlterInSync {
        /// The leader's epoch.
        epoch: Epoch,
        /// The version of the assignment that it is based on.
        version: u64,
        /// The new set, ascending.
        in_sync: Vec<ReplicaId>,
    },
    /// Let another node lead.
    Move {
        /// The leader's epoch.
        epoch: Epoch,
        /// The next leader.
        to: ReplicaId,
    },
    /// Start an epoch without a quorum of trusted copies: no copy that was in sync can be
    /// queried in addition.
    Recover {
        /// The epoch that cannot start.
        epoch: Epoch,
        /// The next leader.
        leader: ReplicaId,
        /// Its registration: a process that has started since may be on another disk.
        registration: u64,
        /// See [`Recovery::offset_gap`](super::assignment::Recovery::offset_gap).
        offset_gap: u64,
    },
}

/// What an operator has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The leader's log lacks records that were committed: the copy has stopped.
    CommittedRecordsConflict {
        /// The last common record.
        after: Index,
    },
    /// A copy has less than it acknowledged: it is not counted.
    WentBack {
        /// Its node.
        node: ReplicaId,
    },
    /// The disk has refused a write for good: the copy has stopped.
    WriteFailed,
    /// Too few copies are left that may be trusted; an operator has to accept the loss.
    NotEnoughTrusted,
}

/// An append to be built from the log: the records after `predecessor`, up to `through`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendPlan {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The record before the first one.
    pub predecessor: Position,
    /// The last one; the predecessor's index for none.
    pub through: Index,
    /// Up to here records are committed.
    pub commit: Index,
    /// The leader's last record.
    pub end: Index,
}

enum Role {
    /// The metadata names no leader, or this node has no copy.
    Idle,
    Follower(Follower),
    Electing(Election),
    Leader(Leader),
}

/// One copy of a partition.
pub struct PartitionReplica {
    context: Context,
    role: Role,
}

impl PartitionReplica {
    /// A copy whose node has started.
    #[must_use]
    pub fn new(
        me: ReplicaId,
        settings: Settings,
        recovered: Recovered,
        assignment: Assignment,
        now: Duration,
    ) -> Self {
        let context = Context::new(me, settings, recovered, assignment, now);
        let mut replica = Self {
            context,
            role: Role::Idle,
        };
        replica.take_role();
        replica.advance();
        replica
    }

    /// Handles an input at a time of the caller's monotonic clock.
    pub fn handle(&mut self, now: Duration, event: Event) {
        let context = &mut self.context;
        context.now = context.now.max(now);
        match event {
            Event::Done { ticket } => context.done(ticket),
            Event::Failed { .. } => context.stop(Alarm::WriteFailed),
            Event::Assigned(assignment) => self.assigned(assignment),
            Event::Append {
                request,
                messages,
                batch,
            } => self.append(request, messages, batch),
            Event::Message {
                from,
                registration,
                message,
            } => {
                if context.stopped.is_none() && context.is_current(from, registration) {
                    self.message(from, registration, message);
                }
            }
            Event::Reconnected { peer } => match &mut self.role {
                Role::Leader(leader) => leader.reconnected(context, peer),
                Role::Follower(follower) => follower.reconnected(),
                Role::Idle | Role::Electing(_) => {}
            },
            Event::Tick => self.tick(),
        }
        self.advance();
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Effect> {
        self.context.next_effect()
    }

    /// The next append for a follower. The caller asks when it can send one, after
    /// [`Effect::Ready`] and after an append that it has sent, and builds the message from
    /// the log.
    pub fn next_append(&mut self, to: ReplicaId) -> Option<AppendPlan> {
        match &mut self.role {
            Role::Leader(leader) if self.context.stopped.is_none() => {
                leader.next_append(&self.context, to)
            }
            _ => None,
        }
    }

    /// Whether it leads, and its epoch has started.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leader(_)) && self.context.stopped.is_none()
    }

    /// Up to here records are known to be committed.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.context.commit
    }

    /// The epochs of its log.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.context.chain
    }

    /// What it may have lost.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.context.trust
    }

    /// The assignment that it follows.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        &self.context.assignment
    }

    /// Why it takes no further part.
    #[must_use]
    pub fn stopped(&self) -> Option<Alarm> {
        self.context.stopped
    }

    fn assigned(&mut self, assignment: Assignment) {
        let context = &mut self.context;
        let current = &context.assignment;
        if (assignment.epoch, assignment.version) < (current.epoch, current.version) {
            return;
        }
        let same_epoch = assignment.epoch == current.epoch;
        let same_version = assignment.version == current.version;
        let before = std::mem::replace(&mut context.assignment, assignment);
        if !same_epoch {
            self.take_role();
            return;
        }
        let context = &mut self.context;
        match &mut self.role {
            Role::Leader(leader) if !same_version => leader.reassigned(context),
            Role::Electing(election) => {
                let registration = |members: &BTreeMap<ReplicaId, _>, node| {
                    members
                        .get(&node)
                        .map(|member: &super::Member| member.registration)
                };
                let now = &context.assignment.members;
                let same = |node| registration(&before.members, node) == registration(now, node);
                election.retain(context, same);
            }
            _ => {}
        }
    }

    /// The role of this node in a new epoch.
    fn take_role(&mut self) {
        let context = &mut self.context;
        context.restart_catch_up();
        let assignment = &context.assignment;
        let role = match assignment.leader {
            _ if !assignment.replicas.contains(&context.me) => Role::Idle,
            None => Role::Idle,
            Some(leader) if leader == context.me => Role::Electing(Election::default()),
            Some(_) => Role::Follower(Follower::default()),
        };
        if let Role::Leader(leader) = std::mem::replace(&mut self.role, role) {
            leader.resign(context);
        }
        self.elect(|election, context| election.tick(context));
    }

    /// Lets the election handle something, and leads when it is over.
    fn elect(&mut self, step: impl FnOnce(&mut Election, &mut Context) -> Next) {
        let context = &mut self.context;
        let Role::Electing(election) = &mut self.role else {
            return;
        };
        if context.stopped.is_some() {
            return;
        }
        match step(election, context) {
            Next::Stay => {}
            Next::Lead(answers) => self.role = Role::Leader(Leader::start(context, &answers)),
        }
    }

    fn append(&mut self, request: u64, messages: u32, batch: Bytes) {
        let context = &mut self.context;
        match &mut self.role {
            Role::Leader(leader) if context.stopped.is_none() => {
                leader.append(context, request, messages, batch);
            }
            _ => {
                let outcome = Outcome::Refused(Refusal::NotLeader);
                context.emit(Effect::Reply { request, outcome });
            }
        }
    }

    fn message(&mut self, from: ReplicaId, registration: u64, message: Message) {
        let context = &mut self.context;
        let epoch = context.assignment.epoch;
        if message.epoch() != epoch && rule!(EpochOfMetadataOnly) {
            return;
        }
        let of_leader = context.assignment.leader == Some(from) || !rule!(EpochOfMetadataOnly);
        match message {
            Message::Query { .. } if of_leader => {
                let answer = answer(context);
                context.send(from, answer.message(epoch));
            }
            Message::Fetch { after, .. } if of_leader => self.serve(from, after),
            Message::Append {
                predecessor,
                records,
                commit,
                end,
                ..
            } if of_leader => {
                if let Role::Follower(follower) = &mut self.role {
                    let append = Append {
                        predecessor,
                        records,
                        commit,
                        end,
                    };
                    follower.append(context, from, append);
                }
            }
            Message::Answer {
                trust,
                adopted,
                last,
                commit,
                next_offset,
                ..
            } => {
                let answer = Answer {
                    trust,
                    adopted,
                    last,
                    commit,
                    next_offset,
                };
                self.elect(|election, context| election.answered(context, from, answer));
            }
            Message::Fetched {
                predecessor,
                records,
                ..
            } => self
                .elect(|election, context| election.fetched(context, from, predecessor, records)),
            Message::Mismatch { probed, have, .. } => match &mut self.role {
                Role::Electing(election) => election.mismatched(context, from, probed, have),
                Role::Leader(leader) => leader.mismatched(context, from, probed, have),
                Role::Idle | Role::Follower(_) => {}
            },
            Message::Ack {
                matched,
                written,
                synced,
                trusted,
                ..
            } => {
                if let Role::Leader(leader) = &mut self.role {
                    let ack = Ack {
                        matched,
                        written,
                        synced,
                        trusted,
                    };
                    leader.acknowledged(context, from, registration, ack);
                }
            }
            Message::Query { .. } | Message::Fetch { .. } | Message::Append { .. } => {}
        }
    }

    fn serve(&mut self, to: ReplicaId, after: Position) {
        let context = &mut self.context;
        let epoch = context.assignment.epoch;
        if context.chain.contains(after) {
            context.emit(Effect::Serve { to, epoch, after });
        } else {
            let have = context.chain.candidate(after);
            let mismatch = Message::Mismatch {
                epoch,
                probed: after,
                have,
            };
            context.send(to, mismatch);
        }
    }

    fn tick(&mut self) {
        match &mut self.role {
            Role::Leader(leader) if self.context.stopped.is_none() => {
                leader.tick(&mut self.context);
            }
            Role::Electing(_) => self.elect(|election, context| election.tick(context)),
            _ => {}
        }
    }

    fn advance(&mut self) {
        let context = &mut self.context;
        if context.stopped.is_some() {
            return;
        }
        match &mut self.role {
            Role::Leader(leader) => leader.advance(context),
            Role::Follower(follower) => follower.advance(context),
            Role::Idle | Role::Electing(_) => {}
        }
    }
}
