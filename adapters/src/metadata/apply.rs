//! Applying commands.

use bytes::Bytes;
use consensus::ReplicaId;
use consensus::rule;

use super::commands::{
    ClientOperation, ClientRequest, Command, CopiesCommand, LogState, NodeInfo, Placement, Proof,
};
use super::error::MetadataError;
use super::events::{AssignmentsChange, MetadataEvent, OwnersAffected};
use super::replicas::is_node_id;
use super::reply::{Reply, TopicInfo};
use super::sessions::Admission;
use super::state::{MetadataState, Node};

/// Applies one command.
pub(super) struct Apply<'a> {
    pub(super) state: &'a mut MetadataState,
    pub(super) events: Vec<MetadataEvent>,
}

impl Apply<'_> {
    pub(super) fn command(&mut self, command: Command) -> Bytes {
        let reply = match command {
            Command::Client(request) => return self.request(request),
            Command::Noop => Ok(Reply::Done),
            Command::Register {
                client,
                user_id,
                proof,
                node,
                registration,
            } => self.register(client, user_id, proof, node, registration),
            Command::Unregister { client, session } => {
                if self.state.sessions.close(client, session) {
                    self.sessions_ended(vec![client]);
                }
                Ok(Reply::Done)
            }
            Command::RegisterNode(info) => self.register_node(info, None),
            Command::Copies(command) => self.copies(command),
            Command::FenceNode { node, registration } => {
                self.fence_node(node, registration);
                Ok(Reply::Done)
            }
            Command::BootstrapRoot {
                username,
                password_hash,
            } => {
                let now = self.state.now;
                self.state.users.bootstrap(username, password_hash, now);
                Ok(Reply::Done)
            }
            Command::CompleteRevocation {
                group,
                partition,
                id,
            } => {
                self.state.complete_revocation(&group, partition, id);
                Ok(Reply::Done)
            }
            Command::ExpireTokens => {
                let now = self.state.now;
                self.state.users.expire_tokens(now);
                Ok(Reply::Done)
            }
            Command::ExpireRevocations { timeout_micros } => {
                self.state.expire_revocations(timeout_micros);
                Ok(Reply::Done)
            }
            Command::RaiseFeatureLevel(level) => {
                if self.state.lowest_node_level() >= Some(level) {
                    self.state.raise_feature_level(level);
                }
                Ok(Reply::Done)
            }
        };
        reply.unwrap_or_else(Reply::from).encode()
    }

    /// Executes a request once; a repetition is answered with the first reply.
    fn request(&mut self, request: ClientRequest<Placement>) -> Bytes {
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
                let owners = operation
                    .affects_owners()
                    .then(|| self.state.owners_affected(&operation));
                let result = self.operation(client, operation);
                if let (Some(owners), Ok(_)) = (owners, &result) {
                    let affected = OwnersAffected {
                        client,
                        request,
                        owners,
                    };
                    self.events
                        .insert(0, MetadataEvent::OwnersAffected(affected));
                }
                let reply = result.unwrap_or_else(Reply::from).encode();
                self.state
                    .sessions
                    .record(client, request, checksum, &reply);
                reply
            }
        }
    }

    fn operation(
        &mut self,
        client: u128,
        operation: ClientOperation<Placement>,
    ) -> Result<Reply, MetadataError> {
        let state = &mut *self.state;
        let user_id = state.sessions.get(client).map(|session| session.user_id);
        let user_id = user_id.ok_or(MetadataError::SessionExpired)?;
        if !state.allows_change(user_id, &operation) {
            return Err(MetadataError::Unauthorized);
        }
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
                partitions: Placement(placement),
            } => {
                let stream_id = state.stream_id(&stream)?;
                let topic = state.create_topic(&stream, name, options, &placement)?;
                self.topic_changed((stream_id, topic.id));
                return Ok(Reply::TopicCreated(TopicInfo {
                    id: topic.id,
                    created_at: topic.created_at,
                    name: topic.name.clone(),
                    options: topic.options.clone(),
                    partitions: (0..topic.partitions.len() as u32).collect(),
                }));
            }
            ClientOperation::UpdateTopic {
                stream,
                topic,
                name,
                options,
            } => {
                let ids = state.topic_ids(&stream, &topic)?;
                state.update_topic(&stream, &topic, name, &options)?;
                self.topic_changed(ids);
                return Ok(Reply::Done);
            }
            ClientOperation::DeleteTopic { stream, topic } => {
                state.delete_topic(&stream, &topic)?
            }
            ClientOperation::CreatePartitions {
                stream,
                topic,
                partitions: Placement(placement),
            } => {
                let ids = state.topic_ids(&stream, &topic)?;
                state.create_partitions(&stream, &topic, &placement)?;
                self.topic_changed(ids);
                return Ok(Reply::Done);
            }
            ClientOperation::DeletePartitions {
                stream,
                topic,
                partitions,
            } => state.delete_partitions(&stream, &topic, partitions)?,
            ClientOperation::User(operation) => {
                let (reply, ended) = state.change_user(user_id, operation)?;
                if let Some(user_id) = ended {
                    let ended = self.state.sessions.close_of_user(user_id);
                    self.sessions_ended(ended);
                }
                return Ok(reply);
            }
            ClientOperation::Group(operation) => {
                let (reply, removed) = state.change_group(client, operation)?;
                self.events.extend(removed.map(MetadataEvent::GroupRemoved));
                return Ok(reply);
            }
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
        proof: Proof,
        node: ReplicaId,
        registration: u64,
    ) -> Result<Reply, MetadataError> {
        if !self.is_valid(user_id, proof) {
            return Err(MetadataError::InvalidCredentials);
        }
        let host = self.state.nodes.get(&node);
        let serves = |host: &Node| {
            let current = host.registration == registration || !rule!(FormerRegistrationRefused);
            host.live && current
        };
        if rule!(FencedNodeOpensNoSession) && !host.is_some_and(serves) {
            return Err(MetadataError::NodeFenced);
        }
        // A session that is replaced ends like any other.
        self.state.end_memberships(client);
        let (session, evicted) = self
            .state
            .sessions
            .open(client, user_id, node, registration);
        self.sessions_ended(evicted.into_iter().collect());
        Ok(Reply::Registered { session })
    }

    fn is_valid(&self, user_id: u32, proof: Proof) -> bool {
        let users = &self.state.users;
        let user = match proof {
            Proof::Password(version) => {
                let user = users.get(user_id);
                user.filter(|user| user.credential_version == version)
            }
            Proof::Token(hash) => {
                let found = users.by_token(&hash);
                let usable = found.filter(|(_, token)| {
                    token.expires_at > self.state.now || !rule!(ExpiredTokenRefused)
                });
                usable.map(|(user, _)| user)
            }
        };
        user.is_some_and(|user| user.id == user_id && user.active)
    }

    /// A node that starts again ends the sessions of its former incarnation.
    fn register_node(
        &mut self,
        info: NodeInfo,
        storage: Option<(u128, LogState)>,
    ) -> Result<Reply, MetadataError> {
        let id = info.node;
        let registration = self.state.applied;
        let (mut partitions, mut leads) = (0, 0);
        let (storage_id, log) = self.state.storage_of(&info, storage);
        if !is_node_id(id) {
            return Err(MetadataError::InvalidCommand);
        }
        if !self.state.admits_version(&info.version) {
            return Err(MetadataError::VersionTooLow);
        }
        if let Some(known) = self.state.nodes.get_mut(&id) {
            if info.incarnation < known.info.incarnation && rule!(EarlierIncarnationRefused) {
                return Err(MetadataError::NodeFenced);
            }
            (partitions, leads) = (known.partitions, known.leads);
            let same_storage = known.storage_id == storage_id || known.storage_id == 0;
            let same = known.info == info && same_storage;
            if known.live && same && rule!(RepeatedRegistrationKept) {
                // A repeated request, or one that names the storage for the first time.
                if storage.is_some() {
                    (known.storage_id, known.log) = (storage_id, log);
                }
                return Ok(Reply::NodeRegistered {
                    registration: known.registration,
                });
            }
            let former = known.registration;
            if rule!(FormerSessionsEnd) {
                self.close_sessions_of(id, former);
            }
        }
        let node = Node {
            info,
            registration,
            live: true,
            storage_id,
            log,
            partitions,
            leads,
        };
        self.state.nodes.insert(id, node);
        self.state.node_started(id);
        self.events.push(MetadataEvent::NodeRegistered(id));
        self.assignments_changed(AssignmentsChange::OfNode(id));
        Ok(Reply::NodeRegistered { registration })
    }

    fn copies(&mut self, command: CopiesCommand) -> Result<Reply, MetadataError> {
        // Version 0.1 does not know these commands: no leader proposes one.
        if !self.state.leaders_change() {
            return Err(MetadataError::InvalidCommand);
        }
        let changed = match command {
            CopiesCommand::StartNode(start) => {
                return self.register_node(start.info, Some((start.storage_id, start.log)));
            }
            CopiesCommand::AlterInSync(alter) => self.state.alter_in_sync(&alter),
            CopiesCommand::MoveLeaders(moves) => self.state.move_leaders(&moves),
            CopiesCommand::Recover(recover) => {
                let recovered = self.state.recover(&recover);
                recovered.then_some(recover.key).into_iter().collect()
            }
            CopiesCommand::ForceRecover(recover) => {
                let recovered = self.state.force_recover(&recover);
                recovered.then_some(recover.key).into_iter().collect()
            }
            CopiesCommand::ReplaceLeader { node, registration } => {
                if self.state.replace_leader(node, registration) {
                    self.assignments_changed(AssignmentsChange::OfNode(node));
                }
                return Ok(Reply::Done);
            }
        };
        if !changed.is_empty() {
            self.assignments_changed(AssignmentsChange::Of(changed));
        }
        Ok(Reply::Done)
    }

    fn topic_changed(&mut self, (stream_id, topic_id): (u32, u32)) {
        self.assignments_changed(AssignmentsChange::OfTopic {
            stream_id,
            topic_id,
        });
    }

    fn assignments_changed(&mut self, change: AssignmentsChange) {
        if self.state.leaders_change() {
            self.events.push(MetadataEvent::AssignmentsChanged(change));
        }
    }

    fn fence_node(&mut self, id: ReplicaId, registration: u64) {
        let Some(node) = self.state.nodes.get_mut(&id) else {
            return;
        };
        let former = node.registration != registration && rule!(FormerFenceIgnored);
        if !node.live || former {
            return;
        }
        node.live = false;
        if rule!(SessionsEndWithFence) {
            self.close_sessions_of(id, registration);
        }
        self.state.node_fenced(id);
        self.events.push(MetadataEvent::NodeFenced(id));
        self.assignments_changed(AssignmentsChange::OfNode(id));
    }

    fn close_sessions_of(&mut self, node: ReplicaId, registration: u64) {
        let closed = self.state.sessions.close_of(node, registration);
        self.sessions_ended(closed);
    }

    /// Clients without a session lose their memberships.
    fn sessions_ended(&mut self, clients: Vec<u128>) {
        for client in &clients {
            self.state.end_memberships(*client);
        }
        if !clients.is_empty() {
            self.events.push(MetadataEvent::SessionsClosed(clients));
        }
    }
}
