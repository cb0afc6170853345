//! Attempts to have the leader of a partition serve a request.
//!
//! Where partitions are served by copies, a request whose leader is not known, does not answer
//! or does not lead any more is repeated, at most for [`PATIENCE`]. It stays with the
//! generation of the first attempt. An append may be repeated after an attempt whose outcome
//! is unknown, if it has a tag: the leader then knows it again. After such an attempt,
//! the answer is never that nothing was stored, unless it is certain: clients would send
//! the same again under another tag.

use std::time::Duration;

use adapters::metadata::{PartitionKey, code};
use replicated_log::links::RpcError;
use tokio::time::Instant;

use super::messages::{DataReply, DataRequest, Poll, REQUEST};
use super::pending_commits::PendingCommit;
use super::place::Place;
use super::reading::PollMemory;
use super::{OWNER_TIMEOUT, Partitions};
use crate::cluster::Failure;

/// How long a request is repeated.
const PATIENCE: Duration = OWNER_TIMEOUT;
/// The same while no node can lead.
const ALONE_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked, at least, whether another node leads than the one that does not
/// answer.
const ATTEMPT: Duration = Duration::from_millis(200);
/// Between two attempts, unless a leader changes.
const PAUSE: Duration = Duration::from_millis(20);

/// What the attempts so far have shown.
struct Attempts {
    key: PartitionKey,
    deadline: Instant,
    /// Since when no other node than the one that was tried can lead.
    alone_since: Option<Instant>,
    /// One may have been stored.
    unknown: bool,
    first: bool,
}

impl Attempts {
    fn new(place: &Place) -> Self {
        Self {
            key: place.key,
            deadline: Instant::now() + PATIENCE,
            alone_since: None,
            unknown: false,
            first: true,
        }
    }

    /// Refuses to wait for a node that is down where no other can lead: a client that waited
    /// for it would do nothing else.
    fn is_alone(&mut self, tried: &Place, now: Instant) -> Result<(), Failure> {
        if tried.live && tried.copies > 1 {
            self.alone_since = None;
            return Ok(());
        }
        let since = *self.alone_since.get_or_insert(now);
        let down = !tried.live && tried.copies == 1;
        match down || now.duration_since(since) >= ALONE_PATIENCE {
            true if self.unknown => Err(Failure::OutcomeUnknown),
            true => Err(Failure::NotAccepted),
            false => Ok(()),
        }
    }

    /// The answer to the request, or none to repeat it.
    fn judge<T>(
        &mut self,
        outcome: Result<T, Failure>,
        repeatable: bool,
    ) -> Option<Result<T, Failure>> {
        self.first = false;
        match outcome {
            Ok(reply) => Some(Ok(reply)),
            Err(Failure::NotAccepted) => None,
            Err(Failure::OutcomeUnknown) => {
                self.unknown = true;
                (!repeatable).then_some(Err(Failure::OutcomeUnknown))
            }
            // What an attempt has stored may have been removed with the partition.
            Err(Failure::Refused(code::PARTITION_NOT_FOUND)) if self.unknown => {
                Some(Err(Failure::OutcomeUnknown))
            }
            Err(failure) => Some(Err(failure)),
        }
    }
}

impl DataRequest {
    /// Whether it may be repeated when its outcome is unknown.
    fn is_repeatable(&self) -> bool {
        match self {
            Self::Append { .. } => false,
            Self::Send(send) => send.tag.is_some(),
            // An older one could set an offset back, unless it is known to be older.
            Self::ChangeOffset(change) => change.tag.is_some(),
            request => request.is_read_only(),
        }
    }

    /// For an attempt at the leader of this place.
    fn attempted_at(&mut self, place: &Place, unknown: bool) {
        if let (Self::Send(send), Some(epoch)) = (self, place.epoch) {
            if unknown && send.first_epoch.is_none() {
                send.first_epoch = Some(send.epoch);
            }
            send.epoch = epoch;
        }
    }
}

impl Partitions {
    /// Has the owner serve a request. If this node is the owner, the request must have been
    /// judged by the state that `place` is from.
    pub(crate) async fn call(
        &self,
        place: Place,
        mut request: DataRequest,
    ) -> Result<DataReply, Failure> {
        if place.epoch.is_none() {
            return self.attempt(&place, request, true, OWNER_TIMEOUT).await;
        }
        let repeatable = request.is_repeatable();
        let mut attempts = Attempts::new(&place);
        let mut place = place;
        loop {
            let judged = attempts.first;
            request.attempted_at(&place, attempts.unknown);
            let outcome = self
                .attempt_while_leading(&place, request.clone(), judged)
                .await;
            if let Some(answer) = attempts.judge(outcome, repeatable) {
                return answer;
            }
            place = self.next_place(&mut attempts, &place).await?;
        }
    }

