//! How loads are distributed over the members of a group.

use std::collections::{BTreeMap, BTreeSet};

use super::member::Member;

/// The load of each member when all revocations are complete.
pub(super) struct Plan {
    /// Load and slot.
    by_load: BTreeSet<(usize, u32)>,
    loads: BTreeMap<u32, usize>,
    /// The partitions that each slot waits for, with the slot of the holder.
    pub(super) expected: BTreeMap<u32, BTreeSet<(u32, u32)>>,
}

impl Plan {
    pub(super) fn of(members: &BTreeMap<u32, Member>) -> Self {
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

    pub(super) fn is_empty(&self) -> bool {
        self.by_load.is_empty()
    }

    /// The slot with the least load.
    pub(super) fn lightest(&self) -> u32 {
        self.by_load.first().map_or(0, |(_, slot)| *slot)
    }

    /// The slots with the most and the least load, when these differ by more than one.
    pub(super) fn uneven(&self) -> Option<(u32, u32)> {
        let (least, to) = *self.by_load.first()?;
        let (most, _) = *self.by_load.last()?;
        let (_, from) = *self.by_load.range((most, 0)..).next()?;
        (most - least > 1).then_some((from, to))
    }

    /// Moves a load of one between two slots, or adds it.
    pub(super) fn shift(&mut self, from: Option<u32>, to: u32) {
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
