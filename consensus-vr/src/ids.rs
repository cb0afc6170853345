//! Numbers of the protocol.

use std::fmt;

use consensus::{Index, Membership, ReplicaId, Term};

/// A view: one replica is its primary. View 0 is the initial state, in which no replica
/// acts; the first primary is that of view 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct View(pub(crate) u64);

impl View {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The primary: a pure function of the view and of the committed order of the voters.
    pub(crate) fn primary(self, membership: &Membership) -> ReplicaId {
        let voters = membership.voters();
        voters[(self.0 % voters.len() as u64) as usize]
    }

    /// The contract's name for it.
    pub(crate) fn term(self) -> Term {
        Term(self.0)
    }
}

impl From<Term> for View {
    fn from(term: Term) -> Self {
        Self(term.0)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a prepare together with all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Checksum(pub(crate) u128);

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Head {
    pub(crate) op: Index,
    /// Unknown directly after a snapshot whose last prepare was never seen.
    pub(crate) checksum: Option<Checksum>,
}

/// A prepare without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Header {
    pub(crate) view: View,
    pub(crate) checksum: Checksum,
    /// The sender can supply the body.
    pub(crate) present: bool,
    /// The sender knows that it never prepared this op: it does not count
    /// towards a quorum that may have committed it. Neither bit: its slot is
    /// damaged, and it may have (PAR 3.3).
    pub(crate) nack: bool,
}
