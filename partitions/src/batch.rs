//! Batches as bytes: checking, stamping, slicing.
//!
//! A batch is a 256-byte header and frames of 48 bytes, payload and user headers
//! each, in one layout for sending, storing and polling.

use std::ops::Range;

use iggy_binary_protocol::WireError;
use iggy_binary_protocol::batch::{
    BATCH_HEADER_SIZE, BatchHeader, BatchMessageHeader, calculate_batch_checksum,
    decode_batch_slice,
};
use thiserror::Error;

pub(super) const HEADER_BYTES: usize = BATCH_HEADER_SIZE;

/// The largest batch in bytes; larger ones are refused. It is the largest frame
/// of Iggy's protocol.
pub const BATCH_BYTES_MAX: usize = 64 << 20;

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// It has no messages.
    #[error("it has no messages")]
    Empty,
    /// It is larger than [`BATCH_BYTES_MAX`].
    #[error("it has {bytes} bytes, {max} are allowed; send fewer messages in one batch")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The bound in bytes.
        max: usize,
    },
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
    /// A message's time is beyond what 64 bits hold.
    #[error("a message's time of origin is out of range")]
    Time,
}

/// Checks a client's batch completely. This is the one pass over the bytes of
/// the messages.
pub(super) fn check(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    if batch.len() > BATCH_BYTES_MAX {
        return Err(BatchError::TooLarge {
            bytes: batch.len(),
            max: BATCH_BYTES_MAX,
        });
    }
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
        // Consumers add the two without a check.
        let delta = u64::from(message.header.timestamp_delta);
        if decoded.header.origin_timestamp.checked_add(delta).is_none() {
            return Err(BatchError::Time);
        }
    }
    Ok(decoded.header)
}

/// Whether the bytes are exactly one undamaged batch.
pub(super) fn is_valid(batch: &[u8]) -> bool {
    decode_batch_slice(batch).is_ok_and(|decoded| decoded.header.total_size() == batch.len())
}

/// A part of a batch.
#[derive(Debug)]
pub(super) struct Slice {
    /// Where it stands in the bytes of the whole.
    pub(super) range: Range<usize>,
    pub(super) messages: u32,
}

/// Reduces a batch, in its place, to the messages from offset `from` on: at
/// most `messages_max` (not zero), and after the first only as many as fit into
/// `bytes_max`. The header moves to right before the first of them, over what is
/// left out. `None` when the frames do not add up.
///
/// As Iggy's server has it, base offset and times stay those of the whole batch:
/// the first message's delta is the start of the slice.
pub(super) fn slice_in_place(
    batch: &mut [u8],
    header: &BatchHeader,
    from: u64,
    messages_max: u32,
    bytes_max: usize,
) -> Option<Slice> {
    let skip = from.saturating_sub(header.base_offset);
    let mut at = HEADER_BYTES;
    let mut start = at;
    let mut messages = 0;
    for number in 0..u64::from(header.message_count) {
        let frame = BatchMessageHeader::decode(batch.get(at..)?).ok()?;
        let end = at.checked_add(frame.total_size())?;
        if end > batch.len() {
            return None;
        }
        if number < skip {
            start = end;
        } else {
            let fits = HEADER_BYTES + end - start <= bytes_max;
            if messages == messages_max || (messages > 0 && !fits) {
                break;
            }
            messages += 1;
        }
        at = end;
    }
    if messages == 0 {
        return None;
    }
    let mut sliced = *header;
    sliced.message_count = messages;
    sliced.batch_length = (HEADER_BYTES + at - start) as u64;
    sliced.batch_checksum = calculate_batch_checksum(&sliced, &batch[start..at]);
    let range = start - HEADER_BYTES..at;
    sliced.encode_into(&mut batch[range.clone()]);
    Some(Slice { range, messages })
}
