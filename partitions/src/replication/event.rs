//! What happens to a copy.

use consensus::ReplicaId;

use super::assignment::Assignment;
use super::chain::Epoch;
use super::effect::Ticket;
use super::message::Message;
use super::table::{OffsetChange, Start};
use crate::record::{ClientBatch, Tag};
use crate::types::ConsumerKey;

/// What a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Messages: the answer is [`Outcome::Readable`](super::Outcome::Readable).
    Messages,
    /// A consumer's offset: the answer is [`Outcome::Offset`](super::Outcome::Offset).
    Offset(ConsumerKey),
}

/// An input.
#[derive(Clone, Debug)]
pub enum Event {
    /// The metadata has changed the assignment. The caller passes none before the metadata
    /// contains the registration of this start of the node: so no promise of an earlier
    /// start has to be remembered.
    Assigned(Assignment),
    /// A client's batch, at the leader; the answer is an [`Effect::Reply`](super::Effect::Reply).
    Append {
        /// Names the request.
        request: u64,
        /// The batch.
        batch: ClientBatch,
        /// Which request of which session it is; how a repetition is recognized.
        tag: Option<Tag>,
        /// The wall clock, in microseconds since the Unix epoch. Within a log the time never
        /// goes back, whatever the clock does.
        now_micros: u64,
        /// The epoch that the sender names: a leader of another one refuses, so that what
        /// arrives late is not stored after its outcome was forgotten.
        epoch: Epoch,
        /// For a repetition, the epoch that the first attempt named: so long may its outcome
        /// have been forgotten.
        first_epoch: Option<Epoch>,
    },
    /// A client's change of a consumer's offset, at the leader; the answer is an
    /// [`Effect::Reply`](super::Effect::Reply).
    Offset {
        /// Names the request.
        request: u64,
        /// The consumer.
        consumer: ConsumerKey,
        /// The change.
        change: OffsetChange,
        /// Which request of which session it is: an older one changes nothing.
        tag: Option<Tag>,
    },
    /// A client reads, at the leader; the answer is an [`Effect::Reply`](super::Effect::Reply)
    /// when a quorum has confirmed that it leads.
    Read {
        /// Names the request.
        request: u64,
        /// What.
        what: Read,
    },
    /// The log may start later: at the start of a segment. The answer is an
    /// [`Effect::Reply`](super::Effect::Reply).
    MoveStart {
        /// Names the request.
        request: u64,
        /// The new start.
        start: Start,
    },
    /// The storage has removed segments from the front of the log.
    Trimmed {
        /// Where it starts now.
        start: Start,
    },
    /// A message of another copy. Messages of one connection arrive in their order.
    Message {
        /// The other node.
        from: ReplicaId,
        /// The registration of the process that has sent it.
        registration: u64,
        /// The message.
        message: Message,
    },
    /// The connection to this node was replaced: what was sent on it may be lost.
    Reconnected {
        /// The other node.
        peer: ReplicaId,
    },
    /// A disk operation has succeeded.
    Done {
        /// Which one.
        ticket: Ticket,
    },
    /// A disk operation has failed for good.
    Failed {
        /// Which one.
        ticket: Ticket,
    },
    /// Time has passed: at least ten times a second.
    Tick,
}
