//! Who waits for which answer.

use std::time::{Duration, Instant};

use consensus::Index;
use consensus::{ProposeError, ReadError};
use replica::driver::{Applied, Ticket};
use rustc_hash::FxHashMap;
use slab::Slab;
use tokio::sync::oneshot;

use super::handle::{Outcome, Outcomes};

type Submitted = oneshot::Sender<Result<Applied, ProposeError>>;

/// Who waits for the outcome of a command.
enum Submitter {
    One(Submitted),
    /// One of a group, with its tag.
    Of(GroupKey, u64),
}

/// Commands that were queued together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupKey(usize);

struct Group {
    outcomes: Outcomes,
    /// How many commands have no outcome yet.
    open: usize,
    /// Outcomes of this round.
    done: Vec<Outcome>,
}

/// Answers that callers wait for, by ticket.
#[derive(Default)]
pub(super) struct Answers {
    next: u64,
    submits: FxHashMap<Ticket, (Instant, Submitter)>,
    reads: FxHashMap<Ticket, oneshot::Sender<Result<Index, ReadError>>>,
    transfers: FxHashMap<Ticket, oneshot::Sender<Result<(), String>>>,
    groups: Slab<Group>,
    /// Groups with outcomes of this round.
    to_tell: Vec<GroupKey>,
}

impl Answers {
    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    pub(super) fn submit(&mut self, now: Instant, answer: Submitted) -> Ticket {
        let ticket = self.ticket();
        self.submits.insert(ticket, (now, Submitter::One(answer)));
        ticket
    }

    /// Begins a group of so many commands.
    pub(super) fn group(&mut self, outcomes: Outcomes, commands: usize) -> GroupKey {
        GroupKey(self.groups.insert(Group {
            outcomes,
            open: commands,
            done: Vec::new(),
        }))
    }

    /// One command of a group.
    pub(super) fn submit_of(&mut self, now: Instant, group: GroupKey, tag: u64) -> Ticket {
        let ticket = self.ticket();
        self.submits
            .insert(ticket, (now, Submitter::Of(group, tag)));
        ticket
    }

    pub(super) fn read(&mut self, answer: oneshot::Sender<Result<Index, ReadError>>) -> Ticket {
        let ticket = self.ticket();
        self.reads.insert(ticket, answer);
        ticket
    }

    pub(super) fn transfer(&mut self, answer: oneshot::Sender<Result<(), String>>) -> Ticket {
        let ticket = self.ticket();
        self.transfers.insert(ticket, answer);
        ticket
    }

    /// Answers a submit; returns how long it took. One of a group is answered by
    /// [`Answers::tell`].
    pub(super) fn replied(
        &mut self,
        now: Instant,
        ticket: Ticket,
        result: Result<Applied, ProposeError>,
    ) -> Duration {
        let Some((began, answer)) = self.submits.remove(&ticket) else {
            return Duration::ZERO;
        };
        match answer {
            Submitter::One(answer) => drop(answer.send(result)),
            Submitter::Of(key, tag) => {
                if let Some(group) = self.groups.get_mut(key.0) {
                    if group.done.is_empty() {
                        self.to_tell.push(key);
                    }
                    group.done.push(Outcome { tag, result });
                }
            }
        }
        now.saturating_duration_since(began)
    }

    /// Tells what this round has brought to groups.
    pub(super) fn tell(&mut self) {
        for key in self.to_tell.drain(..) {
            let Some(group) = self.groups.get_mut(key.0) else {
                continue;
            };
            let done = std::mem::take(&mut group.done);
            group.open -= done.len();
            let is_over = group.open == 0;
            let _ = group.outcomes.send(done);
            if is_over {
                self.groups.remove(key.0);
            }
        }
    }

    pub(super) fn read_done(&mut self, ticket: Ticket, result: Result<Index, ReadError>) {
        if let Some(answer) = self.reads.remove(&ticket) {
            let _ = answer.send(result);
        }
    }

    pub(super) fn transferred(&mut self, ticket: Ticket, result: Result<(), String>) {
        if let Some(answer) = self.transfers.remove(&ticket) {
            let _ = answer.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_group_is_told_once_a_round_and_forgotten_with_its_last_outcome() {
        let now = Instant::now();
        let mut answers = Answers::default();
        let (outcomes, mut told) = mpsc::unbounded_channel();
        let group = answers.group(outcomes, 3);
        let tickets: Vec<_> = (7..10)
            .map(|tag| answers.submit_of(now, group, tag))
            .collect();
        let refused = || Err(ProposeError::Overloaded);
        let tags = |done: Vec<Outcome>| done.iter().map(|one| one.tag).collect::<Vec<_>>();
        answers.replied(now, tickets[1], refused());
        answers.replied(now, tickets[0], refused());
        assert!(told.try_recv().is_err());
        answers.tell();
        assert_eq!(told.try_recv().map(tags), Ok(vec![8, 7]));
        answers.tell();
        // Each is answered once.
        answers.replied(now, tickets[1], refused());
        answers.tell();
        assert!(told.try_recv().is_err());
        answers.replied(now + Duration::from_millis(3), tickets[2], refused());
        answers.tell();
        assert_eq!(told.try_recv().map(tags), Ok(vec![9]));
        assert!(answers.groups.is_empty() && answers.submits.is_empty());
        assert_eq!(
            told.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
    }
}
