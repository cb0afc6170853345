//! Commits that polls make.
//!
//! A poll may commit what it returns. Were the offset stored before the messages
//! have arrived, a crash in between would lose them for this consumer; so it is
//! stored when the client shows that it has them: by its next request, by ending
//! the connection in order, or by leaving it open for a moment. Until then the
//! offset is *announced*: whoever asks sees it, and a crash forgets it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::partitions::ConsumerKey;
use adapters::metadata::PartitionKey;

use super::Reader;

/// What is to be committed when the messages have arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    pub(super) key: PartitionKey,
    pub(super) reader: Reader,
    pub(super) offset: u64,
}

/// Offsets that are announced, and not stored.
#[derive(Default)]
pub(super) struct Announced {
    offsets: Mutex<HashMap<(PartitionKey, ConsumerKey), u64>>,
}

impl Announced {
    pub(super) fn announce(&self, receipt: &Receipt) {
        let mut offsets = self.lock();
        let offset = offsets
            .entry((receipt.key, receipt.reader.key()))
            .or_default();
        *offset = receipt.offset.max(*offset);
    }

    /// The offset that counts, of what is stored and what is announced.
    pub(super) fn latest(
        &self,
        key: PartitionKey,
        consumer: ConsumerKey,
        stored: Option<u64>,
    ) -> Option<u64> {
        stored.max(self.lock().get(&(key, consumer)).copied())
    }

    /// It is stored, or will not be. A later announcement stays.
    pub(super) fn settle(&self, receipt: &Receipt) {
        let mut offsets = self.lock();
        let at = (receipt.key, receipt.reader.key());
        if offsets.get(&at) == Some(&receipt.offset) {
            offsets.remove(&at);
        }
    }

    /// The consumer says itself where it is.
    /// Returns whether something was announced.
    pub(super) fn forget(&self, key: PartitionKey, consumer: ConsumerKey) -> bool {
        self.lock().remove(&(key, consumer)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(PartitionKey, ConsumerKey), u64>> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
