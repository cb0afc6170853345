//! The network.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use replica::driver::Event as Input;

use super::links::SlowLink;
use super::{Event, LINKS, World};
use crate::fault::Fault;
use crate::random::Random;

/// Messages that may be sent once more later.
const MESSAGES_KEPT: usize = 64;
/// The same for the last to one replica.
const LAST_KEPT: usize = 32;
/// A message that is overtaken is late by up to this.
const LATE: u64 = 100_000;
/// A copy of a message arrives within this time.
const COPY_LATE: u64 = 500_000;

pub(super) type Link = (usize, usize);

#[derive(Default)]
pub(super) struct Network {
    /// Links that are cut, until when, and by which fault.
    cut: BTreeMap<Link, (u64, Fault)>,
    clogged: BTreeMap<Link, u64>,
    slow: BTreeMap<Link, SlowLink>,
    /// When the last message of a link arrives: links keep their order, each lane
    /// its own.
    arrivals: BTreeMap<(Link, bool), u64>,
    /// When a message arrives that others may overtake.
    late: BTreeMap<Link, u64>,
    chance: BTreeMap<Link, Random>,
    recent: Vec<(Link, Bytes)>,
    /// The last messages to each replica.
    last: BTreeMap<usize, VecDeque<(usize, Bytes)>>,
}

impl Network {
    pub(super) fn join(&mut self, from: usize, to: usize, now: u64) {
        let link = (from, to);
        if self.cut.get(&link).is_some_and(|(until, _)| *until <= now) {
            self.cut.remove(&link);
        }
    }

    /// A replica is no longer cut off.
    pub(super) fn rejoin(&mut self, node: usize) {
        self.cut
            .retain(|(from, to), _| *from != node && *to != node);
    }

    /// Two replicas are no longer cut off from each other.
    pub(super) fn join_pair(&mut self, one: usize, other: usize) {
        self.cut.remove(&(one, other));
        self.cut.remove(&(other, one));
    }

    /// Whether nothing passes from this replica to some other.
    pub(super) fn is_cut_off(&self, node: usize) -> bool {
        self.cut.keys().any(|(from, _)| *from == node)
    }

    /// What is still known of the messages to a replica.
    pub(super) fn sent_to(&self, node: usize) -> Vec<(usize, Bytes)> {
        let recent = self.recent.iter().filter(|((_, to), _)| *to == node);
        let recent = recent.map(|((from, _), message)| (*from, message.clone()));
        let last = self.last.get(&node).into_iter().flatten().cloned();
        last.chain(recent).collect()
    }

    pub(super) fn slow_down(&mut self, link: Link, slow: SlowLink) {
        self.slow.insert(link, slow);
    }

    /// What arrives on a new connection does not wait for what arrives on the old one.
    pub(super) fn connects_anew(&mut self, link: Link) {
        self.arrivals.retain(|(of, _), _| *of != link);
    }

    /// All faults of it end.
    pub(super) fn mend(&mut self) {
        self.cut.clear();
        self.clogged.clear();
        self.slow.clear();
    }
}

