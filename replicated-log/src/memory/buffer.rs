//! Bytes that arrive, in memory that is counted.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::budget::{MemoryBudget, MemoryShare, ReservedMemory};

/// The least by which a [`CountedBuffer`] grows.
const GROWTH_BYTES_MIN: usize = 64 << 10;

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

    /// For `length` bytes that are reserved already, with room for all of them.
    #[must_use]
    pub fn reserved(length: usize, mut reserved: ReservedMemory) -> Self {
        reserved.shrink(length);
        Self {
            bytes: BytesMut::with_capacity(length),
            length,
            free: length,
            reserved: Some(reserved),
        }
    }

    /// Bytes that have not arrived.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.length - self.bytes.len()
    }

    /// Makes room for more, in this share. `false` when it does not allow it.
    #[must_use]
    pub fn try_grow(&mut self, share: &MemoryShare) -> bool {
        let Some(capacity) = self.next_capacity() else {
            return true;
        };
        let more = self.uncounted(capacity);
        if more > 0 {
            let Some(reserved) = share.try_reserve(more) else {
                return false;
            };
            self.add(reserved);
        }
        self.bytes.reserve(capacity - self.bytes.len());
        true
    }

    /// Makes room for more as soon as the budget allows it, on no account.
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
        self.read_up_to(reader, usize::MAX).await.map(|_| ())
    }

    /// The same with at most so many bytes. Returns how many were read.
    ///
    /// # Errors
    /// The same.
    pub async fn read_up_to(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<usize> {
        let most = self.room().min(most) as u64;
        let mut reader = (&mut *reader).take(most);
        match reader.read_buf(&mut self.bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }

    /// Adds bytes that were read elsewhere, as far as there is room. Returns how many.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> usize {
        let most = self.room().min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..most]);
        most
    }

    /// Bytes for which there is room.
    fn room(&self) -> usize {
        let room = self.bytes.capacity() - self.bytes.len();
        self.missing().min(room)
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
            Some(reserved) => reserved.merge(more),
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

    #[tokio::test]
    async fn a_buffer_holds_what_has_arrived_and_not_what_was_announced() {
        let budget = MemoryBudget::new(16 * MIB);
        let share = budget.account().share();
        let (mut near, mut far) = tokio::io::duplex(MIB);
        let mut buffer = CountedBuffer::new(6 * MIB, 16 * KIB);
        for arrived in (1..=12).map(|half| half * MIB / 2) {
            near.write_all(&vec![7; MIB / 2]).await.unwrap();
            while buffer.missing() > 6 * MIB - arrived {
                assert!(buffer.try_grow(&share));
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
        let share = budget.account().share();
        while buffer.try_grow(&share) {
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
        let share = MemoryBudget::new(0).account().share();
        let mut buffer = CountedBuffer::new(5, 16 * KIB);
        assert!(buffer.try_grow(&share));
        buffer.read(&mut &b"12345"[..]).await.unwrap();
        assert_eq!(&buffer.finish()[..], b"12345");
    }
}
