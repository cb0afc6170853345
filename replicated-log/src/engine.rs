//! What drives the replica.
//!
//! A round ([`Turns`](super::turns::Turns)) takes everything that waits, hands it to the replica, and carries out what
//! the replica wants: batches to the write-ahead log's thread, messages to the
//! links, answers to their callers. It never blocks on a disk or a socket.
//!
//! Whoever puts a message into the [`Inbox`](super::inbox::Inbox) runs a round
//! itself, where nobody else does: a message of a peer is answered by the thread that
//! has read it, without waking another. The consensus thread runs what is left over
//! by them, and when time passes.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use consensus::{Parts, ReplicaId, Tick};
use replica::driver::{Channel, Event, FileJob, Now, Output, Replica};
use tokio::sync::watch;
use tracing::{error, info};

use super::answers::Answers;
use super::handle::Leadership;
use super::inbox::{Message, Submission, Waiting};
use super::refusals::Refusals;
use super::turns::Rounds;
use super::wal_thread::WalJob;
use crate::links::OneWayLink;
use crate::metrics::LogMetrics;

/// Messages taken before the replica's outputs are carried out.
const MESSAGES_PER_ROUND_MAX: usize = 4_096;
/// No more commands are taken after so many: first the replica's outputs are carried
/// out, and refusals are some of them.
const COMMANDS_PER_ROUND_MAX: usize = 8_192;
/// The consensus thread looks at least so often.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Links of the one-way lanes to every peer.
pub(crate) struct PeerLinks {
    pub(crate) consensus: BTreeMap<ReplicaId, PeerLink>,
    pub(crate) bulk: BTreeMap<ReplicaId, PeerLink>,
}

pub(crate) struct PeerLink {
    link: OneWayLink,
    /// Something was sent in this round.
    used: bool,
}

impl From<OneWayLink> for PeerLink {
    fn from(link: OneWayLink) -> Self {
        Self { link, used: false }
    }
}

impl PeerLinks {
    fn send(&mut self, to: ReplicaId, channel: Channel, message: Parts) {
        let links = match channel {
            Channel::Consensus => &mut self.consensus,
            Channel::Bulk => &mut self.bulk,
        };
        if let Some(peer) = links.get_mut(&to) {
            peer.link.send(message);
            peer.used = true;
        }
    }

    /// Writes what this round has sent.
    fn flush(&mut self) {
        let all = self.consensus.values_mut().chain(self.bulk.values_mut());
        for peer in all.filter(|peer| peer.used) {
            peer.link.flush();
            peer.used = false;
        }
    }
}

/// The replica and all that a round needs.
pub(super) struct Engine {
    pub(super) replica: Replica,
    pub(super) tick: Duration,
    pub(super) waiting: Waiting,
    pub(super) wal: mpsc::Sender<WalJob>,
    pub(super) files: mpsc::Sender<FileJob>,
    pub(super) links: PeerLinks,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) answers: Answers,
    pub(super) started: Instant,
    pub(super) refusals: Refusals,
    pub(super) metrics: Arc<LogMetrics>,
}

impl Rounds for Engine {
    fn round(&mut self) -> Option<Result<(), String>> {
        let now = self.now();
        self.replica.handle(now, Event::Tick);
        for _ in 0..MESSAGES_PER_ROUND_MAX {
            let Some(message) = self.waiting.next_message() else {
                break;
            };
            match self.take(now, message) {
                Flow::Go => {}
                Flow::Stop => return Some(Ok(())),
                Flow::Fail(why) => return Some(Err(why)),
            }
        }
        self.take_commands(now);
        if let Err(error) = self.replica.flush() {
            error!(%error, "the replica must stop");
            return Some(Err(error.to_string()));
        }
        let replied_at = Instant::now();
        while let Some(output) = self.replica.poll() {
            self.carry_out(replied_at, output);
        }
        self.links.flush();
        self.answers.tell();
        None
    }

