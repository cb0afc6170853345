//! Consumer groups: which member reads which partition.
//!
//! Every partition of a group with members has exactly one holder, and loads
//! differ by one at most once all hand-overs are done. A partition goes from one
//! member to another in one step when nothing that was served of it awaits a
//! commit, and else by a *revocation*: the holder is served nothing more and may
//! still store its offset; the target takes over when the offset is stored or time
//! is up.
//!
//! The assignment is a function of the log. It moves as few partitions as it can:
//! whoever holds a fair share keeps it.

use std::collections::{BTreeMap, BTreeSet};

use super::types::Name;

/// A consumer group of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id, given once within a life of the topic.
    pub id: u32,
    /// Its name.
    pub name: Name,
    /// Rises with every change of members or of what they hold.
    pub generation: u64,
    members: BTreeMap<u32, Member>,
    slots: BTreeMap<u128, u32>,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The client.
    pub client: u128,
    /// The partitions that it holds, also those that it is about to lose.
    pub owned: BTreeSet<u32>,
    /// The partitions that it is about to lose.
    pub revoking: BTreeMap<u32, Revocation>,
}

/// A partition on its way from one member to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The slot of the member that takes over.
    pub to: u32,
    /// When it began, in microseconds since the Unix epoch.
    pub since: u64,
    /// Names it: a confirmation of another one is none of this one.
    pub id: u64,
}

/// A group, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey {
    /// The stream's id.
    pub stream_id: u32,
    /// The topic's id.
    pub topic_id: u32,
    /// The group's id.
    pub group_id: u32,
}

/// When and by which command something changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: u64,
    pub(super) life: u64,
}

impl Member {
    /// What it may be served: what it holds and is not about to lose.
    pub fn readable(&self) -> impl Iterator<Item = u32> + '_ {
        let kept = |id: &&u32| !self.revoking.contains_key(id);
        self.owned.iter().filter(kept).copied()
    }

    /// Whether it may be served messages of the partition.
    #[must_use]
    pub fn may_read(&self, partition: u32) -> bool {
        self.holds(partition) && !self.revoking.contains_key(&partition)
    }

    /// Whether it holds the partition, and may store its offset.
    #[must_use]
    pub fn holds(&self, partition: u32) -> bool {
        self.owned.contains(&partition)
    }
}

/// Queries.
impl Group {
    /// The members, by slot.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (u32, &Member)> {
        self.members.iter().map(|(slot, member)| (*slot, member))
    }

    /// The client's membership.
    #[must_use]
    pub fn member(&self, client: u128) -> Option<&Member> {
        self.members.get(self.slots.get(&client)?)
    }

    /// Hand-overs under way, each with the client that still holds the partition.
    pub fn revocations(&self) -> impl Iterator<Item = (u32, u128, Revocation)> + '_ {
        self.members.values().flat_map(|member| {
            let revoking = member.revoking.iter();
            revoking.map(|(partition, revocation)| (*partition, member.client, *revocation))
        })
    }

    /// The client that holds a partition.
    #[must_use]
    pub fn holder(&self, partition: u32) -> Option<u128> {
        let holder = self.members.values().find(|member| member.holds(partition));
        holder.map(|member| member.client)
    }

    /// What is held, and by which client.
    pub fn held(&self) -> impl Iterator<Item = (u32, u128)> + '_ {
        let members = self.members.values();
        members.flat_map(|member| member.owned.iter().map(|id| (*id, member.client)))
    }
}

/// Changes. `partitions` is how many the topic has.
impl Group {
    pub(super) fn new(id: u32, name: Name) -> Self {
        Self {
            id,
            name,
            generation: 0,
            members: BTreeMap::new(),
            slots: BTreeMap::new(),
        }
    }

    /// A group as it was stored; `None` when it contradicts itself.
    pub(super) fn restored(
        id: u32,
        name: Name,
        generation: u64,
        members: BTreeMap<u32, Member>,
        partitions: u32,
    ) -> Option<Self> {
        let slots: BTreeMap<u128, u32> = members
            .iter()
            .map(|(slot, member)| (member.client, *slot))
            .collect();
        let group = Self {
            id,
            name,
            generation,
            members,
            slots,
        };
        group.is_sound(partitions).then_some(group)
    }

