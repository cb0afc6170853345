//! A power loss while a new leader writes for the first time.
//!
//! What it sends meanwhile reaches one replica and no other. Then it forgets that it has led,
//! and may lead the same term once more with another log; or it is cut off, and the replica
//! that has received something of the term loses power.

use consensus::{PersistBatch, Role};

use super::{Event, World};
use crate::fault::{Fault, Planned};
use crate::random::Random;

/// How long the leader before is silent.
const SILENT: (u64, u64) = (250_000, 700_000);
/// How long the first write is in flight when power fails.
const IN_FLIGHT: (u64, u64) = (1_000, 128_000);
/// How long those are away that know nothing of the term.
const AWAY: (u64, u64) = (100_000, 1_500_000);
/// A machine that forgets is back within this time.
const BACK: (u64, u64) = (1_000, 30_000);

impl World {
    pub(super) fn arm_first_write(&mut self, planned: &Planned) {
        let mut random = Random::new(planned.draw);
        self.first_write = Some(planned.draw);
        if self.plan.voters == 1 {
            // It leads as soon as it starts.
            let back = random.between_powers(BACK.0, BACK.1);
            self.stop_for(0, false, back);
            return;
        }
        if let Some(leader) = self.leader() {
            let silent = random.between(SILENT.0, SILENT.1);
            self.processes[leader].paused_until = self.now + silent;
            self.cut_off(leader, silent, Fault::FirstWrite);
        }
    }

    /// A replica writes. Its first entry of a term that it is to lead is in flight then.
    pub(super) fn first_write_starts(&mut self, node: usize, batch: &PersistBatch) {
        let Some(running) = &self.processes[node].running else {
            return;
        };
        let seen = running.seen;
        let leads = matches!(seen.role, Role::Leader | Role::Candidate);
        let is_first = batch
            .entries
            .last()
            .is_some_and(|last| last.term == seen.term);
        if !leads || !is_first {
            return;
        }
        let Some(draw) = self.first_write.take() else {
            return;
        };
        self.delivered.note(Fault::FirstWrite);
        let mut random = Random::new(draw ^ 1);
        let voters = self.plan.voters as usize;
        let mut others: Vec<usize> = (0..voters).filter(|other| *other != node).collect();
        random.shuffle(&mut others);
        let in_flight = random.between_powers(IN_FLIGHT.0, IN_FLIGHT.1);
        let (away, back) = (
            random.between(AWAY.0, AWAY.1),
            random.between_powers(BACK.0, BACK.1),
        );
        for other in others.iter().skip(1) {
            self.cut_link(node, *other, in_flight, Fault::FirstWrite);
        }
        let reached = others.first().copied().filter(|_| random.per_mille(700));
        let Some(reached) = reached.filter(|_| random.per_mille(500)) else {
            self.processes[node].stalled_until = self.now + in_flight;
            self.after(in_flight, Event::PowerFails(node, back));
            if let Some(reached) = reached {
                self.after(in_flight, Event::CutOff(reached, away, Fault::FirstWrite));
            }
            return;
        };
        self.after(in_flight, Event::CutOff(node, away, Fault::FirstWrite));
        self.after(in_flight, Event::PowerFails(reached, back));
        if let Some(other) = others.get(2) {
            self.after(in_flight, Event::CutOff(*other, away, Fault::FirstWrite));
        }
    }
}
