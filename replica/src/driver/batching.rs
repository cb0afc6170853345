//! Commands that wait, and the batches that carry them.
//!
//! A batch is whatever waits when there is room in the pipeline: a lone command
//! leaves at once, and under load the pipeline's depth makes batches grow. No
//! timer is involved.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use consensus::{BatchBuilder, ProposalId};

use super::Ticket;

/// Bytes that a batch needs beside its commands.
const BATCH_OVERHEAD_BYTES: usize = 64;
/// What a command that waits takes beside its bytes, where that is bounded: tiny ones
/// are not free.
const WAITING_OVERHEAD_BYTES: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct BatchLimits {
    pub(super) bytes_max: usize,
    pub(super) commands_max: usize,
    pub(super) pipeline_max: usize,
    pub(super) waiting_bytes_max: usize,
}

pub(super) struct Batches {
    limits: BatchLimits,
    waiting: VecDeque<(Ticket, Bytes)>,
    waiting_bytes: usize,
    in_flight: BTreeMap<ProposalId, Vec<Ticket>>,
    next_proposal: u64,
}

/// Why a command may not wait.
pub(super) enum Refused {
    Overloaded,
    TooLarge { bytes: usize, max: usize },
}

impl Batches {
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: BTreeMap::new(),
            next_proposal: 0,
        }
    }

    pub(super) fn push(&mut self, ticket: Ticket, command: Bytes) -> Result<(), Refused> {
        let max = self.limits.bytes_max - BATCH_OVERHEAD_BYTES;
        if command.len() > max {
            return Err(Refused::TooLarge {
                bytes: command.len(),
                max,
            });
        }
        let bytes = self.waiting_bytes + command.len() + WAITING_OVERHEAD_BYTES;
        if bytes > self.limits.waiting_bytes_max {
            return Err(Refused::Overloaded);
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back((ticket, command));
        Ok(())
    }

    /// The next batch to propose, when commands wait and the pipeline has room.
    pub(super) fn next(&mut self, wall_micros: u64) -> Option<(ProposalId, Bytes, usize)> {
        if self.waiting.is_empty() || self.in_flight.len() >= self.limits.pipeline_max {
            return None;
        }
        let (commands, bytes) = self.fitting();
        let mut builder = BatchBuilder::with_capacity(commands, bytes);
        let mut tickets = Vec::with_capacity(commands);
        for (ticket, command) in self.waiting.drain(..commands) {
            self.waiting_bytes -= command.len() + WAITING_OVERHEAD_BYTES;
            builder.push(&command);
            tickets.push(ticket);
        }
        self.next_proposal += 1;
        let proposal = ProposalId(self.next_proposal);
        self.in_flight.insert(proposal, tickets);
        Some((proposal, builder.finish(wall_micros), commands))
    }

    /// How many commands the next batch takes, and their bytes. A batch keeps its memory
    /// for as long as the log holds it, so it gets no more than it needs.
    fn fitting(&self) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for (_, command) in self.waiting.iter().take(self.limits.commands_max) {
            let longer = bytes + command.len();
            if BatchBuilder::bytes(count + 1, longer) > self.limits.bytes_max {
                break;
            }
            (count, bytes) = (count + 1, longer);
        }
        (count, bytes)
    }

    /// The tickets of a batch that was answered.
    pub(super) fn take(&mut self, proposal: ProposalId) -> Vec<Ticket> {
        self.in_flight.remove(&proposal).unwrap_or_default()
    }

    /// Everything that waits and was not proposed.
    pub(super) fn take_waiting(&mut self) -> Vec<Ticket> {
        self.waiting_bytes = 0;
        self.waiting.drain(..).map(|(ticket, _)| ticket).collect()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(bytes_max: usize, commands_max: usize) -> Batches {
        Batches::new(BatchLimits {
            bytes_max,
            commands_max,
            pipeline_max: 9,
            waiting_bytes_max: 1 << 20,
        })
    }

    #[test]
    fn a_batch_takes_what_fits_and_no_more_memory_than_that() {
        let mut batches = batches(1_000, 3);
        for (ticket, bytes) in [10, 20, 0, 5, 936, 100, 880, 1].into_iter().enumerate() {
            let command = Bytes::from(vec![7; bytes]);
            assert!(batches.push(Ticket(ticket as u64), command).is_ok());
        }
        let mut sizes = Vec::new();
        while let Some((proposal, payload, commands)) = batches.next(1) {
            assert_eq!(batches.take(proposal).len(), commands);
            let length = payload.len();
            let buffer = payload.try_into_mut().map(|buffer| buffer.capacity());
            assert_eq!(buffer, Ok(length));
            sizes.push((commands, length));
        }
        assert_eq!(sizes, [(3, 55), (2, 962), (1, 117), (2, 902)]);
        assert_eq!((batches.waiting(), batches.waiting_bytes), (0, 0));
    }

    #[test]
    fn commands_of_nothing_are_bounded_too() {
        let mut batches = batches(1 << 20, 10);
        let taken = (0..u64::MAX)
            .take_while(|ticket| batches.push(Ticket(*ticket), Bytes::new()).is_ok())
            .count();
        assert_eq!(taken, (1 << 20) / WAITING_OVERHEAD_BYTES);
        let _ = batches.next(1);
        assert!(batches.push(Ticket(0), Bytes::new()).is_ok());
    }
}