    fn deadline(&self) -> Instant {
        let due = self.replica.next_deadline();
        due.map_or(Instant::now() + SLEEP_MAX, |due| {
            self.started + since_start(due, self.tick)
        })
    }
}

impl Engine {
    fn now(&self) -> Now {
        let ticks = self.started.elapsed().as_micros() / self.tick.as_micros().max(1);
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            tick: Tick(u64::try_from(ticks).unwrap_or(u64::MAX)),
            wall_micros: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn take_commands(&mut self, now: Now) {
        let begun = Instant::now();
        let mut taken = 0;
        while taken < COMMANDS_PER_ROUND_MAX
            && let Some(submission) = self.waiting.next_submission()
        {
            taken += submission.len();
            match submission {
                Submission::One(command, answer) => {
                    let ticket = self.answers.submit(begun, answer);
                    self.replica.handle(now, Event::Propose { ticket, command });
                }
                Submission::Many(commands, outcomes, _room) => {
                    let group = self.answers.group(outcomes, commands.len());
                    for (tag, command) in commands {
                        let ticket = self.answers.submit_of(begun, group, tag);
                        self.replica.handle(now, Event::Propose { ticket, command });
                    }
                }
            }
        }
    }

    fn take(&mut self, now: Now, message: Message) -> Flow {
        let message = match message.into_event() {
            Ok(event) => {
                self.replica.handle(now, event);
                return Flow::Go;
            }
            Err(message) => message,
        };
        match message {
            Message::Read(answer) => {
                let ticket = self.answers.read(answer);
                self.replica.handle(now, Event::ReadIndex(ticket));
            }
            Message::Transfer(to, answer) => {
                let ticket = self.answers.transfer(answer);
                self.replica
                    .handle(now, Event::TransferLeadership { ticket, to });
            }
            Message::Status(answer) => {
                let (waiting, dropped) = self.waiting.traffic().peer_messages();
                self.metrics.set_inbox(waiting, dropped);
                let _ = answer.send(self.replica.status());
            }
            Message::Fatal(why) => return Flow::Fail(why),
            Message::Stop => return Flow::Stop,
            Message::Peer(..)
            | Message::Unreachable(_)
            | Message::Persisted(_)
            | Message::File(_) => unreachable!("events were taken above"),
        }
        Flow::Go
    }

    fn carry_out(&mut self, now: Instant, output: Output) {
        match output {
            // A thread that is gone has reported why.
            Output::Persist(batch) => drop(self.wal.send(WalJob::Write(batch))),
            Output::Compact(through) => drop(self.wal.send(WalJob::Compact(through))),
            Output::File(job) => drop(self.files.send(job)),
            Output::Send {
                to,
                channel,
                message,
            } => self.links.send(to, channel, message),
            Output::ProposeResult { ticket, result } => {
                let took = self.answers.replied(now, ticket, result);
                self.metrics.commit_seconds.observe(took.as_secs_f64());
            }
            Output::ReadResult { ticket, result } => self.answers.read_done(ticket, result),
            Output::TransferResult { ticket, result } => {
                let result = result.map_err(|error| error.to_string());
                self.answers.transferred(ticket, result);
            }
            Output::Refused(error) => self.refusals.log(now, &error),
            Output::LeaderChanged { term, leader } => {
                info!(%term, leader = leader.map(|id| id.0), "leadership changed");
                self.leadership.send_replace(Leadership { term, leader });
            }
        }
    }
}

/// When a tick comes, after the start.
fn since_start(at: Tick, tick: Duration) -> Duration {
    let micros = u64::try_from(tick.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(micros.saturating_mul(at.0))
}

enum Flow {
    Go,
    Stop,
    Fail(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_counted_for_longer_than_a_machine_runs() {
        let day = 24 * 60 * 60 * 1_000;
        let at = since_start(Tick(1_000 * day), Duration::from_millis(1));
        assert_eq!(at, Duration::from_millis(1_000 * day));
    }
}
