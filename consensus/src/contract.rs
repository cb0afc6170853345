//! The trait, its inputs and its effects.

use bytes::Bytes;
use thiserror::Error;

use crate::{
    Entry, Index, Membership, Parts, PersistId, ProposalId, ReadToken, ReplicaId, SnapshotMeta,
    Term, Tick,
};

/// One replica of one group.
///
/// The driver calls [`step`](Self::step) with one pending input or with all of
/// them, and then drains [`poll`](Self::poll) to `None`, carrying out each effect
/// in order. Stepping all pending inputs before draining is what forms batches.
///
/// # What every backend promises
/// 1. **Durability.** It never acknowledges, nor counts itself for, what the
///    driver has not reported as [`Input::Persisted`]; a message that reveals a
///    vote, a term or an entry carries `after`.
/// 2. **Agreement.** At one index at most one entry is ever committed.
/// 3. **Order.** [`Effect::Commit`] returns entries gap-free, each once per core,
///    and only those that are durable on this replica.
/// 4. **Leader.** At most one leader per term commits.
///    A leader of several voters stops leading when its disk stalls: when a batch remains
///    the oldest that is not durable for
///    [`DISK_STALL_ELECTION_TIMEOUTS`](crate::DISK_STALL_ELECTION_TIMEOUTS). A replica
///    whose disk stalls starts no election.
/// 5. **Reads.** [`Effect::ReadReady`] comes only after a quorum confirmed the
///    leadership after the read arrived, and an entry of the leader's own term
///    is committed. A read that cannot be confirmed is rejected.
/// 6. **Proposals.** Every proposal is answered exactly once: by its id in
///    [`Effect::Commit`], or by [`Effect::ProposalRejected`].
/// 7. **Bounds.** Nothing grows beyond [`Limits`](crate::Limits).
/// 8. **Peers are not trusted.** A message that does not decode or cannot be
///    true is a [`StepError`], never a panic. Where a leader's message shows that this
///    replica's own log is wrong, the reason is [`RefusalReason::Diverged`], and the driver
///    stops the replica.
/// 9. **Restart.** It can be rebuilt from what is durable at any crash point.
pub trait Consensus: Send {
    /// Handles one input. `now` never goes back; effects are returned by
    /// [`poll`](Self::poll), also when the input was refused.
    ///
    /// # Errors
    /// When the input was refused. The core is unharmed and remains usable.
    fn step(&mut self, now: Tick, input: Input) -> Result<(), StepError>;

    /// The next effect, or `None` when there is no further one.
    fn poll(&mut self) -> Option<Effect>;

    /// When [`Input::Tick`] is due at the latest if nothing else happens.
    fn next_deadline(&self) -> Option<Tick>;

    /// What the replica believes now.
    fn status(&self) -> Status;

    /// Further figures in the backend's own words, for people.
    fn detail(&self) -> Vec<(&'static str, String)>;
}

impl<C: Consensus + ?Sized> Consensus for Box<C> {
    fn step(&mut self, now: Tick, input: Input) -> Result<(), StepError> {
        (**self).step(now, input)
    }

    fn poll(&mut self) -> Option<Effect> {
        (**self).poll()
    }

    fn next_deadline(&self) -> Option<Tick> {
        (**self).next_deadline()
    }

    fn status(&self) -> Status {
        (**self).status()
    }

    fn detail(&self) -> Vec<(&'static str, String)> {
        (**self).detail()
    }
}

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// Append one entry with this payload, if this replica leads.
    Propose {
        /// Identifies the answer.
        proposal: ProposalId,
        /// The entry's payload.
        payload: Bytes,
    },
    /// A peer's message, as its core passed it to [`Effect::Send`].
    Receive {
        /// The sender, as the driver's link authenticated it.
        from: ReplicaId,
        /// The bytes.
        message: Bytes,
    },
    /// This batch and every earlier one is durable.
    Persisted(PersistId),
    /// Request an index that must be applied before a linearizable read is served.
    ReadIndex(ReadToken),
    /// Transfer leadership to this voter, if this replica leads.
    TransferLeadership(ReplicaId),
    /// A link to this peer broke, or it cannot be reached.
    Unreachable(ReplicaId),
    /// A snapshot taken here is durable; the log before it, except for the tail,
    /// is no longer needed.
    SnapshotTaken(SnapshotMeta),
    /// The snapshot requested by [`Effect::FetchSnapshot`] is durable here and
    /// not yet restored.
    SnapshotFetched(SnapshotMeta),
    /// The requested snapshot could not be fetched; another will be offered.
    SnapshotFetchFailed(SnapshotMeta),
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make durable, then report [`Input::Persisted`]. Batches are durable in
    /// the order of their ids.
    Persist(PersistBatch),
    /// Send to a peer; may be lost, but not altered.
    Send {
        /// The receiver.
        to: ReplicaId,
        /// The bytes: what the peer's core receives in [`Input::Receive`], contiguous.
        message: Parts,
        /// Not before this batch, and every earlier one, is durable.
        after: Option<PersistId>,
    },
    /// Apply these entries in this order.
    Commit(Vec<Committed>),
    /// The read may be served once `index` is applied here.
    ReadReady {
        /// The read's token.
        token: ReadToken,
        /// The index.
        index: Index,
    },
    /// The read cannot be served now.
    ReadRejected {
        /// The read's token.
        token: ReadToken,
        /// Why.
        error: ReadError,
    },
    /// The proposal will not be answered by a commit seen here.
    ProposalRejected {
        /// The proposal.
        proposal: ProposalId,
        /// Why, and whether it may still take effect.
        error: ProposeError,
    },
    /// The leader known here changed.
    LeaderChanged {
        /// The current term.
        term: Term,
        /// Its leader, when known.
        leader: Option<ReplicaId>,
    },
    /// Fetch this snapshot from the peer, make it durable, and report
    /// [`Input::SnapshotFetched`] or [`Input::SnapshotFetchFailed`]. A newer
    /// fetch replaces an older one.
    FetchSnapshot {
        /// The peer that has it.
        from: ReplicaId,
        /// What it stands for.
        snapshot: SnapshotMeta,
    },
    /// Restore the state machine from this fetched snapshot; commits continue
    /// after it.
    InstallSnapshot(SnapshotMeta),
    /// Log records up to and including this index may be dropped.
    Compact(Index),
}

