//! Why a command is refused.

use iggy_common::IggyErrorDiscriminants as Kind;
use thiserror::Error;

use crate::error_code::ErrorCode;

/// Why a command had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MetadataError {
    /// The command contradicts itself.
    #[error("invalid command")]
    InvalidCommand,
    /// The user is gone or its password changed.
    #[error("invalid credentials")]
    InvalidCredentials,
    /// The user may not do this.
    #[error("the user has no permission for this")]
    Unauthorized,
    /// A user's name has 3 to 50 bytes.
    #[error("a user's name has 3 to 50 bytes")]
    InvalidUsername,
    /// The root user stays active.
    #[error("invalid user status")]
    InvalidUserStatus,
    /// The name is in use.
    #[error("user already exists")]
    UserAlreadyExists,
    /// The root user cannot be deleted.
    #[error("the root user cannot be deleted")]
    CannotDeleteUser,
    /// The root user may do everything.
    #[error("the root user's permissions cannot be changed")]
    CannotChangePermissions,
    /// The user has a token of this name.
    #[error("token already exists")]
    TokenAlreadyExists,
    /// The user has as many tokens as it can have.
    #[error("too many tokens")]
    TokensLimitReached,
    /// No such user or token.
    #[error("not found")]
    ResourceNotFound,
    /// No such session.
    #[error("the session has expired")]
    SessionExpired,
    /// The node that speaks for the client is fenced; the client tries another.
    #[error("the node is fenced")]
    NodeFenced,
    /// The node runs a version that does not know the cluster's feature level.
    #[error("the node's version is below the feature level of the cluster")]
    VersionTooLow,
    /// An older request number, or another request under the same number.
    #[error("the request was already applied")]
    RequestAlreadyApplied,
    /// No such stream.
    #[error("stream not found")]
    StreamNotFound,
    /// The name is in use.
    #[error("stream name already exists")]
    StreamNameAlreadyExists,
    /// The bound on streams is reached.
    #[error("too many streams")]
    TooManyStreams,
    /// No such topic.
    #[error("topic not found")]
    TopicNotFound,
    /// The name is in use.
    #[error("topic name already exists")]
    TopicNameAlreadyExists,
    /// More partitions than the topic has.
    #[error("invalid partitions count")]
    InvalidPartitionsCount,
    /// The bound on topics of a stream is reached.
    #[error("too many topics")]
    TooManyTopics,
    /// The bound on partitions of a topic is reached.
    #[error("partition id space exhausted")]
    PartitionIdSpaceExhausted,
    /// No such consumer group.
    #[error("consumer group not found")]
    GroupNotFound,
    /// The name is in use.
    #[error("consumer group name already exists")]
    GroupNameAlreadyExists,
    /// The client is not in the group.
    #[error("consumer group member not found")]
    MemberNotFound,
}

impl MetadataError {
    /// Iggy's code.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        ErrorCode::of(match self {
            Self::InvalidCommand => Kind::InvalidCommand,
            Self::InvalidCredentials => Kind::InvalidCredentials,
            Self::Unauthorized => Kind::Unauthorized,
            Self::InvalidUsername => Kind::InvalidUsername,
            Self::InvalidUserStatus => Kind::InvalidUserStatus,
            Self::UserAlreadyExists => Kind::UserAlreadyExists,
            Self::CannotDeleteUser => Kind::CannotDeleteUser,
            Self::CannotChangePermissions => Kind::CannotChangePermissions,
            Self::TokenAlreadyExists => Kind::PersonalAccessTokenAlreadyExists,
            Self::TokensLimitReached => Kind::PersonalAccessTokensLimitReached,
            Self::ResourceNotFound => Kind::ResourceNotFound,
            Self::SessionExpired => Kind::Unauthenticated,
            Self::NodeFenced => Kind::TransientNotAccepted,
            Self::VersionTooLow => Kind::FeatureUnavailable,
            Self::RequestAlreadyApplied => Kind::RequestAlreadyApplied,
            Self::StreamNotFound => Kind::StreamIdNotFound,
            Self::StreamNameAlreadyExists => Kind::StreamNameAlreadyExists,
            Self::TooManyStreams => Kind::TooManyStreams,
            Self::TopicNotFound => Kind::TopicIdNotFound,
            Self::TopicNameAlreadyExists => Kind::TopicNameAlreadyExists,
            Self::InvalidPartitionsCount => Kind::InvalidPartitionsCount,
            Self::TooManyTopics => Kind::TooManyTopics,
            Self::PartitionIdSpaceExhausted => Kind::PartitionIdSpaceExhausted,
            Self::GroupNotFound => Kind::ConsumerGroupIdNotFound,
            Self::GroupNameAlreadyExists => Kind::ConsumerGroupNameAlreadyExists,
            Self::MemberNotFound => Kind::ConsumerGroupMemberNotFound,
        })
    }
}

impl From<MetadataError> for ErrorCode {
    fn from(error: MetadataError) -> Self {
        error.code()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These are in replies of logs and snapshots, and clients know them.
    #[test]
    fn errors_keep_their_numbers() {
        use MetadataError as E;
        for (error, number) in [
            (E::InvalidCommand, 3),
            (E::VersionTooLow, 5),
            (E::ResourceNotFound, 20),
            (E::SessionExpired, 40),
            (E::Unauthorized, 41),
            (E::InvalidCredentials, 42),
            (E::InvalidUsername, 43),
            (E::InvalidUserStatus, 45),
            (E::UserAlreadyExists, 46),
            (E::CannotDeleteUser, 48),
            (E::CannotChangePermissions, 49),
            (E::TokenAlreadyExists, 51),
            (E::TokensLimitReached, 52),
            (E::NodeFenced, 58),
            (E::RequestAlreadyApplied, 59),
            (E::StreamNotFound, 1009),
            (E::StreamNameAlreadyExists, 1012),
            (E::TooManyStreams, 1020),
            (E::TopicNotFound, 2010),
            (E::TopicNameAlreadyExists, 2013),
            (E::InvalidPartitionsCount, 2019),
            (E::TooManyTopics, 2021),
            (E::PartitionIdSpaceExhausted, 3013),
            (E::GroupNotFound, 5000),
            (E::GroupNameAlreadyExists, 5004),
            (E::MemberNotFound, 5006),
        ] {
            assert_eq!(error.code().number(), number, "{error:?}");
        }
    }
}
