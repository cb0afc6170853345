//! Reads: the leader answers them while it knows that no other leads.
//!
//! A follower that answers a beat has not refused the leader's epoch before the beat was
//! sent. So when a commit quorum has answered, no other leader had committed anything at
//! that time.

use std::time::Duration;

use consensus::{ReplicaId, rule};

use super::{Leader, micros};
use crate::replication::context::Context;
use crate::replication::effect::{Effect, Outcome, Refusal};
use crate::replication::event::Read;

/// For so long after a beat was sent, its answers confirm that the leader leads.
const CONFIRMED_FOR: Duration = Duration::from_millis(200);
/// How often beats are sent while clients read.
const BEAT: Duration = Duration::from_millis(100);
/// For so long after a read, further ones are expected.
const READS_EXPECTED_FOR: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Reads {
    /// When a client has read last.
    last: Option<Duration>,
    waiting: Vec<WaitingRead>,
}

struct WaitingRead {
    request: u64,
    at: Duration,
    /// It is answered when this version of the table is committed.
    version: u64,
    /// The offset to return; none to read messages.
    offset: Option<Option<u64>>,
}

impl Reads {
    /// A beat has to be sent at this time or later.
    pub(super) fn since(&self) -> Option<Duration> {
        self.waiting.iter().map(|read| read.at).max()
    }

    pub(super) fn beat_every(&self, context: &Context) -> Duration {
        let expected = |last: Duration| context.now.saturating_sub(last) < READS_EXPECTED_FOR;
        if self.last.is_some_and(expected) {
            BEAT.min(context.settings.idle_beat)
        } else {
            context.settings.idle_beat
        }
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|read| read.request)
    }
}

impl Leader {
    /// Whether messages may be read at this time without a round.
    pub(in crate::replication) fn may_read(&mut self, context: &Context, now: Duration) -> bool {
        self.reads.last = self.reads.last.max(Some(now));
        let since = now.saturating_sub(CONFIRMED_FOR);
        self.serves(context) && self.is_confirmed(context, since)
    }

    /// Offset after the last committed message.
    pub(in crate::replication) fn commit_offset(&self) -> u64 {
        self.commit_offset
    }

    /// Nothing is served before what earlier epochs committed is known.
    fn serves(&self, context: &Context) -> bool {
        context.commit >= self.first || !rule!(ServesAfterFirstRecord)
    }

    /// Whether a quorum has answered a beat that was sent at this time or later.
    fn is_confirmed(&self, context: &Context, since: Duration) -> bool {
        let since = micros(since);
        let has = |node: ReplicaId| match self.peer(node) {
            _ if node == context.me => true,
            Some(peer) => peer.confirmed_micros.is_some_and(|at| at >= since),
            None => false,
        };
        let confirms = |set: &[ReplicaId]| {
            let count = set.iter().filter(|node| has(**node)).count();
            count >= context.assignment.commit_quorum(set.len())
        };
        !rule!(ReadsConfirmed)
            || confirms(&context.assignment.in_sync) && self.proposed.iter().all(|it| confirms(it))
    }

    /// A client reads: it is answered after a round, if that is needed.
    pub(in crate::replication) fn read(&mut self, context: &Context, request: u64, what: Read) {
        let (version, offset) = match what {
            Read::Messages => (0, None),
            Read::Offset(consumer) => {
                let entry = context.table.entries.get(&consumer);
                let version = self.offsets.may_be_committed();
                let changed = entry.map_or(context.table.at.version, |entry| entry.version);
                let offset = entry.and_then(|entry| entry.offset);
                (version.max(changed), Some(offset))
            }
        };
        self.reads.last = Some(context.now);
        self.reads.waiting.push(WaitingRead {
            request,
            at: context.now,
            version,
            offset,
        });
    }

    pub(super) fn answer_reads(&mut self, context: &mut Context) {
        if self.reads.waiting.is_empty() || !self.serves(context) {
            return;
        }
        let fresh = context.now.saturating_sub(CONFIRMED_FOR);
        let fresh = self.is_confirmed(context, fresh);
        let waiting = std::mem::take(&mut self.reads.waiting);
        for read in waiting {
            let confirmed = fresh || self.is_confirmed(context, read.at);
            if !confirmed || read.version > self.offsets.commit {
                self.reads.waiting.push(read);
                continue;
            }
            let end = self.commit_offset;
            let outcome = read
                .offset
                .map_or(Outcome::Readable { end }, Outcome::Offset);
            let request = read.request;
            context.emit(Effect::Reply { request, outcome });
        }
    }

    /// What no quorum confirms in time is refused.
    pub(super) fn refuse_old_reads(&mut self, context: &mut Context) {
        let now = context.now;
        let patience = context.settings.failover_timeout;
        let old = |read: &mut WaitingRead| now.saturating_sub(read.at) >= patience;
        for read in self.reads.waiting.extract_if(.., old) {
            context.emit(Effect::Reply {
                request: read.request,
                outcome: Outcome::Refused(Refusal::NoQuorum),
            });
        }
    }
}
