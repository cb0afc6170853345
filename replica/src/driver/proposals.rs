//! Commands that wait, and the batches that carry them.
//!
//! A batch is what waits when there is room in the pipeline: a single command is proposed
//! immediately, and under load the depth of the pipeline makes batches grow. No timer is
//! involved.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use consensus::rule;
use consensus::{BatchBuilder, ProposalId, ProposeError};

use super::config::ReplicaConfig;
use super::events::Ticket;

/// Bytes of a batch in addition to its commands.
const BATCH_OVERHEAD_BYTES: usize = 64;
/// Counted for a waiting command in addition to its bytes: tiny ones are not free.
const WAITING_OVERHEAD_BYTES: usize = 64;

/// A batch to be proposed.
pub(super) struct Proposal {
    pub(super) id: ProposalId,
    pub(super) payload: Bytes,
    pub(super) commands: usize,
}

/// The commands that wait, and the tickets of those that are in flight.
pub(super) struct Proposals {
    bytes_max: usize,
    commands_max: usize,
    pipeline_max: usize,
    waiting_bytes_max: usize,
    waiting: VecDeque<(Ticket, Bytes)>,
    waiting_bytes: usize,
    in_flight: BTreeMap<ProposalId, Vec<Ticket>>,
    last_id: u64,
}

impl Proposals {
    pub(super) fn new(config: &ReplicaConfig) -> Self {
        Self {
            bytes_max: config.batch_bytes_max,
            commands_max: config.batch_commands_max,
            pipeline_max: config.pipeline_max,
            waiting_bytes_max: config.waiting_bytes_max,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: BTreeMap::new(),
            last_id: 0,
        }
    }

    pub(super) fn push(&mut self, ticket: Ticket, command: Bytes) -> Result<(), ProposeError> {
        let max = self.bytes_max - BATCH_OVERHEAD_BYTES;
        if command.len() > max {
            return Err(ProposeError::TooLarge {
                bytes: command.len(),
                max,
            });
        }
        let bytes = self.waiting_bytes + command.len() + WAITING_OVERHEAD_BYTES;
        if bytes > self.waiting_bytes_max {
            return Err(ProposeError::Overloaded);
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back((ticket, command));
        Ok(())
    }

    /// The next batch to propose, with its timestamp in microseconds, when commands wait
    /// and the pipeline has room.
    pub(super) fn next(&mut self, timestamp: impl FnOnce() -> u64) -> Option<Proposal> {
        let full = self.in_flight.len() >= self.pipeline_max && rule!(PipelineBounded);
        if self.waiting.is_empty() || full {
            return None;
        }
        let (commands, bytes) = self.fitting();
        let mut builder = BatchBuilder::with_capacity(commands, bytes);
        let mut tickets = Vec::with_capacity(commands);
        for (ticket, command) in self.waiting.drain(..commands) {
            if rule!(ProposedBytesReleased) {
                self.waiting_bytes -= command.len() + WAITING_OVERHEAD_BYTES;
            }
            builder.push(&command);
            tickets.push(ticket);
        }
        self.last_id += 1;
        let id = ProposalId(self.last_id);
        self.in_flight.insert(id, tickets);
        Some(Proposal {
            id,
            payload: builder.finish(timestamp()),
            commands,
        })
    }

    /// How many commands fit into the next batch, and their bytes. A batch occupies its
    /// memory for as long as the log contains it, so its buffer is no larger than needed.
    fn fitting(&self) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for (_, command) in self.waiting.iter().take(self.commands_max) {
            let longer = bytes + command.len();
            if BatchBuilder::bytes(count + 1, longer) > self.bytes_max {
                break;
            }
            (count, bytes) = (count + 1, longer);
        }
        (count, bytes)
    }

    /// Removes a batch that was committed or rejected; returns its tickets.
    pub(super) fn take(&mut self, id: ProposalId) -> Vec<Ticket> {
        self.in_flight.remove(&id).unwrap_or_default()
    }

    /// Removes all commands that wait; returns their tickets.
    pub(super) fn take_waiting(&mut self) -> Vec<Ticket> {
        if rule!(RefusedBytesReleased) {
            self.waiting_bytes = 0;
        }
        self.waiting.drain(..).map(|(ticket, _)| ticket).collect()
    }

    /// Commands that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Batches without a result.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

#[cfg(test)]
mod tests {
    use consensus::ReplicaId;

    use super::*;

    fn proposals(bytes_max: usize, commands_max: usize) -> Proposals {
        Proposals::new(&ReplicaConfig {
            batch_bytes_max: bytes_max,
            batch_commands_max: commands_max,
            pipeline_max: 9,
            waiting_bytes_max: 1 << 20,
            ..ReplicaConfig::new(ReplicaId(1))
        })
    }

    #[test]
    fn a_batch_takes_what_fits_and_no_more_memory_than_that() {
        let mut proposals = proposals(1_000, 3);
        for (ticket, bytes) in [10, 20, 0, 5, 936, 100, 880, 1].into_iter().enumerate() {
            let command = Bytes::from(vec![7; bytes]);
            assert_eq!(proposals.push(Ticket(ticket as u64), command), Ok(()));
        }
        let mut sizes = Vec::new();
        while let Some(proposal) = proposals.next(|| 1) {
            assert_eq!(proposals.take(proposal.id).len(), proposal.commands);
            let length = proposal.payload.len();
            let buffer = proposal.payload.try_into_mut();
            assert_eq!(buffer.map(|buffer| buffer.capacity()), Ok(length));
            sizes.push((proposal.commands, length));
        }
        assert_eq!(sizes, [(3, 55), (2, 962), (1, 117), (2, 902)]);
        assert_eq!((proposals.waiting(), proposals.waiting_bytes), (0, 0));
    }

    #[test]
    fn commands_of_nothing_are_bounded_too() {
        let mut proposals = proposals(1 << 20, 10);
        let taken = (0..u64::MAX)
            .take_while(|ticket| proposals.push(Ticket(*ticket), Bytes::new()).is_ok())
            .count();
        assert_eq!(taken, (1 << 20) / WAITING_OVERHEAD_BYTES);
        let refused = proposals.push(Ticket(0), Bytes::new());
        assert_eq!(refused, Err(ProposeError::Overloaded));
        let _ = proposals.next(|| 1);
        assert_eq!(proposals.push(Ticket(0), Bytes::new()), Ok(()));
    }
}
