//! Messages that arrive again when they may be mistaken for new ones.
//!
//! A network that duplicates and delays may deliver anything at any time; most of it is
//! obviously old. What may confuse a replica is the reply to a request that it has sent
//! again, or that it gets in the same role in another term.

use super::{Event, World};
use crate::fault::{Fault, Planned};
use crate::random::Random;

/// A leader that is silent for so long is replaced.
const REPLACED: (u64, u64) = (220_000, 500_000);
/// Others send it requests for so long before.
const ASKS: (u64, u64) = (5_000, 150_000);
/// A process that ends is back within this time.
const BACK: (u64, u64) = (1_000, 10_000);
/// How long it runs before it ends once more.
const RUNS: (u64, u64) = (20_000, 300_000);
/// How often each message arrives: a question should come before its answer.
const COPIES: usize = 2;
/// How long the old messages take to arrive, at most.
const WITHIN: (u64, u64) = (500, 60_000);

/// When a replica gets again what it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum ReplayMoment {
    Now,
    /// It has been replaced and does not know.
    Replaced,
    /// It was started again.
    Started,
    /// It leads again.
    Elected,
}

impl World {
    pub(super) fn arm_targeted_replay(&mut self, planned: &Planned) {
        let mut random = Random::new(planned.draw);
        let node = self.leader().unwrap_or(planned.node);
        match random.below(5) {
            0 | 1 => {
                // Others ask it, before it is replaced.
                let count = self.processes.len();
                self.read_target = (node + 1 + random.below(count as u64 - 1) as usize) % count;
                let asks = random.between(ASKS.0, ASKS.1);
                self.after(asks, Event::TargetedReplay(node, ReplayMoment::Replaced));
            }
            2 => {
                // Requests of its last incarnation arrive again in the next.
                let node = planned.node;
                let (back, runs) = (
                    random.between(BACK.0, BACK.1),
                    random.between(RUNS.0, RUNS.1),
                );
                self.stop_for(node, false, back);
                self.read_target = node;
                self.after(
                    back + runs,
                    Event::TargetedReplay(node, ReplayMoment::Started),
                );
            }
            3 if random.per_mille(500) => {
                self.after(0, Event::TargetedReplay(node, ReplayMoment::Elected));
            }
            3 => self.replay_at_term = true,
            _ => self.after(0, Event::TargetedReplay(planned.node, ReplayMoment::Now)),
        }
    }

    pub(super) fn targeted_replay(&mut self, node: usize, moment: ReplayMoment) {
        if !self.faulty {
            return;
        }
        match moment {
            ReplayMoment::Now => {
                self.read_target = node;
                self.replay_to(node);
            }
            ReplayMoment::Replaced => {
                // Another is elected, and it receives no message of that.
                let silent = self.random.between(REPLACED.0, REPLACED.1);
                self.processes[node].paused_until = self.now + silent;
                self.cut_off(node, 2 * silent, Fault::TargetedReplay);
                self.after(silent, Event::TargetedReplay(node, ReplayMoment::Now));
            }
            ReplayMoment::Started => {
                let back = self.random.between(BACK.0, BACK.1);
                if self.stop_for(node, false, back) {
                    self.after(back + 1, Event::TargetedReplay(node, ReplayMoment::Now));
                }
            }
            ReplayMoment::Elected => self.replay_at_election = true,
        }
    }

    /// Everything that is still known of what a replica was sent arrives again.
    pub(super) fn replay_to(&mut self, node: usize) {
        let within = self.random.between_powers(WITHIN.0, WITHIN.1);
        for (from, message) in self.network.sent_to(node) {
            for _ in 0..COPIES {
                let late = 1 + self.random.below(within);
                self.arrive(
                    late,
                    (from, node),
                    message.clone(),
                    Some(Fault::TargetedReplay),
                );
            }
        }
    }
}
