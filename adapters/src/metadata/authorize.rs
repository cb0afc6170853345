//! Which permission a change of metadata needs, and whether a user has it.

use super::commands::{ClientOperation, UserOperation};
use super::permissions::Rule;
use super::state::MetadataState;
use super::types::Identifier;

impl MetadataState {
    /// Whether a user is allowed this. The root user is allowed everything.
    #[must_use]
    pub fn allows(&self, user_id: u32, rule: Rule) -> bool {
        let permissions = self
            .user_by_id(user_id)
            .and_then(|user| user.permissions.as_ref());
        user_id == 0 || permissions.is_some_and(|permissions| permissions.allow(rule))
    }

    /// Whether a user is allowed this for any stream or topic.
    #[must_use]
    pub fn allows_somewhere(&self, user_id: u32, rule: Rule) -> bool {
        let permissions = self
            .user_by_id(user_id)
            .and_then(|user| user.permissions.as_ref());
        user_id == 0 || permissions.is_some_and(|permissions| permissions.allow_somewhere(rule))
    }

    /// Whether a user is allowed this change. A change of something that does not exist is
    /// allowed: it is refused when it is applied, because nothing was found.
    #[must_use]
    pub fn allows_change<P>(&self, user_id: u32, operation: &ClientOperation<P>) -> bool {
        self.rule_of(user_id, operation)
            .is_none_or(|rule| self.allows(user_id, rule))
    }

    fn rule_of<P>(&self, user_id: u32, operation: &ClientOperation<P>) -> Option<Rule> {
        let stream_id = |stream: &Identifier| self.stream(stream).map(|stream| stream.id);
        let topic_ids = |stream, topic| self.topic_ids(stream, topic).ok();
        match operation {
            ClientOperation::CreateStream { .. } => Some(Rule::CreateStream),
            ClientOperation::UpdateStream { stream, .. }
            | ClientOperation::DeleteStream { stream }
            | ClientOperation::PurgeStream { stream } => stream_id(stream).map(Rule::ManageStream),
            ClientOperation::CreateTopic { stream, .. } => stream_id(stream).map(Rule::CreateTopic),
            ClientOperation::UpdateTopic { stream, topic, .. }
            | ClientOperation::DeleteTopic { stream, topic }
            | ClientOperation::PurgeTopic { stream, topic }
            | ClientOperation::CreatePartitions { stream, topic, .. }
            | ClientOperation::DeletePartitions { stream, topic, .. } => {
                topic_ids(stream, topic).map(|(stream, topic)| Rule::ManageTopic(stream, topic))
            }
            ClientOperation::Group(group) => topic_ids(&group.stream, &group.topic)
                .map(|(stream, topic)| Rule::ReadTopic(stream, topic)),
            ClientOperation::User(operation) => match operation {
                UserOperation::Create { .. }
                | UserOperation::Delete { .. }
                | UserOperation::Update { .. }
                | UserOperation::SetPermissions { .. } => Some(Rule::ManageUsers),
                UserOperation::ChangePassword { user, .. } => {
                    let other = self.users.find(user).filter(|user| user.id != user_id);
                    other.map(|_| Rule::ManageUsers)
                }
                UserOperation::CreateToken { .. } | UserOperation::DeleteToken { .. } => None,
            },
        }
    }
}
