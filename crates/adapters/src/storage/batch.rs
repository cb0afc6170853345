//! Batches as bytes: checking, stamping, slicing.
//!
//! A batch is a 256-byte header and frames of 48 bytes, payload and user headers
//! each, in one layout for sending, storing and polling.

use bytes::{Bytes, BytesMut};
use iggy_binary_protocol::WireError;
use iggy_binary_protocol::batch::{
    BATCH_HEADER_SIZE, BATCH_MESSAGE_HEADER_SIZE, BatchHeader, BatchMessageHeader,
    calculate_batch_checksum, decode_batch_slice,
};
use thiserror::Error;

pub(super) const HEADER_BYTES: usize = BATCH_HEADER_SIZE;

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// It has no messages.
    #[error("it has no messages")]
    Empty,
    /// A checksum is wrong.
    #[error("a checksum is wrong")]
    Checksum,
    /// Lengths or counts do not add up.
    #[error("its lengths do not add up")]
    Malformed,
    /// A message has no payload.
    #[error("a message has no payload")]
    EmptyPayload,
    /// Messages are not numbered from zero.
    #[error("its messages are not numbered from zero")]
    Numbering,
}

/// Checks a client's batch completely.
pub(super) fn check(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let decoded = decode_batch_slice(batch).map_err(|error| match error {
        WireError::InvalidBatchChecksum { .. } | WireError::InvalidMessageChecksum { .. } => {
            BatchError::Checksum
        }
        _ => BatchError::Malformed,
    })?;
    if decoded.header.total_size() != batch.len() {
        return Err(BatchError::Malformed);
    }
    if decoded.header.message_count == 0 {
        return Err(BatchError::Empty);
    }
    for (number, message) in (0..).zip(decoded.iter()) {
        if message.header.offset_delta != number {
            return Err(BatchError::Numbering);
        }
        if message.payload.is_empty() {
            return Err(BatchError::EmptyPayload);
        }
    }
    Ok(decoded.header)
}

/// The header of a checked batch with the storage's stamps.
pub(super) fn stamp(
    mut header: BatchHeader,
    partition_id: u32,
    base_offset: u64,
    base_timestamp: u64,
    batch: &[u8],
) -> [u8; HEADER_BYTES] {
    header.partition_id = u64::from(partition_id);
    header.base_offset = base_offset;
    header.base_timestamp = base_timestamp;
    header.batch_checksum = calculate_batch_checksum(&header, &batch[HEADER_BYTES..]);
    let mut bytes = [0; HEADER_BYTES];
    header.encode_into(&mut bytes);
    bytes
}

/// A stored batch's header, when there is a whole one at the start of `bytes`.
pub(super) fn header(bytes: &[u8]) -> Option<BatchHeader> {
    BatchHeader::decode(bytes).ok()
}

/// Whether the bytes are exactly one undamaged batch.
pub(super) fn is_sound(batch: &[u8]) -> bool {
    decode_batch_slice(batch).is_ok_and(|decoded| decoded.header.total_size() == batch.len())
}

/// The messages of a stored batch from `from` on, at most `messages_max` and,
/// behind the first, only as many as fit into `bytes_max`. `None` when the batch
/// is damaged.
pub(super) fn slice(
    batch: &Bytes,
    header: &BatchHeader,
    from: u64,
    messages_max: u32,
    bytes_max: usize,
) -> Option<(Vec<Bytes>, u32, usize)> {
    let last = header.base_offset + u64::from(header.message_count) - 1;
    let whole = from <= header.base_offset
        && header.message_count <= messages_max
        && batch.len() <= bytes_max;
    if whole {
        return Some((vec![batch.clone()], header.message_count, batch.len()));
    }
    let skip = from.saturating_sub(header.base_offset);
    let mut at = HEADER_BYTES;
    let mut start = at;
    let mut count = 0;
    for offset in header.base_offset..=last {
        let message = BatchMessageHeader::decode(batch.get(at..)?).ok()?;
        let end = at.checked_add(message.total_size())?;
        if end > batch.len() || message.total_size() < BATCH_MESSAGE_HEADER_SIZE {
            return None;
        }
        if offset - header.base_offset < skip {
            start = end;
        } else {
            let fits = HEADER_BYTES + end - start <= bytes_max;
            if count == messages_max || (count > 0 && !fits) {
                break;
            }
            count += 1;
        }
        at = end;
    }
    let blob = batch.slice(start..at.max(start));
    let mut sliced = *header;
    sliced.message_count = count;
    sliced.batch_length = (HEADER_BYTES + blob.len()) as u64;
    sliced.batch_checksum = calculate_batch_checksum(&sliced, &blob);
    let mut head = BytesMut::zeroed(HEADER_BYTES);
    sliced.encode_into(&mut head);
    let bytes = HEADER_BYTES + blob.len();
    Some((vec![head.freeze(), blob], count, bytes))
}
