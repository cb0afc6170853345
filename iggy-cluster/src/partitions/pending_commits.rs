//! Offset commits of polls, pending until the messages are delivered.
//!
//! A poll may commit the offset of what it returns. If the offset were stored before the
//! messages have arrived, a crash in between would lose them for this consumer. So it is
//! stored when the client shows that it has the messages: by its next request, by closing
//! the connection in order, or by leaving it open for a moment. Until then the commit is
//! *pending*: requests for the offset see it, and a crash drops it.

use std::collections::HashMap;
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

/// The pending commits of all consumers.
#[derive(Default)]
pub(super) struct PendingCommits {
    offsets: Mutex<HashMap<(PartitionKey, ConsumerKey), u64>>,
}

impl PendingCommits {
    pub(super) fn add(&self, commit: &PendingCommit) {
        let mut offsets = self.lock();
        let offset = offsets
            .entry((commit.key, commit.reader.key()))
            .or_default();
        *offset = commit.offset.max(*offset);
    }

    /// The offset that counts, of the stored and the pending one.
    pub(super) fn latest(
        &self,
        key: PartitionKey,
        consumer: ConsumerKey,
        stored: Option<u64>,
    ) -> Option<u64> {
        stored.max(self.lock().get(&(key, consumer)).copied())
    }

    /// Removes a commit that is stored or dropped. A later one of the same consumer stays.
    pub(super) fn remove(&self, commit: &PendingCommit) {
        let mut offsets = self.lock();
        let at = (commit.key, commit.reader.key());
        if offsets.get(&at) == Some(&commit.offset) {
            offsets.remove(&at);
        }
    }

    /// Drops the pending commit of a consumer that sets its offset itself. Returns whether
    /// there was one.
    pub(super) fn cancel(&self, key: PartitionKey, consumer: ConsumerKey) -> bool {
        self.lock().remove(&(key, consumer)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(PartitionKey, ConsumerKey), u64>> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
