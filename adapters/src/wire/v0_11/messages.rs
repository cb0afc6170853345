//! Bodies of replies about messages and offsets.

use bytes::{BufMut, Bytes, BytesMut};
use iggy_binary_protocol::WireEncode;
use iggy_binary_protocol::responses::consumer_offsets::ConsumerOffsetResponse;
use iggy_binary_protocol::responses::messages::{
    SendMessagesConfirmationResponse, SendMessagesResponse,
};
use partitions::{Appended, PolledBatches};

use crate::metadata::PartitionKey;

/// The partition and the offset that a batch was appended at.
#[must_use]
pub fn sent(key: &PartitionKey, appended: Appended) -> Bytes {
    SendMessagesResponse {
        confirmations: vec![SendMessagesConfirmationResponse {
            stream_id: key.stream_id,
            topic_id: key.topic_id,
            partition_id: key.partition_id,
            base_offset: appended.base_offset,
        }],
    }
    .to_bytes()
}

/// The messages of a poll: a prefix, and the batches as they are stored.
#[must_use]
pub fn polled(partition_id: u32, polled: PolledBatches) -> Vec<Bytes> {
    let mut prefix = BytesMut::with_capacity(16);
    prefix.put_u32_le(partition_id);
    prefix.put_u64_le(polled.current_offset);
    prefix.put_u32_le(polled.messages);
    let mut parts = Vec::with_capacity(1 + polled.batches.len());
    parts.push(prefix.freeze());
    parts.extend(polled.batches);
    parts
}

/// A consumer's offset.
#[must_use]
pub fn offset(partition_id: u32, current: u64, stored: u64) -> Bytes {
    ConsumerOffsetResponse {
        partition_id,
        current_offset: current,
        stored_offset: stored,
    }
    .to_bytes()
}
