//! What clients may meet beside their work: sessions that are replaced, evicted or
//! fenced, and numbers of requests that are used twice.
//!
//! The whole cluster is well, so every answer is known: these are the rules of
//! sessions, in the state that the faults have left. Before the faults the state is
//! furnished with one of everything, so that every snapshot has to hold it.

use adapters::metadata::{
    ClientOperation, ClientRequest, Command, GroupChange, GroupOperation, Identifier,
    MetadataError, Name, NodeInfo, Options, Permissions, Placement, Proof, Reply,
    StreamPermissions, UserOperation,
};
use consensus::ReplicaId;

use super::World;

/// The most sessions in these runs.
pub(super) const SESSIONS_MAX: usize = 12;
/// Clients of this part have ids from here on.
pub(super) const CLIENTS_FROM: u128 = 5_000;
/// The node that clients come to, and one more.
pub(super) const HOME: ReplicaId = ReplicaId(1);
const OTHER: ReplicaId = ReplicaId(2);

/// A session of a session.
#[derive(Clone, Copy)]
pub(super) struct Session {
    pub(super) client: u128,
    session: u64,
}

impl Session {
    /// The client disconnects.
    pub(super) fn end(self) -> Command {
        Command::Unregister {
            client: self.client,
            session: self.session,
        }
    }
}

/// Compares a reply with the only one that is right.
pub(super) fn is(what: &str, found: &Reply, expected: &Reply) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {found:?} instead of {expected:?}")),
    }
}

pub(super) fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
}

pub(super) fn stream(text: &str) -> Result<ClientOperation<Placement>, String> {
    Ok(ClientOperation::CreateStream {
        name: name(text)?,
        options: Options::default(),
    })
}

pub(super) fn node_info(node: ReplicaId, incarnation: u64) -> NodeInfo {
    NodeInfo {
        node,
        name: format!("node-{node}"),
        incarnation,
        host: "127.0.0.1".into(),
        tcp_port: 8090,
        admin: "127.0.0.1:3300".into(),
        version: "0".into(),
    }
}

impl World {
    pub(super) fn register_node(&mut self, node: ReplicaId) -> Result<u64, String> {
        self.register_incarnation(node, 1)
    }

    pub(super) fn register_incarnation(
        &mut self,
        node: ReplicaId,
        incarnation: u64,
    ) -> Result<u64, String> {
        self.register_version(node, incarnation, "0")
    }

    pub(super) fn register_version(
        &mut self,
        node: ReplicaId,
        incarnation: u64,
        version: &str,
    ) -> Result<u64, String> {
        let mut info = node_info(node, incarnation);
        info.version = version.into();
        match self.settle(&Command::RegisterNode(info))? {
            Reply::NodeRegistered { registration } => Ok(registration),
            reply => Err(format!("a node is not registered: {reply:?}")),
        }
    }

    pub(super) fn register(
        &mut self,
        client: u128,
        node: ReplicaId,
        registration: u64,
    ) -> Result<Reply, String> {
        let proof = Proof::Password(self.credential_version());
        self.settle(&Command::Register {
            client,
            user_id: 0,
            proof,
            node,
            registration,
        })
    }

    pub(super) fn open_session(
        &mut self,
        number: u128,
        node: ReplicaId,
        registration: u64,
    ) -> Result<Session, String> {
        let client = CLIENTS_FROM + number;
        match self.register(client, node, registration)? {
            Reply::Registered { session } => Ok(Session { client, session }),
            reply => Err(format!("no session for a session: {reply:?}")),
        }
    }

    pub(super) fn request(
        &mut self,
        session: Session,
        request: u64,
        checksum: u64,
        operation: ClientOperation<Placement>,
    ) -> Result<Reply, String> {
        self.settle(&Command::Client(ClientRequest {
            client: session.client,
            session: session.session,
            request,
            checksum,
            operation,
        }))
    }

