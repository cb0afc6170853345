//! Consumer groups: which member reads which partition.
//!
//! Every partition of a group with members has exactly one holder, and loads differ by
//! at most one once all revocations are complete. A partition is reassigned in one step
//! when all messages that were served of it are committed, and else by a *revocation*:
//! the holder is served nothing more and may still store its offset; the next member
//! gets the partition when the offset is stored or the revocation times out.
//!
//! The assignment is a function of the log. It moves as few partitions as it can: a
//! member that holds a fair share keeps it.

use std::collections::{BTreeMap, BTreeSet};

use consensus::rule;

use self::plan::Plan;
use super::types::Name;

mod member;
mod plan;

pub use member::{Member, Revocation};

/// A consumer group of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id; not reused as long as the topic exists.
    pub id: u32,
    /// Its name.
    pub name: Name,
    /// Rises with every change of the members or of the assignment.
    pub generation: u64,
    members: BTreeMap<u32, Member>,
    slots: BTreeMap<u128, u32>,
}

/// When and by which command a group changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// In microseconds since the Unix epoch.
    pub(super) now: u64,
    /// Identifies the command; the revocations that it starts get this id.
    pub(super) command_id: u64,
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

    /// Pending revocations, each with the client that still holds the partition.
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

    /// Every partition with the client that holds it.
    pub fn assignments(&self) -> impl Iterator<Item = (u32, u128)> + '_ {
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

    /// Every partition has one holder when there are members, and every revocation is
    /// from its holder to another member.
    pub(super) fn is_sound(&self, partitions: u32) -> bool {
        let assigned: usize = self.members.values().map(|member| member.owned.len()).sum();
        let distinct: BTreeSet<u32> = self.assignments().map(|(id, _)| id).collect();
        let expected = match self.members.is_empty() {
            true => 0,
            false => partitions as usize,
        };
        let revocations_are_sound = self.members.iter().all(|(slot, member)| {
            member.revoking.iter().all(|(id, revocation)| {
                member.holds(*id)
                    && revocation.to != *slot
                    && self.members.contains_key(&revocation.to)
            })
        });
        self.slots.len() == self.members.len()
            && assigned == expected
            && distinct.len() == expected
            && distinct.last().is_none_or(|last| *last < partitions)
            && revocations_are_sound
    }

    /// Adds a member; one that is in the group stays as it is. A partition is `busy` when
    /// messages that were served of it are not committed. Returns whether it was added.
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

    /// Removes a member; the partitions that it held are reassigned without a revocation.
    /// Returns whether it was in the group.
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
        // The members that stay may not have committed what they were served.
        self.balance(partitions, &|_| true, moment);
        true
    }

    /// Reassigns after the topic's number of partitions has changed.
    pub(super) fn resize(&mut self, partitions: u32, moment: Moment) {
        for member in self.members.values_mut() {
            member.owned.split_off(&partitions);
            member.revoking.split_off(&partitions);
        }
        self.generation += 1;
        self.balance(partitions, &|_| true, moment);
    }

    /// Completes a revocation. Returns whether it was pending.
    pub(super) fn complete(&mut self, partition: u32, id: u64) -> bool {
        let holder = self.members.iter_mut().find_map(|(_, member)| {
            let revocation = member.revoking.get(&partition)?;
            let this = revocation.id == id || !rule!(FormerCompletionIgnored);
            this.then_some((revocation.to, member))
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

    /// Completes the revocations that started at `latest` or before.
    pub(super) fn expire(&mut self, latest: u64) {
        let due: Vec<_> = self
            .revocations()
            .filter(|(_, _, revocation)| {
                revocation.since <= latest || !rule!(RevocationExpiresInTime)
            })
            .collect();
        for (partition, _, revocation) in due {
            self.complete(partition, revocation.id);
        }
    }

    /// Assigns each partition without a holder to the member with the least load, then
    /// evens the loads out. A member's load is the number of partitions that it will have
    /// when all revocations are complete.
    fn balance(&mut self, partitions: u32, busy: &dyn Fn(u32) -> bool, moment: Moment) {
        let mut plan = Plan::of(&self.members);
        if plan.is_empty() {
            return;
        }
        let assigned: BTreeSet<u32> = self.assignments().map(|(id, _)| id).collect();
        for id in (0..partitions).filter(|id| !assigned.contains(id)) {
            let slot = plan.lightest();
            plan.shift(None, slot);
            self.slot_mut(slot).owned.insert(id);
        }
        while let Some((from, to)) = plan.uneven() {
            plan.shift(Some(from), to);
            self.reassign(&mut plan, from, to, busy, moment);
        }
    }

    /// Moves one partition from `from` to `to`. One that `from` only waits for is moved
    /// first: no member has to stop reading for it.
    fn reassign(
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
        if busy(id) && rule!(ServedPartitionRevoked) {
            let revocation = Revocation {
                to,
                since: moment.now,
                id: moment.command_id,
            };
            holder.revoking.insert(id, revocation);
            plan.expected.entry(to).or_default().insert((id, from));
        } else {
            holder.owned.remove(&id);
            self.slot_mut(to).owned.insert(id);
        }
    }

    /// The member with a slot that is known to be in use.
    fn slot_mut(&mut self, slot: u32) -> &mut Member {
        self.members.entry(slot).or_default()
    }
}

/// The lowest slot that no member has.
fn lowest_free(members: &BTreeMap<u32, Member>) -> u32 {
    (0..)
        .zip(members.keys())
        .find(|(free, used)| free != *used)
        .map_or(members.len() as u32, |(free, _)| free)
}

#[cfg(test)]
mod tests;
