//! Members of a group that join and leave all the time.
//!
//! A member that joins twice stays as it is, and one that leaves twice is refused: so a change
//! that takes effect twice is seen. Partitions are revoked, and revocations completed and
//! expired, while replicas restart, take snapshots and install them. Whether a partition
//! moves only as it may is checked where commands are applied, see [`crate::history`].

use adapters::metadata::{
    ClientOperation, ClientRequest, Command, GroupChange, GroupKey, GroupOperation, Identifier,
    Reply,
};
use consensus::ProposeError;
use replica::driver::Applied;

use super::clients::Waiting;
use super::session_checks::HOME;
use super::{Event, World};
use crate::random::Random;

/// The group that is created before the faults.
pub(crate) const GROUP: GroupKey = GroupKey {
    stream_id: 0,
    topic_id: 0,
    group_id: 0,
};
/// Clients of this part have ids from here on.
const MEMBERS_FROM: u128 = 6_000;
const MEMBERS: u128 = 2;
const PARTITIONS: u64 = 4;
/// How long a member stays, and stays away.
const STAYS: (u64, u64) = (10_000, 2_000_000);
/// A request without an answer is repeated after this time.
const TIMEOUT: u64 = 300_000;
/// So often a member completes a revocation, or all that are late are completed, in
/// thousandths of its changes.
const COMPLETES_PER_MILLE: u64 = 500;
const EXPIRES_PER_MILLE: u64 = 300;
/// Revocations expire after so long.
const EXPIRE_AFTER: u64 = 100_000;
/// The part of a seed's chance that is theirs.
const CHANCE: u64 = 4;

/// A member, and the change that it requests.
pub(super) struct Member {
    client: u128,
    session: u64,
    request: u64,
    command: Option<Command>,
    joined: bool,
    waits_for: Option<u64>,
    node: usize,
    random: Random,
}

impl World {
    pub(super) fn register_members(&mut self, registration: u64) -> Result<(), String> {
        for number in 0..MEMBERS {
            let client = MEMBERS_FROM + number;
            match self.register(client, HOME, registration)? {
                Reply::Registered { session } => self.members.push(Member {
                    client,
                    session,
                    request: 0,
                    command: None,
                    joined: false,
                    waits_for: None,
                    node: 0,
                    random: Random::of(self.plan.chance(), CHANCE, number as u64),
                }),
                reply => return Err(format!("no session for a member: {reply:?}")),
            }
        }
        Ok(())
    }

    /// Whether all members have left.
    pub(super) fn members_are_gone(&self) -> bool {
        let mut members = self.members.iter();
        members.all(|member| member.command.is_none() && !member.joined)
    }

    /// A member joins, or leaves, or requests once more what it has requested.
    pub(super) fn member_acts(&mut self, number: usize) -> Result<(), String> {
        let rests = !self.faulty;
        let member = &mut self.members[number];
        if member.waits_for.is_some() || (rests && member.command.is_none() && !member.joined) {
            return Ok(());
        }
        if member.command.is_none() {
            member.request += 1;
            let change = match member.joined {
                true => GroupChange::Leave(Identifier::Id(GROUP.group_id)),
                false => GroupChange::Join {
                    group: Identifier::Id(GROUP.group_id),
                    busy: (0..PARTITIONS as u32)
                        .filter(|_| member.random.per_mille(700))
                        .collect(),
                },
            };
            member.joined = !member.joined;
            member.command = Some(Command::Client(ClientRequest {
                client: member.client,
                session: member.session,
                request: member.request,
                checksum: member.request,
                operation: ClientOperation::Group(GroupOperation {
                    stream: Identifier::Id(GROUP.stream_id),
                    topic: Identifier::Id(GROUP.topic_id),
                    change,
                }),
            }));
            self.end_revocations(number)?;
        }
        let ticket = self.ticket(Waiting::Member(number));
        let member = &mut self.members[number];
        member.waits_for = Some(ticket.0);
        let (node, command) = (member.node, member.command.clone());
        self.after(TIMEOUT, Event::MemberTimeout(number, ticket.0));
        match command {
            Some(command) => self.submit(node, ticket, &command),
            None => Ok(()),
        }
    }

    /// The nodes complete what was committed, and the leader what is late.
    fn end_revocations(&mut self, number: usize) -> Result<(), String> {
        let member = &mut self.members[number];
        let (node, chosen) = (member.node, member.random.below(PARTITIONS));
        let completes = member.random.per_mille(COMPLETES_PER_MILLE);
        let expires = member.random.per_mille(EXPIRES_PER_MILLE);
        if completes
            && let Some((partition, id)) = self.in_newest_state(|state| {
                let (_, group) = state.group(&GROUP)?;
                let pending: Vec<_> = group.revocations().collect();
                let place = chosen as usize % pending.len().max(1);
                let (partition, _, revocation) = pending.get(place)?;
                Some((*partition, revocation.id))
            })
        {
            let ticket = self.ticket(Waiting::Ignored);
            let group = GROUP;
            let command = Command::CompleteRevocation {
                group,
                partition,
                id,
            };
            self.submit(node, ticket, &command)?;
        }
        if expires {
            let ticket = self.ticket(Waiting::Ignored);
            let timeout_micros = EXPIRE_AFTER;
            self.submit(node, ticket, &Command::ExpireRevocations { timeout_micros })?;
        }
        Ok(())
    }

    pub(super) fn member_timed_out(&mut self, number: usize, ticket: u64) -> Result<(), String> {
        let nodes = self.processes.len() as u64;
        let member = &mut self.members[number];
        if member.waits_for != Some(ticket) {
            return Ok(());
        }
        member.waits_for = None;
        member.node = member.random.below(nodes) as usize;
        self.member_acts(number)
    }

    pub(super) fn member_replied(
        &mut self,
        number: usize,
        ticket: u64,
        result: Result<Applied, ProposeError>,
    ) -> Result<(), String> {
        let nodes = self.processes.len();
        let member = &mut self.members[number];
        if member.waits_for != Some(ticket) {
            return Ok(());
        }
        member.waits_for = None;
        let pause = match result {
            Ok(applied) => {
                let reply = Reply::decode(&applied.reply)
                    .map_err(|error| format!("a reply to a member: {error}"))?;
                if reply != Reply::Done {
                    return Err(format!(
                        "member {number}: change {} was answered by {reply:?}, so it took effect twice or not at all",
                        member.request
                    ));
                }
                member.command = None;
                member.random.between_powers(STAYS.0, STAYS.1)
            }
            Err(ProposeError::NotLeader { leader: Some(id) }) => {
                member.node = (id.0 - 1) as usize;
                5_000
            }
            Err(_) => {
                member.node = (member.node + 1) % nodes;
                20_000
            }
        };
        self.after(pause, Event::MemberActs(number));
        Ok(())
    }
}
