//! A power loss between two writes.
//!
//! While a write is in flight, the next batches gather. What is sent about them waits for
//! the write that has them, not for the one before. That shows only when the first is
//! durable, the second is not, and what the second has matters to others: a term that the
//! replica has entered.

use super::{Event, World};
use crate::fault::Fault;
use crate::process::SplitWrites;
use crate::random::Random;

/// How long the leader is silent, at most until another is elected.
const SILENT: (u64, u64) = (250_000, 700_000);
/// The first write lasts for so long, unless the term changes before.
const FIRST_LASTS: u64 = 1_500_000;
/// The first write ends within this time after the term has changed.
const FIRST_ENDS: u64 = 2_000;
/// So long the second write is in flight when power fails.
const SECOND_LASTS: (u64, u64) = (10_000, 400_000);
/// A machine that forgets is back within this time.
const BACK: (u64, u64) = (1_000, 30_000);

impl World {
    pub(super) fn arm_split_writes(&mut self, node: usize, draw: u64) {
        let mut random = Random::new(draw);
        self.processes[node].stalled_until = self.now + FIRST_LASTS;
        self.processes[node].split_writes = Some(SplitWrites {
            in_flight: false,
            silent: random.between(SILENT.0, SILENT.1),
            lasts: random.between_powers(SECOND_LASTS.0, SECOND_LASTS.1),
            back: random.between_powers(BACK.0, BACK.1),
        });
    }

    /// A write starts: the first of the two, when the replica waits for that. Nothing comes
    /// from its leader any more.
    pub(super) fn split_write_starts(&mut self, node: usize) {
        let Some(split) = &mut self.processes[node].split_writes else {
            return;
        };
        if std::mem::replace(&mut split.in_flight, true) {
            return;
        }
        let silent = split.silent;
        if let Some(leader) = self.leader().filter(|leader| *leader != node) {
            self.processes[leader].paused_until = self.now + silent;
            self.cut_off(leader, silent, Fault::SplitWrites);
        }
    }

    /// The term of the replica has changed, which is to be written next.
    pub(super) fn split_writes(&mut self, node: usize) {
        let process = &self.processes[node];
        let Some(running) = &process.running else {
            return;
        };
        let (Some(split), Some(write)) = (process.split_writes, running.write_in_flight()) else {
            return;
        };
        if !split.in_flight {
            return;
        }
        let start = process.starts;
        let ends = self.random.below(FIRST_ENDS);
        self.processes[node].split_writes = None;
        self.processes[node].stalled_until = self.now + ends + split.lasts;
        self.after(ends, Event::Written { node, start, write });
        self.after(ends + split.lasts, Event::PowerFails(node, split.back));
        self.delivered.note(Fault::SplitWrites);
    }
}
