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
        if self.waiting_bytes + command.len() > self.limits.waiting_bytes_max {
            return Err(Refused::Overloaded);
        }
        self.waiting_bytes += command.len();
        self.waiting.push_back((ticket, command));
        Ok(())
    }

    /// The next batch to propose, when commands wait and the pipeline has room.
    pub(super) fn next(&mut self, wall_micros: u64) -> Option<(ProposalId, Bytes, usize)> {
        if self.waiting.is_empty() || self.in_flight.len() >= self.limits.pipeline_max {
            return None;
        }
        let most = self.waiting.len().min(self.limits.commands_max);
        let bytes = self.waiting_bytes.min(self.limits.bytes_max);
        let mut builder = BatchBuilder::with_capacity(most, bytes);
        let mut tickets = Vec::with_capacity(most);
        while let Some((_, command)) = self.waiting.front() {
            let fits = builder.bytes_with(command.len()) <= self.limits.bytes_max
                && builder.len() < self.limits.commands_max;
            if !fits {
                break;
            }
            if let Some((ticket, command)) = self.waiting.pop_front() {
                self.waiting_bytes -= command.len();
                builder.push(&command);
                tickets.push(ticket);
            }
        }
        self.next_proposal += 1;
        let proposal = ProposalId(self.next_proposal);
        let commands = tickets.len();
        self.in_flight.insert(proposal, tickets);
        Some((proposal, builder.finish(wall_micros), commands))
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
