//! Which partitions of this node refuse, for metrics and status.

use ::partitions::{PartitionKey, PartitionStorage, StorageError};

/// The partitions that refuse, by the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusing {
    /// Acknowledged data is damaged or lost, or cannot be read by this version.
    pub(crate) damaged: u64,
    /// The disk was full at the last write, and still is.
    pub(crate) full: u64,
    /// A write or an fsync failed.
    pub(crate) failed: u64,
    /// Damaged records of consumer offsets that were found since the start.
    pub(crate) damaged_offsets: u64,
    /// The reason of one of them.
    pub(crate) example: Option<String>,
}

impl Refusing {
    pub(crate) fn of(storage: &dyn PartitionStorage) -> Self {
        Self {
            damaged_offsets: storage.damaged_offsets(),
            ..Self::count(storage.refusing())
        }
    }

    fn count(found: Vec<(PartitionKey, StorageError)>) -> Self {
        let mut refusing = Self::default();
        for (key, error) in found {
            match &error {
                StorageError::Corrupt { .. }
                | StorageError::Lost { .. }
                | StorageError::Version { .. } => refusing.damaged += 1,
                StorageError::Full { .. } => refusing.full += 1,
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
    pub(crate) fn by_reason(&self) -> [(&'static str, u64); 3] {
        [
            ("damaged", self.damaged),
            ("full", self.full),
            ("failed", self.failed),
        ]
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn partitions_are_counted_by_what_an_operator_does_about_them() {
        assert_eq!(Refusing::count(Vec::new()).describe(), None);
        let io = |kind: io::ErrorKind| Arc::new(io::Error::from(kind));
        let failed = StorageError::Io {
            operation: "sync",
            path: "a".into(),
            source: io(io::ErrorKind::Other),
        };
        let errors = [
            StorageError::Lost {
                path: "b".into(),
                end: 3,
                acknowledged: 5,
                what: "the rest is missing".into(),
            },
            StorageError::Full {
                operation: "write",
                path: "c".into(),
                source: io(io::ErrorKind::StorageFull),
            },
            StorageError::Failed {
                cause: Arc::new(failed.clone()),
            },
            failed,
            StorageError::Removed,
        ];
        let key = |partition_id| PartitionKey {
            stream_id: 1,
            topic_id: 2,
            partition_id,
            generation: 7,
        };
        let found = (0..).map(key).zip(errors).collect();
        let refusing = Refusing::count(found);
        let by_reason = [("damaged", 1), ("full", 1), ("failed", 2)];
        assert_eq!(refusing.by_reason(), by_reason);
        let text = refusing.describe().unwrap();
        let start = "1 damaged, 1 full, 2 failed; stream 1, topic 2, partition 0: b ends at";
        assert!(text.starts_with(start), "{text}");
    }
}
