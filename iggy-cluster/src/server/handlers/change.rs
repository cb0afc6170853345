//! Changes of metadata.

use adapters::metadata::{
    ClientOperation, ClientRequest, Intent, PartitionCount, Reply as Answer, code,
};
use adapters::wire::TopicSettings;
use adapters::wire::v0_11::{self as wire, Eviction, RequestHeader};

use crate::cluster::Failure;
use crate::server::connection::{Connection, Outcome};

impl Connection {
    /// Completes and checks what needs more than the request for that.
    pub(super) fn complete_change(
        &self,
        operation: &mut ClientOperation<PartitionCount>,
    ) -> Result<(), Failure> {
        match operation {
            ClientOperation::CreateTopic { options, .. } => {
                let replicates = self.server.metadata.reader.read().leaders_change();
                let factor = match replicates {
                    true => self.server.config.replication_factor(),
                    // Nodes of version 0.1 know one copy only.
                    false => 1,
                };
                wire::complete_replication(options, factor).map_err(Failure::Refused)?;
                match replicates || options.replication_factor() == 1 {
                    true => Ok(()),
                    false => Err(Failure::Refused(code::FEATURE_UNAVAILABLE)),
                }
            }
            ClientOperation::UpdateTopic {
                stream,
                topic,
                options,
                ..
            } => {
                let state = self.server.metadata.reader.read();
                // Neither a segment's size nor the number of copies ever changes, so any state
                // that contains the topic will do.
                let Ok((_, topic)) = state.topic(stream, topic) else {
                    return Ok(());
                };
                let segment_bytes = TopicSettings::of(&topic.options)
                    .partitions
                    .segment_bytes_max;
                let checked = wire::check_topic_update(options, segment_bytes);
                let copies = topic.options.replication_factor();
                checked
                    .and_then(|()| wire::check_replication_update(options, copies))
                    .map_err(Failure::Refused)
            }
            _ => Ok(()),
        }
    }

    /// Replicates a change of metadata exactly once. A client that receives `NoSession` or
    /// `TRANSIENT_NOT_ACCEPTED` repeats the request in a new session: a request that may have
    /// taken effect must receive neither.
    pub(super) async fn change(
        &mut self,
        header: &RequestHeader,
        operation: ClientOperation<PartitionCount>,
    ) -> Outcome {
        if let Err(failure) = self.authorize_change(header, &operation).await {
            return self.reply(header, Err(failure));
        }
        let open = self.open.take() == Some(header.request);
        let affects_owners = operation.affects_owners();
        let intent = Intent::Client(ClientRequest {
            client: header.client,
            session: header.session,
            request: header.request,
            checksum: header.checksum as u64,
            operation,
        });
        let (index, answer) = match self.server.metadata.replicate(intent).await {
            Ok(done) => done,
            Err(failure) => {
                let failure = match failure.code() {
                    code::TRANSIENT_NOT_ACCEPTED if open => Failure::OutcomeUnknown,
                    _ => failure,
                };
                let unknown = failure.code() == code::TRANSIENT_NOT_COMMITTED;
                self.open = unknown.then_some(header.request);
                return self.reply(header, Err(failure));
            }
        };
        self.watermark = self.watermark.max(index);
        if affects_owners && answer == Answer::Done {
            let partitions = &self.server.partitions;
            let in_effect = partitions.in_effect(header.client, header.request, index);
            if let Err(failure) = in_effect.await {
                self.open = Some(header.request);
                return self.reply(header, Err(failure));
            }
        }
        let body = match answer {
            Answer::Refused(code::UNAUTHENTICATED) => {
                let reason = match open {
                    true => Eviction::StaleClient,
                    false => Eviction::NoSession,
                };
                return Outcome::Evict(reason.encode(header.client));
            }
            Answer::Refused(code) => Err(Failure::Refused(code)),
            Answer::StreamCreated {
                id,
                created_at,
                name,
                options,
            } => Ok(vec![wire::created_stream(id, created_at, &name, &options)]),
            Answer::TopicCreated(topic) => Ok(vec![wire::created_topic(&topic)]),
            Answer::UserCreated {
                id,
                created_at,
                name,
                active,
                permissions,
            } => {
                let permissions = permissions.as_ref();
                Ok(vec![wire::created_user(
                    id,
                    created_at,
                    &name,
                    active,
                    permissions,
                )])
            }
            Answer::TokenCreated { hash } => self.created_token(&hash),
            Answer::GroupCreated {
                id,
                partitions,
                name,
            } => Ok(vec![wire::created_group(id, partitions, &name)]),
            Answer::Done | Answer::Registered { .. } | Answer::NodeRegistered { .. } => {
                Ok(Vec::new())
            }
        };
        self.reply(header, body)
    }
}
