//! A limit in bytes for the requests and replies that a node has in memory.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted as one: semaphores count at most `u32::MAX`.
const UNIT_BYTES: usize = 1 << 10;
/// The least by which a [`CountedBuffer`] grows.
const GROWTH_BYTES_MIN: usize = 64 << 10;

/// Bytes that may be reserved, shared by all who hold some. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    free: Arc<Semaphore>,
    units: usize,
}

/// Bytes that are reserved until this is dropped.
#[derive(Debug)]
pub struct ReservedMemory {
    permit: OwnedSemaphorePermit,
}

impl MemoryBudget {
    /// A budget of so many bytes, in whole KiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = bytes / UNIT_BYTES;
        Self {
            free: Arc::new(Semaphore::new(units)),
            units,
        }
    }

    /// Holds so many bytes, if they are free.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<ReservedMemory> {
        let units = u32::try_from(units(bytes)).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(units).ok()?;
        Some(ReservedMemory { permit })
    }

    /// Holds so many bytes, or all that there are, as soon as they are free.
    pub async fn reserve(&self, bytes: usize) -> ReservedMemory {
        let units = u32::try_from(units(bytes).min(self.units)).unwrap_or(u32::MAX);
        let acquired = Arc::clone(&self.free).acquire_many_owned(units).await;
        let Ok(permit) = acquired else {
            unreachable!("the semaphore is never closed");
        };
        ReservedMemory { permit }
    }

    /// Bytes that are reserved now.
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        (self.units - self.free.available_permits()) * UNIT_BYTES
    }
}

impl ReservedMemory {
    /// Bytes that are reserved.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * UNIT_BYTES
    }

    /// Releases what exceeds so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let excess = self.permit.num_permits().saturating_sub(units(bytes));
        drop(self.permit.split(excess));
    }

    /// The same bytes, which are reserved until the last part of them is dropped.
    #[must_use]
    pub fn attach(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Counted {
            bytes,
            _reserved: self,
        })
    }
}

struct Counted {
    bytes: Bytes,
    _reserved: ReservedMemory,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES)
}

/// Bytes that arrive. The buffer grows with them, at most to twice of what has arrived,
/// whatever length was announced. What exceeds a free part is reserved in a budget.
#[derive(Debug)]
pub struct CountedBuffer {
    bytes: BytesMut,
    length: usize,
    free: usize,
    reserved: Option<ReservedMemory>,
}

impl CountedBuffer {
    /// For `length` bytes, of which `free` bytes are not counted.
    #[must_use]
    pub fn new(length: usize, free: usize) -> Self {
        Self {
            bytes: BytesMut::with_capacity(length.min(free).min(GROWTH_BYTES_MIN)),
            length,
            free,
            reserved: None,
        }
    }

