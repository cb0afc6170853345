//! Length-prefixed frames.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::channel::Channel;
use crate::memory::{CountedBuffer, MemoryBudget};

/// A frame must be complete this long after its length has arrived. Otherwise the connection
/// is closed.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Frames of up to this size are not counted, so that what orders the metadata does not wait
/// for memory: they are hardly longer than an entry of the log.
pub(super) const UNCOUNTED_BYTES_MAX: usize = 4 << 20;
/// Memory for longer frames of the other channels.
const MEMORY_BYTES: usize = 256 << 20;

/// Memory for the frames of all links.
#[derive(Clone, Debug)]
pub(crate) struct FrameMemory {
    data: MemoryBudget,
    others: MemoryBudget,
}

impl FrameMemory {
    /// What [`Channel::Data`] carries shares this budget with the program around the log.
    pub(crate) fn new(data: MemoryBudget) -> Self {
        Self {
            data,
            others: MemoryBudget::new(MEMORY_BYTES),
        }
    }

    /// The memory for what a channel carries.
    pub(super) fn of(&self, channel: Channel) -> &MemoryBudget {
        match channel {
            Channel::Data => &self.data,
            _ => &self.others,
        }
    }

    /// The limits of frames of the other channels.
    pub(super) fn limits(&self, bytes_max: usize) -> FrameLimits {
        FrameLimits {
            bytes_max,
            uncounted: UNCOUNTED_BYTES_MAX,
            memory: self.others.clone(),
        }
    }
}

/// What a frame may take up.
#[derive(Clone, Debug)]
pub(super) struct FrameLimits {
    bytes_max: usize,
    uncounted: usize,
    memory: MemoryBudget,
}

/// Reads one frame, or `None` at a clean end of the stream. It waits for the start of a frame
/// without a limit, and then for its end as long as [`TIMEOUT`]. The memory for a frame grows
/// with what arrives and is counted; the frame waits while there is none.
pub(super) async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    limits: &FrameLimits,
) -> io::Result<Option<Bytes>> {
    let bytes_max = limits.bytes_max;
    let mut length = [0; 4];
    match reader.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes is larger than the {bytes_max} allowed"),
        ));
    }
    let mut frame = CountedBuffer::new(length, limits.uncounted);
    let complete = async {
        while frame.missing() > 0 {
            frame.grow(&limits.memory).await;
            frame.read(reader).await?;
        }
        io::Result::Ok(())
    };
    match tokio::time::timeout(TIMEOUT, complete).await {
        Ok(complete) => complete?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    }
    Ok(Some(frame.finish()))
}

/// The same for a short frame, which is not counted.
pub(super) async fn read_short(
    reader: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<Option<Bytes>> {
    let limits = FrameLimits {
        bytes_max,
        uncounted: bytes_max,
        memory: MemoryBudget::new(0),
    };
    read(reader, &limits).await
}

/// Writes one frame of several parts, without flushing.
pub(super) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    parts: &[&[u8]],
) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "frame of 4 GiB or more"))?;
    writer.write_all(&length.to_le_bytes()).await?;
    for part in parts {
        writer.write_all(part).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const MIB: usize = 1 << 20;

    fn limits(memory: &MemoryBudget) -> FrameLimits {
        FrameLimits {
            bytes_max: 6 * MIB,
            uncounted: 64 << 10,
            memory: memory.clone(),
        }
    }

    async fn write_half(writer: &mut (impl AsyncWrite + Unpin), announced: usize) {
        let length = u32::try_from(announced).unwrap().to_le_bytes();
        writer.write_all(&length).await.unwrap();
        writer.write_all(&vec![7; announced / 2]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_frame_is_given_up_after_the_timeout_and_its_memory_is_free_again() {
        let memory = MemoryBudget::new(8 * MIB);
        let (mut near, mut far) = tokio::io::duplex(4 * MIB);
        write_half(&mut near, 6 * MIB).await;
        let started = Instant::now();
        let error = read(&mut far, &limits(&memory)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), TIMEOUT);
        assert_eq!(memory.reserved_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_waits_for_memory() {
        let memory = MemoryBudget::new(MIB);
        let others = memory.try_reserve(MIB).unwrap();
        let (mut near, mut far) = tokio::io::duplex(MIB);
        write(&mut near, &[&vec![7; MIB / 2]]).await.unwrap();
        let counted = limits(&memory);
        let mut reading = Box::pin(read(&mut far, &counted));
        let waits = tokio::time::timeout(TIMEOUT / 2, &mut reading).await;
        assert!(waits.is_err());
        // The protocol has memory of its own.
        let (mut near, mut far) = tokio::io::duplex(MIB);
        write(&mut near, &[&vec![7; MIB / 2]]).await.unwrap();
        let of_protocol = FrameMemory::new(memory.clone()).limits(MIB);
        assert!(read(&mut far, &of_protocol).await.unwrap().is_some());
        drop(others);
        assert_eq!(reading.await.unwrap().unwrap().len(), MIB / 2);
    }
}
