//! An index of the groups of all topics, by client and by pending revocations. It
//! follows from the groups and is not stored.

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::types::GroupKey;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::metadata) struct Memberships {
    of_client: BTreeMap<u128, BTreeSet<GroupKey>>,
    /// Groups with pending revocations.
    revoking: BTreeSet<GroupKey>,
    /// Whether the command that is being applied changed such a group.
    pub(in crate::metadata) revoking_changed: bool,
}

impl Memberships {
    pub(super) fn of_client(&self, client: u128) -> impl Iterator<Item = &GroupKey> {
        self.of_client.get(&client).into_iter().flatten()
    }

    pub(super) fn revoking(&self) -> impl ExactSizeIterator<Item = &GroupKey> {
        self.revoking.iter()
    }

    /// All clients that are in a group.
    pub(in crate::metadata) fn clients(&self) -> impl Iterator<Item = u128> {
        self.of_client.keys().copied()
    }

    pub(in crate::metadata) fn add(&mut self, client: u128, key: GroupKey) {
        self.of_client.entry(client).or_default().insert(key);
    }

    /// Returns whether the client was in this group and is in no other.
    pub(in crate::metadata) fn remove(&mut self, client: u128, key: &GroupKey) -> bool {
        let Some(keys) = self.of_client.get_mut(&client) else {
            return false;
        };
        keys.remove(key);
        let last = keys.is_empty();
        if last {
            self.of_client.remove(&client);
        }
        last
    }

    pub(in crate::metadata) fn remove_client(&mut self, client: u128) -> BTreeSet<GroupKey> {
        self.of_client.remove(&client).unwrap_or_default()
    }

    pub(in crate::metadata) fn set_revoking(&mut self, key: GroupKey, revoking: bool) {
        match revoking {
            true => self.revoking.insert(key),
            false => self.revoking.remove(&key),
        };
    }
}
