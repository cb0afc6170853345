//! Numbers that must not be mixed up, each its own type.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// Identity of a member of the group. On the wire and on disk ids start at one, because
/// zero is never a member; people see the `replica_id` of the configuration, which
/// starts at zero: that is what this prints.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

impl ReplicaId {
    /// The replica with this `replica_id` in the configuration.
    #[must_use]
    pub const fn from_number(replica_id: u64) -> Self {
        Self(replica_id + 1)
    }

    /// Its `replica_id` in the configuration.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0.saturating_sub(1)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("none"),
            _ => self.number().fmt(f),
        }
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplicaId({self})")
    }
}

number! {
    /// Leadership epoch: Raft's term, VR's view-number. Zero precedes the first.
    Term(u64)
}
number! {
    /// Position in the log, counted from one: Raft's index, VR's op-number.
    Index(u64)
}
number! {
    /// Logical time in ticks since the core was built; the driver decides how
    /// long a tick is (10 ms by default).
    Tick(u64)
}
number! {
    /// Names one [`PersistBatch`](crate::PersistBatch); rises by one each.
    PersistId(u64)
}
number! {
    /// Chosen by the driver to match the answer to a proposal; unique per core.
    ProposalId(u64)
}
number! {
    /// Chosen by the driver to match the answer to a read; unique per core.
    ReadToken(u64)
}

impl Index {
    /// The position before the first entry.
    pub const ZERO: Self = Self(0);

    /// The next position.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one; zero stays zero.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}
