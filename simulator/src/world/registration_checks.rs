//! Commands that come late: of former registrations of a node, of former revocations, and
//! with tokens that have expired.
//!
//! Like the checks of sessions: the whole cluster is well, so every answer is known.

use adapters::metadata::{
    ClientOperation, Command, GroupChange, GroupOperation, Identifier, MetadataError, Proof, Reply,
    Revocation, UserOperation,
};
use consensus::ReplicaId;

use super::faults::WALL_JUMP_MAX;
use super::session_checks::{CLIENTS_FROM, HOME, Session, is, name, node_info, stream};
use super::{GROUP, World};

/// A node that no client comes to.
const RESTARTED: ReplicaId = ReplicaId(3);
/// The member that joined the group before the faults.
const MEMBER: u128 = CLIENTS_FROM;
/// Longer than any run.
const LONG_MICROS: u64 = 24 * 3_600_000_000;
/// After this time the log shows a later moment, whichever clock the leader has.
const LATER: u64 = 200_000;
const TOKEN: [u8; 32] = [9; 32];
const LASTING_TOKEN: [u8; 32] = [7; 32];

impl World {
    /// A node starts three times. What belongs to a former start has no effect on a later
    /// one.
    pub(super) fn check_registrations(&mut self) -> Result<(), String> {
        let expired = Reply::Refused(MetadataError::SessionExpired.code());
        let fenced = Reply::Refused(MetadataError::NodeFenced.code());
        let first = self.register_incarnation(RESTARTED, 1)?;
        let guest = self.open_session(4, RESTARTED, first)?;
        let again = self.register_incarnation(RESTARTED, 1)?;
        if again != first {
            return Err(format!(
                "a registration that arrives twice: {again} instead of {first}"
            ));
        }
        let made = self.request(guest, 1, 1, stream("guest")?)?;
        if !matches!(made, Reply::StreamCreated { .. }) {
            return Err(format!("a session after a repeated registration: {made:?}"));
        }
        let second = self.register_incarnation(RESTARTED, 2)?;
        let ended = self.request(guest, 2, 2, stream("ended")?)?;
        is("a session of a former start", &ended, &expired)?;
        let late = self.register(CLIENTS_FROM + 4, RESTARTED, first)?;
        is("a session under a former registration", &late, &fenced)?;
        let late = self.settle(&Command::RegisterNode(node_info(RESTARTED, 1)))?;
        is("a former start that registers late", &late, &fenced)?;
        self.settle(&Command::FenceNode {
            node: RESTARTED,
            registration: first,
        })?;
        let guest = self.open_session(4, RESTARTED, second);
        guest.map_err(|error| format!("after a fence of a former start: {error}"))?;
        Ok(())
    }

    /// A partition moves to a second member when the first has committed, or is too late.
    pub(super) fn check_revocations(&mut self, second: Session) -> Result<(), String> {
        let join = |world: &mut Self, request| {
            let change = GroupChange::Join {
                group: Identifier::Id(0),
                busy: (0..4).collect(),
            };
            world.change_group(second, request, change)
        };
        join(self, 2)?;
        let former = self.pending_revocations()?;
        self.change_group(second, 3, GroupChange::Leave(Identifier::Id(0)))?;
        join(self, 4)?;
        let pending = self.pending_revocations()?;
        for (partition, revocation) in &former {
            self.complete(*partition, *revocation)?;
        }
        let expire = |timeout_micros| Command::ExpireRevocations { timeout_micros };
        self.settle(&expire(LONG_MICROS))?;
        if self.pending_revocations()? != pending {
            return Err("a revocation ends by one that ended before, or too early".into());
        }
        let mut pending = pending.into_iter();
        if let Some((partition, revocation)) = pending.next() {
            self.complete(partition, revocation)?;
            self.is_held_by(partition, second.client)?;
        }
        self.settle(&expire(0))?;
        for (partition, _) in pending {
            self.is_held_by(partition, second.client)?;
        }
        self.change_group(second, 5, GroupChange::Leave(Identifier::Id(0)))
    }

    fn change_group(
        &mut self,
        session: Session,
        request: u64,
        change: GroupChange,
    ) -> Result<(), String> {
        let operation = ClientOperation::Group(GroupOperation {
            stream: Identifier::Id(0),
            topic: Identifier::Id(0),
            change,
        });
        let reply = self.request(session, request, request, operation)?;
        is("a change of a group", &reply, &Reply::Done)
    }

    fn complete(&mut self, partition: u32, revocation: Revocation) -> Result<(), String> {
        self.settle(&Command::CompleteRevocation {
            group: GROUP,
            partition,
            id: revocation.id,
        })?;
        Ok(())
    }

    /// The revocations from the first member, which has committed nothing.
    fn pending_revocations(&self) -> Result<Vec<(u32, Revocation)>, String> {
        let pending = self.in_newest_state(|state| {
            let (_, group) = state.group(&GROUP)?;
            let pending = group.revocations().filter(|(_, from, _)| *from == MEMBER);
            let pending: Vec<_> = pending.map(|(partition, _, it)| (partition, it)).collect();
            let all = pending
                .iter()
                .all(|(partition, _)| group.holder(*partition) == Some(MEMBER));
            Some(pending).filter(|pending| pending.len() == 2 && all)
        });
        pending.ok_or_else(|| "a partition that is read moves without a revocation".into())
    }

    fn is_held_by(&self, partition: u32, client: u128) -> Result<(), String> {
        let holder = self.in_newest_state(|state| state.group(&GROUP)?.1.holder(partition));
        match holder == Some(client) {
            true => Ok(()),
            false => Err(format!(
                "partition {partition} is held by {holder:?} after its revocation, not by {client}"
            )),
        }
    }

    /// A token opens sessions until it expires by the clock of the log.
    pub(super) fn check_tokens(&mut self, session: Session) -> Result<(), String> {
        // Time does not stand still: no leader's clock is behind that of one before.
        for process in &mut self.processes {
            process.wall_offset = WALL_JUMP_MAX as i64;
        }
        let operation = ClientOperation::User(UserOperation::CreateToken {
            name: name("short")?,
            hash: TOKEN,
            expiry_micros: 1,
        });
        if let Reply::Refused(code) = self.request(session, 6, 6, operation)? {
            return Err(format!("a token is refused with {code}"));
        }
        let time = |world: &Self| world.in_newest_state(|state| Some(state.now()));
        let created = time(self);
        self.run_for(LATER)?;
        let registration = self.register_node(HOME)?;
        let expired = time(self) > created;
        let mut open = |number, hash| {
            self.settle(&Command::Register {
                client: CLIENTS_FROM + number,
                user_id: 0,
                proof: Proof::Token(hash),
                node: HOME,
                registration,
            })
        };
        let refused = Reply::Refused(MetadataError::InvalidCredentials.code());
        let late = open(5, TOKEN)?;
        // The time of the log may stand still for a while after clocks have jumped.
        if expired {
            is("a session with an expired token", &late, &refused)?;
        }
        match open(5, LASTING_TOKEN)? {
            Reply::Registered { .. } => Ok(()),
            reply => Err(format!("a session with a token: {reply:?}")),
        }
    }
}