    /// Every partition has one holder when there are members, and every hand-over
    /// leads from its holder to another member.
    pub(super) fn is_sound(&self, partitions: u32) -> bool {
        let held: usize = self.members.values().map(|member| member.owned.len()).sum();
        let distinct: BTreeSet<u32> = self.held().map(|(id, _)| id).collect();
        let expected = match self.members.is_empty() {
            true => 0,
            false => partitions as usize,
        };
        let revocations_lead_on = self.members.iter().all(|(slot, member)| {
            member.revoking.iter().all(|(id, revocation)| {
                member.holds(*id)
                    && revocation.to != *slot
                    && self.members.contains_key(&revocation.to)
            })
        });
        self.slots.len() == self.members.len()
            && held == expected
            && distinct.len() == expected
            && distinct.last().is_none_or(|last| *last < partitions)
            && revocations_lead_on
    }

    /// Takes a member in; one that is there already stays as it is. Partitions of
    /// which something served awaits its commit are `busy`.
    pub(super) fn join(
        &mut self,
        client: u128,
        partitions: u32,
        busy: &BTreeSet<u32>,
        moment: Moment,
    ) -> bool {
        if self.slots.contains_key(&client) {
            return false;
        }
        let slot = lowest_free(&self.members);
        let member = Member {
            client,
            ..Member::default()
        };
        self.members.insert(slot, member);
        self.slots.insert(client, slot);
        self.generation += 1;
        self.balance(partitions, &|id| busy.contains(&id), moment);
        true
    }

    /// Lets a member go; what it held has no holder to wait for.
    pub(super) fn leave(&mut self, client: u128, partitions: u32, moment: Moment) -> bool {
        let Some(slot) = self.slots.remove(&client) else {
            return false;
        };
        self.members.remove(&slot);
        for member in self.members.values_mut() {
            member
                .revoking
                .retain(|_, revocation| revocation.to != slot);
        }
        self.generation += 1;
        // Who stays may hold what was served and is not committed.
        self.balance(partitions, &|_| true, moment);
        true
    }

    /// The topic has another number of partitions.
    pub(super) fn resize(&mut self, partitions: u32, moment: Moment) {
        for member in self.members.values_mut() {
            member.owned.split_off(&partitions);
            member.revoking.split_off(&partitions);
        }
        self.generation += 1;
        self.balance(partitions, &|_| true, moment);
    }

    /// A hand-over is done. Returns whether it was under way.
    pub(super) fn complete(&mut self, partition: u32, id: u64) -> bool {
        let holder = self.members.iter_mut().find_map(|(_, member)| {
            let revocation = member.revoking.get(&partition)?;
            (revocation.id == id).then_some((revocation.to, member))
        });
        let Some((to, holder)) = holder else {
            return false;
        };
        holder.revoking.remove(&partition);
        holder.owned.remove(&partition);
        if let Some(target) = self.members.get_mut(&to) {
            target.owned.insert(partition);
        }
        self.generation += 1;
        true
    }

    /// Ends hand-overs that began at `latest` or before.
    pub(super) fn expire(&mut self, latest: u64) {
        let due: Vec<_> = self
            .revocations()
            .filter(|(_, _, revocation)| revocation.since <= latest)
            .collect();
        for (partition, _, revocation) in due {
            self.complete(partition, revocation.id);
        }
    }

    /// Gives what nobody holds to whoever has least, then evens the loads out.
    /// A member's load is what it will have when all hand-overs are done.
    fn balance(&mut self, partitions: u32, busy: &dyn Fn(u32) -> bool, moment: Moment) {
        let mut plan = Plan::of(&self.members);
        if plan.by_load.is_empty() {
            return;
        }
        let held: BTreeSet<u32> = self.held().map(|(id, _)| id).collect();
        for id in (0..partitions).filter(|id| !held.contains(id)) {
            let slot = plan.lightest();
            plan.shift(None, slot);
            self.slot_mut(slot).owned.insert(id);
        }
        while let Some((from, to)) = plan.uneven() {
            plan.shift(Some(from), to);
            self.hand_over(&mut plan, from, to, busy, moment);
        }
    }