    /// Bytes that have not arrived.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.length - self.bytes.len()
    }

    /// Makes room for more. `false` when the budget does not allow it.
    #[must_use]
    pub fn try_grow(&mut self, budget: &MemoryBudget) -> bool {
        let Some(capacity) = self.next_capacity() else {
            return true;
        };
        let more = self.uncounted(capacity);
        if more > 0 {
            let Some(reserved) = budget.try_reserve(more) else {
                return false;
            };
            self.add(reserved);
        }
        self.bytes.reserve(capacity - self.bytes.len());
        true
    }

    /// Makes room for more as soon as the budget allows it.
    pub async fn grow(&mut self, budget: &MemoryBudget) {
        let Some(capacity) = self.next_capacity() else {
            return;
        };
        let more = self.uncounted(capacity);
        if more > 0 {
            self.add(budget.reserve(more).await);
        }
        self.bytes.reserve(capacity - self.bytes.len());
    }

    /// Reads what has arrived, as far as there is room.
    ///
    /// # Errors
    /// When the stream fails or ends before the bytes are complete.
    pub async fn read(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        let room = self.bytes.capacity() - self.bytes.len();
        let most = self.missing().min(room) as u64;
        let mut reader = (&mut *reader).take(most);
        match reader.read_buf(&mut self.bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// What has arrived. It is reserved until the last part of it is dropped.
    #[must_use]
    pub fn finish(self) -> Bytes {
        let bytes = self.bytes.freeze();
        match self.reserved {
            Some(reserved) => reserved.attach(bytes),
            None => bytes,
        }
    }

    /// The next capacity, when there is no room.
    fn next_capacity(&self) -> Option<usize> {
        let is_full = self.bytes.len() == self.bytes.capacity();
        let doubled = (2 * self.bytes.len()).max(GROWTH_BYTES_MIN);
        (is_full && self.missing() > 0).then(|| doubled.min(self.length))
    }

    fn uncounted(&self, capacity: usize) -> usize {
        match capacity > self.free {
            true => {
                capacity
                    - self
                        .reserved
                        .as_ref()
                        .map_or(0, ReservedMemory::bytes)
                        .min(capacity)
            }
            false => 0,
        }
    }

    fn add(&mut self, more: ReservedMemory) {
        match &mut self.reserved {
            Some(reserved) => reserved.permit.merge(more.permit),
            None => self.reserved = Some(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    #[test]
    fn bytes_are_free_again_when_the_last_part_of_them_is_dropped() {
        let budget = MemoryBudget::new(10 * KIB);
        let reserved = budget.try_reserve(6 * KIB).unwrap();
        assert!(budget.try_reserve(5 * KIB).is_none());
        let bytes = reserved.attach(Bytes::from_static(b"0123456789"));
        let part = bytes.slice(2..4);
        drop(bytes);
        assert_eq!((&part[..], budget.reserved_bytes()), (&b"23"[..], 6 * KIB));
        drop(part);
        assert_eq!(budget.reserved_bytes(), 0);
        let mut reserved = budget.try_reserve(10 * KIB).unwrap();
        reserved.shrink(KIB + 1);
        assert_eq!(
            (reserved.bytes(), budget.reserved_bytes()),
            (2 * KIB, 2 * KIB)
        );
    }

    #[tokio::test]
    async fn a_buffer_holds_what_has_arrived_and_not_what_was_announced() {
        let budget = MemoryBudget::new(8 * MIB);
        let (mut near, mut far) = tokio::io::duplex(MIB);
        let mut buffer = CountedBuffer::new(6 * MIB, 16 * KIB);
        for arrived in (1..=12).map(|half| half * MIB / 2) {
            near.write_all(&vec![7; MIB / 2]).await.unwrap();
            while buffer.missing() > 6 * MIB - arrived {
                assert!(buffer.try_grow(&budget));
                buffer.read(&mut far).await.unwrap();
            }
            assert!(budget.reserved_bytes() <= 2 * arrived);
        }
        assert_eq!(budget.reserved_bytes(), 6 * MIB);
        let bytes = buffer.finish();
        assert!(bytes.len() == 6 * MIB && bytes.iter().all(|byte| *byte == 7));
        drop(bytes);
        assert_eq!(budget.reserved_bytes(), 0);
    }

    #[tokio::test]
    async fn a_buffer_that_may_not_grow_waits_or_reports_it() {
        let budget = MemoryBudget::new(MIB);
        let others = budget.try_reserve(MIB - 100 * KIB).unwrap();
        let stream = vec![7; MIB];
        let mut arriving = &stream[..];
        let mut buffer = CountedBuffer::new(MIB, 16 * KIB);
        while buffer.try_grow(&budget) {
            buffer.read(&mut arriving).await.unwrap();
        }
        assert_eq!(buffer.missing(), MIB - 64 * KIB);
        drop(others);
        while buffer.missing() > 0 {
            buffer.grow(&budget).await;
            buffer.read(&mut arriving).await.unwrap();
        }
        assert_eq!(buffer.finish(), stream);
    }

    #[tokio::test]
    async fn a_short_buffer_is_not_counted() {
        let budget = MemoryBudget::new(0);
        let mut buffer = CountedBuffer::new(5, 16 * KIB);
        assert!(buffer.try_grow(&budget));
        buffer.read(&mut &b"12345"[..]).await.unwrap();
        assert_eq!(&buffer.finish()[..], b"12345");
    }
}