/// What must become durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PersistBatch {
    /// Rises by one with every batch.
    pub id: PersistId,
    /// The log now starts after this snapshot; all entries before and after it
    /// are void. Applies before `entries`.
    pub reset_to: Option<(Index, Term)>,
    /// These replace the log from the first of their indexes on.
    pub entries: Vec<Entry>,
    /// The backend's hard state, opaque to the driver; at most 512 bytes.
    pub hard_state: Option<Bytes>,
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// The proposal that it answers, when it was made here.
    pub proposal: Option<ProposalId>,
}

/// Why a proposal was rejected. Every layer above the contract uses this type unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ProposeError {
    /// Another replica leads. Had no effect.
    #[error("not the leader")]
    NotLeader {
        /// The leader, when known.
        leader: Option<ReplicaId>,
    },
    /// A bound is reached. Had no effect; try again later.
    #[error("overloaded")]
    Overloaded,
    /// The payload is larger than an entry may be. Had no effect.
    #[error("payload of {bytes} bytes is larger than the {max} an entry may have")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Leadership was lost while the outcome was open: the proposal may or may
    /// not take effect later.
    #[error("leadership was lost; the outcome is unknown")]
    OutcomeUnknown,
}

/// Why a linearizable read was rejected. A read has no effect: it can always be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ReadError {
    /// Too many reads are waiting for confirmation.
    #[error("overloaded")]
    Overloaded,
    /// No quorum confirmed a leader in time.
    #[error("no quorum confirmed a leader in time")]
    Unconfirmed,
}

/// Why an input was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StepError {
    /// A message of a peer.
    #[error("{0}")]
    Message(#[from] RefusedMessage),
    /// The request makes no sense for this replica now.
    #[error("refused: {0}")]
    Request(String),
}

/// A message of a peer that was refused: its sender, its kind, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind} of replica {from}: {reason}")]
pub struct RefusedMessage {
    /// The peer, as the driver's link authenticated it.
    pub from: ReplicaId,
    /// The kind of message, in the backend's own words; "message" where its kind did
    /// not decode.
    pub kind: &'static str,
    /// Why.
    pub reason: RefusalReason,
}

impl RefusedMessage {
    /// A message that decodes and cannot be true.
    pub fn impossible(from: ReplicaId, kind: &'static str, why: impl Into<String>) -> Self {
        let reason = RefusalReason::Impossible(why.into());
        Self { from, kind, reason }
    }
}

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RefusalReason {
    /// The bytes are not a message of this protocol version.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The message belongs to another group.
    #[error("it belongs to another group")]
    WrongGroup,
    /// The sender is not a member, or claims to be another replica.
    #[error("its sender is no member, or claims to be another replica")]
    UnknownPeer,
    /// The message decodes and cannot be true.
    #[error("it cannot be true: {0}")]
    Impossible(String),
    /// The message of a leader shows that this replica has lost what it has acknowledged,
    /// or has committed something else: it must stop.
    #[error("the log here is not that of the cluster: {0}")]
    Diverged(String),
}

impl RefusalReason {
    /// A label for metrics and for limiting how often it is logged.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::WrongGroup => "wrong_group",
            Self::UnknownPeer => "unknown_peer",
            Self::Impossible(_) => "impossible",
            Self::Diverged(_) => "diverged",
        }
    }
}

/// A replica's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Orders commands.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Runs for leadership.
    Candidate,
    /// Receives the log and does not vote.
    Learner,
}

impl Role {
    /// The role's name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
        }
    }
}

/// What a replica believes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The term's leader, when known.
    pub leader: Option<ReplicaId>,
    /// Known to be committed; what [`Effect::Commit`] has returned may be less.
    pub commit: Index,
    /// First index still in the log window.
    pub first: Index,
    /// Last index in the log.
    pub last: Index,
    /// The membership in force.
    pub membership: Membership,
    /// Elections that this core started.
    pub elections_started: u64,
    /// What the leader knows of its peers; empty elsewhere.
    pub peers: Vec<PeerProgress>,
}

/// What a leader knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerProgress {
    /// The peer.
    pub id: ReplicaId,
    /// Known to be durable there.
    pub matched: Index,
    /// How entries are sent to it.
    pub state: PeerState,
    /// Whether a message of it arrived within the last election timeout.
    pub active: bool,
}

/// How a leader replicates to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Looking for where their logs agree.
    Probe,
    /// Streaming entries.
    Replicate,
    /// Waiting for the peer to fetch a snapshot.
    Snapshot,
}
