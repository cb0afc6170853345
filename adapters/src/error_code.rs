//! Iggy's error codes, made from Iggy's own error type.
//!
//! A code stays an [`ErrorCode`] up to the wire, to the replies in the log and to
//! the answers between nodes: only those write its number.

use std::fmt;

use iggy_common::{IggyError, IggyErrorDiscriminants};

/// An error as Iggy's clients know it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(u32);

impl ErrorCode {
    /// The code of this kind of error.
    #[must_use]
    pub const fn of(kind: IggyErrorDiscriminants) -> Self {
        Self(kind as u32)
    }

    /// A code that was stored or received as a number. Any number is accepted: a
    /// later version of Iggy may have added it.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The number, as it is written to the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl From<&IggyError> for ErrorCode {
    fn from(error: &IggyError) -> Self {
        Self(error.as_code())
    }
}

impl From<IggyError> for ErrorCode {
    fn from(error: IggyError) -> Self {
        Self::from(&error)
    }
}

/// The number alone.
impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number, and Iggy's name of it where there is one.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match IggyErrorDiscriminants::from_repr(self.0) {
            Some(kind) => {
                let name: &'static str = kind.into();
                write!(f, "{} ({name})", self.0)
            }
            None => self.0.fmt(f),
        }
    }
}

/// The codes that this project's own code refers to.
pub mod code {
    use iggy_common::IggyErrorDiscriminants as Kind;

    use super::ErrorCode;

    /// The command does not decode, or contradicts itself.
    pub const INVALID_COMMAND: ErrorCode = ErrorCode::of(Kind::InvalidCommand);
    /// The messages of a request are more than a frame may carry.
    pub const TOO_BIG_PAYLOAD: ErrorCode = ErrorCode::of(Kind::TooBigMessagePayload);
    /// The same for other requests.
    pub const INVALID_SIZE: ErrorCode = ErrorCode::of(Kind::InvalidSizeBytes);
    /// The feature is not served.
    pub const FEATURE_UNAVAILABLE: ErrorCode = ErrorCode::of(Kind::FeatureUnavailable);
    /// A consumer, a partition or another thing is not named as it must be.
    pub const INVALID_IDENTIFIER: ErrorCode = ErrorCode::of(Kind::InvalidIdentifier);
    /// The session that a connection speaks for is gone.
    pub const STALE_CLIENT: ErrorCode = ErrorCode::of(Kind::StaleClient);
    /// Not logged in, or the session is gone.
    pub const UNAUTHENTICATED: ErrorCode = ErrorCode::of(Kind::Unauthenticated);
    /// The user has no permission.
    pub const UNAUTHORIZED: ErrorCode = ErrorCode::of(Kind::Unauthorized);
    /// Wrong user name or password.
    pub const INVALID_CREDENTIALS: ErrorCode = ErrorCode::of(Kind::InvalidCredentials);
    /// A password has 3 to 100 bytes.
    pub const INVALID_PASSWORD: ErrorCode = ErrorCode::of(Kind::InvalidPassword);
    /// No such status, or not for this user.
    pub const INVALID_USER_STATUS: ErrorCode = ErrorCode::of(Kind::InvalidUserStatus);
    /// The user has a token of this name.
    pub const TOKEN_ALREADY_EXISTS: ErrorCode =
        ErrorCode::of(Kind::PersonalAccessTokenAlreadyExists);
    /// The outcome is unknown: the client repeats the same request in the same session.
    pub const TRANSIENT_NOT_COMMITTED: ErrorCode = ErrorCode::of(Kind::TransientNotCommitted);
    /// Certainly without effect: the client may repeat it at any node.
    pub const TRANSIENT_NOT_ACCEPTED: ErrorCode = ErrorCode::of(Kind::TransientNotAccepted);
    /// Partitions cannot have so many copies.
    pub const INVALID_REPLICATION_FACTOR: ErrorCode = ErrorCode::of(Kind::InvalidReplicationFactor);
    /// The request was applied and its reply is gone.
    pub const REQUEST_ALREADY_APPLIED: ErrorCode = ErrorCode::of(Kind::RequestAlreadyApplied);
    /// No such partition.
    pub const PARTITION_NOT_FOUND: ErrorCode = ErrorCode::of(Kind::PartitionNotFound);
    /// The consumer has no stored offset.
    pub const OFFSET_NOT_FOUND: ErrorCode = ErrorCode::of(Kind::ConsumerOffsetNotFound);
    /// As many consumers as may have stored an offset in the partition.
    pub const TOO_MANY_CONSUMER_OFFSETS: ErrorCode = ErrorCode::of(Kind::TooManyConsumerOffsets);
    /// A message of the batch is empty.
    pub const EMPTY_PAYLOAD: ErrorCode = ErrorCode::of(Kind::EmptyMessagePayload);
    /// The batch does not decode.
    pub const INVALID_BATCH: ErrorCode = ErrorCode::of(Kind::InvalidMessagesSize);
    /// The batch is not what its producer hashed.
    pub const INVALID_BATCH_CHECKSUM: ErrorCode = ErrorCode::of(Kind::InvalidBatchChecksum);
    /// The offset is after the end of the partition.
    pub const INVALID_OFFSET: ErrorCode = ErrorCode::of(Kind::InvalidOffset);
    /// The member of the group does not hold the partition.
    pub const PARTITION_NOT_OWNED: ErrorCode = ErrorCode::of(Kind::ConsumerGroupPartitionNotOwned);
    /// The diagnostic archive could not be made.
    pub const SNAPSHOT_FAILED: ErrorCode = ErrorCode::of(Kind::SnapshotFileCompletionFailed);
    /// The disk failed.
    pub const IO_ERROR: ErrorCode = ErrorCode::of(Kind::IoError);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_numbers_that_clients_know() {
        for (code, number) in [
            (code::INVALID_COMMAND, 3),
            (code::FEATURE_UNAVAILABLE, 5),
            (code::INVALID_IDENTIFIER, 6),
            (code::STALE_CLIENT, 30),
            (code::UNAUTHENTICATED, 40),
            (code::UNAUTHORIZED, 41),
            (code::INVALID_CREDENTIALS, 42),
            (code::INVALID_PASSWORD, 44),
            (code::INVALID_USER_STATUS, 45),
            (code::TOKEN_ALREADY_EXISTS, 51),
            (code::TRANSIENT_NOT_COMMITTED, 57),
            (code::TRANSIENT_NOT_ACCEPTED, 58),
            (code::REQUEST_ALREADY_APPLIED, 59),
            (code::INVALID_REPLICATION_FACTOR, 2018),
            (code::PARTITION_NOT_FOUND, 3007),
            (code::OFFSET_NOT_FOUND, 3021),
            (code::EMPTY_PAYLOAD, 4024),
            (code::INVALID_BATCH, 4036),
            (code::INVALID_BATCH_CHECKSUM, 4039),
            (code::INVALID_OFFSET, 4100),
            (code::PARTITION_NOT_OWNED, 5009),
            (code::SNAPSHOT_FAILED, 9000),
            (code::TOO_MANY_CONSUMER_OFFSETS, 3024),
            (code::IO_ERROR, 13_000),
        ] {
            assert_eq!(code.number(), number);
            assert_eq!(ErrorCode::from_number(number), code);
        }
        assert_eq!(
            ErrorCode::from(IggyError::InvalidCommand),
            code::INVALID_COMMAND
        );
        assert_eq!(code::UNAUTHORIZED.to_string(), "41 (unauthorized)");
        assert_eq!(ErrorCode::from_number(99_999).to_string(), "99999");
    }
}
