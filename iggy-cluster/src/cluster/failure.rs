//! Why a node could not serve a command or a read.

use adapters::metadata::{DecisionError, ErrorCode, MetadataError, PlacementError, code};
use consensus::{ProposeError, ReadError};

/// The contract's errors, as far as clients can tell them apart by Iggy's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The command may or may not take effect, as in [`ProposeError::OutcomeUnknown`]: the
    /// same request in the same session may be repeated.
    #[error("the outcome is unknown; repeat the same request")]
    OutcomeUnknown,
    /// Certainly without effect: it may be repeated at any node.
    #[error("not accepted, because no leader or owner was reached in time; try again")]
    NotAccepted,
    /// Refused, also if it is repeated.
    #[error("refused with Iggy's error {0}")]
    Refused(ErrorCode),
}

impl Failure {
    pub(crate) fn code(self) -> ErrorCode {
        match self {
            Self::OutcomeUnknown => code::TRANSIENT_NOT_COMMITTED,
            Self::NotAccepted => code::TRANSIENT_NOT_ACCEPTED,
            Self::Refused(code) => code,
        }
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::OutcomeUnknown => Self::OutcomeUnknown,
            ProposeError::NotLeader { .. } | ProposeError::Overloaded => Self::NotAccepted,
            ProposeError::TooLarge { .. } => Self::Refused(code::INVALID_COMMAND),
        }
    }
}

/// Iggy has one code for a read that can be repeated in the same session.
impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Overloaded | ReadError::Unconfirmed => Self::OutcomeUnknown,
        }
    }
}

/// A node may register at any time.
impl From<DecisionError> for Failure {
    fn from(error: DecisionError) -> Self {
        match error {
            DecisionError::Placement(PlacementError::NoLiveNode) => Self::NotAccepted,
            DecisionError::Placement(PlacementError::TooFewNodes { .. }) => {
                Self::Refused(code::INVALID_REPLICATION_FACTOR)
            }
            DecisionError::ClientOfAnotherUser => Self::Refused(code::UNAUTHENTICATED),
            DecisionError::VersionTooLow { .. } => MetadataError::VersionTooLow.into(),
        }
    }
}

impl From<MetadataError> for Failure {
    fn from(error: MetadataError) -> Self {
        Self::Refused(error.code())
    }
}
