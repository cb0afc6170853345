//! What a command can be refused with. The codes are Iggy's.

use thiserror::Error;

/// Iggy's error codes, as its clients know them.
pub mod code {
    /// The command is not understood.
    pub const INVALID_COMMAND: u32 = 3;
    /// The feature is not served.
    pub const FEATURE_UNAVAILABLE: u32 = 5;
    /// A consumer, a partition or another thing is not named as it must be.
    pub const INVALID_IDENTIFIER: u32 = 6;
    /// The session that a connection speaks for is gone.
    pub const STALE_CLIENT: u32 = 30;
    /// The member of the group does not hold the partition.
    pub const PARTITION_NOT_OWNED: u32 = 5009;
    /// The outcome is unknown: repeat the same request in the same session.
    pub const TRANSIENT_NOT_COMMITTED: u32 = 57;
    /// Certainly without effect: repeat it anywhere.
    pub const TRANSIENT_NOT_ACCEPTED: u32 = 58;
    /// The request was applied and its reply is gone.
    pub const REQUEST_ALREADY_APPLIED: u32 = 59;
    /// Not logged in, or the session is gone.
    pub const UNAUTHENTICATED: u32 = 40;
    /// The user has no permission.
    pub const UNAUTHORIZED: u32 = 41;
    /// The diagnostic archive could not be made.
    pub const SNAPSHOT_FAILED: u32 = 9000;
    /// A password has 3 to 100 bytes.
    pub const INVALID_PASSWORD: u32 = 44;
    /// No such status, or not for this user.
    pub const INVALID_USER_STATUS: u32 = 45;
    /// The user has a token of this name.
    pub const TOKEN_ALREADY_EXISTS: u32 = 51;
    /// Wrong user name or password.
    pub const INVALID_CREDENTIALS: u32 = 42;
}

/// Why a command had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u32)]
pub enum MetadataError {
    /// The command contradicts itself.
    #[error("invalid command")]
    InvalidCommand = code::INVALID_COMMAND,
    /// The user is gone or its password changed.
    #[error("invalid credentials")]
    InvalidCredentials = code::INVALID_CREDENTIALS,
    /// The user may not do this.
    #[error("the user has no permission for this")]
    Unauthorized = code::UNAUTHORIZED,
    /// A user's name has 3 to 50 bytes.
    #[error("a user's name has 3 to 50 bytes")]
    InvalidUsername = 43,
    /// The root user stays active.
    #[error("invalid user status")]
    InvalidUserStatus = code::INVALID_USER_STATUS,
    /// The name is taken.
    #[error("user already exists")]
    UserAlreadyExists = 46,
    /// The root user cannot be deleted.
    #[error("the root user cannot be deleted")]
    CannotDeleteUser = 48,
    /// The root user may do everything.
    #[error("the root user's permissions cannot be changed")]
    CannotChangePermissions = 49,
    /// The user has a token of this name.
    #[error("token already exists")]
    TokenAlreadyExists = code::TOKEN_ALREADY_EXISTS,
    /// The user has as many tokens as it can have.
    #[error("too many tokens")]
    TokensLimitReached = 52,
    /// No such user or token.
    #[error("not found")]
    ResourceNotFound = 20,
    /// No such session.
    #[error("the session has expired")]
    SessionExpired = code::UNAUTHENTICATED,
    /// The node that speaks for the client is fenced; try another.
    #[error("the node is fenced")]
    NodeFenced = code::TRANSIENT_NOT_ACCEPTED,
    /// An older request number, or another request under the same number.
    #[error("the request was already applied")]
    RequestAlreadyApplied = code::REQUEST_ALREADY_APPLIED,
    /// No such stream.
    #[error("stream not found")]
    StreamNotFound = 1009,
    /// The name is taken.
    #[error("stream name already exists")]
    StreamNameAlreadyExists = 1012,
    /// No more streams fit.
    #[error("too many streams")]
    TooManyStreams = 1020,
    /// No such topic.
    #[error("topic not found")]
    TopicNotFound = 2010,
    /// The name is taken.
    #[error("topic name already exists")]
    TopicNameAlreadyExists = 2013,
    /// More partitions than there are, or than fit.
    #[error("invalid partitions count")]
    InvalidPartitionsCount = 2019,
    /// No more topics fit.
    #[error("too many topics")]
    TooManyTopics = 2021,
    /// No more partitions fit.
    #[error("partition id space exhausted")]
    PartitionIdSpaceExhausted = 3013,
    /// No such consumer group.
    #[error("consumer group not found")]
    GroupNotFound = 5000,
    /// The name is taken.
    #[error("consumer group name already exists")]
    GroupNameAlreadyExists = 5004,
    /// The client is not in the group.
    #[error("consumer group member not found")]
    MemberNotFound = 5006,
}

impl MetadataError {
    /// Iggy's code.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }
}
