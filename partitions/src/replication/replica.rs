//! One copy of a partition: inputs, outputs, and which role handles what.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Index, ReplicaId, rule};

use super::assignment::Assignment;
use super::chain::{Chain, Position};
use super::context::Context;
use super::effect::{Alarm, AppendPlan, Effect, Outcome, Proposal, Refusal};
use super::election::{Election, Next, answer};
use super::event::Event;
use super::follower::{Append, Follower};
use super::leader::{Leader, Request};
use super::message::{Message, Trust};
use super::settings::{Recovered, Settings};
use super::table::OffsetTable;
use crate::record::RecordFlags;

/// How often a leader that has stopped asks to be replaced.
const REPLACE_AGAIN_AFTER: Duration = Duration::from_secs(1);

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
    /// What follows from the inputs since the last [`poll`](Self::poll).
    follows: Follows,
    replacement_requested: Option<Duration>,
}

/// What has to be looked at before the next effect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Follows {
    Nothing,
    Advance,
    /// And what waits for a better moment does not wait any longer.
    Hurry,
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
            follows: Follows::Advance,
            replacement_requested: None,
        };
        replica.take_role();
        replica
    }

    /// Handles an input at a time of the caller's monotonic clock. What follows from it is
    /// computed by the next [`poll`](Self::poll): inputs that arrive together may be handled
    /// together, and are then answered together.
    pub fn handle(&mut self, now: Duration, event: Event) {
        let context = &mut self.context;
        context.now = context.now.max(now);
        self.follows = self.follows.max(Follows::Advance);
        match event {
            Event::Done { ticket } => context.done(ticket),
            Event::Failed { ticket } => {
                if rule!(FailedWriteStops) {
                    context.stop(Alarm::WriteFailed);
                } else {
                    context.done(ticket);
                }
            }
            Event::Assigned(assignment) => self.assigned(assignment),
            Event::Append {
                request,
                batch,
                tag,
                now_micros,
                epoch,
                first_epoch,
            } => self.append(Request {
                request,
                batch,
                tag,
                now_micros,
                epoch,
                first_epoch,
            }),
            Event::Offset {
                request,
                consumer,
                change,
                tag,
            } => self.lead(request, |leader, context| {
                leader.change_offset(context, request, consumer, change, tag);
            }),
            Event::Read { request, what } => self.lead(request, |leader, context| {
                leader.read(context, request, what);
            }),
            Event::MoveStart { request, start } => self.lead(request, |leader, context| {
                leader.move_start(context, request, start);
            }),
            Event::Trimmed { start } => {
                context.trimmed(start);
                if let Role::Leader(leader) = &mut self.role {
                    leader.trimmed(context);
                }
            }
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
        if self.context.stopped.is_some() {
            self.give_up_role();
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Effect> {
        if let Some(effect) = self.context.next_effect() {
            return Some(effect);
        }
        if self.follows == Follows::Nothing {
            return None;
        }
        let hurry = self.follows == Follows::Hurry;
        self.follows = Follows::Nothing;
        self.advance(hurry);
        self.context.next_effect()
    }

    /// Replaces times and bounds.
    pub fn configure(&mut self, settings: Settings) {
        self.context.settings = settings;
    }

    /// The next append for a follower. The caller asks when it can send one, after
    /// [`Effect::Ready`], builds the message from the log, and reports it with
    /// [`sent`](Self::sent) before it asks again.
    pub fn next_append(&mut self, to: ReplicaId) -> Option<AppendPlan> {
        match &mut self.role {
            Role::Leader(leader) if self.context.stopped.is_none() => {
                leader.next_append(&self.context, to)
            }
            _ => None,
        }
    }

    /// The caller has sent the records of a plan up to the one with the index `last` (that
    /// of the plan's predecessor for none), of so many bytes.
    pub fn sent(&mut self, to: ReplicaId, plan: &AppendPlan, last: Index, bytes: usize) {
        if plan.epoch != self.context.assignment.epoch {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.sent(&self.context, to, plan, last, bytes);
        }
    }

    /// Whether it leads, and its epoch has started.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leader(_)) && self.context.stopped.is_none()
    }

    /// Whether messages before [`commit_offset`](Self::commit_offset) may be served at this
    /// time: a commit quorum has answered what was sent within the last 200 ms. Otherwise
    /// [`Event::Read`] makes a round.
    pub fn may_read(&mut self, now: Duration) -> bool {
        match &mut self.role {
            Role::Leader(leader) if self.context.stopped.is_none() => {
                leader.may_read(&self.context, now)
            }
            _ => false,
        }
    }

    /// Offset after the last committed message, at a leader.
    #[must_use]
    pub fn commit_offset(&self) -> Option<u64> {
        match &self.role {
            Role::Leader(leader) => Some(leader.commit_offset()),
            _ => None,
        }
    }

    /// Up to this record the front of the log may be removed, at a leader: see
    /// [`Event::MoveStart`].
    #[must_use]
    pub fn removable(&self) -> Option<Index> {
        match &self.role {
            Role::Leader(leader) => Some(leader.removable(&self.context)),
            _ => None,
        }
    }

    /// If the last segment is full, what is kept with the next one, as in
    /// [`Effect::StartSegment`]: the next record starts that, whichever copy then leads.
    #[must_use]
    pub fn after_full_segment(&self) -> Option<Bytes> {
        let flags = self.context.next_flags();
        let full = flags.contains(RecordFlags::STARTS_SEGMENT);
        full.then(|| self.context.sessions.encode())
    }

    /// The consumer offsets and the start of the log; changes of it may not be committed.
    #[must_use]
    pub fn table(&self) -> &OffsetTable {
        &self.context.table
    }

    /// What the table may have lost.
    #[must_use]
    pub fn table_trust(&self) -> Trust {
        self.context.table_trust
    }

    /// Up to here records are known to be committed, as of the last [`poll`](Self::poll).
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
        if self.context.stopped.is_some() {
            self.role = Role::Idle;
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

    fn append(&mut self, new: Request) {
        self.lead(new.request, |leader, context| leader.append(context, new));
    }

    /// Lets the leader handle a client's request, and refuses it elsewhere.
    fn lead(&mut self, request: u64, handle: impl FnOnce(&mut Leader, &mut Context)) {
        let context = &mut self.context;
        match &mut self.role {
            Role::Leader(leader) if context.stopped.is_none() => handle(leader, context),
            _ => context.emit(Effect::Reply {
                request,
                outcome: Outcome::Refused(Refusal::NotLeader),
            }),
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
                let state = answer(context);
                context.send(from, Message::Answer { epoch, state });
            }
            Message::Fetch { after, .. } if of_leader => self.serve(from, after),
            Message::FetchStart { .. } if of_leader => {
                let message = Message::Start {
                    epoch,
                    start: context.log_start(),
                    sessions: context.sessions.as_of(context.commit),
                };
                context.send(from, message);
            }
            Message::FetchTable { .. } if of_leader => {
                let table = context.table.clone();
                context.send(from, Message::Table { epoch, table });
            }
            Message::Answer { state, .. } => {
                self.elect(|election, context| election.answered(context, from, state));
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
            Message::Ack { ack, .. } => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.acknowledged(context, from, registration, ack);
                }
            }
            Message::Append { .. }
            | Message::Start { .. }
            | Message::Table { .. }
            | Message::Offset { .. } => self.contents(from, message, of_leader),
            Message::Query { .. }
            | Message::Fetch { .. }
            | Message::FetchStart { .. }
            | Message::FetchTable { .. } => {}
        }
    }

    /// What a copy takes over: from its leader, or from another one before it leads.
    fn contents(&mut self, from: ReplicaId, message: Message, of_leader: bool) {
        let context = &mut self.context;
        match (&mut self.role, message) {
            (Role::Follower(follower), message) if of_leader => match message {
                Message::Append {
                    predecessor,
                    records,
                    beat,
                    ..
                } => {
                    let append = Append {
                        predecessor,
                        records,
                        beat,
                    };
                    follower.append(context, from, append);
                }
                Message::Start {
                    start, sessions, ..
                } => follower.start(context, start, sessions),
                Message::Table { table, .. } => follower.table(context, table),
                Message::Offset {
                    version, change, ..
                } => follower.offset(context, version, change),
                _ => {}
            },
            (
                Role::Electing(election),
                Message::Start {
                    start, sessions, ..
                },
            ) => election.start(context, from, start, sessions),
            (Role::Electing(_), Message::Table { table, .. }) => {
                self.elect(|election, context| election.table(context, from, table));
            }
            _ => {}
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
        self.follows = Follows::Hurry;
        match &mut self.role {
            _ if self.context.stopped.is_some() => self.ask_to_be_replaced(),
            Role::Leader(leader) => leader.tick(&mut self.context),
            Role::Electing(_) => self.elect(|election, context| election.tick(context)),
            Role::Idle | Role::Follower(_) => {}
        }
    }

    /// A copy that has stopped leads no longer.
    fn give_up_role(&mut self) {
        if let Role::Leader(leader) = std::mem::replace(&mut self.role, Role::Idle) {
            leader.resign(&mut self.context);
        }
    }

    fn ask_to_be_replaced(&mut self) {
        let context = &mut self.context;
        let now = context.now;
        let lately = |at: Duration| now.saturating_sub(at) < REPLACE_AGAIN_AFTER;
        let leads = context.assignment.leader == Some(context.me);
        if !leads || self.replacement_requested.is_some_and(lately) {
            return;
        }
        self.replacement_requested = Some(now);
        if let Some(to) = context.assignment.next_leader(context.me) {
            let epoch = context.assignment.epoch;
            context.emit(Effect::Propose(Proposal::Move { epoch, to }));
        }
    }

    fn advance(&mut self, hurry: bool) {
        let context = &mut self.context;
        if context.stopped.is_some() {
            return;
        }
        match &mut self.role {
            Role::Leader(leader) => leader.advance(context),
            Role::Follower(follower) => follower.advance(context, hurry),
            Role::Idle | Role::Electing(_) => {}
        }
    }
}