    /// One partition less for `from`, one more for `to`. What `from` only waits for
    /// goes first: nobody has to stop reading for it.
    fn hand_over(
        &mut self,
        plan: &mut Plan,
        from: u32,
        to: u32,
        busy: &dyn Fn(u32) -> bool,
        moment: Moment,
    ) {
        if let Some((id, holder)) = plan.expected.entry(from).or_default().pop_last() {
            let revoking = &mut self.slot_mut(holder).revoking;
            if holder == to {
                revoking.remove(&id);
                return;
            }
            if let Some(revocation) = revoking.get_mut(&id) {
                revocation.to = to;
            }
            plan.expected.entry(to).or_default().insert((id, holder));
            return;
        }
        let holder = self.slot_mut(from);
        let kept = |id: &&u32| !holder.revoking.contains_key(id);
        let Some(id) = holder.owned.iter().rev().find(kept).copied() else {
            return;
        };
        if busy(id) {
            let revocation = Revocation {
                to,
                since: moment.now,
                id: moment.life,
            };
            holder.revoking.insert(id, revocation);
            plan.expected.entry(to).or_default().insert((id, from));
        } else {
            holder.owned.remove(&id);
            self.slot_mut(to).owned.insert(id);
        }
    }

    /// A member that is known to be there.
    fn slot_mut(&mut self, slot: u32) -> &mut Member {
        self.members.entry(slot).or_default()
    }
}

/// What each member will have.
struct Plan {
    /// How much, and who.
    by_load: BTreeSet<(usize, u32)>,
    loads: BTreeMap<u32, usize>,
    /// What each waits for, and from whom.
    expected: BTreeMap<u32, BTreeSet<(u32, u32)>>,
}

impl Plan {
    fn of(members: &BTreeMap<u32, Member>) -> Self {
        let mut expected: BTreeMap<u32, BTreeSet<(u32, u32)>> = BTreeMap::new();
        for (slot, member) in members {
            for (id, revocation) in &member.revoking {
                expected
                    .entry(revocation.to)
                    .or_default()
                    .insert((*id, *slot));
            }
        }
        let loads: BTreeMap<u32, usize> = members
            .iter()
            .map(|(slot, member)| {
                let expected = expected.get(slot).map_or(0, BTreeSet::len);
                let load = member.owned.len() - member.revoking.len() + expected;
                (*slot, load)
            })
            .collect();
        Self {
            by_load: loads.iter().map(|(slot, load)| (*load, *slot)).collect(),
            loads,
            expected,
        }
    }

    fn lightest(&self) -> u32 {
        self.by_load.first().map_or(0, |(_, slot)| *slot)
    }

    /// The heaviest and the lightest, when they are more than one apart.
    fn uneven(&self) -> Option<(u32, u32)> {
        let (least, to) = *self.by_load.first()?;
        let (most, _) = *self.by_load.last()?;
        let (_, from) = *self.by_load.range((most, 0)..).next()?;
        (most - least > 1).then_some((from, to))
    }

    fn shift(&mut self, from: Option<u32>, to: u32) {
        if let Some(from) = from {
            self.reload(from, |load| load - 1);
        }
        self.reload(to, |load| load + 1);
    }

    fn reload(&mut self, slot: u32, change: impl Fn(usize) -> usize) {
        if let Some(load) = self.loads.get_mut(&slot) {
            self.by_load.remove(&(*load, slot));
            *load = change(*load);
            self.by_load.insert((*load, slot));
        }
    }
}

/// The lowest slot that nobody has.
fn lowest_free(members: &BTreeMap<u32, Member>) -> u32 {
    (0..)
        .zip(members.keys())
        .find(|(free, taken)| free != *taken)
        .map_or(members.len() as u32, |(free, _)| free)
}

#[cfg(test)]
mod tests;
