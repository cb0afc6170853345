//! Offset commits of polls, pending until the messages are delivered.
//!
//! A poll may commit the offset of what it returns. If the offset were stored before the
//! messages have arrived, a crash in between would lose them for this consumer. So it is
//! stored when the client shows that it has the messages: by its next request, by closing
//! the connection in order, or by leaving it open for a moment. Until then the commit is
//! *pending*: requests for the offset see it, and a crash drops it. A pending commit is that
//! of one member of a group: the next holder of a partition does not rely on it, because the
//! messages may never arrive.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::partitions::ConsumerKey;
use adapters::metadata::PartitionKey;

use super::readers::Reader;

/// The offset to commit when the messages of a poll are delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingCommit {
    pub(super) key: PartitionKey,
    pub(super) reader: Reader,
    pub(super) offset: u64,
}

/// The pending commits of all consumers, with the client that polled. Consumers without a
/// group have the client zero, regardless of their connections.
#[derive(Default)]
pub(super) struct PendingCommits {
    offsets: Mutex<Offsets>,
}

type Offsets = HashMap<(PartitionKey, ConsumerKey), BTreeMap<u128, u64>>;

impl PendingCommits {
    pub(super) fn add(&self, commit: &PendingCommit) {
        let mut offsets = self.lock();
        let of_clients = offsets.entry((commit.key, commit.reader.key()));
        let of_clients = of_clients.or_default();
        let offset = of_clients.entry(commit.reader.client()).or_default();
        *offset = commit.offset.max(*offset);
    }

    /// The offset that counts for a client, of the stored and its pending one.
    pub(super) fn latest(
        &self,
        key: PartitionKey,
        consumer: ConsumerKey,
        client: u128,
        stored: Option<u64>,
    ) -> Option<u64> {
        let offsets = self.lock();
        let pending = offsets.get(&(key, consumer)).and_then(|it| it.get(&client));
        stored.max(pending.copied())
    }

    /// Removes a commit that is stored or dropped. A later one of the same client stays.
    pub(super) fn remove(&self, commit: &PendingCommit) {
        let mut offsets = self.lock();
        let at = (commit.key, commit.reader.key());
        let client = commit.reader.client();
        if let Some(of_clients) = offsets.get_mut(&at)
            && of_clients.get(&client) == Some(&commit.offset)
        {
            of_clients.remove(&client);
            if of_clients.is_empty() {
                offsets.remove(&at);
            }
        }
    }

    /// Drops the pending commits of a consumer that sets its offset itself. Returns whether
    /// there was one.
    pub(super) fn cancel(&self, key: PartitionKey, consumer: ConsumerKey) -> bool {
        self.lock().remove(&(key, consumer)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
