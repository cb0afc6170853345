//! Gathering the messages of a poll within the memory for requests and replies.
//!
//! Memory is reserved before anything is read, here or by another node, because it is held
//! until the client has read the reply. A poll reserves what the polls of its connection
//! have needed lately, and more only once it is known how long the messages are.

use std::time::Duration;

use ::partitions::{PolledBatches, ReadFrom};
use adapters::metadata::{ErrorCode, code};
use bytes::Bytes;
use replicated_log::{MemoryShare, ReservedMemory};
use tokio::time::Instant;

use super::local::LocalPartitions;
use super::log::Log;

/// The most bytes of batches that a poll returns: what a frame of 64 MiB carries.
pub(crate) const POLL_BYTES_MAX: usize = (64 << 20) - (64 << 10);
/// A poll reads up to so many bytes first, when nothing is known of its connection.
const FIRST_READ_BYTES: usize = 2 << 20;
/// The least that a poll reserves first.
const READ_BYTES_MIN: usize = 64 << 10;
/// Then it reads the rest, if there is memory for at least this much.
const NEXT_READ_BYTES_MIN: usize = 256 << 10;
/// How long a poll waits for memory. It holds none meanwhile.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(5);

/// The memory for the messages of one poll.
#[derive(Clone, Debug)]
pub(crate) struct PollMemory {
    share: MemoryShare,
    /// What it reserves first.
    first: usize,
    most: usize,
}

/// What the polls of a connection need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PollBytes(usize);

/// A partition, here or on another node.
pub(super) trait Source: Sync {
    /// Why there are no messages.
    type Error: Send;

    /// Reads messages after this offset, or where the poll starts, up to so many, in memory
    /// that is reserved.
    fn read(
        &self,
        after: Option<u64>,
        messages_max: u32,
        reserved: ReservedMemory,
    ) -> impl Future<Output = Result<Read, Self::Error>> + Send;
}

struct Here<'a> {
    log: &'a Log<'a>,
    from: ReadFrom,
    /// The offset after the last message that may be read.
    end: u64,
}

impl Source for Here<'_> {
    type Error = ErrorCode;

    async fn read(
        &self,
        after: Option<u64>,
        messages_max: u32,
        reserved: ReservedMemory,
    ) -> Result<Read, ErrorCode> {
        let from = after.map_or(self.from, |last| ReadFrom::Offset(last + 1));
        let read = self
            .log
            .read(from, messages_max, reserved.bytes(), self.end);
        Ok(count_in(read.await?, reserved))
    }
}

/// What one read of a poll has come to.
pub(super) enum Read {
    /// Their memory is reserved until they are dropped.
    Batches(PolledBatches),
    /// There is no memory for what has to be read, so many bytes.
    NoRoom(usize),
}

impl PollMemory {
    /// In this share, for a connection whose polls need so much.
    pub(crate) fn new(share: MemoryShare, expected: PollBytes) -> Self {
        Self {
            share,
            first: expected.0,
            most: POLL_BYTES_MAX,
        }
    }

    /// The same for a poll that needs so many bytes, and no more.
    pub(super) fn exactly(self, bytes: usize) -> Self {
        let most = bytes.clamp(1, self.most);
        Self {
            first: most,
            most,
            ..self
        }
    }
}

impl Default for PollBytes {
    fn default() -> Self {
        Self(FIRST_READ_BYTES)
    }
}

impl PollBytes {
    /// A poll has returned so many bytes.
    pub(crate) fn note(&mut self, bytes: usize) {
        let slightly_more = bytes.saturating_add(bytes / 4);
        self.0 = slightly_more.max(self.0 / 2).max(READ_BYTES_MIN);
    }
}

impl LocalPartitions {
    /// Reads up to `count` messages, and fewer if there is no memory for more. What is read
    /// stays counted until it is sent.
    pub(super) async fn read(
        &self,
        log: &Log<'_>,
        from: ReadFrom,
        count: u32,
        memory: &PollMemory,
    ) -> Result<PolledBatches, ErrorCode> {
        let end = log.readable().await?;
        let here = Here { log, from, end };
        let gathered = self.gather(memory, count, &here).await?;
        gathered.ok_or(code::TRANSIENT_NOT_ACCEPTED)
    }

