//! A round of the replica.
//!
//! A round takes the messages and commands that wait, passes them to the replica, and
//! carries out its outputs: batches go to the thread of the write-ahead log, messages to
//! the links, replies to their callers. It never blocks on a disk or a socket.
//!
//! [`ExclusiveRunner`](crate::exclusive::ExclusiveRunner) decides which thread runs the
//! round. Mostly it is the thread that has posted a message: it replies to a peer's message
//! itself, without waking another thread. The consensus thread runs the rounds that remain,
//! and those that are due by the clock.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use consensus::Tick;
use replica::driver::{Event, FileJob, Now, Output, Replica};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::disk_watch::DiskWatch;
use crate::error::{FatalError, TransferError};
use crate::exclusive::Rounds;
use crate::handle::Leadership;
use crate::inbox::{InboxReceiver, Message, Submission};
use crate::metrics::LogMetrics;
use crate::peer_links::PeerLinks;
use crate::pending::PendingReplies;
use crate::refusals::Refusals;
use crate::wal_thread::WalJob;

/// Messages of one round at most.
const MESSAGES_PER_ROUND_MAX: usize = 4_096;
/// A round takes no more commands after so many, so that the outputs of the replica, which
/// include refusals, do not wait.
const COMMANDS_PER_ROUND_MAX: usize = 8_192;
/// The consensus thread runs a round at least this often.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The replica, and what a round of it uses.
pub(crate) struct Engine {
    pub(crate) replica: Replica,
    pub(crate) tick: Duration,
    pub(crate) inbox: InboxReceiver,
    pub(crate) wal: mpsc::Sender<WalJob>,
    pub(crate) files: mpsc::Sender<FileJob>,
    pub(crate) links: PeerLinks,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) pending: PendingReplies,
    pub(crate) started: Instant,
    pub(crate) disk: DiskWatch,
    pub(crate) refusals: Refusals,
    pub(crate) metrics: Arc<LogMetrics>,
}

impl Rounds for Engine {
    fn round(&mut self) -> Option<Result<(), FatalError>> {
        let now = self.now();
        if self.disk.hangs(Instant::now()) {
            warn!(
                "the write-ahead log has made nothing durable for ten election timeouts: this replica does not lead until its disk returns; check the disk"
            );
        }
        self.replica.handle(now, Event::Tick);
        for _ in 0..MESSAGES_PER_ROUND_MAX {
            let Some(message) = self.inbox.next_message() else {
                break;
            };
            match self.take(now, message) {
                Flow::Continue => {}
                Flow::Stop => return Some(Ok(())),
                Flow::Fail(error) => return Some(Err(error)),
            }
        }
        self.take_commands(now);
        if let Err(error) = self.replica.flush() {
            error!(%error, "this replica must stop");
            return Some(Err(error.into()));
        }
        let replied_at = Instant::now();
        while let Some(output) = self.replica.poll() {
            self.carry_out(replied_at, output);
        }
        self.links.flush();
        self.pending.send_outcomes();
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
        let started = Instant::now();
        let mut taken = 0;
        while taken < COMMANDS_PER_ROUND_MAX
            && let Some(submission) = self.inbox.next_submission()
        {
            taken += submission.len();
            match submission {
                Submission::One(command, reply) => {
                    let ticket = self.pending.add_command(started, reply);
                    self.replica.handle(now, Event::Propose { ticket, command });
                }
                Submission::Many(commands, outcomes, _permit) => {
                    let group = self.pending.add_group(outcomes, commands.len());
                    for (tag, command) in commands {
                        let ticket = self.pending.add_group_command(started, group, tag);
                        self.replica.handle(now, Event::Propose { ticket, command });
                    }
                }
            }
        }
    }

    fn take(&mut self, now: Now, message: Message) -> Flow {
        let event = match message {
            Message::Peer(from, message) => Event::Receive { from, message },
            Message::Unreachable(peer) => Event::Unreachable(peer),
            Message::Persisted(id) => {
                if self.disk.persisted(Instant::now(), id) {
                    info!("the disk of the write-ahead log has returned");
                }
                Event::Persisted(id)
            }
            Message::File(event) => Event::File(event),
            Message::Read(reply) => Event::ReadIndex(self.pending.add_read(reply)),
            Message::Transfer(to, reply) => Event::TransferLeadership {
                ticket: self.pending.add_transfer(reply),
                to,
            },
            Message::Status(reply) => {
                let (waiting, dropped) = self.inbox.peer_messages();
                self.metrics.set_inbox(waiting, dropped);
                let _ = reply.send(self.replica.status());
                return Flow::Continue;
            }
            Message::LinksOpened(peer, links) => {
                self.links.open(peer, links);
                return Flow::Continue;
            }
            Message::LinksClosed(peer) => {
                self.links.close(peer);
                return Flow::Continue;
            }
            Message::Fatal(error) => return Flow::Fail(*error),
            Message::Stop => return Flow::Stop,
        };
        self.replica.handle(now, event);
        Flow::Continue
    }

    fn carry_out(&mut self, now: Instant, output: Output) {
        match output {
            // A thread that has ended has posted why.
            Output::Persist(batch) => {
                self.disk.wrote(now, batch.id);
                drop(self.wal.send(WalJob::Write(batch)));
            }
            Output::Compact(through) => drop(self.wal.send(WalJob::Compact(through))),
            Output::File(job) => drop(self.files.send(job)),
            Output::Send {
                to,
                channel,
                message,
            } => self.links.send(to, channel, message),
            Output::ProposeResult { ticket, result } => {
                let took = self.pending.complete_command(now, ticket, result);
                self.metrics.commit_seconds.observe(took.as_secs_f64());
            }
            Output::ReadResult { ticket, result } => self.pending.complete_read(ticket, result),
            Output::TransferResult { ticket, result } => self
                .pending
                .complete_transfer(ticket, result.map_err(TransferError::from)),
            Output::Refused(error) => {
                let leader = self.leadership.borrow().leader;
                self.refusals.log(now, &error, leader);
            }
            Output::LeaderChanged { term, leader } => {
                info!(%term, leader = %leader.unwrap_or_default(), "leadership changed");
                self.leadership.send_replace(Leadership { term, leader });
            }
        }
    }
}

/// The time from the start until a tick.
fn since_start(at: Tick, tick: Duration) -> Duration {
    let micros = u64::try_from(tick.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(micros.saturating_mul(at.0))
}

enum Flow {
    Continue,
    Stop,
    Fail(FatalError),
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
