//! Linearizable reads: confirmed by the core, served when the state machine is there.

use std::collections::BTreeMap;

use consensus::rule;
use consensus::{Index, ReadError, ReadToken};

use super::events::{Output, Outputs, Ticket};

/// The reads without a result.
#[derive(Default)]
pub(super) struct Reads {
    /// Confirmed reads that wait for the state machine, by the index they need.
    confirmed: BTreeMap<Index, Vec<Ticket>>,
    /// All reads without a result, those that are not confirmed yet among them.
    pending: usize,
}

impl Reads {
    /// Adds a read; returns its name in the core.
    pub(super) fn add(&mut self, ticket: Ticket) -> ReadToken {
        self.pending += 1;
        ReadToken(ticket.0)
    }

    /// The core has confirmed a read, which may be served at this index.
    pub(super) fn confirm(&mut self, token: ReadToken, index: Index) {
        self.confirmed
            .entry(index)
            .or_default()
            .push(Ticket(token.0));
    }

    pub(super) fn reject(&mut self, token: ReadToken, error: ReadError, outputs: &mut Outputs) {
        self.pending -= 1;
        outputs.push_back(Output::ReadResult {
            ticket: Ticket(token.0),
            result: Err(error),
        });
    }

    /// Serves the confirmed reads that need no more than what is applied.
    pub(super) fn serve(&mut self, applied: Index, outputs: &mut Outputs) {
        while let Some(first) = self.confirmed.first_entry()
            && (*first.key() <= applied || !rule!(ReadAfterApplied))
        {
            let tickets = first.remove();
            self.pending -= tickets.len();
            outputs.extend(tickets.into_iter().map(|ticket| Output::ReadResult {
                ticket,
                result: Ok(applied),
            }));
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending
    }
}
