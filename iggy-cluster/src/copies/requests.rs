//! What clients want of a copy.

use std::sync::Arc;

use ::partitions::replication::{Epoch, Event, OffsetChange, Outcome, Read, Refusal, Start, Trust};
use ::partitions::{ClientBatch, ConsumerKey, Tag};
use adapters::metadata::{ErrorCode, code};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::copy::{ACCEPT_TIMEOUT, Copy, State};

/// A batch to be appended.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) batch: ClientBatch,
    /// Which request of which session it is.
    pub(crate) tag: Option<Tag>,
    pub(crate) now_micros: u64,
    /// The epoch that the sender knows.
    pub(crate) epoch: Epoch,
    /// The epoch of the first attempt, if this is not the first.
    pub(crate) first_epoch: Option<Epoch>,
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nothing was stored, and another attempt may succeed, perhaps elsewhere.
    NotAccepted,
    /// It may have been stored.
    Unknown,
    /// Nothing was stored.
    Code(ErrorCode),
}

impl Copy {
    /// Appends a batch, and returns the offset of its first message when it is committed.
    pub(crate) async fn append(self: &Arc<Self>, append: Append) -> Result<u64, Refused> {
        let outcome = self.request(|request| {
            let append = append.clone();
            Event::Append {
                request,
                batch: append.batch,
                tag: append.tag,
                now_micros: append.now_micros,
                epoch: append.epoch,
                first_epoch: append.first_epoch,
            }
        });
        match outcome.await? {
            Outcome::Appended { first_offset } => Ok(first_offset),
            _ => Err(Refused::Unknown),
        }
    }

    /// The offset after the last message that may be read now.
    pub(crate) async fn readable(self: &Arc<Self>) -> Result<u64, Refused> {
        if let Some(end) = self.readable_now() {
            return Ok(end);
        }
        let what = Read::Messages;
        let outcome = self.request(|request| Event::Read { request, what });
        match outcome.await? {
            Outcome::Readable { end } => Ok(end),
            _ => Err(Refused::Unknown),
        }
    }

    /// The same, if it is known that no other copy leads.
    fn readable_now(&self) -> Option<u64> {
        let mut state = self.state();
        let now = self.node.now();
        let confirmed = state.replica.may_read(now);
        confirmed.then(|| state.replica.commit_offset()).flatten()
    }

    /// The stored offset of a consumer.
    pub(crate) async fn offset(
        self: &Arc<Self>,
        consumer: ConsumerKey,
    ) -> Result<Option<u64>, Refused> {
        let what = Read::Offset(consumer);
        let outcome = self.request(|request| Event::Read { request, what });
        match outcome.await? {
            Outcome::Offset(offset) => Ok(offset),
            _ => Err(Refused::Unknown),
        }
    }

    /// Changes the offset of a consumer; done when that is committed.
    pub(crate) async fn change_offset(
        self: &Arc<Self>,
        consumer: ConsumerKey,
        change: OffsetChange,
        tag: Option<Tag>,
    ) -> Result<(), Refused> {
        let outcome = self.request(|request| Event::Offset {
            request,
            consumer,
            change,
            tag,
        });
        outcome.await.map(drop)
    }

    /// Lets the log start later, at the start of a segment. What is before it is removed here
    /// when this returns, unless that takes long.
    pub(crate) async fn move_start(self: &Arc<Self>, start: Start) -> Result<(), Refused> {
        let outcome = self.request(|request| Event::MoveStart { request, start });
        outcome.await?;
        let deadline = Instant::now() + ACCEPT_TIMEOUT;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let removed = self.stored.start().base.index >= start.base.index;
            if removed || tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Repeats a request until the copy accepts it. One of a leader whose epoch has not
    /// started waits for that.
    async fn request(self: &Arc<Self>, event: impl Fn(u64) -> Event) -> Result<Outcome, Refused> {
        let deadline = Instant::now() + ACCEPT_TIMEOUT;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the request: what changes after its refusal is noticed.
            changed.as_mut().enable();
            let (sender, outcome) = oneshot::channel();
            self.step(|_, state| Some(event(enter(state, sender))));
            let refusal = match outcome.await {
                Ok(Outcome::Refused(refusal)) => refusal,
                Ok(Outcome::Unknown) | Err(_) => return Err(Refused::Unknown),
                Ok(outcome) => return Ok(outcome),
            };
            let waits = match refusal {
                Refusal::NotLeader => self.is_named_leader(),
                Refusal::NoQuorum | Refusal::TooMuchUncommitted => true,
                Refusal::OlderRequest => return Err(Refused::Unknown),
                Refusal::NoSuchMessage => return Err(Refused::Code(code::INVALID_OFFSET)),
                Refusal::NoSuchOffset => return Err(Refused::Code(code::OFFSET_NOT_FOUND)),
                Refusal::TooManyConsumers => {
                    return Err(Refused::Code(code::TOO_MANY_CONSUMER_OFFSETS));
                }
                Refusal::NotRemovable => return Err(Refused::NotAccepted),
            };
            if !waits || tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Err(Refused::NotAccepted);
            }
        }
    }

    /// Whether the metadata names this node as leader, as far as this copy knows.
    fn is_named_leader(&self) -> bool {
        let state = self.state();
        let leader = state.replica.assignment().leader;
        leader == Some(self.node.me()) && state.replica.stopped().is_none()
    }

    /// Whether it has everything that it has acknowledged.
    pub(crate) fn is_trusted(&self) -> bool {
        let state = self.state();
        let replica = &state.replica;
        (replica.trust(), replica.table_trust()) == (Trust::Trusted, Trust::Trusted)
    }

    /// The epoch that this copy follows.
    pub(crate) fn epoch(&self) -> Epoch {
        self.state().replica.assignment().epoch
    }
}

fn enter(state: &mut State, sender: oneshot::Sender<Outcome>) -> u64 {
    state.requests += 1;
    let request = state.requests;
    state.waiting.insert(request, sender);
    request
}
