//! Connections between nodes: they break, and their queues are full.

use consensus::ReplicaId;
use replica::driver::Event as Input;

use super::{Event, World};
use crate::fault::{Fault, Planned};
use crate::random::Random;

/// Of a thousand messages on a connection that breaks so many are lost.
const LOST_PER_MILLE: u64 = 500;
/// The others arrive within this time, while the next connection is in use.
const OLD_CONNECTION: u64 = 150_000;
/// How long it takes to connect again.
const CONNECTS: (u64, u64) = (1_000, 200_000);
/// The sender notices within this time.
const NOTICED: u64 = 20_000;
/// A slow link passes a message in so long.
const GAP: (u64, u64) = (1_000, 50_000);
/// Messages that its queue holds.
const QUEUE: (u64, u64) = (1, 16);
/// How long it is slow at least where its queue has to be full.
const LASTS_MIN: u64 = 300_000;

/// A link that is slow, and holds few messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowLink {
    until: u64,
    gap: u64,
    queue: u64,
    /// When the last message in the queue arrives.
    last: u64,
}

impl SlowLink {
    /// When a message arrives that would arrive then otherwise; `None` when the queue is full.
    pub(super) fn arrives(&mut self, now: u64, otherwise: u64) -> Option<u64> {
        if now >= self.until {
            return Some(otherwise);
        }
        let waiting = self.last.saturating_sub(now) / self.gap;
        if waiting >= self.queue {
            return None;
        }
        self.last = self.last.max(now) + self.gap;
        Some(self.last.max(otherwise))
    }
}

impl World {
    /// The connection from one replica to another breaks, and is made again.
    pub(super) fn reconnect(&mut self, from: usize, to: usize, draw: u64) {
        let mut random = Random::new(draw);
        let on_it = self.events.iter().filter(|(_, event)| {
            matches!(event, Event::Deliver { from: f, to: t, again: None, .. } if (*f, *t) == (from, to))
        });
        let on_it: Vec<_> = on_it.map(|(key, _)| *key).collect();
        for key in on_it {
            let Some(event) = self.events.remove(&key) else {
                continue;
            };
            self.delivered.note(Fault::Reconnect);
            if let Event::Deliver { message, .. } = event
                && !random.per_mille(LOST_PER_MILLE)
            {
                let late = key.0 - self.now + random.below(OLD_CONNECTION);
                self.arrive(late, (from, to), message, Some(Fault::Reconnect));
            }
        }
        self.network.connects_anew((from, to));
        let connects = random.between_powers(CONNECTS.0, CONNECTS.1);
        self.cut_link(from, to, connects, Fault::Reconnect);
        let peer = ReplicaId(to as u64 + 1);
        self.after(random.below(NOTICED), Event::Unreachable(from, peer));
    }

    pub(super) fn peer_is_unreachable(
        &mut self,
        node: usize,
        peer: ReplicaId,
    ) -> Result<(), String> {
        if self.is_paused(node) {
            self.defer(node, Event::Unreachable(node, peer));
            return Ok(());
        }
        self.input(node, Input::Unreachable(peer))
    }

    pub(super) fn fill_queue(&mut self, planned: &Planned) {
        let mut random = Random::new(planned.draw);
        let mut slow = SlowLink {
            until: self.now + planned.lasts,
            gap: random.between_powers(GAP.0, GAP.1),
            queue: random.between(QUEUE.0, QUEUE.1),
            last: self.now,
        };
        if planned.number >= self.plan.schedule.len() {
            // It has to have an effect, also where replicas send little.
            slow.until = self.now + planned.lasts.max(LASTS_MIN);
            (slow.gap, slow.queue) = (GAP.1, QUEUE.0);
        }
        self.network.slow_down((planned.node, planned.other), slow);
    }
}