    /// One of everything that metadata consists of.
    pub(super) fn create_one_of_each(&mut self, registration: u64) -> Result<(), String> {
        let session = self.open_session(0, HOME, registration)?;
        let (of, topic) = (Identifier::Id(0), Identifier::Id(0));
        let group = |change| {
            ClientOperation::Group(GroupOperation {
                stream: Identifier::Id(0),
                topic: Identifier::Id(0),
                change,
            })
        };
        let mut permissions = Permissions {
            global: 3,
            ..Permissions::default()
        };
        permissions.streams.insert(0, StreamPermissions::default());
        let operations = [
            stream("furniture")?,
            ClientOperation::CreateTopic {
                stream: of.clone(),
                name: name("topic")?,
                options: Options::default(),
                partitions: Placement::single(&[HOME; 3]).ok_or("no node has this id")?,
            },
            ClientOperation::CreatePartitions {
                stream: of,
                topic,
                partitions: Placement::single(&[HOME]).ok_or("no node has this id")?,
            },
            group(GroupChange::Create(name("group")?)),
            group(GroupChange::Join {
                group: Identifier::Id(0),
                busy: [1].into(),
            }),
            ClientOperation::User(UserOperation::Create {
                name: name("user")?,
                password_hash: "no password is checked here".into(),
                active: true,
                permissions: Some(permissions),
            }),
            ClientOperation::User(UserOperation::CreateToken {
                name: name("token")?,
                hash: [7; 32],
                expiry_micros: 0,
            }),
        ];
        for (request, operation) in (1..).zip(operations) {
            let what = format!("{operation:?}");
            if let Reply::Refused(code) = self.request(session, request, request, operation)? {
                return Err(format!("{what} is refused with {code}"));
            }
        }
        Ok(())
    }

    /// Each rule of sessions once.
    pub(super) fn check_sessions(&mut self) -> Result<(), String> {
        let registration = self.register_node(HOME)?;
        let applied = Reply::Refused(MetadataError::RequestAlreadyApplied.code());
        let expired = Reply::Refused(MetadataError::SessionExpired.code());

        let session = self.open_session(1, HOME, registration)?;
        let first = self.request(session, 1, 7, stream("visited")?)?;
        let again = self.request(session, 1, 7, stream("visited")?)?;
        is("a request that is repeated", &again, &first)?;
        let unchecked = self.request(session, 1, 0, stream("visited")?)?;
        is("a repetition without a checksum", &unchecked, &first)?;
        let other = self.request(session, 1, 8, stream("other")?)?;
        is("other content under a number in use", &other, &applied)?;
        self.request(session, 2, 9, stream("second")?)?;
        // With the content of the last, so that only its number tells.
        let late = self.request(session, 1, 9, stream("second")?)?;
        is("an older request", &late, &applied)?;

        let newer = self.open_session(1, HOME, registration)?;
        let replaced = self.request(session, 3, 3, stream("replaced")?)?;
        is("a session that was replaced", &replaced, &expired)?;
        let fresh = self.request(newer, 1, 7, stream("third")?)?;
        if !matches!(fresh, Reply::StreamCreated { .. }) {
            return Err(format!("a new session starts with {fresh:?}"));
        }

        let elsewhere = self.register_node(OTHER)?;
        let guest = self.open_session(2, OTHER, elsewhere)?;
        self.settle(&Command::FenceNode {
            node: OTHER,
            registration: elsewhere,
        })?;
        let fenced = self.request(guest, 1, 1, stream("fenced")?)?;
        is("a session at a fenced node", &fenced, &expired)?;
        let refused = self.register(CLIENTS_FROM + 2, OTHER, elsewhere)?;
        let fenced = Reply::Refused(MetadataError::NodeFenced.code());
        is("a session at a fenced node", &refused, &fenced)?;
        self.check_registrations()?;
        self.check_revocations(newer)?;
        self.check_tokens(newer)?;
        self.check_eviction(newer, registration)?;
        self.check_levels()
    }

    /// More sessions than there may be: the one that rested longest makes room. The
    /// member of a group stays.
    fn check_eviction(&mut self, idle: Session, registration: u64) -> Result<(), String> {
        let busy = self.open_session(3, HOME, registration)?;
        for number in 0..SESSIONS_MAX as u64 {
            let newest = self.open_session(10 + u128::from(number), HOME, registration)?;
            for session in [newest, busy] {
                let text = format!("crowd-{number}-{}", session.client);
                let made = self.request(session, number + 1, 0, stream(&text)?)?;
                if !matches!(made, Reply::StreamCreated { .. }) {
                    return Err(format!("a session in use made room: {made:?}"));
                }
            }
        }
        let found = self.request(idle, 2, 2, stream("idle")?)?;
        if found != Reply::Refused(MetadataError::SessionExpired.code()) {
            return Err(format!("there are too many sessions: {found:?}"));
        }
        let kept = self.processes.iter().all(|process| {
            let running = process.running.as_ref();
            running.is_none_or(|it| it.reader.read().sessions().get(CLIENTS_FROM).is_some())
        });
        match kept {
            true => Ok(()),
            false => Err("a member of a group made room for others".into()),
        }
    }
}
