//! Records of a file of consumer offsets, version 1.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use crate::bytes_at::{u32_at, u64_at};
use crate::error::StorageError;
use crate::files::ManagedFile;
use crate::offsets::HEADER_BYTES;
use crate::replication::{OffsetTable, TableChange, TableVersion};
use crate::types::ConsumerKey;

pub(super) const RECORD_BYTES: usize = 1 + 4 + 8 + 4;
/// The offset of a consumer that has none.
pub(super) const NONE: u64 = u64::MAX;

/// Where each consumer's last record is. It may be overwritten: should the machine stop
/// meanwhile and damage it, the consumer continues from the record before it.
pub(super) fn last_records(
    file: &Arc<ManagedFile>,
    records: u64,
) -> Result<BTreeMap<ConsumerKey, u64>, StorageError> {
    let bytes = usize::try_from(records).unwrap_or(usize::MAX);
    let content = file.read(HEADER_BYTES as u64, bytes.saturating_mul(RECORD_BYTES))?;
    let records = content.chunks_exact(RECORD_BYTES).enumerate();
    let found = records.filter_map(|(number, record)| {
        let (consumer, _) = decode(record)?;
        Some((consumer, (HEADER_BYTES + number * RECORD_BYTES) as u64))
    });
    Ok(found.collect())
}

/// The offsets, and how many records are damaged.
pub(super) fn load(path: &Path, records: &[u8]) -> (OffsetTable, u64) {
    let mut table = OffsetTable::default();
    let mut damaged = 0;
    for (number, record) in records.chunks_exact(RECORD_BYTES).enumerate() {
        match decode(record) {
            Some((consumer, offset)) => {
                let change = TableChange::Consumer {
                    consumer,
                    offset: (offset != NONE).then_some(offset),
                    tag: None,
                };
                table.apply(TableVersion::default(), change);
            }
            None => {
                damaged += 1;
                warn!(
                    path = %path.display(),
                    position = HEADER_BYTES + number * RECORD_BYTES,
                    "a consumer offset is damaged; the consumer continues from the one it had \
                     stored before"
                );
            }
        }
    }
    (table, damaged)
}

pub(super) fn encode(consumer: ConsumerKey, offset: u64) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    out[0] = u8::from(consumer.group);
    out[1..5].copy_from_slice(&consumer.id.to_le_bytes());
    out[5..13].copy_from_slice(&offset.to_le_bytes());
    let crc = crc32c::crc32c(&out[..13]);
    out[13..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(record: &[u8]) -> Option<(ConsumerKey, u64)> {
    let is_valid = crc32c::crc32c(&record[..13]) == u32_at(record, 13);
    is_valid.then(|| {
        let consumer = ConsumerKey {
            group: record[0] != 0,
            id: u32_at(record, 1),
        };
        (consumer, u64_at(record, 5))
    })
}
