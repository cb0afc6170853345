//! The replicas of a group.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::ReplicaId;

/// The replicas of a group. Voters are kept in the order in which they were
/// listed: a backend whose leader is a function of the term follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Number of the configuration; rises with every change.
    pub epoch: u64,
    voters: Arc<[ReplicaId]>,
    learners: Arc<[ReplicaId]>,
}

/// Why a list of replicas is not a membership.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MembershipError {
    /// The list of voters is empty.
    #[error("a group needs at least one voter")]
    NoVoters,
    /// More voters than [`Membership::VOTERS_MAX`].
    #[error("a group has at most {max} voters, got {got}; make the others learners", max = Membership::VOTERS_MAX)]
    TooManyVoters {
        /// How many are listed.
        got: usize,
    },
    /// Zero is reserved.
    #[error("replica id 0 is reserved")]
    ZeroId,
    /// One replica is listed twice.
    #[error("replica {0} is listed twice")]
    Duplicate(ReplicaId),
}

impl Membership {
    /// More voters than this make every commit slower and survive nothing that
    /// seven do not.
    pub const VOTERS_MAX: usize = 7;

    /// A membership of these voters and learners.
    ///
    /// # Errors
    /// When there is no voter, a replica is listed twice, a replica has id 0, or there
    /// are more than [`Self::VOTERS_MAX`] voters.
    pub fn new(
        epoch: u64,
        voters: impl IntoIterator<Item = ReplicaId>,
        learners: impl IntoIterator<Item = ReplicaId>,
    ) -> Result<Self, MembershipError> {
        let voters: Vec<_> = voters.into_iter().collect();
        let learners: Vec<_> = learners.into_iter().collect();
        if voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        if voters.len() > Self::VOTERS_MAX {
            return Err(MembershipError::TooManyVoters { got: voters.len() });
        }
        let mut seen = std::collections::BTreeSet::new();
        for &id in voters.iter().chain(&learners) {
            if id == ReplicaId(0) {
                return Err(MembershipError::ZeroId);
            }
            if !seen.insert(id) {
                return Err(MembershipError::Duplicate(id));
            }
        }
        Ok(Self {
            epoch,
            voters: voters.into(),
            learners: learners.into(),
        })
    }

    /// The voters, in the order listed.
    #[must_use]
    pub fn voters(&self) -> &[ReplicaId] {
        &self.voters
    }

    /// The learners: they receive the log, do not vote, and are no part of a quorum.
    #[must_use]
    pub fn learners(&self) -> &[ReplicaId] {
        &self.learners
    }

    /// Whether the replica belongs to the group at all.
    #[must_use]
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Whether the replica votes.
    #[must_use]
    pub fn is_voter(&self, id: ReplicaId) -> bool {
        self.voters.contains(&id)
    }

    /// Voters and learners.
    pub fn members(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.voters.iter().chain(&*self.learners).copied()
    }

    /// Whether these are the same replicas with the same rights. The order of voters
    /// counts, because a backend's leader may follow it; the epoch does not.
    #[must_use]
    pub fn has_replicas_of(&self, other: &Self) -> bool {
        let sorted = |membership: &Self| {
            let mut learners = membership.learners.to_vec();
            learners.sort_unstable();
            learners
        };
        self.voters == other.voters && sorted(self) == sorted(other)
    }

    /// How many voters are a majority.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }
}

/// The ids as in the configuration: `0, 1, 2`, or `0, 1, 2 and learners 3, 4`.
impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, ids: &[ReplicaId]| {
            for (at, id) in ids.iter().enumerate() {
                let separator = if at > 0 { ", " } else { "" };
                write!(f, "{separator}{id}")?;
            }
            Ok(())
        };
        list(f, &self.voters)?;
        if !self.learners.is_empty() {
            f.write_str(" and learners ")?;
            list(f, &self.learners)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_voters_zero_duplicates_and_too_many_voters_are_refused() {
        let id = ReplicaId;
        assert_eq!(Membership::new(1, [], []), Err(MembershipError::NoVoters));
        assert_eq!(
            Membership::new(1, [id(0)], []),
            Err(MembershipError::ZeroId)
        );
        assert_eq!(
            Membership::new(1, [id(1), id(2)], [id(2)]),
            Err(MembershipError::Duplicate(id(2)))
        );
        assert_eq!(
            Membership::new(1, (1..=8).map(ReplicaId), []),
            Err(MembershipError::TooManyVoters { got: 8 })
        );
    }

    #[test]
    fn quorum_is_the_smallest_majority() {
        for (voters, quorum) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            let membership = Membership::new(1, (1..=voters).map(ReplicaId), []).unwrap();
            assert_eq!(membership.quorum(), quorum);
        }
    }

    #[test]
    fn the_same_replicas_have_the_same_rights() {
        let of = |voters: &[u64], learners: &[u64]| {
            let ids = |ids: &[u64]| ids.iter().map(|id| ReplicaId(*id)).collect::<Vec<_>>();
            Membership::new(1, ids(voters), ids(learners)).unwrap()
        };
        let three = of(&[1, 2, 3], &[5, 4]);
        let later = Membership {
            epoch: 2,
            ..of(&[1, 2, 3], &[4, 5])
        };
        assert!(three.has_replicas_of(&later));
        for other in [
            of(&[1, 2], &[4, 5]),
            of(&[2, 1, 3], &[4, 5]),
            of(&[1, 2, 3], &[4]),
        ] {
            assert!(!three.has_replicas_of(&other), "{other}");
        }
        assert_eq!(three.to_string(), "0, 1, 2 and learners 4, 3");
        assert_eq!(of(&[1], &[]).to_string(), "0");
    }
}
