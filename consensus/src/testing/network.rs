//! A network whose packets a test inspects, loses, repeats and delays.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::{self, Debug, Formatter};

use bytes::Bytes;

use crate::ReplicaId;

/// A message in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packet {
    /// Sender.
    pub from: ReplicaId,
    /// Receiver.
    pub to: ReplicaId,
    /// Content.
    pub message: Bytes,
}

/// What the network does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Delivers it.
    Deliver,
    /// Loses it.
    Drop,
    /// Delivers it twice.
    Duplicate,
    /// Delivers it a tick later.
    Delay,
}

type Policy = Box<dyn FnMut(&Packet, u64) -> Verdict>;

/// The packets between the replicas of a group.
pub struct Network {
    /// Packets in flight, oldest first.
    pub in_flight: VecDeque<Packet>,
    /// A copy of every packet that was sent, for replays.
    pub record: Option<Vec<Packet>>,
    /// Directed links that lose everything.
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    delayed: Vec<Packet>,
    policy: Policy,
    random: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            in_flight: VecDeque::new(),
            record: None,
            cut: BTreeSet::new(),
            delayed: Vec::new(),
            policy: Box::new(|_, _| Verdict::Deliver),
            random: 1,
        }
    }
}

impl Debug for Network {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("in_flight", &self.in_flight)
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Decides about every packet by `policy`; its number is random.
    pub fn set_policy(&mut self, seed: u64, policy: impl FnMut(&Packet, u64) -> Verdict + 'static) {
        self.random = seed;
        self.policy = Box::new(policy);
    }

    /// Cuts a link, or restores it.
    pub fn set_cut(&mut self, from: ReplicaId, to: ReplicaId, cut: bool) {
        match cut {
            true => self.cut.insert((from, to)),
            false => self.cut.remove(&(from, to)),
        };
    }

    /// Whether a link is cut.
    #[must_use]
    pub fn is_cut(&self, from: ReplicaId, to: ReplicaId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Sends a packet.
    pub fn send(&mut self, packet: Packet) {
        if let Some(record) = &mut self.record {
            record.push(packet.clone());
        }
        self.in_flight.push_back(packet);
    }

    /// Releases the packets that were delayed.
    pub fn tick(&mut self) {
        self.in_flight.append(&mut self.delayed.drain(..).collect());
    }

    /// The next packet, and how often it arrives now.
    pub fn next_delivery(&mut self) -> Option<(Packet, usize)> {
        let packet = self.in_flight.pop_front()?;
        let random = self.draw();
        let verdict = (self.policy)(&packet, random);
        if self.is_cut(packet.from, packet.to) {
            return Some((packet, 0));
        }
        let copies = match verdict {
            Verdict::Deliver => 1,
            Verdict::Drop => 0,
            Verdict::Duplicate => 2,
            Verdict::Delay => {
                self.delayed.push(packet.clone());
                0
            }
        };
        Some((packet, copies))
    }

    /// The generator of George Marsaglia's xorshift64.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
