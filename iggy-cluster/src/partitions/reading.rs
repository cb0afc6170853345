//! Reading the messages of a poll within the memory for requests and replies.

use std::time::Duration;

use ::partitions::{ByKey, PartitionOptions, PolledBatches, ReadFrom};
use adapters::metadata::{ErrorCode, PartitionKey, code};
use bytes::Bytes;
use replicated_log::{MemoryBudget, ReservedMemory};

use super::local::{LocalPartitions, refusal};

/// The most bytes of batches that a poll returns: what a frame of 64 MiB carries.
pub(crate) const POLL_BYTES_MAX: usize = (64 << 20) - (64 << 10);
/// A poll reads up to so many bytes first: most polls require no more.
const FIRST_READ_BYTES: usize = 2 << 20;
/// Then the rest, if there is memory for at least this much.
const NEXT_READ_BYTES_MIN: usize = 256 << 10;
/// How long a poll waits for memory. It holds none meanwhile.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(5);

impl LocalPartitions {
    /// Reads up to `count` messages in up to [`POLL_BYTES_MAX`], and fewer if there is no
    /// memory for more. What is read stays counted until it is sent.
    pub(super) async fn read(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        from: ReadFrom,
        count: u32,
    ) -> Result<PolledBatches, ErrorCode> {
        let first = self.memory.reserve(FIRST_READ_BYTES);
        let Ok(mut reserved) = tokio::time::timeout(MEMORY_TIMEOUT, first).await else {
            return Err(code::TRANSIENT_NOT_ACCEPTED);
        };
        let (mut from, mut bytes_max) = (from, FIRST_READ_BYTES);
        let mut polled = PolledBatches::default();
        loop {
            let missing = count - polled.messages;
            let read = self.storage.read(key, options, from, missing, bytes_max);
            let read = read.await.map_err(|error| refusal(&key, &error))?;
            let Some(last) = read.last_offset else {
                polled.current_offset = polled.current_offset.max(read.current_offset);
                return Ok(polled);
            };
            let is_complete = read.messages >= missing || last >= read.current_offset;
            add(&mut polled, read, reserved);
            let rest = POLL_BYTES_MAX.saturating_sub(bytes_of(&polled.batches));
            if is_complete || rest < NEXT_READ_BYTES_MIN {
                return Ok(polled);
            }
            let Some(more) = reserve_most(&self.memory, rest) else {
                return Ok(polled);
            };
            bytes_max = more.bytes().min(rest);
            reserved = more;
            from = ReadFrom::Offset(last + 1);
        }
    }
}

fn bytes_of(batches: &[Bytes]) -> usize {
    batches.iter().map(Bytes::len).sum()
}

/// Adds what was read; it holds its memory.
fn add(polled: &mut PolledBatches, mut read: PolledBatches, mut reserved: ReservedMemory) {
    reserved.shrink(bytes_of(&read.batches));
    // The batches of one read are dropped together, after they are sent.
    if let Some(first) = read.batches.first_mut() {
        *first = reserved.attach(std::mem::take(first));
    }
    polled.batches.append(&mut read.batches);
    polled.messages += read.messages;
    polled.last_offset = read.last_offset;
    polled.current_offset = read.current_offset;
}

/// Up to so many bytes: the largest half, quarter or so on that is free.
fn reserve_most(memory: &MemoryBudget, bytes: usize) -> Option<ReservedMemory> {
    let halves = std::iter::successors(Some(bytes), |bytes| Some(bytes / 2));
    halves
        .take_while(|bytes| *bytes >= NEXT_READ_BYTES_MIN)
        .find_map(|bytes| memory.try_reserve(bytes))
}
