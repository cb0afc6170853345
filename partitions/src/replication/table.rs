//! The consumer offsets of a partition, and where its log starts: a table that the copies
//! agree on beside the log.

use std::collections::BTreeMap;

use consensus::rule;

use super::chain::{Epoch, Position};
use crate::record::Tag;
use crate::types::ConsumerKey;

/// Deleted consumers whose last request is remembered, so that an older one does not store
/// their offset again.
pub const DELETED_MAX: usize = 256;

/// Which state of the table. Tables are ordered by epoch, then by version: the larger one
/// has every change that may be committed in the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableVersion {
    /// Whose leader made it.
    pub epoch: Epoch,
    /// Rises with every change, and does not start again with an epoch.
    pub version: u64,
}

/// Where a log starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The record before the first one.
    pub base: Position,
    /// Offset of the first message.
    pub first_offset: u64,
}

/// A consumer's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// The offset; none when it was deleted.
    pub offset: Option<u64>,
    /// The version of the table with its last change.
    pub version: u64,
    /// The request that changed it last, if it had a tag.
    pub tag: Option<Tag>,
}

/// The state of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetTable {
    /// Which state it is.
    pub at: TableVersion,
    /// Messages before it are not served any more, and may be removed.
    pub start: Start,
    /// The version with the last change of `start`.
    pub start_version: u64,
    /// The offsets.
    pub entries: BTreeMap<ConsumerKey, OffsetEntry>,
}

/// A change of a table, to the next version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// The offset of a consumer.
    Consumer {
        /// Which one.
        consumer: ConsumerKey,
        /// The offset; none to delete it.
        offset: Option<u64>,
        /// The request.
        tag: Option<Tag>,
    },
    /// The log starts later.
    Start(Start),
}

/// What is written of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableWrite {
    /// All of it, in place of what is there: after a power loss either is there.
    Whole(OffsetTable),
    /// A change of what was written before.
    Change {
        /// The state after it.
        at: TableVersion,
        /// The change.
        change: TableChange,
    },
}

/// What a client does to a consumer's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetChange {
    /// Sets it, also to a lower one.
    Store(u64),
    /// Raises it; a lower one changes nothing.
    Advance(u64),
    /// Deletes it.
    Delete,
}

impl TableWrite {
    /// Applies it to the table before it.
    pub(crate) fn apply_to(&self, table: &mut OffsetTable) {
        match self {
            Self::Whole(whole) => table.clone_from(whole),
            Self::Change { at, change } => table.apply(*at, *change),
        }
    }
}

impl OffsetTable {
    /// Applies the change that leads to this state.
    pub fn apply(&mut self, at: TableVersion, change: TableChange) {
        self.at = at;
        match change {
            TableChange::Start(start) => {
                self.start = start;
                self.start_version = at.version;
            }
            TableChange::Consumer {
                consumer,
                offset: None,
                tag: None,
            } => {
                self.entries.remove(&consumer);
            }
            TableChange::Consumer {
                consumer,
                offset,
                tag,
            } => {
                let entry = OffsetEntry {
                    offset,
                    version: at.version,
                    tag,
                };
                self.entries.insert(consumer, entry);
                if offset.is_none() {
                    self.forget_deleted();
                }
            }
        }
    }

    fn forget_deleted(&mut self) {
        let deleted = self.entries.iter().filter(|(_, it)| it.offset.is_none());
        if deleted.clone().count() <= DELETED_MAX {
            return;
        }
        let oldest = deleted.min_by_key(|(_, it)| it.version);
        if let Some(consumer) = oldest.map(|(consumer, _)| *consumer) {
            self.entries.remove(&consumer);
        }
    }

    /// A consumer's offset.
    #[must_use]
    pub fn offset(&self, consumer: ConsumerKey) -> Option<u64> {
        self.entries.get(&consumer)?.offset
    }

    /// Consumers with an offset.
    #[must_use]
    pub fn consumers(&self) -> usize {
        let stored = self.entries.values().filter(|it| it.offset.is_some());
        stored.count()
    }

    /// What a request changes.
    pub(super) fn effect_of(
        &self,
        consumer: ConsumerKey,
        change: OffsetChange,
        tag: Option<Tag>,
    ) -> Requested {
        let entry = self.entries.get(&consumer);
        let last = entry.and_then(|entry| entry.tag);
        if let (Some(tag), Some(last)) = (tag, last)
            && (tag.client, tag.session) == (last.client, last.session)
            && rule!(OlderOffsetIgnored)
        {
            if tag.request < last.request {
                return Requested::Older;
            }
            if tag.request == last.request {
                return Requested::Nothing;
            }
        }
        let before = entry.and_then(|entry| entry.offset);
        let offset = match change {
            OffsetChange::Store(to) => Some(to),
            OffsetChange::Advance(to) if before.is_none_or(|before| before < to) => Some(to),
            OffsetChange::Advance(to) if !rule!(AdvanceOnlyRaises) => Some(to),
            OffsetChange::Advance(_) => return Requested::Nothing,
            OffsetChange::Delete if before.is_none() => return Requested::Missing,
            OffsetChange::Delete => None,
        };
        Requested::Change(TableChange::Consumer {
            consumer,
            offset,
            tag,
        })
    }
}

/// What a request leads to.
pub(super) enum Requested {
    Change(TableChange),
    /// It is as requested already.
    Nothing,
    /// The session has sent a later one.
    Older,
    /// There is no offset to delete.
    Missing,
}