    /// Gathers up to `count` messages with several reads. `None` when there was no memory in
    /// time.
    pub(super) async fn gather<S: Source>(
        &self,
        memory: &PollMemory,
        count: u32,
        source: &S,
    ) -> Result<Option<PolledBatches>, S::Error> {
        let PollMemory { share, first, most } = memory;
        let until = Instant::now() + MEMORY_TIMEOUT;
        let (mut min, mut want) = (READ_BYTES_MIN.min(*first), *first);
        let mut polled = PolledBatches::default();
        loop {
            let reserved = match polled.last_offset {
                None => {
                    let reserved = share.reserve_up_to(min, want);
                    tokio::time::timeout_at(until, reserved).await.ok()
                }
                Some(_) => share.try_reserve_up_to(NEXT_READ_BYTES_MIN, want),
            };
            let Some(reserved) = reserved else {
                return Ok(self.limited(polled));
            };
            let missing = count - polled.messages;
            let read = match source.read(polled.last_offset, missing, reserved).await {
                Ok(Read::Batches(read)) => read,
                // A single message is longer.
                Ok(Read::NoRoom(bytes)) if polled.last_offset.is_none() => {
                    (min, want) = (bytes, bytes);
                    continue;
                }
                Ok(Read::NoRoom(_)) => return Ok(self.limited(polled)),
                Err(_) if polled.last_offset.is_some() => return Ok(Some(polled)),
                Err(error) => return Err(error),
            };
            let next = next_bytes(&read, missing);
            let before = bytes_of(&polled.batches);
            if before > 0 && before + bytes_of(&read.batches) > *most {
                return Ok(Some(polled));
            }
            add(&mut polled, read);
            let rest = most.saturating_sub(bytes_of(&polled.batches));
            match next {
                Some(next) if rest >= NEXT_READ_BYTES_MIN => want = next.min(rest),
                _ => return Ok(Some(polled)),
            }
        }
    }

    /// What a poll returns that has no memory for more.
    fn limited(&self, polled: PolledBatches) -> Option<PolledBatches> {
        match polled.messages {
            0 => {
                self.without_memory.inc();
                None
            }
            _ => {
                self.polls_shortened.inc();
                Some(polled)
            }
        }
    }
}

pub(crate) fn bytes_of(batches: &[Bytes]) -> usize {
    batches.iter().map(Bytes::len).sum()
}

/// How many bytes are missing after a read, as far as it shows how long messages are; `None`
/// when nothing is.
fn next_bytes(read: &PolledBatches, missing: u32) -> Option<usize> {
    let last = read.last_offset?;
    let there = read.current_offset.saturating_sub(last);
    let missing = u64::from(missing.saturating_sub(read.messages)).min(there);
    if missing == 0 {
        return None;
    }
    let each = bytes_of(&read.batches) as u64 / u64::from(read.messages).max(1);
    let likely = each.saturating_mul(missing).saturating_mul(9) / 8;
    let likely = usize::try_from(likely).unwrap_or(usize::MAX);
    Some(likely.max(NEXT_READ_BYTES_MIN))
}

/// Counts what was read; it holds its memory.
pub(super) fn count_in(mut read: PolledBatches, mut reserved: ReservedMemory) -> Read {
    let bytes = bytes_of(&read.batches);
    if !reserved.try_grow(bytes) {
        return Read::NoRoom(bytes);
    }
    reserved.shrink(bytes);
    // Batches are sent, and dropped, in their order.
    if let Some(last) = read.batches.last_mut() {
        *last = reserved.attach(std::mem::take(last));
    }
    Read::Batches(read)
}

fn add(polled: &mut PolledBatches, mut read: PolledBatches) {
    polled.batches.append(&mut read.batches);
    polled.messages += read.messages;
    polled.last_offset = read.last_offset.or(polled.last_offset);
    polled.current_offset = polled.current_offset.max(read.current_offset);
}
