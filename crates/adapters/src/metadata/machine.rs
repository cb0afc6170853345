//! Applying commands.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use consensus::{ApplyContext, FrozenState, ReplicaId, RestoreError, StateMachine};

use super::commands::{ClientOperation, ClientRequest, Command, NodeInfo};
use super::error::MetadataError;
use super::reply::{Reply, TopicInfo};
use super::sessions::Admission;
use super::snapshot;
use super::state::{MetadataState, Node, User};
use super::types::{Name, PartitionKey};

/// Bits of a life's number that are the entry's index. Above them is the position
/// in the batch: configuration allows 2^20 commands.
const INDEX_BITS: u32 = 44;

/// What changed, for the node that holds this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataEvent {
    /// These partitions are gone for good.
    PartitionsRemoved(Vec<PartitionKey>),
    /// A node registered.
    NodeRegistered(ReplicaId),
    /// A node was fenced.
    NodeFenced(ReplicaId),
    /// These clients have no session any more.
    SessionsClosed(Vec<u128>),
    /// The whole state was replaced.
    Restored,
}

/// Takes note of changes; must be quick.
pub type Observer = Box<dyn FnMut(MetadataEvent) + Send>;

/// The metadata as a replicated state machine.
pub struct MetadataMachine {
    state: Arc<RwLock<MetadataState>>,
    observer: Observer,
}

/// Reads the state that a machine applies to. Cheap to clone.
#[derive(Clone)]
pub struct MetadataReader {
    state: Arc<RwLock<MetadataState>>,
}

impl MetadataReader {
    /// The state as it is now. Applying waits while the guard is held: do not
    /// hold it across anything slow.
    pub fn read(&self) -> RwLockReadGuard<'_, MetadataState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A digest of the whole state; equal on every replica at equal positions.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let frozen = self.read().clone();
        snapshot::digest(&frozen)
    }
}

impl MetadataMachine {
    /// An empty machine, and a reader of it.
    #[must_use]
    pub fn new(observer: Observer) -> (Self, MetadataReader) {
        let state = Arc::default();
        let reader = MetadataReader {
            state: Arc::clone(&state),
        };
        (Self { state, observer }, reader)
    }
}

impl StateMachine for MetadataMachine {
    fn apply(&mut self, context: ApplyContext, command: &[u8]) -> Bytes {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.applied = context.index.0;
        state.life = life(context);
        state.now = state.now.max(context.timestamp_micros);
        let mut apply = Apply {
            state: &mut state,
            events: Vec::new(),
        };
        let reply = match Command::decode(command) {
            Ok(command) => apply.command(command),
            Err(_) => Reply::from(MetadataError::InvalidCommand).encode(),
        };
        let events = std::mem::take(&mut apply.events);
        drop(state);
        for event in events {
            (self.observer)(event);
        }
        reply
    }

    fn freeze(&self) -> Box<dyn FrozenState> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Box::new(Frozen(state.clone()))
    }

    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
        let restored = snapshot::decode(encoded)?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = restored;
        (self.observer)(MetadataEvent::Restored);
        Ok(())
    }
}

/// Names what a command creates, as no other command does: all commands of a
/// batch share its entry's index.
fn life(context: ApplyContext) -> u64 {
    context.index.0 | u64::from(context.position) << INDEX_BITS
}

struct Frozen(MetadataState);

impl FrozenState for Frozen {
    fn encode(&self) -> Vec<u8> {
        snapshot::encode(&self.0)
    }
}

struct Apply<'a> {
    state: &'a mut MetadataState,
    events: Vec<MetadataEvent>,
}