    /// Polls the leader; with what to commit, if that is this node.
    pub(super) async fn poll_leader(
        &self,
        place: Place,
        poll: Poll,
        memory: &PollMemory,
    ) -> Result<(Place, DataReply, Option<PendingCommit>), Failure> {
        let mut attempts = Attempts::new(&place);
        let mut place = place;
        loop {
            let outcome = self.poll_once(&place, poll, attempts.first, memory).await;
            if place.epoch.is_none() {
                let (reply, commit) = outcome?;
                return Ok((place, reply, commit));
            }
            if let Some(answer) = attempts.judge(outcome, true) {
                return answer.map(|(reply, commit)| (place, reply, commit));
            }
            place = self.next_place(&mut attempts, &place).await?;
        }
    }

    async fn poll_once(
        &self,
        place: &Place,
        poll: Poll,
        judged: bool,
        memory: &PollMemory,
    ) -> Result<(DataReply, Option<PendingCommit>), Failure> {
        if !place.live {
            return Err(Failure::NotAccepted);
        }
        if place.owner == self.metadata.me {
            let polled = match judged {
                true => self.local.poll_judged(poll, place.options, memory).await,
                false => self.local.poll_within(poll, memory).await,
            };
            let (reply, commit) = polled.unwrap_or_else(|code| (DataReply::Refused(code), None));
            return Ok((reply.or_failure()?, commit));
        }
        let polled = self.poll_elsewhere(place, poll, memory);
        let reply = match place.epoch {
            Some(_) => {
                self.while_leading(place, Failure::NotAccepted, polled)
                    .await?
            }
            None => polled.await?,
        };
        Ok((reply, None))
    }

    /// An attempt that ends when another node leads: the former leader may not answer.
    async fn attempt_while_leading(
        &self,
        place: &Place,
        request: DataRequest,
        judged: bool,
    ) -> Result<DataReply, Failure> {
        let lost = match request.is_read_only() {
            true => Failure::NotAccepted,
            false => Failure::OutcomeUnknown,
        };
        let here = place.owner == self.metadata.me;
        let attempt = self.attempt(place, request, judged, OWNER_TIMEOUT);
        match here {
            // A copy of this node ends its requests itself.
            true => attempt.await,
            false => self.while_leading(place, lost, attempt).await,
        }
    }

    /// Waits for an attempt at another node as long as that leads.
    async fn while_leading<T>(
        &self,
        place: &Place,
        lost: Failure,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                outcome = &mut attempt => return outcome,
                () = self.leaders_change_within(ATTEMPT) => {
                    let now = Place::of(&self.metadata.reader.read(), &place.key);
                    if now.is_none_or(|now| now.epoch != place.epoch) {
                        return Err(lost);
                    }
                }
            }
        }
    }

    /// Returns when a partition may have another leader, or after this time.
    async fn leaders_change_within(&self, pause: Duration) {
        match &self.local.copies {
            Some(copies) => copies.leaders_change_within(pause).await,
            None => tokio::time::sleep(pause).await,
        }
    }

    /// One attempt. `judged`: by the state that `place` is from.
    async fn attempt(
        &self,
        place: &Place,
        request: DataRequest,
        judged: bool,
        timeout: Duration,
    ) -> Result<DataReply, Failure> {
        if !place.live {
            return Err(Failure::NotAccepted);
        }
        if place.owner == self.metadata.me {
            let reply = match judged {
                true => self.local.serve_judged(request, place.options).await,
                false => self.local.serve(request).await,
            };
            return reply.or_failure();
        }
        let read_only = request.is_read_only();
        let parts = request.encode();
        match self.links.call(place.owner, REQUEST, parts, timeout).await {
            Ok(answer) => DataReply::decode(answer)
                .ok_or(Failure::OutcomeUnknown)?
                .or_failure(),
            Err(RpcError::NotSent) => Err(Failure::NotAccepted),
            Err(RpcError::Unknown | RpcError::NoRoom(_)) if read_only => Err(Failure::NotAccepted),
            Err(RpcError::Unknown | RpcError::NoRoom(_)) => Err(Failure::OutcomeUnknown),
        }
    }

    /// Where the partition is when it is time for another attempt.
    async fn next_place(&self, attempts: &mut Attempts, tried: &Place) -> Result<Place, Failure> {
        let now = Instant::now();
        if now >= attempts.deadline {
            return Err(Failure::OutcomeUnknown);
        }
        attempts.is_alone(tried, now)?;
        let pause = PAUSE.min(attempts.deadline - now);
        self.leaders_change_within(pause).await;
        let place = Place::of(&self.metadata.reader.read(), &attempts.key);
        place.ok_or(match attempts.unknown {
            true => Failure::OutcomeUnknown,
            false => Failure::Refused(code::PARTITION_NOT_FOUND),
        })
    }
}