impl World {
    pub(super) fn send(&mut self, from: usize, to: usize, bulk: bool, message: Bytes) {
        let link = (from, to);
        if bulk && let Some((_, source)) = self.fetch.as_mut().filter(|it| it.0 == from) {
            source.get_or_insert(to);
        }
        if let Some((_, fault)) = self.network.cut.get(&link) {
            self.delivered.note(*fault);
            return;
        }
        if self.noise(link, self.plan.noise.loss) {
            self.delivered.note(Fault::Loss);
            return;
        }
        self.keep(link, &message);
        let (low, high) = self.plan.latency;
        let mut arrives = self.now + self.chance(link).between(low, high);
        if bulk {
            let late = self.plan.bulk_latency;
            arrives += self.chance(link).below(late);
        }
        if let Some(until) = self.network.clogged.get(&link)
            && *until > arrives
        {
            arrives = *until;
            self.delivered.note(Fault::Clog);
        }
        if let Some(slow) = self.network.slow.get_mut(&link) {
            let Some(later) = slow.arrives(self.now, arrives) else {
                self.delivered.note(Fault::FullQueue);
                return;
            };
            arrives = later;
        }
        if self.noise(link, self.plan.noise.duplicates) {
            self.delivered.note(Fault::Duplicates);
            let again = arrives - self.now + self.chance(link).below(COPY_LATE);
            self.arrive(again, link, message.clone(), None);
        }
        if self.noise(link, self.plan.noise.reordering) {
            arrives += self.chance(link).below(LATE);
            self.network.late.insert(link, arrives);
        } else {
            let last = self.network.arrivals.entry((link, bulk)).or_default();
            arrives = arrives.max(*last);
            *last = arrives;
            if self.network.late.get(&link).is_some_and(|at| arrives < *at) {
                self.delivered.note(Fault::Reordering);
                self.network.late.remove(&link);
            }
        }
        self.arrive(arrives - self.now, link, message, None);
    }

    /// What chance does to the messages of a link.
    fn chance(&mut self, link: Link) -> &mut Random {
        let seed = self.plan.chance();
        let own = || Random::of(seed, LINKS, (16 * link.0 + link.1) as u64);
        self.network.chance.entry(link).or_insert_with(own)
    }

    fn noise(&mut self, link: Link, per_mille: u64) -> bool {
        self.faulty && per_mille > 0 && self.chance(link).per_mille(per_mille)
    }

    pub(super) fn arrive(
        &mut self,
        after: u64,
        (from, to): Link,
        message: Bytes,
        again: Option<Fault>,
    ) {
        let event = Event::Deliver {
            from,
            to,
            message,
            again,
        };
        self.after(after, event);
    }

    fn keep(&mut self, link: Link, message: &Bytes) {
        let place = self.chance(link).below(MESSAGES_KEPT as u64) as usize;
        let last = self.network.last.entry(link.1).or_default();
        if last.len() == LAST_KEPT {
            last.pop_front();
        }
        last.push_back((link.0, message.clone()));
        let recent = &mut self.network.recent;
        if recent.len() < MESSAGES_KEPT {
            recent.push((link, message.clone()));
        } else {
            recent[place] = (link, message.clone());
        }
    }

    pub(super) fn deliver(
        &mut self,
        from: usize,
        to: usize,
        message: Bytes,
        again: Option<Fault>,
    ) -> Result<(), String> {
        // What arrives again was on its way before the link was cut.
        if let Some((_, fault)) = self.network.cut.get(&(from, to))
            && again.is_none()
        {
            self.delivered.note(*fault);
            return Ok(());
        }
        if self.processes[to].running.is_none() {
            return Ok(());
        }
        if self.is_paused(to) {
            let event = Event::Deliver {
                from,
                to,
                message,
                again,
            };
            self.defer(to, event);
            return Ok(());
        }
        if let Some(fault) = again {
            self.delivered.note(fault);
        }
        let from = self.processes[from].id;
        self.trace.fact(self.now, 3, to, &message);
        self.input(to, Input::Receive { from, message })
    }

    pub(super) fn cut_link(&mut self, from: usize, to: usize, lasts: u64, fault: Fault) {
        let until = self.now + lasts;
        let cut = self.network.cut.entry((from, to)).or_insert((0, fault));
        if cut.0 < until {
            *cut = (until, fault);
            self.after(lasts, Event::Join(from, to));
        }
    }

    pub(super) fn clog(&mut self, from: usize, to: usize, lasts: u64) {
        self.network.clogged.insert((from, to), self.now + lasts);
    }

    pub(super) fn replay(&mut self, within: u64) {
        for (link, message) in self.network.recent.clone() {
            let late = self.random.below(within);
            self.arrive(late, link, message, Some(Fault::Replay));
        }
    }
}
