//! Which partitions of this node refuse, for metrics and status.

use ::partitions::{PartitionStorage, StorageError};

/// The partitions that refuse, by the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusing {
    /// Acknowledged data is damaged or lost, or cannot be read by this version.
    pub(crate) damaged: u64,
    /// A write or an fsync failed.
    pub(crate) failed: u64,
    /// The reason of one of them.
    pub(crate) example: Option<String>,
}

impl Refusing {
    pub(crate) fn of(storage: &dyn PartitionStorage) -> Self {
        let mut refusing = Self::default();
        for (key, error) in storage.refusing() {
            match &error {
                StorageError::Corrupt { .. }
                | StorageError::Lost { .. }
                | StorageError::Version { .. } => refusing.damaged += 1,
                // The storage is being shut down, or the partition was deleted.
                StorageError::Closed | StorageError::Removed => continue,
                _ => refusing.failed += 1,
            }
            refusing.example.get_or_insert_with(|| {
                format!(
                    "stream {}, topic {}, partition {}: {error}",
                    key.stream_id, key.topic_id, key.partition_id
                )
            });
        }
        refusing
    }

    /// Each reason with the number of partitions.
    pub(crate) fn by_reason(&self) -> [(&'static str, u64); 2] {
        [("damaged", self.damaged), ("failed", self.failed)]
    }

    /// One line for people; `None` when no partition refuses.
    pub(crate) fn describe(&self) -> Option<String> {
        let example = self.example.as_ref()?;
        let reasons = self.by_reason().into_iter();
        let reasons: Vec<_> = reasons
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        Some(format!("{}; {example}", reasons.join(", ")))
    }
}
