//! Replies that callers wait for, by ticket.

use std::time::{Duration, Instant};

use consensus::{Index, ProposeError, ReadError};
use replica::driver::{Applied, Ticket};
use rustc_hash::FxHashMap;
use slab::Slab;
use tokio::sync::oneshot;

use crate::error::TransferError;
use crate::outcome::{Outcome, Outcomes};

pub(crate) type CommandReply = oneshot::Sender<Result<Applied, ProposeError>>;
pub(crate) type ReadReply = oneshot::Sender<Result<Index, ReadError>>;
pub(crate) type TransferReply = oneshot::Sender<Result<(), TransferError>>;

/// What receives the outcome of a command.
enum Receiver {
    Caller(CommandReply),
    /// A group of commands, under a tag.
    Group(GroupKey, u64),
}

/// Names a group of commands that were queued together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupKey(usize);

struct Group {
    outcomes: Outcomes,
    /// Commands without an outcome.
    open: usize,
    /// Outcomes of this round.
    done: Vec<Outcome>,
}

/// Replies that are pending. A reply whose caller has stopped waiting is dropped.
#[derive(Default)]
pub(crate) struct PendingReplies {
    last_ticket: u64,
    commands: FxHashMap<Ticket, (Instant, Receiver)>,
    reads: FxHashMap<Ticket, ReadReply>,
    transfers: FxHashMap<Ticket, TransferReply>,
    groups: Slab<Group>,
    /// Groups with outcomes of this round.
    groups_done: Vec<GroupKey>,
}

impl PendingReplies {
    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    pub(crate) fn add_command(&mut self, now: Instant, reply: CommandReply) -> Ticket {
        let ticket = self.ticket();
        self.commands.insert(ticket, (now, Receiver::Caller(reply)));
        ticket
    }

    /// Adds a group; exactly as many commands must be added to it.
    pub(crate) fn add_group(&mut self, outcomes: Outcomes, commands: usize) -> GroupKey {
        GroupKey(self.groups.insert(Group {
            outcomes,
            open: commands,
            done: Vec::new(),
        }))
    }

    pub(crate) fn add_group_command(&mut self, now: Instant, group: GroupKey, tag: u64) -> Ticket {
        let ticket = self.ticket();
        self.commands
            .insert(ticket, (now, Receiver::Group(group, tag)));
        ticket
    }

    pub(crate) fn add_read(&mut self, reply: ReadReply) -> Ticket {
        let ticket = self.ticket();
        self.reads.insert(ticket, reply);
        ticket
    }

    pub(crate) fn add_transfer(&mut self, reply: TransferReply) -> Ticket {
        let ticket = self.ticket();
        self.transfers.insert(ticket, reply);
        ticket
    }

    /// Replies to the caller of a command, or notes the outcome for its group until
    /// [`Self::send_outcomes`]. Returns how long the command took.
    pub(crate) fn complete_command(
        &mut self,
        now: Instant,
        ticket: Ticket,
        result: Result<Applied, ProposeError>,
    ) -> Duration {
        let Some((started, receiver)) = self.commands.remove(&ticket) else {
            return Duration::ZERO;
        };
        match receiver {
            Receiver::Caller(reply) => drop(reply.send(result)),
            Receiver::Group(key, tag) => {
                if let Some(group) = self.groups.get_mut(key.0) {
                    if group.done.is_empty() {
                        self.groups_done.push(key);
                    }
                    group.done.push(Outcome { tag, result });
                }
            }
        }
        now.saturating_duration_since(started)
    }

    /// Sends the outcomes of this round to their groups.
    pub(crate) fn send_outcomes(&mut self) {
        for key in self.groups_done.drain(..) {
            let Some(group) = self.groups.get_mut(key.0) else {
                continue;
            };
            let done = std::mem::take(&mut group.done);
            group.open -= done.len();
            let is_complete = group.open == 0;
            let _ = group.outcomes.send(done);
            if is_complete {
                self.groups.remove(key.0);
            }
        }
    }

    pub(crate) fn complete_read(&mut self, ticket: Ticket, result: Result<Index, ReadError>) {
        if let Some(reply) = self.reads.remove(&ticket) {
            let _ = reply.send(result);
        }
    }

    pub(crate) fn complete_transfer(&mut self, ticket: Ticket, result: Result<(), TransferError>) {
        if let Some(reply) = self.transfers.remove(&ticket) {
            let _ = reply.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_group_receives_outcomes_once_a_round_and_is_removed_with_the_last() {
        let now = Instant::now();
        let mut pending = PendingReplies::default();
        let (outcomes, mut received) = mpsc::unbounded_channel();
        let group = pending.add_group(outcomes, 3);
        let tickets: Vec<_> = (7..10)
            .map(|tag| pending.add_group_command(now, group, tag))
            .collect();
        let refused = || Err(ProposeError::Overloaded);
        let tags = |done: Vec<Outcome>| done.iter().map(|one| one.tag).collect::<Vec<_>>();
        pending.complete_command(now, tickets[1], refused());
        pending.complete_command(now, tickets[0], refused());
        assert!(received.try_recv().is_err());
        pending.send_outcomes();
        assert_eq!(received.try_recv().map(tags), Ok(vec![8, 7]));
        pending.send_outcomes();
        // Each has one outcome.
        pending.complete_command(now, tickets[1], refused());
        pending.send_outcomes();
        assert!(received.try_recv().is_err());
        pending.complete_command(now + Duration::from_millis(3), tickets[2], refused());
        pending.send_outcomes();
        assert_eq!(received.try_recv().map(tags), Ok(vec![9]));
        assert!(pending.groups.is_empty() && pending.commands.is_empty());
        assert_eq!(
            received.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
    }
}