impl Apply<'_> {
    fn command(&mut self, command: Command) -> Bytes {
        let reply = match command {
            Command::Client(request) => return self.request(request),
            Command::Register {
                client,
                user_id,
                credential_version,
                node,
                registration,
            } => self.register(client, user_id, credential_version, node, registration),
            Command::Unregister { client, session } => {
                if self.state.sessions.close(client, session) {
                    self.events
                        .push(MetadataEvent::SessionsClosed(vec![client]));
                }
                Ok(Reply::Done)
            }
            Command::RegisterNode(info) => self.register_node(info),
            Command::FenceNode { node, registration } => {
                self.fence_node(node, registration);
                Ok(Reply::Done)
            }
            Command::BootstrapRoot {
                username,
                password_hash,
            } => {
                self.bootstrap_root(username, password_hash);
                Ok(Reply::Done)
            }
        };
        reply.unwrap_or_else(Reply::from).encode()
    }

    /// Executes a request once; a repetition gets the first reply.
    fn request(&mut self, request: ClientRequest) -> Bytes {
        let ClientRequest {
            client,
            session,
            request,
            checksum,
            operation,
        } = request;
        let sessions = &mut self.state.sessions;
        match sessions.admit(client, session, request, checksum) {
            Err(error) => Reply::from(error).encode(),
            Ok(Admission::Repeat(reply)) => reply,
            Ok(Admission::Execute) => {
                let reply = self.operation(operation).unwrap_or_else(Reply::from);
                let reply = reply.encode();
                self.state
                    .sessions
                    .record(client, request, checksum, &reply);
                reply
            }
        }
    }

    fn operation(&mut self, operation: ClientOperation) -> Result<Reply, MetadataError> {
        let state = &mut *self.state;
        let removed = match operation {
            ClientOperation::CreateStream { name, options } => {
                let stream = state.create_stream(name, options)?;
                return Ok(Reply::StreamCreated {
                    id: stream.id,
                    created_at: stream.created_at,
                    name: stream.name.clone(),
                    options: stream.options.clone(),
                });
            }
            ClientOperation::UpdateStream {
                stream,
                name,
                options,
            } => {
                state.update_stream(&stream, name, &options)?;
                return Ok(Reply::Done);
            }
            ClientOperation::DeleteStream { stream } => state.delete_stream(&stream)?,
            ClientOperation::PurgeStream { stream } => state.purge_stream(&stream)?,
            ClientOperation::PurgeTopic { stream, topic } => state.purge_topic(&stream, &topic)?,
            ClientOperation::CreateTopic {
                stream,
                name,
                options,
                partitions,
                owners,
            } => {
                check_placed(partitions, &owners)?;
                let (_, topic) = state.create_topic(&stream, name, options, &owners)?;
                return Ok(Reply::TopicCreated(TopicInfo {
                    id: topic.id,
                    created_at: topic.created_at,
                    name: topic.name.clone(),
                    options: topic.options.clone(),
                    partitions: (0..partitions).collect(),
                }));
            }
            ClientOperation::UpdateTopic {
                stream,
                topic,
                name,
                options,
            } => {
                state.update_topic(&stream, &topic, name, &options)?;
                return Ok(Reply::Done);
            }
            ClientOperation::DeleteTopic { stream, topic } => {
                state.delete_topic(&stream, &topic)?
            }
            ClientOperation::CreatePartitions {
                stream,
                topic,
                partitions,
                owners,
            } => {
                check_placed(partitions, &owners)?;
                state.create_partitions(&stream, &topic, &owners)?;
                return Ok(Reply::Done);
            }
            ClientOperation::DeletePartitions {
                stream,
                topic,
                partitions,
            } => state.delete_partitions(&stream, &topic, partitions)?,
        };
        if !removed.is_empty() {
            self.events.push(MetadataEvent::PartitionsRemoved(removed));
        }
        Ok(Reply::Done)
    }

    fn register(
        &mut self,
        client: u128,
        user_id: u32,
        credential_version: u64,
        node: ReplicaId,
        registration: u64,
    ) -> Result<Reply, MetadataError> {
        let user = self.state.users.get(&user_id);
        if user.is_none_or(|user| user.credential_version != credential_version) {
            return Err(MetadataError::InvalidCredentials);
        }
        let host = self.state.nodes.get(&node);
        if host.is_none_or(|host| !host.live || host.registration != registration) {
            return Err(MetadataError::NodeFenced);
        }
        let (session, evicted) = self
            .state
            .sessions
            .open(client, user_id, node, registration);
        if let Some(evicted) = evicted {
            self.events
                .push(MetadataEvent::SessionsClosed(vec![evicted]));
        }
        Ok(Reply::Registered { session })
    }

    /// A node that starts again ends what its former life left: its sessions.
    fn register_node(&mut self, info: NodeInfo) -> Result<Reply, MetadataError> {
        let id = info.node;
        let registration = self.state.applied;
        let mut partitions = 0;
        if let Some(known) = self.state.nodes.get(&id) {
            if info.incarnation < known.info.incarnation {
                return Err(MetadataError::NodeFenced);
            }
            partitions = known.partitions;
            if known.live && known.info == info {
                // The same node once more: a repeated request.
                return Ok(Reply::NodeRegistered {
                    registration: known.registration,
                });
            }
            let former = known.registration;
            self.close_sessions_of(id, former);
        }
        let node = Node {
            info,
            registration,
            live: true,
            partitions,
        };
        self.state.nodes.insert(id, node);
        self.events.push(MetadataEvent::NodeRegistered(id));
        Ok(Reply::NodeRegistered { registration })
    }

    fn fence_node(&mut self, id: ReplicaId, registration: u64) {
        let Some(node) = self.state.nodes.get_mut(&id) else {
            return;
        };
        if !node.live || node.registration != registration {
            return;
        }
        node.live = false;
        self.close_sessions_of(id, registration);
        self.events.push(MetadataEvent::NodeFenced(id));
    }

    fn close_sessions_of(&mut self, node: ReplicaId, registration: u64) {
        let closed = self.state.sessions.close_of(node, registration);
        if !closed.is_empty() {
            self.events.push(MetadataEvent::SessionsClosed(closed));
        }
    }

    fn bootstrap_root(&mut self, name: Name, password_hash: String) {
        if !self.state.users.is_empty() {
            return;
        }
        let user = User {
            id: 0,
            name,
            password_hash,
            credential_version: 1,
            created_at: self.state.now,
        };
        self.state.users.insert(user.id, user);
    }
}

fn check_placed(partitions: u32, owners: &[ReplicaId]) -> Result<(), MetadataError> {
    match owners.len() == partitions as usize {
        true => Ok(()),
        false => Err(MetadataError::InvalidCommand),
    }
}
