//! Batches as clients send them.

use bytes::{Bytes, BytesMut};
use iggy_binary_protocol::requests::messages::{RawMessage, SendMessagesEncoder};
use iggy_binary_protocol::{WireIdentifier, WirePartitioning};
use partitions::ClientBatch;

/// Messages that name their request.
pub(crate) fn batch_of(request: u64, messages: usize) -> ClientBatch {
    let payload = request.to_le_bytes();
    let message = |number| RawMessage {
        id: 1 + number as u128,
        origin_timestamp: 1_000,
        headers: None,
        payload: &payload,
    };
    let messages: Vec<_> = (0..messages).map(message).collect();
    let (stream, partitioning) = (WireIdentifier::Numeric(1), WirePartitioning::PartitionId(3));
    let mut out = BytesMut::new();
    SendMessagesEncoder::encode(&mut out, &stream, &stream, &partitioning, &messages)
        .expect("a small request");
    let length = out[..4].try_into().map(u32::from_le_bytes);
    let start = 4 + length.map_or(0, |bytes| bytes as usize);
    let batch: Bytes = out.freeze().slice(start..);
    ClientBatch::check(&batch).expect("a well-formed batch")
}
